"""Label a table file under many taxonomies in one pass: `mnemoscope label IN -t NAME -o OUT`."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnemoscope.sequences.lazy_table import scan_table, sink_table
from mnemoscope.sequences.schema import check_columns
from mnemoscope.taxonomy.catalogue import CATALOGUE, RHO, load_taxonomies
from mnemoscope.taxonomy.labels import count_classes, label_lazily, missing_columns
from mnemoscope.taxonomy.names import Taxonomy

__all__ = ["TableLabels", "label_table"]


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
    check_columns(table.head(1).collect(), "sequence_id", where=str(source))
    lacking = missing_columns(table.collect_schema().names(), taxonomies)
    named = [name for name in names if name.strip() not in (CATALOGUE, RHO)]
    needed = load_taxonomies(named) if named else []
    label_lazily(table, taxonomies if len(lacking) == len(taxonomies) else needed)
    labels = label_lazily(table, taxonomies, keep=["sequence_id"], allow_missing=True)
    sink_table(out, labels, where=str(source))
    return TableLabels(_count(out, taxonomies, lacking), lacking)


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
