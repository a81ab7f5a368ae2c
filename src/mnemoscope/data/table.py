"""The columns a table of sequences may have: name, type and meaning, in one place.

A table is a Polars frame. Columns not named here are kept untouched.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from mnemoscope.data.formats import (
    TABLE_ENDINGS,
    are_names,
    open_unpacked,
    read_by_plugin,
    read_csv,
    refuse_pointer,
    table_ending,
    take_columns,
    to_series,
)
from mnemoscope.errors import DamagedDataError, UserError, first_line, nearest
from mnemoscope.files import (
    atomic_path,
    check_room,
    disk_full,
    fault_of_parquet,
    write_bytes,
    write_parquet,
)
from mnemoscope.parse import parse_json, read_lines
from mnemoscope.words import plural

PUBLISHED_VERDICT = "published_is_memorized"
"""What a source says of a sequence; the study's own verdict is `is_memorized`."""
OWN_VERDICT = "own_verdict"
"""What the study's model says of it, where `is_memorized` is the source's word."""
CODE_LABEL = "code_label"
"""What the fastText classifier of arXiv 2508.02573 says of a text: `Code` or `NaturalLanguage`, or
that behind `__label__`; it is kenhktsui/code-natural-language-fasttext-classifier."""

_INTEGERS = "integers"
_NUMBERS = "numbers"
_BOOLEANS = "true or false"
_STRINGS = "text"
_TOKENS = "lists of integers"
_MASK = "lists of 0 and 1"
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    _INTEGERS: (int,),
    _NUMBERS: (int, float),
    _BOOLEANS: (bool,),
    _STRINGS: (str,),
}


class Column(NamedTuple):
    """One column: what a value may be (in words for messages), its Polars type, what it says."""

    kind: str
    dtype: pl.DataType
    meaning: str


COLUMNS: dict[str, Column] = {
    "sequence_id": Column(_INTEGERS, pl.Int64(), "unique"),
    "text": Column(_STRINGS, pl.String(), "the text; longer texts are cut"),
    "tokens": Column(_TOKENS, pl.List(pl.Int32()), "token ids, as many in every sequence: 64"),
    "attention_mask": Column(_MASK, pl.List(pl.Int64()), "1 for a token, 0 for padding"),
    "document": Column(_STRINGS, pl.String(), "the text that it was cut from"),
    "start": Column(_INTEGERS, pl.Int64(), "first character in the document"),
    "end": Column(_INTEGERS, pl.Int64(), "character after the last in the document"),
    "genre": Column(_STRINGS, pl.String(), "kind of text, such as code or prose"),
    "group": Column(_STRINGS, pl.String(), "near duplicates, kept on one side"),
    "held_out": Column(_BOOLEANS, pl.Boolean(), "known never to have been trained on"),
    "duplicates": Column(_INTEGERS, pl.Int64(), "occurrences of the suffix in the training data"),
    "is_code": Column(_BOOLEANS, pl.Boolean(), "the text is source code"),
    CODE_LABEL: Column(_STRINGS, pl.String(), "what the paper's classifier of code calls it"),
    "memorization_score": Column(_NUMBERS, pl.Float32(), "share of right tokens; null if scanned"),
    "is_memorized": Column(
        _BOOLEANS,
        pl.Boolean(),
        "what the model writes greedily is the suffix; under `continue.labels: published` the "
        "source's word, if it has one",
    ),
    OWN_VERDICT: Column(
        _BOOLEANS, pl.Boolean(), "what the model writes is the suffix; under those labels alone"
    ),
    "continuation": Column(_TOKENS, pl.List(pl.Int32()), "what it writes; null if scanned"),
    "smallest_gap": Column(_NUMBERS, pl.Float32(), "smallest gap of its two best logits"),
    "is_incrementing": Column(_BOOLEANS, pl.Boolean(), "the text counts up or down"),
    "is_repeating": Column(_BOOLEANS, pl.Boolean(), "the text repeats a short period"),
    "rouge_l": Column(_NUMBERS, pl.Float64(), "ROUGE-L of prefix and suffix on token ids: LCS/32"),
    "rouge_3": Column(_NUMBERS, pl.Float64(), "ROUGE-3 of them: clipped common trigrams/30"),
    PUBLISHED_VERDICT: Column(_BOOLEANS, pl.Boolean(), "`is_memorized` as the source has it"),
}


