"""ROUGE-L and ROUGE-3 of prefix and suffix on token ids, for whole tables at a time.

How much of the suffix the prefix already shows, in order (ROUGE-L) or as runs of three
(ROUGE-3): what the Guess nodes ask.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cpdist

__all__ = ["rouge_3", "rouge_l"]

_BLOCK_ROWS = 8192
_CHARACTER_LIMIT = 0x110000
_TRIGRAM_BITS = 21  # three ids and one bit for the side fill 64


def rouge_l(prefixes: npt.ArrayLike, suffixes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """ROUGE-L F of each prefix and its suffix.

    F = 2·LCS / (prefix length + suffix length), so LCS / 32 for halves of 32; LCS is the longest
    common subsequence.

    Args:
        prefixes: token ids, shape (sequences, prefix length), integer.
        suffixes: token ids, shape (sequences, suffix length), integer.

    Returns:
        Fractions in [0, 1], shape (sequences,).

    Raises:
        ValueError: not two integer arrays of two axes with equally many sequences.

    Source: Lin 2004; equal to the package rouge-score on ids joined by blanks. RapidFuzz
        compares strings, so each id becomes one character.

    >>> rouge_l([[1, 2, 3, 4]], [[1, 9, 3, 4]])
    array([0.75])
    """
    shared = [_common_subsequence(*block) for block in _blocks(prefixes, suffixes)]
    return _f_measure(shared, prefixes, suffixes, n_gram=1)


def rouge_3(prefixes: npt.ArrayLike, suffixes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """ROUGE-3 F of each prefix and its suffix.

    F = 2·common / (trigrams of the prefix + of the suffix), so common / 30 for halves of 32;
    a trigram counts as often as it stands in both (clipped). Halves without a trigram give 0.

    Args and errors as `rouge_l`.

    >>> rouge_3([[1, 2, 3, 4]], [[1, 2, 3, 9]])
    array([0.5])
    """
    shared = [_common_trigrams(*block) for block in _blocks(prefixes, suffixes)]
    return _f_measure(shared, prefixes, suffixes, n_gram=3)


def _blocks(prefixes: npt.ArrayLike, suffixes: npt.ArrayLike) -> Iterator[tuple[np.ndarray, ...]]:
    """Pairs of slices small enough for the cache, ids as int64 below the limit of a character."""
    prefixes, suffixes = _check(prefixes), _check(suffixes)
    if len(prefixes) != len(suffixes):
        raise ValueError(f"{len(prefixes)} prefixes but {len(suffixes)} suffixes")
    for first in range(0, len(prefixes), _BLOCK_ROWS):
        rows = slice(first, first + _BLOCK_ROWS)
        yield _small_ids(prefixes[rows].astype(np.int64), suffixes[rows].astype(np.int64))


def _check(ids: npt.ArrayLike) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"integers with axes (sequences, tokens) wanted, got {ids.shape}")
    return ids


def _small_ids(prefixes: np.ndarray, suffixes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids that fit a character: themselves for any usual vocabulary, else their ranks."""
    both = np.concatenate([prefixes, suffixes], axis=1)
    if both.size and (both.min() < 0 or both.max() + 1 >= _CHARACTER_LIMIT):
        both = np.unique(both, return_inverse=True)[1].reshape(both.shape)
    return both[:, : prefixes.shape[1]], both[:, prefixes.shape[1] :]


def _common_subsequence(prefixes: np.ndarray, suffixes: np.ndarray) -> np.ndarray:
    """Length of the longest common subsequence of each pair."""
    texts = _as_strings(prefixes), _as_strings(suffixes)
    lengths: np.ndarray = cpdist(*texts, scorer=LCSseq.similarity, dtype=np.int64)
    return lengths


def _as_strings(ids: np.ndarray) -> list[str]:
    """One string a row, one character an id; id + 1, since NumPy drops trailing zeros."""
    n_rows, length = ids.shape
    if not ids.size:
        return [""] * n_rows
    texts: list[str] = (ids + 1).astype(np.uint32).view(f"U{length}").ravel().tolist()
    return texts


def _common_trigrams(prefixes: np.ndarray, suffixes: np.ndarray) -> np.ndarray:
    """Clipped number of common trigrams of each pair."""
    grams = np.sort(np.concatenate([_trigrams(prefixes, 0), _trigrams(suffixes, 1)], 1), axis=1)
    is_first = np.ones(grams.shape, dtype=bool)
    is_first[:, 1:] = grams[:, 1:] >> 1 != grams[:, :-1] >> 1
    common = np.zeros(len(grams), dtype=np.int64)
    candidates = np.flatnonzero(~is_first.all(axis=1))  # the others repeat nothing, share nothing
    if candidates.size:
        common[candidates] = _count_shared(grams[candidates], is_first[candidates])
    return common


def _trigrams(ids: np.ndarray, side: int) -> np.ndarray:
    """Every trigram of a row as one number, its last bit telling prefix from suffix."""
    if ids.shape[1] < 3:
        return np.empty((len(ids), 0), dtype=np.uint64)
    ids = ids.astype(np.uint64)
    high, middle = ids[:, :-2] << 2 * _TRIGRAM_BITS, ids[:, 1:-1] << _TRIGRAM_BITS
    grams: np.ndarray = (high | middle | ids[:, 2:]) << 1 | np.uint64(side)
    return grams


def _count_shared(grams: np.ndarray, is_first: np.ndarray) -> np.ndarray:
    """Sum over each row's runs of equal trigrams of the smaller side's count."""
    starts = np.flatnonzero(is_first)
    n_all = np.diff(starts, append=grams.size)
    n_suffix = np.add.reduceat((grams & 1).ravel(), starts).astype(np.int64)
    shared = np.minimum(n_suffix, n_all - n_suffix)
    return np.bincount(starts // grams.shape[1], weights=shared).astype(np.int64)


def _f_measure(
    shared: list[np.ndarray], prefixes: npt.ArrayLike, suffixes: npt.ArrayLike, *, n_gram: int
) -> npt.NDArray[np.float64]:
    """2·shared over the n-grams of both sides; 0 where a side has none."""
    sides = [max(np.asarray(side).shape[1] - n_gram + 1, 0) for side in (prefixes, suffixes)]
    counts = np.concatenate([*shared, np.empty(0, dtype=np.int64)])
    return np.asarray(2.0 * counts / max(sum(sides), 1), dtype=np.float64)
