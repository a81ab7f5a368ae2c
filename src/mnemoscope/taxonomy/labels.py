"""Give every sequence of a table its class under a taxonomy.

Not memorized is Non-Memo whatever the features say; a class is null exactly where the decision
needs a feature that is missing.
"""

from collections.abc import Iterable

import polars as pl
import polars.selectors as cs

from mnemoscope.errors import UserError
from mnemoscope.taxonomy.names import NULL, Taxonomy
from mnemoscope.taxonomy.nodes import first_yes

__all__ = ["count_classes", "label_sequences"]

_FLAGS = ("is_memorized", "is_incrementing", "is_repeating", "is_code")
_NUMBERS = ("memorization_score", "duplicates", "rouge_l", "rouge_3")
_ROUGE_DECIMALS = 6
"""ROUGE stored as float32 must pass a threshold that it equals: 21/30 is 0.69999999 there."""


def label_sequences(frame: pl.DataFrame, taxonomy: Taxonomy) -> pl.Series:
    """Give every sequence its class.

    Args:
        frame: table with ``is_memorized`` (where given) or ``memorization_score``, and the
            features that the taxonomy's nodes need; NaN counts as missing.
        taxonomy: the taxonomy.

    Returns:
        Series ``class`` of strings, one a row in the order of the table; null where a feature
        that the decision needs is null.

    Raises:
        UserError: a needed column is missing or of the wrong type.
    """
    _check_columns(frame, taxonomy)
    prepared = (
        _type_empty(frame)
        .with_columns(cs.float().fill_nan(None))
        .with_columns(
            cs.by_name("rouge_l", "rouge_3", require_all=False)
            .cast(pl.Float64)
            .round(_ROUGE_DECIMALS)
        )
    )
    rules = [~_memorized(frame.columns), *(node.expression for node in taxonomy.nodes)]
    try:
        answers = prepared.select(first_yes(rules).alias("class")).to_series()
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"taxonomy '{taxonomy.name}' cannot be applied: {reason}.") from error
    return answers.replace_strict(dict(enumerate(taxonomy.classes)), return_dtype=pl.String)


def count_classes(labels: pl.Series, classes: Iterable[str] = ()) -> dict[str, int]:
    """Count sequences by class.

    Args:
        labels: from `label_sequences`.
        classes: classes to name even where they have no sequence, first and in this order.

    Returns:
        Sequences of every class; the key ``null`` holds those without one, where there are any.
    """
    found = labels.value_counts()
    by_class = dict(zip(found[labels.name], found["count"], strict=True))
    n_null = by_class.pop(None, 0)
    counts = {name: by_class.pop(name, 0) for name in classes}
    counts |= dict(sorted(by_class.items()))
    return counts | ({NULL: n_null} if n_null else {})


def _type_empty(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns that hold nothing but null get the type that they would have."""
    empty = [name for name, dtype in frame.schema.items() if dtype == pl.Null]
    return frame.with_columns(
        pl.col(name).cast(pl.Boolean if name in _FLAGS else pl.Float64) for name in empty
    )


def _memorized(columns: list[str]) -> pl.Expr:
    """Is the suffix reproduced in full: as scanned where it was, else by its score."""
    known = {
        "is_memorized": pl.col("is_memorized"),
        "memorization_score": pl.col("memorization_score") == 1,
    }
    return pl.coalesce([known[column] for column in known if column in columns])


def _check_columns(frame: pl.DataFrame, taxonomy: Taxonomy) -> None:
    """What labelling needs is there, and of a type that can be compared."""
    if not {"is_memorized", "memorization_score"} & set(frame.columns):
        raise UserError(
            "the table has neither is_memorized nor memorization_score, so no class can be "
            "given. Run 'mnemoscope continue' first."
        )
    for node in taxonomy.nodes:
        for column in node.columns:
            if column not in frame.columns:
                raise UserError(
                    f"the table has no column '{column}', which {node.name} needs. Run "
                    "'mnemoscope features' first, or add the column."
                )
    for column in {"is_memorized", "memorization_score", *taxonomy.columns} & set(frame.columns):
        _check_type(column, frame.schema[column])


def _check_type(column: str, dtype: pl.DataType) -> None:
    """Flags are boolean, measures are numbers; a column of nulls only may be of any type."""
    wanted = "Boolean" if column in _FLAGS else "a number" if column in _NUMBERS else None
    fits = dtype == pl.Boolean if column in _FLAGS else dtype.is_numeric()
    if wanted and not fits and dtype != pl.Null:
        raise UserError(f"column '{column}' is {dtype} where {wanted} is needed.")