_COUNTS = ("duplicates", "start", "end")


def is_kind(dtype: pl.DataType, kind: str) -> bool:
    """Whether a Polars type can hold values of a kind; an all-null column always can."""
    if dtype == pl.Null:
        return True
    if isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner
        if kind == _MASK and inner == pl.Boolean:
            return True
        return kind in (_TOKENS, _MASK) and (inner.is_integer() or inner == pl.Null)
    return {
        _INTEGERS: dtype.is_integer(),
        _NUMBERS: dtype.is_numeric(),
        _BOOLEANS: dtype == pl.Boolean,
        _STRINGS: dtype in (pl.String, pl.Categorical, pl.Enum),
    }.get(kind, False)


def is_value_of_kind(value: Any, kind: str) -> bool:
    """The same question for one value read from JSON; null is always allowed."""
    if value is None:
        return True
    if kind in (_TOKENS, _MASK):
        allowed = {int, bool} if kind == _MASK else {int}
        return isinstance(value, list) and set(map(type, value)) <= allowed
    return isinstance(value, _PYTHON_TYPES[kind]) and (
        kind == _BOOLEANS or not isinstance(value, bool)
    )


def conform(frame: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Bring every known column to its type; order, unknown columns and precision of floats stay.

    Raises UserError: a known column holds another kind, or a number too large for its type.
    """
    for name in frame.columns:
        if name in COLUMNS:
            frame = frame.with_columns(_conform_column(frame[name], where))
    return frame


def _conform_column(series: pl.Series, where: str) -> pl.Series:
    _check_kind(series.name, series.dtype, where)
    if series.dtype.is_float():
        return series
    dtype = COLUMNS[series.name].dtype
    if series.name in _COUNTS and series.dtype != pl.Null and (series < 0).any():
        raise UserError(
            f"{where}, row {_first(series < 0)}, column '{series.name}': "
            f"{series.filter(series < 0)[0]} where 0 is the least. Correct it, or null for unknown."
        )
    try:
        return series.cast(dtype)
    except pl.exceptions.InvalidOperationError as error:
        raise _does_not_fit(series.name, where) from error


def _does_not_fit(name: str, where: str) -> UserError:
    return UserError(
        f"{where}, column '{name}': a number does not fit {COLUMNS[name].dtype}. "
        "Correct it or drop the row."
    )


def _check_kind(name: str, dtype: pl.DataType, where: str) -> None:
    if not is_kind(dtype, COLUMNS[name].kind):
        raise UserError(
            f"{where}, column '{name}': {dtype} where {COLUMNS[name].kind} are needed. Convert it "
            "or drop it."
        )


# Find the line and column that make a JSONL table unusable.


def find_fault(path: Path, replaced: Collection[str] = ()) -> str | None:
    """First fault of a JSONL file, ``line N, ...``, else None; `replaced` columns hold anything."""
    is_blank = True
    with open_unpacked(path) as handle:
        try:
            for number, line in enumerate(read_lines(handle), start=1):
                fault = _fault_of_line(line, replaced)
                if fault is not None:
                    return f"line {number}{fault}"
                is_blank = is_blank and not line.strip()
        except ValueError as error:
            return f"{error}. Divide its text into several lines."
    return "no line holds a row. At least one sequence is needed." if is_blank else None


def _fault_of_line(line: bytes, replaced: Collection[str]) -> str | None:
    """What is wrong with one line; an empty line is nothing wrong."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f": byte {error.start} is not UTF-8. Save the file as UTF-8."
    if not text.strip():
        return None
    try:
        row = parse_json(text, constants=False)
    except ValueError as error:
        return f": not JSON ({error}). One object a line is needed."
    if not isinstance(row, dict):
        return f": a {type(row).__name__} where an object with named columns is needed. Correct it."
    faults = (_fault_of_value(name, value, name in replaced) for name, value in row.items())
    return next(filter(None, faults), None)


def _fault_of_value(name: str, value: object, is_replaced: bool) -> str | None:
    column = None if is_replaced else COLUMNS.get(name)
    if column is not None and not is_value_of_kind(value, column.kind):
        shown = json.dumps(value, ensure_ascii=True)
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        return (
            f", column '{name}': {shown} where {column.kind} are needed. "
            "Correct the line or drop it."
        )
    try:
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError:
        return f", column '{name}': half of a surrogate pair, which is no character. Remove it."
    return None


# Read, check and write the table of sequences: one row a sequence.

SCHEMA_VERSION = 1
"""Raised when a column changes its meaning or type; adding a column does not raise it."""

_VERSION_KEY = "mnemoscope.schema_version"
_METADATA = {_VERSION_KEY: str(SCHEMA_VERSION)}


def is_own_table(path: Path) -> bool:
    """Whether a file is a Parquet table that was written here, and not a user's own."""
    try:
        return _VERSION_KEY in pl.read_parquet_metadata(path)
    except (OSError, pl.exceptions.PolarsError):
        return False


def read_table(
    path: Path | str, columns: Mapping[str, str] | None = None, *, name: str | None = None
) -> pl.DataFrame:
    """Read a table (`TABLE_ENDINGS`); known columns come at their types, others as they are.

    `columns` are taken first from the paths that they name (`take_columns`, where `name` stands for
    the file's own). A CSV is one row a document or sequence: it needs a column `text` or `tokens`.
    Raises UserError: no such file, another ending, a line that is no JSON object or a row that is
    no CSV, a known column of another kind, or a schema newer than this program knows.
    DamagedDataError: a Parquet or packed file that is torn or altered.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder where a table ({', '.join(TABLE_ENDINGS)}) is needed.")
    if not path.exists():
        raise UserError(f"{path}: no such file.")
    ending, where = table_ending(path), str(path)
    if ending is None:
        raise UserError(f"{path}: a table must end in {', '.join(TABLE_ENDINGS)}.")
    refuse_pointer(path)
    if ending == ".parquet":
        parquet_metadata(path)
        with whole_parquet(path):
            frame = pl.read_parquet(path, glob=False)
    elif ending in TABLE_ENDINGS:
        frame = read_csv(path) if ending == ".csv" else _read_jsonl(path, columns or ())
    else:
        frame = read_by_plugin(path, ending)
    frame = take_columns(frame, columns or {}, where=where, name=name)
    if ending == ".csv":
        frame = _of_texts(frame, where)
    return conform(frame, where=where)


def write_table(path: Path | str, frame: pl.DataFrame) -> None:
    """Write a `.parquet` (zstd, with the schema version) or `.jsonl` table whole or not at all.

    Raises UserError: another ending, or no such folder. NoRoomError: the disk is full.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"{path}: a table must end in .parquet or .jsonl.")
    if path.suffix == ".parquet":
        # Users edit these tables, and some programs would take an outdated checksum over.
        write_parquet(path, frame, metadata=_METADATA)
    else:
        buffer = io.BytesIO()  # a full disk then fails in one write, with the system's own error
        frame.write_ndjson(buffer)
        write_bytes(path, buffer.getvalue())


