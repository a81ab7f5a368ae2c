"""`report.html`: two or three sheets of A4 for readers who know nothing of language models.

It quotes the first passages of audit.html, says in words what the figures are, and how to check
them; the last sheet lists the other passages.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.audits.exports import Lines, address_of, lines_of, recalled_copies, recalled_lines
from mnemoscope.audits.page import (
    Part,
    parts_of,
    passage_rows,
    quoted,
    render,
    strongest,
    view_of,
)
from mnemoscope.audits.passages import GROUNDS, accused, in_order, of_each_document
from mnemoscope.audits.records import (
    LISTED,
    AuditRecord,
    Sarif,
    listed_documents,
    most_first,
)
from mnemoscope.audits.rule import RECALL, UNDECIDED
from mnemoscope.words import first_words, from_word, lines_said, lines_words

REPORT = "report.html"

_LONGEST, _MOST_LINES = 240, 4  # characters and lines of a quotation
_LINES_BEFORE = 2
_QUOTED = 2  # passages or else near copies, which fit on the two sheets
_BEFORE = 110  # characters of what stands before
_WHOLE = 6  # documents, all of which have a row, with their whole checksums in a line below
_LISTED, _FEWEST = 24, 12
"""Passages of the list at the end, which fit on a sheet; beside many documents fewer of them."""
_WORDS = 32  # characters of each


def render_brief(
    record: AuditRecord,
    spans: pl.DataFrame,
    tables: Mapping[str, pl.DataFrame],
    log: Sarif | None = None,
) -> str:
    """Render the report from `audit.json`, `spans.parquet` and the tables beside it.

    `log` is the audit's SARIF, which has the lines of what is recalled.
    """
    places = {} if log is None else lines_of(log)
    at_lines = {} if log is None else recalled_lines(log)
    rows = passage_rows(record, spans)
    recalled, undecided = (
        [row for row in in_order(rows) if row["verdict"] == one] for one in (RECALL, UNDECIDED)
    )
    documents = most_first(record["documents"])
    names = [one["document"] for one in documents]
    if is_short := len(documents) > _WHOLE:
        documents = listed_documents(record) or documents
    listed = [*of_each_document(recalled, names), *of_each_document(undecided, names)]
    first = strongest(listed)
    is_quoted = "unread" in tables and "redacted" not in record
    room = max(_LISTED - max(len(documents) - _FEWEST, 0) // 2, _FEWEST)
    near = sorted(recalled_copies(tables.get("near")).to_dicts(), key=lambda row: -row["matched"])
    origins = tables.get("origins")
    return render(
        "brief",
        record=record,
        whole=record["summary"],
        views={"origins": view_of("origins", origins, {}) if origins is not None else None},
        rows=rows,
        accused=accused(tables["unread"])[:_QUOTED] if is_quoted else [],
        recalled=recalled,
        undecided=undecided,
        near=[
            {**row, "begins": [*_begins(row["pieces"])], "lines": _lines_of(row, places)}
            for row in near[: max(_QUOTED - len(first), 0)]
        ],
        n_near=len(near),
        has_chances=any(row["extraction_logprob"] is not None for row in first),
        quoted=[
            {**row, **_shortened(row)._asdict(), "lines": _lines_of(row, places)} for row in first
        ],
        listed=[
            {**row, "begins": _begins_at(row), "lines": _lines_of(row, places)}
            for row in listed[: room if len(listed) > len(first) else 0]
        ],
        has_third_ground=any(row[name] for row in rows for name in GROUNDS[1:]),
        documents=[
            {**one, "lines": _recalled_on(at_lines, one["document"])} for one in documents[:LISTED]
        ],
        is_short=is_short,
        n_more=max(len(documents) - LISTED, 0),
    )


def _lines_of(row: Mapping[str, Any], places: Mapping[str, Sequence[Lines]]) -> str:
    """The lines of a passage, behind its characters; empty where the log has none."""
    own = (one for one in places.get(address_of(row["document"]), ()) if one.start == row["start"])
    found = next(own, None)
    return "" if found is None else f" ({lines_words(found.first, found.last)})"


def _recalled_on(at_lines: Mapping[str, Sequence[tuple[int, int]]], document: str) -> str:
    ranges = at_lines.get(address_of(document))
    return lines_said(ranges) if ranges else ""


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
    is_cut = row["window_start"] > 0 or len(end) < len(before)
    return Quotation(("…" if is_cut else "") + end, parts + more, left_out)


def _begins_at(row: Mapping[str, Any]) -> str:
    """How a passage begins, from its first whole word on."""
    return first_words(from_word(row["text"]) if row["start"] else row["text"], _WORDS)


def _begins(pieces: Sequence[Mapping[str, str]]) -> Iterator[Mapping[str, str]]:
    """The first pieces of a near copy, as far as a quotation goes."""
    left = _LONGEST
    for one in pieces:
        if left > 0:
            yield {**one, "text": one["text"][:left] + " …" * (len(one["text"]) > left)}
        left -= len(one["text"])
