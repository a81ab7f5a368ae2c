"""What a visitor may bring: kinds, sizes, names, and the sentences of what is refused."""

import json

import pytest

from mnemoscope.app import page as limits
from mnemoscope.app.page import MOST_BYTES, MOST_CHARACTERS, read_visit
from mnemoscope.errors import UserError


def test_a_pasted_text_is_read_as_it_stands_but_for_lone_surrogates() -> None:
    for pasted, text in (("a\r\nb \u202e é", "a\r\nb \u202e é"), ("a\ud800b", "a?b")):
        (document,) = read_visit(pasted, None).documents
        assert (document.name, document.text) == ("pasted text", text)


def test_an_upload_goes_before_and_has_its_own_name(tmp_path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("from the file", encoding="utf-8")
    (document,) = read_visit("pasted", str(path)).documents
    assert (document.name, document.text) == ("notes.md", "from the file")


def test_rows_of_a_table_are_named_by_the_file_alone(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in ("a", "b")))
    names = [one.name for one in read_visit(None, path).documents]
    assert names == ["rows.jsonl#1", "rows.jsonl#2"]
    path.write_text('{"text": "a"}\n{"text": ""}\n')
    assert [one.name for one in read_visit(None, path).skipped] == ["rows.jsonl#2"]


@pytest.mark.parametrize("pasted", [None, "", " \n\t"])
def test_nothing_is_refused(pasted) -> None:
    with pytest.raises(UserError, match="paste a text"):
        read_visit(pasted, None)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("run.exe", b"MZ", "'.exe' are not accepted"),
        ("plain", b"text", "'' are not accepted"),
        ("bad.txt", b"caf\xe9 \xff\xfe", "unknown encoding"),
        ("binary.txt", b"a\0b", "binary file"),
        ("empty.txt", b"", "empty"),
        ("broken.pdf", b"%PDF-1.4 nothing", "PDF"),
    ],
)
def test_what_cannot_be_read_is_refused_without_the_path_of_the_copy(
    tmp_path, name, data, words
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        read_visit(None, path)
    assert str(tmp_path) not in str(caught.value)
    assert str(caught.value).startswith(name)


def test_too_many_bytes_are_refused(tmp_path) -> None:
    path = tmp_path / "line.txt"
    path.write_bytes(b"x" * 10_000_000)
    for arguments in ((None, path), ("x" * 10_000_000, None)):
        with pytest.raises(UserError, match=r"10\.0 MB, more than the 4 MB"):
            read_visit(*arguments)


def test_too_many_characters_are_refused_at_the_very_next_one() -> None:
    assert MOST_CHARACTERS < MOST_BYTES
    assert read_visit("x" * MOST_CHARACTERS, None).documents
    with pytest.raises(UserError, match=f"{MOST_CHARACTERS + 1:,} characters"):
        read_visit("x" * (MOST_CHARACTERS + 1), None)


def test_characters_of_all_documents_count_together(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "MOST_CHARACTERS", 10)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * 6}) + "\n" for _ in range(2)))
    with pytest.raises(UserError, match="12 characters"):
        read_visit(None, path)
