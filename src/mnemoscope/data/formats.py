"""What files of rows are made of: endings, packed bytes, CSV, and paths into nested columns."""

import csv
import errno
import gzip
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO

import polars as pl

from mnemoscope.errors import (
    DamagedDataError,
    UserError,
    first_line,
    nearest,
    pip_install,
    printable,
)
from mnemoscope.parse import MOST_TEXT_BYTES, open_regular, parse_json
from mnemoscope.plugins import Plugin, call_plugin, find_plugins, load_plugin, lower
from mnemoscope.words import first_names, plural

TABLE_ENDINGS = (
    ".parquet",
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
    ".json.gz",
    ".json.zst",
    ".csv",
)
READABLE = "a folder, a text, .jsonl (also .gz, .zst), .csv, .parquet, or a pair of .npy"

_NEVER_PROSE = {
    ".json": "one object a line (.jsonl) is needed",
    ".ndjson": "let it end in .jsonl",
    ".tsv": "commas (.csv) are needed",
    ".gz": "only .jsonl.gz is read packed; unpack it",
    ".zst": "only .jsonl.zst is read packed; unpack it",
    ".npz": "a pair of .npy (prefix, suffix) is needed",
    ".arrow": "save it as .parquet",
    ".feather": "save it as .parquet",
    ".xlsx": "save it as .csv",
    ".ipynb": "save its text as .txt",
}


_LONGEST_NAME = 255  # bytes of a file's name
_SHOWN = 30  # characters of both ends of what is longer


def is_there(path: Path | str) -> bool:
    """Whether a file or folder is there; a text in place of its name is none, however long."""
    try:
        return Path(path).exists()
    except OSError as error:  # Python 3.11 raises it
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


_READ_ONCE = "a pipe or device, which can be read once. Save it as a file."


def check_there(path: Path | str, of_text: str = "") -> None:
    """Raise UserError where no file or folder is there, or a pipe or device.

    `of_text` says how to give a text, where one may have been given in place of its name.
    """
    if is_there(path):
        if not Path(path).is_file() and not Path(path).is_dir():
            raise UserError(f"{path}: {_READ_ONCE}")
        return
    name, hint = str(path), ""
    first, *further = name.strip().split("\n")
    if further and is_there(first):
        n = 1 + len(further)
        raise UserError(f"{first} …: {n} names in one argument. Give each as one of its own.")
    if len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
        name, hint = f"{name[:_SHOWN]} … {name[-_SHOWN:].rstrip()}", of_text and f" {of_text}"
    raise UserError(f"{name}: no such file or folder.{hint or _near(Path(name))}")


def _near(path: Path) -> str:
    """The name beside a missing file or folder that was probably meant."""
    try:
        beside = [str(one) for one in path.parent.iterdir()]
    except OSError:
        return ""
    return nearest(str(path), beside)


@dataclass(frozen=True)
class Skipped:
    """A document that was passed over, and why, in words."""

    name: str
    reason: str


_HIDDEN = "hidden (its name begins with a dot). Rename it to have it read."
_SYSTEM = re.compile(
    r"\.(git.*|hg.*|svn|DS_Store|localized|directory|hidden|Trash.*|Trashes|fseventsd|_.*"
    r"|Spotlight-.*|TemporaryItems|DocumentRevisions-.*|nfs.*|fuse_hidden.*|cache|huggingface"
    r"|dockerignore|editorconfig|npmignore|pre-commit-config\.yaml|idea|vscode|venv|tox|env\.d"
    r"|ipynb_checkpoints|(mypy|ruff|pytest)_cache|lock.*|.*\.(tmp|lock|swp|crc))"
)


def list_files(folder: Path, exclude: Iterable[str] = ()) -> list[Path]:
    """Files of a folder and its subfolders, as `walk_files`."""
    return walk_files(folder, exclude)[0]


