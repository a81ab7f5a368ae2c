"""The category a sequence falls into by its own features, memorized or not."""

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.errors import UserError
from mnemoscope.taxonomy.catalogue import PRASHANTH
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy

__all__ = ["PRASHANTH", "categories_of", "kinds_of", "refuse_one_sided", "refuse_unknown"]

_CODE, _TEXT = "code", "text"


def categories_of(rows: pl.DataFrame, taxonomy: str = PRASHANTH) -> pl.Series:
    """Give each row the class it has, or would have were it memorized.

    Args:
        rows: with the features that the taxonomy needs.
        taxonomy: its name.

    Returns:
        Series `category` of strings; null where a feature is missing.

    Raises:
        UserError: a column is missing.
    """
    asked = rows.with_columns(is_memorized=pl.lit(True))
    return label_sequences(asked, parse_taxonomy(taxonomy)).alias("category")


def kinds_of(rows: pl.DataFrame) -> pl.Series:
    """Say of each row whether it is `code` or `text`; null where that is unknown."""
    if "is_code" not in rows.columns:
        return pl.Series("kind", [None] * rows.height, dtype=pl.String)
    is_code = pl.col("is_code")
    kind = pl.when(is_code).then(pl.lit(_CODE)).when(~is_code).then(pl.lit(_TEXT))
    return rows.select(kind.alias("kind")).to_series()


def refuse_unknown(rows: pl.DataFrame, category: pl.Series, taxonomy: str, *, where: str) -> None:
    """Refuse rows of which none has a category, since a feature is missing throughout.

    Args:
        rows: what the categories are of.
        category: from `categories_of`.
        taxonomy: its name.
        where: the analysis, for the message.

    Raises:
        UserError: every category is null.
    """
    if category.null_count() < len(category):
        return
    columns = sorted(parse_taxonomy(taxonomy).columns)
    missing = [name for name in columns if rows[name].null_count() == rows.height]
    raise UserError(
        f"{where}: no sequence has a category of '{taxonomy}', since {', '.join(missing)} is not "
        "known of any. Give the column, count duplicates (--set features.corpus=TEXTS in "
        "'mnemoscope features'), or choose categories without it: --set taxonomy=NAMES."
    )


def refuse_one_sided(memorized: npt.NDArray[np.bool_], minimum: int, *, where: str) -> None:
    """Refuse rows of which too few are memorized, or too few are not.

    Args:
        memorized: shape (n,).
        minimum: of each.
        where: the analysis, for the message.

    Raises:
        UserError: fewer than `minimum` of either.
    """
    n_yes = int(memorized.sum())
    n_no = len(memorized) - n_yes
    if min(n_yes, n_no) < minimum:
        raise UserError(
            f"{where}: {n_yes} memorized sequences and {n_no} others; {minimum} of each are "
            "needed. Add sequences, or lower it with --set minimum=N."
        )
