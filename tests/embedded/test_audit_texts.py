"""The texts of `--study auto`: free, each with its origin, the same every time, no network."""

import sysconfig
from pathlib import Path

import polars as pl
import pytest

from mnemoscope.data.table import check_sequences
from mnemoscope.embedded import model_path, texts
from mnemoscope.embedded import texts as module
from mnemoscope.embedded.texts import audit_texts, known_texts
from mnemoscope.lm.load import load_tokenizer

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


def test_a_seed_decides_what_is_new_and_nothing_else_does(table, monkeypatch):
    found = table.filter(~pl.col("genre").is_in(["known", "new"]))
    monkeypatch.setattr(module, "find_texts", lambda *_, **__: found)  # slow, and tested by itself
    tokenizer = load_tokenizer(str(model_path()))
    assert audit_texts(tokenizer, n=12).equals(table)
    other = audit_texts(tokenizer, n=12, seed=1)
    new, others = (one.filter(pl.col("genre") == "new")["text"] for one in (table, other))
    assert len(new) == len(others) == 6
    assert not set(new) & set(others)
