"""Add what the taxonomies ask of a sequence: ROUGE, patterns, duplicates, code."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from math import ceil, log2
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.data.corpus import Corpus
from mnemoscope.data.duplicates import count_duplicates
from mnemoscope.data.patterns import Pattern, PatternMode, check_mode, find_pattern
from mnemoscope.data.rouge import rouge_scores
from mnemoscope.data.rows import scan_rows
from mnemoscope.data.table import (
    BATCH_ROWS,
    CODE_LABEL,
    COLUMNS,
    check_columns,
    check_ids,
    check_lengths,
    code_by_label,
    conform,
    has_values,
    map_table,
    refuse_padding,
    rows_alike,
    sink_table,
    token_matrix,
)
from mnemoscope.errors import DamagedDataError, UserError, nearest, pip_install
from mnemoscope.progress import Progress, track

FEATURES = ("rouge_l", "rouge_3", "is_incrementing", "is_repeating", "duplicates", "is_code")
"""What taxonomies ask of a text."""
GIVEN = ("duplicates", "is_code")
"""Those that are taken from the user's table if it has them."""

# Numbers that a sequence's text or tokens give by themselves: code length, entropy, frequency.

_ROUNDING = 1e-9


def shannon_length(text: str) -> float:
    """Mean length of Shannon's code words of a text's characters, in bits a character.

    Σ p(c)·⌈−log2 p(c)⌉ over the characters c; 0 for a text of one character or none. The
    published column of these values is called ``huffman_coding_length``, which it is not.

    >>> round(shannon_length("aab"), 6)
    1.333333
    """
    counts, total = Counter(text).values(), len(text)
    if len(counts) < 2:
        return 0.0
    return sum(n / total * ceil(log2(total / n) - _ROUNDING) for n in counts)


