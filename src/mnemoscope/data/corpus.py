"""Find what a corpus is made of, and stream it: texts, tables, or flat binaries of token ids."""

import hashlib
import io
import json
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.data.formats import (
    TABLE_ENDINGS,
    check_there,
    list_files,
    open_raw,
    open_unpacked,
    pass_over,
    refuse_as_prose,
    table_ending,
)
from mnemoscope.data.read import WindowCutter, read_text
from mnemoscope.data.table import (
    COLUMNS,
    has_values,
    is_kind,
    is_value_of_kind,
    read_table,
    whole_parquet,
)
from mnemoscope.errors import DamagedDataError, UserError, nearest
from mnemoscope.files import open_array
from mnemoscope.parse import parse_json, read_lines
from mnemoscope.progress import say

# Pieces of a corpus of about a million tokens, with the borders of its documents.

_CHUNK_TOKENS = 1 << 20


class Chunk(NamedTuple):
    """A piece of the corpus."""

    # Token ids, one axis, any integer type; may begin the next chunk too (overlap).
    tokens: np.ndarray
    # Position after the last token of each document, the last is ``len(tokens)``; None for a piece
    # of one document.
    ends: np.ndarray | None
    n_new: int  # tokens that the next chunk does not repeat; their sum is the corpus
    position: int  # where its source goes on after this chunk


def group_documents(documents: Iterable[tuple[np.ndarray, int]]) -> Iterator[Chunk]:
    """Join documents, each with where its source goes on: chunks of a million tokens, or of one."""
    pieces: list[np.ndarray] = []
    n_tokens = position = 0
    for tokens, position in documents:
        pieces.append(tokens)
        n_tokens += len(tokens)
        if n_tokens >= _CHUNK_TOKENS:
            yield _join(pieces, position)
            pieces, n_tokens = [], 0
    if pieces:
        yield _join(pieces, position)


def _join(pieces: list[np.ndarray], position: int) -> Chunk:
    """One chunk; a document alone is not copied."""
    pieces = [tokens for tokens in pieces if len(tokens)]
    if not pieces:
        return Chunk(np.empty(0, dtype=np.int32), None, 0, position)
    if len(pieces) == 1:
        return Chunk(pieces[0], None, len(pieces[0]), position)
    if len({tokens.dtype for tokens in pieces}) > 1:
        pieces = [tokens.astype(np.int64) for tokens in pieces]
    tokens = np.concatenate(pieces)
    ends = np.cumsum([len(piece) for piece in pieces])
    return Chunk(tokens, ends, len(tokens), position)


# Read flat binaries of token ids a piece at a time: .bin (nanoGPT's, Megatron's), .npy.

DTYPES = ("uint16", "uint32", "int32")
FLAT_ENDINGS = (".bin", ".npy")

_FLAT_CHUNK_TOKENS = 1 << 22
# Megatron-LM's megatron/core/datasets/indexed_dataset.py: magic, version, type, two counts, then
# the sequences' lengths (int32), their first bytes (int64), the documents' first sequences (int64).
_MAGIC = b"MMIDIDX\0\0"
_HEADER = struct.Struct("<QBQQ")
_MEGATRON_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


