"""The JUnit report: a parser reads it, documents fail for recalled passages, texts are escaped."""

from xml.etree import ElementTree

import polars as pl

from mnemoscope.audit.page import junit_xml

HOSTILE = 'a&b <c> "d" ]]> \x00\x1b\ud800\ufffe é😀'


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
    counts = {name: suite.get(name) for name in ("tests", "failures", "skipped", "errors")}
    assert counts == {"tests": "5", "failures": "1", "skipped": "2", "errors": "0"}
    children = {case.get("name"): [one.tag for one in case] for case in suite}
    assert children == {
        "clean.txt": [],
        "guessed.txt": [],
        "recalled.txt": ["failure"],
        "short.txt": ["skipped"],
        "x.pdf": ["skipped"],
    }
    # what the schema that Jenkins reads by (junit-10.xsd) requires of a suite and of a case
    assert {"name", "tests", "failures", "errors"} <= set(suite.keys())
    assert {tuple(sorted(case.keys())) for case in suite} == {("classname", "name")}
    failure = suite.find("testcase[@name='recalled.txt']/failure")
    assert failure.get("message") == "2 passages, 12.5 % recalled"
    assert "characters 5 to 25: nothing shows it" in failure.text
    assert "another" in failure.text


def test_hostile_names_and_texts_are_read_back_by_a_parser():
    record = {
        "model": {"name": HOSTILE},
        "documents": [document(HOSTILE)],
        "skipped": [{"document": HOSTILE, "reason": HOSTILE}],
    }
    text = junit_xml(
        record, spans((HOSTILE.replace("\ud800", ""), 0, 1, "recall", HOSTILE[:9], "x"))
    )
    suite = ElementTree.fromstring(text.encode("utf-8"))
    shown = HOSTILE.translate(dict.fromkeys([0x00, 0x1B, 0xD800, 0xFFFE], "\ufffd"))
    assert suite[0].get("name") == shown
    assert suite[1][0].get("message") == f"not read: {shown}"
