"""Hash stretches of tokens of windows, to keep trained and held-out text apart."""

from collections.abc import Iterable

import numpy as np

NGRAM = 24  # two windows that share so many tokens in a row count as the same text
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def hash_ngrams(windows: np.ndarray, *, n: int = NGRAM) -> np.ndarray:
    """Hash every stretch of `n` tokens within each window.

    Args:
        windows: token ids, shape (windows, length), length >= n.
        n: tokens of a stretch.

    Returns:
        uint64, shape (windows, length - n + 1). Equal stretches give equal hashes; unequal ones
        give equal hashes with probability about 2^-64.
    """
    values = windows.astype(np.uint64) + np.uint64(1)
    width = windows.shape[1] - n + 1
    hashes = np.zeros((windows.shape[0], width), np.uint64)
    for offset in range(n):
        hashes = hashes * _FACTOR + _mix(values[:, offset : offset + width])
    return _mix(hashes)


def share_ngram(windows: np.ndarray, used: np.ndarray, *, n: int = NGRAM) -> np.ndarray:
    """Say which windows have a stretch whose hash is in `used`: bool, shape (windows,)."""
    return np.asarray(np.isin(hash_ngrams(windows, n=n), used).any(axis=1))


class NgramSet:
    """The stretches used so far; a window is taken only if it shares none of them."""

    def __init__(self) -> None:
        """Start empty."""
        self._hashes: set[int] = set()

    def take(self, window_hashes: Iterable[int]) -> bool:
        """Add the hashes of one window and return True, or return False and add nothing."""
        hashes = set(window_hashes)
        if self._hashes & hashes:
            return False
        self._hashes |= hashes
        return True

    def as_array(self) -> np.ndarray:
        """All hashes, uint64, sorted."""
        return np.array(sorted(self._hashes), np.uint64)


def _mix(values: np.ndarray) -> np.ndarray:
    mixed = (values ^ (values >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    final: np.ndarray = mixed ^ (mixed >> np.uint64(29))
    return final