class _Documents(NamedTuple):
    """Where documents end: in a Megatron index (memory-mapped) or after every `width` tokens."""

    first_bytes: np.ndarray | None = None
    first_sequences: np.ndarray | None = None
    item_bytes: int = 1
    width: int = 0

    def ends(self, start: int, stop: int) -> np.ndarray:
        """Ends of the documents that have tokens in [start, stop), counted from `start`."""
        if self.first_bytes is None or self.first_sequences is None:
            inner = np.arange(start - start % self.width + self.width, stop, self.width)
        else:
            # Few pages of the index are touched: it may be larger than memory too. (NumPy's own
            # search would copy it whole, since a Megatron index is not aligned.)
            low = bisect_left(self.first_bytes, (start + 1) * self.item_bytes)
            high = bisect_left(self.first_bytes, stop * self.item_bytes)
            first = bisect_left(self.first_sequences, low)
            sequences = self.first_sequences[first : bisect_left(self.first_sequences, high)]
            inner = np.unique(self.first_bytes[sequences] // self.item_bytes)
        return np.append(inner, stop).astype(np.int64) - start


class FlatFile(NamedTuple):
    """Token ids, `offset` bytes into a file; `documents` is None where it does not say ends."""

    path: Path
    dtype: np.dtype
    offset: int
    n_tokens: int
    documents: _Documents | None
    files: tuple[Path, ...]

    def chunks(self, position: int, k: int) -> Iterator[Chunk]:
        """Pieces from the token `position` on; each repeats k - 1 tokens of the next."""
        with open(self.path, "rb") as handle:
            for start in range(position, self.n_tokens, _FLAT_CHUNK_TOKENS):
                stop = min(start + _FLAT_CHUNK_TOKENS, self.n_tokens)
                overlap = min(stop + k - 1, self.n_tokens)
                tokens = self._read(handle, start, overlap)
                ends = self.documents and self.documents.ends(start, overlap)
                yield Chunk(tokens, ends, stop - start, stop)

    def _read(self, handle: io.BufferedReader, start: int, stop: int) -> np.ndarray:
        """Tokens of a range; not memory-mapped, so that memory stays small and is seen to."""
        handle.seek(self.offset + start * self.dtype.itemsize)
        tokens = np.fromfile(handle, dtype=self.dtype, count=stop - start)
        if len(tokens) < stop - start:
            raise _torn(self.path, "has become shorter")
        return tokens


def check_dtype(name: str) -> None:
    """Reject a type that flat binaries are not kept in."""
    if name not in DTYPES:
        raise UserError(
            f"--dtype {name}: must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]}."
            f"{nearest(name, DTYPES)}"
        )


def open_flat(path: Path, dtype: str | None) -> FlatFile:
    """Look at a flat binary without reading its tokens.

    `dtype` is the type of the ids of a plain `.bin`: uint16 unless given. Raises UserError: a size
    that is no whole number of ids, another type than the file's own, an array of other axes, or no
    permission. DamagedDataError: an index or a header that does not fit its file.
    """
    open_raw(path).close()
    if path.suffix == ".npy":
        return _check_type(_open_npy(path), dtype)
    if path.with_suffix(".idx").is_file():
        return _check_type(_open_megatron(path), dtype)
    kind = np.dtype(dtype or "uint16").newbyteorder("<")
    n_tokens, rest = divmod(path.stat().st_size, kind.itemsize)
    if rest:
        raise UserError(
            f"{path}: {path.stat().st_size:,} bytes are no whole number of {kind.name} token ids. "
            "Name the right --dtype, or copy the file again."
        )
    return FlatFile(path, kind, 0, n_tokens, None, (path,))


def _check_type(file: FlatFile, dtype: str | None) -> FlatFile:
    if dtype is not None and file.dtype != np.dtype(dtype):
        raise UserError(
            f"{file.path}: holds {file.dtype.name} where --dtype says {dtype}. "
            "Leave --dtype out: the file says it itself."
        )
    return file


def _torn(path: Path, why: str, more: str = "") -> DamagedDataError:
    return DamagedDataError(f"{path}: {why}. Copy it again{more}.")


def _open_npy(path: Path) -> FlatFile:
    """A NumPy array of integers with one axis, or with a document a row."""
    if not path.stat().st_size:
        raise _torn(path, "empty, not a .npy array")
    array = open_array(path)
    is_in_order = array.flags.c_contiguous
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2) or not is_in_order:
        raise UserError(
            f"{path}: {array.dtype} with shape {array.shape} where integers with one axis, or one "
            "document a row, are needed."
        )
    width = array.shape[1] if array.ndim == 2 else 0
    documents = _Documents(width=width) if width else None
    return FlatFile(path, array.dtype, array.offset, array.size, documents, (path,))


def _open_megatron(path: Path) -> FlatFile:
    index = path.with_suffix(".idx")
    with open(index, "rb") as handle:
        head = handle.read(len(_MAGIC) + _HEADER.size)
    if len(head) < len(_MAGIC) + _HEADER.size or not head.startswith(_MAGIC):
        raise _torn(
            index,
            f"not a Megatron index, which would say where the documents of {path.name} end",
            ", or move it away to read the .bin as one document",
        )
    version, code, n_sequences, n_documents = _HEADER.unpack(head[len(_MAGIC) :])
    if version != 1 or code not in _MEGATRON_TYPES:
        raise UserError(f"{index}: version {version}, type {code}: not one that can be read.")
    needed = len(head) + 12 * n_sequences + 8 * n_documents
    if index.stat().st_size < needed:
        raise _torn(index, "cut short")
    lengths = _map(index, "<i4", len(head), n_sequences)
    first_bytes = _map(index, "<i8", len(head) + 4 * n_sequences, n_sequences)
    first_sequences = _map(index, "<i8", len(head) + 12 * n_sequences, n_documents)
    kind = np.dtype(_MEGATRON_TYPES[code])
    _check_index(path, lengths, first_bytes, kind.itemsize)
    documents = _Documents(first_bytes, first_sequences, kind.itemsize)
    n_tokens = path.stat().st_size // kind.itemsize
    return FlatFile(path, kind, 0, n_tokens, documents, (path, index))


