"""Readers: what is read, what is passed over and counted, what is refused."""

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mnemoscope.data.corpus import open_corpus
from mnemoscope.data.read import WindowCutter, read_sequences
from mnemoscope.data.rows import scan_rows
from mnemoscope.data.table import check_sequences, write_table
from mnemoscope.errors import UserError
from refusals import refusal

LONG = "The licence applies to the library and to the works that are based on it.\n" * 8
CODE = "def add(a, b):\n    return a + b\n" * 12


def make_folder(root, order=1):
    files = {
        "b/z.py": CODE.encode(),
        "a.txt": LONG.encode(),
        "LICENSE": b"\xef\xbb\xbf" + LONG.encode(),
        "b/notes.dat": ("é日\r\n" * 60).encode(),
        "short.md": b"too short",
        "empty.txt": b"",
        "image.png": b"\x89PNG\0\0" + LONG.encode(),
        "latin.txt": LONG.encode() + "é".encode("latin-1"),
        ".hidden.txt": LONG.encode(),
        ".git/config.txt": LONG.encode(),
        "b/.cache/x.py": CODE.encode(),
    }
    for name in sorted(files)[::order]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def whole(folder, tokenizer):
    return read_sequences(folder, tokenizer)


def test_a_folder_is_read_whole_and_what_is_no_text_is_counted(folder, whole, tokenizer):
    frame = whole.frame
    assert frame.select("document", "genre").unique(maintain_order=True).rows() == [
        ("LICENSE", "prose"),
        ("a.txt", "prose"),
        ("b/notes.dat", None),
        ("b/z.py", "code"),
    ]
    assert (whole.n_documents, whole.n_too_short) == (4, 2)
    unread = ".hidden.txt", "image.png", "latin.txt"  # not what Git and other tools hide
    assert sorted(one.name for one in whole.unread) == [*unread]
    assert frame["sequence_id"].to_list() == list(range(len(frame)))
    check_sequences(frame, where="texts", vocab_size=len(tokenizer))
    for limit in (1, 3, len(frame) + 5):
        assert read_sequences(folder, tokenizer, limit=limit).frame.equals(frame.head(limit))
    one = read_sequences(folder / "a.txt", tokenizer).frame
    same = ["tokens", "text", "start", "end"]
    assert one.select(same).equals(frame.filter(document="a.txt").select(same))
    rows = whole.frame.filter(pl.col("document").is_in(["a.txt", "b/z.py"]))
    for row in rows.iter_rows(named=True):
        text = (folder / row["document"]).read_text()
        assert text[row["start"] : row["end"]] == row["text"]
    assert "\r\n" in whole.frame.filter(document="b/notes.dat")["text"][0]


@pytest.mark.parametrize("mark", ["%PDF-1.4", "%!PS-Adobe", "{\\rtf1"])
def test_a_page_description_in_characters_of_ascii_is_no_text(tmp_path, tokenizer, mark):
    """Such as a PDF whose streams are not packed."""
    (tmp_path / "a.pdf").write_text(f"{mark}\n{LONG}")
    (tmp_path / "b.txt").write_text(LONG)
    read = read_sequences(tmp_path, tokenizer)
    assert [(one.name, "which is no text. Save" in one.reason) for one in read.unread] == [
        ("a.pdf", True)
    ]
    with pytest.raises(UserError, match="which is no text"):
        read_sequences(tmp_path / "a.pdf", tokenizer)


def test_neither_the_order_of_files_nor_links_to_nowhere_or_in_a_circle_matter(
    whole, tmp_path, tokenizer
):
    other = make_folder(tmp_path / "other", -1)
    (other / "circle").symlink_to(other)
    (other / "dangling.txt").symlink_to(other / "gone.txt")
    assert read_sequences(other, tokenizer).frame.equals(whole.frame)


@pytest.mark.parametrize("text", ["word " * 200, "a/b " * 2000, "漢字" * 100, f"{'a' * 300}/b"])
def test_a_text_in_place_of_its_name_is_no_file_or_folder(tokenizer, text):
    for read in (
        lambda: read_sequences(text, tokenizer),
        lambda: scan_rows(text),
        lambda: open_corpus(text, tokenizer=None, dtype=None),
    ):
        with pytest.raises(UserError, match="no such file or folder") as refused:
            read()
        assert len(str(refused.value)) < 200


