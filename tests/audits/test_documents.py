"""Documents: every kind is read, what cannot be is said, and tokens know their characters."""

import gzip
import io
import json
import os
import re
import sys
import unicodedata
import zipfile
from pathlib import Path
from unittest.mock import Mock

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import mnemoscope as ms
from mnemoscope.audits.documents import read_documents
from mnemoscope.audits.library import verify
from mnemoscope.audits.tokens import character_range, tokenize
from mnemoscope.cli.options import parse_columns
from mnemoscope.data.formats import find_excluded
from mnemoscope.data.read import read_sequences
from mnemoscope.embedded import model_path
from mnemoscope.errors import UserError
from mnemoscope.lm.tokenizer import load_tokenizer

docx = pytest.importorskip("docx")
pypdf = pytest.importorskip("pypdf")


def make_pdf(text):
    """A PDF of one page, written by hand: no library of ours made it."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    data, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(data)
    return data + b"xref\n0 6\n0000000000 65535 f \n" + table + end


def nested(n):
    return "<table><tr><td>" * n + "deep" + "</td></tr></table>" * n


def encrypted_pdf(text):
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(make_pdf(text)))
    writer.encrypt("secret", algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def read_one(path, **options):
    return read_documents([str(path)], **options).documents[0]


def test_what_has_no_end_or_is_too_long_is_passed_over_and_the_others_go_on(tmp_path):
    (tmp_path / "a.txt").write_text("short", encoding="utf-8")
    (tmp_path / "long.txt").write_bytes(b"a b " * (9 << 18))
    rows = ["first", "a b " * (9 << 18), "third"]
    pl.DataFrame({"text": rows}).write_parquet(tmp_path / "t.parquet")
    found = read_documents([str(tmp_path)])
    texts = {Path(one.name).name: one.text for one in found.documents}
    assert texts == {"a.txt": "short", "t.parquet#1": "first", "t.parquet#3": "third"}
    reasons = {Path(one.name).name: one.reason for one in found.skipped}
    assert reasons.keys() == {"long.txt", "t.parquet#2"}
    assert "longer than 8 MB. Divide" in reasons["long.txt"]
    assert "longer than 8 MB. Divide" in reasons["t.parquet#2"]
    os.mkfifo(tmp_path / "pipe")
    for endless in ("/dev/zero", str(tmp_path / "pipe")):
        with pytest.raises(UserError, match="a pipe or device"):
            read_documents([str(tmp_path / "a.txt"), endless])


def test_every_kind_is_read_to_its_text(tmp_path):
    text = "Zeile eins\r\nünïcödé 😀\n\tcode()\n"
    forms = {"LICENSE": "utf-8", "b.md": "utf-8-sig", "c.py": "utf-16", "c.txt": "utf-32"}
    for name, encoding in forms.items():
        (tmp_path / name).write_bytes(text.encode(encoding))
    (tmp_path / "d.txt").write_bytes(b"\0\0\xfe\xff" + text.encode("utf-32-be"))
    page = "<html><head><script>alert(1)</script></head><body><h1>Title</h1><p>One &amp; two"
    (tmp_path / "a.html").write_text(f"{page}</p>{nested(50)}")
    (tmp_path / "a.pdf").write_bytes(make_pdf("Hello from a page"))
    made = docx.Document()
    made.add_paragraph("First.")
    made.add_table(1, 2).rows[0].cells[1].text = "cell"
    made.add_paragraph("Last.")
    made.save(tmp_path / "b.docx")
    for name in (*forms, "d.txt"):
        assert read_one(tmp_path / name).text == text
    assert read_one(tmp_path / "a.html").text.split() == ["Title", "One", "&", "two", "deep"]
    assert read_one(tmp_path / "a.pdf").text.strip() == "Hello from a page"
    assert read_one(tmp_path / "b.docx").text == "First.\n\tcell\nLast."


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".jsonl.gz", ".csv"])
def test_rows_of_tables_are_documents_of_their_own(tmp_path, ending):
    rows = [{"body": "Prose, and more.", "meta": '{"text": "deep"}'}, {"body": "b", "meta": "{}"}]
    path, lines = tmp_path / f"t{ending}", "".join(json.dumps(row) + "\n" for row in rows)
    if ending == ".csv":
        pl.DataFrame(rows).write_csv(path)
    elif ending == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        path.write_bytes(gzip.compress(lines.encode()) if ending == ".jsonl.gz" else lines.encode())
    reading = read_documents([str(path)], columns={"text": "body"})
    assert [(one.name, one.text) for one in reading.documents] == [
        (f"{path}#1", "Prose, and more."),
        (f"{path}#2", "b"),
    ]
    assert reading.columns == {"text": "body"}
    inner = read_documents([str(path)], columns={"text": "meta.text"})
    assert [(one.name, one.text) for one in inner.documents] == [(f"{path}#1", "deep")]
    assert [(one.name, one.reason) for one in inner.skipped] == [(f"{path}#2", "empty.")]
    with pytest.raises(UserError, match="column 'text'"):
        read_documents([str(path)])


def test_what_a_folder_holds_beside_files_is_named(tmp_path):
    """Links to files are followed; only what a system or tool hides is passed over in silence."""
    folder, other = tmp_path / "texts", tmp_path / "other"
    for one in (folder, other, folder / "out", folder / ".git"):
        one.mkdir()
        (one / "a.txt").write_text("text")
    for name, target in {
        "b.txt": other / "a.txt", "more": other, "gone.txt": "nothing", ".gone": "nothing",
        ".more": other, "latest": "out",
    }.items():  # fmt: skip
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe")
    reading = read_documents([str(folder)], leave_out=folder / "out")
    assert [Path(one.name).name for one in reading.documents] == ["a.txt", "b.txt"]
    assert {Path(one.name).name: one.reason.split(".")[0] for one in reading.skipped} == {
        "more": "a link to a folder",
        "gone.txt": "a link to nothing",
        "pipe": "a pipe or device, which can be read once",
        ".gone": "hidden (its name begins with a dot)",
        ".more": "hidden (its name begins with a dot)",
    }


def test_a_folder_is_read_without_the_audit_that_lies_in_it_and_standard_input(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "out").mkdir()
    for place in ("a.txt", "sub/b.txt", "out/audit.html", ".hidden"):
        (tmp_path / place).write_text("text")
    reading = read_documents([str(tmp_path)], leave_out=tmp_path / "out")
    names = [one.name.removeprefix(f"{tmp_path.as_posix()}/") for one in reading.documents]
    assert names == ["a.txt", "sub/b.txt"]
    path = str(tmp_path / "a.txt")  # given twice, read once
    reading = read_documents(["-", path, path], stdin=io.BytesIO(b"typed"))
    assert [(one.name, one.text) for one in reading.documents] == [("-", "typed"), (path, "text")]


@pytest.mark.parametrize("way", [(), ("--dry-run",)])
def test_a_result_folder_that_holds_the_documents_is_refused(tmp_path, monkeypatch, refused, way):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "a.txt").write_text("A text. " * 90)
    monkeypatch.chdir(tmp_path)
    for source, out in (("in/sub", "in"), ("in", "."), (".", "."), ("in/sub", "../")):
        said = refused("audit", "embedded", source, "-o", out, *way)
        assert f"-o {Path(out)}: this folder holds the documents ({source}), and what" in said
        assert said.endswith("Choose another folder with -o.")
    assert [*tmp_path.rglob("*.html")] == []


BAD = {
    "deep.html": (nested(3000).encode(), "cannot be read as a whole"),  # its parser would cut it
    "empty.txt": (b"", "empty"),
    "blank.txt": (b" \n\t", "empty"),
    "binary.dat": (b"\x7fELF\0\0\0\1", "binary"),
    "latin.txt": ("Käse".encode("latin-1"), "unknown encoding"),
    "torn.pdf": (make_pdf("x")[:60], "broken PDF"),
    "not.pdf": (b"a text with a wrong name", "not a PDF, whatever its name says"),
    "locked.pdf": (encrypted_pdf("x"), "encrypted PDF"),
    "scan.pdf": (make_pdf(""), "without text"),
    "torn.docx": (b"PK\3\4torn", "broken DOCX"),
    "torn.jsonl": (b'{"text": "a"}\n{"text": \n', "line 2"),
    "other.jsonl": (b'{"body": "a"}\n', "text"),
    "torn.parquet": (b"PAR1torn", ""),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_folder_holds_and_cannot_be_read_is_said_and_the_others_go_on(tmp_path, name):
    """Named itself it is refused: a gate on the others would pass."""
    data, reason = BAD[name]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "good.txt").write_text("good")
    reading = read_documents([str(tmp_path)])
    assert [one.text for one in reading.documents] == ["good"]
    assert [one.name for one in reading.skipped] == [str(tmp_path / name)]
    assert reason in reading.skipped[0].reason
    assert "\n" not in reading.skipped[0].reason
    with pytest.raises(UserError) as caught:
        read_documents([str(tmp_path / name)])
    assert name in str(caught.value)
    both = [str(tmp_path / name), str(tmp_path / "good.txt")]
    if reason == "empty":  # there was nothing to read
        assert len(read_documents(both).documents) == 1
        return
    with pytest.raises(UserError, match="only what a folder holds is passed over") as caught:
        read_documents(both)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_the_encoding_can_be_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("Käse".encode("latin-1"))
    assert read_one(tmp_path / "a.txt", encoding="latin-1").text == "Käse"
    for name in ("klingon", "rot13", "hex", "undefined"):
        with pytest.raises(UserError, match="no such encoding"):
            read_one(tmp_path / "a.txt", encoding=name)
    with pytest.raises(UserError, match="no such file"):
        read_one(tmp_path / "missing.txt")


def test_a_text_is_audited_and_a_mistyped_name_is_refused():
    made = ms.audit("embedded", "word " * 200, edits=0, near_length=0)
    assert [one["document"] for one in made.record["documents"]] == ["text"]
    folder = made.folder
    del made
    assert not folder.exists()  # nothing is left behind
    with pytest.raises(UserError, match="no such file or folder"):
        ms.audit("embedded", "my notes of the year.txt")


def test_a_name_that_is_not_utf_8_is_said_and_the_others_go_on(tmp_path):
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("text")
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    (tmp_path / "good.txt").write_text("good")
    reading = read_documents([str(tmp_path)])
    assert [one.text for one in reading.documents] == ["good"]
    assert "not UTF-8" in reading.skipped[0].reason
    assert reading.skipped[0].name.encode("utf-8").endswith(b"\\udcff.txt")


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    for ending, module in {".pdf": "pypdf", ".docx": "docx", ".html": "inscriptis"}.items():
        monkeypatch.setitem(sys.modules, module, None)
        (tmp_path / f"a{ending}").write_bytes(b"data")
        with pytest.raises(UserError, match=r"pip install .*'pypdf"):
            read_documents([str(tmp_path / f"a{ending}")])


TOKENIZER = load_tokenizer(str(model_path()))


ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
COMPOSING = Tokenizer(models.BPE(vocab={one: n for n, one in enumerate(ALPHABET)}, merges=[]))
COMPOSING.normalizer = normalizers.NFC()  # as Qwen's: characters composed, then bytes
COMPOSING.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)


def covered(tokens):
    return {c for s, e in zip(tokens.starts, tokens.ends, strict=True) for c in range(s, e)}


@settings(max_examples=60)
@given(st.text("ae \u0301\u0327b漢😀", max_size=20))
def test_a_combining_mark_belongs_to_its_letter(text):
    # NFC writes e and its acute as one character, whose two bytes are a token each
    tokens = tokenize(text, PreTrainedTokenizerFast(tokenizer_object=COMPOSING))
    assert covered(tokens) == set(range(len(text)))
    marks = {
        end for end in tokens.ends.tolist() if unicodedata.combining(text[end : end + 1] or "a")
    }
    assert marks <= set(tokens.starts.tolist())  # a mark that has tokens of its own


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_tokens_cover_every_character_in_order(text):
    tokens = tokenize(text, TOKENIZER)
    assert covered(tokens) == set(range(len(text)))
    assert list(tokens.starts) == sorted(tokens.starts)
    assert all(tokens.starts < tokens.ends)  # one inside a character has the whole character


@settings(max_examples=40)
@given(st.text("abc déß漢😀\n", min_size=20, max_size=60), st.data())
def test_a_range_of_tokens_decodes_to_its_characters(text, data):
    tokens = tokenize(text, TOKENIZER)
    first = data.draw(st.integers(0, len(tokens.ids) - 1))
    last = data.draw(st.integers(first + 1, len(tokens.ids)))
    start, end = character_range(tokens, first, last)
    decoded = TOKENIZER.decode(tokens.ids[first:last].tolist()).strip("\ufffd")
    assert decoded in text[start:end]
    assert end - start - len(decoded) <= 2  # at most one torn character at each end


def test_memory_that_runs_out_is_not_called_a_broken_file(tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text("<p>words")
    target = "mnemoscope.audits.documents._refuse_cut"
    monkeypatch.setattr(target, Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        read_one(tmp_path / "page.html")


def test_a_merged_cell_is_read_once_whatever_it_claims_to_span_and_tables_in_it_too(tmp_path):
    made = docx.Document()
    cell = made.add_table(rows=1, cols=2).cell(0, 0)
    cell.text = "wide"
    cell.add_table(1, 1).cell(0, 0).text = "inner"
    cell._tc.get_or_add_tcPr().get_or_add_gridSpan().val = 10**9
    made.save(tmp_path / "a.docx")
    assert read_one(tmp_path / "a.docx").text.split() == ["wide", "inner"]


def test_a_docx_that_unpacks_to_more_than_memory_is_refused(tmp_path):
    docx.Document().save(tmp_path / "a.docx")
    with zipfile.ZipFile(tmp_path / "a.docx", "a", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("word/more.xml", b" " * (65 << 20))
    assert (tmp_path / "a.docx").stat().st_size < 1 << 20
    with pytest.raises(UserError, match="when unpacked"):
        read_documents([str(tmp_path / "a.docx")])


def test_a_training_that_is_watched_calls_documents_as_an_audit_does(tmp_path, lm):
    texts, tables = tmp_path / "texts", tmp_path / "tables"
    for name in ("a.txt", "deep/b.txt", "short.txt"):
        (texts / name).parent.mkdir(parents=True, exist_ok=True)
        (texts / name).write_text("few" if "short" in name else " ".join(map(str, range(90))))
    tables.mkdir()
    rows = pl.DataFrame({"text": [" ".join(map(str, range(n, n + 90))) for n in (0, 50)]})
    for name in ("one.csv", "two.csv"):
        rows.write_csv(tables / name)
    for source in (texts, texts / "a.txt", tables, tables / "one.csv"):
        read = read_sequences(source, lm.tokenizer).as_given(str(source))
        found = {*read.frame["document"], *read.too_short}
        assert found == {one.name for one in read_documents([str(source)]).documents}
    own = rows.with_columns(document=pl.Series(["mine", "yours"]))
    assert {*read_sequences(own, lm.tokenizer).as_given("x").frame["document"]} == {
        *own["document"]
    }


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*.csv", ["drafts/t.csv", "t.csv"]),
        ("drafts", ["drafts/a.txt", "drafts/t.csv"]),
        ("drafts/*.txt", ["drafts/a.txt"]),
        ("a.txt", ["a.txt"]),
        (".env", [".env"]),
        ("texts/[1].txt", ["[1].txt"]),
    ],
)
def test_what_is_excluded_is_read_by_no_reader(tmp_path, monkeypatch, lm, pattern, left):
    """By the path within the folder, as a glob or whole, or by the name that is printed."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "drafts/a.txt", "t.csv", "drafts/t.csv", ".env", "[1].txt"):
        (path := Path("texts", name)).parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(map(str, range(90))))
    left = [f"texts/{one}" for one in left]
    assert find_excluded(["texts"], [pattern]) == {pattern: left}
    for find, others in ((read_documents, ["texts"]), (read_sequences, "texts")):
        both = []
        for exclude in ((), (pattern,)):
            if find is read_documents:
                read = read_documents(others, exclude=exclude)
                both.append({one.name for one in (*read.documents, *read.skipped)})
            else:
                read = read_sequences(others, lm.tokenizer, exclude=exclude).as_given(others)
                both.append({*read.frame["document"], *(one.name for one in read.unread)})
        assert both[0] - both[1] == {*left}


