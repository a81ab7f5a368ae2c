"""Means over sequences with their 95 % interval, by resampling or by the normal approximation.

Resampling holds for few and skewed values and for quotients; the normal approximation is for the
hundreds of means of a curve over positions or states, where resampling each is dear.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Estimate", "normal_mean", "resampled_difference", "resampled_mean", "resampled_ratio"]

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
