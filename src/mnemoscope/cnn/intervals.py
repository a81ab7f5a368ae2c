"""Intervals by resampling evaluation sequences, and paired differences on the same sequences.

A sequence carries all its predictions (settings, seeds, epochs) with it: they are the same
sequence again, and counting them as independent makes intervals far too narrow. Sequences are
drawn within their class: the design fixes how many each class has, and no class can vanish.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnemoscope.cnn.metrics import Floats, f1_per_class, precision_recall

__all__ = [
    "Difference",
    "Interval",
    "Resamples",
    "ScoreIntervals",
    "bootstrap_difference",
    "bootstrap_scores",
    "draw_resamples",
    "interval_of",
    "min_f1_of_each",
    "resample_confusions",
]

Figure = Callable[[Floats], Floats]
"""Turns confusion matrices (resamples, classes, classes) into one number each."""

_BLOCK_BYTES = 64 << 20


class Interval(NamedTuple):
    """Ends of a percentile interval, in the unit of the figure."""

    low: float
    high: float


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


def interval_of(values: ArrayLike, level: float = 0.95) -> Interval:
    """Percentile interval of a figure's values over the resamples, (resamples,)."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [tail, 1.0 - tail])
    return Interval(float(low), float(high))


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
