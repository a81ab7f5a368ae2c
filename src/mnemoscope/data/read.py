"""Read sequences, or a corpus, from texts, tables, arrays, frames, or a data set of the hub."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.data.folders import as_given, last_parts
from mnemoscope.data.formats import (
    AS_TEXT,
    Skipped,
    is_written,
    name_below,
    open_raw,
    refuse_as_prose,
    table_ending,
    walk_files,
)
from mnemoscope.data.rows import has_tables, read_rows, row_texts
from mnemoscope.data.table import (
    COLUMNS,
    OWN_VERDICT,
    PUBLISHED_VERDICT,
    check_columns,
    check_ids,
    check_sequences,
    has_values,
    without_padding,
)
from mnemoscope.errors import MnemoscopeError, UserError, first_line
from mnemoscope.parse import MOST_TEXT_BYTES, TOO_LONG
from mnemoscope.progress import say, track
from mnemoscope.words import plural

Pad = bool | Literal["left"]
"""Whether shorter rows are padded: on the right (True), or on the left."""

# Find the texts of a folder and read them as UTF-8, the same way on every machine.

_CODE = """
.asm .bash .c .cc .clj .cmake .cpp .cs .css .cu .cxx .d .dart .el .erl .ex .f90 .fs .go .groovy
.h .hpp .hs .java .jl .js .jsx .kt .lisp .lua .m .ml .mjs .nim .php .pl .pm .ps1 .py .pyi .pyx
.r .rb .rs .s .scala .scm .sh .sql .swift .tcl .ts .tsx .v .vb .vhd .vim .zig .zsh
"""
_CODE_ENDINGS = frozenset(_CODE.split())
_PROSE_ENDINGS = frozenset([".adoc", ".md", ".org", ".rst", ".tex", ".txt"])
_CODE_NAMES = frozenset(["cmakelists", "dockerfile", "makefile"])
_PROSE_NAMES = frozenset(
    ["authors", "changelog", "contributing", "copying", "license", "news", "notice", "readme"]
)
_SNIFFED_BYTES = 8192

_SHORTEST_COPY = 5  # tokens; a shorter match proves nothing either way (their script)
_SHOWN_CHARACTERS = 32
_AMONG_TEXTS = "a table among texts. Name it alone, in a run of its own"
_READ_SO = ", or have it read as text with --column 'text=*'"
_WORD = re.compile(r"[^\W_]+")
_LOOK_LIKE_TEXT = {"a PDF file": b"%PDF-", "a PostScript file": b"%!PS", "an RTF file": b"{\\rtf"}


def read_text(path: Path) -> str | None:
    """The text of a file, line ends as they are, without a byte order mark.

    None where it is no text: a zero byte near its beginning, or bytes that are not UTF-8. Raises
    UserError: no permission to read it, too long, or a page description that only looks like text.
    """
    with open_raw(path) as file:
        data = file.read(MOST_TEXT_BYTES + 1)
    if kind := next((one for one, mark in _LOOK_LIKE_TEXT.items() if data.startswith(mark)), None):
        raise UserError(f"{path}: {kind}, which is no text. Save its text as .txt first.")
    if b"\0" in data[:_SNIFFED_BYTES]:
        return None
    if len(data) > MOST_TEXT_BYTES:
        raise UserError(f"{path}: {TOO_LONG} files.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def guess_genre(path: Path) -> str | None:
    """Say by its name whether a file is ``code`` or ``prose``; None where the name says neither."""
    ending, stem = path.suffix.lower(), path.name.split(".")[0].lower()
    if ending in _CODE_ENDINGS or stem in _CODE_NAMES:
        return "code"
    if ending in _PROSE_ENDINGS or (stem in _PROSE_NAMES and not ending):
        return "prose"
    return None


# Cut a text into windows of equally many tokens, with their place in the document.


class Window(NamedTuple):
    """Tokens of a document, their decode and the characters `start` to `end` that they cover.

    The places are None where the tokenizer knows no offsets. A character whose bytes are split
    between two windows belongs to both.
    """

    tokens: list[int]
    text: str
    start: int | None
    end: int | None


class WindowCutter:
    """Cuts any number of texts into whole windows, without adding special tokens.

    `stride` counts tokens from the start of one window to that of the next; the tail of a document
    is left out. A text shorter than one window gives none, or with `least` one shorter window where
    it has at least so many tokens. Offsets come from a copy of the fast tokenizer without its
    post-processor, which adds the special tokens and, in GPT-2's and Pythia's kind, moves a token's
    offsets past its leading blank, so that windows would not fit their text. Raises UserError:
    `length` or `stride` below 1.
    """

    def __init__(
        self, tokenizer: Any, *, length: int = 64, stride: int = 64, least: int | None = None
    ) -> None:
        if length < 1 or stride < 1:
            raise UserError(f"length {length}, stride {stride}: both must be at least 1.")
        self.length = length
        self._tokenizer, self._stride = tokenizer, stride
        self.least: int = length if least is None else least
        self._backend = _copy_backend(tokenizer)

    def cut(self, text: str) -> list[Window]:
        """The windows of one text."""
        ids, offsets = self.encode_with_offsets(text)
        starts = range(0, len(ids) - self.length + 1, self._stride)
        if not starts and len(ids) >= self.least:
            starts = range(1)
        texts = self.decode([ids[start : start + self.length] for start in starts])
        return [
            Window(ids[first : first + self.length], decoded, *self._place(offsets, first))
            for first, decoded in zip(starts, texts, strict=True)
        ]

    def encode(self, text: str) -> list[int]:
        """Token ids of a whole text."""
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """Token ids of a whole text and the characters each covers, None without offsets.

        Raises UserError: a text so long that its tokens would fill the memory.
        """
        if len(text) > MOST_TEXT_BYTES:  # of a table's cell; files and lines are bounded before
            raise UserError(f"the text that begins with {text[:40]!r} is {TOO_LONG} rows.")
        if self._backend is None:
            return self._tokenizer.encode(text, add_special_tokens=False), None
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, tokens: list[list[int]]) -> list[str]:
        """Text of each list of tokens, special tokens included."""
        if not tokens:
            return []
        decoded: list[str] = self._tokenizer.batch_decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return decoded

    def _place(
        self, offsets: list[tuple[int, int]] | None, first: int
    ) -> tuple[int | None, int | None]:
        if offsets is None:
            return None, None
        return offsets[first][0], offsets[first : first + self.length][-1][1]


def _copy_backend(tokenizer: Any) -> Any | None:
    """The fast tokenizer without post-processor, truncation and padding; None if it is slow."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    backend = copy.deepcopy(backend)
    backend.post_processor = None
    backend.no_truncation()
    backend.no_padding()
    return backend


