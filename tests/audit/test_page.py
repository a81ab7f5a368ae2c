"""Page, SARIF and JUnit: every text escaped, nothing from outside, each passage at its place."""

import html
import inspect
import math
import re
import shlex
from xml.etree import ElementTree

import polars as pl
import pytest

from chromium import NEEDS_CHROMIUM, UNFOLD, hard_to_use
from mnemoscope.audit.documents import mark_hidden, read_documents
from mnemoscope.audit.local import audit_documents
from mnemoscope.audit.page import chance, junit_xml, sarif_log, stretches
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.cli.audit import audit as audit_verb

EVERY_SCREEN = [
    pytest.param(*one, marks=NEEDS_CHROMIUM) for one in ((1280, "light"), (390, "dark"))
]
COMMAND = ["mnemoscope", "audit", "<i>", "a b.txt", "--fail-if", "recalled > 0.5%", "$HOME"]
HOSTILE = "<script>alert(1)</script>\u202e gnp.exe \u200b <img src=x onerror=1> &amp; "


@pytest.fixture(scope="module")
def page(tmp_path_factory, lm, reference, trained, new_text):
    folder = tmp_path_factory.mktemp("page")
    name = folder / "<b>&.txt"
    name.write_text(HOSTILE + new_text(1, 30) + trained[0] + HOSTILE)
    audit_documents(
        lm, read_documents([str(name)]), folder / "out", reference=reference, command=COMMAND
    )
    return (folder / "out" / "audit.html").read_text()


def test_hostile_text_is_only_text(page):
    for sign in ("<script", "<img", "<b>&", "\u202e", "\u200b"):
        assert sign not in page
    assert "&lt;script&gt;" in page
    assert "U+202E" in page


def test_nothing_comes_from_outside_and_every_link_has_its_place(page):
    assert "default-src 'none'" in page
    assert "url(" not in page
    assert "@import" not in page
    places = set(re.findall(r'<[a-z][^>]*\s(?:src|href)="?([^">]*)', page))
    targets = {f"#{name}" for name in re.findall(r'id="([^"]+)"', page)}
    assert "#span-1" in places <= targets


def test_a_card_has_no_empty_figure_of_a_cnn_and_labels_for_a_phone(page):
    assert "Chance of one try</dt>" in page
    assert "CNN: probability of Recall" not in page
    assert 'data-label="model wrote"' in page


@pytest.mark.parametrize(("width", "scheme"), EVERY_SCREEN)
def test_axe_finds_nothing_serious(browser, page, width, scheme):
    window = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    shown = window.new_page()
    shown.set_content(page)
    shown.evaluate(UNFOLD)
    assert hard_to_use(shown) == []
    window.close()


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
        (math.log(0.9 / 3710000000), "1 in 4.1\u00a0×\u00a010⁹"),
        (math.log(1.0001e-7), "1 in 10⁷"),
        (-math.inf, "never"),
        (None, "not asked"),
    ],
)
def test_chances_are_readable_however_small(logprob, said):
    assert chance(logprob) == said


def test_the_command_can_be_pasted_into_a_shell(page):
    shown = re.search(r'<pre class="command">(.*?)</pre>', page)[1]
    assert shlex.split(html.unescape(shown)) == COMMAND
    settings = re.search(r"<dt>Settings</dt><dd>(.*?)</dd>", page)[1]
    flags = re.findall(r"<code>(--[a-z-]+)", settings)
    assert not {"--overlap", "--instruction"} & set(flags)  # refused without --ordinary, a chat
    assert {"--stride", "--other-prefixes", "--refine-from", "--max-growth"} <= set(flags)
    assert AuditSettings.model_fields.keys() <= inspect.signature(audit_verb).parameters.keys()


def test_signs_stand_for_what_cannot_be_seen():
    marks = mark_hidden("a\x00b\u2066c\n")
    assert [one.text for one in marks if one.is_sign] == ["U+0000", "U+2066"]
    assert "".join(one.text for one in marks if not one.is_sign) == "abc\n"


@pytest.mark.parametrize(("n_words", "is_open"), [(100, True), (1500, False)])
def test_a_document_longer_than_three_screens_stands_folded(
    tmp_path, audited, new_text, n_words, is_open
):
    audited(tmp_path, new_text(7, n_words), settings=AuditSettings(stride=64, near_length=0))
    page = (tmp_path / "out" / "audit.html").read_text()
    assert ('<details class="document" id="document-1" open>' in page) == is_open
    assert new_text(7, n_words) in page  # folded, not left out


def test_of_many_documents_nothing_found_has_a_bound(tmp_path, lm, new_text):
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text(new_text(number, 80))
    reading = read_documents([str(path) for path in sorted(tmp_path.glob("*.txt"))])
    settings = AuditSettings(stride=64)
    summary = audit_documents(lm, reading, tmp_path / "out", settings=settings)["summary"]
    assert (summary["asked"], summary["reproduced"]["characters"]) == (10, 0)
    page = " ".join((tmp_path / "out" / "audit.html").read_text().split())
    assert "at most 30.8 % of the text would" in page.replace("<b>", "").replace("</b>", "")


TEXT = "first line\n😀 second line\nthird line"


def log_of(rows):
    columns = {"tokens": 3, "reason": "because"}
    return sarif_log(pl.DataFrame([{**row, **columns} for row in rows]), {"a b/ü.txt": TEXT})