def walk_files(
    folder: Path, exclude: Iterable[str] = ()
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Files of a folder and its subfolders, and what else is there, with why it is passed over.

    Both sorted by name, without what the patterns `exclude` leave out (`is_excluded`). What is
    hidden is passed over, and not named where a system, a tool or this program put it there
    (`_SYSTEM`). Links to files are followed; links to folders, as they may lead in a circle, and to
    nothing are passed over, as are pipes, sockets and devices, and folders that may not be read.
    """
    found: list[Path] = []
    passed: list[tuple[Path, str]] = []

    def deny(error: OSError) -> None:
        passed.append((Path(error.filename), f"a folder that cannot be read ({error.strerror})."))

    for root, folders, names in os.walk(folder, onerror=deny):
        hidden = (name for name in (*folders, *names) if name.startswith("."))
        passed += ((Path(root, one), _HIDDEN) for one in hidden if not _SYSTEM.fullmatch(one))
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = (path for name in folders if (path := Path(root, name)).is_symlink())
        passed += ((path, "a link to a folder. Name that folder too.") for path in linked)
        for path in (Path(root, name) for name in names if not name.startswith(".")):
            if path.is_file():
                found.append(path)
            elif path.is_symlink() and not path.exists():
                passed.append((path, "a link to nothing."))
            else:
                passed.append((path, _READ_ONCE))
    found = [one for one in found if not is_excluded(one, folder, exclude)]
    passed = [one for one in passed if not is_excluded(one[0], folder, exclude)]
    return sorted(found, key=lambda one: one.relative_to(folder).parts), sorted(passed)


def name_below(path: Path, folder: Path) -> str:
    """A file's path below a folder; control characters and bytes that are not UTF-8 are escaped."""
    return _name_of(path.relative_to(folder))


def _name_of(path: Path) -> str:
    return printable(path.as_posix().encode("utf-8", "backslashreplace").decode())


def is_excluded(path: Path, folder: Path, patterns: Iterable[str]) -> bool:
    """Whether a pattern leaves out a file: a glob on its path below a folder, or its whole path.

    A glob that fits a folder leaves out all in it; `*` stands for `/` too.
    """
    below = PurePosixPath(name_below(path, folder))
    parts = [str(one) for one in (below, *below.parents)][:-1]
    return any(
        glob == _name_of(path) or any(fnmatchcase(one, glob.rstrip("/")) for one in parts)
        for glob in patterns
    )


def find_excluded(sources: Sequence[str], patterns: Iterable[str]) -> dict[str, list[str]]:
    """The files of sources that each pattern leaves out (`is_excluded`).

    Raises UserError: a pattern that fits none, or nothing is left.
    """
    places: list[tuple[Path, Path]] = []
    for path in map(Path, sources):
        files, passed = walk_files(path) if path.is_dir() else ([path], [])
        folder = path if path.is_dir() else path.parent
        places += ((one, folder) for one in (*files, *(one for one, _ in passed)))
    found: dict[str, list[str]] = {}
    for glob in patterns:
        found[glob] = [_name_of(one) for one, at in places if is_excluded(one, at, [glob])]
        if not found[glob]:
            near = nearest(glob, [name_below(*one) for one in places])
            raise UserError(
                f"--exclude {glob}: fits no file of {', '.join(sources)}.{near} Give a path in "
                "there, or a glob such as '*.csv'."
            )
    if found and all(is_excluded(*one, found) for one in places):
        raise UserError(f"--exclude: leaves nothing of {', '.join(sources)}. Exclude less.")
    return found


def excluded_said(found: Mapping[str, Sequence[str]]) -> list[str]:
    """What each pattern left out, a line each."""
    return [f"Left out (--exclude {glob}): {first_names(names)}." for glob, names in found.items()]


def table_ending(path: Path) -> str | None:
    """The ending of a file of rows (of `TABLE_ENDINGS` or a plugin), None of any other file."""
    name = path.name.lower()
    every = (*TABLE_ENDINGS, *(f".{one}" for one in plugin_readers()))
    return next((one for one in every if name.endswith(one)), None)


def is_written(path: Path) -> bool:
    """Whether a table is a text too, whose lines can be read as they stand."""
    return table_ending(path) in (".csv", ".jsonl")


_OURS = lower(one[1:] for one in (*TABLE_ENDINGS, ".npy", ".bin", ".idx", ".txt", ".md", ".yaml"))


def plugin_readers() -> dict[str, Plugin]:
    """Readers that other packages bring, by the ending that they read, such as `warc.gz`."""
    return find_plugins("readers", _OURS, _is_ending)


def _is_ending(name: str) -> bool:
    return re.fullmatch(r"[a-z0-9]+(\.[a-z0-9]+)*", name) is not None


def read_by_plugin(path: Path, ending: str) -> pl.DataFrame:
    """Read a table whose ending a plugin brought; UserError where the plugin or its frame fails."""
    plugin = plugin_readers()[ending[1:]]
    read = load_plugin(plugin, _check_reader)
    if read is None:
        raise UserError(f"{path}: {plugin.package}, which reads {ending}, cannot be used.")
    return call_plugin(plugin, str(path), lambda: read(path), pl.DataFrame)


def _check_reader(found: object) -> str:
    return "" if callable(found) else "not a function that reads a file"


def refuse_as_prose(path: Path) -> None:
    """Refuse a file of data that would be cut as if it were a text (UserError)."""
    remedy = _NEVER_PROSE.get(path.suffix.lower())
    if remedy is not None:
        raise UserError(f"{path}: a {path.suffix.lower()} file is no text to be cut: {remedy}.")


_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: Path) -> None:
    """Refuse what Git leaves in place of a large file that was not fetched (UserError)."""
    with open_raw(path) as handle:
        is_pointer = handle.read(len(_POINTER)) == _POINTER
    if is_pointer:
        raise UserError(f"{path}: a pointer of Git LFS and not the file. Run 'git lfs pull' there.")