def parquet_metadata(path: Path) -> dict[str, str]:
    """Read a Parquet file's metadata and see that its schema is one that this program knows.

    Raises UserError: a schema newer than this program knows. DamagedDataError: a file without a
    whole footer.
    """
    with whole_parquet(path):
        metadata = pl.read_parquet_metadata(path)
    version = metadata.get(_VERSION_KEY, str(SCHEMA_VERSION))
    if not version.isdecimal() or int(version) > SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema version {version}, this program knows up to {SCHEMA_VERSION}. "
            "Update mnemoscope."
        )
    return metadata


def has_values(frame: pl.DataFrame, name: str) -> bool:
    """True of a column that is there and not all null."""
    return name in frame.columns and frame[name].null_count() < frame.height


def code_by_label(*, has_text: bool = True) -> pl.Expr:
    r"""`is_code` as in arXiv 2508.02573: `CODE_LABEL` says Code, or the text has ``\usepackage{``.

    Null without a label, unless the text settles it.
    """
    is_code = pl.col(CODE_LABEL).str.strip_prefix("__label__") == "Code"
    if not has_text:
        return is_code
    return is_code | pl.col("text").str.contains(r"\usepackage{", literal=True)


def check_columns(frame: pl.DataFrame, *needed: str, where: str) -> None:
    """Reject a table without rows or without a needed column of the right kind."""
    for name in needed:
        if name not in frame.columns:
            raise UserError(
                f"{where}: no column '{name}'.{nearest(name, frame.columns)} "
                f"It holds: {', '.join(frame.columns) or 'nothing'}."
            )
        _check_kind(name, frame.schema[name], where)
    if frame.is_empty():
        raise UserError(f"{where}: no rows. At least one sequence is needed.")


