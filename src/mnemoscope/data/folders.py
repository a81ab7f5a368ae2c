"""What documents are called, what tells them apart, and of which folders nothing is repeated."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import polars as pl

from mnemoscope.data.table import has_values
from mnemoscope.stats import FEWEST_GROUPS, share_true

NO_DOCUMENT = "no document"
"""What stands for a document without a name."""
_MOST_NAMED = 3


def last_parts(names: Sequence[str]) -> dict[str, str]:
    """As many last parts of each path as tell all of them apart.

    >>> last_parts(["/a/b/x.py", "/a/c/x.py"])
    {'/a/b/x.py': 'b/x.py', '/a/c/x.py': 'c/x.py'}
    """
    parts = {name: [part for part in name.split("/") if part] for name in names}
    for n in range(1, max(map(len, parts.values()), default=0) + 1):
        short = {name: "/".join(own[-n:]) for name, own in parts.items()}
        if len(set(short.values())) == len(short):
            return short
    return {name: name for name in names}


def row_name(source: str, row: int) -> str:
    """What a row of a table is called, rows counted from 1."""
    return f"{source}#{row}"


_ROW = re.compile(r"(.*), row ([0-9]+)", re.DOTALL)


def as_given(source: str, name: str) -> str:
    """What an audit calls a document that reading named below its source: its path as given.

    `name` is a path below the folder, or a file's name; `, row N` behind it counts from 0.

    >>> as_given("texts/a.txt", "a.txt"), as_given("owner/data#train", "data, row 2")
    ('texts/a.txt', 'owner/data#train#3')
    """
    found = _ROW.fullmatch(name)
    below, path = found[1] if found else name, Path(source)
    is_below = path.is_dir() and (not found or (path / below).exists())
    place = (path / below).as_posix() if is_below else source
    return row_name(place, int(found[2]) + 1) if found else place


def top_folders(names: Sequence[str]) -> dict[str, str]:
    """Of each document the first folder in which they differ; `./` where it stands in none.

    A table is the folder of its rows.

    >>> top_folders(["a/x.md", "b/y.md", "t.csv, row 3"])
    {'a/x.md': 'a/', 'b/y.md': 'b/', 't.csv, row 3': 't.csv/'}
    """
    parts = {one: PurePosixPath(_ROW.sub(r"\1/\2", one)).parts[:-1] for one in names}
    shared = 0
    while len({one[shared : shared + 1] for one in parts.values()}) == 1 and all(
        len(one) > shared for one in parts.values()
    ):
        shared += 1
    return {name: f"{one[shared]}/" if len(one) > shared else "./" for name, one in parts.items()}


def unrepeated(table: pl.DataFrame) -> dict[str, int]:
    """Sequences of each folder of which nothing is repeated while of the others something is.

    Of documents where all stand in one folder. One counts only where it has ten sequences or more,
    and its share, 0, an interval that ends below the share of the others (Wilson, for all folders
    together at 95 %). Empty for a table without `document` or `is_memorized`.

    >>> documents, repeated = ["new/a"] * 60 + ["read/b"] * 40, [False] * 60 + [True] * 40
    >>> unrepeated(pl.DataFrame({"document": documents, "is_memorized": repeated}))
    {'new/': 60}
    """
    if "is_memorized" not in table.columns or not has_values(table, "document"):
        return {}
    rows = table.select("is_memorized", source=pl.col("document").fill_null(NO_DOCUMENT))
    top = top_folders(rows["source"].unique().to_list())
    if len(set(top.values())) > 1:
        rows = rows.with_columns(pl.col("source").replace_strict(top, return_dtype=pl.String))
    of = rows.group_by("source").agg(n=pl.len(), repeated=pl.sum("is_memorized")).sort("source")
    none = {str(name): int(n) for name, n, repeated in of.rows() if not repeated}
    others = rows.height - sum(none.values())
    share = int(rows["is_memorized"].sum()) / others if others else 0.0
    ends = {one: share_true([False] * n, n_judged=of.height).high or 0.0 for one, n in none.items()}
    return {one: n for one, n in none.items() if n >= FEWEST_GROUPS and ends[one] < share}


def in_folders(found: Mapping[str, int]) -> str:
    """Say how many sequences of which folders.

    >>> in_folders({"new/": 77, "lists/": 322})
    'the 77 sequences of new/ and the 322 of lists/'
    """
    if len(found) > _MOST_NAMED:
        what = "folders" if all(one.endswith("/") for one in found) else "documents"
        said = f"the {sum(found.values()):,} sequences of {len(found)} {what}"
        return f"{said} (shorter ones tell nothing)"
    said = " and ".join(f"the {n:,} of {name}" for name, n in found.items())
    return said.replace(" of ", " sequences of ", 1)
