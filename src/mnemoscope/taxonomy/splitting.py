"""Find groups of sequences that must stay on one side of a split.

A group holds equal and near-duplicate sequences, overlapping windows of one document and what
the column ``group`` joins. A classifier that is tested on a near-copy of what it was trained on
looks better than it is.
"""

import numpy as np
import polars as pl

from mnemoscope.errors import UserError
from mnemoscope.sequences.schema import token_matrix
from mnemoscope.taxonomy.near_duplicates import SIMILARITY, connect, find_near_duplicates
from mnemoscope.taxonomy.sides import split_by_group

__all__ = ["find_groups", "split_by_group"]


def find_groups(frame: pl.DataFrame, *, similarity: float = SIMILARITY) -> pl.Series:
    """Give every sequence of a table its group.

    Args:
        frame: table with ``sequence_id`` and ``tokens`` (all of one length); ``document``,
            ``start``, ``end`` and ``group`` are used where they are and where they are not null.
        similarity: Jaccard similarity of the sets of token 5-grams from which two sequences are
            near duplicates.

    Returns:
        Series ``group`` of strings, never null: one id a connected component, the smallest
        ``sequence_id`` in it, so that the order of the rows plays no part. A sequence without
        relatives is a group of its own.

    Raises:
        UserError: no tokens, or not all of one length.

    >>> frame = pl.DataFrame({"sequence_id": [3, 1, 2], "tokens": [[7] * 6, [8] * 6, [7] * 6]})
    >>> find_groups(frame).to_list()
    ['2', '1', '2']
    """
    if "tokens" not in frame.columns:
        raise UserError(
            "the table has no column 'tokens', which is needed to find near duplicates. Add it, "
            "or split by row."
        )
    near = find_near_duplicates(token_matrix(frame), similarity=similarity)
    rows = np.arange(frame.height)
    edges = np.concatenate([_chain(near, rows), _chain_windows(frame), _chain_given(frame)])
    components = pl.Series("component", connect(frame.height, edges))
    first = pl.col("sequence_id").min().over("component")
    named = frame.select("sequence_id").with_columns(components)
    return named.select(first.cast(pl.String).alias("group")).to_series()


def _chain(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Connect each row with the first of its label, shape (n, 2)."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.column_stack([rows, rows[first[inverse]]])


def _chain_given(frame: pl.DataFrame) -> np.ndarray:
    """Connect the rows of each given group."""
    if "group" not in frame.columns:
        return np.empty((0, 2), dtype=np.int64)
    given = frame.select("group").with_row_index("row").drop_nulls()
    return _chain(given["group"].rank("dense").to_numpy(), given["row"].to_numpy())


def _chain_windows(frame: pl.DataFrame) -> np.ndarray:
    """Connect windows that overlap in one document; `end` is the first character after."""
    needed = ["document", "start", "end"]
    if not set(needed) <= set(frame.columns):
        return np.empty((0, 2), dtype=np.int64)
    windows = frame.select(needed).with_row_index("row").drop_nulls().sort("document", "start")
    reached = pl.col("end").cum_max().shift(1).over("document")
    overlaps = windows.select((pl.col("start") < reached).fill_null(False)).to_series()
    run = (~overlaps).cum_sum().to_numpy()
    return _chain(run, windows["row"].to_numpy())
