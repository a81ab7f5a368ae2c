"""Find suffixes of token ids in a stream of tokens: a rolling hash proposes, a comparison decides.

Memory goes with the suffixes, never with the corpus: about 200 bytes for one of 32 tokens.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["SuffixIndex"]

_BASE = 0x9E3779B1  # 2^32 / golden ratio: odd, its bits well mixed
_MIXER = 0x85EBCA6B  # odd; spreads the small ids over 32 bits
# Tokens hashed at a time: the arrays of a step (128 kB each) stay in the second-level cache.
_BLOCK_TOKENS = 1 << 15
# Bits of the bitmap per suffix, as a power of 2: at 2^7 under one position in a hundred passes.
_SPARSENESS = 7
_MIN_BITS, _MAX_BITS = 16, 30


class SuffixIndex:
    """The distinct suffixes in the order of their hashes, and how often each was seen.

    Hashes have 32 bits: half the memory traffic of 64, and as exact, since every hit is compared
    token by token; of two million suffixes one position in two thousand is compared in vain.

    Attributes:
        k: tokens a suffix.
        counts: occurrences so far of each distinct suffix, int64; may be set to go on from there.
    """

    def __init__(self, suffixes: np.ndarray) -> None:
        """Sort the suffixes.

        Args:
            suffixes: token ids, shape (sequences, k), any integer type; kept, not copied.
        """
        self.k = suffixes.shape[1]
        self._rows = suffixes
        hashes = _hash_rows(suffixes)
        self._hashes, self._heads, self._which = _number(suffixes, hashes)
        self._most_equal = _longest_run(self._hashes)
        self._n_bits = _bitmap_bits(len(self._hashes))
        self._bitmap = _fill_bitmap(self._hashes, self._n_bits)
        self.counts: npt.NDArray[np.int64] = np.zeros(len(self._hashes), dtype=np.int64)

    def counts_of_rows(self) -> npt.NDArray[np.int64]:
        """Occurrences so far, one a row of the suffixes given; equal rows have equal counts."""
        counts: npt.NDArray[np.int64] = self.counts[self._which]
        return counts

    def count(self, tokens: np.ndarray, ends: np.ndarray | None = None) -> None:
        """Add the occurrences in a piece of the corpus, overlapping ones each.

        Args:
            tokens: token ids, one axis, any integer type; may be memory-mapped.
            ends: positions after the last token of each document, rising, the last equal to
                ``len(tokens)``; no occurrence spans two documents. None for a single document.
        """
        if not len(self._hashes):
            return
        for first in range(0, len(tokens) - self.k + 1, _BLOCK_TOKENS):
            block = np.asarray(tokens[first : first + _BLOCK_TOKENS + self.k - 1])
            hashes = _rolling_hashes(block, self.k)
            positions = self._candidates(hashes)
            if ends is not None:
                positions = positions[_lies_in_one(positions + first, ends, self.k)]
            if len(positions):
                self._compare(block, hashes[positions], positions)

    def _candidates(self, hashes: np.ndarray) -> np.ndarray:
        """Positions whose hash may be one of ours, by the bitmap."""
        bits = hashes >> np.uint32(32 - self._n_bits)
        is_set = self._bitmap.take(bits >> np.uint32(3))
        is_set >>= (bits & np.uint32(7)).astype(np.uint8)
        is_set &= np.uint8(1)
        return np.flatnonzero(is_set)

    def _compare(self, block: np.ndarray, hashes: np.ndarray, positions: np.ndarray) -> None:
        """Count the positions that hold a suffix, token by token."""
        windows = np.lib.stride_tricks.sliding_window_view(block, self.k)
        places = np.searchsorted(self._hashes, hashes)
        for _ in range(self._most_equal):  # suffixes of one hash stand side by side
            alive = places < len(self._hashes)
            alive[alive] = self._hashes[places[alive]] == hashes[alive]
            places, hashes, positions = places[alive], hashes[alive], positions[alive]
            if not len(places):
                return
            is_equal = (windows[positions] == self._rows[self._heads[places]]).all(axis=1)
            np.add.at(self.counts, places[is_equal], 1)
            places = places + 1


def _number(rows: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number the distinct rows in the order of their hashes.

    Returns:
        For each distinct row its hash and the first row that is it; for each row its number.

    Each round settles the rows that equal the first one left of their hash; a second round is
    needed only where different rows share a hash.
    """
    left = np.argsort(hashes, kind="stable")
    which = np.empty(len(rows), dtype=np.int64)
    heads: list[np.ndarray] = []
    n_heads = 0
    while len(left):
        is_head = np.ones(len(left), dtype=bool)
        is_head[1:] = hashes[left[1:]] != hashes[left[:-1]]
        number = np.cumsum(is_head) - 1
        found = left[is_head]
        is_equal = _are_equal(rows, left, found[number])
        which[left[is_equal]] = number[is_equal] + n_heads
        heads.append(found)
        n_heads += len(found)
        left = left[~is_equal]
    head = np.concatenate(heads) if heads else np.empty(0, dtype=np.int64)
    order = np.argsort(hashes[head], kind="stable")
    place = np.empty(n_heads, dtype=np.int64)
    place[order] = np.arange(n_heads)
    return hashes[head[order]], head[order], place[which]


