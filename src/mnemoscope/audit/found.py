"""Turn continued windows into spans, their table and its sums: what both ways of an audit share."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import ge, gt
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.audit.documents import Document, Reading, Tokens, character_range
from mnemoscope.audit.evidence import SpanEvidence, span_frame, span_row
from mnemoscope.audit.rule import GUESS, RECALL, rule_windows
from mnemoscope.audit.scan import Growth, coarse_starts, cut
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.spans import Hit, Span, find_spans, places_to_grow
from mnemoscope.errors import UserError, nearest

# How much of a document the model reproduces, guesses and recalls, with intervals; the gate.

_CONFIDENCE = 0.95
_GATE = re.compile(r"\s*(\w+)\s*(>=|>)\s*(\d+(?:\.\d+)?)\s*(%?)\s*")
_KINDS = ("reproduced", "guessed", "recalled")
_COMPARE: dict[str, Callable[[float, float], bool]] = {">": gt, ">=": ge}


class Gate(NamedTuple):
    """A condition under which an audit fails, such as `recalled > 0.5%`."""

    text: str
    kind: str
    sign: str
    share: float

    def is_failed(self, summary: dict[str, Any]) -> bool:
        """True when the whole audit's share is beyond the limit."""
        return _COMPARE[self.sign](summary[self.kind]["share"], self.share)


def parse_gate(text: str) -> Gate:
    """Read a condition.

    Args:
        text: `reproduced`, `guessed` or `recalled`; `>` or `>=`; a percentage or a fraction.

    Raises:
        UserError: anything else.

    >>> parse_gate("recalled > 0.5%").share
    0.005
    """
    match = _GATE.fullmatch(text)
    if match is None or match[1] not in _KINDS:
        hint = nearest(match[1], _KINDS) if match else ""
        raise UserError(
            f"--fail-if '{text}': not understood.{hint} Write for example 'recalled > 0.5%' "
            "(reproduced, guessed or recalled; > or >=; percent or a fraction)."
        )
    limit = float(match[3]) / (100 if match[4] else 1)
    if limit > 1 or (limit == 1 and match[2] == ">"):  # a gate that lets everything through
        hint = "" if match[4] else f" Did you mean {match[3]}%?"
        raise UserError(f"--fail-if '{text}': more than the whole text.{hint}")
    return Gate(text.strip(), match[1], match[2], limit)


def summarize(
    name: str,
    *,
    n_characters: int,
    n_tokens: int,
    n_windows: int,
    suffix: int,
    spans: Iterable[tuple[int, int, str]],
) -> dict[str, Any]:
    """Count one document.

    Args:
        name: of the document.
        n_characters: of its text.
        n_tokens: of its text.
        n_windows: windows that were continued; 0: it is shorter than one.
        suffix: tokens of a window's suffix: one independent observation of the intervals.
        spans: start, end (characters) and verdict; none overlap but in a character that two
            tokens share.

    Returns:
        Plain values: counts, and for each of reproduced, guessed, recalled its characters, share
        and interval.
    """
    counts = {GUESS: 0, RECALL: 0}
    n_spans = dict.fromkeys(counts, 0)
    seen = 0
    for start, end, verdict in spans:
        counts[verdict] += max(end - max(start, seen), 0)
        n_spans[verdict] += 1
        seen = max(seen, end)
    head = {
        "document": name,
        "characters": n_characters,
        "tokens": n_tokens,
        "windows": n_windows,
        "blocks": n_tokens // suffix,
        "guess_spans": n_spans[GUESS],
        "recall_spans": n_spans[RECALL],
    }
    return head | _shares(counts[GUESS], counts[RECALL], n_characters, n_tokens // suffix)


def overall(documents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Add up what `summarize` gave."""
    rows = list(documents)
    names = ("characters", "tokens", "windows", "blocks", "guess_spans", "recall_spans")
    total: dict[str, Any] = {name: sum(row[name] for row in rows) for name in names}
    guessed, recalled = (
        sum(row[kind]["characters"] for row in rows) for kind in ("guessed", "recalled")
    )
    shares = _shares(guessed, recalled, total["characters"], total["blocks"])
    return {"documents": len(rows), **total, **shares}


def share(part: int, whole: int, n_blocks: int) -> dict[str, Any]:
    """A share of characters with its interval.

    The interval is Clopper and Pearson's at 95 %, as if each stretch of one suffix's length were
    one observation of texts like these: neighbouring characters are no independent ones. So a
    share of 0 keeps an upper bound.

    Args:
        part: characters.
        whole: characters of the text.
        n_blocks: stretches.
    """
    from scipy.stats import beta  # most of a second, and not every caller counts

    value = part / whole if whole else 0.0
    low, high = 0.0, 1.0
    tail, n_yes = (1 - _CONFIDENCE) / 2, value * n_blocks
    if n_blocks and value > 0:
        low = float(beta.ppf(tail, n_yes, n_blocks - n_yes + 1))
    if n_blocks and value < 1:
        high = float(beta.ppf(1 - tail, n_yes + 1, n_blocks - n_yes))
    return {"characters": part, "share": value, "low": low, "high": high}


def _shares(guessed: int, recalled: int, whole: int, n_blocks: int) -> dict[str, Any]:
    amounts = (guessed + recalled, guessed, recalled)
    return {
        kind: share(amount, whole, n_blocks) for kind, amount in zip(_KINDS, amounts, strict=True)
    }


# Turn continued windows into spans, their table and its sums: what both ways of an audit share.


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