def tail_of(text: str, windows: Sequence[Window]) -> str:
    """What stands behind the last window of a text; empty where there is none, or no place."""
    end = windows[-1].end if windows else None
    return "" if end is None else text[end:]


# Gather the windows of many texts into one table, and count the texts that give none.

_COLUMNS = ("text", "tokens", "start", "end")


def is_copied(tokenizer: Any, prompt: npt.ArrayLike, written: npt.ArrayLike) -> bool:
    """True if the prompt already holds what was written, or its first 32 characters.

    Texts are compared as words of letters and digits; five or fewer tokens never count as copied.
    """
    written = np.asarray(written)
    if len(written) <= _SHORTEST_COPY:
        return False
    shown, text = as_words(tokenizer, prompt), as_words(tokenizer, written)
    return bool(text) and (text in shown or text[:_SHOWN_CHARACTERS] in shown)


def as_words(tokenizer: Any, ids: npt.ArrayLike) -> str:
    """Give tokens as their words of letters and digits, one space between them."""
    text = tokenizer.decode([int(one) for one in np.asarray(ids)], skip_special_tokens=False)
    return " ".join(_WORD.findall(text))


class WindowCollector:
    """Windows in the order of their `n_texts` texts; those numbered in `too_short` gave none.

    `tails` are what stands behind the last window of each text (`tail_of`).
    """

    too_short: list[int]
    tails: list[str]
    n_texts: int

    def __init__(self, cutter: WindowCutter, *, limit: int | None = None, pad: Pad = False) -> None:
        self.n_texts = 0
        self.too_short = []
        self.tails = []
        self._cutter, self._limit, self._pad = cutter, limit, pad
        self._windows: list[Window] = []
        self._sources: list[int] = []
        self._is_empty = True

    @property
    def is_full(self) -> bool:
        """No more windows are wanted."""
        return self._limit is not None and len(self._windows) >= self._limit

    def add(self, text: str) -> None:
        """Cut one more text."""
        windows = self._cutter.cut(text)
        self._windows += windows
        self._sources += [self.n_texts] * len(windows)
        self.too_short += [] if windows else [self.n_texts]
        self.tails.append(tail_of(text, windows))
        self._is_empty = self._is_empty and not text.strip()
        self.n_texts += 1

    @property
    def sources(self) -> list[int]:
        """For each window the number of its text, 0 for the first."""
        return self._sources[: self._limit]

    def to_frame(self, *, where: str) -> pl.DataFrame:
        """The windows as columns text, tokens, start and end.

        With `pad` shorter windows are padded (`attention_mask`). Raises UserError: there is none.
        """
        if not self._windows:
            if self._is_empty:
                raise UserError(f"{where}: empty, so no text to ask about. Give another.")
            among = f", among its {self.n_texts}" if self.n_texts > 1 else ""
            raise UserError(
                f"{where}: no text of {self._cutter.least} tokens, the length of one sequence"
                f"{among}. Give longer texts."
            )
        columns = {name: [getattr(window, name) for window in self._windows] for name in _COLUMNS}
        schema = {name: COLUMNS[name].dtype for name in _COLUMNS}
        frame = pl.DataFrame(columns, schema=schema)
        if self._pad:
            frame = _pad(frame, self._cutter.length, self._pad)
        return frame if self._limit is None else frame.head(self._limit)