def _are_equal(rows: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether the rows numbered on the left equal those on the right, one column at a time."""
    is_equal = np.ones(len(left), dtype=bool)
    others = np.flatnonzero(left != right)
    left, right = left[others], right[others]
    for column in rows.T:
        is_equal[others] &= column[left] == column[right]
    return is_equal


def _longest_run(hashes: np.ndarray) -> int:
    """Largest number of distinct suffixes that share a hash; nearly always 1 or 2."""
    borders = np.flatnonzero(hashes[1:] != hashes[:-1]) + 1
    return int(np.diff([0, *borders, len(hashes)]).max())


def _bitmap_bits(n: int) -> int:
    """Leading bits of a hash that the bitmap looks at."""
    return min(max(n.bit_length() + _SPARSENESS, _MIN_BITS), _MAX_BITS)


def _fill_bitmap(hashes: np.ndarray, n_bits: int) -> np.ndarray:
    """A bit for every beginning of a hash, eight to a byte; the leading bits are the best mixed."""
    bits = hashes >> np.uint32(32 - n_bits)
    bitmap = np.zeros(1 << (n_bits - 3), dtype=np.uint8)
    np.bitwise_or.at(bitmap, bits >> np.uint32(3), np.uint8(1) << (bits & 7).astype(np.uint8))
    return bitmap


def _lies_in_one(positions: np.ndarray, ends: np.ndarray, k: int) -> np.ndarray:
    """Whether the k tokens from each position on belong to one document."""
    return positions + k <= ends[np.searchsorted(ends, positions, side="right")]


def _hash_rows(rows: np.ndarray) -> np.ndarray:
    """Hash of every row, in parts that need little memory."""
    n, k = rows.shape
    hashes = np.empty(n, dtype=np.uint32)
    step = max(1, _BLOCK_TOKENS // k)
    for first in range(0, n, step):
        part = rows[first : first + step]
        hashes[first : first + step] = _rolling_hashes(part.reshape(-1), k)[::k]
    return hashes


def _rolling_hashes(tokens: np.ndarray, k: int) -> np.ndarray:
    """Hash of the k tokens from each position on, modulo 2^32; at least k tokens are needed.

    Doubling: the hash of 2m tokens is that of the first m times base^m plus that of the second.
    """
    piece, length = _mix(tokens), 1
    power = np.array([_BASE], dtype=np.uint32)  # arrays wrap around silently, scalars warn
    result, covered = None, 0
    while True:
        if k & length:
            n = len(tokens) - covered - length + 1
            newest = piece[covered : covered + n]
            result = newest if result is None else result[:n] * power + newest
            covered += length
        if 2 * length > k:
            assert result is not None
            return result
        doubled = piece[:-length] * power
        doubled += piece[length:]
        piece = doubled
        power = power * power
        length *= 2


def _mix(tokens: np.ndarray) -> np.ndarray:
    """Spread token ids over 32 bits, so that neighbours and zeros leave traces."""
    mixed = tokens.astype(np.uint32)
    mixed += np.uint32(1)
    mixed *= np.uint32(_MIXER)
    mixed ^= mixed >> np.uint32(15)
    return mixed