def _map(path: Path, dtype: str, offset: int, count: int) -> np.ndarray:
    """Part of a file as an array; an empty one cannot be mapped."""
    if not count:
        return np.empty(0, dtype=dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,)))


def _check_index(path: Path, lengths: np.ndarray, first_bytes: np.ndarray, item_bytes: int) -> None:
    """The sequences stand one after the other and fill the file."""
    step, expected = 1 << 20, 0
    for start in range(0, len(lengths), step):
        sizes = lengths[start : start + step].astype(np.int64) * item_bytes
        ends = expected + np.cumsum(sizes)
        if (sizes < 0).any() or (first_bytes[start : start + step] != ends - sizes).any():
            raise _torn(
                path.with_suffix(".idx"),
                f"its sequences do not stand one after the other in {path.name}",
                ", and the .bin",
            )
        expected = int(ends[-1])
    if expected != path.stat().st_size:
        raise _torn(
            path,
            f"{path.stat().st_size:,} bytes where its .idx says {expected:,}",
            " with its .idx, or move that away to read the .bin as one document",
        )


# Read documents of a corpus from tables and texts, a few at a time.

_BATCH_ROWS = 512  # documents may be long


class Documents:
    """A table with one document a row, in `column`: `tokens`, or `text` with a cutter."""

    path: Path
    column: str
    cutter: WindowCutter | None

    def __init__(self, path: Path, column: str, cutter: WindowCutter | None) -> None:
        self.path, self.column, self.cutter = path, column, cutter

    def rows(self, position: int) -> Iterator[tuple[Any, int]]:
        """Documents from a position on, None of an empty row, each with the position after it."""
        raise NotImplementedError

    def chunks(self, position: int, k: int) -> Iterator[Chunk]:
        """Documents from a position on, as `rows` counts; `k` plays no part."""
        del k
        rows = self.rows(position)
        return group_documents((self._tokens(one), at) for one, at in rows if one is not None)

    def values(self) -> Iterator[tuple[str, Any]]:
        """Documents that are not empty as they stand there, named by table and number, from 1."""
        rows = enumerate(self.rows(0), 1)
        return ((f"{self.path}#{number}", value) for number, (value, _) in rows if value)

    def _tokens(self, value: Any) -> np.ndarray:
        if self.cutter is not None:
            return np.array(self.cutter.encode(value), dtype=np.int32)
        try:
            return np.array(value, dtype=np.int64)
        except OverflowError:
            raise UserError(f"{self.path}: token id {max(value)} does not fit 64 bits.") from None


class ParquetFile(Documents):
    """A Parquet table; positions are rows."""

    def chunks(self, position: int, k: int) -> Iterator[Chunk]:
        """As of all documents; of tokens a chunk a batch, without a look at the single document."""
        if self.cutter is not None:
            yield from super().chunks(position, k)
            return
        with whole_parquet(self.path):
            for rows in self._batches(position):
                position += len(rows)
                yield _join_lists(rows.drop_nulls(), position, self.path)

    def rows(self, position: int) -> Iterator[tuple[Any, int]]:
        """Documents from the row `position` on."""
        with whole_parquet(self.path):
            values = (one for batch in self._batches(position) for one in batch.to_list())
            yield from ((value, after) for after, value in enumerate(values, position + 1))

    def _batches(self, position: int) -> Iterator[pl.Series]:
        rows = pl.scan_parquet(self.path, glob=False).slice(position).select(self.column)
        for batch in rows.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True):
            yield batch[self.column]


class JsonLines(Documents):
    """A table with one document a line; positions are bytes."""

    def rows(self, position: int) -> Iterator[tuple[Any, int]]:
        """The value of each line, None of an empty one, and where the next line begins."""
        with open_unpacked(self.path) as handle:
            pass_over(handle, position)
            for line in _lines(handle, self.path):
                value = self._value(line, position)
                position += len(line)
                yield value, position

    def _value(self, line: bytes, position: int) -> Any:
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