def check_sequences(
    frame: pl.DataFrame, *, where: str, length: int = 64, vocab_size: int | None = None
) -> None:
    """Reject a table that cannot be shown to a model; rows are counted from 0.

    Raises UserError: a missing or mistyped column, no rows, a null or duplicate `sequence_id`, a
    sequence of another length, a null or a token id outside [0, vocab_size).
    """
    check_columns(frame, "sequence_id", "tokens", where=where)
    check_ids(frame["sequence_id"], where)
    check_lengths(frame["tokens"], where, length)
    _check_vocabulary(_as_lists(frame["tokens"]), where, vocab_size)


def table_digest(table: pl.DataFrame) -> str:
    """SHA-256 of a table's ids, tokens and padding."""
    digest = hashlib.sha256(table["sequence_id"].to_numpy().tobytes())
    for column in ("tokens", "attention_mask"):
        if column in table.columns:
            values = table[column].explode().cast(pl.Int64).fill_null(-(2**31))
            digest.update(values.to_numpy().astype("int32").tobytes())
    return digest.hexdigest()


def fill_columns(table: pl.DataFrame, further: pl.DataFrame) -> pl.DataFrame:
    """Add the columns of a further table by `sequence_id`; where one is there, what it has wins."""
    known = [name for name in further.columns if name in table.columns and name != "sequence_id"]
    found = table.join(further, on="sequence_id", how="left", suffix="_new", maintain_order="left")
    filled = [pl.coalesce(f"{name}_new", name).alias(name) for name in known]
    return found.with_columns(filled).drop(f"{name}_new" for name in known)


def token_matrix(frame: pl.DataFrame, column: str = "tokens") -> np.ndarray:
    """The lists of one column as an array, shape (rows, length), int32.

    Raises UserError: the lists differ in length, one is null or empty, or an id is negative or does
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


def token_table(tokens: np.ndarray, mask: np.ndarray | None = None) -> pl.DataFrame:
    """Tokens (n, T), and what is padding, as a table of sequences that are numbered from 0."""
    columns = {"sequence_id": np.arange(len(tokens)), "tokens": tokens.tolist()}
    columns |= {} if mask is None else {"attention_mask": mask.tolist()}
    return pl.DataFrame(columns, schema_overrides={name: COLUMNS[name].dtype for name in columns})


def with_tokens(table: pl.DataFrame, tokens: np.ndarray, mask: np.ndarray) -> pl.DataFrame:
    """Put the columns of `token_table` before a table's, of which `sequence_id` stays."""
    made = token_table(tokens, mask)
    if "sequence_id" in table.columns:
        made = made.with_columns(table["sequence_id"])
    return pl.concat([made, table.drop(made.columns, strict=False)], how="horizontal")


