"""How far two samples of a number lie apart: Kullback-Leibler over shared bins, with its null.

Source: Prashanth et al. 2024, arXiv 2406.17746, section 1.14 of the related work: their "KL" is
the entropy of two raw sampled vectors normalised to sum 1, which is no divergence of densities;
it is kept as the published variant.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["binned_kl", "kl_interval", "published_kl"]

_Floats = npt.NDArray[np.float64]
_SMOOTHING = 0.5


def binned_kl(first: npt.ArrayLike, second: npt.ArrayLike, *, n_bins: int = 20) -> float:
    """Give KL(first‖second) of two samples over bins that both share, in nats.

    The bins hold equal numbers of the two samples together; half a count is added to each, so
    that an empty bin does not make it infinite. A plug-in estimate: too large for small samples,
    which is what the shuffled null shows.

    Args:
        first: shape (n,).
        second: shape (m,).
        n_bins: bins, fewer where values are tied.

    Returns:
        Nats, at least 0.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    weights = np.concatenate([np.full(len(a), 1 / len(a)), np.full(len(b), 1 / len(b))])
    both = np.concatenate([a, b])
    order = np.argsort(both, kind="stable")
    mass = np.cumsum(weights[order]) / 2
    places = np.searchsorted(mass, np.arange(1, n_bins) / n_bins)
    inner = np.unique(both[order][np.minimum(places, len(both) - 1)])
    counts = [
        np.bincount(np.searchsorted(inner, part, side="right"), minlength=len(inner) + 1)
        for part in (a, b)
    ]
    p, q = ((one + _SMOOTHING) / (one + _SMOOTHING).sum() for one in counts)
    return float((p * np.log(p / q)).sum())


def published_kl(first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int = 0) -> float:
    """Give the published figure: two equally many sampled values, each normalised to sum 1.

    Args:
        first: shape (n,), positive.
        second: shape (m,), positive.
        seed: of the sample.

    Returns:
        Nats; it depends on the order in which the values were drawn.
    """
    from scipy.stats import entropy

    generator = np.random.default_rng(seed)
    n = min(len(np.asarray(first)), len(np.asarray(second)))
    a, b = (generator.choice(np.asarray(one), n) for one in (first, second))
    return float(entropy(a, b))


def kl_interval(
    first: _Floats, second: _Floats, *, n_bins: int, n_resamples: int, seed: int
) -> dict[str, float]:
    """Give the divergence with its bootstrap interval, and its mean where labels are shuffled.

    Args:
        first: shape (n,).
        second: shape (m,).
        n_bins: as `binned_kl`.
        n_resamples: of both.
        seed: of the resamples.

    Returns:
        `kl`, `low`, `high`, `shuffled`; nats.
    """
    generator = np.random.default_rng(seed)
    both, n = np.concatenate([first, second]), len(first)
    draws, shuffled = [], []
    for _ in range(n_resamples):
        parts = (generator.choice(one, len(one)) for one in (first, second))
        draws.append(binned_kl(*parts, n_bins=n_bins))
        mixed = generator.permutation(both)
        shuffled.append(binned_kl(mixed[:n], mixed[n:], n_bins=n_bins))
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "kl": binned_kl(first, second, n_bins=n_bins),
        "low": float(low),
        "high": float(high),
        "shuffled": float(np.mean(shuffled)),
    }
