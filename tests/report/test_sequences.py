"""The browser's data hold every sequence as it is, within a bound."""

import base64
import json
import zlib

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.report import sequences
from mnemoscope.report.sequences import BrowsedSequences, Division, browsed


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def batch_decode(self, rows: list[list[int]], *, clean_up_tokenization_spaces: bool):
        assert not clean_up_tokenization_spaces
        return [bytes(row).decode("utf-8", "replace") for row in rows]


def unpacked(made: BrowsedSequences | None) -> dict:
    assert made is not None
    return json.loads(zlib.decompress(base64.b64decode(made.data)))


def table_of(texts: list[str], **columns) -> pl.DataFrame:
    tokens = [list(text.encode()) for text in texts]
    return pl.DataFrame({"sequence_id": range(len(texts)), "tokens": tokens} | columns)


@given(st.lists(st.text(min_size=2, max_size=20), min_size=1, max_size=4))
def test_prefix_and_suffix_join_to_the_text(texts):
    table = table_of(texts, is_memorized=[True] * len(texts))
    found = unpacked(browsed(table, [], Bytes(), 1))
    shown = [one + other for one, other in zip(found["prefix"], found["suffix"], strict=True)]
    # A character of several tokens may be cut in two.
    assert all(one == text or text[0] > "\x7f" for one, text in zip(shown, texts, strict=True))


def test_classes_figures_and_what_was_written_stand_beside_the_text():
    table = table_of(
        ["abcd", "efgh"],
        is_memorized=[True, False],
        continuation=[[99, 100], [120, 121]],
        rouge_l=[0.123456, None],
        duplicates=[None, None],
        genre=["code", "prose"],
        attention_mask=[[1, 1, 1, 1], [0, 1, 1, 1]],
    )
    divisions = [
        Division("a", ["Recall", "Non-Memo"], pl.Series(["Recall", "Non-Memo"])),
        Division("b", ["x"], pl.Series([None, "x"]), pl.Series([None, ["x"]])),
    ]
    made = browsed(table, divisions, Bytes(), 2)
    assert (made.n, made.n_all, made.columns) == (2, 2, ["rouge_l", "genre"])
    assert unpacked(made) == {
        "id": [0, 1],
        "prefix": ["ab", "f"],
        "suffix": ["cd", "gh"],
        "written": ["", "xy"],
        "rouge_l": [0.1235, None],
        "genre": ["code", "prose"],
        "classes": [["Recall", "Non-Memo"], [None, "x"]],
        "read": [[None, None], [None, ["x"]]],
    }
    assert browsed(table.clear(), divisions, Bytes(), 2) is None


@pytest.mark.parametrize("most", [4, 11, 12, 400])
def test_of_very_many_a_page_holds_a_random_sample_in_order(monkeypatch, most):
    monkeypatch.setattr(sequences, "MOST_TOKENS", most)
    texts = [f"{at:04}" for at in range(50)]
    made = browsed(table_of(texts, is_memorized=[True] * 50), [], Bytes(), 2)
    found = unpacked(made)
    assert (made.n, made.n_all) == (min(50, most // 4), 50)
    assert found["id"] == sorted(found["id"])
    assert made == browsed(table_of(texts, is_memorized=[True] * 50), [], Bytes(), 2)
