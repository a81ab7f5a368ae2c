"""Gather rows from tables and folders of them, pairs of arrays, frames, and the hub."""

import csv
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.data.formats import (
    READABLE,
    SNIFFED_ROWS,
    check_there,
    is_there,
    is_written,
    list_files,
    name_below,
    passed_over,
    plugin_readers,
    refuse_pointer,
    table_ending,
    take_columns,
    to_series,
)
from mnemoscope.data.hub import check_whole, find_hub_files, parse_hub_name
from mnemoscope.data.table import conform, has_values, read_table, scan_table
from mnemoscope.errors import UserError, first_line
from mnemoscope.files import open_array
from mnemoscope.progress import say


class Rows(NamedTuple):
    """Rows of a source, its name for messages, and what a manifest is to say of it.

    `labels` may stand before `, row N` in names that were given here (`document`, `@row`).
    """

    frame: pl.DataFrame
    where: str
    facts: dict[str, Any]
    labels: frozenset[str]


def read_rows(
    source: Any, columns: Mapping[str, str], *, prefix: int | None, exclude: Iterable[str] = ()
) -> Rows | None:
    """The rows of a source, with `columns` by their paths; None of texts.

    Files of a folder that `exclude` fits are left out. A pair of arrays must agree with `prefix`
    where it is given.

    Says which fields look like a count of duplicates and are passed over. Errors as
    `read_sequences`.
    """
    hub_facts, readers, tables = None, None, list[Path]()
    if not isinstance(source, str | Path):
        frame = to_frame(source)
        where = _texts_named(frame) or f"the {type(source).__name__}"
        frame = conform(take_columns(frame, columns, where=where), where=where)
    elif (hub := parse_hub_name(str(source))) is not None:
        found, where = find_hub_files(hub), hub.name
        hub_facts = {"name": hub.name, "commit": found.commit}
        tables = found.files
        frame = _read_tables(tables, columns)
    else:
        path, where = existing(source), str(source)
        if pair := find_pair(path):
            frame = read_pair(*pair, prefix=prefix)
            frame = conform(take_columns(frame, columns, where=where), where=where)
        elif tables := find_tables(path, exclude):
            frame = _read_tables(tables, columns)
            endings = {ending[1:] for table in tables if (ending := table_ending(table))}
            readers = [plugin_readers()[one].facts for one in sorted(endings & {*plugin_readers()})]
        else:
            return None
    facts = {"hub": hub_facts, "readers": readers, "passed_over": _say_passed_over(frame, where)}
    given = {name: one for name, one in facts.items() if one}
    return Rows(frame, where, given, frozenset([Path(where).name, *_names(tables)]))


def rows_with(source: Any, columns: Mapping[str, str], needs: Mapping[str, str]) -> Rows:
    """The rows of a table that has some columns, with a value in every row.

    `needs` says by column what a row needs there, for the message. Raises UserError: texts, a
    column that is not there or has nulls; errors as `read_rows`.
    """
    found = read_rows(source, columns, prefix=None)
    if found is None:
        raise UserError(
            f"{source}: texts, where a table with the columns {' and '.join(needs)} is needed."
        )
    table = found.frame
    for name, what in needs.items():
        if name not in table.columns or table[name].null_count():
            lacking = "nulls" if name in table.columns else f"there are {', '.join(table.columns)}"
            raise UserError(
                f"{found.where}: every row needs {what} ({lacking}). Call a column so, or take "
                f"one: --column {name}=COLUMN."
            )
    return found


def _say_passed_over(frame: pl.DataFrame, where: str) -> list[str]:
    """Say which fields look like a count of duplicates and are passed over; their paths."""
    counts = passed_over(frame)
    for count in counts:
        say(
            f"{where}: '{count}' looks like a count of duplicates and is passed over. To take it: "
            f"--column duplicates={count}"
        )
    return counts


def scan_rows(
    source: Path | str,
    columns: Mapping[str, str] | None = None,
    *,
    prefix: int | None = None,
    says: bool = True,
) -> pl.LazyFrame:
    """The rows of a source as `read_rows`; of a table, as `scan_table`.

    `says` which of a table's fields look like a count of duplicates and are passed over. Raises
    UserError: as these; a folder of texts.
    """
    path = Path(source)
    if is_there(path) and path.is_file() and path.suffix.lower() != ".npy":
        table = scan_table(path, columns)
        with suppress(pl.exceptions.PolarsError, pl.exceptions.PanicException):
            if says:
                _say_passed_over(table.head(SNIFFED_ROWS).collect(), str(source))
        return table
    rows = read_rows(source, columns or {}, prefix=prefix)
    if rows is None:
        raise UserError(
            f"{source}: texts, where a table of sequences is needed. To cut them: mnemoscope "
            f"sequences {source} --model MODEL -o STUDY"
        )
    return rows.frame.lazy()


