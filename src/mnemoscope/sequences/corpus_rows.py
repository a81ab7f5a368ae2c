"""Read documents of a corpus from tables and texts, a few at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.sequences.columns import COLUMNS, is_kind, is_value_of_kind
from mnemoscope.sequences.corpus_chunks import Chunk, group_documents
from mnemoscope.sequences.documents import read_text
from mnemoscope.sequences.windows import WindowCutter

__all__ = [
    "TABLE_ENDINGS",
    "JsonLines",
    "ParquetFile",
    "TextFiles",
    "open_jsonl",
    "open_parquet",
]

TABLE_ENDINGS = (".jsonl", ".parquet")
_BATCH_ROWS = 512  # documents may be long


class ParquetFile(NamedTuple):
    """A table with one document a row.

    Attributes:
        path: the file.
        column: `tokens` or `text`.
        cutter: turns texts into tokens; None for tokens.
    """

    path: Path
    column: str
    cutter: WindowCutter | None

    def chunks(self, position: int, k: int) -> Iterator[Chunk]:
        """Documents from the row `position` on; `k` plays no part.

        Raises:
            UserError: a null among the tokens.
            DamagedDataError: a torn file.
        """
        del k
        try:
            if self.cutter is None:
                yield from self._chunks_of_tokens(position)
            else:
                yield from group_documents(self._documents(self.cutter, position))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise _torn(self.path, error) from error

    def _chunks_of_tokens(self, position: int) -> Iterator[Chunk]:
        """A chunk a batch, without a look at the single document."""
        for rows in self._batches(position):
            position += len(rows)
            yield _join_lists(rows.drop_nulls(), position, self.path)

    def _documents(self, cutter: WindowCutter, position: int) -> Iterator[tuple[np.ndarray, int]]:
        for rows in self._batches(position):
            for text in rows:
                position += 1
                yield _encode(cutter, text or ""), position

    def _batches(self, position: int) -> Iterator[pl.Series]:
        rows = pl.scan_parquet(self.path, glob=False).slice(position).select(self.column)
        for batch in rows.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True):
            yield batch[self.column]


class JsonLines(NamedTuple):
    """A table with one document a line.

    Attributes:
        path: the file.
        column: `tokens` or `text`.
        cutter: turns texts into tokens; None for tokens.
    """

    path: Path
    column: str
    cutter: WindowCutter | None

    def chunks(self, position: int, k: int) -> Iterator[Chunk]:
        """Documents from the byte `position` on; `k` plays no part.

        Raises:
            UserError: a line that is no JSON object with the column.
        """
        del k
        return group_documents(self._documents(position))

    def _documents(self, position: int) -> Iterator[tuple[np.ndarray, int]]:
        with open(self.path, "rb") as handle:
            handle.seek(position)
            for line in handle:
                value = self._value(line, position)
                position += len(line)
                if value is not None:
                    yield self._tokens(value), position

    def _tokens(self, value: Any) -> np.ndarray:
        if self.cutter is not None:
            return _encode(self.cutter, value)
        try:
            return np.array(value, dtype=np.int64)
        except OverflowError:
            raise UserError(f"{self.path}: token id {max(value)} does not fit 64 bits.") from None

    def _value(self, line: bytes, position: int) -> Any:
        """The column's value on one line; None where there is none."""
        if not line.strip():
            return None
        row = _parse_line(line)
        value = row.get(self.column) if isinstance(row, dict) else None
        is_given = isinstance(row, dict) and self.column in row
        if is_given and is_value_of_kind(value, COLUMNS[self.column].kind):
            return value
        raise UserError(
            f"{self.path}, line {_line_number(self.path, position)}: not a JSON object with "
            f"'{self.column}' ({COLUMNS[self.column].kind}). Correct the line or drop it."
        )


