"""Sequences are shown as they are: no character lost, none hidden, differing tokens marked."""

import doctest

from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.report import content as examples
from mnemoscope.report.content import Example, continuation_pieces, decode_pieces, visible


def test_examples_of_the_docstrings() -> None:
    assert doctest.testmod(examples).failed == 0


@given(st.text())
def test_plain_runs_hold_every_character_that_can_be_seen(text: str) -> None:
    pieces = visible(text)
    plain = "".join(piece.text for piece in pieces if piece.kind == "text")
    signs = sum(piece.kind == "mark" for piece in pieces)
    n_kept_breaks = sum(character in "\n\t" for character in text)
    assert len(plain) + signs - n_kept_breaks == len(text)
    assert all(c in text for c in plain)


@given(st.text(alphabet="ab \n\t<&\"'"))
def test_white_space_and_markup_characters_stand_as_they_are(text: str) -> None:
    assert "".join(p.text for p in visible(text) if p.kind == "text") == text


def test_hidden_characters_are_named() -> None:
    shown = [piece.text for piece in visible("a\u202eb\x00c\u200bd\x1b\x7f")]
    assert shown == ["a", "[U+202E]", "b", "␀", "c", "[U+200B]", "d", "␛", "␡"]


@given(st.text(max_size=40))
def test_token_texts_join_to_the_text_when_tokens_are_bytes(text: str) -> None:
    data = list(text.encode("utf-8"))
    pieces = decode_pieces(lambda ids: bytes(ids).decode("utf-8", "replace"), data)
    assert "".join(pieces) == text
    assert len(pieces) == len(data)


def test_a_character_of_several_tokens_appears_with_its_last() -> None:
    data = list("é!".encode())
    pieces = decode_pieces(lambda ids: bytes(ids).decode("utf-8", "replace"), data)
    assert pieces == ("", "é", "!")


def test_differing_tokens_are_grouped_in_order() -> None:
    example = Example(
        "Non-Memo", "p", ("a", "b", "c", "d"), ("a", "x", "y", "d"), (False, True, True, False)
    )
    runs = [
        (is_other, "".join(p.text for p in run)) for is_other, run in continuation_pieces(example)
    ]
    assert runs == [(False, "a"), (True, "xy"), (False, "d")]
    assert example.n_differs == 2