def token_entropy(tokens: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Entropy of each sequence's own tokens in bits, shape (sequences,): 0 where all are equal."""
    ordered = np.sort(np.asarray(tokens), axis=1)
    n_rows, length = ordered.shape
    starts = np.ones((n_rows, length), dtype=bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.flatnonzero(starts.ravel())
    counts = np.diff(np.append(first, n_rows * length))
    share = counts / length
    entropy = np.bincount(first // length, weights=-share * np.log2(share), minlength=n_rows)
    return np.maximum(entropy, 0.0).astype(np.float64)


def token_frequency(tokens: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Median over a sequence's tokens of their share of all the table's, per cent, (sequences,)."""
    table = np.asarray(tokens)
    _, place, counts = np.unique(table, return_inverse=True, return_counts=True)
    percent = 100.0 * counts[place.reshape(table.shape)] / max(table.size, 1)
    median: npt.NDArray[np.float64] = np.median(percent, axis=1)
    return median


_OF_TEXT = {"shannon_length": shannon_length}
_OF_TOKENS = {"token_entropy": token_entropy, "token_frequency": token_frequency}
TEXT_MEASURES = (*_OF_TEXT, *_OF_TOKENS)
"""The columns of `measure_text`: each a function of one text, or of all tokens."""


def measure_text(frame: pl.DataFrame, names: Sequence[str] = TEXT_MEASURES) -> pl.DataFrame:
    """Columns `names` of every row, float64, null without text or tokens; none of padded rows."""
    if asked := [name for name in names if name in _OF_TOKENS]:
        refuse_padding(frame, where=", ".join(asked))
    made = {name: pl.Series([None] * frame.height, dtype=pl.Float64) for name in names}
    if has_values(frame, "text"):
        for name in _OF_TEXT.keys() & made:
            measure = _OF_TEXT[name]
            values = [None if text is None else measure(text) for text in frame["text"]]
            made[name] = pl.Series(values, dtype=pl.Float64)
    tokens = _tokens_there(frame)
    if len(tokens):
        rows = frame["tokens"].is_not_null().arg_true()
        for name in _OF_TOKENS.keys() & made:
            made[name] = made[name].scatter(rows, pl.Series(_OF_TOKENS[name](tokens)))
    return pl.DataFrame(made)


# Tell source code from other text with magika, where the extra `[code]` is installed.


def is_available() -> bool:
    """Say whether magika is installed; it is not loaded."""
    return find_spec("magika") is not None


def classify_code(texts: Iterable[str | None]) -> list[bool | None]:
    """Say of each text whether it is source code; None where magika cannot tell.

    magika's group ``code`` holds programming, markup and data languages (Python, HTML, JSON, CSV);
    it calls short texts it is not sure of text. The paper asks another classifier
    (`data.table.code_by_label`), so its Code classes differ. Raises UserError: magika is not
    installed.
    """
    if not is_available():
        raise UserError(f"is_code needs magika: {pip_install('code')}")
    from magika import Magika

    magika = Magika()
    answers = {"code": True, "text": False}
    return [
        answers.get(str(magika.identify_bytes(text.encode()).output.group)) if text else None
        for text in texts
    ]


CodeMode = Literal["auto", "off", "magika"]
_OF_ROWS = ("rouge_l", "rouge_3", *Pattern._fields)


def add_features(
    frame: pl.DataFrame,
    *,
    patterns: PatternMode = "published",
    length: int = 64,
    prefix: int | None = None,
    corpus: Corpus | Iterable[npt.ArrayLike] | None = None,
    code: CodeMode = "auto",
    where: str = "table",
) -> pl.DataFrame:
    """Add the feature columns; one whose input is absent is null.

    The table has `sequence_id`, and `text` (of any length) or `tokens`, nulls allowed, of which the
    first `prefix` (half unless given) are the prefix. `rouge_l`, `rouge_3` (from the tokens),
    `is_incrementing` and `is_repeating` (from the text) are made anew; `duplicates` (of the suffix
    in `corpus`, opened or as arrays of ids) and `is_code` only where the table has no values for
    them. `is_code` is by `code_label` where the table has it; else `code` "auto" asks magika where
    it is installed, "magika" demands it, "off" leaves it out. A padded row without a token of its
    prefix or suffix has no ROUGE. Raises UserError: columns missing or of another kind, no rows,
    duplicate ids, sequences of another length, a prefix of none or all of their tokens, an unknown
    mode.
    """
    check_mode(patterns)
    if code not in get_args(CodeMode):
        raise UserError(f"code: no mode '{code}'.{nearest(code, get_args(CodeMode))}")
    frame = conform(frame, where=where)
    prefix = length // 2 if prefix is None else prefix
    _check(frame, length, prefix, where)
    rare = _rare_columns(frame.lazy(), prefix, corpus, code)
    with track("features", total=frame.height) as progress:
        made = []
        for batch in frame.iter_slices(BATCH_ROWS):
            made.append(_columns_of_rows(batch, prefix, patterns))
            progress.advance(batch.height)
    return frame.with_columns(*pl.concat(made), *rare)


def write_features(
    source: Path | str,
    out: Path | str,
    *,
    patterns: PatternMode = "published",
    length: int = 64,
    prefix: int | None = None,
    corpus: Corpus | Iterable[npt.ArrayLike] | None = None,
    columns: Mapping[str, str] | None = None,
) -> int:
    """`add_features` for a table file, without holding it in memory; returns the rows written.

    `columns` are taken from their paths first (`take_columns`); with them, as of JSONL, the whole
    table is read, and with a corpus the suffixes are held in memory together. Raises UserError: as
    `add_features` and `scan_table`. DamagedDataError: the source is torn. NoRoomError: the disk is
    full.
    """
    check_mode(patterns)
    prefix = length // 2 if prefix is None else prefix
    table = scan_rows(source, columns, prefix=prefix)
    schema = dict(table.collect_schema())
    check_columns(table.head(1).collect(), "sequence_id", where=str(source))
    narrow = table.select(name for name in schema if name in ("sequence_id", "tokens"))
    _check(narrow.collect(), length, prefix, str(source), names=list(schema))
    rare = pl.DataFrame(_rare_columns(table, prefix, corpus, "auto"))
    n_rows = table.select(pl.len()).collect().item()
    added = {name: COLUMNS[name].dtype for name in (*_OF_ROWS, *rare.columns)}
    refused: list[UserError] = []  # Polars gives another error in their place
    with track("features", total=n_rows) as progress:

        def add(batch: pl.DataFrame, first: int) -> pl.DataFrame:
            try:
                made = _columns_of_rows(batch, prefix, patterns)
            except UserError as error:
                refused.append(error)
                raise
            progress.advance(batch.height)
            return batch.with_columns(*made, *rare.slice(first, batch.height))

        try:
            sink_table(out, map_table(table, add, schema | added), where=str(source))
        except DamagedDataError:
            if refused:
                raise refused[0] from None
            raise
    return int(n_rows)


def _check(
    frame: pl.DataFrame, length: int, prefix: int, where: str, names: Sequence[str] | None = None
) -> None:
    """Something to make features from, in the right form; `names` of columns where not all came."""
    names = names or frame.columns
    check_columns(frame, "sequence_id", where=where)
    check_ids(frame["sequence_id"], where)
    if "text" not in names and "tokens" not in names:
        near = nearest("tokens", names) or nearest("text", names)
        raise UserError(f"{where}: neither a column 'text' nor 'tokens' to make features of.{near}")
    if not 0 < prefix < length:
        raise UserError(
            f"{where}: length {length}, prefix {prefix}; prefix and suffix need a token each."
        )
    if "tokens" in frame.columns:
        check_lengths(frame["tokens"], where, length, allow_null=True)


def _columns_of_rows(frame: pl.DataFrame, prefix: int, patterns: PatternMode) -> pl.DataFrame:
    return pl.DataFrame([*_rouge_columns(frame, prefix), *_pattern_columns(frame, patterns)])


def _rare_columns(
    table: pl.LazyFrame,
    prefix: int,
    corpus: Corpus | Iterable[npt.ArrayLike] | None,
    code: CodeMode,
) -> list[pl.Series]:
    """`duplicates` and `is_code`, each only where the table has no values for it."""
    names = table.collect_schema().names()
    given = [name for name in ("duplicates", "is_code") if name in names]
    there = table.select(pl.len(), *(pl.col(name).count().alias(name) for name in given)).collect()
    has = {name for name in given if there[name].item()}
    made = []
    if "duplicates" not in has:
        made.append(_duplicates_column(table, there["len"].item(), prefix, corpus))
    if "is_code" not in has:
        made.append(_code_column(table, there["len"].item(), code))
    return made


def _rouge_columns(frame: pl.DataFrame, prefix: int) -> list[pl.Series]:
    tokens = _tokens_there(frame)
    if not len(tokens):
        return [_null_column(frame.height, name) for name in ("rouge_l", "rouge_3")]
    scores = np.full((2, len(tokens)), np.nan)
    for rows, columns in rows_alike(frame.filter(pl.col("tokens").is_not_null())):
        n_prefix = int(columns[:prefix].sum())
        if 0 < n_prefix < columns.sum():
            halves = np.split(tokens[rows][:, columns], [n_prefix], axis=1)
            scores[:, rows] = rouge_scores(*halves)
    named = zip(("rouge_l", "rouge_3"), scores, strict=True)
    return [_spread(frame, *one).fill_nan(None) for one in named]


def _duplicates_column(
    table: pl.LazyFrame, n_rows: int, prefix: int, corpus: Corpus | Iterable[npt.ArrayLike] | None
) -> pl.Series:
    """`duplicates` of the suffix, null without a corpus or without tokens."""
    names = table.collect_schema().names()
    if corpus is None or "tokens" not in names:
        return _null_column(n_rows, "duplicates")
    frame = table.select(name for name in ("tokens", "attention_mask") if name in names).collect()
    refuse_padding(frame, where="features.corpus")
    tokens = _tokens_there(frame)
    if not len(tokens):
        return _null_column(n_rows, "duplicates")
    return _spread(frame, "duplicates", count_duplicates(tokens[:, prefix:], corpus))


def _pattern_columns(frame: pl.DataFrame, mode: PatternMode) -> list[pl.Series]:
    if "text" not in frame.columns:
        return [_null_column(frame.height, name) for name in Pattern._fields]
    found = [None if text is None else find_pattern(text, mode) for text in frame["text"]]
    return [
        pl.Series(name, [one and one[place] for one in found], dtype=pl.Boolean)
        for place, name in enumerate(Pattern._fields)
    ]


def _code_column(table: pl.LazyFrame, n_rows: int, code: CodeMode) -> pl.Series:
    """`is_code` by label or magika, null where neither is there or no text."""
    names = table.collect_schema().names()
    if CODE_LABEL in names:
        made = code_by_label(has_text="text" in names).alias("is_code")
        return table.select(made).collect().to_series()
    is_asked = code == "magika" or (code == "auto" and is_available())
    if not is_asked or "text" not in names:
        return _null_column(n_rows, "is_code")
    texts = table.select("text")
    batches = (texts.slice(row, BATCH_ROWS).collect() for row in range(0, n_rows, BATCH_ROWS))
    with track("is_code", total=n_rows) as progress:
        answers = classify_code(_counted((t for one in batches for t in one["text"]), progress))
    return pl.Series("is_code", answers, dtype=pl.Boolean)


def _counted(texts: Iterable[str | None], progress: Progress) -> Iterator[str | None]:
    """The texts, each told to the progress when it is asked for."""
    for text in texts:
        yield text
        progress.advance()


def _tokens_there(frame: pl.DataFrame) -> npt.NDArray[np.int32]:
    if not has_values(frame, "tokens"):
        return np.empty((0, 0), dtype=np.int32)
    return token_matrix(frame.filter(pl.col("tokens").is_not_null()))


def _spread(frame: pl.DataFrame, name: str, values: npt.ArrayLike) -> pl.Series:
    """Values of the rows that have tokens, null in the others."""
    column = _null_column(frame.height, name)
    rows = frame["tokens"].is_not_null().arg_true()
    return column.scatter(rows, pl.Series(np.asarray(values), dtype=column.dtype))


def _null_column(n_rows: int, name: str) -> pl.Series:
    return pl.Series(name, [None] * n_rows, dtype=COLUMNS[name].dtype)
