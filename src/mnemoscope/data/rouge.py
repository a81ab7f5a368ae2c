"""ROUGE-L and ROUGE-3 of prefix and suffix on token ids, for whole tables at a time.

RapidFuzz finds the longest common subsequences, of ids written as characters; a sort of each row
brings the trigrams of both sides together.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_BLOCK_IDS = 1 << 19  # looked at together; no more different ids than there are characters
_MOST_ID = 0x10FFFF - 0x801  # the last character, less the surrogates and the NUL left out


class Rouge(NamedTuple):
    """Both measures of the same pairs."""

    rouge_l: npt.NDArray[np.float64]
    rouge_3: npt.NDArray[np.float64]


def rouge_scores(prefixes: npt.ArrayLike, suffixes: npt.ArrayLike) -> Rouge:
    """`rouge_l` and `rouge_3` of the same pairs."""
    return Rouge(rouge_l(prefixes, suffixes), rouge_3(prefixes, suffixes))


def rouge_l(prefixes: npt.ArrayLike, suffixes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """ROUGE-L F of each prefix and its suffix, in [0, 1], shape (sequences,).

    F = 2·LCS / (prefix length + suffix length), so LCS / 32 for halves of 32; LCS is the longest
    common subsequence of the token ids, integers of shape (sequences, tokens). Raises ValueError:
    not two integer arrays of two axes with equally many sequences.

    Source: Lin 2004; equal to the package rouge-score on ids joined by blanks, so 0 for no ids.

    >>> rouge_l([[1, 2, 3, 4]], [[1, 9, 3, 4]])
    array([0.75])
    """
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cpdist

    before, after = _checked(prefixes, suffixes)
    if not min(before.shape[1], after.shape[1]):
        return np.zeros(len(before))
    counts = [
        cpdist(*map(_as_texts, block), scorer=LCSseq.similarity, dtype=np.int32)
        for block in _blocks(before, after)
    ]
    return _f_measure(counts, before.shape[1], after.shape[1])


def rouge_3(prefixes: npt.ArrayLike, suffixes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """ROUGE-3 F of each prefix and its suffix; arguments and errors as `rouge_l`.

    F = 2·common / (trigrams of the prefix + of the suffix), so common / 30 for halves of 32;
    a trigram counts as often as it stands in both (clipped). Halves without a trigram give 0.

    >>> rouge_3([[1, 2, 3, 4]], [[1, 2, 3, 9]])
    array([0.5])
    """
    before, after = _checked(prefixes, suffixes)
    sides = [max(ids.shape[1] - 2, 0) for ids in (before, after)]
    if not min(sides):
        return np.zeros(len(before))
    return _f_measure([_common_trigrams(*block) for block in _blocks(before, after)], *sides)


def _checked(prefixes: npt.ArrayLike, suffixes: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    before, after = np.asarray(prefixes), np.asarray(suffixes)
    for ids in (before, after):
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise ValueError(f"integers with axes (sequences, tokens) wanted, got {ids.shape}")
    if len(before) != len(after):
        raise ValueError(f"{len(before)} prefixes but {len(after)} suffixes")
    return before, after


def _blocks(before: np.ndarray, after: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Give blocks of rows of both sides; ids lie in 0 to `_MOST_ID`, equal ids stay equal."""
    n_rows = max(_BLOCK_IDS // max(before.shape[1] + after.shape[1], 1), 1)
    for first in range(0, len(before), n_rows):
        block = [ids[first : first + n_rows] for ids in (before, after)]
        if any(ids.size and (ids.min() < 0 or ids.max() > _MOST_ID) for ids in block):
            both = np.concatenate(block, axis=1)
            both = np.unique(both, return_inverse=True)[1].reshape(both.shape)
            block = [both[:, : before.shape[1]], both[:, before.shape[1] :]]
        yield block


def _as_texts(ids: np.ndarray) -> list[str]:
    """Each row as a text of one character an id: neither NUL, which ends it, nor a surrogate."""
    characters = np.ascontiguousarray(ids, dtype=np.uint32) + 1
    characters += (characters >= 0xD800) * np.uint32(0x800)
    texts: list[str] = characters.view(f"U{ids.shape[1]}").ravel().tolist()
    return texts


def _common_trigrams(before: np.ndarray, after: np.ndarray) -> npt.NDArray[np.int64]:
    """Trigrams that stand in both rows, each as often as in the row that has it less often."""
    keys = np.concatenate([_trigrams(before) << np.uint64(1), _trigrams(after) << np.uint64(1)], 1)
    keys[:, before.shape[1] - 2 :] |= np.uint64(1)  # the lowest bit tells the side
    keys.sort(axis=1)
    is_first = np.ones(keys.shape, dtype=bool)
    is_first[:, 1:] = keys[:, 1:] >> np.uint64(1) != keys[:, :-1] >> np.uint64(1)
    starts = np.flatnonzero(is_first)
    n_after = np.add.reduceat((keys & np.uint64(1)).astype(np.int64).ravel(), starts)
    n_before = np.diff(np.append(starts, keys.size)) - n_after
    common = np.bincount(starts // keys.shape[1], np.minimum(n_before, n_after), len(keys))
    return common.astype(np.int64)


def _trigrams(ids: np.ndarray) -> npt.NDArray[np.uint64]:
    """Three neighbours in one number of 63 bits."""
    ids = ids.astype(np.uint64)
    packed: npt.NDArray[np.uint64] = (
        ids[:, :-2] << np.uint64(42) | ids[:, 1:-1] << np.uint64(21) | ids[:, 2:]
    )
    return packed


def _f_measure(counts: list[np.ndarray], n_before: int, n_after: int) -> npt.NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *counts]) * 2.0 / max(n_before + n_after, 1)
