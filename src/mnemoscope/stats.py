"""Figures with their 95 % interval: the one home of estimates, intervals and resampling.

What to use: `share_of` for k of n (Wilson); `clopper_pearson` where a share of 0 must keep an
upper bound; `normal_mean` or `resampled_mean` for one value a sequence, `resampled_difference` for
two values of the same sequences, `resampled_ratio` for a sum over a sum. For a figure of your own:
draw resamples with `draw_counts` (how often each unit counts) or `draw_within` (the same, group by
group), put the figure of every resample into `interval_of`, and keep both in an `Estimate`.
`Estimate.columns` writes the three columns of a table, `Estimate.of` reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
Z = 1.959964
"""Standard errors on either side that hold 95 % of a normal distribution."""

FEWEST = 4
"""Pairs below which no rank correlation is given: three can only be ordered in six ways."""

_RESAMPLES = 1000


class Estimate(NamedTuple):
    """A figure and its interval, in one unit; NaN or None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any], name: str, *, ends: str | None = None) -> "Estimate":
        """Read a row's `name`, `name_low` and `name_high`; `ends` where these bear another name.

        >>> Estimate.of({"min_f1": 0.6, "low": 0.5, "high": 0.7}, "min_f1", ends="")
        Estimate(value=0.6, low=0.5, high=0.7)
        """
        stem = name if ends is None else ends
        return cls(row[name], *(row[f"{stem}_{end}".lstrip("_")] for end in ("low", "high")))

    def columns(self, name: str, *, ends: str | None = None) -> dict[str, float | None]:
        """As three columns of a table: `name`, `name_low`, `name_high`; `ends` as in `of`."""
        stem = name if ends is None else ends
        low, high = (f"{stem}_{end}".lstrip("_") for end in ("low", "high"))
        return {name: self.value, low: self.low, high: self.high}

    def __str__(self) -> str:
        """Print a share: `91.2 % [88.0, 94.1]`."""
        if self.value is None or self.value != self.value:
            return "none to count"
        value, low, high = (f"{100 * (one or 0.0):.1f}" for one in self)
        return f"{value} % [{low}, {high}]"


NO_ESTIMATE = Estimate(None)
_NOTHING_TO_COUNT = Estimate(float("nan"), float("nan"), float("nan"))


class Interval(NamedTuple):
    """Ends of an interval, in the unit of the figure."""

    low: float
    high: float


def interval_of(values: ArrayLike, tail: float = (1.0 - LEVEL) / 2.0) -> Interval:
    """Percentile interval of a figure over its resamples, (resamples,).

    Resamples without a finite figure are left out; NaN where none has one. A `tail` of 0.025 and
    the default, 0.025000000000000022, differ in the last bit: analyses hold the former, benchmark
    and localize the latter.
    """
    every = np.asarray(values, dtype=np.float64)
    kept = every[np.isfinite(every)]
    if not len(kept):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(kept, [tail, 1.0 - tail])
    return Interval(float(low), float(high))


def share_of(part: int, whole: int) -> Estimate:
    """A share with Wilson's interval.

    >>> str(share_of(9, 10))
    '90.0 % [59.6, 98.2]'
    """
    from scipy.stats import binomtest

    if not whole:
        return _NOTHING_TO_COUNT
    ends = binomtest(part, whole).proportion_ci(method="wilson")
    return Estimate(part / whole, float(ends.low), float(ends.high))


def clopper_pearson(part: float, whole: int) -> Estimate:
    """A share with Clopper and Pearson's interval; of an empty whole 0, anywhere in [0, 1].

    `part` may be a fraction, where an observation counts in part.

    >>> str(clopper_pearson(0, 100))
    '0.0 % [0.0, 3.6]'
    """
    from scipy.stats import beta  # most of a second, and not every caller counts

    tail, low, high = (1 - LEVEL) / 2, 0.0, 1.0
    if part > 0:
        low = float(beta.ppf(tail, part, whole - part + 1))
    if part < whole:
        high = float(beta.ppf(1 - tail, part + 1, whole - part))
    return Estimate(part / whole if whole else 0.0, low, high)


def normal_mean(values: ArrayLike, *, within: tuple[float, float] = (-np.inf, np.inf)) -> Estimate:
    """Mean of one value a sequence, (n,), n at least 2; `Z` standard errors on either side.

    The ends are kept `within` what is possible, (0, 1) for a share.
    """
    numbers = np.asarray(values, dtype=np.float64)
    middle = float(numbers.mean())
    reach = Z * float(numbers.std(ddof=1)) / np.sqrt(len(numbers))
    return Estimate(middle, max(middle - reach, within[0]), min(middle + reach, within[1]))