def open_raw(path: Path) -> BinaryIO:
    """Open a file's bytes; UserError without permission, or where it has no end."""
    try:
        return open(path, "rb", opener=open_regular)
    except ValueError as error:
        raise UserError(f"{path}: {_READ_ONCE}") from error
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it.") from error


# Packed files, piece by piece; what unpacks to far more than texts do is refused.

_MOST_BYTES = 256 << 20  # below this nothing is a bomb
_MOST_RATIO = 100  # texts pack to a third, text that repeats itself to a fiftieth
_PIECE = 1024  # of a zstd file: 4 bytes may stand for 128 KiB, so a piece gives 32 MiB at most


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file to be read once; `.gz` and `.zst` are unpacked on the way.

    Reading raises DamagedDataError where a packed file is torn, and UserError where it unpacks to
    more than 256 MiB and more than a hundred times its size. Raises UserError: no permission, or
    `.zst` without the package that unpacks it.
    """
    raw = open_raw(path)
    if path.suffix.lower() == ".gz":
        return io.BufferedReader(_Unpacked(path, raw, _gzip_pieces(raw)))
    if path.suffix.lower() == ".zst":
        return io.BufferedReader(_Unpacked(path, raw, _zstd_pieces(path, raw)))
    return raw


def pass_over(handle: BinaryIO, n_bytes: int) -> None:
    """Go on `n_bytes` further in a file that was just opened; what is packed is unpacked for it."""
    if handle.seekable():
        handle.seek(n_bytes)
    while n_bytes > 0 and not handle.seekable():
        n_bytes -= len(handle.read(min(n_bytes, 1 << 20))) or n_bytes


class _Unpacked(io.RawIOBase):
    """Unpacked bytes of a file, counted."""

    def __init__(self, path: Path, raw: BinaryIO, pieces: Iterator[bytes]) -> None:
        self._path, self._raw, self._pieces = path, raw, pieces
        self._limit = max(_MOST_BYTES, _MOST_RATIO * path.stat().st_size)
        self._n_bytes, self._left = 0, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            try:
                piece = next(self._pieces, None)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # whatever gzip, zlib and zstd raise of torn bytes
                reason = first_line(error)
                raise DamagedDataError(
                    f"{self._path}: not a whole {self._path.suffix} file ({reason}). Copy it again."
                ) from error
            if piece is None:
                return 0
            self._n_bytes += len(piece)
            self._left = memoryview(piece)
        if self._n_bytes > self._limit:
            raise UserError(
                f"{self._path}: unpacks to more than {_MOST_RATIO} times its size, as no texts do. "
                "If it is meant, unpack it and give the unpacked file."
            )
        n = min(len(buffer), len(self._left))
        buffer[:n], self._left = self._left[:n], self._left[n:]
        return n

    def close(self) -> None:
        self._raw.close()
        super().close()


def _gzip_pieces(raw: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=raw) as file:
        while piece := file.read(1 << 20):
            yield piece


def _zstd_pieces(path: Path, raw: BinaryIO) -> Iterator[bytes]:
    """Frame after frame; a frame that does not end is an EOFError."""
    decoder, packed = _zstd_decoder(path), b""
    is_begun = False
    while packed := packed or raw.read(_PIECE):
        yield decoder.decompress(packed)
        is_begun, packed = True, b""
        if decoder.eof:
            packed, decoder = decoder.unused_data, _zstd_decoder(path)
            is_begun = False
    if is_begun:
        raise EOFError("it ends inside a frame")


def _zstd_decoder(path: Path) -> Any:
    if sys.version_info >= (3, 14):
        return import_module("compression.zstd").ZstdDecompressor()
    try:
        return import_module("zstandard").ZstdDecompressor().decompressobj()
    except ImportError:
        raise UserError(f"{path}: needs zstandard to be unpacked: {pip_install('zstd')}") from None


# CSV: one row a document, every value a text until its column says otherwise.

_LONGEST_FIELD = 4 * MOST_TEXT_BYTES  # a row with a text of a quarter of it is passed over alone


def read_csv(path: Path) -> pl.DataFrame:
    """Read a CSV file with a header; every column is text, null where a field is empty.

    Raises UserError: not UTF-8, quotes that do not close, a name that is empty or stands twice, a
    row with more or fewer fields than the header, or a line or field without end.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    with open_unpacked(path) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        lines = csv.reader(_bounded_lines(text), strict=True)
        try:
            names = next(lines, [])
            _check_names(path, names)
            rows = []
            for row in lines:
                if row and len(row) != len(names):
                    raise UserError(
                        f"{path}, line {lines.line_num}: {len(row)} fields where the header has "
                        f"{len(names)}. Put texts with commas or line breaks in double quotes."
                    )
                if row:
                    rows.append(row)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 ({error.reason}). Save it as UTF-8.") from None
        except csv.Error as error:
            raise UserError(
                f"{path}, line {lines.line_num}: not CSV ({error}). Quotes inside a quoted text "
                "are doubled, and every row ends its line."
            ) from None
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    frame = pl.DataFrame(
        [pl.Series(name, column, pl.String) for name, column in zip(names, columns, strict=True)]
    )
    return frame.with_columns(pl.all().replace("", None))


