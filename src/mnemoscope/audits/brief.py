"""`report.html`: two sheets of A4 for readers who know nothing of language models.

It quotes the strongest passages, says in words what the figures are, and how to check them.
"""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from mnemoscope.audits.page import render, views_of
from mnemoscope.audits.passages import GROUNDS
from mnemoscope.audits.rule import RECALL

REPORT = "report.html"

_QUOTED = 3
_LONGEST, _MOST_LINES = 240, 5  # characters and lines of a quotation
_LINES_BEFORE = 2
_BEFORE = 110  # characters of what the model was shown
_DOCUMENTS = 6


def render_brief(
    record: Mapping[str, Any], spans: pl.DataFrame, tables: Mapping[str, pl.DataFrame]
) -> str:
    """Render the report from `audit.json`, `spans.parquet` and the tables beside it."""
    rows = [{"number": number, **row} for number, row in enumerate(spans.rows(named=True), 1)]
    recalled = sorted(
        (row for row in rows if row["verdict"] == RECALL),
        key=lambda row: (
            bool(row["reference_reproduces"]),
            -(-math.inf if row["extraction_logprob"] is None else row["extraction_logprob"]),
            row["number"],
        ),
    )
    origins = {name: one for name, one in tables.items() if name == "origins"}
    return render(
        "brief",
        record=record,
        whole=record["summary"],
        views={"origins": None} | views_of(origins, {}),
        recalled=recalled,
        quoted=[_quotation(row) for row in recalled[:_QUOTED]],
        has_third_ground=any(row[name] for row in rows for name in GROUNDS[1:]),
        n_also=sum(bool(row["reference_reproduces"]) for row in recalled),
        documents=record["documents"][:_DOCUMENTS],
        n_more=max(len(record["documents"]) - _DOCUMENTS, 0),
    )


def _quotation(row: dict[str, Any]) -> dict[str, Any]:
    """A passage with what was shown before it, both shortened."""
    begin = row["suffix_start"] - row["window_start"]
    shown = row["prefix_text"][:begin]
    text = "".join(row["continuation_pieces"])
    # Of few lines as well: three passages of many short ones would not fit on the two sheets.
    before = "\n".join(shown[-_BEFORE:].split("\n")[-_LINES_BEFORE:])
    quoted = "\n".join(text[:_LONGEST].split("\n")[:_MOST_LINES])
    return {
        **row,
        "shown": ("…" if len(before) < len(shown) else "") + before,
        "quoted": quoted + ("…" if len(quoted) < len(text) else ""),
    }
