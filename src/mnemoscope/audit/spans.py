"""Merge hits into spans of one document, cut where their verdicts change, grown at the end."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.audit.rule import GUESS, RECALL, Ruling
from mnemoscope.audit.scan import Growth


class Hit(NamedTuple):
    """One window whose suffix the model reproduces, or nearly.

    Attributes:
        first: token of the document at which the window starts.
        common: tokens of the longest common prefix of suffix and continuation.
        score: share of matching tokens.
        continuation: what the model wrote, token ids.
        covered: tokens of the document from the first to the last that match, end excluded.
        ruling: Guess or Recall by the rule.
    """

    first: int
    common: int
    score: float
    continuation: list[int]
    covered: tuple[int, int]
    ruling: Ruling


class Span(NamedTuple):
    """Tokens of one document that the model reproduces, all of one verdict.

    Attributes:
        first: first token.
        last: after the last token.
        verdict: ``guess`` or ``recall``.
        hit: the window that speaks for it: of its verdict, the one that covers most of it, then
            the best score.
        n_hits: windows that cover a part of it.
        verbatim_length: tokens in a row that the model writes from one of its prefixes; 0 where
            all it writes is copied from the prompt.
        is_copied: it is copied from the prompt.
    """

    first: int
    last: int
    verdict: str
    hit: Hit
    n_hits: int
    verbatim_length: int
    is_copied: bool


def places_to_grow(hits: Sequence[Hit], n_tokens: int) -> list[int]:
    """Starts of the windows to grow: in each stretch of hits the first and last without mistake.

    Args:
        hits: of one document, in order of `first`.
        n_tokens: of the document.
    """
    found: set[int] = set()
    for first, last, _ in _runs(_verdicts(hits, {}, n_tokens, cut=False)):
        inside = [
            hit.first
            for hit in hits
            if hit.score == 1 and first <= hit.covered[0] and hit.covered[1] <= last
        ]
        found.update(inside[:1] + inside[-1:])
    return sorted(found)


def find_spans(hits: Sequence[Hit], grown: dict[int, Growth], n_tokens: int) -> list[Span]:
    """Give the spans of one document in order; no two overlap.

    A token takes the verdict of most of the hits that cover it; where they are even, Guess, so
    that nothing is called recalled on half the evidence.

    Args:
        hits: windows in order of `first`.
        grown: for starts of `places_to_grow` how far the model goes on.
        n_tokens: of the document.
    """
    runs = _runs(_verdicts(hits, grown, n_tokens, cut=True))
    return [
        _span(first, last, (GUESS, RECALL)[kind - 1], hits, grown) for first, last, kind in runs
    ]


def _verdicts(
    hits: Sequence[Hit], grown: dict[int, Growth], n_tokens: int, *, cut: bool
) -> npt.NDArray[np.int8]:
    """For each token 0 (no hit), 1 (guess) or 2 (recall); without `cut` 1 for both."""
    votes = np.zeros((2, n_tokens), dtype=np.int32)
    for hit in hits:
        first, last = hit.covered
        growth = grown.get(hit.first)
        if growth is not None and not growth.is_copied:
            # A grown window starts right at its first token, so what it gives has no gap.
            last = max(last, first + growth.n_tokens)
        votes[int(hit.ruling.verdict == RECALL), first:last] += 1
    is_hit = votes.any(axis=0)
    verdict = np.where(votes[1] > votes[0], 2, 1) if cut else np.ones(n_tokens)
    return np.where(is_hit, verdict, 0).astype(np.int8)


def _runs(verdicts: npt.NDArray[np.int8]) -> list[tuple[int, int, int]]:
    """Stretches of one verdict that is not 0: first, after the last, verdict."""
    edges = np.flatnonzero(np.diff(verdicts, prepend=0, append=0))
    return [
        (int(first), int(last), int(verdicts[first]))
        for first, last in pairwise(edges)
        if verdicts[first]
    ]


def _span(
    first: int, last: int, verdict: str, hits: Sequence[Hit], grown: dict[int, Growth]
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
