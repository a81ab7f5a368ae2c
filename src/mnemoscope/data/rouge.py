"""ROUGE-L and ROUGE-3 of prefix and suffix on token ids, for whole tables at a time.

How much of the suffix the prefix already shows, in order (ROUGE-L) or as runs of three
(ROUGE-3): what the Guess nodes ask.

Both follow from where each id of the suffix stands in the prefix, kept as bits, one for each place
of the prefix: the longest common subsequence by the bit-parallel recurrence of Hyyrö 2004, common
trigrams by three neighbours' bits laid over each other. Numba compiles the loop over the rows when
it is first used.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_BLOCK_ROWS = 4096


class Rouge(NamedTuple):
    """Both measures of the same pairs."""

    rouge_l: npt.NDArray[np.float64]
    rouge_3: npt.NDArray[np.float64]


def rouge_scores(prefixes: npt.ArrayLike, suffixes: npt.ArrayLike) -> Rouge:
    """ROUGE-L and ROUGE-3 for little more than one of them; as `rouge_l` and `rouge_3`."""
    lengths, (in_order, trigrams) = _compare(prefixes, suffixes, in_order=True, trigrams=True)
    return Rouge(_f_measure(in_order, *lengths, n_gram=1), _f_measure(trigrams, *lengths, n_gram=3))


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
    lengths, (counts, _) = _compare(prefixes, suffixes, in_order=True, trigrams=False)
    return _f_measure(counts, *lengths, n_gram=1)


def rouge_3(prefixes: npt.ArrayLike, suffixes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """ROUGE-3 F of each prefix and its suffix.

    F = 2·common / (trigrams of the prefix + of the suffix), so common / 30 for halves of 32;
    a trigram counts as often as it stands in both (clipped). Halves without a trigram give 0.

    Args and errors as `rouge_l`.

    >>> rouge_3([[1, 2, 3, 4]], [[1, 2, 3, 9]])
    array([0.5])
    """
    lengths, (_, counts) = _compare(prefixes, suffixes, in_order=False, trigrams=True)
    return _f_measure(counts, *lengths, n_gram=3)


def _compare(
    prefixes: npt.ArrayLike, suffixes: npt.ArrayLike, *, in_order: bool, trigrams: bool
) -> tuple[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """Both sides' lengths, and what is asked of each row's ids in order and of its trigrams.

    Rows are copied side by side so many at a time as the cache holds.
    """
    from mnemoscope.data.rouge_kernel import compare_rows  # compiled: a second

    before, after = _checked(prefixes), _checked(suffixes)
    if len(before) != len(after):
        raise ValueError(f"{len(before)} prefixes but {len(after)} suffixes")
    if not (_fits(before) and _fits(after)):
        before, after = _numbered(before, after)
    longest, common = (np.zeros(len(before), dtype=np.int64) for _ in range(2))
    for first in range(0, len(before), _BLOCK_ROWS):
        rows = slice(first, first + _BLOCK_ROWS)
        left, right = (np.ascontiguousarray(ids[rows], np.int32) for ids in (before, after))
        compare_rows(left, right, longest[rows], common[rows], (in_order, trigrams))
    return (before.shape[1], after.shape[1]), (longest, common)


def _checked(ids: npt.ArrayLike) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"integers with axes (sequences, tokens) wanted, got {ids.shape}")
    return ids


def _fits(ids: np.ndarray) -> bool:
    """Whether int32 holds them all."""
    limits = np.iinfo(np.int32)
    return np.can_cast(ids.dtype, np.int32) or (
        not ids.size or bool(ids.min() >= limits.min and ids.max() <= limits.max)
    )


def _numbered(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids numbered anew from 0, equal where they were."""
    both = np.concatenate((before, after), axis=1)
    both = np.unique(both, return_inverse=True)[1].reshape(both.shape)
    return both[:, : before.shape[1]], both[:, before.shape[1] :]


def _f_measure(
    counts: np.ndarray, n_prefix: int, n_suffix: int, *, n_gram: int
) -> npt.NDArray[np.float64]:
    """2·counts over the n-grams of both sides; 0 where a side has none."""
    sides = [max(length - n_gram + 1, 0) for length in (n_prefix, n_suffix)]
    return np.asarray(2.0 * counts / max(sum(sides), 1), dtype=np.float64)
