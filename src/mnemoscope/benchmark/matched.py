"""The most evaluation sequences on which the blind baseline sees no difference of classes.

What the CNN still tells apart there, the text (as the baseline reads it) does not. Cardinality
matching with fine balance (Zubizarreta, Paredes and Rosenbaum 2014, doi:10.1214/13-AOAS713):
the largest balanced choice with equally many of each class. Tuples of near scores would leave far
fewer with four classes. The standardized difference keeps the standard deviation from before
matching (Stuart 2010, doi:10.1214/09-STS313).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BALANCED = 0.1
"""Largest standardized difference that counts as balanced (the usual threshold)."""

MINIMUM = 20
"""Fewest sequences a class worth a figure: below, an interval spans some 0.4 of F1."""

_TOLERANCES = (0.05, 0.02, 0.0)
_CLIP = 0.001
_TINY = 1e-9


@dataclass(frozen=True)
class Match:
    """Which evaluation sequences are left, and how balanced they are."""

    # ascending positions of the sequences kept, equally many a class; empty where too few remain
    # or they are not balanced
    rows: np.ndarray
    n_per_class: int  # sequences a class that matching found, also where they are too few
    # largest standardized difference of any class's score between any two classes, all sequences;
    # infinite where a score separates two classes wholly
    difference_before: float
    # the same among the sequences that matching found; null where none
    difference_after: float | None
    reason: str | None  # why `rows` is empty, one sentence; null where it is not


def match_on_scores(
    probabilities: np.ndarray, labels: np.ndarray, *, minimum: int = MINIMUM
) -> Match:
    """Choose as many sequences of each class as have the same blind scores; deterministic.

    Scores are log-odds of out-of-sample probabilities (n, classes), clipped at 0.001. Any two
    classes get the same mean of each score (up to 0.05 standard deviations), equally many sequences
    in each third of each score, and equally many taken for each class. Found by linear programming;
    the few fractional sequences are rounded, so balance is measured on the choice and, where it is
    too far off, sought again with a smaller tolerance. `minimum` is per class. Raises ValueError:
    scores and labels differ in number, or a class has no sequence.
    """
    n_classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=n_classes)
    if len(probabilities) != len(labels) or len(counts) != n_classes or not counts.all():
        raise ValueError(
            f"matching: scores of {probabilities.shape}, {len(labels)} labels, "
            f"{counts.tolist()} of each class; wanted a score and a label a sequence"
        )
    clipped = np.clip(probabilities, _CLIP, 1 - _CLIP)
    scores = np.log(clipped / (1 - clipped))
    before = standardized_difference(scores, labels)
    constraints = _constraints(scores, probabilities.argmax(axis=1), labels)
    rows, after = np.empty(0, dtype=np.int64), None
    for tolerance in _TOLERANCES:
        rows = _choose(constraints, labels, tolerance)
        after = standardized_difference(scores, labels, rows) if len(rows) else None
        if after is None or after < BALANCED:
            break
    n_per_class, reason = len(rows) // n_classes, None
    if n_per_class < minimum:
        reason = (
            f"too few sequences look alike to the blind baseline: {n_per_class} a class, "
            f"{minimum} are needed"
        )
    elif after is None or after >= BALANCED:
        reason = f"no matching balances the blind scores (standardized difference {after:.2f})"
    kept = rows if reason is None else np.empty(0, dtype=np.int64)
    return Match(kept, n_per_class, before, after, reason)


def standardized_difference(
    scores: np.ndarray, labels: np.ndarray, rows: np.ndarray | None = None
) -> float:
    """Largest |mean_a - mean_b| / sqrt((variance_a + variance_b) / 2) over scores and class pairs.

    Variances are over all sequences also where only `rows` are compared, so that before and after
    are in one unit; infinite where means differ without any variance.
    """
    classes = np.unique(labels)
    variances = np.stack([scores[labels == c].var(axis=0) for c in classes])
    kept = np.arange(len(labels)) if rows is None else rows
    means = np.stack([scores[kept][labels[kept] == c].mean(axis=0) for c in classes])
    gap = np.abs(means[:, None] - means[None, :])
    scale = np.sqrt((variances[:, None] + variances[None, :]) / 2)
    in_units = np.divide(gap, scale, out=np.full_like(gap, np.inf), where=scale > _TINY)
    return float(np.where(gap > _TINY, in_units, 0.0).max())


class _Constraints(NamedTuple):
    """What a choice must fulfil; a column a sequence, the last one for the number a class."""

    equal: np.ndarray
    near: np.ndarray


def _constraints(scores: np.ndarray, predicted: np.ndarray, labels: np.ndarray) -> _Constraints:
    """Equal numbers a class, equal numbers a class in every group, near means of every score."""
    classes = np.unique(labels)
    is_class = (labels == classes[:, None]).astype(np.float64)
    deviation = np.sqrt(np.mean([scores[labels == c].var(axis=0) for c in classes], axis=0))
    scaled = (scores - scores.mean(axis=0)) / np.where(deviation > _TINY, deviation, 1.0)
    thirds = [_thirds(column) for column in scaled.T]
    groups = np.concatenate([*thirds, (predicted == classes[1:, None]).astype(np.float64)])
    against_first = is_class[1:] - is_class[0]
    same_number = np.column_stack([is_class, -np.ones(len(classes))])
    in_groups = (against_first[:, None] * groups[None]).reshape(-1, len(labels))
    pairs = [is_class[a] - is_class[b] for a in classes for b in classes if a != b]
    near = (np.stack(pairs)[:, None] * scaled.T[None]).reshape(-1, len(labels))
    equal = np.concatenate([same_number, np.pad(in_groups, ((0, 0), (0, 1)))])
    return _Constraints(equal, np.pad(near, ((0, 0), (0, 1))))


def _thirds(column: np.ndarray) -> np.ndarray:
    """Mark the lower and the middle third of a score, (2, n)."""
    third = np.searchsorted(np.quantile(column, [1 / 3, 2 / 3]), column, side="right")
    marks: np.ndarray = third == np.array([[0], [1]])
    return marks.astype(np.float64)


def _choose(constraints: _Constraints, labels: np.ndarray, tolerance: float) -> np.ndarray:
    """Find the largest choice by linear programming: ascending positions."""
    from scipy.optimize import linprog

    near = constraints.near.copy()
    near[:, -1] = -tolerance
    solution = linprog(
        np.append(np.zeros(len(labels)), -1.0),
        A_ub=near,
        b_ub=np.zeros(len(near)),
        A_eq=constraints.equal,
        b_eq=np.zeros(len(constraints.equal)),
        bounds=[(0, 1)] * len(labels) + [(0, len(labels))],
        method="highs-ds",
    )
    weights, n_per_class = solution.x[:-1], int(solution.x[-1] + 1e-6)
    chosen = [
        members[np.argsort(-weights[members], kind="stable")[:n_per_class]]
        for members in (np.flatnonzero(labels == c) for c in np.unique(labels))
    ]
    return np.sort(np.concatenate(chosen))
