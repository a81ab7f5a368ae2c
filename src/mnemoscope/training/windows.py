"""What is watched: a fixed set of windows, each Guess or Recall by the rule on its text."""

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.data.features import add_features
from mnemoscope.data.read import Window, WindowCutter, tail_of
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.errors import UserError
from mnemoscope.lm.hub import find_bos
from mnemoscope.taxonomy.nodes import parse_node
from mnemoscope.words import lines_words, plural

GUESS = "Guess"
RECALL = "Recall"
LENGTH = 64  # tokens of a window, unless told otherwise
PLACE: dict[str, type[pl.DataType]] = {
    "document": pl.String,
    "start": pl.Int64,
    "end": pl.Int64,
    "line": pl.Int64,
}
"""Where a window stands: characters from start to end, the line from 1 on which it begins.

Null where the source does not say; a row of a table has no line of its file.
"""
_ALSO: Mapping[str, pl.DataType | type[pl.DataType]] = {**PLACE, "unwrapped": pl.List(pl.Int32)}
CONTROL = "control"
"""Source of windows that are kept out of training: what is reproduced of them is no memory."""


@dataclass(frozen=True)
class WatchedWindows:
    """Windows and what is known of them before any model sees them."""

    # Columns `window` (its name, each once), `source` (``document``, ``canary``, ``control`` or a
    # word of the user's), `class` (``Guess`` where its text lets it be guessed by the paper's rule
    # Guess[0.5-0.5], else ``Recall``), `tokens` list<i32>, all of one length, `text`, and where it
    # is known the `PLACE`. `unwrapped` list<i32> is as many tokens from the same place on where the
    # document's lines are broken to a width, with its lines joined: empty where the document, so
    # joined, is shorter than a window; else null.
    table: pl.DataFrame = field(repr=False)
    bos_id: int | None = None  # token that the model sees in front of each, or None
    # windows that a draw left out: `source`, `tokens` and, where it is known, `document`
    left_out: pl.DataFrame = field(default_factory=pl.DataFrame, repr=False)
    n_copied: int = 0  # windows of a control that are watched too, and so were left out of it

    def __post_init__(self) -> None:
        if self.table.is_empty():
            raise UserError("no window to watch. Give longer texts.")
        if self.table["window"].is_duplicated().any():
            twice = self.table.filter(pl.col("window").is_duplicated())["window"][0]
            raise UserError(f"window '{twice}' is duplicated. Give each text another name.")

    @classmethod
    def from_texts(
        cls,
        texts: Mapping[str, str] | Sequence[str],
        tokenizer: Any,
        *,
        source: str = "document",
        length: int = LENGTH,
        stride: int = 64,
        most: int | None = 256,
        seed: int = 0,
        bos: str = "auto",
    ) -> "WatchedWindows":
        """Cut texts into windows; of more than `most` a seeded sample is kept, in order.

        Of each text one window is drawn first, as far as `most` allows, and then from all others.
        Texts come by name, or are called 0, 1, …; `source` is ``document``, ``canary``, ``control``
        for texts kept out of training, or any word. `length`, tokens a window, is even: the first
        half is the prefix. Raises UserError: no text as long as a window, or an odd length.
        """
        _check_length(length)
        cutter = WindowCutter(tokenizer, length=length, stride=stride)
        given = texts.items() if isinstance(texts, Mapping) else enumerate(texts)
        named = {str(name): text for name, text in given}
        cut = {name: cutter.cut(text) for name, text in named.items()}
        rows = [
            (f"{source}:{name}:{number}", source, *window, name)
            for name, windows in cut.items()
            for number, window in enumerate(windows)
        ]
        if not rows:
            raise UserError(f"{source}: no text of {length} tokens among {len(named)}.")
        names = ["window", "source", *Window._fields, "document"]
        frame = pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)
        tails = {name: tail_of(named[name], windows) for name, windows in cut.items()}
        frame = _with_unwrapped(frame.cast({"tokens": pl.List(pl.Int32)}), cutter, tails)
        frame, left = _sample(frame, most, seed)
        return cls(_classify(frame, length), find_bos(tokenizer, bos), left)

    @classmethod
    def from_table(
        cls,
        table: pl.DataFrame | Path | str,
        tokenizer: Any,
        *,
        source: str = "document",
        most: int | None = None,
        seed: int = 0,
        bos: str = "auto",
        tails: Mapping[str, str] | None = None,
    ) -> "WatchedWindows":
        """Watch the sequences of a table: `sequence_id` and `tokens`, all of one length.

        The tokenizer writes the tokens out for the rule on patterns. `source` is of windows for
        which the table's own column says nothing; `most` keeps a seeded sample, as of texts where
        the table has a column `document`, and `tails` are what stands in a document behind its last
        window (`ReadResult.tails`). Raises UserError: columns missing, tokens of several lengths or
        of an odd one.
        """
        frame = table if isinstance(table, pl.DataFrame) else read_table(table)
        length = token_matrix(frame).shape[1]
        _check_length(length)
        has_source = frame.schema.get("source") == pl.String
        own = pl.col("source").fill_null(source) if has_source else pl.lit(source)
        cutter = WindowCutter(tokenizer, length=length)
        frame = _with_unwrapped(frame.with_columns(own.alias("source")), cutter, tails or {})
        frame, left = _sample(frame, most, seed)
        texts = cutter.decode(token_matrix(frame).tolist())
        rows = frame.select(
            pl.col("sequence_id").cast(pl.String).alias("window"),
            "source",
            pl.col("tokens").cast(pl.List(pl.Int32)),
            pl.Series("text", texts, dtype=pl.String),
            "unwrapped",
            *(pl.col(name) for name in PLACE if name in frame.columns),
        )
        return cls(_classify(rows, length), find_bos(tokenizer, bos), left)

    def __add__(self, other: "WatchedWindows") -> "WatchedWindows":
        """Watch both; their windows must be of one length and one tokenizer's.

        A control window with the tokens of one that is watched, drawn or not, is no control and is
        left out. Raises UserError: windows that differ so, or a control of nothing else.
        """
        if (self.length, self.bos_id) != (other.length, other.bos_id):
            raise UserError(
                f"windows of {self.length} and {other.length} tokens, or of two tokenizers, cannot "
                "be watched together. Cut both in the same way."
            )
        table = pl.concat([placed(self.table), placed(other.table)], how="diagonal")
        left_out = pl.concat([self.left_out, other.left_out], how="diagonal")
        is_copy = _is_copied(table, left_out)
        if (n := int(is_copy.sum())) and n == table.filter(source=CONTROL).height:
            raise UserError(
                f"the control: all of its {plural(n, 'window')} are among those that are watched. "
                "Give texts that were kept out of training."
            )
        n_copied = self.n_copied + other.n_copied + n
        return WatchedWindows(table.filter(~is_copy), self.bos_id, left_out, n_copied)

    def __len__(self) -> int:
        return self.table.height

    @cached_property
    def tokens(self) -> npt.NDArray[np.int32]:
        """Token ids, int32, shape (windows, length)."""
        return token_matrix(self.table)

    def asked(self) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]]:
        """What a model is asked: rows of the table and token ids, int32, (rows, length).

        All windows as they stand, then those that are asked with their lines joined too.
        """
        parts = [(np.arange(len(self)), self.tokens)]
        if "unwrapped" in self.table.columns:
            is_long = (self.table["unwrapped"].list.len() > 0).fill_null(False)
            rows = is_long.arg_true().to_numpy().astype(np.int64)
            if len(rows):
                parts.append((rows, token_matrix(self.table[rows], "unwrapped")))
        return parts

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return len(self.table["tokens"][0])

    @property
    def n_left_out(self) -> int:
        """Windows, not of a control, that the draw left out."""
        return _watched(self.left_out).height

    @property
    def unasked(self) -> list[str]:
        """Documents, not of a control, of which no window was drawn, in their order."""
        left, own = _watched(self.left_out), _watched(placed(self.table))
        if "document" not in left.columns:
            return []
        names = left["document"].drop_nulls().unique(maintain_order=True)
        return names.filter(~names.is_in(own["document"].implode())).to_list()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of names, tokens, classes and the prepended token."""
        found = hashlib.sha256(np.ascontiguousarray(self.tokens, dtype="<i4").tobytes())
        found.update(repr((self.tokens.shape, self.bos_id)).encode())
        for row in self.table.select("window", "source", "class").iter_rows():
            found.update(repr(row).encode())
        for rows, tokens in self.asked()[1:]:
            found.update(repr((rows.tolist(), tokens.tolist())).encode())
        return found.hexdigest()


def _check_length(length: int) -> None:
    if length < 2 or length % 2:
        raise UserError(
            f"windows of {length} tokens: an even number is needed, half is the prefix."
        )


def _sample(frame: pl.DataFrame, most: int | None, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """At most so many rows, in their order, one of each document first; and what is left out."""
    if most is None or frame.height <= most:
        return frame, pl.DataFrame()
    drawn = np.random.default_rng(seed).permutation(frame.height)
    if "document" in frame.columns:
        names = frame["document"].cast(pl.String)[drawn]
        is_first = (names.is_first_distinct() & names.is_not_null()).to_numpy()
        drawn = np.concatenate([drawn[is_first], drawn[~is_first]])
    named = [pl.col("document").cast(pl.String)] if "document" in frame.columns else []
    tokens = pl.col("tokens").cast(pl.List(pl.Int32))
    left = frame[np.sort(drawn[most:])].select("source", tokens, *named)
    return frame[np.sort(drawn[:most])], left


def _watched(windows: pl.DataFrame) -> pl.DataFrame:
    """Those that are not kept out of training."""
    return windows if windows.is_empty() else windows.filter(pl.col("source") != CONTROL)


def _is_copied(table: pl.DataFrame, left_out: pl.DataFrame) -> pl.Series:
    """Which windows of a control have the tokens of one that is watched, or was left out there."""
    known = {row.tobytes() for part in (table, left_out) for row in _rows(_watched(part))}
    is_known = pl.Series([row.tobytes() in known for row in _rows(table)], dtype=pl.Boolean)
    return is_known & (table["source"] == CONTROL)


def _rows(windows: pl.DataFrame) -> npt.NDArray[np.int32]:
    """Their tokens, (windows, length)."""
    return np.empty((0, 0), np.int32) if windows.is_empty() else token_matrix(windows)


def _classify(frame: pl.DataFrame, length: int) -> pl.DataFrame:
    """Add the class that a window has once it is reproduced."""
    ids = pl.Series("sequence_id", range(frame.height), dtype=pl.Int64)
    features = add_features(frame.select(ids, "text", "tokens"), length=length, code="off")
    is_guess = features.select(parse_node(GUESS).expression).to_series()
    classes = [GUESS if guess else RECALL for guess in is_guess]
    own = pl.Series("class", classes, dtype=pl.String)
    return placed(frame).select("window", "source", own, "tokens", "text", *PLACE, "unwrapped")


_WIDEST = 0.95
"""Of the lines of a text so many are no longer than its width: a long address is no line."""
_OF_ROW = re.compile(r"(#|, row )\d+$")
_BREAK = re.compile(r"(?<=\S)[ \t]*\r?\n[ \t]*(?=\S)")


def _wraps(text: str) -> list[tuple[int, int]]:
    """Where the lines of a text are broken to a width, as places from start to end; else none.

    Such a break is one at which the next word would not have fitted. Where most breaks inside
    paragraphs are others, as in code and verse, the text is none that was wrapped.
    """
    found = list(_BREAK.finditer(text))
    widths = sorted(len(line.rstrip()) for line in text.splitlines())
    if not found:
        return []
    width = widths[int(_WIDEST * (len(widths) - 1))]
    wraps = []
    for one in found:
        line = one.start() - (text.rfind("\n", 0, one.start()) + 1)
        word = re.match(r"\S+", text[one.end() : one.end() + width])
        if line + 1 + (len(word[0]) if word else 0) > width:
            wraps.append(one.span())
    return wraps if 2 * len(wraps) > len(found) else []


def _unwrapped(
    texts: Sequence[str], overlaps: Sequence[int], tail: str, cutter: WindowCutter
) -> list[list[int] | None]:
    """For each window of a document, in order, its tokens with the lines joined (`unwrapped`).

    Of each the first `overlaps` characters stand in the one before; `tail` follows the last one.
    Joined lines have fewer tokens, so its first words fill a window as long as it was.
    """
    own = [text[n:] for text, n in zip(texts, overlaps, strict=True)]
    whole = "".join([*own, tail])
    wraps = _wraps(whole)
    none: list[list[int] | None] = [None] * len(texts)
    if not wraps:
        return none
    ends = [end for _, end in wraps]
    parts = [whole[a:b] for a, b in zip([0, *ends], [*(a for a, _ in wraps), None], strict=True)]
    ids, offsets = cutter.encode_with_offsets(" ".join(parts))
    if offsets is None or len(ids) < cutter.length:
        return none if offsets is None else [[] for _ in texts]
    dropped = np.cumsum([0, *(end - start - 1 for start, end in wraps)]).tolist()
    begins = [start for start, _ in offsets]
    starts = (np.cumsum([0, *map(len, own[:-1])]) - np.array(overlaps)).tolist()
    places = (bisect_left(begins, at - dropped[bisect_right(ends, at)]) for at in starts)
    firsts = (min(place, len(ids) - cutter.length) for place in places)
    return [ids[first : first + cutter.length] for first in firsts]


def _with_unwrapped(
    frame: pl.DataFrame, cutter: WindowCutter, tails: Mapping[str, str]
) -> pl.DataFrame:
    """Windows with `unwrapped` and `line`; null where they are no whole text, in order."""
    found: list[list[int] | None] = [None] * frame.height
    lines: list[int | None] = [None] * frame.height
    needed = ("source", "text", "document", "start", "end")
    if {*needed} <= {*frame.columns}:
        rows = frame.select(needed).with_row_index("row")
        for (_, name), part in rows.group_by("source", "document", maintain_order=True):
            gaps = part["start"][1:] - part["end"][:-1]  # two tokens may share a character
            if name is not None and not part["start"].null_count() and (gaps <= 1).all():
                overlaps = [0, *(-gap if gap < -1 else 0 for gap in gaps)]
                tail = tails.get(str(name), "")
                texts = part["text"].to_list()
                joined = _unwrapped(texts, overlaps, tail, cutter)
                for row, tokens in zip(part["row"], joined, strict=True):
                    found[row] = tokens
                if part["start"][0] == 0 and not _OF_ROW.search(str(name)):
                    for row, line in zip(part["row"], _lines(texts, overlaps), strict=True):
                        lines[row] = line
    return frame.with_columns(
        pl.Series("unwrapped", found, dtype=pl.List(pl.Int32)),
        pl.Series("line", lines, dtype=pl.Int64),
    )


def _lines(texts: Sequence[str], overlaps: Sequence[int]) -> list[int]:
    """For each window of a document, in order, the line on which it begins (as `_unwrapped`)."""
    pairs = list(zip(texts, overlaps, strict=True))
    before = accumulate((text[n:].count("\n") for text, n in pairs[:-1]), initial=1)
    return [n - text[:k].count("\n") for n, (text, k) in zip(before, pairs, strict=True)]


def placed(windows: pl.DataFrame) -> pl.DataFrame:
    """Windows with the columns of `PLACE` and `unwrapped`, null where they are not known."""
    return windows.with_columns(
        (pl.col(name) if name in windows.columns else pl.lit(None))
        .cast(kind, strict=False)
        .alias(name)
        for name, kind in _ALSO.items()
    )


def place_of(row: Mapping[str, Any]) -> str:
    """Where a window stands, in words; its name where the document is not known."""
    if row["document"] is None:
        return str(row["window"])
    if row["start"] is None:
        return f"{row['document']} ({row['window']})"
    place = f"{row['document']}, characters {row['start']} to {row['end']}"
    lines = lines_of(row)
    return place if lines is None else f"{place}, {lines_words(*lines)}"


def lines_of(row: Mapping[str, Any]) -> tuple[int, int] | None:
    """First and last line of a window; None where they are not known."""
    line, n = row["line"], row["text"].rstrip("\n").count("\n")
    return None if line is None else (line, line + n)
