"""The report on two pages: what it quotes stands in the audit, and it prints on two sheets."""

import html
import re

import pytest

from chromium import CHROMIUM
from mnemoscope.audit.page import render_brief
from mnemoscope.audit.settings import AuditSettings


@pytest.fixture(scope="module")
def made(audited, trained, new_text, reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("brief")
    text = "\n\n".join(f"{new_text(n, 30)}\n\n{one}" for n, one in enumerate(trained))
    (folder / "corpus.txt").write_text(trained[0], encoding="utf-8")
    (folder / "prompts.txt").write_text("What is a heron?\n", encoding="utf-8")
    settings = AuditSettings(
        profile=True,
        corpus=str(folder / "corpus.txt"),
        ordinary=str(folder / "prompts.txt"),
        answer_tokens=8,
        n_prefixes=0,
        stride=16,
    )
    record, spans = audited(folder, f"<b>{text}", settings=settings, reference=reference)
    return folder / "out", record, spans


def words_of(page):
    return " ".join(
        html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", "", page, flags=re.S)).split()
    )


def test_it_says_what_the_record_says(made):
    out, record, spans = made
    said = words_of((out / "report.html").read_text(encoding="utf-8"))
    recalled = spans.filter(verdict="recall")
    assert recalled.height
    assert f"writes {recalled.height} passage" in said
    best = recalled.sort("extraction_logprob", descending=True)
    shown = best.filter(~best["reference_reproduces"]).head(3)
    for row in shown.iter_rows(named=True):
        assert " ".join("".join(row["continuation_pieces"])[:150].split()) in said
    assert record["model"]["fingerprint"] in said
    assert record["spans_sha256"] in said
    assert f"{int((recalled['origin_count'] > 0).sum())} stand word for word" in said
    assert "1 everyday prompts" in said
    assert "How easily it comes out" in said


def test_what_nobody_asked_is_left_out_and_nothing_found_is_said(made, audited, new_text, tmp_path):
    record, spans = audited(tmp_path, new_text(9, 120), settings=AuditSettings(near_length=0))
    said = words_of(render_brief(record, spans, {}))
    assert "No passage of the document was brought out" in said
    assert "was not trained on" in said
    for words in ("How easily", "ordinary use", "Where the passages stand"):
        assert words not in said


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_it_prints_on_two_sheets(made, browser, tmp_path):
    pypdf = pytest.importorskip("pypdf")
    page = browser.new_page()
    page.goto((made[0] / "report.html").as_uri())
    page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    page.close()
    assert len(pypdf.PdfReader(tmp_path / "report.pdf").pages) == 2


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_it_fits_on_a_phone(made, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((made[0] / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