def _bounded_lines(text: TextIO) -> Iterator[str]:
    while line := text.readline(_LONGEST_FIELD + 1):
        if len(line) > _LONGEST_FIELD:
            raise csv.Error(f"a line of more than {_LONGEST_FIELD >> 20} MB")
        yield line


def _check_names(path: Path, names: list[str]) -> None:
    if len(names) == 1 and (sign := next((one for one in "\t;|" if one in names[0]), None)):
        raise UserError(
            f"{path}: its header is divided by {sign!r}, commas are needed. Save it with commas."
        )
    twice = next((name for name in names if names.count(name) > 1 or not name.strip()), None)
    if twice is not None:
        raise UserError(
            f"{path}: column name {twice!r} is empty or stands twice. Name every column once."
        )


# Columns under other names, and paths into nested or JSON-in-text ones.

_COUNT = re.compile(
    r"(^|[_.\- ])(dup\w*|counts?|cop(y|ies)|freq\w*|occurr\w*|repet\w*|times|insert\w*)($|[_.\- ])",
    re.IGNORECASE,
)
_OF_OTHERS = re.compile(r"word|char|token|line|sent|byte|page|view|vote|like", re.IGNORECASE)
_EQUALS = "=="
SNIFFED_ROWS = 100


AS_TEXT = {"text": "*"}
"""Columns by which a table is no table: its file is read as a text, as it stands."""