def look_up(rows: pl.DataFrame, table: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """Rows with these columns (all unless named) that a table holds of their `sequence_id`.

    They keep their order; null where the table lacks the id.
    """
    found = table.select("sequence_id", *columns) if columns else table
    return rows.join(found, on="sequence_id", how="left", maintain_order="left")


def whole_mask(table: pl.DataFrame) -> np.ndarray | None:
    """The column `attention_mask` of a table, int32 (rows, length); None where nothing is padded.

    Raises UserError: lists of unequal lengths, a null or a number below 0 in them.
    """
    column = table.get_column("attention_mask", default=None)
    if column is None or column.null_count() == len(column):
        return None
    mask = token_matrix(table, column="attention_mask")
    return None if (mask == 1).all() else mask


def mask_of(table: pl.DataFrame, wanted: pl.DataFrame) -> np.ndarray | None:
    """The mask of the rows of a table with the ids of `wanted`, in their order: `whole_mask`."""
    if "attention_mask" not in table.columns:
        return None
    return whole_mask(look_up(wanted, table, "attention_mask"))


def rows_alike(table: pl.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of rows that are padded alike (n,), and which columns hold their tokens (length,).

    Raises UserError: as `whole_mask`, or a mask of another length than the tokens.
    """
    tokens, mask = token_matrix(table), whole_mask(table)
    if mask is None:
        yield np.arange(len(tokens)), np.ones(tokens.shape[1], dtype=bool)
        return
    if mask.shape != tokens.shape:
        raise UserError(f"attention_mask: shape {mask.shape}, the tokens have {tokens.shape}.")
    kinds, which = np.unique(mask.astype(bool), axis=0, return_inverse=True)
    for number, columns in enumerate(kinds):
        yield np.flatnonzero(which.reshape(-1) == number), columns


def without_padding(table: pl.DataFrame) -> list[list[int]]:
    """The tokens of every row, those of its padding left out."""
    tokens, found = token_matrix(table), [[0]] * table.height
    for rows, columns in rows_alike(table):
        for row, kept in zip(rows, tokens[rows][:, columns].tolist(), strict=True):
            found[row] = kept
    return found


def refuse_padding(table: pl.DataFrame, *, where: str) -> None:
    """Refuse a table with padded rows (UserError) where all sequences must be of one length."""
    mask = whole_mask(table)
    if mask is not None:
        n_padded = int((mask == 0).any(axis=1).sum())
        raise UserError(
            f"{where}: {n_padded:,} of {len(mask):,} sequences are padded, where all must be of "
            "one length. Leave the padded ones out, or take a smaller sequences.length."
        )


def check_ids(ids: pl.Series, where: str) -> None:
    """Reject ids that are null or duplicated, naming the row, counted from 0."""
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
    """Reject lists of another length or with a null inside, naming the row, counted from 0."""
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
    limit = np.iinfo(np.int32).max + 1 if vocab_size is None else vocab_size
    flat = lists.explode().cast(pl.Int64)
    outside = ~flat.is_between(0, limit - 1)
    if outside.any():
        row, position = divmod(_first(outside), len(flat) // len(lists))
        raise UserError(
            f"{where}, row {row}, token {position}: id {lists[row][position]} is outside the "
            f"vocabulary (0 to {limit - 1}). Tokenize with the model's own tokenizer."
        )


@contextmanager
def whole_parquet(path: Path, remedy: str = "Make or copy it again.") -> Iterator[None]:
    """Whatever Polars stumbles over in a Parquet file is damage (DamagedDataError)."""
    try:
        if path.is_file() and (fault := fault_of_parquet(path)):
            raise pl.exceptions.ComputeError(fault)
        yield
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it.") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        check_room(path, error)
        reason = first_line(error)
        raise DamagedDataError(f"{path}: not a whole Parquet file ({reason}). {remedy}") from error


def _read_jsonl(path: Path, replaced: Collection[str]) -> pl.DataFrame:
    """Read JSONL once to check it and once as a table: Polars would make texts of numbers."""
    fault = find_fault(path, replaced)
    if fault is not None:
        raise UserError(f"{path}, {fault}")
    try:
        with open_unpacked(path) as handle:  # of a path Polars would make a pattern: run[1].jsonl
            is_plain = path.suffix.lower() == ".jsonl"
            return pl.read_ndjson(handle if is_plain else handle.read(), infer_schema_length=None)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UserError(f"{path}: not a JSONL table ({first_line(error)}).") from error


_NAMED = 3  # columns of a CSV without texts
_SAID = {"true": True, "false": False, "1": True, "0": False}


def _of_texts(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """Known columns of a CSV at their kinds: numbers, true or false, lists as JSON."""
    if not {"text", "tokens"} & set(frame.columns):
        names = frame.columns
        shown = ", ".join(names[: min(_NAMED, len(names) - 1)])  # never the whole of a record
        is_header = shown and are_names(names)
        way = (
            "Take one with --column text=NAME (each row is then a document; in a corpus, rename "
            "it), or read the file as it stands, as one text, with --column 'text=*'."
            if is_header
            else "Where each line is a record, have the file read as it stands, as one text, with "
            "--column 'text=*'; where the first line names columns, take one with --column "
            "text=NAME."
        )
        raise UserError(
            f"{where}: a CSV of {plural(len(names), 'column')}{f' ({shown}, …)' * bool(is_header)} "
            f"without a column 'text' or 'tokens' in its first line, so no row is a document. {way}"
        )
    for name in frame.columns:
        kind = COLUMNS[name].kind if name in COLUMNS else _STRINGS
        if kind != _STRINGS and frame.schema[name] == pl.String:
            values = [
                None if text is None else _of_text(text, kind, f"{where}, row {row}, '{name}'")
                for row, text in enumerate(frame[name])
            ]
            try:
                frame = frame.with_columns(to_series(values).alias(name))
            except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
                raise _does_not_fit(name, where) from error
    return frame


def _of_text(text: str, kind: str, where: str) -> Any:
    try:
        value = _SAID[text.strip().lower()] if kind == _BOOLEANS else parse_json(text)
        if kind == _INTEGERS and isinstance(value, float) and value.is_integer():
            value = int(value)  # as pandas writes a column with gaps
        if is_value_of_kind(value, kind):
            return value
    except (ValueError, KeyError):
        pass
    raise UserError(f"{where}: {text[:40]!r} where {kind} are needed. Correct it.")


def _as_lists(series: pl.Series) -> pl.Series:
    """Arrays of fixed width become lists; an all-null column becomes null lists."""
    if isinstance(series.dtype, pl.Array):
        return series.arr.to_list()
    return series.cast(pl.List(pl.Int64)) if series.dtype == pl.Null else series


def _first(mask: pl.Series) -> int:
    return int(mask.arg_max() or 0)


# Read and write tables larger than memory: lazily, batch by batch, whole or not at all.

BATCH_ROWS = 65_536
_DISK_FULL = ("No space left", "os error 28", "os error 122")


def scan_table(path: Path | str, columns: Mapping[str, str] | None = None) -> pl.LazyFrame:
    """`read_table`, but of a Parquet file only what is asked for is read.

    Others, and one with `columns` to be taken from their paths, are read whole. Raises UserError:
    as `read_table`, except that a value that does not fit its type is found later.
    DamagedDataError: a Parquet file without a whole footer.
    """
    path = Path(path)
    if columns or path.suffix != ".parquet" or not path.is_file():
        return read_table(path, columns).lazy()
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
    """Run `make` (rows, number of the first) over batches of `BATCH_ROWS`, as many rows out."""
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
    """Write a table whole or not at all, without holding it in memory; `where` is what is read.

    Raises NoRoomError: the disk is full. DamagedDataError: what is read is torn or altered.
    """
    path = Path(path)
    try:
        with atomic_path(path) as temporary, _numbered_errors():
            if path.suffix == ".parquet":
                table.sink_parquet(
                    temporary, compression="zstd", row_group_size=BATCH_ROWS, metadata=_METADATA
                )
            else:
                table.sink_ndjson(temporary)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = first_line(error)
        if any(word in reason for word in _DISK_FULL):
            raise disk_full(path) from error
        raise DamagedDataError(f"{where}: cannot be read whole ({reason}).") from error
