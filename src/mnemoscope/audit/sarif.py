"""The recalled passages as SARIF 2.1.0, which code hosts and editors show beside the lines."""

from bisect import bisect_right
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import polars as pl

from mnemoscope import __version__
from mnemoscope.audit.rule import RECALL

__all__ = ["sarif_log"]

_RULE = {
    "id": "recalled-passage",
    "shortDescription": {"text": "The model repeats this passage, and its prompt did not show it."},
    "defaultConfiguration": {"level": "warning"},
}


def sarif_log(frame: pl.DataFrame, texts: Mapping[str, str]) -> dict[str, Any]:
    """Make a SARIF log of the spans called recall; guesses are no finding.

    Args:
        frame: the table of spans.
        texts: every document's text by its name.

    Returns:
        Plain values, one run. Lines and columns count from 1, columns in characters
        (`unicodeCodePoints`); line ends are those of the text.

    Source: OASIS, Static Analysis Results Interchange Format 2.1.0.
    """
    lines = {name: _line_starts(text) for name, text in texts.items()}
    rows = frame.filter(pl.col("verdict") == RECALL).iter_rows(named=True)
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {"name": "mnemoscope", "version": __version__, "rules": [_RULE]}
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(row, lines[row["document"]]) for row in rows],
            }
        ],
    }


def _result(row: Mapping[str, Any], lines: list[int]) -> dict[str, Any]:
    start_line, start_column = _place(row["start"], lines)
    end_line, end_column = _place(row["end"], lines)
    return {
        "ruleId": _RULE["id"],
        "level": "warning",
        "message": {"text": f"Recalled, {row['tokens']} tokens: {row['reason']}."},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(row["document"])},
                    "region": {
                        "startLine": start_line,
                        "startColumn": start_column,
                        "endLine": end_line,
                        "endColumn": end_column,
                        "charOffset": row["start"],
                        "charLength": row["end"] - row["start"],
                    },
                }
            }
        ],
    }


def _line_starts(text: str) -> list[int]:
    """First character of every line."""
    return [0, *(place + 1 for place, character in enumerate(text) if character == "\n")]


def _place(character: int, lines: list[int]) -> tuple[int, int]:
    """Line and column of a character, both from 1."""
    line = bisect_right(lines, character)
    return line, character - lines[line - 1] + 1


def _uri(name: str) -> str:
    """A document's name as a URI; of a table's row the table with the row as its fragment."""
    path = PurePosixPath(name)
    return path.as_uri() if path.is_absolute() else quote(name, safe="/#")