def test_recalled_passages_stand_at_their_lines():
    start = TEXT.index("second")
    end = TEXT.index("third") + len("third")
    rows = [
        {"document": "a b/ü.txt", "start": start, "end": end, "verdict": "recall"},
        {"document": "a b/ü.txt", "start": 0, "end": 5, "verdict": "guess"},
    ]
    (run,) = log_of(rows)["runs"]
    (result,) = run["results"]
    assert result["ruleId"] == run["tool"]["driver"]["rules"][0]["id"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "a%20b/%C3%BC.txt"
    region = place["region"]
    assert (region["startLine"], region["startColumn"]) == (2, 3)  # an emoji is one column
    assert (region["endLine"], region["endColumn"]) == (3, 6)
    lines = TEXT.split("\n")
    assert lines[1][region["startColumn"] - 1 :].startswith("second")
    assert lines[2][: region["endColumn"] - 1] == "third"
    assert TEXT[region["charOffset"] :][: region["charLength"]] == TEXT[start:end]


def test_it_holds_what_the_standard_requires_and_nothing_it_does_not_know():
    row = {"document": "a b/ü.txt", "start": 0, "end": len(TEXT), "verdict": "recall"}
    log = log_of([row])
    (run,) = log["runs"]
    (result,), driver = run["results"], run["tool"]["driver"]
    physical = result["locations"][0]["physicalLocation"]
    region = physical["region"]
    rule = {"name", "shortDescription", "fullDescription", "help", "helpUri", "properties"}
    rule |= {"defaultConfiguration"}
    ends = {"startLine", "startColumn", "endLine", "endColumn", "charOffset", "charLength"}
    for found, required, known in [  # of OASIS' schema: names required, and all that are used here
        (log, {"version", "runs"}, {"$schema"}),
        (run, {"tool"}, {"columnKind", "results"}),
        (driver, {"name"}, {"version", "rules", "informationUri"}),
        (driver["rules"][0], {"id"}, rule),
        (driver["rules"][0]["help"], {"text"}, {"markdown"}),
        (result, {"message"}, {"ruleId", "level", "locations"}),
        (physical, set(), {"artifactLocation", "region"}),
        (region, set(), ends),
    ]:
        assert required <= set(found) <= required | known
    assert log["version"] == "2.1.0"
    assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
    assert result["level"] in ("none", "note", "warning", "error")
    assert min(region[one] for one in ("startLine", "startColumn", "endLine")) >= 1
    assert region["charOffset"] >= 0


UNPRINTABLE = 'a&b <c> "d" ]]> \x00\x1b\ud800\ufffe é😀'


def document(name, *, is_too_short=False, share=0.0):
    return {"document": name, "is_too_short": is_too_short, "recalled": {"share": share}}


def spans(*rows):
    schema = ["document", "start", "end", "verdict", "reason", "text"]
    return pl.DataFrame(list(rows), schema=schema, orient="row")


def test_documents_are_tests_and_recalled_passages_fail_them():
    record = {
        "model": {"name": "m"},
        "documents": [
            document("clean.txt"),
            document("guessed.txt"),
            document("recalled.txt", share=0.125),
            document("short.txt", is_too_short=True),
        ],
        "skipped": [{"document": "x.pdf", "reason": "encrypted"}],
    }
    frame = spans(
        ("guessed.txt", 0, 9, "guess", "it counts", "1 2 3"),
        ("recalled.txt", 5, 25, "recall", "nothing shows it", "the passage"),
        ("recalled.txt", 40, 60, "recall", "nothing shows it", "another"),
    )
    suite = ElementTree.fromstring(junit_xml(record, frame))
    assert suite.tag == "testsuite"
    counts = [suite.get(name) for name in ("tests", "failures", "skipped", "errors")]
    assert counts == ["5", "1", "2", "0"]
    assert [(case.get("name"), *(one.tag for one in case)) for case in suite] == [
        ("clean.txt",),
        ("guessed.txt",),
        ("recalled.txt", "failure"),
        ("short.txt", "skipped"),
        ("x.pdf", "skipped"),
    ]
    # what the schema that Jenkins reads by (junit-10.xsd) requires of a suite and of a case
    assert {"name", "tests", "failures", "errors"} <= set(suite.keys())
    assert {tuple(sorted(case.keys())) for case in suite} == {("classname", "name")}
    failure = suite.find("testcase[@name='recalled.txt']/failure")
    assert failure.get("message") == "2 passages, 12.5 % recalled"
    assert "characters 5 to 25: nothing shows it" in failure.text
    assert "another" in failure.text


def test_hostile_names_and_texts_are_read_back_by_a_parser():
    record = {
        "model": {"name": UNPRINTABLE},
        "documents": [document(UNPRINTABLE)],
        "skipped": [{"document": UNPRINTABLE, "reason": UNPRINTABLE}],
    }
    row = (UNPRINTABLE.replace("\ud800", ""), 0, 1, "recall", UNPRINTABLE[:9], "x")
    suite = ElementTree.fromstring(junit_xml(record, spans(row)).encode("utf-8"))
    shown = UNPRINTABLE.translate(dict.fromkeys([0x00, 0x1B, 0xD800, 0xFFFE], "\ufffd"))
    assert suite[0].get("name") == shown
    assert suite[1][0].get("message") == f"not read: {shown}"
