"""Rank correlation of two lists of figures, with an interval over resamples of the first."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """Ends of a percentile interval, in the unit of the figure."""

    low: float
    high: float


def interval_of(values: ArrayLike, level: float = 0.95) -> Interval:
    """Percentile interval of a figure's values over the resamples, (resamples,)."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [tail, 1.0 - tail])
    return Interval(float(low), float(high))


# Rank correlation of two lists of figures, with an interval over resamples of the first.

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


# Means over sequences with their 95 % interval, by resampling or by the normal approximation.

_RESAMPLES = 1000
_Z = 1.959964


class Estimate(NamedTuple):
    """A figure and its 95 % interval; NaN where there is nothing to count."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """As three columns of a table: `name`, `name_low`, `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def normal_mean(values: npt.ArrayLike) -> Estimate:
    """Mean of one value a sequence, 1.96 standard errors on either side.

    Args:
        values: shape (n,), at least two.
    """
    numbers = np.asarray(values, dtype=np.float64)
    middle = float(numbers.mean())
    reach = _Z * float(numbers.std(ddof=1)) / np.sqrt(len(numbers))
    return Estimate(middle, middle - reach, middle + reach)


def resampled_mean(values: npt.ArrayLike) -> Estimate:
    """Mean of one value a sequence, its interval by the bootstrap over sequences.

    Args:
        values: shape (n,).
    """
    numbers = np.asarray(values, dtype=np.float64)
    return resampled_ratio(numbers, np.ones_like(numbers))


def resampled_difference(first: npt.ArrayLike, second: npt.ArrayLike) -> Estimate:
    """Mean of first minus second, paired: both are of the same sequences in the same order."""
    return resampled_mean(
        np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    )


def resampled_ratio(parts: npt.ArrayLike, wholes: npt.ArrayLike) -> Estimate:
    """Sum of parts over sum of wholes, resampled by sequence with a seed of its own.

    Args:
        parts: one number a sequence, shape (n,).
        wholes: the same of what they are part of.
    """
    part, whole = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    if not whole.sum():
        return Estimate(float("nan"), float("nan"), float("nan"))
    drawn = np.random.default_rng(0).multinomial(
        len(part), np.full(len(part), 1 / len(part)), size=_RESAMPLES
    )
    below = drawn @ whole
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (drawn @ part) / np.where(below > 0, below, np.nan)
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    return Estimate(float(part.sum() / whole.sum()), float(low), float(high))


# A share with its interval: how many of how many, Wilson's at 95 %.


class Share(NamedTuple):
    """A share and its 95 % interval, fractions; NaN of an empty whole."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """`91.2 % [88.0, 94.1]`."""
        if self.value != self.value:
            return "none to count"
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def share_of(part: int, whole: int) -> Share:
    """Give a share with Wilson's 95 % interval.

    >>> str(share_of(9, 10))
    '90.0 % [59.6, 98.2]'
    """
    from scipy.stats import binomtest

    if not whole:
        return Share(float("nan"), float("nan"), float("nan"))
    ends = binomtest(part, whole).proportion_ci(method="wilson")
    return Share(part / whole, float(ends.low), float(ends.high))