def name_of(source: Any) -> str:
    """A name for a frame that tells it from others by its rows: `frame:` and a hash."""
    rows = to_frame(source).write_ndjson().encode()
    return f"frame:{hashlib.sha256(rows).hexdigest()[:16]}"


def existing(path: Path | str) -> Path:
    """A path of a file or folder that is there; UserError if not."""
    path = Path(path)
    check_there(path, "Give a text as a file, or in a frame with a column 'text'.")
    return path


_NAMES_SAID = 3
_DRESSING = re.compile(
    r"(readme|license|licence|dataset_infos?|citation|_(success|(common_)?metadata|started|committed)).*",
    re.IGNORECASE,
)


def holds_rows(source: str, exclude: Iterable[str] = ()) -> bool:
    """Whether a source has columns: a table, a folder of tables, arrays, a data set of the hub.

    Errors as `find_tables`, `find_pair`.
    """
    path = Path(source)
    return bool(parse_hub_name(source) or find_pair(path) or find_tables(path, exclude))


def has_tables(path: Path, exclude: Iterable[str] = ()) -> bool:
    """Whether a path is a table, or a folder that holds one, among texts or not."""
    files = list_files(path, exclude) if path.is_dir() else [path]
    return any(map(table_ending, files))


_COLUMNS_NAMED = 8  # of a table without texts


def row_texts(path: Path, columns: Mapping[str, str] | None = None) -> list[str]:
    """The text of each row of a table, empty where it has none; errors as `read_table`."""
    frame = read_table(path, columns)
    if "text" not in frame.columns:
        way = " Or read its lines as they stand, as one text, with --column 'text=*'."
        raise UserError(
            "a table without a column 'text'. Name the column of the texts with --column "
            f"text=NAME; it has {', '.join(frame.columns[:_COLUMNS_NAMED])}."
            f"{way * is_written(path)}"
        )
    return [one if isinstance(one, str) else "" for one in frame["text"]]


def find_tables(path: Path, exclude: Iterable[str] = ()) -> list[Path]:
    """The table that a path is, or those of a folder that holds nothing else; else none.

    Beside tables a folder may hold a README, a licence and the like. UserError where one of them
    is in several files, and not all are there.
    """
    if path.is_file():
        return [path] if table_ending(path) else []
    files = list_files(path, exclude)
    tables = [one for one in files if table_ending(one)]
    others = [one for one in files if one not in tables and not _DRESSING.fullmatch(one.name)]
    if others:
        return []
    check_whole([one.name for one in tables], str(path))
    return tables