# Make sequences of the rows of a table: its tokens as they are, or its texts cut into windows.

RESULTS = (  # dropped on reading: measured on the rows of the source, not on these sequences
    "memorization_score",
    "is_memorized",
    "continuation",
    "smallest_gap",
    "is_incrementing",
    "is_repeating",
    "rouge_l",
    "rouge_3",
)


def keep_verdicts(frame: pl.DataFrame) -> pl.DataFrame:
    """Keep what the source says of its sequences as `published_is_memorized`, to be checked.

    `is_memorized` goes before `memorization_score`, and a `published_is_memorized` before both.
    """
    known = {
        PUBLISHED_VERDICT: pl.col(PUBLISHED_VERDICT),
        "is_memorized": pl.col("is_memorized"),
        "memorization_score": pl.col("memorization_score").cast(pl.Float64).fill_nan(None) == 1,
    }
    found = [known[name] for name in known if name in frame.columns]
    if not found:
        return frame
    return frame.with_columns(pl.coalesce(found).cast(pl.Boolean).alias(PUBLISHED_VERDICT))


def take_tokens(
    frame: pl.DataFrame, tokenizer: Any | None, *, length: int, where: str, pad: Pad = False
) -> pl.DataFrame:
    """Check rows that are sequences already, number them and decode `text` where it is absent.

    With `pad` shorter rows are padded on the right or left, and `attention_mask` says so. Raises
    UserError: as `check_sequences`.
    """
    if "sequence_id" not in frame.columns:
        frame = frame.with_columns(_numbers())
    if pad:
        frame = _pad(frame, length, pad)
    check_sequences(frame, where=where, length=length)
    if not has_values(frame, "text") and tokenizer is not None:
        try:
            rows = without_padding(frame)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        texts = WindowCutter(tokenizer, length=length).decode(rows)
        frame = frame.with_columns(pl.Series("text", texts, dtype=pl.String))
    return _order_columns(frame)


def _pad(frame: pl.DataFrame, length: int, pad: Pad) -> pl.DataFrame:
    """Lengthen `tokens`, and `attention_mask` (ones where there is none), with zeros."""
    tokens = pl.col("tokens").cast(pl.List(pl.Int64))
    n_missing = (pl.lit(length) - tokens.list.len().cast(pl.Int64)).clip(0)
    zeros = pl.lit(0, dtype=pl.Int64).repeat_by(n_missing)
    ones = pl.lit(1, dtype=pl.Int64).repeat_by(tokens.list.len())
    mask = pl.col("attention_mask") if has_values(frame, "attention_mask") else ones
    given = tokens.alias("tokens"), mask.cast(pl.List(pl.Int64)).alias("attention_mask")
    whole = (zeros.list.concat(one) if pad == "left" else one.list.concat(zeros) for one in given)
    return frame.with_columns(
        one.cast(COLUMNS[name].dtype).alias(name)
        for name, one in zip(("tokens", "attention_mask"), whole, strict=True)
    )


