"""How often two tokens stand side by side: counts of 2-grams in the corpus or in the study itself.

Source: Chen, Han, Miyao 2024, arXiv 2405.11577; section 4 of the related work, whose dictionaries
hold 1-grams or 2-grams.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.analysis.inputs import AnalysisInputs
from mnemoscope.progress import track
from mnemoscope.sequences.schema import token_matrix
from mnemoscope.sequences.suffix_index import SuffixIndex

__all__ = ["PairCounts", "count_pairs"]


class PairCounts(NamedTuple):
    """Counts of the 2-grams of some sequences.

    Attributes:
        each: of the 2-gram that ends at every token but the first, int64, shape (n, T - 1).
        total: 2-grams in all that was counted.
    """

    each: npt.NDArray[np.int64]
    total: int


def count_pairs(inputs: AnalysisInputs, tokens: npt.NDArray[np.int32]) -> PairCounts:
    """Count the 2-grams of sequences in the corpus, or in the study's sequences without one.

    No 2-gram spans two documents, or two sequences.

    Args:
        inputs: whose corpus is read; its counts are kept.
        tokens: sequences, shape (n, T).
    """
    pairs = np.stack([tokens[:, :-1], tokens[:, 1:]], axis=-1).reshape(-1, 2)
    different, which = np.unique(pairs, axis=0, return_inverse=True)

    def make() -> pl.DataFrame:
        index, total = SuffixIndex(different), 0
        for piece, ends in _pieces(inputs):
            index.count(piece, ends)
            total += int(np.maximum(np.diff(ends, prepend=0) - 1, 0).sum())
        found = pl.DataFrame({"count": index.counts_of_rows()})
        return found.with_columns(total=pl.lit(total, dtype=pl.Int64))

    if inputs.corpus is None:
        kept = make()
    else:
        basis = {
            "corpus": inputs.corpus.identity(),
            "pairs": hashlib.sha256(different.tobytes()).hexdigest(),
        }
        kept = inputs.shelf("pairs", basis, make)
    each = kept["count"].to_numpy()[which.ravel()].reshape(len(tokens), -1)
    return PairCounts(each, int(kept["total"][0]))


def _pieces(inputs: AnalysisInputs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens and the ends of their documents."""
    if inputs.corpus is None:
        table = token_matrix(inputs.table)
        yield table.ravel(), np.arange(1, len(table) + 1) * table.shape[1]
        return
    from mnemoscope.sequences.corpus import Place

    with track("Counting 2-grams", total=inputs.corpus.n_tokens, unit="tokens") as progress:
        for chunk, _ in inputs.corpus.chunks(Place(), 2):
            ends = np.array([len(chunk.tokens)]) if chunk.ends is None else chunk.ends
            yield chunk.tokens, ends
            progress.advance(chunk.n_new)