def take_columns(
    frame: pl.DataFrame, columns: Mapping[str, str], *, where: str, name: str | None = None
) -> pl.DataFrame:
    """Add each column `name` from its path: `count`, `meta.duplicates`, `meta.duplicates==0`.

    A path goes into structs, and into texts that hold JSON objects; with `==` it is whether the
    value equals the number, truth value or text that follows. `@row` is the row's number and
    `name`, the last part of `where` unless given. Raises UserError: no such field (with those that
    there are), a text that is no JSON object, or values that cannot equal what follows `==`.
    """
    shown = Path(where).name if name is None else name
    found = [_take(frame, one, path, where, shown).alias(one) for one, path in columns.items()]
    return frame.with_columns(found)


def _take(frame: pl.DataFrame, name: str, path: str, where: str, shown: str) -> pl.Series:
    source, is_compared, wanted = path.partition(_EQUALS)
    if source == "@row":
        return pl.Series([f"{shown}, row {row}" for row in range(frame.height)], dtype=pl.String)
    head, *inner = [source] if source in frame.columns else source.split(".")
    if head not in frame.columns:
        raise _no_field(f"--column {name}={path}", where, head, frame.columns)
    series, passed = frame[head], head
    for at, step in enumerate(inner, start=1):
        place, goes_on = f"{where}, column '{passed}'", at < len(inner)
        series = _step(series, step, f"--column {name}={path}", place, goes_on=goes_on)
        passed += f".{step}"
    if not is_compared:
        return series
    return _equals(series, wanted.strip(), f"--column {name}={path}: {where}, '{source}'")


def _equals(series: pl.Series, wanted: str, flag: str) -> pl.Series:
    """Which values are `wanted`: numbers as numbers, so that 0.0 is 0; truth values in any case.

    So are those in texts, as all values of a CSV are; other texts are equal letter by letter.
    """
    dtype = series.dtype
    if not wanted:
        raise UserError(f"{flag}: no value follows '{_EQUALS}'. Name one, for example '==0'.")
    if dtype.is_nested():
        raise UserError(f"{flag} is {dtype}, which equals no single value.")
    if dtype == pl.Boolean:
        if wanted.lower() not in ("true", "false"):
            raise UserError(f"{flag} is true or false, never '{wanted}'.")
        return series == (wanted.lower() == "true")
    if not dtype.is_numeric():
        texts, said = series.cast(pl.String), _said(wanted)
        return texts.is_in([one for one in texts.unique() if one and _said(one) == said])
    try:
        number = float(wanted)
    except ValueError:
        raise UserError(f"{flag} holds numbers, never '{wanted}'.") from None
    if dtype.is_integer() and number.is_integer() and wanted.lstrip("+-").isdecimal():
        return series.cast(pl.String) == str(int(wanted))  # exact above 2^53 too
    return series.cast(pl.Float64) == number


