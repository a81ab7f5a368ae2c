"""Add what the taxonomies ask of a sequence: ROUGE, patterns, duplicates, code.

Works on any table with text or tokens, from the command line:
`mnemoscope features in.jsonl -o out.parquet`.
"""

from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.errors import UserError, nearest
from mnemoscope.progress import track
from mnemoscope.sequences.code import classify_code, is_available
from mnemoscope.sequences.columns import COLUMNS, conform
from mnemoscope.sequences.duplicates import count_duplicates
from mnemoscope.sequences.patterns import Pattern, PatternMode, find_pattern
from mnemoscope.sequences.rouge import rouge_3, rouge_l
from mnemoscope.sequences.schema import check_columns, check_ids, check_lengths, token_matrix
from mnemoscope.sequences.table_rows import has_values

__all__ = ["CodeMode", "add_features"]

CodeMode = Literal["auto", "off", "magika"]


def add_features(
    frame: pl.DataFrame,
    *,
    patterns: PatternMode = "published",
    length: int = 64,
    corpus: Iterable[npt.ArrayLike] | None = None,
    code: CodeMode = "auto",
    where: str = "table",
) -> pl.DataFrame:
    """Add the feature columns; one whose input is absent is null.

    Args:
        frame: needs `sequence_id`, and `text` (of any length) or `tokens`, nulls allowed.
        patterns: mode of `find_pattern`.
        length: tokens every sequence has; the first length // 2 are the prefix.
        corpus: arrays of token ids in which the suffixes are counted (`count_duplicates`).
        code: "auto" asks magika where it is installed, "magika" demands it, "off" leaves it out.
        where: name of the table for messages.

    Returns:
        The table with `rouge_l`, `rouge_3` (from the tokens), `is_incrementing`, `is_repeating`
        (from the text), made anew; `duplicates` and `is_code` only where the table has no values
        for them.

    Raises:
        UserError: columns missing or of another kind, no rows, duplicate ids, sequences of
            another length, an unknown mode.
    """
    if code not in get_args(CodeMode):
        raise UserError(f"code: no mode '{code}'.{nearest(code, get_args(CodeMode))}")
    frame = conform(frame, where=where)
    _check(frame, length, where)
    columns = [*_rouge_columns(frame, length), *_pattern_columns(frame, patterns)]
    if not has_values(frame, "duplicates"):
        columns.append(_duplicates_column(frame, length, corpus))
    if not has_values(frame, "is_code"):
        columns.append(_code_column(frame, code))
    return frame.with_columns(columns)


def _check(frame: pl.DataFrame, length: int, where: str) -> None:
    """Something to make features from, in the right form."""
    check_columns(frame, "sequence_id", where=where)
    check_ids(frame["sequence_id"], where)
    if "text" not in frame.columns and "tokens" not in frame.columns:
        near = nearest("tokens", frame.columns) or nearest("text", frame.columns)
        raise UserError(f"{where}: neither a column 'text' nor 'tokens' to make features of.{near}")
    if length < 2:
        raise UserError(f"{where}: length {length}; prefix and suffix need a token each.")
    if "tokens" in frame.columns:
        check_lengths(frame["tokens"], where, length, allow_null=True)


def _rouge_columns(frame: pl.DataFrame, length: int) -> list[pl.Series]:
    """`rouge_l` and `rouge_3`, null where there are no tokens."""
    tokens = _tokens_there(frame)
    halves = tokens[:, : length // 2], tokens[:, length // 2 :]
    return [
        _spread(frame, "rouge_l", rouge_l(*halves) if len(tokens) else []),
        _spread(frame, "rouge_3", rouge_3(*halves) if len(tokens) else []),
    ]


def _duplicates_column(
    frame: pl.DataFrame, length: int, corpus: Iterable[npt.ArrayLike] | None
) -> pl.Series:
    """`duplicates` of the suffix, null without a corpus or without tokens."""
    tokens = _tokens_there(frame)
    if corpus is None or not len(tokens):
        return _null_column(frame, "duplicates")
    return _spread(frame, "duplicates", count_duplicates(tokens[:, length // 2 :], corpus))


def _pattern_columns(frame: pl.DataFrame, mode: PatternMode) -> list[pl.Series]:
    """`is_incrementing` and `is_repeating`, null where there is no text."""
    texts = frame["text"] if "text" in frame.columns else _null_column(frame, "text")
    found: list[Pattern | None] = []
    with track("patterns", total=frame.height) as progress:
        for text in texts:
            found.append(None if text is None else find_pattern(text, mode))
            progress.advance()
    return [
        pl.Series(name, [one and getattr(one, name) for one in found], dtype=pl.Boolean)
        for name in Pattern._fields
    ]


def _code_column(frame: pl.DataFrame, code: CodeMode) -> pl.Series:
    """`is_code` by magika, null where it is not asked, not installed or has no text."""
    is_asked = code == "magika" or (code == "auto" and is_available())
    if not is_asked or "text" not in frame.columns:
        return _null_column(frame, "is_code")
    return pl.Series("is_code", classify_code(frame["text"]), dtype=pl.Boolean)


def _tokens_there(frame: pl.DataFrame) -> npt.NDArray[np.int32]:
    """Tokens of the rows that have them, shape (rows, length)."""
    if not has_values(frame, "tokens"):
        return np.empty((0, 0), dtype=np.int32)
    return token_matrix(frame.filter(pl.col("tokens").is_not_null()))


def _spread(frame: pl.DataFrame, name: str, values: npt.ArrayLike) -> pl.Series:
    """Values of the rows that have tokens, null in the others."""
    values = np.asarray(values)
    if not len(values):
        return _null_column(frame, name)
    rows = frame["tokens"].is_not_null().arg_true()
    column = _null_column(frame, name)
    return column.scatter(rows, pl.Series(values, dtype=column.dtype))


def _null_column(frame: pl.DataFrame, name: str) -> pl.Series:
    return pl.Series(name, [None] * frame.height, dtype=COLUMNS[name].dtype)