def cut_rows(frame: pl.DataFrame, collector: WindowCollector, *, where: str) -> pl.DataFrame:
    """Cut each row's text; every window gets the other columns of its row.

    A row that gives one window keeps its `sequence_id`, other windows are numbered after the
    largest id. `start` and `end` count from the row's own `start` where it has one. Raises
    UserError: no text as long as one window.
    """
    with track("reading", total=frame.height, unit="texts") as progress:
        for text in frame["text"]:
            collector.add(text or "")
            progress.advance()
            if collector.is_full:
                break
    windows = collector.to_frame(where=where)
    sources = pl.Series(collector.sources, dtype=pl.Int64)  # no column: names are the user's
    if "start" in frame.columns:
        shift = frame["start"].fill_null(0)[sources]
        windows = windows.with_columns(pl.col("start") + shift, pl.col("end") + shift)
    joined = windows.hstack(_others(frame, Path(where).name)[sources])
    return _order_columns(_number(joined, sources))


def _others(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """The columns a window takes from its row: all but those made by cutting."""
    rows = frame.drop("text", "tokens", "attention_mask", "start", "end", strict=False)
    given = pl.col("document") if "document" in rows.columns else pl.lit(None, pl.String)
    named = pl.format("{}, row {}", pl.lit(where), pl.int_range(frame.height))
    return rows.with_columns(pl.coalesce(given, named).alias("document"))


def _number(joined: pl.DataFrame, sources: pl.Series) -> pl.DataFrame:
    """A row's own id where it gave one window, else numbers after the largest id."""
    if "sequence_id" not in joined.columns:
        return joined.with_columns(_numbers())
    is_alone = pl.lit(~sources.is_duplicated())
    later = pl.col("sequence_id").max() + (~is_alone).cum_sum().cast(pl.Int64)
    own = pl.when(is_alone).then("sequence_id").otherwise(later)
    return joined.with_columns(own.alias("sequence_id"))


def _numbers() -> pl.Expr:
    return pl.int_range(pl.len(), dtype=pl.Int64).alias("sequence_id")


def _order_columns(frame: pl.DataFrame) -> pl.DataFrame:
    known = [name for name in COLUMNS if name in frame.columns]
    return frame.select(*known, pl.exclude(known))


_ROW = r", row [0-9]+$"  # behind a label, in names that reading gave


@dataclass(frozen=True)
class ReadResult:
    """The sequences (columns of `table.COLUMNS`), and what was passed over.

    `n_documents` gave at least one sequence; `unread` files are binary, not UTF-8, or may not be
    read; `pages` are HTML files, read with their markup; `too_short` are the names of texts that
    are shorter than one sequence; `facts` are what else a study's manifest is to say of the source.
    `tails` are what stands behind the last window of a document, by its name. Names that were given
    here, and not by the source, are one of `labels`, or one and `, row N`.
    """

    frame: pl.DataFrame
    n_documents: int
    too_short: pl.Series = field(default_factory=lambda: pl.Series(dtype=pl.String))
    unread: tuple[Skipped, ...] = ()
    pages: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    labels: frozenset[str] = frozenset()
    tails: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_too_short(self) -> int:
        """How many texts are shorter than one sequence."""
        return len(self.too_short)

    @property
    def n_unreadable(self) -> int:
        """How many files could not be read."""
        return len(self.unread)

    def not_checked(self, length: int) -> list[Skipped]:
        """Documents of which there is no sequence, each once, and why; sequences are so long."""
        names = self.too_short.unique(maintain_order=True)
        if has_values(self.frame, "document"):
            names = names.filter(~names.is_in(self.frame["document"].implode()))
        why = f"shorter than one window ({length} tokens)."
        return [*self.unread, *(Skipped(name, why) for name in names)]

    def as_given(self, source: str) -> "ReadResult":
        """The same with names of documents that reading gave as an audit of `source` has them."""

        def named(name: str) -> str:
            is_ours = {name, re.sub(_ROW, "", name)} & self.labels
            return as_given(source, name) if is_ours else name

        frame = self.frame
        if has_values(frame, "document"):
            own = frame["document"].cast(pl.String).map_elements(named, return_dtype=pl.String)
            frame = frame.with_columns(document=own)
        return replace(
            self,
            frame=frame,
            too_short=pl.Series(map(named, self.too_short), dtype=pl.String),
            unread=tuple(replace(one, name=as_given(source, one.name)) for one in self.unread),
            tails={named(name): tail for name, tail in self.tails.items()},
        )

    def limited(self, limit: int | None, seed: int) -> "ReadResult":
        """Keep a seeded draw of `limit` sequences, in their order; all where there are no more."""
        if limit is None or limit >= self.frame.height:
            return self
        rows = self.frame.select(pl.int_range(pl.len())).sample(limit, seed=seed, shuffle=False)
        frame = self.frame[rows.to_series().sort()]
        return replace(self, frame=frame, n_documents=count_documents(frame))


def read_sequences(
    source: Any,
    tokenizer: Any | None,
    *,
    length: int = 64,
    prefix: int | None = None,
    stride: int = 64,
    limit: int | None = None,
    pad: Pad = False,
    columns: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    rows_too: bool = False,
) -> ReadResult:
    """Read sequences from texts, tables, arrays or a frame; texts are cut into windows of tokens.

    `source` is a folder or text, a table (`TABLE_ENDINGS`) or a folder of tables, a pair of arrays
    `NAME_prefix.npy` and `NAME_suffix.npy` (its folder, or the first of the two), a data set of
    the hub (`owner/name[:config][@revision][#split]`), or a frame of Polars, pandas or `datasets`.

    A folder is read recursively in the order of names, hidden files left out and those that the
    patterns `exclude` fit (`is_excluded`); `genre` is guessed from a file's name. Of a table,
    `tokens` are taken as they are, else each `text` is cut (`cut_rows`); a tokenizer is needed for
    texts alone. With `pad` shorter tokens, and texts shorter than one sequence but longer than the
    prefix, are taken too, padded on the right; with `left` they are padded there, so that all
    suffixes are whole and prefixes differ in length. A table's other columns stay, except what a
    model or `add_features` said of it; `columns` gives it more, by their paths (`take_columns`);
    `AS_TEXT` has tables read as texts. A table among texts is passed over; with `rows_too` each row
    of it is a text, as in an audit. The first `prefix` tokens, half unless given, are the
    prefix: a pair of arrays must agree. Raises UserError: nothing there, nothing that is text, no
    text as long as a sequence, a file that would be misread, or a table that `check_columns`
    refuses. DamagedDataError: a torn Parquet, packed or array file.
    """
    prefix = length // 2 if prefix is None else prefix
    fewest = {False: length, True: prefix + 1, "left": length - prefix + 1}
    least = fewest[pad]
    is_text = columns == AS_TEXT and isinstance(source, str | Path) and Path(source).exists()
    rows = None if is_text else read_rows(source, columns or {}, prefix=prefix, exclude=exclude)
    if rows_too and rows is not None and not has_values(rows.frame, "tokens"):
        rows = None if _has_texts(Path(source), exclude) else rows
    if rows is not None:
        result = _read_rows(rows.frame, rows.where, tokenizer, length, stride, limit, least, pad)
        unread: list[Skipped] = []  # what a folder holds that is no file
        if isinstance(source, str | Path) and (folder := Path(source)).is_dir():
            unread = _skipped(folder, walk_files(folder, exclude)[1])
        return replace(result, facts=rows.facts, labels=rows.labels, unread=tuple(unread))
    path = Path(source)
    if columns and not is_text and not (rows_too and has_tables(path, exclude)):
        _refuse_columns(path, columns, exclude)
    cutter = WindowCutter(_needed(tokenizer, path), length=length, stride=stride, least=least)
    collector = WindowCollector(cutter, limit=limit, pad=pad)
    tables = (columns or {}) if rows_too and not is_text else None
    return _read_documents(path, collector, exclude, tables, all_text=is_text)


def _has_texts(path: Path, exclude: Sequence[str]) -> bool:
    """Whether a folder holds a file that is no table."""
    files = walk_files(path, exclude)[0] if path.is_dir() else []
    return not all(map(table_ending, files))


def _refuse_columns(path: Path, columns: Mapping[str, str], exclude: Sequence[str]) -> None:
    """Refuse `--column` for texts (UserError), and say how tables among them are read."""
    name, own = next(iter(columns.items()))
    files = walk_files(path, exclude)[0] if path.is_dir() else []
    said = f"{path}: --column {name}={own}: texts, and only tables have columns."
    if not (tables := [one for one in files if table_ending(one)]):
        raise UserError(f"{said} Leave out --column.")
    more = f" and {len(tables) - 1:,} more" * (len(tables) > 1)
    way = " Or read its lines as they stand: --column 'text=*'." * is_written(tables[0])
    raise UserError(
        f"{said} Of a table among texts ({name_below(tables[0], path)}{more}) none are read. Name "
        f"it alone: {tables[0]}.{way}"
    )


def join_results(results: Sequence[ReadResult], names: Sequence[str]) -> ReadResult:
    """The sequences of several sources one after the other, numbered anew.

    `genre` is the source's name where it has none. A `document` that reading named begins with its
    source, `a/README.md`, and so does such a `group` (by @row) that sources share, `a: README.md`.
    One source stays as it is. Raises UserError: a column of one kind here and of another there.
    """
    if len(results) == 1:
        return results[0]
    frames = []
    for own, name in zip(_tell_apart(results, names), names, strict=True):
        genre = pl.lit(name.partition("#")[0].rpartition("/")[2]).alias("genre")
        frames.append(own if has_values(own, "genre") else own.with_columns(genre))
    try:
        frame = pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{', '.join(names)}: not one table ({first_line(error)}).") from None
    return ReadResult(
        _order_columns(frame.with_columns(_numbers())),
        sum(one.n_documents for one in results),
        pl.concat(one.too_short for one in results),
        tuple(skipped for one in results for skipped in one.unread),
        tuple(page for one in results for page in one.pages),
        {"sources": {name: one.facts for name, one in zip(names, results, strict=True)}},
    )


def _tell_apart(results: Sequence[ReadResult], names: Sequence[str]) -> list[pl.DataFrame]:
    """The tables of several sources, in which no two share a name that reading gave."""
    frames, short = [one.frame for one in results], last_parts(names)
    for column in ("document", "group"):
        given = [_is_given(one, column) for one in results]
        found = {  # a source that is named twice is one
            name: frame.filter(own)[column].unique()
            for name, frame, own in zip(names, frames, given, strict=True)
            if own.any()
        }
        is_shared = found and pl.concat(found.values()).is_duplicated().any()
        if len({*names}) == 1 or (column == "group" and not is_shared):
            continue
        for at, own in enumerate(given):
            if own.any():
                longer = pl.format("{}: {}", pl.lit(short[names[at]]), column)
                if column == "document":
                    root, _, last = short[names[at]].rpartition("/")
                    is_itself = pl.col(column).str.replace(_ROW, "") == last  # a file is its source
                    below = pl.format("{}/{}", pl.lit(short[names[at]]), column)
                    beside = pl.format("{}/{}", pl.lit(root), column) if root else pl.col(column)
                    longer = pl.when(is_itself).then(beside).otherwise(below)
                either = pl.when(own).then(longer).otherwise(column)
                frames[at] = frames[at].with_columns(either.alias(column))
    return frames


def _is_given(result: ReadResult, column: str) -> pl.Series:
    """Which names of a column were given on reading, and not by the source."""
    values = result.frame.get_column(column, default=pl.Series([None] * result.frame.height))
    values, labels = values.cast(pl.String), list(result.labels)
    is_label = values.is_in(labels) | values.str.replace(_ROW, "").is_in(labels)
    return is_label.fill_null(False)


def _read_rows(
    frame: pl.DataFrame,
    where: str,
    tokenizer: Any | None,
    length: int,
    stride: int,
    limit: int | None,
    least: int,
    pad: Pad,
) -> ReadResult:
    # A table of texts loses its labels: they were given to rows, not to windows.
    frame = keep_verdicts(frame) if has_values(frame, "tokens") else frame
    frame = frame.drop(*RESULTS, OWN_VERDICT, strict=False)
    check_columns(frame, where=where)
    if "sequence_id" in frame.columns:
        check_ids(frame["sequence_id"], where)
    if has_values(frame, "tokens"):
        frame = take_tokens(frame, tokenizer, length=length, where=where, pad=pad)
        frame = frame if limit is None else frame.head(limit)
        return ReadResult(frame, count_documents(frame))
    check_columns(frame, "text", where=where)
    cutter = WindowCutter(_needed(tokenizer, where), length=length, stride=stride, least=least)
    collector = WindowCollector(cutter, limit=limit, pad=pad)
    rows, frame = frame, cut_rows(frame, collector, where=where)
    names = _others(rows, Path(where).name)["document"]
    too_short = names[collector.too_short]
    tails = dict(zip(names, collector.tails, strict=False))  # a limit leaves rows unread
    return ReadResult(frame, collector.n_texts - len(too_short), too_short, tails=tails)


def count_documents(frame: pl.DataFrame) -> int:
    """Documents that sequences come from; each is one of its own where none is named."""
    name = "document" if has_values(frame, "document") else "sequence_id"
    return frame[name].n_unique()


def _read_documents(
    path: Path,
    collector: WindowCollector,
    exclude: Sequence[str],
    columns: Mapping[str, str] | None,
    *,
    all_text: bool,
) -> ReadResult:
    unread: list[Skipped] = []
    documents: list[Path] = []
    names: list[str] = []
    with track("reading", unit="texts") as progress:
        for name, document, text in _texts(path, unread, exclude, columns, all_text=all_text):
            names.append(name)
            documents.append(document)
            collector.add(text)
            progress.advance()
            if collector.is_full:
                break
    if not documents and not unread:
        raise UserError(f"{path}: a folder without a file (hidden ones are left out).")
    if not documents:
        raise UserError(
            f"{path}: no text in it ({plural(len(unread), 'file')}, binary, not UTF-8, hidden or "
            "not readable). Give a folder of UTF-8 texts or code."
        )
    windows = collector.to_frame(where=str(path))
    frame = _name_documents(windows, collector.sources, names, documents)
    too_short = pl.Series([names[at] for at in collector.too_short], dtype=pl.String)
    n_documents = collector.n_texts - len(too_short)
    root = path if path.is_dir() else path.parent
    labels = frozenset(name_below(one, root) for one in documents)
    tails = dict(zip(names, collector.tails, strict=True))
    pages = tuple(one for one in names if one.lower().endswith((".html", ".htm")))
    return ReadResult(
        frame, n_documents, too_short, tuple(unread), pages, labels=labels, tails=tails
    )


def _skipped(path: Path, passed: Sequence[tuple[Path, str]]) -> list[Skipped]:
    return [Skipped(name_below(one, path), reason) for one, reason in passed]


def _texts(
    path: Path,
    unread: list[Skipped],
    exclude: Sequence[str],
    columns: Mapping[str, str] | None,
    *,
    all_text: bool,
) -> Iterator[tuple[str, Path, str]]:
    """Every readable text with its name and path; others go on the list.

    With `all_text` tables too, with `columns` the rows of tables.
    """
    if path.is_file():
        if not all_text:
            refuse_as_prose(path)
        text = read_text(path)
        if text is None:
            raise UserError(f"{path}: not a text in UTF-8. Convert it, or give a table.")
        yield name_below(path, path.parent), path, text
        return
    files, passed = walk_files(path, exclude)
    unread += _skipped(path, passed)
    tables = set() if all_text else {file for file in files if table_ending(file)}
    if tables and columns is None:
        are = "is" if len(tables) == 1 else "are"
        said = f"{plural(len(tables), 'table')} beside them {are} passed over ({min(tables).name})"
        say(f"{path}: texts; {said}")
    refused, has_rows = "", False
    for file in files:
        name = name_below(file, path)
        try:
            text, reason = None, f"{_AMONG_TEXTS}{_READ_SO * is_written(file)}."
            if file not in tables:
                text, reason = read_text(file), "a binary file, or a text that is not UTF-8."
            elif columns is not None:
                for row, one in enumerate(row_texts(file, columns)):
                    yield f"{name}, row {row}", file, one
                has_rows = True
                continue
        except MnemoscopeError as error:
            reason = str(error).removeprefix(str(file)).lstrip(":, ")
            refused = refused or f"{file}: {reason}" * (file in tables)
        if text is None:
            unread.append(Skipped(name, reason))
        else:
            yield name, file, text
    if columns and refused and not has_rows:
        raise UserError(refused)


def _name_documents(
    windows: pl.DataFrame, sources: list[int], names: list[str], documents: list[Path]
) -> pl.DataFrame:
    """Columns sequence_id, document (path below the folder) and genre for each window."""
    genres = [guess_genre(file) for file in documents]
    return windows.select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("sequence_id"),
        "text",
        "tokens",
        *(name for name in ("attention_mask",) if name in windows.columns),
        pl.Series("document", [names[source] for source in sources], dtype=pl.String),
        "start",
        "end",
        pl.Series("genre", [genres[source] for source in sources], dtype=pl.String),
    )


def _needed(tokenizer: Any | None, path: Path | str) -> Any:
    if tokenizer is None:
        raise UserError(f"{path}: texts need a tokenizer to become sequences. Name a model.")
    return tokenizer