class TextFiles(NamedTuple):
    """Texts, each one document.

    Attributes:
        paths: the files, in order.
        cutter: turns them into tokens.
        is_alone: the one file was named itself, so it must be a text.
    """

    paths: tuple[Path, ...]
    cutter: WindowCutter
    is_alone: bool

    def chunks(self, position: int, k: int) -> Iterator[Chunk]:
        """Documents from the file `position` on; `k` plays no part.

        Raises:
            UserError: the one file is no text, or one may not be read.
        """
        del k
        return group_documents(self._documents(position))

    def _documents(self, position: int) -> Iterator[tuple[np.ndarray, int]]:
        for number, path in enumerate(self.paths[position:], start=position + 1):
            text = read_text(path)
            if text is None and self.is_alone:
                raise UserError(f"{path}: not a text in UTF-8. Convert it, or give a table.")
            yield _encode(self.cutter, text or ""), number


def open_parquet(path: Path, cutter: WindowCutter | None) -> ParquetFile:
    """Look at a Parquet file's columns: `tokens` where there are some, else `text`.

    Args:
        path: the file.
        cutter: turns texts into tokens; None where there is no tokenizer.

    Raises:
        UserError: neither column, another type, or texts without a tokenizer.
        DamagedDataError: a torn file.
    """
    try:
        schema = pl.read_parquet_schema(path)
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it.") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise _torn(path, error) from error
    column = _choose_column(path, [name for name, kind in schema.items() if kind != pl.Null])
    if not is_kind(schema[column], COLUMNS[column].kind):
        raise UserError(
            f"{path}, column '{column}': {schema[column]} where {COLUMNS[column].kind} are needed."
        )
    return ParquetFile(path, column, _cutter_for(column, cutter, path))


def open_jsonl(path: Path, cutter: WindowCutter | None) -> JsonLines | None:
    """Look at the first row of a JSONL file; arguments and errors as `open_parquet`.

    Returns:
        None for a file without rows.
    """
    try:
        with open(path, "rb") as handle:
            first = next((line for line in handle if line.strip()), None)
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it.") from error
    if first is None:
        return None
    row = _parse_line(first)
    if not isinstance(row, dict):
        raise UserError(
            f"{path}, line 1: not JSON. One object with named columns a line is needed."
        )
    column = _choose_column(path, [name for name, value in row.items() if value is not None])
    return JsonLines(path, column, _cutter_for(column, cutter, path))


def _choose_column(path: Path, names: list[str]) -> str:
    """Tokens before text."""
    for name in ("tokens", "text"):
        if name in names:
            return name
    raise UserError(
        f"{path}: no column 'tokens' or 'text'. It holds: {', '.join(names) or 'nothing'}."
    )


def _cutter_for(column: str, cutter: WindowCutter | None, path: Path) -> WindowCutter | None:
    if column == "tokens":
        return None
    if cutter is None:
        raise UserError(f"{path}: holds texts, which --tokenizer must cut into tokens. Name it.")
    return cutter


def _join_lists(lists: pl.Series, position: int, path: Path) -> Chunk:
    """A batch of token lists as one chunk."""
    if isinstance(lists.dtype, pl.Array):
        lists = lists.arr.to_list()
    lists = lists.filter(lists.list.len() > 0)
    if lists.is_empty():
        return Chunk(np.empty(0, dtype=np.int32), None, 0, position)
    flat = lists.explode()
    if flat.null_count():
        raise UserError(
            f"{path}, column 'tokens': a null among the tokens of a document, at row {position} "
            "or up to 512 before. Drop the row."
        )
    ends = np.cumsum(lists.list.len().to_numpy().astype(np.int64))
    return Chunk(flat.to_numpy(), ends, len(flat), position)


def _encode(cutter: WindowCutter, text: str) -> np.ndarray:
    return np.array(cutter.encode(text), dtype=np.int32)


def _parse_line(line: bytes) -> Any:
    """The value of a line of JSON; None where it is none."""
    try:
        return json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def _line_number(path: Path, position: int) -> int:
    """Number of the line that begins at a byte, counted from 1."""
    number = 1
    with open(path, "rb") as handle:
        while position > 0:
            block = handle.read(min(position, 1 << 20))
            number += block.count(b"\n")
            position -= len(block) or position
    return number


def _torn(path: Path, error: BaseException) -> DamagedDataError:
    reason = (str(error).splitlines() or ["unreadable"])[0]
    return DamagedDataError(f"{path}: not a whole Parquet file ({reason}). Make or copy it again.")