@pytest.mark.parametrize(
    ("source", "pattern", "said"),
    [
        ("texts", "b.txt", "exclude b.txt: fits no file of texts. Did you mean 'a.txt'?"),
        ("texts", "texts", "exclude texts: fits no file of texts."),
        ("texts", "*", "exclude: leaves nothing of texts."),
        ("texts/a.txt", "a.txt", "exclude: leaves nothing of texts/a.txt."),
    ],
)
def test_to_exclude_nothing_or_all_is_refused(tmp_path, monkeypatch, source, pattern, said):
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    Path("texts", "a.txt").write_text("text")
    with pytest.raises(UserError, match=re.escape(said)):
        find_excluded([source], [pattern])


@pytest.mark.whole
def test_an_audit_records_what_was_left_out_and_is_verified_where_it_moved(tmp_path):
    """Where an excluded file has a document's name, it is no edited copy of that document."""
    (folder := tmp_path / "texts" / "drafts").mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_text("The lamp on the hill. " * 40)
    (folder / "a.txt").write_text("A ferry crossed. " * 40)
    options = {"edits": 0, "near_length": 0, "exclude": ["drafts"]}
    made = ms.audit("embedded", tmp_path / "texts", tmp_path / "out", **options)
    assert made.record["excluded"] == {"drafts": [str(folder / "a.txt")]}
    assert f"<code>--exclude drafts</code>): {folder / 'a.txt'}." in re.sub(
        "<(?!/?code).*?>|\u200b", "", (made.folder / "audit.html").read_text()
    )
    (tmp_path / "texts").rename(tmp_path / "moved")
    found = verify(made.folder, documents=[tmp_path / "moved"])
    assert (found.problems, found.unchecked) == ([], [])
    with pytest.raises(UserError, match="exclude: texts were given by their names"):
        ms.audit("embedded", {"a": "text"}, exclude=["a"])


