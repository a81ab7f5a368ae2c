"""Turn continued windows into spans, their table and its sums: what both ways of an audit share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.audit.growth import Growth
from mnemoscope.audit.records import SpanEvidence, span_frame, span_row
from mnemoscope.audit.rule import rule_windows
from mnemoscope.audit.scan import coarse_starts, cut
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.spans import Hit, Span, find_spans, places_to_grow
from mnemoscope.audit.summary import overall, summarize
from mnemoscope.audit.texts import Document, Reading
from mnemoscope.audit.tokens import Tokens, character_range

__all__ = ["find_hits", "frame_of", "grown_spans", "summaries"]


def find_hits(
    tokenizer: Any, tokens: Sequence[Tokens], windows: pl.DataFrame, settings: AuditSettings
) -> dict[int, list[Hit]]:
    """The hits of each document that has any, in order, each judged by the rule.

    Args:
        tokenizer: gives the text of the tokens.
        tokens: of every document.
        windows: columns `scan.SCHEMA`.
        settings: of the audit.
    """
    rows = windows.filter(pl.col("continuation").is_not_null())
    places = list(rows.select("document", "first").iter_rows())
    ids = cut(tokens, places, settings.length)
    rulings = rule_windows(tokenizer, ids, prefix=settings.prefix, patterns=settings.patterns)
    found: dict[int, list[Hit]] = {}
    for row, window, ruling in zip(rows.iter_rows(named=True), ids, rulings, strict=True):
        is_right = np.flatnonzero(window[settings.prefix :] == row["continuation"])
        begin = row["first"] + settings.prefix
        covered = (begin + int(is_right[0]), begin + int(is_right[-1]) + 1)
        hit = Hit(row["first"], row["common"], row["score"], row["continuation"], covered, ruling)
        found.setdefault(row["document"], []).append(hit)
    return found


def grown_spans(
    tokens: Sequence[Tokens],
    hits: Mapping[int, list[Hit]],
    grow_at: Callable[[list[tuple[int, int]]], list[Growth]],
) -> list[tuple[int, Span]]:
    """The spans of every document, in order, each with the number of its document.

    Args:
        tokens: of every document.
        hits: from `find_hits`.
        grow_at: how far the model goes on from places (number of the document, first token).
    """
    places = [
        (number, first)
        for number, found in hits.items()
        for first in places_to_grow(found, len(tokens[number].ids))
    ]
    grown = dict(zip(places, grow_at(places), strict=True))
    spans: list[tuple[int, Span]] = []
    for number, found in hits.items():
        mine = {first: growth for (owner, first), growth in grown.items() if owner == number}
        spans += [(number, span) for span in find_spans(found, mine, len(tokens[number].ids))]
    return spans


def frame_of(
    documents: Sequence[Document],
    tokens: Sequence[Tokens],
    spans: Sequence[tuple[int, Span]],
    evidence: Sequence[SpanEvidence],
    settings: AuditSettings,
) -> pl.DataFrame:
    """The table of spans with what was asked about each; columns `records.SPAN_COLUMNS`."""
    return span_frame(
        [
            span_row(
                span,
                one,
                document=documents[number].name,
                text=documents[number].text,
                places=_span_places(tokens[number], span, settings),
                threshold=settings.threshold,
            )
            for (number, span), one in zip(spans, evidence, strict=True)
        ]
    )


def summaries(
    reading: Reading,
    tokens: Sequence[Tokens],
    windows: pl.DataFrame,
    frame: pl.DataFrame,
    settings: AuditSettings,
) -> dict[str, Any]:
    """Documents with their shares, what was passed over, and the whole."""
    rows = []
    for number, (document, own) in enumerate(zip(reading.documents, tokens, strict=True)):
        spans = frame.filter(pl.col("document") == document.name)
        row = summarize(
            document.name,
            n_characters=len(document.text),
            n_tokens=len(own.ids),
            n_windows=windows.filter(pl.col("document") == number).height,
            suffix=settings.suffix,
            spans=spans.select("start", "end", "verdict").rows(),
        )
        text_file = f"texts/{number + 1:05d}.txt" if document.is_extracted else None
        row |= {
            "sha256": document.sha256,
            "text_file": text_file,
            "is_too_short": not coarse_starts(len(own.ids), settings),
        }
        rows.append(row)
    skipped = [{"document": one.name, "reason": one.reason} for one in reading.skipped]
    return {"documents": rows, "skipped": skipped, "summary": overall(rows)}


def _span_places(tokens: Tokens, span: Span, settings: AuditSettings) -> dict[str, int]:
    """Characters of a span and of the window that speaks for it."""
    start, end = character_range(tokens, span.first, span.last)
    first, last = span.hit.first, span.hit.first + settings.length
    window_start, window_end = character_range(tokens, first, last)
    return {
        "start": start,
        "end": end,
        "window_start": window_start,
        "suffix_start": int(tokens.starts[first + settings.prefix]),
        "window_end": window_end,
    }
