"""A share with its interval: how many of how many, Wilson's at 95 %."""

from typing import NamedTuple

__all__ = ["Share", "share_of"]


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
