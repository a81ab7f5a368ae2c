"""Numbers that a sequence's text or tokens give by themselves: code length, entropy, frequency.

Nodes compare them with a threshold (`mnemoscope search`); no model is asked.
"""

from collections import Counter
from heapq import heapify, heappop, heappush
from math import ceil, log2

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.sequences.schema import token_matrix
from mnemoscope.sequences.table_rows import has_values

__all__ = [
    "TEXT_MEASURES",
    "huffman_length",
    "measure_text",
    "shannon_length",
    "token_entropy",
    "token_frequency",
]

TEXT_MEASURES = ("shannon_length", "token_entropy", "token_frequency")
"""The columns of `measure_text`."""

_ROUNDING = 1e-9


def measure_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Measure every sequence of a table.

    Args:
        frame: columns `text` and `tokens`; a measure whose column is absent is null throughout.

    Returns:
        Columns `TEXT_MEASURES`, float64, one row a row of the table.
    """
    nothing = pl.Series([None] * frame.height, dtype=pl.Float64)
    length = nothing
    if has_values(frame, "text"):
        texts = frame["text"]
        lengths = [None if text is None else shannon_length(text) for text in texts]
        length = pl.Series(lengths, dtype=pl.Float64)
    if not has_values(frame, "tokens"):
        return pl.DataFrame(dict(zip(TEXT_MEASURES, (length, nothing, nothing), strict=True)))
    tokens = token_matrix(frame)
    measured = (length, pl.Series(token_entropy(tokens)), pl.Series(token_frequency(tokens)))
    return pl.DataFrame(dict(zip(TEXT_MEASURES, measured, strict=True)))


def shannon_length(text: str) -> float:
    """Mean length of Shannon's code words of a text's characters, in bits a character.

    Σ p(c)·⌈−log2 p(c)⌉ over the characters c; 0 for a text of one character or none. The
    published column of these values is called ``huffman_coding_length``, which it is not.

    >>> round(shannon_length("aab"), 6)
    1.333333
    """
    counts, total = Counter(text).values(), len(text)
    if len(counts) < 2:
        return 0.0
    return sum(n / total * ceil(log2(total / n) - _ROUNDING) for n in counts)


def huffman_length(text: str) -> float:
    """Mean length of Huffman's code words of a text's characters, in bits a character.

    What the published column is named for: from the entropy to below one bit more, and never
    above `shannon_length`; 0 for a text of one character or none.

    >>> huffman_length("aaab")
    1.0
    """
    heap = list(Counter(text).values())
    heapify(heap)
    bits = 0
    while len(heap) > 1:  # each merging makes all words below it one bit longer
        merged = heappop(heap) + heappop(heap)
        bits += merged
        heappush(heap, merged)
    return bits / max(len(text), 1)


def token_entropy(tokens: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Entropy of each sequence's own tokens: 0 where they are all equal.

    Args:
        tokens: shape (sequences, length), integer.

    Returns:
        Bits, shape (sequences,), from 0 to log2(length).
    """
    ordered = np.sort(np.asarray(tokens), axis=1)
    n_rows, length = ordered.shape
    starts = np.ones((n_rows, length), dtype=bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.flatnonzero(starts.ravel())
    counts = np.diff(np.append(first, n_rows * length))
    share = counts / length
    entropy = np.bincount(first // length, weights=-share * np.log2(share), minlength=n_rows)
    return np.maximum(entropy, 0.0).astype(np.float64)


def token_frequency(tokens: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Median over a sequence's tokens of how frequent each is in the whole table.

    Args:
        tokens: shape (sequences, length), integer.

    Returns:
        Per cent of all tokens of the table, shape (sequences,).
    """
    table = np.asarray(tokens)
    _, place, counts = np.unique(table, return_inverse=True, return_counts=True)
    percent = 100.0 * counts[place.reshape(table.shape)] / max(table.size, 1)
    median: npt.NDArray[np.float64] = np.median(percent, axis=1)
    return median
