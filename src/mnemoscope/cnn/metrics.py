"""From confusion matrices to precision, recall, F1 and min-F1, the paper's measure of alignment."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnemoscope.stats import Floats, Interval, interval_of

# From confusion matrices to precision, recall, F1 and min-F1, the paper's measure of alignment.

Counts = NDArray[np.int64]


class PrecisionRecall(NamedTuple):
    """Per class, fractions in [0, 1], float64 (..., classes)."""

    precision: Floats
    recall: Floats


@dataclass(frozen=True)
class Scores:
    """All figures of one confusion matrix; per class float64 (classes,), fractions in [0, 1]."""

    f1: Floats
    precision: Floats
    recall: Floats

    @property
    def min_f1(self) -> float:
        """Smallest F1: the headline."""
        return float(self.f1.min())

    @property
    def mean_f1(self) -> float:
        """Mean F1 over the classes."""
        return float(self.f1.mean())

    @property
    def min_precision(self) -> float:
        """Smallest precision."""
        return float(self.precision.min())

    @property
    def mean_precision(self) -> float:
        """Mean precision over the classes."""
        return float(self.precision.mean())

    @property
    def min_recall(self) -> float:
        """Smallest recall."""
        return float(self.recall.min())

    @property
    def mean_recall(self) -> float:
        """Mean recall over the classes: balanced accuracy."""
        return float(self.recall.mean())


def confusion_matrix(true: ArrayLike, predicted: ArrayLike, n_classes: int) -> Counts:
    """Count predictions by true class.

    Args:
        true: class indices, integer, any shape that broadcasts to `predicted`, so (n,) beside
            (runs, n) sums the matrices of all runs.
        predicted: class indices, integer.
        n_classes: number of classes.

    Returns:
        int64 (classes, classes); rows true, columns predicted.

    Raises:
        ValueError: an index outside [0, n_classes).

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    predictions = np.asarray(predicted, dtype=np.int64)
    truths = np.broadcast_to(np.asarray(true, dtype=np.int64), predictions.shape)
    for name, indices in (("true", truths), ("predicted", predictions)):
        if indices.size and (indices.min() < 0 or indices.max() >= n_classes):
            raise ValueError(f"{name} classes must lie in 0 to {n_classes - 1}")
    cells = np.bincount((truths * n_classes + predictions).ravel(), minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes).astype(np.int64)


def f1_per_class(confusion: ArrayLike) -> Floats:
    """F1 of every class.

    F1 of class c is 2·tp / (2·tp + fp + fn), a single division, so it needs no rule for
    undefined precision.

    Args:
        confusion: counts, (..., classes, classes); rows true, columns predicted.

    Returns:
        float64 (..., classes), fractions in [0, 1].

    Raises:
        ValueError: not square, negative, or a class without sequences (its F1 would be invented).

    Source: arXiv 2508.02573; the 54 published matrices give the published figures.

    >>> f1_per_class([[90, 10], [20, 80]]).round(4).tolist()
    [0.8571, 0.8421]
    """
    counts = _checked(confusion)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    f1: Floats = 2.0 * right / (counts.sum(axis=-1) + counts.sum(axis=-2))
    return f1


def min_f1(confusion: ArrayLike) -> float:
    """Smallest per-class F1: how well a taxonomy matches what attention does.

    Args:
        confusion: as for `f1_per_class`, one matrix.

    Returns:
        Fraction in [0, 1]; the published tables print percent.

    >>> round(min_f1([[90, 10], [20, 80]]), 4)
    0.8421
    """
    return float(f1_per_class(confusion).min())


def precision_recall(confusion: ArrayLike) -> PrecisionRecall:
    """Precision and recall of every class; precision of a class never predicted is 0.

    Args:
        confusion: as for `f1_per_class`, which says what is refused too.
    """
    counts = _checked(confusion)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    predicted = counts.sum(axis=-2)
    return PrecisionRecall(right / np.maximum(predicted, 1), right / counts.sum(axis=-1))


def scores(confusion: ArrayLike) -> Scores:
    """All figures of one confusion matrix; what is refused stands at `f1_per_class`."""
    return Scores(f1_per_class(confusion), *precision_recall(confusion))


