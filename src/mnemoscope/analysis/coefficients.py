"""Pearson, Spearman and Chatterjee's ξ of a feature with a label, each with its interval.

Source: Prashanth et al. 2024, arXiv 2406.17746, section 1.14 of the related work; ξ: Chatterjee
2021, in the form for ties. The bootstrap does not hold for ξ, so its interval comes from
subsamples without replacement (m out of n).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Coefficient", "chatterjee_xi", "coefficients"]

_Floats = npt.NDArray[np.float64]


class Coefficient(NamedTuple):
    """A coefficient and its 95 % interval."""

    value: float
    low: float
    high: float


def chatterjee_xi(x: npt.ArrayLike, y: npt.ArrayLike, *, seed: int = 0) -> float:
    """Give ξ(x → y): how far y is a function of x, from about 0 (independent) to 1.

    The rows are sorted by x, equal x in an order drawn by the seed. With r_i the number of y up
    to y_i and l_i the number from y_i on, ξ = 1 − n Σ|r_{i+1} − r_i| / (2 Σ l_i (n − l_i)).
    It is not symmetric, and of two values of y only.

    Args:
        x: shape (n,).
        y: shape (n,); may have ties.
        seed: of the order of equal x.

    Returns:
        ξ; NaN where y has one value only.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n = len(first)
    drawn = np.random.default_rng(seed).random(n)
    ordered = second[np.lexsort((drawn, first))]
    ranked = np.sort(ordered)
    r = np.searchsorted(ranked, ordered, side="right")
    low = n - np.searchsorted(ranked, ordered, side="left")
    spread = 2 * float((low.astype(np.float64) * (n - low)).sum())
    return 1 - n * float(np.abs(np.diff(r)).sum()) / spread if spread else float("nan")


def coefficients(
    x: npt.ArrayLike, y: npt.ArrayLike, *, seed: int = 0, n_resamples: int = 200
) -> dict[str, Coefficient]:
    """Give all three coefficients.

    Args:
        x: the feature, finite, shape (n,), not constant.
        y: the label, not constant.
        seed: of ties and resamples.
        n_resamples: bootstrap resamples, and subsamples of ξ.

    Returns:
        `pearson`, `spearman`, `xi`.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    generator = np.random.default_rng(seed)
    n = len(first)
    draws = generator.integers(0, n, (n_resamples, n))
    ranks_x, ranks_y = _ranks(first), _ranks(second)
    found = {
        "pearson": _booted(first, second, draws),
        "spearman": _booted(ranks_x, ranks_y, draws),
    }
    found["xi"] = _subsampled(first, second, generator, n_resamples, seed)
    return found


def _ranks(values: _Floats) -> _Floats:
    from scipy.stats import rankdata

    ranked: _Floats = rankdata(values).astype(np.float64)
    return ranked


def _booted(first: _Floats, second: _Floats, draws: npt.NDArray[np.int64]) -> Coefficient:
    """Correlation with a percentile interval; ranks keep their places in the whole sample."""
    every = [_correlation(first[rows], second[rows]) for rows in draws]
    return Coefficient(_correlation(first, second), *_ends(np.array(every)))


def _correlation(first: _Floats, second: _Floats) -> float:
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float("nan")


def _subsampled(
    first: _Floats, second: _Floats, generator: np.random.Generator, n_draws: int, seed: int
) -> Coefficient:
    """ξ with the interval of m-out-of-n subsampling, m = n^(3/4)."""
    n, value = len(first), chatterjee_xi(first, second, seed=seed)
    m = max(8, round(n**0.75))
    if m >= n:
        return Coefficient(value, float("nan"), float("nan"))
    roots = []
    for draw in range(n_draws):
        rows = generator.choice(n, m, replace=False)
        part = chatterjee_xi(first[rows], second[rows], seed=seed + draw)
        roots.append(np.sqrt(m / (1 - m / n)) * (part - value) / np.sqrt(n))
    low, high = _ends(np.array(roots))
    return Coefficient(value, value - high, value - low)


def _ends(values: _Floats) -> tuple[float, float]:
    kept = values[np.isfinite(values)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [0.025, 0.975])
    return float(low), float(high)
