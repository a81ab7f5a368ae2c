"""Padded sequences in a study: captured without their padding, refused by all that reads text."""

import numpy as np
import polars as pl

from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError
from mnemoscope.study.folder import Study

_MASK = "attention_mask"


def whole_mask(table: pl.DataFrame) -> np.ndarray | None:
    """The column `attention_mask` of a table, int32 (rows, length); None where nothing is padded.

    Raises:
        UserError: lists of unequal lengths, a null or a number below 0 in them.
    """
    column = table.get_column(_MASK, default=None)
    if column is None or column.null_count() == len(column):
        return None
    mask = token_matrix(table.select(_MASK), column=_MASK)
    return None if (mask == 1).all() else mask


def mask_of(table: pl.DataFrame, wanted: pl.DataFrame) -> np.ndarray | None:
    """The mask of some rows of a table, in their order, see `whole_mask`.

    Args:
        table: a study's sequences.
        wanted: column `sequence_id`.
    """
    if _MASK not in table.columns:
        return None
    masks = table.select("sequence_id", _MASK)
    return whole_mask(wanted.join(masks, on="sequence_id", how="left", maintain_order="left"))


def refuse_padding(study: Study) -> None:
    """Refuse a study with padded rows where prefix and suffix must be whole.

    Raises:
        UserError: says how many rows are padded.
    """
    refuse_padded_rows(study.sequences, where=str(study.folder))


def refuse_padded_rows(table: pl.DataFrame, *, where: str) -> None:
    """Refuse a table with padded rows where prefix and suffix must be whole.

    Args:
        table: of sequences.
        where: the file or the study that it stands in.

    Raises:
        UserError: says how many rows are padded.
    """
    mask = whole_mask(table)
    if mask is not None:
        n_padded = int((mask == 0).any(axis=1).sum())
        raise UserError(
            f"{where}: {n_padded:,} of {len(mask):,} sequences are padded: 'mnemoscope "
            "capture' reads them, prefix and suffix of equal length they have not. Found a study "
            "of the others, or with a smaller sequences.length."
        )