_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,99})(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?")  # as in JSON


def _said(text: str) -> str | int | float:
    """The number or truth value (``true``, ``false``) that a text says, else the text."""
    bare = text.strip()
    if _NUMBER.fullmatch(bare):
        return int(bare) if bare.lstrip("-").isdecimal() else float(bare)
    return bare.lower() if bare.lower() in ("true", "false") else text


def _step(series: pl.Series, step: str, flag: str, where: str, *, goes_on: bool) -> pl.Series:
    """One field of a struct, or of JSON objects in texts (a text again where the path goes on)."""
    if isinstance(series.dtype, pl.Struct):
        names = [field.name for field in series.dtype.fields]
        if step not in names:
            raise _no_field(flag, where, step, names)
        return series.struct.field(step)
    if series.dtype != pl.String:
        raise UserError(f"{flag}: {where} is {series.dtype}, which has no field '{step}'.")
    objects = [_object(text, row, where) for row, text in enumerate(series)]
    names = list(dict.fromkeys(name for one in objects if one for name in one))
    if step not in names:
        raise _no_field(flag, where, step, names)
    values = [None if one is None else one.get(step) for one in objects]
    if goes_on:  # a struct would have the fields and kinds of the first row
        values = [json.dumps(one) if isinstance(one, dict) else one for one in values]
    try:
        return to_series(values)
    except (TypeError, pl.exceptions.PolarsError, OverflowError):
        raise UserError(
            f"{flag}: {where}, '{step}': values of several kinds, or a number beyond 64 bits. "
            "Correct them."
        ) from None


def to_series(values: list[Any]) -> pl.Series:
    """Values, or lists of them, as a series; whole numbers among fractions are fractions.

    Raises TypeError, OverflowError or PolarsError: values of several kinds, or too large a number.
    """
    kinds: set[type] = set()
    for value in values:
        kinds.update(map(type, value) if isinstance(value, list) else (type(value),))
    if kinds - {type(None)} != {int, float}:
        return pl.Series(values, strict=True)
    has_lists = any(isinstance(value, list) for value in values)
    return pl.Series(values, dtype=pl.List(pl.Float64) if has_lists else pl.Float64, strict=True)


def _object(text: str | None, row: int, where: str) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = parse_json(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{where}, row {row}: no JSON object to look into. Correct or drop it.")
    return value


def _no_field(flag: str, where: str, name: str, known: list[str]) -> UserError:
    those = f"{nearest(name, known)} There are: {', '.join(known[:20]) or 'none'}."
    if ".csv" in where.lower() and not are_names(known):  # nothing of a record in a log
        those = f" Its first line names {plural(len(known), 'column')}, or is a record."
    return UserError(f"{flag}: {where}: no '{name}'.{those}")


_NAME = re.compile(r"[a-z_][a-z0-9_.]{0,29}")
"""What looks like the name of a column, and not like a person's."""
_WORDS = re.compile(r"[^\W\d]\D{0,29}")
_COMMON = re.compile(
    r"\s*(answer|body|comment|content|date|description|document|id|message|name|notes?|prompt"
    r"|question|text|title|url)\s*",
    re.IGNORECASE,
)
"""Names of columns that are no value of a record."""


def are_names(words: Iterable[str]) -> bool:
    """Whether the first line of a CSV looks like names of columns, and not like a record.

    >>> are_names(["row_id", "said"]), are_names(["Name", "Note"]), are_names(["Hugo", "Ibarra"])
    (True, True, False)
    """
    cells = list(words)
    is_likely = any(map(_COMMON.fullmatch, cells)) and all(map(_WORDS.fullmatch, cells))
    return is_likely or all(map(_NAME.fullmatch, cells))


def passed_over(frame: pl.DataFrame) -> list[str]:
    """Paths whose values look like counts of duplicates, of a table without `duplicates`.

    A whole number in every row (for JSON in texts: the first hundred) under a name such as
    `dup_count`, `n_copies` or `meta.duplicates`.
    """
    if "duplicates" in frame.columns:
        return []
    return [path for path, values in _numbers(frame.head(SNIFFED_ROWS)) if _is_count(path, values)]


def _is_count(path: str, values: pl.Series) -> bool:
    name, is_whole = path.rpartition(".")[2], values.dtype.is_integer()
    is_named = _COUNT.search(name) is not None and _OF_OTHERS.search(name) is None
    return is_whole and is_named and values.len() > values.null_count()


def _numbers(frame: pl.DataFrame) -> Iterator[tuple[str, pl.Series]]:
    for name, dtype in frame.schema.items():
        series = frame[name]
        if isinstance(dtype, pl.Struct):
            for field, values in series.struct.unnest().to_dict().items():
                yield f"{name}.{field}", values
        elif dtype == pl.String:
            yield from _in_texts(name, series)
        else:
            yield name, series


def _in_texts(name: str, series: pl.Series) -> Iterator[tuple[str, pl.Series]]:
    texts = series.drop_nulls()
    if texts.str.contains(r"^\s*-?\d{1,18}\s*$").all() and texts.len():  # of a CSV
        yield name, texts.str.strip_chars().cast(pl.Int64)
    if not (texts.len() and texts.str.starts_with("{").all()):
        return
    try:
        objects = [parse_json(text) for text in texts]
    except ValueError:
        return
    for field in dict.fromkeys(key for one in objects for key in one):
        values = [one.get(field) for one in objects]
        if all(type(value) is int and abs(value) < 1 << 62 for value in values):
            yield f"{name}.{field}", pl.Series(values, dtype=pl.Int64)
