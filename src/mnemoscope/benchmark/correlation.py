"""Rank correlation of two lists of figures, with an interval over resamples of the first."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from mnemoscope.cnn.intervals import interval_of
from mnemoscope.cnn.metrics import Floats

__all__ = ["FEWEST", "RankCorrelation", "correlate_ranks", "kendall", "spearman"]

FEWEST = 4
"""Pairs below which no rank correlation is given: three can only be ordered in six ways."""


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ and Kendall's τ-b of two lists, each in [-1, 1].

    Attributes:
        n: pairs.
        spearman: None where it is not given.
        spearman_low: 2.5th percentile over the resamples; None without resamples.
        spearman_high: 97.5th percentile.
        kendall: None where it is not given.
        kendall_low: 2.5th percentile over the resamples.
        kendall_high: 97.5th percentile.
        note: why nothing is given, empty when it is.
    """

    n: int
    spearman: float | None = None
    spearman_low: float | None = None
    spearman_high: float | None = None
    kendall: float | None = None
    kendall_low: float | None = None
    kendall_high: float | None = None
    note: str = ""


def correlate_ranks(
    values: ArrayLike, others: ArrayLike, *, draws: ArrayLike | None = None
) -> RankCorrelation:
    """Correlate two lists by rank; ties share their mean rank.

    Args:
        values: figures that vary, (n,).
        others: figures that are fixed, (n,).
        draws: resamples of `values`, (resamples, n). A resample adds its own noise to that of
            the values, so where they are noisy the interval lies lower than the figure.

    Returns:
        Both correlations; nothing but `n` and a note below `FEWEST` pairs or without any order.
    """
    first = np.asarray(values, dtype=np.float64)
    second = np.asarray(others, dtype=np.float64)
    n = len(first)
    if n < FEWEST:
        return RankCorrelation(n, note=f"{n} of them can be compared; {FEWEST} are needed")
    if len(set(first.tolist())) == 1 or len(set(second.tolist())) == 1:
        return RankCorrelation(n, note="all figures are equal, so there is no order to compare")
    rho, tau = (float(one(first[None], second)[0]) for one in (spearman, kendall))
    if draws is None:
        return RankCorrelation(n, spearman=rho, kendall=tau)
    drawn = np.asarray(draws, dtype=np.float64)
    rho_ends, tau_ends = (interval_of(one(drawn, second)) for one in (spearman, kendall))
    return RankCorrelation(n, rho, *rho_ends, tau, *tau_ends)


def spearman(draws: Floats, others: Floats) -> Floats:
    """Spearman's ρ of every row of (resamples, n) with (n,); 0 for a row without any order."""
    ranks = rankdata(draws, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    fixed = rankdata(others)
    fixed -= fixed.mean()
    scale = np.sqrt((ranks**2).sum(axis=1) * (fixed**2).sum())
    found: Floats = np.divide(ranks @ fixed, scale, out=np.zeros(len(draws)), where=scale > 0)
    return found


def kendall(draws: Floats, others: Floats) -> Floats:
    """Kendall's τ-b of every row of (resamples, n) with (n,); 0 for a row without any order."""
    first, second = np.triu_indices(len(others), k=1)
    signs = np.sign(draws[:, first] - draws[:, second])
    fixed = np.sign(others[first] - others[second])
    scale = np.sqrt((signs**2).sum(axis=1) * (fixed**2).sum())
    found: Floats = np.divide(signs @ fixed, scale, out=np.zeros(len(draws)), where=scale > 0)
    return found