def _checked(confusion: ArrayLike) -> NDArray[np.float64]:
    """Counts as floats, refused when they are no confusion matrix."""
    counts = np.asarray(confusion, dtype=np.float64)
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2]:
        raise ValueError(f"a confusion matrix is square, not of shape {counts.shape}")
    if (counts < 0).any():
        raise ValueError("a confusion matrix holds no negative counts")
    if (counts.sum(axis=-1) == 0).any():
        raise ValueError("a class without sequences has no F1")
    return counts


# Intervals by resampling evaluation sequences, and paired differences on the same sequences.

Figure = Callable[[Floats], Floats]
"""Turns confusion matrices (resamples, classes, classes) into one number each."""

_BLOCK_BYTES = 64 << 20


class Resamples(NamedTuple):
    """How often each sequence and each run counts in every resample.

    Attributes:
        sequences: int32 (resamples, n); in every row a class sums to its own size.
        runs: int32 (resamples, runs), every row summing to `runs`, or None: each counts once.
    """

    sequences: NDArray[np.int32]
    runs: NDArray[np.int32] | None


@dataclass(frozen=True)
class ScoreIntervals:
    """Intervals beside `Scores`; per class in the order of the classes."""

    f1: tuple[Interval, ...]
    precision: tuple[Interval, ...]
    recall: tuple[Interval, ...]
    min_f1: Interval
    mean_f1: Interval


@dataclass(frozen=True)
class Difference:
    """A figure of one set of predictions minus the same figure of another, with its interval."""

    value: float
    interval: Interval


def draw_resamples(
    true: ArrayLike, *, seed: int, n_resamples: int = 1000, n_runs: int | None = None
) -> Resamples:
    """Draw sequences with replacement within each class and, if asked, runs among themselves.

    Args:
        true: class of each sequence, (n,).
        seed: 0 or more; the same seed gives the same draws for the same classes.
        n_resamples: how many resamples.
        n_runs: draw among this many runs too; None keeps every run once.
    """
    classes = np.asarray(true, dtype=np.int64)
    generator = np.random.default_rng(seed)
    sequences = np.zeros((n_resamples, len(classes)), dtype=np.int32)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        sequences[:, members] = _draw(generator, len(members), n_resamples)
    runs = None if n_runs is None else _draw(generator, n_runs, n_resamples)
    return Resamples(sequences, runs)


def resample_confusions(
    predictions: ArrayLike, true: ArrayLike, n_classes: int, resamples: Resamples
) -> Floats:
    """Confusion matrices of every resample, summed over the runs it holds.

    Args:
        predictions: classes, (runs, n) or (n,) for a single run. A single run stands for all
            where the resamples draw among several: it has no seed that could vary.
        true: class of each sequence, (n,).
        n_classes: number of classes.
        resamples: drawn for the same `true`.

    Returns:
        float64 (resamples, classes, classes), whole numbers.

    Raises:
        ValueError: shapes that do not fit together.
    """
    predicted = np.atleast_2d(np.asarray(predictions, dtype=np.int64))
    classes = np.asarray(true, dtype=np.int64)
    run_weights = _run_weights(resamples, len(predicted))
    if predicted.shape[1:] != classes.shape or resamples.sequences.shape[1:] != classes.shape:
        raise ValueError(
            f"predictions {predicted.shape}, true {classes.shape} and resamples "
            f"{resamples.sequences.shape} differ in their number of sequences"
        )
    confusions = np.zeros((len(resamples.sequences), n_classes, n_classes))
    for label in range(n_classes):
        members = np.flatnonzero(classes == label)
        weights = resamples.sequences[:, members].astype(np.float64)
        confusions[:, label] = _row(predicted[:, members], n_classes, weights, run_weights)
    return confusions


