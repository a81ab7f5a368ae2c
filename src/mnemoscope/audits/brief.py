"""`report.html`: two sheets of A4 for readers who know nothing of language models.

It quotes the first passages of audit.html, says in words what the figures are, and how to check
them.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.audits.exports import recalled_copies
from mnemoscope.audits.page import (
    Part,
    in_order,
    is_found,
    most_first,
    parts_of,
    passage_rows,
    quoted,
    render,
    strongest,
    view_of,
)
from mnemoscope.audits.passages import GROUNDS
from mnemoscope.audits.records import AuditRecord
from mnemoscope.audits.rule import RECALL, UNDECIDED

REPORT = "report.html"

_LONGEST, _MOST_LINES = 240, 4  # characters and lines of a quotation
_LINES_BEFORE = 2
_QUOTED = 2  # passages or else near copies, which fit on the two sheets
_BEFORE = 110  # characters of what stands before
_DOCUMENTS, _WHOLE = 20, 6
"""Documents that are listed, and up to how many have their whole checksums in a line below."""


def render_brief(
    record: AuditRecord, spans: pl.DataFrame, tables: Mapping[str, pl.DataFrame]
) -> str:
    """Render the report from `audit.json`, `spans.parquet` and the tables beside it."""
    rows = passage_rows(record, spans)
    recalled, undecided = (
        [row for row in in_order(rows) if row["verdict"] == one] for one in (RECALL, UNDECIDED)
    )
    documents = most_first(record["documents"])
    names = [one["document"] for one in documents]
    first = strongest([*_of_each_document(recalled, names), *undecided])
    near = sorted(recalled_copies(tables.get("near")).to_dicts(), key=lambda row: -row["matched"])
    origins = tables.get("origins")
    n_found = sum(is_found(one) for one in documents)
    return render(
        "brief",
        record=record,
        whole=record["summary"],
        views={"origins": view_of("origins", origins, {}) if origins is not None else None},
        rows=rows,
        recalled=recalled,
        undecided=undecided,
        near=[
            {**row, "begins": [*_begins(row["pieces"])]}
            for row in near[: max(_QUOTED - len(first), 0)]
        ],
        n_near=len(near),
        has_chances=any(row["extraction_logprob"] is not None for row in first),
        quoted=[{**row, **_shortened(row)._asdict()} for row in first],
        has_third_ground=any(row[name] for row in rows for name in GROUNDS[1:]),
        documents=documents[:_DOCUMENTS],
        is_short=len(documents) > _WHOLE,
        n_more=max(len(documents) - _DOCUMENTS, 0),
        n_more_found=max(n_found - _DOCUMENTS, 0),
    )


def _of_each_document(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[Mapping[str, Any]]:
    """The first passage of each document, in the order of their names, then the others."""
    ranked = [next((row for row in rows if row["document"] == name), None) for name in names]
    first = [row for row in ranked if row is not None]
    numbers = {row["number"] for row in first}
    return [*first, *(row for row in rows if row["number"] not in numbers)]


class Quotation(NamedTuple):
    """The end of the text before a passage, and how it begins.

    `left_out` counts the places that the model wrote otherwise and that stand in the rest of it.
    """

    before: str
    quoted: list[Part]
    left_out: int


def _shortened(row: Mapping[str, Any]) -> Quotation:
    before = "".join(one.text for one in takewhile(lambda one: not one.is_passage, quoted(row)))
    # Of few lines as well: three passages of many short ones would not fit on the two sheets.
    end = "\n".join(before[-_BEFORE:].split("\n")[-_LINES_BEFORE:])
    # As far as the window that is right, where what other windows brought out after it is not.
    wrong = [one["start"] for one in row["otherwise"] if one["start"] >= row["window_end"]]
    most = min([_LONGEST, *(at - row["start"] for at in wrong if row["score"] == 1)])
    text = "\n".join(row["text"][:most].split("\n")[:_MOST_LINES]).rstrip()
    parts = [*parts_of(row, end=row["start"] + len(text))]
    more = [Part(" …", None)] if len(text) < len(row["text"].rstrip()) else []
    reached = row["start"] + len(text)
    left_out = sum(one["end"] > reached for one in row["otherwise"] if one["written"])
    return Quotation(("…" if len(end) < len(before) else "") + end, parts + more, left_out)


def _begins(pieces: Sequence[Mapping[str, str]]) -> Iterator[Mapping[str, str]]:
    """The first pieces of a near copy, as far as a quotation goes."""
    left = _LONGEST
    for one in pieces:
        if left > 0:
            yield {**one, "text": one["text"][:left] + " …" * (len(one["text"]) > left)}
        left -= len(one["text"])
