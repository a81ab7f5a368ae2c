"""From confusion matrices to precision, recall, F1 and min-F1, the paper's measure of alignment."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "PrecisionRecall",
    "Scores",
    "confusion_matrix",
    "f1_per_class",
    "min_f1",
    "precision_recall",
    "scores",
]

Floats = NDArray[np.float64]
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