def bootstrap_scores(
    predictions: ArrayLike,
    true: ArrayLike,
    *,
    n_classes: int,
    seed: int,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> ScoreIntervals:
    """Percentile intervals of every figure of the confusion matrix summed over all runs.

    They say how the figures of these CNNs would vary with other evaluation sequences; not how
    they vary with other CNNs.

    Args:
        predictions: classes, (runs, n): a run is one setting, seed and epoch.
        true: class of each sequence, (n,), every class at least once.
        n_classes: number of classes.
        seed: of the draws.
        n_resamples: 1,000 take well under a second for 500 sequences.
        level: share of resamples inside.

    Raises:
        ValueError: shapes that do not fit, or a class without sequences.
    """
    resamples = draw_resamples(true, seed=seed, n_resamples=n_resamples)
    confusions = resample_confusions(predictions, true, n_classes, resamples)
    f1 = f1_per_class(confusions)
    precision, recall = precision_recall(confusions)
    return ScoreIntervals(
        f1=_per_class(f1, level),
        precision=_per_class(precision, level),
        recall=_per_class(recall, level),
        min_f1=interval_of(f1.min(axis=-1), level),
        mean_f1=interval_of(f1.mean(axis=-1), level),
    )


def bootstrap_difference(
    first: ArrayLike,
    second: ArrayLike,
    true: ArrayLike,
    *,
    n_classes: int,
    seed: int,
    n_resamples: int = 1000,
    level: float = 0.95,
    figure: Figure | None = None,
) -> Difference:
    """Difference of a figure between two sets of predictions for the same sequences.

    Every resample draws the same sequences for both, and the same runs: run r of both was made
    with the same setting and seed. A set with a single run keeps it.

    Args:
        first: classes, (runs, n) or (n,).
        second: classes, the same number of runs, or one.
        true: class of each sequence, (n,), every class at least once.
        n_classes: number of classes.
        seed: of the draws.
        n_resamples: how many resamples.
        level: share of resamples inside.
        figure: what to compare; min-F1 unless given.

    Returns:
        Figure of `first` minus figure of `second` on the sequences as they are, and its interval.

    Raises:
        ValueError: shapes that do not fit, or a class without sequences.
    """
    figure = figure or min_f1_of_each
    pair = [np.atleast_2d(np.asarray(predictions)) for predictions in (first, second)]
    n_runs = max(len(predictions) for predictions in pair)
    drawn = draw_resamples(
        true, seed=seed, n_resamples=n_resamples, n_runs=n_runs if n_runs > 1 else None
    )
    as_it_is = Resamples(np.ones((1, len(np.asarray(true))), dtype=np.int32), None)
    values, differences = (
        np.subtract(*(figure(resample_confusions(p, true, n_classes, kind)) for p in pair))
        for kind in (as_it_is, drawn)
    )
    return Difference(float(values[0]), interval_of(differences, level))


def min_f1_of_each(confusions: Floats) -> Floats:
    """Min-F1 of every resample: (resamples, classes, classes) to (resamples,)."""
    smallest: Floats = f1_per_class(confusions).min(axis=-1)
    return smallest


def _draw(generator: np.random.Generator, n: int, n_resamples: int) -> NDArray[np.int32]:
    """How often each of n things is drawn in n draws, (resamples, n)."""
    return generator.multinomial(n, np.full(n, 1.0 / n), size=n_resamples).astype(np.int32)


def _run_weights(resamples: Resamples, n_runs: int) -> Floats:
    """Weight of each run in each resample, (resamples, runs)."""
    if resamples.runs is None or n_runs == 1:
        return np.ones((len(resamples.sequences), n_runs))
    if resamples.runs.shape[1] != n_runs:
        raise ValueError(f"{n_runs} runs, but resamples of {resamples.runs.shape[1]}")
    return resamples.runs.astype(np.float64)


def _row(
    predicted: NDArray[np.int64], n_classes: int, weights: Floats, run_weights: Floats
) -> Floats:
    """One row of every confusion matrix: (runs, members) to (resamples, classes).

    One-hot predictions times sequence weights, a block of runs at a time to bound memory.
    """
    row = np.zeros((len(weights), n_classes))
    a_run_bytes = 8 * n_classes * (predicted.shape[1] + len(weights))
    block = max(1, _BLOCK_BYTES // max(a_run_bytes, 1))
    for start in range(0, len(predicted), block):
        part = predicted[start : start + block]
        is_class = part.T[:, :, None] == np.arange(n_classes)  # members, runs, classes
        counts = weights @ is_class.reshape(len(is_class), len(part) * n_classes).astype(np.float64)
        by_run = counts.reshape(len(weights), len(part), n_classes)
        row += np.einsum("brc,br->bc", by_run, run_weights[:, start : start + block])
    return row


def _per_class(values: Floats, level: float) -> tuple[Interval, ...]:
    """Intervals of (resamples, classes), class by class."""
    return tuple(interval_of(column, level) for column in values.T)
