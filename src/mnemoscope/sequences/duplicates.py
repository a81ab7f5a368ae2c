"""Count how often each suffix stands in a corpus of token ids: exactly, at any offset.

A rolling 64-bit hash finds the candidates, a comparison of all tokens decides. The corpus is
streamed, so it may be larger than memory (memory-mapped arrays are read a piece at a time).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.progress import track

__all__ = ["count_duplicates"]

_CHUNK_TOKENS = 1 << 20
_BASE = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: odd, its bits well mixed
_TABLE_BITS = 22  # 4 MB of "may be there" flags, in the cache beside a chunk


def count_duplicates(
    suffixes: npt.ArrayLike, corpus: Iterable[npt.ArrayLike]
) -> npt.NDArray[np.int64]:
    """Occurrences of each suffix in the corpus.

    Overlapping occurrences count each; an occurrence never spans two arrays. A suffix that the
    corpus does not hold gets 0; the published counts include the training row itself, so there
    every suffix has at least 1 (semantic-memorization's `sequence_duplicates`).

    Args:
        suffixes: token ids, shape (sequences, k), integer, k at least 1; equal rows are allowed.
        corpus: arrays of token ids, each one axis and any integer type (one a document, a
            training row or the whole corpus).

    Returns:
        Counts, shape (sequences,), int64.

    Raises:
        ValueError: axes or types other than these.

    >>> count_duplicates([[1, 1]], [[1, 1, 1, 2], [1, 1]])
    array([3])
    """
    suffixes = _integers(suffixes, n_axes=2)
    if not suffixes.size:
        return np.zeros(len(suffixes), dtype=np.int64)
    wanted, which = np.unique(suffixes, axis=0, return_inverse=True)
    lookup = _build_lookup(wanted)
    counts = np.zeros(len(wanted), dtype=np.int64)
    with track("duplicates", unit="corpus tokens") as progress:
        for tokens, starts in _chunks(corpus, wanted.shape[1]):
            counts += _count_in_chunk(lookup, tokens, starts)
            progress.advance(len(tokens))
    return counts[which.ravel()]


class _Lookup(NamedTuple):
    """The distinct suffixes in the order of their hashes.

    Attributes:
        rows: token ids, shape (distinct, k), int64.
        order: row of the caller's distinct suffixes at each place.
        hashes: sorted, uint64.
        flags: whether any hash begins with these bits.
        most_equal: largest number of distinct suffixes with one hash; nearly always 1.
    """

    rows: np.ndarray
    order: np.ndarray
    hashes: np.ndarray
    flags: np.ndarray
    most_equal: int


def _build_lookup(wanted: np.ndarray) -> _Lookup:
    """Sort the distinct suffixes by hash."""
    k = wanted.shape[1]
    hashes = _rolling_hashes(wanted.ravel(), k)[::k]
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    flags = np.zeros(1 << _TABLE_BITS, dtype=bool)
    flags[_flag_index(hashes)] = True
    most_equal = int(np.unique(hashes, return_counts=True)[1].max())
    return _Lookup(wanted[order], order, hashes, flags, most_equal)


def _count_in_chunk(lookup: _Lookup, tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Occurrences of each distinct suffix among the allowed starts of one chunk."""
    n_wanted, k = lookup.rows.shape
    hashes = _rolling_hashes(tokens, k)
    positions = starts[lookup.flags[_flag_index(hashes[starts])]]
    places = np.searchsorted(lookup.hashes, hashes[positions])
    windows = np.lib.stride_tricks.sliding_window_view(tokens, k)
    counts = np.zeros(n_wanted, dtype=np.int64)
    for _ in range(lookup.most_equal):
        alive = places < n_wanted
        positions, places = positions[alive], places[alive]
        alive = lookup.hashes[places] == hashes[positions]
        positions, places = positions[alive], places[alive]
        is_equal = (windows[positions] == lookup.rows[places]).all(axis=1)
        np.add.at(counts, lookup.order[places[is_equal]], 1)
        places = places + 1
    return counts


def _rolling_hashes(tokens: np.ndarray, k: int) -> np.ndarray:
    """Hash of the k tokens from each position on, modulo 2^64; at least k tokens are needed.

    Doubling: the hash of 2m tokens is that of the first m times base^m plus that of the second.
    """
    piece, length = _mix(tokens), 1
    power = np.array([_BASE], dtype=np.uint64)  # arrays wrap around silently, scalars warn
    result, covered = np.zeros(len(tokens) + 1, dtype=np.uint64), 0
    while True:
        if k & length:
            n = len(tokens) - covered - length + 1
            result = result[:n] * power + piece[covered : covered + n]
            covered += length
        if 2 * length > k:
            return result
        piece = piece[:-length] * power + piece[length:]
        power = power * power
        length *= 2


def _mix(tokens: np.ndarray) -> np.ndarray:
    """Spread token ids over 64 bits, so that neighbours and zeros leave traces."""
    mixed = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(31))


def _flag_index(hashes: np.ndarray) -> np.ndarray:
    """The leading bits, which depend on all tokens."""
    return hashes >> np.uint64(64 - _TABLE_BITS)


def _chunks(corpus: Iterable[npt.ArrayLike], k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of about a million tokens and, for each, where an occurrence may start."""
    pieces: list[np.ndarray] = []
    n_tokens = 0
    for piece in _pieces(corpus, k):
        pieces.append(piece)
        n_tokens += len(piece)
        if n_tokens >= _CHUNK_TOKENS:
            yield _join(pieces, k)
            pieces, n_tokens = [], 0
    if pieces:
        yield _join(pieces, k)


def _pieces(corpus: Iterable[npt.ArrayLike], k: int) -> Iterator[np.ndarray]:
    """Each array in parts that overlap by k - 1 tokens; arrays below k tokens hold nothing."""
    for tokens in corpus:
        tokens = _integers(tokens, n_axes=1)
        for first in range(0, len(tokens) - k + 1, _CHUNK_TOKENS):
            yield tokens[first : first + _CHUNK_TOKENS + k - 1]


def _join(pieces: list[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """One array, and the positions whose k tokens lie in one piece."""
    tokens = np.concatenate(pieces).astype(np.int64)
    lengths = np.array([len(piece) for piece in pieces])
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))
    return tokens, np.flatnonzero(left >= k)


def _integers(values: npt.ArrayLike, *, n_axes: int) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != n_axes or (array.dtype.kind not in "iu" and array.size):
        raise ValueError(
            f"integer token ids with {n_axes} axes wanted, got {array.dtype} {array.shape}"
        )
    return array