class TextFiles(Documents):
    """Texts, each one document; one that was named itself must be a text. Positions are files."""

    def __init__(self, paths: Sequence[Path], cutter: WindowCutter, *, is_alone: bool) -> None:
        super().__init__(paths[0], "text", cutter)
        self._paths, self._is_alone = paths, is_alone

    def rows(self, position: int) -> Iterator[tuple[Any, int]]:
        """Documents from the file `position` on."""
        for number, path in enumerate(self._paths[position:], start=position + 1):
            text = read_text(path)
            if text is None and self._is_alone:
                raise UserError(f"{path}: not a text in UTF-8. Convert it, or give a table.")
            yield text or "", number

    def values(self) -> Iterator[tuple[str, Any]]:
        """Texts as they stand there, each with its path."""
        return ((str(self._paths[after - 1]), text) for text, after in self.rows(0))


class CsvFile(Documents):
    """A CSV or a plugin's table, read whole; positions are rows."""

    def chunks(self, position: int, k: int) -> Iterator[Chunk]:
        """As of all documents; of tokens one chunk."""
        if self.cutter is not None:
            return super().chunks(position, k)
        values = read_table(self.path)[self.column]
        return iter([_join_lists(values[position:].drop_nulls(), len(values), self.path)])

    def rows(self, position: int) -> Iterator[tuple[Any, int]]:
        """Documents from the row `position` on."""
        values = read_table(self.path)[self.column].to_list()[position:]
        return ((value, after) for after, value in enumerate(values, position + 1))


def open_csv(path: Path, cutter: WindowCutter | None) -> CsvFile:
    """Read a CSV, or what a plugin reads, and see which column to count in, as `open_parquet`."""
    frame = read_table(path)
    column = _choose_column(path, [name for name in frame.columns if has_values(frame, name)])
    return CsvFile(path, column, _cutter_for(column, cutter, path))


def open_parquet(path: Path, cutter: WindowCutter | None) -> ParquetFile:
    """Look at a Parquet file's columns: `tokens` where there are some, else `text`.

    Raises UserError: neither column, another type, or texts without a tokenizer. DamagedDataError:
    a torn file.
    """
    with whole_parquet(path):
        schema = pl.scan_parquet(path, glob=False).collect_schema()
    column = _choose_column(path, [name for name, kind in schema.items() if kind != pl.Null])
    if not is_kind(schema[column], COLUMNS[column].kind):
        raise UserError(
            f"{path}, column '{column}': {schema[column]} where {COLUMNS[column].kind} are needed."
        )
    return ParquetFile(path, column, _cutter_for(column, cutter, path))


def open_jsonl(path: Path, cutter: WindowCutter | None) -> JsonLines | None:
    """Look at the first row of a JSONL file, as `open_parquet`; None for a file without rows."""
    with open_unpacked(path) as handle:
        first = next((line for line in _lines(handle, path) if line.strip()), None)
    if first is None:
        return None
    row = _parse_line(first)
    if not isinstance(row, dict):
        raise UserError(
            f"{path}, line 1: not JSON. One object with named columns a line is needed."
        )
    column = _choose_column(path, [name for name, value in row.items() if value is not None])
    return JsonLines(path, column, _cutter_for(column, cutter, path))


_OPENERS: dict[str, Callable[[Path, WindowCutter | None], Documents | None]] = {
    **dict.fromkeys(TABLE_ENDINGS, open_jsonl),
    ".parquet": open_parquet,
    ".csv": open_csv,
}


def _choose_column(path: Path, names: list[str]) -> str:
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


def _lines(handle: BinaryIO, path: Path) -> Iterator[bytes]:
    try:
        yield from read_lines(handle)
    except ValueError as error:
        reason = str(error).partition(": ")[2]
        raise UserError(f"{path}: a line {reason}. Divide its text into several lines.") from None


def _parse_line(line: bytes) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return None


def _line_number(path: Path, position: int) -> int:
    number = 1
    with open_unpacked(path) as handle:
        while position > 0:
            block = handle.read(min(position, 1 << 20))
            number += block.count(b"\n")
            position -= len(block) or position
    return number


