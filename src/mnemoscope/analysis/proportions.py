"""How the memorized sequences share out among the categories, beside the published shares.

Source: Prashanth et al. 2024, arXiv 2406.17746; section 1.15 of the related work (counts of
usvsnsp/semantic-filters, memories_deduped). A table over sizes holds one checkpoint only, a table
over checkpoints one size only: pooling both is the published aggregation artefact.
"""

from importlib.resources import files

import polars as pl

from mnemoscope.analysis.shares import share_of

__all__ = [
    "CATEGORIES",
    "PUBLISHED_LAST_ROW",
    "by_size",
    "by_step",
    "own_proportions",
    "pooled_last_row",
    "published_row",
    "published_shares",
]

CATEGORIES = {
    "Recite[5]": "recitation",
    "Reconstruct": "reconstruction",
    "Recollect": "recollection",
}
"""Our classes and the published names."""

PUBLISHED_LAST_ROW = (84.56, 4.10, 11.34)
"""What was published for 12b at the end of training, per cent: it pools every size."""


def _table() -> pl.DataFrame:
    return pl.read_csv(
        files("mnemoscope.analysis").joinpath("data", "proportions.csv").read_bytes()
    )


def by_size() -> pl.DataFrame:
    """Give counts and per cent of each category by size, all at the end of training.

    160m is left out by the paper.
    """
    return _table().filter(pl.col("step_share") == 1.0)


def by_step() -> pl.DataFrame:
    """Give per cent of each category through the training of 12b; the last row is 12b's own."""
    return (
        _table()
        .filter(pl.col("size") == "12b")
        .sort("step_share")
        .select("size", "step_share", *(f"{name}_percent" for name in CATEGORIES.values()))
    )


def published_shares() -> pl.DataFrame:
    """Give both published tables under one another.

    Returns:
        `over` (`size` or `training`), `size`, `step_share` and the per cent of each category; of
        the rows over size all are at the end, of those over training all are 12b's.
    """
    names = ("size", "step_share", *(f"{name}_percent" for name in CATEGORIES.values()))
    parts = {"size": by_size(), "training": by_step()}
    return pl.concat(
        part.select(pl.lit(over).alias("over"), *names) for over, part in parts.items()
    )


def pooled_last_row() -> tuple[float, ...]:
    """Pool every size at the last step, as was published for 12b: per cent of each category."""
    totals = by_size().select(pl.col(list(CATEGORIES.values())).sum()).row(0)
    return tuple(100 * total / sum(totals) for total in totals)


def own_proportions(category: pl.Series, memorized: pl.Series) -> pl.DataFrame:
    """Count the categories of the memorized sequences, the published ones or a taxonomy's own.

    Args:
        category: of every row, null where unknown.
        memorized: of every row.

    Returns:
        `category`, `n`, `share` with `low` and `high`.
    """
    chosen = category.filter(memorized.fill_null(False)).drop_nulls()
    rows = []
    is_theirs = set(chosen) <= set(CATEGORIES)
    for name in CATEGORIES if is_theirs else chosen.unique().sort():
        n = int((chosen == name).sum())
        share = share_of(n, len(chosen))
        rows.append(
            {"category": name, "n": n, "share": share.value}
            | {"low": share.low, "high": share.high}
        )
    return pl.DataFrame(rows, schema_overrides={"n": pl.Int64})


def published_row(split: str | None) -> dict[str, float] | None:
    """Give the published shares of the split that a study reads, None where it is another.

    Args:
        split: as `sequences.split`, for example `deduped_12b` or `memories_deduped_12b`.

    Returns:
        Share of each of our classes, a fraction.
    """
    if split is None or not split.removeprefix("memories_").startswith("deduped_"):
        return None
    row = by_size().filter(pl.col("size") == split.rpartition("_")[2])
    if row.is_empty():
        return None
    counts = {ours: row[name].item() for ours, name in CATEGORIES.items()}
    return {name: count / sum(counts.values()) for name, count in counts.items()}
