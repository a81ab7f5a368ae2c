"""Label a table file under many taxonomies in one pass: `mnemoscope label IN -t NAME -o OUT`."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mnemoscope.errors import UserError
from mnemoscope.sequences.lazy_table import scan_table, sink_table
from mnemoscope.sequences.schema import check_columns, check_ids
from mnemoscope.taxonomy.catalogue import CATALOGUE, RHO, load_taxonomies
from mnemoscope.taxonomy.labels import count_classes, label_lazily, missing_columns
from mnemoscope.taxonomy.names import Taxonomy

__all__ = ["TableLabels", "check_features", "label_table"]

_SHARE = (0.0, 1.0)
_RANGES = {
    "memorization_score": _SHARE,
    "rouge_l": _SHARE,
    "rouge_3": _SHARE,
    "duplicates": (0.0, float("inf")),
}


@dataclass(frozen=True)
class TableLabels:
    """What was written.

    Attributes:
        counts: sequences by class (`count_classes`) under every taxonomy that could be labelled.
        unlabelled: the columns that the table lacks, by the name of the taxonomy that needs them;
            its labels are null throughout.
    """

    counts: dict[str, dict[str, int]]
    unlabelled: dict[str, tuple[str, ...]]


def label_table(source: Path, out: Path, names: Sequence[str]) -> TableLabels:
    """Write a table of ``sequence_id`` and one column of classes a taxonomy, by its name.

    A taxonomy named by itself whose feature columns are missing is refused; one that the words
    ``catalogue`` or ``rho`` stand for is null throughout, unless all are that were asked for.

    Args:
        source: `.parquet` or `.jsonl`, with the feature columns.
        out: table to write.
        names: as for `load_taxonomies`.

    Raises:
        UserError: as `load_taxonomies` and `label_lazily`.
        DamagedDataError: the source is torn.
        NoRoomError: the disk is full.
    """
    taxonomies = load_taxonomies(names)
    table = scan_table(source)
    check_features(table, where=str(source))
    lacking = missing_columns(table.collect_schema().names(), taxonomies)
    named = [name for name in names if name.strip() not in (CATALOGUE, RHO)]
    needed = load_taxonomies(named) if named else []
    label_lazily(table, taxonomies if len(lacking) == len(taxonomies) else needed)
    labels = label_lazily(table, taxonomies, keep=["sequence_id"], allow_missing=True)
    sink_table(out, labels, where=str(source))
    return TableLabels(_count(out, taxonomies, lacking), lacking)


def check_features(table: pl.LazyFrame, *, where: str) -> None:
    """Refuse a table whose ids or measures cannot be what their columns are named for.

    Args:
        table: from `scan_table`.
        where: what to name in an error.

    Raises:
        UserError: no sequence_id, one twice or none; a share outside [0, 1], a count below 0.
    """
    names = table.collect_schema().names()
    check_columns(table.head(1).collect(), "sequence_id", where=where)
    check_ids(table.select("sequence_id").collect().to_series(), where)
    ranges = {name: limits for name, limits in _RANGES.items() if name in names}
    if not ranges:
        return
    found = table.select(
        column
        for name in ranges
        for column in (
            pl.col(name).cast(pl.Float64).fill_nan(None).min().alias(f"{name}-low"),
            pl.col(name).cast(pl.Float64).fill_nan(None).max().alias(f"{name}-high"),
        )
    ).collect()
    for name, (low, high) in ranges.items():
        for value in (found[f"{name}-low"].item(), found[f"{name}-high"].item()):
            if value is not None and not low <= value <= high:
                wanted = f"between {low:g} and {high:g}" if high < float("inf") else "at least 0"
                raise UserError(
                    f"{where}, column '{name}': {value:g} where a value {wanted} is needed."
                )


def _count(
    out: Path, taxonomies: Sequence[Taxonomy], lacking: Container[str]
) -> dict[str, dict[str, int]]:
    """Sequences by class, of the taxonomies that could be labelled, one at a time."""
    table = scan_table(out)
    return {
        one.name: count_classes(table.select(one.name).collect().to_series(), one.classes)
        for one in taxonomies
        if one.name not in lacking
    }
