"""The loop of ROUGE over the rows of a table, compiled; `rouge` says what it computes.

Places of a prefix are bits of words of 32, the first place the lowest bit of the first word: an id
is looked up among 32 places by one loop of fixed length, which the machine does side by side.
"""

import numpy as np
from numba import njit

_ONE, _ALL = np.uint32(1), np.uint32(0xFFFFFFFF)


@njit(nogil=True)
def compare_rows(
    prefixes: np.ndarray,
    suffixes: np.ndarray,
    in_order: np.ndarray,
    trigrams: np.ndarray,
    wanted: tuple[bool, bool],
) -> None:
    """Fill in each row's longest common subsequence and its clipped number of common trigrams.

    Args:
        prefixes: int32, contiguous, shape (rows, prefix length).
        suffixes: int32, contiguous, shape (rows, suffix length).
        in_order: int64, shape (rows,); written.
        trigrams: int64, shape (rows,); written.
        wanted: which of the two are.
    """
    n_words = (prefixes.shape[1] + 31) // 32
    places = np.zeros((n_words + 1, suffixes.shape[1]), np.uint32)  # the last word stays empty
    ids, carries = np.zeros(32, np.int32), np.zeros(suffixes.shape[1], np.uint64)
    same, free = np.zeros_like(places), np.zeros(n_words, np.uint32)
    for row in range(len(prefixes)):
        for word in range(n_words):
            _look_up(prefixes, suffixes, row, word, ids, places)
        if wanted[0]:
            in_order[row] = _longest_in_order(places, carries)
        if wanted[1]:
            trigrams[row] = _trigrams_in_both(places, same, free)


@njit(inline="always")
def _look_up(
    prefixes: np.ndarray,
    suffixes: np.ndarray,
    row: int,
    word: int,
    ids: np.ndarray,
    places: np.ndarray,
) -> None:
    """Find where each id of a suffix stands in one word of its prefix; `ids` is room for 32."""
    n_ids = min(32, prefixes.shape[1] - 32 * word)
    for place in range(n_ids):
        ids[place] = prefixes[row, 32 * word + place]
    real = np.uint32((np.uint64(1) << np.uint64(n_ids)) - np.uint64(1))
    for at in range(suffixes.shape[1]):
        wanted = suffixes[row, at]
        bits = np.uint32(0)
        for place in range(32):
            bits |= np.uint32(ids[place] == wanted) << np.uint32(place)
        places[word, at] = bits & real


@njit(inline="always")
def _longest_in_order(places: np.ndarray, carries: np.ndarray) -> int:
    """Length of the longest common subsequence: the bit-parallel recurrence of Hyyrö 2004.

    Args:
        places: where each id of the suffix stands in the prefix, shape (words + 1, suffix length).
        carries: room for what each id's sum carries into the next word, shape (suffix length,).
    """
    carries[:] = 0
    length = 0
    for word in range(len(places) - 1):
        rest = _ALL  # a bit falls to 0 where the subsequence grows
        for at in range(len(carries)):
            found = rest & places[word, at]
            total = np.uint64(rest) + np.uint64(found) + carries[at]
            carries[at] = total >> np.uint64(32)
            rest = np.uint32(np.uint32(total) | rest & ~found)
        taken = np.uint32(~rest)
        while taken:
            taken = np.uint32(taken & taken - _ONE)
            length += 1
    return length


@njit(inline="always")
def _trigrams_in_both(places: np.ndarray, same: np.ndarray, free: np.ndarray) -> int:
    """Count the suffix's trigrams, each against one place of the prefix that is still free.

    Args:
        places: as `_longest_in_order`.
        same: room for where each trigram begins in the prefix, shape (words, suffix length).
        free: room for the places that no trigram has taken, shape (words,).
    """
    n_words, n_trigrams = len(free), places.shape[1] - 2
    any_same = np.uint32(0)
    for word in range(n_words):
        free[word] = _ALL
        for at in range(n_trigrams):
            second = places[word, at + 1] >> _ONE | places[word + 1, at + 1] << np.uint32(31)
            third = places[word, at + 2] >> np.uint32(2) | places[word + 1, at + 2] << np.uint32(30)
            same[word, at] = places[word, at] & second & third
            any_same |= same[word, at]
    count = 0
    if any_same:
        for at in range(n_trigrams):
            for word in range(n_words):
                found = same[word, at] & free[word]
                if found:
                    free[word] &= found - _ONE | ~found  # the first of the places is taken
                    count += 1
                    break
    return count
