"""From windows to passages: where documents are asked, which windows are hits, what they join to.

Every stride-th window is asked, then every window around a find. Hits that touch become a span;
it is cut where their verdicts change, and grows at its end as far as the model goes on. A place
is a window: the number of its document and its first token.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.audits.rule import GUESS, RECALL, Ruling, rule_windows
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.tokens import Place, Text, cut

WINDOW_COLUMNS = pl.Schema(
    {
        "document": pl.Int64(),
        "first": pl.Int64(),
        "common": pl.Int32(),
        "score": pl.Float64(),
        "continuation": pl.List(pl.Int32),
        "pieces": pl.List(pl.String),
    }
)
"""Continued windows: place, tokens of the longest common prefix, share of right tokens (null where
the window was left early), and of a hit what the model wrote, as ids and, where ids do not say all,
as text (else null)."""


class Extension(NamedTuple):
    """Tokens of the document that the model writes on from one prefix, without a mistake.

    `is_copied`: they, or how they begin, stand in the prefix already.
    """

    n_tokens: int
    is_copied: bool


class Hit(NamedTuple):
    """One window whose suffix the model reproduces, or nearly."""

    first: int  # token of the document at which the window starts
    common: int  # tokens of the longest common prefix of suffix and continuation
    score: float  # share of matching tokens
    continuation: list[int]  # what the model wrote, token ids
    pieces: list[str] | None  # the same as text, where ids do not say it
    # Tokens of the document from the first to the last that match, end excluded.
    covered: tuple[int, int]
    ruling: Ruling  # Guess or Recall by the rule
    wrong: Mapping[int, "Piece"] = {}  # of these tokens those that it writes otherwise, and how


class Span(NamedTuple):
    """Tokens `first` up to and without `last` of one document, reproduced, all of one verdict."""

    first: int
    last: int
    verdict: str
    # The window that speaks for it: of its verdict, the one that covers most of it, then the best
    # score.
    hit: Hit
    n_hits: int  # windows that cover a part of it
    # Tokens in a row that the model writes from one of its prefixes; 0 where all it writes is
    # copied from the prompt.
    verbatim_length: int
    is_copied: bool  # it is copied from the prompt
    otherwise: tuple["Otherwise", ...] = ()


class Piece(NamedTuple):
    """A token that was written: its id and, where that does not say it, its text."""

    id: int
    text: str | None


class Otherwise(NamedTuple):
    """Tokens `first` up to and without `last` that no window has right, and what one wrote."""

    first: int
    last: int
    written: list[Piece]


def coarse_starts(n_tokens: int, settings: AuditSettings) -> list[int]:
    """Every stride-th start, and the last one, so that the end of a document is asked about too.

    >>> coarse_starts(75, AuditSettings())
    [0, 8, 11]
    """
    last = n_tokens - settings.length
    return sorted({*range(0, last + 1, settings.stride), last}) if last >= 0 else []


def fine_starts(coarse: pl.DataFrame, n_tokens: int, settings: AuditSettings) -> list[int]:
    """Starts between coarse windows that are worth a look: beside one that begins right."""
    rows = coarse.select("first", "common", "score").sort("first").rows()
    enough = min(settings.refine_from, settings.suffix)
    is_hit = {first for first, _, score in rows if counts_as_hit(score, settings)}
    found: set[int] = set()
    for (left, left_common, _), (right, right_common, _) in pairwise(rows):
        n_hits = (left in is_hit) + (right in is_hit)
        if n_hits == 1 or (not n_hits and max(left_common, right_common) >= enough):
            found.update(range(left + 1, right))
    return sorted(one for one in found if one + settings.length <= n_tokens)


def counts_as_hit(score: float | None, settings: AuditSettings) -> bool:
    """Whether so large a share of right tokens makes a window a hit; None: it was left early."""
    return score is not None and score >= 1 - settings.n_allowed / settings.suffix - 1e-9


def spans_of(
    tokenizer: Any,
    texts: Sequence[Text],
    windows: pl.DataFrame,
    settings: AuditSettings,
    extend: Callable[[list[Place]], list[Extension]],
) -> list[tuple[int, Span]]:
    """The spans of every document, in order, each with the number of its document.

    `windows` has the columns `WINDOW_COLUMNS`; `extend` says how far the model goes on from places.
    """
    hits = _find_hits(tokenizer, texts, windows, settings)
    places = [
        (number, first)
        for number, found in hits.items()
        for first in places_to_grow(found, len(texts[number].tokens.ids))
    ]
    grown: dict[int, dict[int, Extension]] = {number: {} for number in hits}
    for (number, first), growth in zip(places, extend(places), strict=True):
        grown[number][first] = growth
    return [
        (number, span)
        for number, found in hits.items()
        for span in find_spans(found, grown[number], len(texts[number].tokens.ids))
    ]


def _find_hits(
    tokenizer: Any, texts: Sequence[Text], windows: pl.DataFrame, settings: AuditSettings
) -> dict[int, list[Hit]]:
    """The hits of each document that has any, in order, each judged by the rule."""
    rows = windows.filter(pl.col("continuation").is_not_null())
    ids = cut(texts, rows.select("document", "first").iter_rows(), settings.length)
    rulings = rule_windows(tokenizer, ids, prefix=settings.prefix, patterns=settings.patterns)
    found: dict[int, list[Hit]] = {}
    for row, window, ruling in zip(rows.iter_rows(named=True), ids, rulings, strict=True):
        begin = row["first"] + settings.prefix
        suffix = window[settings.prefix :]
        covered = covered_by(begin, suffix, row["continuation"])
        written = row["continuation"], row["pieces"]
        pieces = map(Piece, row["continuation"], row["pieces"] or [None] * len(suffix))
        wrong = {
            at: one
            for at, wanted, one in zip(range(begin, covered[1]), suffix, pieces, strict=False)
            if one.id != wanted and at >= covered[0]
        }
        hit = Hit(row["first"], row["common"], row["score"], *written, covered, ruling, wrong)
        found.setdefault(row["document"], []).append(hit)
    return found


def covered_by(
    begin: int, suffix: npt.NDArray[np.int32], continuation: Sequence[int]
) -> tuple[int, int]:
    """Tokens of a document from the first to the last right one of a suffix that begins there."""
    is_right = np.flatnonzero(suffix == continuation)
    return begin + int(is_right[0]), begin + int(is_right[-1]) + 1


def places_to_grow(hits: Sequence[Hit], n_tokens: int) -> list[int]:
    """Starts of the windows to grow: in each stretch of hits the first and last without mistake."""
    found: set[int] = set()
    for first, last, _ in _runs(_verdicts(hits, {}, n_tokens, cut=False)):
        inside = [
            hit.first
            for hit in hits
            if hit.score == 1 and first <= hit.covered[0] and hit.covered[1] <= last
        ]
        found.update(inside[:1] + inside[-1:])
    return sorted(found)


def find_spans(hits: Sequence[Hit], grown: Mapping[int, Extension], n_tokens: int) -> list[Span]:
    """The spans of one document in order, from hits in theirs; no two overlap.

    A token takes the verdict of most of the hits that cover it; where they are even, Guess, so
    that nothing is called recalled on half the evidence. `grown` says for starts of
    `places_to_grow` how far the model goes on.
    """
    is_written = _written(hits, grown, n_tokens)
    return [
        _span(first, last, (GUESS, RECALL)[kind - 1], hits, grown)._replace(
            otherwise=tuple(_otherwise(first, last, hits, is_written))
        )
        for first, last, kind in _runs(_verdicts(hits, grown, n_tokens, cut=True))
    ]


def _reach(hit: Hit, grown: Mapping[int, Extension]) -> tuple[int, int]:
    """Tokens that a hit covers: from the first right one to the last, or as far as it grows."""
    first, last = hit.covered
    growth = grown.get(hit.first)
    if growth is not None and not growth.is_copied:
        # A grown window starts right at its first token, so what it gives has no gap.
        last = max(last, first + growth.n_tokens)
    return first, last


def _written(
    hits: Sequence[Hit], grown: Mapping[int, Extension], n_tokens: int
) -> npt.NDArray[np.bool_]:
    """Which tokens of a document any hit has right, (n_tokens,)."""
    found = np.zeros(n_tokens, dtype=np.bool_)
    for hit in hits:
        first, last = _reach(hit, grown)
        is_right = np.ones(last - first, dtype=np.bool_)
        is_right[[at - first for at in hit.wrong]] = False
        found[first:last] |= is_right
    return found


def _otherwise(
    first: int, last: int, hits: Sequence[Hit], is_written: npt.NDArray[np.bool_]
) -> Iterator[Otherwise]:
    """The runs of a span that no window has right, with what the best of them wrote there."""
    for begin, end, _ in _runs((~is_written[first:last]).astype(np.int8)):
        places = range(first + begin, first + end)
        best = max(hits, key=lambda hit: (sum(at in hit.wrong for at in places), hit.score))
        written = [best.wrong[at] for at in places if at in best.wrong]
        yield Otherwise(places.start, places.stop, written)


def _verdicts(
    hits: Sequence[Hit], grown: Mapping[int, Extension], n_tokens: int, *, cut: bool
) -> npt.NDArray[np.int8]:
    """For each token 0 (no hit), 1 (guess) or 2 (recall); without `cut` 1 for both."""
    votes = np.zeros((2, n_tokens), dtype=np.int32)
    for hit in hits:
        first, last = _reach(hit, grown)
        votes[int(hit.ruling.verdict == RECALL), first:last] += 1
    verdict = np.where(votes[1] > votes[0], 2, 1) if cut else np.ones(n_tokens)
    return np.where(votes.any(axis=0), verdict, 0).astype(np.int8)


def _runs(verdicts: npt.NDArray[np.int8]) -> list[tuple[int, int, int]]:
    """Stretches of one verdict that is not 0: first, after the last, verdict."""
    edges = np.flatnonzero(np.diff(verdicts, prepend=0, append=0))
    return [
        (int(first), int(last), int(verdicts[first]))
        for first, last in pairwise(edges)
        if verdicts[first]
    ]


def _span(
    first: int, last: int, verdict: str, hits: Sequence[Hit], grown: Mapping[int, Extension]
) -> Span:
    def overlap(hit: Hit) -> int:
        return min(last, hit.covered[1]) - max(first, hit.covered[0])

    # A piece that growth alone reached has no window over it: the nearest one speaks for it.
    inside = [hit for hit in hits if overlap(hit) > 0]
    speaking = [hit for hit in inside if hit.ruling.verdict == verdict]
    agreeing = speaking or [hit for hit in hits if hit.ruling.verdict == verdict]
    best = max(agreeing, key=lambda hit: (overlap(hit), hit.score, -hit.first))
    lengths = [grown[hit.first] for hit in inside if hit.first in grown]
    honest = [one.n_tokens for one in lengths if not one.is_copied]
    is_copied = bool(lengths) and not honest
    length = 0 if is_copied else max([*honest, *(hit.common for hit in inside)], default=0)
    return Span(first, last, verdict, best, len(inside), length, is_copied)
