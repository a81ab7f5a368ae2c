"""The page: every text escaped, nothing from outside, the same each time."""

import math
import re

import pytest

from mnemoscope.audit.documents import mark_hidden, read_documents
from mnemoscope.audit.page import _chance, stretches
from mnemoscope.audit.run import audit_documents

HOSTILE = "<script>alert(1)</script>\u202e gnp.exe \u200b <img src=x onerror=1> &amp; "


@pytest.fixture(scope="module")
def page(tmp_path_factory, lm, reference, trained, new_text):
    folder = tmp_path_factory.mktemp("page")
    name = folder / "<b>&.txt"
    name.write_text(HOSTILE + new_text(1, 30) + trained[0] + HOSTILE)
    audit_documents(
        lm, read_documents([str(name)]), folder / "out", reference=reference, command=["<i>"]
    )
    return (folder / "out" / "audit.html").read_text()


def test_hostile_text_is_only_text(page):
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>&" not in page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page
    assert "\u200b" not in page
    assert "U+202E" in page


def test_nothing_comes_from_outside(page):
    assert "default-src 'none'" in page
    places = re.findall(r'<[a-z][^>]*\s(?:src|href)="?([^">]*)', page)
    assert places
    assert all(one.startswith("#") for one in places)
    assert "url(" not in page
    assert "@import" not in page


def test_every_link_has_its_place(page):
    targets = set(re.findall(r'id="([^"]+)"', page))
    links = set(re.findall(r'href="#([^"]+)"', page))
    assert links
    assert links <= targets
    assert "span-1" in targets


def test_pieces_joined_are_the_text():
    text = "0123456789" * 500
    rows = [
        {"number": 1, "start": 100, "end": 200, "verdict": "guess"},
        {"number": 2, "start": 199, "end": 300, "verdict": "recall"},
        {"number": 3, "start": 4000, "end": 4100, "verdict": "recall"},
    ]
    whole = list(stretches(text, rows, is_whole=True))
    assert "".join(piece.text for piece in whole) == text
    short = list(stretches(text, rows, is_whole=False))
    left_out = sum(int(one.text.replace(",", "")) for one in short if one.kind == "left_out")
    shown = sum(len(one.text) for one in short if one.kind != "left_out")
    assert left_out + shown == len(text)
    assert [one.kind for one in short if one.number] == ["guess", "recall", "recall"]


@pytest.mark.parametrize(
    ("logprob", "said"),
    [
        (0.0, "100.0 %"),
        (math.log(0.0123), "1.2 %"),
        (math.log(1 / 20000), "1 in 20,000"),
        (-12 * math.log(10), "1 in 10¹²"),
        (-math.inf, "never"),
        (None, "not asked"),
    ],
)
def test_chances_are_readable_however_small(logprob, said):
    assert _chance(logprob) == said


def test_signs_stand_for_what_cannot_be_seen():
    marks = mark_hidden("a\x00b\u2066c\n")
    assert [one.text for one in marks if one.is_sign] == ["U+0000", "U+2066"]
    assert "".join(one.text for one in marks if not one.is_sign) == "abc\n"


def page_of(folder, lm, text):
    name = folder / "text.txt"
    name.write_text(text)
    record = audit_documents(lm, read_documents([str(name)]), folder / "out")
    page = (folder / "out" / "audit.html").read_text()
    return record["summary"], " ".join(re.sub(r"<[^>]+>", "", page.split("<body>")[1]).split())


def test_a_card_has_no_empty_figure_of_a_cnn_and_labels_for_a_phone(tmp_path, lm, trained):
    page_of(tmp_path, lm, "\nA ferry crossed.\n".join(trained))
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "Chance of one try</dt>" in page
    assert "CNN: probability of Recall" not in page
    assert 'data-label="model wrote"' in page
    assert 'data-label="recalled, 95 %"' in page


def test_nothing_found_says_what_that_proves_and_what_not(tmp_path, lm, new_text):
    summary, page = page_of(tmp_path, lm, new_text(7, 300))
    assert summary["reproduced"]["characters"] == 0
    assert "repeats nothing of this document" in page
    assert f"asked at {summary['windows']} places and did so nowhere" in page
    bound = f"at most {100 * summary['reproduced']['high']:.1f}\u00a0% would".replace("\u00a0", " ")
    assert bound in page
    assert "does not prove that the model never saw the document" in page
    assert "Recalled means" not in page