def _read_tables(paths: list[Path], columns: Mapping[str, str]) -> pl.DataFrame:
    """The rows of all tables one after the other; a row's `document` names its file (`_names`)."""
    if len(paths) == 1:
        return read_table(paths[0], columns)
    more = f", and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else ""
    say(f"{len(paths):,} tables read as one: {', '.join(map(str, paths[:_NAMED]))}{more}")
    frames: list[pl.DataFrame] = []
    for path, name in zip(paths, _names(paths), strict=True):
        frame = read_table(path, columns, name=name)
        if "document" not in frame.columns and not has_values(frame, "tokens"):
            named = pl.format("{}, row {}", pl.lit(name), pl.int_range(pl.len()))
            frame = frame.with_columns(named.alias("document"))
        if frames and set(frame.columns) != set(frames[0].columns):
            odd = sorted(set(frame.columns) ^ set(frames[0].columns))
            raise UserError(
                f"{path}: other columns than {paths[0].name} ({', '.join(odd[:5])}), so they are "
                "not one table. Give one of them, or a folder of like ones."
            )
        frames.append(frame)
    try:
        return pl.concat([one.select(frames[0].columns) for one in frames], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{paths[0].parent}: not one table ({first_line(error)}).") from None


def _names(paths: list[Path]) -> list[str]:
    """The files' paths below the folder that holds them all."""
    root = Path(os.path.commonpath([one.parent for one in paths])) if paths else Path()
    return [name_below(one, root) for one in paths]


_NAMED = 3
_HALVES = ("_prefix.npy", "_suffix.npy")


def find_pair(path: Path) -> tuple[Path, Path] | None:
    """`NAME_prefix.npy` and `NAME_suffix.npy`: of the first, or the only pair of a folder.

    Raises UserError: an array without the other, several pairs, or another `.npy`.
    """
    if path.is_dir():
        found = sorted(path.glob(f"*{_HALVES[0]}"))
        found = [one for one in found if _other(one).is_file()]
        if len(found) > 1:
            raise UserError(
                f"{path}: several pairs of arrays. Name one: "
                f"{', '.join(str(one) for one in found[:5])}."
            )
        return (found[0], _other(found[0])) if found else None
    if path.suffix.lower() != ".npy":
        return None
    if not path.name.endswith(_HALVES[0]) or not _other(path).is_file():
        raise UserError(
            f"{path}: one array; sequences are a pair, NAME{_HALVES[0]} and NAME{_HALVES[1]} "
            "beside it. Name the first."
        )
    return path, _other(path)


def _other(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(_HALVES[0]) + _HALVES[1])


def read_pair(prefixes: Path, suffixes: Path, *, prefix: int | None) -> pl.DataFrame:
    """Sequences of two arrays of token ids, shapes (sequences, prefix) and (sequences, suffix).

    Raises UserError: not two arrays of integers of as many rows, another width than `prefix`, or an
    id below 0 or above 32 bits. DamagedDataError: a torn array.
    """
    first, second = _array(prefixes), _array(suffixes)
    if len(first) != len(second):
        raise UserError(
            f"{prefixes}: {len(first):,} rows, {suffixes.name} has {len(second):,}. They belong "
            "to other sequences."
        )
    if prefix is not None and first.shape[1] != prefix:
        raise UserError(
            f"{prefixes}: {first.shape[1]} + {second.shape[1]} tokens where the prefix is "
            f"{prefix}. Set sequences.prefix={first.shape[1]} and "
            f"sequences.suffix={second.shape[1]}, or --length and --prefix."
        )
    tokens = np.concatenate([first, second], axis=1).astype(np.int64)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() <= np.iinfo(np.int32).max:
        raise UserError(f"{prefixes}: a token id is below 0 or does not fit 32 bits.")
    ids = pl.int_range(len(tokens), dtype=pl.Int64, eager=True).alias("sequence_id")
    rows = pl.Series("tokens", tokens.astype(np.int32), dtype=pl.Array(pl.Int32, tokens.shape[1]))
    return pl.DataFrame([ids, rows.arr.to_list()])


def _array(path: Path) -> np.ndarray:
    refuse_pointer(path)
    array = open_array(path)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise UserError(
            f"{path}: {array.dtype} of shape {array.shape} where integers of shape (sequences, "
            "tokens) are needed."
        )
    return array


def _texts_named(frame: pl.DataFrame) -> str | None:
    """Texts by the first of their names, where a frame holds nothing else."""
    if {*frame.columns} != {"text", "document"}:
        return None
    names = [str(one) for one in frame["document"].head(_NAMES_SAID + 1)]
    return f"texts ({', '.join(names[:_NAMES_SAID])}{', …' * (len(names) > _NAMES_SAID)})"


def to_frame(source: Any) -> pl.DataFrame:
    """A Polars frame of one, of a pandas frame, or of a `datasets.Dataset`; else UserError."""
    if isinstance(source, pl.LazyFrame):
        return source.collect()
    if isinstance(source, pl.DataFrame):
        return source
    if isinstance(source, Mapping):
        raise UserError(f"a {type(source).__name__} of {', '.join(map(str, source))}: give one.")
    if hasattr(source, "column_names") and hasattr(source, "__len__"):  # datasets.Dataset
        return _of_lists({name: source[name][:] for name in source.column_names})
    if hasattr(source, "columns") and hasattr(source, "to_numpy"):  # pandas
        return _of_lists({str(name): source[name].tolist() for name in source.columns})
    raise UserError(f"a {type(source).__name__}: no sequences can be read of it. Give {READABLE}.")


def _of_lists(columns: dict[str, list[Any]]) -> pl.DataFrame:
    """Lists of plain values as a frame; NaN and the like of pandas are nulls."""
    clean = {
        name: [None if _is_missing(value) else value for value in values]
        for name, values in columns.items()
    }
    found = {}
    for name, values in clean.items():
        try:
            found[name] = to_series(values).alias(name)
        except (TypeError, pl.exceptions.PolarsError, OverflowError):
            found[name] = pl.Series(name, [], pl.Object)
        if found[name].dtype == pl.Object:
            raise UserError(
                f"column '{name}': values of several kinds, or of one that no table can hold. "
                "Leave it out."
            )
    return pl.DataFrame(found)


def _is_missing(value: Any) -> bool:
    """None, NaN, and the missing values of pandas, none of which equals itself."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # pandas.NA, and arrays, which are values
        return not hasattr(value, "__len__")


def lines_of(source: Any) -> list[int]:
    """The line on which each row of a .jsonl or .csv file begins, from 1; of all else nothing."""
    ending = Path(source).suffix.lower() if isinstance(source, str | Path) else ""
    if ending not in (".jsonl", ".csv") or not Path(source).is_file():
        return []
    found, before = [], 0
    with Path(source).open(encoding="utf-8-sig", newline="") as file:
        if ending == ".jsonl":
            return [number for number, line in enumerate(file, 1) if line.strip()]
        rows = csv.reader(file)
        for row in rows:
            if row:
                found.append(before + 1)
            before = rows.line_num
    return found[1:]
