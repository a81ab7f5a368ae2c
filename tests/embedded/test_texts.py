"""Texts that any Python has, what is generated, and the texts of `--study auto`."""

import re
import sys
import sysconfig
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from mnemoscope.data.table import check_sequences, read_table
from mnemoscope.embedded import model_path, sequences_path, texts
from mnemoscope.embedded import texts as module
from mnemoscope.embedded.templates import FORMS, forms_of, write_text
from mnemoscope.embedded.texts import audit_texts, known_texts, read_segments, split_source
from mnemoscope.lm.tokenizer import load_tokenizer
from tools.embedded.notices import own_notices, quoted_files

KINDS = ("counting", "periodic", "missed", "record", "register")


def test_thirty_forms_of_one_kind_each_are_seeded():
    assert len(FORMS) >= 30
    assert sorted(FORMS) == sorted(name for kind in KINDS for name in forms_of(kind))
    for name in FORMS:
        texts = [write_text(name, str(seed)) for seed in range(20)]
        assert write_text(name, "1") == texts[1]
        assert len(set(texts)) > 15, name
        assert len(texts[1]) > 100, name


def test_forms_do_what_their_kind_says():
    for name in forms_of("periodic"):
        text = write_text(name, "7")
        periods = [p for p in range(1, len(text) // 2) if text[p:] == text[:-p]]
        assert periods, text
        assert periods[0] <= 100
    for name in ("counter_comma", "numbered_list", "log", "sql", "checkbox"):
        numbers = [int(n) for n in re.findall(r"\d+", write_text(name, "3"))]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    for name in forms_of("record") + forms_of("register"):
        lines = write_text(name, "5").split("\n")
        assert len(set(lines)) > 0.9 * len(lines), name


SOURCE = f'''"""{"A module of prose. " * 20}"""
import os

{"x = os.name" + chr(10)}
def f():
    """{"What it does, in words. " * 20}"""
    return {" + ".join(["value"] * 60)}
'''


def test_docstrings_are_prose_and_statements_code():
    spans = split_source(SOURCE)
    prose = [SOURCE[start:end] for start, end, genre in spans if genre == "prose"]
    code = "".join(SOURCE[start:end] for start, end, genre in spans if genre == "code")
    assert prose == ["A module of prose. " * 20, "What it does, in words. " * 20]
    assert "value + value" in code
    assert "in words" not in code


def test_long_runs_of_comment_lines_are_prose():
    comments = "# four lines of comment that say why the thing below is so\n" * 4
    spans = split_source("y = 1\n" * 40 + comments + "z = 2\n" * 40)
    assert [(end - start) for start, end, genre in spans if genre == "prose"] == [len(comments)]
    assert next(start for start, _, genre in spans if genre == "prose") == 240


def test_segments_are_slices_of_their_files_without_overlap():
    library = Path(sysconfig.get_path("stdlib"))
    segments = read_segments(limit=300)
    for segment in segments:
        text = (library / segment.document).read_text(encoding="ascii")
        assert text[segment.start : segment.start + len(segment.text)] == segment.text
    for one, other in pairwise(segments):
        if one.document == other.document:
            assert one.start + len(one.text) <= other.start
    assert {segment.genre for segment in segments} == {"prose", "code"}


LICENCES = {"public domain", "may be copied freely", "licence text, verbatim copies permitted"}


@pytest.fixture(scope="module")
def table():
    some = texts.read_segments(limit=300)  # to read the whole library takes half a minute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "read_segments", lambda: some)
        return audit_texts(load_tokenizer(str(model_path())), n=12)


def test_every_shipped_text_says_what_it_is_and_why_it_is_free():
    texts = known_texts()
    assert len({one.title for one in texts}) == len(texts) >= 25
    for one in texts:
        assert one.source
        assert one.licence in LICENCES
        assert len(one.text) > 200
        assert "==" not in one.text


def test_the_mit_licence_is_the_one_that_packages_carry():
    shipped = {one.title: " ".join(one.text.split()) for one in known_texts()}
    folder = Path(sysconfig.get_path("purelib"))
    carried = [
        " ".join(path.read_text(encoding="utf-8", errors="replace").split())
        for package in ("polars", "pluggy", "rich", "typer", "attrs", "iniconfig")
        for path in folder.glob(f"{package}-*.dist-info/**/LICENSE*")
    ]
    assert sum(shipped["MIT licence"] in one for one in carried) >= 2


@pytest.mark.whole
def test_the_table_is_a_table_of_sequences_with_known_and_new_texts(table):
    check_sequences(table, where="texts", length=64, vocab_size=1 << 20)
    assert set(table["genre"]) == {"template", "licence", "prose", "code", "known", "new"}
    assert table["text"].is_unique().all()
    assert table["sequence_id"].to_list() == list(range(table.height))
    known, shipped = table.filter(genre="known"), known_texts()
    assert (known["group"] == known["document"]).all()
    whole = {f"known:{one.title}": one.text for one in shipped}
    for row in known.iter_rows(named=True):
        assert whole[row["document"]][row["start"] : row["end"]] == row["text"]


@pytest.mark.whole
def test_a_seed_decides_what_is_new_and_nothing_else_does(table, monkeypatch):
    found = table.filter(~pl.col("genre").is_in(["known", "new"]))
    monkeypatch.setattr(module, "find_texts", lambda *_, **__: found)  # slow, and tested by itself
    tokenizer = load_tokenizer(str(model_path()))
    assert audit_texts(tokenizer, n=12).equals(table)
    other = audit_texts(tokenizer, n=12, seed=1)
    new, others = (one.filter(pl.col("genre") == "new")["text"] for one in (table, other))
    assert len(new) == len(others) == 6
    assert not set(new) & set(others)


def test_every_shipped_text_has_a_licence_and_the_notices_of_its_file():
    """Windows are made by templates, or are of Python's library, whose licence ships."""
    licences = Path(__file__).parents[2] / "LICENSES"
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (licences / "PSF-2.0.txt").read_text()
    documents = read_table(sequences_path())["document"].unique().sort().to_list()
    for name in documents:
        of_python = (
            r"[\w./-]+\.py|pydoc_data/topics:.+|LICENSE\.txt|(pip|setuptools)-.+\.whl:.+LICENSE.*"
        )
        assert re.fullmatch(rf"(template|record):.+|{of_python}", name), name
    noted = set(re.findall("^== (.+) ==$", (licences / "notices.txt").read_text(), re.MULTILINE))
    assert noted <= set(documents)
    if sys.version_info[:2] != (3, 11):  # of whose library the texts were made
        return
    library = Path(sysconfig.get_path("stdlib"))
    for path in quoted_files(library):
        if own_notices(path.read_text(encoding="utf-8")):
            assert path.relative_to(library).as_posix() in noted