def test_a_file_that_may_not_be_read_is_counted(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "a.txt").write_text(LONG)
    (tmp_path / "b.txt").write_text(LONG)

    def guarded(path, mode, **more):
        if path.name == "b.txt":
            raise PermissionError(13, "Permission denied")
        return open(path, mode, **more)

    monkeypatch.setattr("mnemoscope.data.formats.open", guarded, raising=False)
    result = read_sequences(tmp_path, tokenizer)
    assert (result.n_documents, result.n_unreadable) == (1, 1)
    assert result.unread[0].reason.startswith("no permission")
    assert "need a tokenizer" in refusal(read_sequences, tmp_path / "a.txt", None)
    assert "b.txt: no permission" in refusal(read_sequences, tmp_path / "b.txt", tokenizer)


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_texts_of_a_table_are_cut_and_keep_their_columns(tmp_path, tokenizer, name):
    one_window = tokenizer.decode(tokenizer(LONG, add_special_tokens=False)["input_ids"][:70])
    columns = {
        "text": [one_window, LONG, "short", None, CODE],
        "sequence_id": [70, 50, 60, 61, 62],
        "document": ["one", None, "short", "none", "code"],
        "genre": ["prose", "prose", "prose", "prose", "code"],
        "duplicates": [3, 4, 5, 6, 7],
        "held_out": [True, False, False, False, False],
        "memorization_score": [1.0] * 5,
        "mine": ["a", "b", "c", "d", "e"],
    }
    write_table(tmp_path / name, pl.DataFrame(columns))
    result = read_sequences(tmp_path / name, tokenizer)
    frame = result.frame
    assert (result.n_documents, result.n_too_short) == (3, 2)
    assert "memorization_score" not in frame.columns
    alone = frame.row(0, named=True)
    assert (alone["sequence_id"], alone["document"], alone["duplicates"]) == (70, "one", 3)
    assert one_window.startswith(alone["text"])
    others = frame.slice(1)
    assert others["sequence_id"].to_list() == list(range(71, 71 + len(others)))
    assert set(others.select("document", "genre", "duplicates", "held_out", "mine").rows()) == {
        (f"{name}, row 1", "prose", 4, False, "b"),
        ("code", "code", 7, False, "e"),
    }
    for row in others.iter_rows(named=True):
        whole = LONG if row["mine"] == "b" else CODE
        assert whole[row["start"] : row["end"]] == row["text"]
    bare = {"text": columns["text"], "start": [1000, None, 0, 0, 5]}
    write_table(tmp_path / name, pl.DataFrame(bare))
    frame = read_sequences(tmp_path / name, tokenizer).frame
    assert frame["sequence_id"].to_list() == list(range(len(frame)))
    first = frame.group_by("document", maintain_order=True).first()
    assert first["start"].to_list() == [1000, 0, 5]


def test_a_users_columns_survive_whatever_their_names(tmp_path, tokenizer):
    names = ("source", "_shift", "row", "_row")
    given = {name: [f"{name} a", f"{name} b"] for name in names}
    table = pl.DataFrame({"text": [LONG, CODE], "start": [100, 0]} | given)
    cut = read_sequences(table, tokenizer)
    tokens = read_sequences(
        cut.frame.select("tokens", *names).group_by("source", maintain_order=True).first(),
        tokenizer,
    )
    for result in (cut, tokens, cut.limited(len(cut.frame) - 1, seed=0)):
        rows = result.frame.select(names).unique(maintain_order=True)
        assert rows.to_dict(as_series=False) == given
    for row in cut.frame.iter_rows(named=True):
        whole, first = (LONG, 100) if row["source"] == "source a" else (CODE, 0)
        assert whole[row["start"] - first : row["end"] - first] == row["text"]


def test_tokens_of_a_table_are_taken_as_they_are(tmp_path, tokenizer):
    columns = {"tokens": [[5] * 64, [6] * 64], "group": ["g", None], "mine": [1.5, None]}
    of_rows = {"rouge_l": [0.5, 0.5], "own_verdict": [True, False]}  # results are measured anew
    write_table(tmp_path / "t.parquet", pl.DataFrame(columns | of_rows))
    frame = read_sequences(tmp_path / "t.parquet", tokenizer).frame
    assert frame.columns == ["sequence_id", "text", *columns]
    assert frame["text"].to_list() == [tokenizer.decode(row) for row in columns["tokens"]]
    assert frame.select(*columns).to_dict(as_series=False) == columns
    bare = read_sequences(tmp_path / "t.parquet", None, limit=1)
    assert bare.frame.columns == ["sequence_id", "tokens", "group", "mine"]
    assert (len(bare.frame), bare.n_documents) == (1, 1)


ASCII = "def add(a, b):\n    return a + b\n\n\n  # the library of the works\n" * 12


def test_truncation_and_padding_of_the_tokenizer_do_not_cut_documents_and_it_stays_as_it_was(
    tokenizer,
):
    before = tokenizer("a b", return_offsets_mapping=True)
    assert before["input_ids"][0] == tokenizer.bos_token_id
    whole = WindowCutter(tokenizer).cut(ASCII)
    assert tokenizer("a b", return_offsets_mapping=True) == before
    tokenizer.backend_tokenizer.enable_truncation(10)
    tokenizer.backend_tokenizer.enable_padding(length=100)
    try:
        assert WindowCutter(tokenizer).cut(ASCII) == whole
    finally:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()


ANY = st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n日é🎉a"))


@given(st.text(ANY, max_size=60), st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=150)
@example(ASCII, 5, 5)
def test_any_text_gives_ordered_offsets_around_its_windows(tokenizer, text, length, stride):
    windows = WindowCutter(tokenizer, length=length, stride=stride).cut(text)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    starts = range(0, len(ids) - length + 1, stride)
    assert [w.tokens for w in windows] == [ids[i : i + length] for i in starts]
    previous_end = 0
    for window in windows:
        assert window.text == tokenizer.decode(window.tokens)
        if stride == length:
            assert previous_end - 1 <= window.start <= previous_end
        assert window.start < window.end <= len(text)
        assert window.text.strip("\ufffd") in text[window.start : window.end]
        if text.isascii():
            assert text[window.start : window.end] == window.text
        previous_end = window.end


def test_a_tokenizer_without_offsets_leaves_them_open():
    class Letters:
        def encode(self, text, add_special_tokens):
            return [ord(letter) for letter in text]

        def batch_decode(self, rows, skip_special_tokens, clean_up_tokenization_spaces):
            return ["".join(map(chr, row)) for row in rows]

    assert WindowCutter(Letters(), length=2, stride=2).cut("abcde") == [
        ([97, 98], "ab", None, None),
        ([99, 100], "cd", None, None),
    ]
    for length, stride in ((0, 1), (1, 0)):
        assert "at least 1" in refusal(WindowCutter, Letters(), length=length, stride=stride)
