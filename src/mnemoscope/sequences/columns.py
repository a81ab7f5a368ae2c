"""The columns a table of sequences may have: name, type and meaning, in one place.

A table is a Polars frame. Columns not named here are kept untouched.
"""

from typing import Any, NamedTuple

import polars as pl

from mnemoscope.errors import UserError

__all__ = [
    "COLUMNS",
    "PUBLISHED_VERDICT",
    "Column",
    "conform",
    "is_kind",
    "is_value_of_kind",
]

PUBLISHED_VERDICT = "published_is_memorized"
"""What a source says of a sequence; the study's own verdict is `is_memorized`."""

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
    """One column of the schema.

    Attributes:
        kind: what a value may be, in words that an error message can use.
        dtype: the Polars type the column is brought to.
        meaning: what it says, with its unit.
    """

    kind: str
    dtype: pl.DataType
    meaning: str


COLUMNS: dict[str, Column] = {
    "sequence_id": Column(_INTEGERS, pl.Int64(), "identifies one sequence; no two are equal"),
    "text": Column(_STRINGS, pl.String(), "decode of the tokens"),
    "tokens": Column(_TOKENS, pl.List(pl.Int32()), "token ids, 64 a sequence"),
    "attention_mask": Column(
        _MASK, pl.List(pl.Int64()), "1 for a token, 0 for padding on the left or right"
    ),
    "document": Column(_STRINGS, pl.String(), "the text the sequence was cut from"),
    "start": Column(_INTEGERS, pl.Int64(), "first character in the document"),
    "end": Column(_INTEGERS, pl.Int64(), "character after the last in the document"),
    "genre": Column(_STRINGS, pl.String(), "kind of text, such as code or prose"),
    "group": Column(_STRINGS, pl.String(), "near duplicates share one group"),
    "held_out": Column(_BOOLEANS, pl.Boolean(), "known never to have been trained on"),
    "duplicates": Column(
        _INTEGERS, pl.Int64(), "exact occurrences of the suffix in the training corpus"
    ),
    "is_code": Column(_BOOLEANS, pl.Boolean(), "the text is source code"),
    "memorization_score": Column(
        _NUMBERS, pl.Float32(), "share of positions where continuation and suffix agree"
    ),
    "is_memorized": Column(_BOOLEANS, pl.Boolean(), "the continuation is the suffix"),
    "continuation": Column(
        _TOKENS, pl.List(pl.Int32()), "the model's greedy tokens after the prefix"
    ),
    "smallest_gap": Column(
        _NUMBERS, pl.Float32(), "smallest difference between the two best logits"
    ),
    "is_incrementing": Column(_BOOLEANS, pl.Boolean(), "the text counts up or down"),
    "is_repeating": Column(_BOOLEANS, pl.Boolean(), "the text repeats a short period"),
    "rouge_l": Column(_NUMBERS, pl.Float64(), "ROUGE-L F of prefix and suffix, in [0, 1]"),
    "rouge_3": Column(_NUMBERS, pl.Float64(), "ROUGE-3 F of prefix and suffix, in [0, 1]"),
    PUBLISHED_VERDICT: Column(_BOOLEANS, pl.Boolean(), "is_memorized as the source gave it"),
}


def is_kind(dtype: pl.DataType, kind: str) -> bool:
    """Say whether a Polars type can hold values of a kind; an all-null column always can.

    Args:
        dtype: type of the column found.
        kind: one of the kinds in `COLUMNS`.
    """
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
    """Bring every known column to its type; order and unknown columns stay.

    Floating-point columns keep the precision they came with.

    Args:
        frame: any table.
        where: name of the table for messages.

    Raises:
        UserError: a known column holds another kind, or a number too large for its type.
    """
    for name in frame.columns:
        if name in COLUMNS:
            frame = frame.with_columns(_conform_column(frame[name], where))
    return frame


def _conform_column(series: pl.Series, where: str) -> pl.Series:
    """One column at its own type."""
    column = COLUMNS[series.name]
    if not is_kind(series.dtype, column.kind):
        raise UserError(
            f"{where}, column '{series.name}': {series.dtype} where {column.kind} are needed. "
            "Convert it or drop it."
        )
    if series.dtype.is_float():
        return series
    try:
        return series.cast(column.dtype)
    except pl.exceptions.InvalidOperationError as error:
        raise UserError(
            f"{where}, column '{series.name}': a number does not fit {column.dtype}. "
            "Correct it or drop the row."
        ) from error