def resampled_mean(values: ArrayLike) -> Estimate:
    """Mean of one value a sequence, (n,), its interval by the bootstrap over sequences."""
    numbers = np.asarray(values, dtype=np.float64)
    return resampled_ratio(numbers, np.ones_like(numbers))


def resampled_difference(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Mean of first minus second, paired: both are of the same sequences in the same order."""
    return resampled_mean(
        np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    )


def resampled_ratio(parts: ArrayLike, wholes: ArrayLike) -> Estimate:
    """Sum of parts over sum of wholes, one of either a sequence, (n,), resampled by sequence."""
    part, whole = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    if not whole.sum():
        return _NOTHING_TO_COUNT
    drawn = draw_counts(np.random.default_rng(0), len(part), _RESAMPLES)
    below = drawn @ whole
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (drawn @ part) / np.where(below > 0, below, np.nan)
    low, high = interval_of(ratios, 0.025)
    return Estimate(float(part.sum() / whole.sum()), low, high)


def draw_counts(generator: np.random.Generator, n: int, n_resamples: int) -> npt.NDArray[np.int64]:
    """Draw n units with replacement: how often each counts, (resamples, n), rows summing to n."""
    return generator.multinomial(n, np.full(n, 1 / n), n_resamples)


def draw_within(
    groups: ArrayLike, generator: np.random.Generator, n_resamples: int
) -> npt.NDArray[np.int32]:
    """Draw units with replacement within each group (n,), so that every group keeps its size.

    Returns how often each unit counts, int32 (resamples, n). Groups are drawn in sorted order.
    """
    owners = np.asarray(groups)
    drawn = np.zeros((n_resamples, len(owners)), dtype=np.int32)
    for one in np.unique(owners):
        members = np.flatnonzero(owners == one)
        drawn[:, members] = draw_counts(generator, len(members), n_resamples)
    return drawn


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ and Kendall's τ-b of n pairs with intervals; None and a note if not given.

    Spearman's ends are given also where nothing was resampled.
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
    """Correlate two lists (n,) by rank; ties share their mean rank.

    `draws` resamples the first list, (resamples, n), and adds its own noise, so the interval of
    noisy values lies below the figure. Only `n` and a note below `FEWEST` pairs or without order.
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
    from scipy.stats import rankdata

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


class Separation(NamedTuple):
    """How well low values tell memorized sequences from others, each with its 95 % interval.

    Attributes:
        auc: ROC AUC of the negative value: over .5 where memorized sequences have low values.
        auc_low, auc_high: its interval.
        fpr: share of the others flagged where .75 of the memorized are.
        fpr_low, fpr_high: its interval.
    """

    auc: float
    auc_low: float
    auc_high: float
    fpr: float
    fpr_low: float
    fpr_high: float


NOT_SEPARATED = Separation(*[float("nan")] * 6)
"""Where one side is empty."""


def separation(
    values: ArrayLike, memorized: ArrayLike, *, seed: int, n_resamples: int
) -> Separation:
    """Judge "low means memorized" at every threshold, and at a true-positive rate of .75.

    In values (n,) −inf is lowest and NaN left out; resamples are drawn within memorized and others.
    `NOT_SEPARATED` where one side is empty.
    """
    found, is_memorized = np.asarray(values, dtype=np.float64), np.asarray(memorized, dtype=bool)
    low, high = (np.sort(found[side & ~np.isnan(found)]) for side in (is_memorized, ~is_memorized))
    if not len(low) or not len(high):
        return NOT_SEPARATED
    generator = np.random.default_rng(seed)
    draws = [
        auc_and_fpr(*(np.sort(generator.choice(one, len(one))) for one in (low, high)))
        for _ in range(n_resamples)
    ]
    auc, fpr = auc_and_fpr(low, high)
    (auc_low, fpr_low), (auc_high, fpr_high) = np.quantile(draws, [0.025, 0.975], axis=0).tolist()
    return Separation(auc, auc_low, auc_high, fpr, fpr_low, fpr_high)


def auc_and_fpr(
    memorized: npt.NDArray[np.float64], others: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """AUC of low meaning memorized, and the share of others up to the .75 quantile; both sorted."""
    up_to = np.searchsorted(others, memorized, side="right")
    ties = up_to - np.searchsorted(others, memorized)
    auc = float((len(others) - up_to + 0.5 * ties).mean() / len(others))
    threshold = memorized[int(np.ceil(0.75 * len(memorized))) - 1]
    return auc, float(np.searchsorted(others, threshold, side="right") / len(others))
