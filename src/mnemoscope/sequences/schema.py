"""Read, check and write the table of sequences: one row a sequence, `.parquet` or `.jsonl`.

The columns and their types stand in `columns.py`. Parquet files carry the version of the schema
in their metadata; JSONL, made by hand, carries none.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from mnemoscope.atomic_write import write_bytes
from mnemoscope.errors import DamagedDataError, UserError, nearest
from mnemoscope.parquet import write_parquet
from mnemoscope.sequences.columns import COLUMNS, conform, is_kind
from mnemoscope.sequences.jsonl_faults import find_fault

__all__ = [
    "SCHEMA_VERSION",
    "check_columns",
    "check_ids",
    "check_lengths",
    "check_sequences",
    "parquet_metadata",
    "read_table",
    "schema_metadata",
    "token_matrix",
    "write_table",
]

SCHEMA_VERSION = 1
"""Raised when a column changes its meaning or type; adding a column does not raise it."""

_VERSION_KEY = "mnemoscope.schema_version"


def read_table(path: Path | str) -> pl.DataFrame:
    """Read a table and bring the known columns to their types.

    Args:
        path: a `.parquet` or `.jsonl` file.

    Returns:
        All columns of the file; those of the schema at its types, the others as they are.

    Raises:
        UserError: no such file, another ending, a line that is no JSON object, a known column of
            another kind, or a schema newer than this program knows.
        DamagedDataError: a Parquet file that is torn or altered.
    """
    path = Path(path)
    _check_file(path)
    frame = _read_parquet(path) if path.suffix == ".parquet" else _read_jsonl(path)
    return conform(frame, where=str(path))


def write_table(path: Path | str, frame: pl.DataFrame) -> None:
    """Write a table whole or not at all.

    Args:
        path: ends in `.parquet` (zstd, with the schema version) or `.jsonl`.
        frame: any table.

    Raises:
        UserError: another ending, or no such folder.
        NoRoomError: the disk is full.
    """
    path = Path(path)
    _check_ending(path)
    if path.suffix == ".parquet":
        # Users edit these tables, and some programs would take an outdated checksum over.
        write_parquet(path, frame, metadata=schema_metadata(), seal=False)
    else:
        buffer = io.BytesIO()  # a full disk then fails in one write, with the system's own error
        frame.write_ndjson(buffer)
        write_bytes(path, buffer.getvalue())


def schema_metadata() -> dict[str, str]:
    """What a Parquet file of this program carries in its metadata."""
    return {_VERSION_KEY: str(SCHEMA_VERSION)}


def parquet_metadata(path: Path) -> dict[str, str]:
    """Read a Parquet file's metadata and see that its schema is one that this program knows.

    Raises:
        UserError: a schema newer than this program knows.
        DamagedDataError: a file without a whole footer.
    """
    with _damage(path):
        metadata = pl.read_parquet_metadata(path)
    version = metadata.get(_VERSION_KEY, str(SCHEMA_VERSION))
    if not version.isdecimal() or int(version) > SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema version {version}, this program knows up to {SCHEMA_VERSION}. "
            "Update mnemoscope."
        )
    return metadata


def check_columns(frame: pl.DataFrame, *needed: str, where: str) -> None:
    """Refuse a table without rows or without a needed column of the right kind.

    Args:
        frame: any table.
        *needed: names of `COLUMNS`.
        where: name of the table for messages.

    Raises:
        UserError: naming the column, with the nearest one that is there.
    """
    for name in needed:
        if name not in frame.columns:
            raise UserError(
                f"{where}: no column '{name}'.{nearest(name, frame.columns)} "
                f"It holds: {', '.join(frame.columns) or 'nothing'}."
            )
        if not is_kind(frame.schema[name], COLUMNS[name].kind):
            raise UserError(
                f"{where}, column '{name}': {frame.schema[name]} where {COLUMNS[name].kind} "
                "are needed. Convert it or drop it."
            )
    if frame.is_empty():
        raise UserError(f"{where}: no rows. At least one sequence is needed.")


def check_sequences(
    frame: pl.DataFrame, *, where: str, length: int = 64, vocab_size: int | None = None
) -> None:
    """Refuse a table that cannot be shown to a model.

    Args:
        frame: needs `sequence_id` and `tokens`.
        where: name of the table for messages; rows are counted from 0.
        length: tokens a sequence must have.
        vocab_size: token ids must lie in [0, vocab_size); None asks only for ids not below 0.

    Raises:
        UserError: a missing or mistyped column, no rows, a null or duplicate `sequence_id`, a
            sequence of another length, a null or a token id outside the vocabulary.
    """
    check_columns(frame, "sequence_id", "tokens", where=where)
    check_ids(frame["sequence_id"], where)
    check_lengths(frame["tokens"], where, length)
    _check_vocabulary(_as_lists(frame["tokens"]), where, vocab_size)


def token_matrix(frame: pl.DataFrame, column: str = "tokens") -> np.ndarray:
    """The lists of one column as an array.

    Args:
        frame: a table whose lists are all of one length and without nulls (`check_sequences`).
        column: name of the column of lists.

    Returns:
        Token ids, shape (sequences, length), int32.

    Raises:
        UserError: the lists differ in length, one is null or empty, or an id is negative or does
            not fit int32.
    """
    lists = _as_lists(frame[column])
    lengths = lists.list.len().unique()
    flat = lists.explode()
    if lengths.len() > 1 or flat.null_count():
        raise UserError(
            f"column '{column}': lists of one length without nulls are needed, found lengths "
            f"{lengths.sort().head(5).to_list()}. Drop the other rows."
        )
    if not flat.cast(pl.Int64).is_between(0, np.iinfo(np.int32).max).all():
        raise UserError(f"column '{column}': a number is below 0 or does not fit 32 bits.")
    return flat.to_numpy().reshape(len(frame), -1).astype(np.int32)


def check_ids(ids: pl.Series, where: str) -> None:
    """Refuse ids that are null or there twice.

    Raises:
        UserError: naming the row, counted from 0.
    """
    if ids.null_count():
        raise UserError(
            f"{where}, row {_first(ids.is_null())}: no sequence_id. Give every row its own integer."
        )
    if ids.n_unique() < len(ids):
        row = _first(ids.is_duplicated() & ~ids.is_first_distinct())
        raise UserError(
            f"{where}, row {row}: sequence_id {ids[row]} is there already. "
            "Drop the row or give it its own id."
        )


def check_lengths(tokens: pl.Series, where: str, length: int, *, allow_null: bool = False) -> None:
    """Refuse lists of another length or with a null inside.

    Args:
        tokens: a column of lists.
        where: name of the table for messages.
        length: tokens every list must have.
        allow_null: let rows pass that have no list at all.

    Raises:
        UserError: naming the row, counted from 0.
    """
    lists = _as_lists(tokens)
    is_wrong = lists.list.len().ne_missing(length) & ~(lists.is_null() & allow_null)
    if is_wrong.any():
        row = _first(is_wrong)
        n_tokens = 0 if lists[row] is None else len(lists[row])
        raise UserError(
            f"{where}, row {row}: {n_tokens} tokens where {length} are needed. Drop the row, cut "
            "its text with 'mnemoscope sequences', or set the length."
        )
    has_null = lists.list.eval(pl.element().is_null()).list.any()
    if has_null.any():
        raise UserError(f"{where}, row {_first(has_null)}: a null among the tokens. Drop the row.")


def _check_vocabulary(lists: pl.Series, where: str, vocab_size: int | None) -> None:
    """Every id one that the model has."""
    limit = np.iinfo(np.int32).max + 1 if vocab_size is None else vocab_size
    flat = lists.explode().cast(pl.Int64)
    outside = ~flat.is_between(0, limit - 1)
    if outside.any():
        row, position = divmod(_first(outside), len(flat) // len(lists))
        raise UserError(
            f"{where}, row {row}, token {position}: id {lists[row][position]} is outside the "
            f"vocabulary (0 to {limit - 1}). Tokenize with the model's own tokenizer."
        )


def _check_file(path: Path) -> None:
    """The path is a file that a table can be in."""
    if path.is_dir():
        raise UserError(f"{path}: a folder where a .parquet or .jsonl table is needed.")
    if not path.exists():
        raise UserError(f"{path}: no such file.")
    _check_ending(path)


def _check_ending(path: Path) -> None:
    if path.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"{path}: a table must end in .parquet or .jsonl.")


def _read_parquet(path: Path) -> pl.DataFrame:
    """Read Parquet; whatever Polars stumbles over is damage."""
    parquet_metadata(path)
    with _damage(path):
        return pl.read_parquet(path, glob=False)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Whatever Polars stumbles over in a Parquet file is damage."""
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it.") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedDataError(
            f"{path}: not a whole Parquet file ({reason}). Make or copy it again."
        ) from error


def _read_jsonl(path: Path) -> pl.DataFrame:
    """Read JSONL once to check it and once to build the table.

    Polars alone would turn a number among texts into a text, and half a character into a zero.
    """
    try:
        fault = find_fault(path)
        if fault is None:
            return pl.read_ndjson(path, infer_schema_length=None)
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it.") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a JSONL table ({reason}).") from error
    raise UserError(f"{path}, {fault}")


def _as_lists(series: pl.Series) -> pl.Series:
    """Arrays of fixed width become lists; an all-null column becomes null lists."""
    if isinstance(series.dtype, pl.Array):
        return series.arr.to_list()
    return series.cast(pl.List(pl.Int64)) if series.dtype == pl.Null else series


def _first(mask: pl.Series) -> int:
    """Row of the first true."""
    return int(mask.arg_max() or 0)
