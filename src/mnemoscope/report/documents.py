"""What is repeated of each folder and each document, where the sequences name several."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from mnemoscope.data.folders import top_folders
from mnemoscope.data.table import has_values
from mnemoscope.report.tables import Cell, Table
from mnemoscope.stats import Estimate, rows_of, share_true
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.words import count

_MOST_ROWS = 40
_MOST_NAMED = 3  # folders in a line
_MOST_LISTED = 5  # documents in a line


class Counted(NamedTuple):
    """Sequences of a folder or document, those repeated, of each class, and the share."""

    name: str
    n_sequences: int
    n_repeated: int
    classes: Mapping[str, int]
    share: Estimate


def by_document(
    table: pl.DataFrame, labels: pl.Series | None = None, classes: Sequence[str] = ()
) -> tuple[list[Counted], list[Counted]]:
    """Count by top folder and by document: two lists, each empty where it says nothing.

    `labels` are the classes of the rows of `table`, `classes` those that are counted. Intervals
    count near duplicates once, hold for all rows of a list together, and need ten groups. By
    document nothing is said of one, of more than 40, and where each sequence has its own.
    """
    if not has_values(table, "document") or table["document"].n_unique() < 2:
        return [], []
    rows = table.select("is_memorized", pl.col("document").fill_null("no document"))
    names = rows["document"].unique().to_list()
    top = top_folders(names)
    rows = rows.with_columns(folder=pl.col("document").replace_strict(top, return_dtype=pl.String))
    few_folders = 1 < len(set(top.values())) <= _MOST_ROWS
    few_documents = len(names) <= min(_MOST_ROWS, rows.height - 1)
    if not few_folders and not few_documents:
        return [], []
    groups = find_groups(table) if "tokens" in table.columns else None
    rows = rows.with_columns(
        labels.alias("class") if labels is not None else pl.lit(None, pl.String).alias("class"),
        groups.alias("group") if groups is not None else pl.int_range(pl.len()).alias("group"),
    )

    def counted(column: str) -> list[Counted]:
        n_judged = rows[column].n_unique()
        return [
            Counted(
                str(name),
                part.height,
                int(part["is_memorized"].sum()),
                {one: part.filter(pl.col("class") == one).height for one in classes},
                share_true(part["is_memorized"], part["group"], n_judged=n_judged),
            )
            for (name,), part in sorted(rows.group_by(column), key=lambda one: str(one[0]))
        ]

    return (
        counted("folder") if few_folders else [],
        counted("document") if few_documents else [],
    )


def repeated_by_document(table: pl.DataFrame) -> str:
    """Say how many sequences of which documents are repeated, those with most first.

    Empty where nothing is repeated, of one document, and where each sequence has its own.

    >>> rows = {"document": ["a", "b", "b", "c"], "is_memorized": [True, True, True, False]}
    >>> repeated_by_document(pl.DataFrame(rows))
    'b 2 of 2, a 1 of 1, the other 1 none'
    """
    if not has_values(table, "document") or not table["is_memorized"].any():
        return ""
    rows = table.select("is_memorized", name=pl.col("document").fill_null("no document"))
    of = rows.group_by("name").agg(n=pl.len(), repeated=pl.sum("is_memorized"))
    if of.height in (1, table.height):
        return ""
    some = of.filter(pl.col("repeated") > 0).sort("repeated", "name", descending=[True, False])
    first, more = some[:_MOST_LISTED], some[_MOST_LISTED:]
    said = [f"{row['name']} {row['repeated']:,} of {row['n']:,}" for row in rows_of(first)]
    if more.height:
        said += [f"{more.height:,} more {more['repeated'].sum():,} of {more['n'].sum():,}"]
    if n_none := of.height - some.height:
        said += [f"the other {n_none:,} none"]
    return ", ".join(said)


def folder_sentence(folders: Sequence[Counted]) -> str:
    """Say that folders differ in what is repeated; empty where their intervals overlap."""
    known = [one for one in folders if one.share.low is not None and one.share.high is not None]
    if len(known) < 2:
        return ""
    known.sort(key=lambda one: -(one.share.value or 0))
    most, least = known[0], known[-1]
    assert most.share.low is not None
    assert least.share.high is not None
    if most.share.low <= least.share.high:
        return ""
    shown = sorted(folders, key=lambda one: -(one.share.value or 0))
    if len(shown) > _MOST_NAMED:
        shown = [most, least]
    said = ", ".join(
        f"{one.name} {count(one.n_repeated)} of {count(one.n_sequences)}" for one in shown
    )
    which = "" if len(shown) == len(folders) else f" (most and least of {len(folders)})"
    return f"Repeated by folder{which}: {said}."


def document_tables(folders: Sequence[Counted], documents: Sequence[Counted]) -> Iterator[Table]:
    """The counts as tables of the page."""
    for title, rows in (("By folder", folders), ("By document", documents)):
        if not rows:
            continue
        names = list(rows[0].classes)
        made: list[tuple[Cell, ...]] = [
            (
                *(one.name, one.n_sequences, one.n_repeated),
                *(one.classes[name] for name in names),
                str(one.share),
            )
            for one in rows
        ]
        yield Table(
            title=title,
            columns=(title.split()[1], "sequences", "repeated", *names, "share repeated"),
            rows=made,
            summary=(
                "Text that the model never read is the best control there is: what is repeated of "
                "it too can be guessed. Intervals hold for all rows together at 95 %, count near "
                "duplicates once, and need ten groups of these."
            ),
            gist=f"repeated sequences of {len(rows)} {title.split()[1]}s",
        )
