"""Pairwise AUC: how well each two classes are told apart, whatever becomes of the others.

Min-F1 is floored by the class told apart worst and then ranks nothing; the area under the ROC
curve of p_a / (p_a + p_b) on the sequences of two classes a and b speaks of these two alone, and
needs no threshold. Averaged over the trainings; 0.5 is what guessing gives.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnemoscope.benchmark.votes import Votes
from mnemoscope.cnn.intervals import Interval, Resamples, draw_resamples, interval_of

__all__ = [
    "PairwiseAuc",
    "auc_of_each",
    "auc_pairs",
    "bootstrap_auc",
    "mean_auc",
    "measures_auc",
    "pair_names",
]

Floats = NDArray[np.float64]


class PairwiseAuc(NamedTuple):
    """AUC of every pair of classes, in the order of `auc_pairs`, with 95 % intervals."""

    values: tuple[float, ...]
    intervals: tuple[Interval, ...]


def auc_pairs(n_classes: int) -> list[tuple[int, int]]:
    """Give the pairs of classes in their fixed order.

    >>> auc_pairs(3)
    [(0, 1), (0, 2), (1, 2)]
    """
    return list(combinations(range(n_classes), 2))


def pair_names(classes: Sequence[str]) -> list[str]:
    """Name the pairs in the order of `auc_pairs`.

    >>> pair_names(["Non-Memo", "Guess", "Recall"])
    ['Non-Memo | Guess', 'Non-Memo | Recall', 'Guess | Recall']
    """
    return [f"{classes[a]} | {classes[b]}" for a, b in auc_pairs(len(classes))]


def auc_of_each(votes: Votes, pair: tuple[int, int], sequences: NDArray[np.int32]) -> Floats:
    """AUC of two classes for every training and resample.

    A tie counts half; where neither class was given any probability the ratio is 0.5.

    Args:
        votes: of one source, with the probabilities of each training.
        pair: the two classes' indices.
        sequences: how often each sequence counts in each resample, (resamples, n); both classes
            keep their sizes, as `draw_resamples` draws them.

    Returns:
        Fractions, shape (trainings, resamples).

    Raises:
        ValueError: no probabilities were kept.
    """
    if votes.scores is None:
        raise ValueError("pairwise AUC: no class probabilities were kept")
    first, second = (np.flatnonzero(votes.true == label) for label in pair)
    one, other = (votes.scores[..., label].astype(np.float64) for label in pair)
    total = one + other
    ratios = np.divide(one, total, out=np.full_like(total, 0.5), where=total > 0)
    above, below = (sequences[:, rows].astype(np.float64) for rows in (first, second))
    n_pairs = above.sum(axis=1) * below.sum(axis=1)
    areas = [_area(ratio[first], ratio[second], above, below) for ratio in ratios]
    shares: Floats = np.stack(areas) / n_pairs
    return shares


def bootstrap_auc(votes: Votes, *, seed: int, n_resamples: int) -> PairwiseAuc | None:
    """AUC of every pair with percentile intervals over evaluation sequences.

    Args:
        votes: of one source.
        seed: of the draws; the same seed draws the same sequences as for the other figures.
        n_resamples: how many.

    Returns:
        None where no class probabilities were kept.
    """
    if votes.scores is None:
        return None
    once = np.ones((1, len(votes.true)), dtype=np.int32)
    drawn = draw_resamples(votes.true, seed=seed, n_resamples=n_resamples).sequences
    values, intervals = [], []
    for pair in auc_pairs(votes.n_classes):
        values.append(float(auc_of_each(votes, pair, once).mean()))
        intervals.append(interval_of(auc_of_each(votes, pair, drawn).mean(axis=0)))
    return PairwiseAuc(tuple(values), tuple(intervals))


def mean_auc(votes: Votes, pair: tuple[int, int], resamples: Resamples) -> Floats:
    """AUC of two classes in each resample, averaged over the trainings that it holds.

    Args:
        votes: of one source.
        pair: the two classes' indices.
        resamples: of sequences and of the source's trainings (None: each once).

    Returns:
        Fractions, shape (resamples,).
    """
    each = auc_of_each(votes, pair, resamples.sequences)
    if resamples.runs is None:
        mean: Floats = each.mean(axis=0)
        return mean
    weights = resamples.runs.T / resamples.runs.sum(axis=1)
    weighted: Floats = (each * weights).sum(axis=0)
    return weighted


def measures_auc(sources: Mapping[str, Votes]) -> bool:
    """Say whether every source kept the probabilities of its trainings."""
    return all(votes.scores is not None for votes in sources.values())


def _area(above: Floats, below: Floats, weights: Floats, counterweights: Floats) -> Floats:
    """Weighted number of pairs in the right order, ties half, for every resample.

    Args:
        above: scores of the class that should score higher, (m,).
        below: scores of the other, (k,).
        weights: how often each of the former counts, (resamples, m).
        counterweights: of the latter, (resamples, k).
    """
    order = np.argsort(below, kind="stable")
    passed = np.zeros((len(weights), len(below) + 1))
    np.cumsum(counterweights[:, order], axis=1, out=passed[:, 1:])
    ranked = below[order]
    lower, upper = (np.searchsorted(ranked, above, side=side) for side in ("left", "right"))
    area: Floats = np.einsum("rm,rm->r", weights, passed[:, lower])
    area += np.einsum("rm,rm->r", weights, passed[:, upper])
    return area / 2
