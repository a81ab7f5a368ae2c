"""Count how often each suffix stands in a corpus of token ids: exactly, at any offset.

Of arrays at hand; `count_corpus` does it for files, resumably.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mnemoscope.progress import track
from mnemoscope.sequences.corpus_chunks import group_documents
from mnemoscope.sequences.suffix_index import SuffixIndex

__all__ = ["count_duplicates"]


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
            training row or the whole corpus; memory-mapped ones are read a piece at a time).

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
    index = SuffixIndex(suffixes)
    arrays = ((_integers(tokens, n_axes=1), 0) for tokens in corpus)
    with track("duplicates", unit="corpus tokens") as progress:
        for chunk in group_documents(arrays):
            index.count(chunk.tokens, chunk.ends)
            progress.advance(chunk.n_new)
    return index.counts_of_rows()


def _integers(values: npt.ArrayLike, *, n_axes: int) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != n_axes or (array.dtype.kind not in "iu" and array.size):
        raise ValueError(
            f"integer token ids with {n_axes} axes wanted, got {array.dtype} {array.shape}"
        )
    return array
