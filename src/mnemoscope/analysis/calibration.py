"""How good predicted probabilities are: ROC AUC, PR AUC, precision, recall, F1, calibration.

Source: Prashanth et al. 2024, arXiv 2406.17746, section 1.13 of the related work. Intervals are
percentiles of resamples of the test sequences; the published AUCs are those of hard predictions.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["FIGURES", "expected_calibration_error", "figures_of", "resampled"]

_Floats = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]

FIGURES = ("roc_auc", "pr_auc", "precision", "recall", "f1", "ece")
"""The figures of a model, fractions."""


def expected_calibration_error(probabilities: _Floats, label: _Flags, *, n_bins: int = 5) -> float:
    """Give the mean distance of confidence and accuracy over equal-width bins.

    Confidence is the probability of the predicted side, from .5 to 1; the bins part 0 to 1.

    Args:
        probabilities: of being memorized, shape (n,).
        label: memorized, shape (n,).
        n_bins: equal-width bins of the confidence.

    Returns:
        A fraction.
    """
    predicted = probabilities >= 0.5
    confidence = np.where(predicted, probabilities, 1 - probabilities)
    right = predicted == label
    place = np.minimum((confidence * n_bins).astype(np.int64), n_bins - 1)
    counts = np.bincount(place, minlength=n_bins)
    gaps = np.bincount(place, weights=confidence - right, minlength=n_bins)
    return float(np.abs(gaps).sum() / max(counts.sum(), 1))


def figures_of(
    probabilities: _Floats, label: _Flags, *, hard: bool = False, n_bins: int = 5
) -> dict[str, float]:
    """Give every figure of one model.

    Args:
        probabilities: of being memorized, shape (n,).
        label: memorized, shape (n,); an AUC is NaN where it has one value only.
        hard: AUCs of the predictions at .5 instead of the probabilities, as published.
        n_bins: of the calibration error.

    Returns:
        `FIGURES` by name.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    predicted = probabilities >= 0.5
    scores = predicted.astype(np.float64) if hard else probabilities
    both = 0 < label.sum() < len(label)
    right = int((predicted & label).sum())
    precision = right / predicted.sum() if predicted.any() else 0.0
    recall = right / label.sum() if label.any() else 0.0
    return {
        "roc_auc": float(roc_auc_score(label, scores)) if both else float("nan"),
        "pr_auc": float(average_precision_score(label, scores)) if both else float("nan"),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(2 * right / (predicted.sum() + label.sum())) if right else 0.0,
        "ece": expected_calibration_error(probabilities, label, n_bins=n_bins),
    }


def resampled(
    figures: Callable[[npt.NDArray[np.int64]], Mapping[str, float]],
    n_rows: int,
    *,
    n_resamples: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Give the 95 % interval of every figure by resampling rows.

    Args:
        figures: figures of the rows it is given.
        n_rows: rows to draw from.
        n_resamples: how often.
        seed: of the draws; the same seed draws the same rows, which pairs two models.

    Returns:
        Ends of each figure; NaN where no resample gave one.
    """
    generator = np.random.default_rng(seed)
    every = [figures(generator.integers(0, n_rows, n_rows)) for _ in range(n_resamples)]
    found = {}
    for name in every[0]:
        values = np.array([one[name] for one in every])
        kept = values[np.isfinite(values)]
        ends = np.quantile(kept, [0.025, 0.975]) if len(kept) else (float("nan"),) * 2
        found[name] = (float(ends[0]), float(ends[1]))
    return found
