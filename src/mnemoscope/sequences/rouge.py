"""ROUGE-L and ROUGE-3 of prefix and suffix on token ids, for whole tables at a time.

How much of the suffix the prefix already shows, in order (ROUGE-L) or as runs of three
(ROUGE-3): what the Guess nodes ask.

Both need to know no more than which ids of a sequence are equal, so each sequence's ids are
replaced by their ranks among its own: bytes, which RapidFuzz compares far faster than characters,
and of which a trigram fits 32 bits.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cpdist

__all__ = ["Rouge", "rouge_3", "rouge_l", "rouge_scores"]

_BLOCK_ROWS = 4096
_ONES = 0x0101010101010101


class Rouge(NamedTuple):
    """Both measures of the same pairs."""

    rouge_l: npt.NDArray[np.float64]
    rouge_3: npt.NDArray[np.float64]


def rouge_scores(prefixes: npt.ArrayLike, suffixes: npt.ArrayLike) -> Rouge:
    """ROUGE-L and ROUGE-3 at the price of little more than one; as `rouge_l` and `rouge_3`."""
    n_prefix, n_suffix = (np.asarray(side).shape[-1] for side in (prefixes, suffixes))
    shared = [
        (_common_subsequence(ranks, n_prefix), _common_trigrams(ranks, n_prefix))
        for ranks in _ranked_blocks(prefixes, suffixes)
    ]
    in_order, trigrams = zip(*shared, strict=True) if shared else ((), ())
    return Rouge(
        _f_measure(in_order, n_prefix, n_suffix, n_gram=1),
        _f_measure(trigrams, n_prefix, n_suffix, n_gram=3),
    )


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

    Source: Lin 2004; equal to the package rouge-score on ids joined by blanks.

    >>> rouge_l([[1, 2, 3, 4]], [[1, 9, 3, 4]])
    array([0.75])
    """
    n_prefix, n_suffix = (np.asarray(side).shape[-1] for side in (prefixes, suffixes))
    blocks = _ranked_blocks(prefixes, suffixes)
    shared = [_common_subsequence(ranks, n_prefix) for ranks in blocks]
    return _f_measure(shared, n_prefix, n_suffix, n_gram=1)


def rouge_3(prefixes: npt.ArrayLike, suffixes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """ROUGE-3 F of each prefix and its suffix.

    F = 2·common / (trigrams of the prefix + of the suffix), so common / 30 for halves of 32;
    a trigram counts as often as it stands in both (clipped). Halves without a trigram give 0.

    Args and errors as `rouge_l`.

    >>> rouge_3([[1, 2, 3, 4]], [[1, 2, 3, 9]])
    array([0.5])
    """
    n_prefix, n_suffix = (np.asarray(side).shape[-1] for side in (prefixes, suffixes))
    blocks = _ranked_blocks(prefixes, suffixes)
    shared = [_common_trigrams(ranks, n_prefix) for ranks in blocks]
    return _f_measure(shared, n_prefix, n_suffix, n_gram=3)


def _ranked_blocks(prefixes: npt.ArrayLike, suffixes: npt.ArrayLike) -> Iterator[np.ndarray]:
    """Ranks of prefix and suffix side by side, so many rows at a time as fit the cache."""
    prefixes, suffixes = _check(prefixes), _check(suffixes)
    if len(prefixes) != len(suffixes):
        raise ValueError(f"{len(prefixes)} prefixes but {len(suffixes)} suffixes")
    for first in range(0, len(prefixes), _BLOCK_ROWS):
        rows = slice(first, first + _BLOCK_ROWS)
        yield _rank(prefixes[rows], suffixes[rows])


def _check(ids: npt.ArrayLike) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"integers with axes (sequences, tokens) wanted, got {ids.shape}")
    return ids


def _rank(prefixes: np.ndarray, suffixes: np.ndarray) -> np.ndarray:
    """Replace ids by their ranks, equal exactly where the ids of one row are equal.

    Each row is sorted with every id's place beside it, numbered along, and sorted back by place.

    Args:
        prefixes: ids, shape (rows, prefix length).
        suffixes: ids, shape (rows, suffix length).

    Returns:
        Ranks from 1, shape (rows, width = both lengths); uint8 where width is below 256, else
        uint32.
    """
    width = prefixes.shape[1] + suffixes.shape[1]
    n_bits = max(width - 1, 0).bit_length()
    kind = np.uint32 if n_bits <= 8 else np.uint64
    ids: npt.NDArray[Any] = np.empty((len(prefixes), width), dtype=kind)
    sides = _small_ids(prefixes, suffixes, 1 << (32 - n_bits))
    ids[:, : prefixes.shape[1]], ids[:, prefixes.shape[1] :] = sides
    np.left_shift(ids, n_bits, out=ids)
    np.bitwise_or(ids, np.arange(width, dtype=kind), out=ids)
    ids.sort(axis=1)
    line = ids.ravel()
    is_new: npt.NDArray[np.bool_] = np.empty(ids.shape, dtype=bool)
    np.greater_equal(line[1:] ^ line[:-1], 1 << n_bits, out=is_new.ravel()[1:])
    is_new[:, :1] = True
    return _sort_back(ids, n_bits, is_new)


