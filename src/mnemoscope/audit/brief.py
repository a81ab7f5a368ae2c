"""An audit on two pages, for readers who know nothing of language models: `report.html`.

It quotes the strongest passages, says in words what the figures are, and how to check them. It
opens offline, runs no script and prints on two sheets of A4.
"""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from mnemoscope.audit.origins import places_by_span
from mnemoscope.audit.page import render
from mnemoscope.audit.rule import RECALL

REPORT_FILE = "report.html"

_QUOTED = 3
_LONGEST = 240  # characters of a quotation
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
    return render(
        "brief",
        record=record,
        whole=record["summary"],
        quoted=[_quotation(row) for row in recalled[:_QUOTED]],
        n_recalled=len(recalled),
        n_alone=sum(row["reference_reproduces"] is False for row in recalled),
        documents=record["documents"][:_DOCUMENTS],
        n_more=max(len(record["documents"]) - _DOCUMENTS, 0),
        origins=places_by_span(tables["origins"]) if "origins" in tables else None,
        n_placed=sum(bool(row["origin_count"]) for row in recalled),
    )


def _quotation(row: dict[str, Any]) -> dict[str, Any]:
    """A passage with what was shown before it, both shortened."""
    begin = row["suffix_start"] - row["window_start"]
    shown = row["prefix_text"][:begin]
    text = "".join(row["continuation_pieces"])
    return {
        **row,
        "shown": ("…" if len(shown) > _BEFORE else "") + shown[-_BEFORE:],
        "quoted": text[:_LONGEST] + ("…" if len(text) > _LONGEST else ""),
    }
