"""Where a passage comes from: what was planted in a corpus is listed with its place."""

import polars as pl
import pytest

from mnemoscope.audit import run
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.errors import UserError
from mnemoscope.files import read_parquet


def test_a_recalled_passage_lists_its_places_in_a_corpus(audited, trained, new_text, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    text = f"{new_text(1, 40)}\n{trained[0]}\n{new_text(2, 40)}\n{trained[1]}\n"
    brief = {"edits": 0, "n_prefixes": 0, "near_length": 0}
    plain, _ = audited(tmp_path, text, settings=AuditSettings(**brief))
    spans = pl.read_parquet(tmp_path / "out" / "spans.parquet")
    first = spans.row(0, named=True)
    (corpus / "a.txt").write_text(f"before {first['text']} and {first['text']}", encoding="utf-8")
    (corpus / "b.txt").write_text(new_text(7, 80), encoding="utf-8")
    settings = AuditSettings(**brief, corpus=str(corpus))
    record, found = audited(tmp_path, text, settings=settings, redo=True)
    origins = read_parquet(tmp_path / "out" / "origins.parquet")
    assert found["origin_count"].to_list() == [2] + [0] * (found.height - 1)
    rows = origins.filter(span=1, found="passage")
    assert rows["offset"].to_list() == [7, 7 + len(first["text"]) + 5]
    assert set(rows["in"]) == {str(corpus / "a.txt")}
    assert (origins["span"] == 1).all()
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "In the corpus 2 times:" in page
    assert page.count("Not in the corpus") == found.height - 1
    assert record["summary"] == plain["summary"]
    (corpus / "c.txt").write_text(first["text"], encoding="utf-8")  # another corpus: looked at anew
    _, again = audited(tmp_path, text, settings=settings, redo=True)
    assert again["origin_count"][0] == 3


def test_a_corpus_that_is_not_there_is_refused_before_anything_is_asked(
    audited, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "scan_windows", lambda _: pytest.fail("asked"))
    with pytest.raises(UserError, match="gone"):
        audited(tmp_path, trained[0], settings=AuditSettings(corpus=str(tmp_path / "gone")))
