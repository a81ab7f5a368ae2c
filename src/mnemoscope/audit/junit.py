"""An audit as JUnit XML, which build servers show as tests: a document is a test case."""

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import polars as pl

from mnemoscope.audit.rule import RECALL

__all__ = ["junit_xml"]

_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write."""


def junit_xml(record: Mapping[str, Any], frame: pl.DataFrame) -> str:
    """Make a JUnit report: a document fails where a passage of it is called recall.

    Args:
        record: what `audit.json` holds.
        frame: the table of spans.

    Returns:
        XML 1.0; every text is escaped, and characters that XML forbids are written as U+FFFD.
        Documents that were too short or not read are skipped tests.
    """
    recalled = frame.filter(pl.col("verdict") == RECALL)
    failing = set(recalled["document"])
    n_skipped = sum(row["is_too_short"] for row in record["documents"]) + len(record["skipped"])
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(f"mnemoscope audit of {record['model']['name']}"),
        tests=str(len(record["documents"]) + len(record["skipped"])),
        failures=str(len(failing)),
        errors="0",
        skipped=str(n_skipped),
    )
    for row in record["documents"]:
        case = _case(suite, row["document"])
        rows = recalled.filter(pl.col("document") == row["document"])
        if row["is_too_short"]:
            ElementTree.SubElement(case, "skipped", message="shorter than one window")
        elif rows.height:
            share = f"{100 * row['recalled']['share']:.1f} % recalled"
            failure = ElementTree.SubElement(
                case, "failure", type="recalled-passage", message=f"{rows.height} passages, {share}"
            )
            failure.text = _clean("\n".join(_line(one) for one in rows.iter_rows(named=True)))
    for row in record["skipped"]:
        ElementTree.SubElement(
            _case(suite, row["document"]), "skipped", message=_clean(f"not read: {row['reason']}")
        )
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(
        suite, encoding="unicode"
    )


def _case(suite: ElementTree.Element, document: str) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite, "testcase", classname="mnemoscope.audit", name=_clean(document)
    )


def _line(row: Mapping[str, Any]) -> str:
    return f"characters {row['start']} to {row['end']}: {row['reason']}\n    {row['text']!r}"


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
