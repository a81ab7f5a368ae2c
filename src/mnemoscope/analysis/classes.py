"""The category a sequence falls into by its own features, memorized or not."""

import polars as pl

from mnemoscope.taxonomy.catalogue import PRASHANTH
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy

__all__ = ["PRASHANTH", "categories_of", "kinds_of"]

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
