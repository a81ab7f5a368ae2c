"""Evaluation sequences of all classes that look alike to the blind baseline.

On these the text no longer tells the classes apart, so what the CNN still tells is not owed to
the text (as far as the blind baseline reads it). Matching on scores: Rosenbaum and Rubin 1983;
caliper of 0.2 standard deviations of the log-odds: Austin 2011, doi:10.1002/pst.433; the
standardized difference keeps the standard deviation from before matching: Stuart 2010.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

__all__ = ["BALANCED", "MINIMUM", "Match", "match_on_scores", "standardized_difference"]

BALANCED = 0.1
"""Largest standardized difference that counts as balanced (the usual threshold)."""

MINIMUM = 20
"""Fewest sequences a class worth a figure: below, an interval spans some 0.4 of F1."""

_CALIPERS = (0.2, 0.1, 0.05, 0.025)
_CLIP = 0.001
_OUT_OF_REACH = 1e6


@dataclass(frozen=True)
class Match:
    """Which evaluation sequences are left, and how balanced they are.

    Attributes:
        rows: ascending positions of the sequences kept, equally many a class; empty where too
            few remain or no caliper balances them.
        n_per_class: sequences kept of each class.
        difference_before: largest standardized difference of any class's score between any two
            classes, all sequences; infinite where a score separates two classes wholly.
        difference_after: the same among the sequences that matching would keep; null where
            there is none.
        reason: why `rows` is empty, one sentence; null where it is not.
    """

    rows: np.ndarray
    n_per_class: int
    difference_before: float
    difference_after: float | None
    reason: str | None


def match_on_scores(
    probabilities: np.ndarray, labels: np.ndarray, *, minimum: int = MINIMUM
) -> Match:
    """Choose equally many sequences of each class with the same blind scores.

    Scores are the log-odds of the class probabilities, clipped at 0.001. Sequences of the
    classes are joined in tuples, none of whose scores differs from the first one's by more than
    the caliper: as many tuples as an optimal assignment, class after class, finds. The caliper
    is halved until the largest standardized difference is below `BALANCED`.

    Args:
        probabilities: of the blind baseline for sequences it was not trained on, shape
            (n, classes).
        labels: class index of each sequence, shape (n,); every class occurs.
        minimum: fewest sequences a class.

    Returns:
        The sequences and their balance before and after. Deterministic.

    Raises:
        ValueError: scores and labels differ in number, or a class has no sequence.
    """
    n_classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=n_classes)
    if len(probabilities) != len(labels) or len(counts) != n_classes or not counts.all():
        raise ValueError(
            f"matching: scores of {probabilities.shape}, {len(labels)} labels, "
            f"{counts.tolist()} of each class; wanted a score and a label a sequence"
        )
    clipped = np.clip(probabilities, _CLIP, 1 - _CLIP)
    log_odds = np.log(clipped / (1 - clipped))
    before = standardized_difference(log_odds, labels)
    scaled = log_odds / _within_class_deviation(log_odds, labels)
    rows, after = np.empty(0, dtype=np.int64), None
    for caliper in _CALIPERS:
        tuples = _longest([_tuples(scaled, labels, first, caliper) for first in range(n_classes)])
        if len(tuples) == 0:
            break
        rows = np.sort(tuples.ravel())
        after = standardized_difference(log_odds, labels, rows)
        if after < BALANCED or len(tuples) < minimum:
            break
    return _conclude(rows, len(rows) // n_classes, before, after, minimum)


def standardized_difference(
    scores: np.ndarray, labels: np.ndarray, rows: np.ndarray | None = None
) -> float:
    """Largest standardized difference of any score between any two classes.

    |mean_a - mean_b| / sqrt((variance_a + variance_b) / 2); variances over all sequences also
    where only `rows` are compared, so that before and after are in one unit.

    Args:
        scores: shape (n, columns).
        labels: class index of each, shape (n,).
        rows: positions to compare the means of; all where null.

    Returns:
        0 where all means agree; infinite where means differ without any variance.
    """
    classes = np.unique(labels)
    variances = np.stack([scores[labels == c].var(axis=0) for c in classes])
    kept = np.arange(len(labels)) if rows is None else rows
    means = np.stack([scores[kept][labels[kept] == c].mean(axis=0) for c in classes])
    gap = np.abs(means[:, None] - means[None, :])
    scale = np.sqrt((variances[:, None] + variances[None, :]) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(gap > 1e-12, gap / scale, 0.0).max())


def _within_class_deviation(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Standard deviation of each column around its class mean; 1 where it does not vary."""
    residual = scores.copy()
    for c in np.unique(labels):
        residual[labels == c] -= scores[labels == c].mean(axis=0)
    deviation = residual.std(axis=0)
    return np.asarray(np.where(deviation > 1e-12, deviation, 1.0))


def _tuples(scores: np.ndarray, labels: np.ndarray, first: int, caliper: float) -> np.ndarray:
    """Join sequences of class `first` with one of every other class each: (tuples, classes)."""
    tuples = np.flatnonzero(labels == first)[:, None]
    for other in np.unique(labels[labels != first]):
        candidates = np.flatnonzero(labels == other)
        distance = cdist(scores[tuples[:, 0]], scores[candidates], metric="chebyshev")
        distance[distance > caliper] = _OUT_OF_REACH
        row, column = linear_sum_assignment(distance)
        near = distance[row, column] <= caliper
        tuples = np.column_stack([tuples[row[near]], candidates[column[near]]])
    return tuples


def _longest(choices: list[np.ndarray]) -> np.ndarray:
    """The largest set of tuples; the earliest of equals."""
    return max(choices, key=len)


def _conclude(
    rows: np.ndarray, n_per_class: int, before: float, after: float | None, minimum: int
) -> Match:
    """Refuse what is too small or unbalanced, with the reason."""
    reason = None
    if n_per_class < minimum:
        reason = (
            f"too few sequences look alike to the blind baseline: {n_per_class} a class, "
            f"{minimum} are needed"
        )
    elif after is None or after >= BALANCED:
        reason = f"no matching balances the blind scores (standardized difference {after:.2f})"
    kept = rows if reason is None else np.empty(0, dtype=np.int64)
    return Match(kept, n_per_class, before, after, reason)
