"""The groups that results are shown by: Guess, Recall and Non-Memo, where features are there."""

import polars as pl

from mnemoscope.analysis.classes import categories_of

__all__ = ["groups_of", "members"]

_TAXONOMY = "Non-Memo, Guess, Recall"
_NEEDED = ("is_incrementing", "is_repeating", "rouge_l", "rouge_3")
_ORDER = ("Guess", "Recall", "memorized", "Non-Memo")


def groups_of(rows: pl.DataFrame) -> pl.Series:
    """Give each row its group.

    Args:
        rows: with `is_memorized`; with the features of Guess where they were computed.

    Returns:
        Series `group`: `Guess`, `Recall` or `Non-Memo`; `memorized` for a memorized row whose
        features are missing.
    """
    has_features = all(name in rows.columns for name in _NEEDED)
    kinds = categories_of(rows, _TAXONOMY) if has_features else pl.Series([None] * rows.height)
    short = kinds.cast(pl.String).str.split("[").list.first().fill_null("memorized")
    is_memorized = rows["is_memorized"]
    return pl.select(
        pl.when(is_memorized).then(short).otherwise(pl.lit("Non-Memo")).alias("group")
    ).to_series()


def members(groups: pl.Series) -> dict[str, list[int]]:
    """Row numbers of each group that has any, in a fixed order."""
    return {
        name: [at for at, one in enumerate(groups) if one == name]
        for name in _ORDER
        if (groups == name).any()
    }
