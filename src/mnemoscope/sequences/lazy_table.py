"""Read and write tables larger than memory: lazily, batch by batch, whole or not at all."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from mnemoscope.atomic_write import atomic_path
from mnemoscope.errors import DamagedDataError, NoRoomError
from mnemoscope.sequences.columns import COLUMNS, conform
from mnemoscope.sequences.schema import parquet_metadata, read_table, schema_metadata

__all__ = ["BATCH_ROWS", "map_table", "scan_table", "sink_table"]

BATCH_ROWS = 65_536
_DISK_FULL = ("No space left", "os error 28", "os error 122")


def scan_table(path: Path | str) -> pl.LazyFrame:
    """Open a table as `read_table` does, but read of a Parquet file only what is asked of it.

    Args:
        path: a `.parquet` or `.jsonl` file; the latter is read whole.

    Returns:
        The known columns at their types, the others as they are.

    Raises:
        UserError: as `read_table`, except that a value that does not fit its type is found later.
        DamagedDataError: a Parquet file without a whole footer.
    """
    path = Path(path)
    if path.suffix != ".parquet" or not path.is_file():
        return read_table(path).lazy()
    parquet_metadata(path)
    table = pl.scan_parquet(path, glob=False)
    schema = table.collect_schema()
    conform(pl.DataFrame(schema=schema), where=str(path))
    return table.cast(
        {
            name: COLUMNS[name].dtype
            for name, dtype in schema.items()
            if name in COLUMNS and not dtype.is_float() and dtype != COLUMNS[name].dtype
        }
    )


def map_table(
    table: pl.LazyFrame,
    make: Callable[[pl.DataFrame, int], pl.DataFrame],
    schema: dict[str, pl.DataType],
) -> pl.LazyFrame:
    """Run a function over a table's batches of rows, in order.

    Args:
        table: as `scan_table` gives it.
        make: gets `BATCH_ROWS` rows, the last time fewer, and the number of the first; gives as
            many rows.
        schema: columns and types of what `make` gives.
    """
    n_rows = table.select(pl.len()).collect().item()

    def batches(
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_wanted: int | None,
        batch_size: int | None,  # noqa: ARG001 - the interface of a Polars source
    ) -> Iterator[pl.DataFrame]:
        for first in range(0, n_rows if n_wanted is None else min(n_rows, n_wanted), BATCH_ROWS):
            batch = make(table.slice(first, BATCH_ROWS).collect(), first)
            batch = batch if with_columns is None else batch.select(with_columns)
            yield batch if predicate is None else batch.filter(predicate)

    return register_io_source(batches, schema=schema)


@contextmanager
def _numbered_errors() -> Iterator[None]:
    """Give the system's errors their number back, which Polars leaves in the text alone."""
    try:
        yield
    except OSError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if error.errno is not None or number is None:
            raise
        raise OSError(int(number[1]), str(error)) from error


def sink_table(path: Path | str, table: pl.LazyFrame, *, where: str) -> None:
    """Write a table whole or not at all, without holding it in memory.

    Args:
        path: ends in `.parquet` (zstd, with the schema version) or `.jsonl`.
        table: what to write.
        where: name of what is read, for messages.

    Raises:
        NoRoomError: the disk is full.
        DamagedDataError: what is read is torn or altered.
    """
    path = Path(path)
    try:
        with atomic_path(path) as temporary, _numbered_errors():
            if path.suffix == ".parquet":
                table.sink_parquet(
                    temporary,
                    compression="zstd",
                    row_group_size=BATCH_ROWS,
                    metadata=schema_metadata(),
                )
            else:
                table.sink_ndjson(temporary)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).splitlines()[0]
        if any(word in reason for word in _DISK_FULL):
            raise NoRoomError(
                f"{path}: the disk is full. Make room and run the same command again."
            ) from error
        raise DamagedDataError(f"{where}: cannot be read whole ({reason}).") from error