class Place(NamedTuple):
    """Where reading goes on: in which source, and where in it."""

    source: int = 0
    position: int = 0


class Corpus(NamedTuple):
    """An opened corpus, not in memory; `reading` is what else decides its tokens."""

    path: Path
    sources: Sequence[FlatFile | Documents]
    files: tuple[Path, ...]
    reading: str

    @property
    def n_tokens(self) -> int | None:
        """How many tokens there are, where the files say so."""
        flat = [source for source in self.sources if isinstance(source, FlatFile)]
        known = sum(source.n_tokens for source in flat)
        return known if len(flat) == len(self.sources) else None

    @property
    def has_documents(self) -> bool:
        """Whether any part of it says where its documents end."""
        return any(not isinstance(one, FlatFile) or one.documents for one in self.sources)

    def identity(self) -> str:
        """Hash of the files' paths, sizes and times of change, and of how they are read."""
        stats = [(str(path.resolve()), path.stat()) for path in self.files]
        files = [(name, one.st_size, one.st_mtime_ns) for name, one in stats]
        return hashlib.sha256(json.dumps([files, self.reading]).encode()).hexdigest()

    def chunks(self, place: Place, k: int) -> Iterator[tuple[Chunk, Place]]:
        """Pieces from a place on, each with the place after it."""
        for number in range(place.source, len(self.sources)):
            position = place.position if number == place.source else 0
            for chunk in self.sources[number].chunks(position, k):
                yield chunk, Place(number, chunk.position)


def open_corpus(path: Path | str, *, tokenizer: Any | None, dtype: str | None) -> Corpus:
    """Look at every file of a corpus, so that all that is wrong is said before any work.

    Endings tell files of a folder apart: texts and tables, or flat binaries (`.bin`, `.npy`).
    Without a tokenizer texts are passed over beside other data, and said. `dtype` is the type of
    the ids of a plain `.bin`, one of `DTYPES`; uint16 unless given. Raises UserError: nothing
    there, texts without a tokenizer, or a file that cannot be used. DamagedDataError: a torn
    Parquet file, array or index.
    """
    path = Path(path)
    if dtype is not None:
        check_dtype(dtype)
    check_there(path)
    files = list_files(path) if path.is_dir() else [path]
    cutter = None if tokenizer is None else WindowCutter(tokenizer)
    tables = [file for file in files if table_ending(file)]
    flats = [file for file in files if file.suffix in FLAT_ENDINGS]
    texts = [file for file in files if file not in (*tables, *flats)]
    if not path.is_dir():
        for file in texts:
            refuse_as_prose(file)
    if flats:
        indices = {file.with_suffix(".idx") for file in flats}
        texts = [file for file in texts if file not in indices]
        if others := tables or (texts if cutter else []):  # a stray .bin need not be token ids
            raise UserError(
                f"{path}: holds flat binaries ({flats[0].name}) beside other files "
                f"({others[0].name}). Name the file or the folder that is meant."
            )
    sources: list[FlatFile | Documents] = [open_flat(file, dtype) for file in flats]
    for file in tables:
        opened = _OPENERS.get(table_ending(file) or "", open_csv)(file, cutter)
        sources += [] if opened is None else [opened]
    sources += _open_texts(path, texts, cutter, has_data=bool(tables or flats))
    if dtype is not None and not flats:
        say(f"--dtype {dtype} plays no part: {path} holds no flat binary.")
    used = [file for one in sources if isinstance(one, FlatFile) for file in one.files]
    used += [*tables, *(texts if cutter else [])]
    return Corpus(path, sources, tuple(used), f"{dtype} {_tokenizer_hash(tokenizer)}")


def _open_texts(
    path: Path, texts: list[Path], cutter: WindowCutter | None, *, has_data: bool
) -> list[FlatFile | Documents]:
    """The texts as one source; without a tokenizer they are passed over beside other data."""
    if not texts:
        return []
    if cutter is not None:
        return [TextFiles(texts, cutter, is_alone=path.is_file())]
    if not has_data:
        raise UserError(
            f"{path}: texts must be cut into tokens: name a model or a folder with --tokenizer. "
            f"(Tables end in {', '.join(TABLE_ENDINGS)}, flat binaries in .bin or .npy.)"
        )
    say(f"{path}: {len(texts):,} other files passed over ({texts[0].name}); no --tokenizer given.")
    return []


def _tokenizer_hash(tokenizer: Any | None) -> str | None:
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
