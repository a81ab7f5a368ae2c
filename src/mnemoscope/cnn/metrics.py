"""From confusion matrices to precision, recall, F1 and min-F1, the paper's measure of alignment."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnemoscope.stats import Estimate, Floats, draw_within, estimate_of

Counts = NDArray[np.int64]

_BLOCK_BYTES = 64 << 20


class PrecisionRecall(NamedTuple):
    """Per class, fractions in [0, 1], float64 (..., classes)."""

    precision: Floats
    recall: Floats


class ScoreEstimates(NamedTuple):
    """Every figure of a confusion matrix with its interval; classes in their order."""

    min_f1: Estimate
    mean_f1: Estimate
    f1: tuple[Estimate, ...]
    precision: tuple[Estimate, ...]
    recall: tuple[Estimate, ...]


def confusion_matrix(true: ArrayLike, predicted: ArrayLike, n_classes: int) -> Counts:
    """Count predictions by class: int64 (classes, classes), rows true, columns predicted.

    `true` broadcasts to `predicted`, so (n,) beside (runs, n) sums the matrices of all runs. Raises
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
    """F1 of every class, in [0, 1], of counts (..., true classes, predicted classes).

    F1 of class c is 2·tp / (2·tp + fp + fn), a single division, so it needs no rule for undefined
    precision. Raises ValueError: not square, negative, or a class without sequences (its F1 would
    be invented). Source: arXiv 2508.02573; the 54 published matrices give the published figures.

    >>> f1_per_class([[90, 10], [20, 80]]).round(4).tolist()
    [0.8571, 0.8421]
    """
    counts = _checked(confusion)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    f1: Floats = 2.0 * right / (counts.sum(axis=-1) + counts.sum(axis=-2))
    return f1


def min_f1(confusion: ArrayLike) -> float:
    """Smallest per-class F1, in [0, 1]: how well a taxonomy matches what attention does.

    >>> round(min_f1([[90, 10], [20, 80]]), 4)
    0.8421
    """
    return float(f1_per_class(confusion).min())


def precision_recall(confusion: ArrayLike) -> PrecisionRecall:
    """Precision and recall of every class, as `f1_per_class`; 0 for a class never predicted."""
    counts = _checked(confusion)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    predicted = counts.sum(axis=-2)
    return PrecisionRecall(right / np.maximum(predicted, 1), right / counts.sum(axis=-1))


def _checked(confusion: ArrayLike) -> Floats:
    counts = np.asarray(confusion, dtype=np.float64)
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2]:
        raise ValueError(f"a confusion matrix is square, not of shape {counts.shape}")
    if (counts < 0).any():
        raise ValueError("a confusion matrix holds no negative counts")
    if (counts.sum(axis=-1) == 0).any():
        raise ValueError("a class without sequences has no F1")
    return counts


def estimate_scores(
    predictions: ArrayLike,
    true: ArrayLike,
    *,
    n_classes: int,
    seed: int,
    n_resamples: int = 1000,
    groups: ArrayLike | None = None,
) -> ScoreEstimates:
    """Every figure of the confusion matrix summed over all runs, with percentile intervals.

    Predictions are (runs, n), a run being one setting, seed and epoch. Intervals say how the
    figures vary with other evaluation sequences, drawn as `stats.draw_within` does; not with other
    CNNs. Raises ValueError: shapes that do not fit, or a class without sequences.
    """
    sequences = draw_within(true, np.random.default_rng(seed), n_resamples, groups=groups)
    whole = confusion_matrix(true, predictions, n_classes)[None]
    drawn = resample_confusions(predictions, true, n_classes, sequences)
    f1, drawn_f1 = f1_per_class(whole), f1_per_class(drawn)
    pairs = zip(precision_recall(whole), precision_recall(drawn), strict=True)
    precision, recall = (_estimates(*pair) for pair in pairs)
    return ScoreEstimates(
        estimate_of(float(f1.min()), drawn_f1.min(axis=-1)),
        estimate_of(float(f1.mean()), drawn_f1.mean(axis=-1)),
        _estimates(f1, drawn_f1),
        precision,
        recall,
    )


def _estimates(values: Floats, draws: Floats) -> tuple[Estimate, ...]:
    """Column by column: figures (1, n) and those of the resamples (resamples, n)."""
    return tuple(
        estimate_of(value, column)
        for value, column in zip(values[0].tolist(), draws.T, strict=True)
    )


def resample_confusions(
    predictions: ArrayLike,
    true: ArrayLike,
    n_classes: int,
    sequences: NDArray[np.integer],
    runs: NDArray[np.integer] | None = None,
) -> Floats:
    """Every resample's confusion matrix over all its runs: float64 (resamples, classes, classes).

    Each class is scaled to the size that the design gave it, which differs where groups were drawn.
    Predictions are (runs, n), or (n,) of a single run, which stands for all where the resamples
    draw among several; `sequences` (resamples, n) and `runs` (resamples, runs; None: each once) say
    how often each counts. Raises ValueError: shapes that do not fit together.
    """
    predicted = np.atleast_2d(np.asarray(predictions, dtype=np.int64))
    classes = np.asarray(true, dtype=np.int64)
    if predicted.shape[1:] != classes.shape or sequences.shape[1:] != classes.shape:
        raise ValueError(
            f"predictions {predicted.shape}, true {classes.shape} and resamples "
            f"{sequences.shape} differ in their number of sequences"
        )
    run_weights = np.ones((len(sequences), len(predicted)))
    if runs is not None and len(predicted) > 1:
        if runs.shape[1] != len(predicted):
            raise ValueError(f"{len(predicted)} runs, but resamples of {runs.shape[1]}")
        run_weights = runs.astype(np.float64)
    confusions = np.zeros((len(sequences), n_classes, n_classes))
    for label in range(n_classes):
        members = np.flatnonzero(classes == label)
        weights = sequences[:, members].astype(np.float64)
        weights *= len(members) / np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
        confusions[:, label] = _row(predicted[:, members], n_classes, weights, run_weights)
    return confusions


def _row(
    predicted: NDArray[np.int64], n_classes: int, weights: Floats, run_weights: Floats
) -> Floats:
    """One row of every confusion matrix, (resamples, classes); blocks of runs bound memory."""
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
