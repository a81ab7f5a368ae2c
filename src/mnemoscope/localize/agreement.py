"""How alike two maps of Δ are: correlation over the causal edges, and the overlap of their tops."""

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

__all__ = ["TOP_SHARE", "Agreement", "agreement", "mean_agreement"]

TOP_SHARE = 0.01
"""Of all causal edges, the part whose overlap is counted."""


class Agreement(NamedTuple):
    """How alike two maps are; None where one of them is the same everywhere.

    Attributes:
        pearson: linear correlation over all causal edges of all layers.
        spearman: the same of their ranks, ties at their mean rank.
        overlap: share of the top hundredth of the edges that both have in common; .01 by chance.
    """

    pearson: float | None
    spearman: float | None
    overlap: float | None


def agreement(first: np.ndarray, second: np.ndarray) -> Agreement:
    """Compare two maps of one class.

    Args:
        first: (layers, query, key), float.
        second: the same shape.

    Raises:
        ValueError: other shapes.
    """
    if first.shape != second.shape:
        raise ValueError(f"maps of shape {first.shape} and {second.shape}")
    causal = np.tri(first.shape[-1], dtype=bool)
    left, right = (each.astype(np.float64)[:, causal].ravel() for each in (first, second))
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return Agreement(None, None, None)
    n_top = max(1, round(TOP_SHARE * len(left)))
    tops = [set(np.argsort(-each, kind="stable")[:n_top].tolist()) for each in (left, right)]
    return Agreement(
        pearson=float(np.corrcoef(left, right)[0, 1]),
        spearman=float(np.corrcoef(rankdata(left), rankdata(right))[0, 1]),
        overlap=len(tops[0] & tops[1]) / n_top,
    )


def mean_agreement(maps: list[np.ndarray]) -> Agreement:
    """Average the agreement over all pairs of maps; None where no pair can be compared."""
    pairs = [agreement(maps[i], maps[j]) for i in range(len(maps)) for j in range(i + 1, len(maps))]
    known = [pair for pair in pairs if pair.pearson is not None]
    if not known:
        return Agreement(None, None, None)
    return Agreement(*(float(np.mean(values)) for values in zip(*known, strict=True)))
