"""What an audit is to other programs: SARIF for editors and code hosts, JUnit for builds."""

import re
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import polars as pl

from mnemoscope.audits.gate import Gate, Judged
from mnemoscope.audits.passages import right_of
from mnemoscope.audits.records import Record
from mnemoscope.audits.rule import RECALL
from mnemoscope.audits.verdict import LEARNED, error_rate
from mnemoscope.data.formats import table_ending
from mnemoscope.data.hub import parse_hub_name
from mnemoscope.version import __version__
from mnemoscope.words import plural

_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write."""
_SOURCE = "https://arxiv.org/abs/2508.02573"
_HELP = (
    "Shown the text before this passage, the model writes the passage (by default at least 29 of "
    "every 32 tokens right, each in its place). The verdict "
    "recall says that it does not follow from that text: no pattern goes on, and few of its tokens "
    "stand there already. That is evidence that the model learned these words, from this text or "
    "another that holds them.",
    "Was the model meant to be trained on this document? If not, find where the training data "
    "got it. If the passage is a common one, such as a licence, compare with a model that cannot "
    "have seen the document. audit.html shows the evidence of each passage, token by "
    "token; mnemoscope audit verify FOLDER repeats it.",
)
_RULE = {
    "id": "recalled-passage",
    "name": "RecalledPassage",
    "shortDescription": {"text": "The model repeats this passage, and its prompt did not show it."},
    "fullDescription": {"text": _HELP[0]},
    "help": {
        "text": "\n\n".join(_HELP),
        "markdown": f"{_HELP[0]}\n\n**What to do.** {_HELP[1]}",
    },
    "helpUri": _SOURCE,
    "defaultConfiguration": {"level": "warning"},
    "properties": {"tags": ["memorization", "language-models"]},
}


def sarif_log(record: Record, frame: pl.DataFrame, texts: Mapping[str, str]) -> dict[str, Any]:
    """Make a SARIF log of the spans called recall; guesses are no finding.

    Lines and columns count from 1, columns in characters; line ends are those of the text.

    Source: OASIS, Static Analysis Results Interchange Format 2.1.0.
    """
    lines = {
        name: [0, *(place + 1 for place, character in enumerate(text) if character == "\n")]
        for name, text in texts.items()
    }
    rows = frame.filter(pl.col("verdict") == RECALL).iter_rows(named=True)
    copies = {row["document"]: row["text_file"] for row in record["documents"]}
    driver = {
        "name": "mnemoscope",
        "version": __version__,
        "informationUri": _SOURCE,
        "rules": [_RULE],
    }
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "properties": about(record),
                "results": [
                    {
                        "ruleId": _RULE["id"],
                        "level": "warning",
                        "message": {"text": f"{_message(row, copies.get(row['document']))}."},
                        "locations": [{"physicalLocation": _location(row, lines)}],
                        "properties": _tokens(row),
                    }
                    for row in rows
                ],
            }
        ],
    }


def about(record: Record) -> dict[str, str]:
    """What an audit is, and what it says, in a few lines."""
    facts = {"case": record["case"], "operator": record["operator"], "date": record["date"]}
    verdict = record["verdict"]
    said = {"verdict": verdict["sentence"], "error rate": error_rate(verdict)}
    return {name: one for name, one in {**facts, **said}.items() if one is not None}


def _tokens(row: Mapping[str, Any]) -> dict[str, str]:
    """How many tokens of its window model and reference wrote, and what the tests say."""
    said = {"model writes": right_of(row), "reference writes": right_of(row, "reference_score")}
    return {name: f"{one} tokens" for name, one in said.items() if one}


def _message(row: Mapping[str, Any], copy: str | None) -> str:
    """What is said of a passage; `copy` is the file whose lines are meant, if no text itself."""
    where = f" (lines of {copy})" if copy else ""
    found = f"{plural(row['end'] - row['start'], 'character')}{where}"
    return f"Recalled, {found}: {LEARNED}; {row['reason']}"


def _location(
    row: Mapping[str, Any], lines: Mapping[str, list[int]]
) -> dict[str, dict[str, str] | dict[str, int]]:
    region = {"charOffset": row["start"], "charLength": row["end"] - row["start"]}
    for end in ("start", "end"):
        begins = lines[row["document"]]
        line = bisect_right(begins, row[end])
        region |= {f"{end}Line": line, f"{end}Column": row[end] - begins[line - 1] + 1}
    return {"artifactLocation": {"uri": _address(row["document"])}, "region": region}


def _address(document: str) -> str:
    """The URI of a document; a row of a table is the table, with the row as its fragment."""
    source, _, row = document.rpartition("#")
    is_row = row.isdecimal() and (table_ending(Path(source)) or parse_hub_name(source))
    name, fragment = (source, f"#{row}") if is_row else (document, "")
    path = PurePosixPath(name)
    return (path.as_uri() if path.is_absolute() else quote(name)) + fragment


def junit_xml(record: Record, frame: pl.DataFrame, judged: Judged | None) -> str:
    """Make a JUnit report that fails where the condition of a gate does.

    Each document is a test, which fails if a condition on each document holds of it; a condition on
    all documents is a test of its own. The passages called recall stand in the output of a test.

    Documents that were too short or not read are skipped tests. Characters that XML 1.0 forbids
    are written as U+FFFD.
    """
    frame = frame if judged is None else judged.counted
    recalled = frame.filter(pl.col("verdict") == RECALL)
    of_all = judged is not None and not judged.gate.in_each
    n_failed = 0 if judged is None else int(judged.is_failed) if of_all else len(judged.failing)
    n_skipped = sum(row["is_too_short"] for row in record["documents"]) + len(record["skipped"])
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(f"mnemoscope audit of {record['model']['name']}"),
        tests=str(of_all + len(record["documents"]) + len(record["skipped"])),
        failures=str(n_failed),
        errors="0",
        skipped=str(n_skipped),
    )

    properties = ElementTree.SubElement(suite, "properties")
    for name, value in about(record).items():
        ElementTree.SubElement(properties, "property", name=name, value=_clean(value))

    def case(name: str) -> ElementTree.Element:
        return ElementTree.SubElement(
            suite, "testcase", classname="mnemoscope.audits", name=_clean(name)
        )

    def fail(own: ElementTree.Element, gate: Gate, said: str) -> None:
        message = _clean(f"{gate.text}: {said}")
        ElementTree.SubElement(own, "failure", type=gate.kind, message=message)

    if judged is not None and of_all:
        own = case(judged.gate.text)
        if judged.is_failed:
            fail(own, judged.gate, judged.said)
    for row in record["documents"]:
        own = case(row["document"])
        rows = recalled.filter(pl.col("document") == row["document"])
        if row["is_too_short"]:
            ElementTree.SubElement(own, "skipped", message="shorter than one window")
        if judged is not None and row["document"] in judged.failing:
            said = f"{judged.failing[row['document']]}, {judged.gate.allowed}"
            fail(own, judged.gate, said)
        if rows.height:
            lines = [f"{plural(rows.height, 'recalled passage')}: {LEARNED}"]
            lines += (
                f"characters {one['start']} to {one['end']}: {one['reason']}\n    {one['text']!r}"
                for one in rows.iter_rows(named=True)
            )
            ElementTree.SubElement(own, "system-out").text = _clean("\n".join(lines))
    for one in record["skipped"]:
        message = _clean(f"not read: {one['reason']}")
        ElementTree.SubElement(case(one["document"]), "skipped", message=message)
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