def test_a_csv_without_a_header_is_read_as_text_as_its_line_says(tmp_path):
    """No record of it is printed; of a header the first names are."""
    record = "Patient Hugo Ibarra,born 21.03.1959,record 791931,takes omeprazole 25 mg."
    folder, table = tmp_path / "texts", tmp_path / "texts" / "customers.csv"
    folder.mkdir()
    table.write_text(f"{record}\n{record}\n")
    (folder / "a.txt").write_text("a text")
    (skipped,) = read_documents([str(folder)]).skipped
    assert "a CSV of 4 columns without a column" in skipped.reason
    assert not any(word in skipped.reason for word in ("Hugo", "1959", "791931", "25 mg"))
    tokenizer = load_tokenizer(model_path())
    (unread,) = read_sequences(folder, tokenizer, length=2, stride=2).unread
    for line in (skipped.reason, unread.reason):
        assert re.search(r"text,? with (--)?column .text=\*.", line)
    with pytest.raises(UserError, match=r"with column 'text=\*'"):  # as the line
        read_sequences(table, tokenizer, length=2, stride=2)
    with pytest.raises(UserError, match=r"no 'Name'\. Its first line names 4 columns, or is a rec"):
        read_documents([str(table)], columns={"text": "Name"})
    with pytest.raises(UserError, match=r"column txt: nothing that is read here\. Give text=NAME"):
        read_documents([str(table)], columns={"txt": "note"})
    with pytest.raises(UserError, match="no 'Name'"):  # also in a folder, where all tables lack it
        read_documents([str(folder)], columns={"text": "Name"})
    as_text = parse_columns(["text=*"])
    read = read_documents([str(folder)], columns=as_text)
    assert ([len(one.text) for one in read.documents], read.skipped) == ([6, 148], [])
    assert read_sequences(folder, tokenizer, length=2, stride=2, columns=as_text).unread == ()
    alone = read_sequences(table, tokenizer, length=2, stride=2, columns=as_text)
    assert {*alone.as_given(str(table)).frame["document"]} == {str(table)}
    assert read_documents([str(table)], columns=as_text).documents[0].text == table.read_text()
    (tmp_path / "named.csv").write_text("Name,Note\nHugo,takes omeprazole\n")
    with pytest.raises(UserError, match=r"no 'Text'\. There are: Name, Note\."):
        read_documents([str(tmp_path / "named.csv")], columns={"text": "Text"})
    other = tmp_path / "other.jsonl"
    other.write_text('{"name": "Hugo", "takes": "omeprazole"}\n')
    with pytest.raises(UserError, match=r"column 'text=\*'"):
        read_documents([str(other)])
    assert read_documents([str(other)], columns=as_text).documents[0].text == other.read_text()
    pl.DataFrame({"note": ["hello"]}).write_parquet(tmp_path / "binary.parquet")
    with pytest.raises(UserError, match=r"column text=NAME; it has note\.$"):  # no lines
        read_documents([str(tmp_path / "binary.parquet")])
    (tmp_path / "named.csv").write_text("id,note,date,author\n1,hello,2,me\n")
    with pytest.raises(UserError, match=r"4 columns \(id, note, date, …\)"):
        read_documents([str(tmp_path / "named.csv")])
    (folder / "broken.parquet").write_bytes(b"PAR1\0\xff")
    read = read_documents([str(folder)], columns=as_text)  # a folder's are passed over
    assert ([Path(one.name).name for one in read.skipped], len(read.documents)) == (
        ["broken.parquet"],
        2,
    )
    with pytest.raises(UserError, match=r"no 'Patien'\. Its first line names 4 columns, or is"):
        read_documents([str(table)], columns={"text": "Patien"})  # no hint quotes a record
