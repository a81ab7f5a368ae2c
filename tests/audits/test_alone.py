"""What a reference repeats and the model does not: found, said, counted, kept and verified."""

from dataclasses import replace

import polars as pl
import pytest

from mnemoscope.audits import alone
from mnemoscope.audits.documents import make_document
from mnemoscope.audits.local import LocalModel, local_audit
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.redact import redact_audit
from mnemoscope.audits.run import find_passages
from mnemoscope.audits.scan import coarse_places
from mnemoscope.audits.shares import count_document, overall
from mnemoscope.audits.verdict import reference_beside, verdict_of
from mnemoscope.study.settings import EMBEDDED
from tests.audits.conftest import BRIEF

CHECK = "Check that it never saw the documents, and that model and reference were not swapped."


def counts_of(audit, table):
    sizes = [
        (one.name, {"characters": len(one.document.text), "tokens": 64, "windows": 1})
        for one in audit.texts
    ]
    return [count_document(name, one, audit.passages, None, table) for name, one in sizes]


def test_models_that_were_swapped_are_asked_about_and_what_the_reference_repeats_is_said(
    lm, reference, trained, often
):
    settings = audit_settings(**BRIEF, stride=16)
    whole = [*trained, *often]
    cases = [
        (reference, lm, whole, True),
        (reference, lm, ["\n".join(trained)], True),  # of one document too
        (reference, lm, whole[:2], False),  # two passages may be chance
        (lm, reference, whole, False),
    ]
    for own, other, texts, is_more in cases:
        named = [make_document(f"in/{at}.txt", text) for at, text in enumerate(texts)]
        audit = local_audit(own, named, settings, reference=other)
        find_passages(audit)
        table, facts = alone.ask(audit)[1:]
        assert facts["is_more"] == is_more
        rows = counts_of(audit, table)
        assert sum(row["alone_spans"] for row in rows) == table.height
        assert overall(rows)["alone_spans"] == table.height
        record = {"name": "y", "apart": 2.9, "beside": facts}
        found = reference_beside("x", record, audit.passages, rows)
        meaning = verdict_of("x", record, overall(rows), audit.passages, None, rows)["meaning"]
        assert meaning.startswith("model and reference may have been given in ") == is_more
        if own is lm:
            assert (table.height, facts["model"] > facts["reference"]) == (0, True)
            assert "itself repeats" not in found["sentence"]
            continue
        assert (table["verdict"] == "recall").all()
        assert (facts["model"], facts["reference"] > 0) == (0, True)
        said = f"Of {facts['windows']} places where both were asked the reference writes on"
        assert found["sentence"].startswith(said) == is_more
        assert f"The reference itself repeats {table.height} passages that" in found["sentence"]
        assert (CHECK in found["sentence"]) == (not is_more)
        where = f"in {len(texts)} documents, most in " if len(texts) > 1 else " % of 0.txt): it"
        assert where in found["sentence"]
        shipped = reference_beside("x", record | {"name": EMBEDDED}, audit.passages, rows)
        assert "Check that it never" not in shipped["sentence"]
        copied = reference_beside("x", record | {"apart": 0.1}, audit.passages, rows)
        assert "itself repeats" not in copied["sentence"]


@pytest.mark.parametrize("suffix", [32, 24])
def test_windows_that_are_left_out_hold_no_hit_of_documents_of_any_length(
    lm, trained, often, new_text, suffix
):
    texts = [new_text(1, 90) + often[0] + new_text(2, 11), "Too short.", trained[0]]
    texts += [new_text(3, 30) + trained[1], trained[2] + new_text(4, 200)]
    settings = audit_settings(**BRIEF, suffix=suffix)
    audit = local_audit(lm, [make_document(f"{n}", one) for n, one in enumerate(texts)], settings)
    is_asked = alone.mostly_right(audit)
    asked = [place for place in coarse_places(audit) if is_asked(place)]
    assert 0 < len(asked) < len(coarse_places(audit)) / 3
    find_passages(audit)
    whole = audit.passages
    assert whole["document"].n_unique() == 4
    find_passages(audit, is_asked)
    assert audit.passages.equals(whole)
    for number, text in enumerate(texts):  # each as if it stood alone
        one = replace(audit, texts=audit.texts[number : number + 1])
        is_own = alone.mostly_right(one)
        firsts = [first for at, first in coarse_places(audit) if at == number]
        assert [is_own((0, at)) for at in firsts] == [is_asked((number, at)) for at in firsts], text
    every = alone.mostly_right(replace(audit, settings=settings.model_copy(update={"stride": 64})))
    assert all(every(place) for place in coarse_places(audit))


def test_it_stands_on_the_page_is_verified_and_leaves_no_text_where_that_is_hidden(
    audited, verify, lm, reference, trained, tmp_path
):
    text = "\n".join(trained)
    settings = audit_settings(**BRIEF, stride=16)
    record, spans = audited(tmp_path, text, model=reference, reference=lm, settings=settings)
    table = pl.read_parquet(tmp_path / "out" / "alone.parquet")
    assert (spans.height, table.height >= 3, table.columns) == (0, True, [*alone.TABLE])
    (row,) = record["documents"]
    assert row["alone"]["characters"] == record["summary"]["alone"]["characters"] > 0
    assert row["alone_spans"] == table.height
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert '<td class="n" data-label="reference alone">' in page
    assert "What the reference itself repeats" in page
    first = table["text"][0][:20]
    assert first in page
    redact_audit(tmp_path / "out", tmp_path / "shared")
    shared = (tmp_path / "shared" / "audit.html").read_text(encoding="utf-8")
    assert "What the reference itself repeats" in shared
    assert first not in shared
    load = lambda _, settings: LocalModel(lm, settings)  # noqa: E731
    assert verify(tmp_path / "out", reference, load_reference=load).problems == []
    audit = local_audit(reference, [make_document("a", text)], settings, reference=lm)
    here = table.with_columns(document=pl.lit("a"))
    assert alone.check(audit, here) == []
    moved = here.with_columns(window_token=pl.col("window_token") + 3)
    assert len(alone.check(audit, moved)) == table.height
    otherwise = here.with_columns(text=pl.lit("Another text."))
    assert len(alone.check(audit, otherwise)) == table.height