def _small_ids(
    prefixes: np.ndarray, suffixes: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids from 0 to below a limit: themselves for any usual vocabulary, else numbered anew."""
    sides = prefixes, suffixes
    unsigned = [side.view(f"u{side.itemsize}") for side in sides]  # a negative id is a huge one
    if all(not side.size or side.max() < limit for side in unsigned):
        return sides
    both = np.concatenate(sides, axis=1)
    both = np.unique(both, return_inverse=True)[1].reshape(both.shape)
    return both[:, : prefixes.shape[1]], both[:, prefixes.shape[1] :]


def _sort_back(ids: np.ndarray, n_bits: int, is_new: np.ndarray) -> np.ndarray:
    """Number the sorted ids of each row, and bring the numbers to the ids' places.

    Args:
        ids: sorted, shape (rows, width), each with its place in the lowest bits.
        n_bits: how many bits a place takes.
        is_new: shape (rows, width): whether an id differs from the one before.
    """
    is_short = is_new.shape[1] < 256
    rank, both, most_bits = (np.uint8, np.uint16, 16) if is_short else (np.uint32, np.uint64, 64)
    pairs: npt.NDArray[Any] = ids.astype(both)
    np.left_shift(pairs, most_bits - n_bits, out=pairs)  # nothing but the place is left
    ranks = _count_up(is_new) if is_short else np.cumsum(is_new, axis=1, dtype=rank)
    np.bitwise_or(pairs, ranks, out=pairs)
    pairs.sort(axis=1)
    return pairs.astype(rank)  # the lower half


def _count_up(is_new: np.ndarray) -> np.ndarray:
    """Cumulative sum along rows below 256 wide, uint8: eight at a time, for speed."""
    n_rows, width = is_new.shape
    flags = np.zeros((n_rows, -(-width // 8) * 8), dtype=np.uint8)
    flags[:, :width] = is_new
    eights = flags.view("<u8")
    eights *= _ONES  # a byte becomes the sum of itself and the bytes below
    sums = eights >> 56
    before = np.cumsum(sums, axis=1)
    before -= sums
    before *= _ONES  # no byte overflows
    eights += before
    return flags[:, :width]


def _common_subsequence(ranks: np.ndarray, n_prefix: int) -> np.ndarray:
    """Length of the longest common subsequence of each row's two sides."""
    sides = _as_strings(ranks[:, :n_prefix]), _as_strings(ranks[:, n_prefix:])
    lengths: np.ndarray = cpdist(*sides, scorer=LCSseq.similarity, dtype=np.int64)
    return lengths


def _as_strings(ranks: np.ndarray) -> list[bytes] | list[str]:
    """One string a row, one byte or character a rank; none is 0, which NumPy would drop."""
    n_rows, length = ranks.shape
    if not ranks.size:
        return [b""] * n_rows
    kind = "S" if ranks.dtype == np.uint8 else "U"
    texts: list[bytes] = np.ascontiguousarray(ranks).view(f"{kind}{length}").ravel().tolist()
    return texts


def _common_trigrams(ranks: np.ndarray, n_prefix: int) -> np.ndarray:
    """Clipped number of common trigrams of each row's two sides.

    Sorted, the copies of a trigram in the prefix stand right before those in the suffix, from
    which they differ in the last bit. As many copies are common as equal ones reach from there to
    both sides.
    """
    n_rows, width = ranks.shape
    if min(n_prefix, width - n_prefix) < 3:
        return np.zeros(n_rows, dtype=np.int64)
    grams = _trigrams(ranks, n_prefix)
    grams.sort(axis=1)
    grams = grams.ravel()
    steps = np.empty_like(grams)
    np.bitwise_xor(grams[1:], grams[:-1], out=steps[:-1])
    steps[-1] = 2  # no common trigram
    places = np.flatnonzero(steps == 1)
    found = [places]
    reach = 0
    while places.size:
        reach += 1
        places = places[(steps[places - reach] | steps[places + reach]) == 0]
        found.append(places)
    return np.bincount(np.concatenate(found) // width, minlength=n_rows)


def _trigrams(ranks: np.ndarray, n_prefix: int) -> np.ndarray:
    """Every trigram of a row as one number, its last bit telling prefix from suffix.

    The four places where none begins hold numbers that are smaller and differ by more than one.
    """
    kind, n_bits = (np.uint32, 8) if ranks.dtype == np.uint8 else (np.uint64, 21)
    n_rows, width = ranks.shape
    grams = np.zeros(n_rows * width, dtype=kind)
    flat = ranks.reshape(-1)  # as one line; what runs over an end of a row is written over
    for shift in (2, 1, 0):
        grams[: len(flat) - 2] |= flat[2 - shift : len(flat) - shift].astype(kind)
        grams <<= 1 if shift == 0 else n_bits
    grams = grams.reshape(n_rows, width)
    grams[:, n_prefix:] |= 1
    for number, place in enumerate([n_prefix - 2, n_prefix - 1, width - 2, width - 1]):
        grams[:, place] = 2 * number
    return grams


def _f_measure(
    shared: Sequence[np.ndarray], n_prefix: int, n_suffix: int, *, n_gram: int
) -> npt.NDArray[np.float64]:
    """2·shared over the n-grams of both sides; 0 where a side has none."""
    sides = [max(length - n_gram + 1, 0) for length in (n_prefix, n_suffix)]
    counts = np.concatenate([*shared, np.empty(0, dtype=np.int64)])
    return np.asarray(2.0 * counts / max(sum(sides), 1), dtype=np.float64)
