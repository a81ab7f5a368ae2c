"""Make sequences of the rows of a table: its tokens as they are, or its texts cut into windows."""

from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.progress import track
from mnemoscope.sequences.collector import WindowCollector
from mnemoscope.sequences.columns import COLUMNS, PUBLISHED_VERDICT
from mnemoscope.sequences.schema import check_sequences
from mnemoscope.sequences.windows import WindowCutter

__all__ = ["cut_rows", "drop_results", "has_values", "keep_verdicts", "take_tokens"]

_RESULTS = (  # what a model or a feature said of the rows, which are new sequences now
    "memorization_score",
    "is_memorized",
    "continuation",
    "smallest_gap",
    "is_incrementing",
    "is_repeating",
    "rouge_l",
    "rouge_3",
)


def has_values(frame: pl.DataFrame, name: str) -> bool:
    """True of a column that is there and not all null."""
    return name in frame.columns and frame[name].null_count() < frame.height


def drop_results(frame: pl.DataFrame) -> pl.DataFrame:
    """Leave out the columns that another run made."""
    return frame.drop(_RESULTS, strict=False)


def keep_verdicts(frame: pl.DataFrame) -> pl.DataFrame:
    """Keep what the source says of its sequences as `published_is_memorized`, to be checked.

    Args:
        frame: rows that are sequences already; `is_memorized` goes before `memorization_score`,
            and a column `published_is_memorized` that is there before both.
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
    frame: pl.DataFrame, tokenizer: Any | None, *, length: int, where: str, pad: bool = False
) -> pl.DataFrame:
    """Check rows that are sequences already, and complete them.

    Args:
        frame: needs `tokens`.
        tokenizer: decodes them into `text` where the table has none; None leaves it out.
        length: tokens a sequence.
        where: name of the table for messages.
        pad: pad shorter rows on the right, and say so in `attention_mask`.

    Returns:
        The table, rows numbered where they have no `sequence_id`.

    Raises:
        UserError: as `check_sequences`.
    """
    if "sequence_id" not in frame.columns:
        frame = frame.with_columns(_numbers())
    if pad:
        frame = _pad(frame, length)
    check_sequences(frame, where=where, length=length)
    if not has_values(frame, "text") and tokenizer is not None:
        texts = WindowCutter(tokenizer, length=length).decode(frame["tokens"].to_list())
        frame = frame.with_columns(pl.Series("text", texts, dtype=pl.String))
    return _in_order(frame)


def _pad(frame: pl.DataFrame, length: int) -> pl.DataFrame:
    """Lengthen `tokens`, and `attention_mask` (ones where there is none), with zeros."""
    tokens = pl.col("tokens").cast(pl.List(pl.Int64))
    n_missing = (pl.lit(length) - tokens.list.len().cast(pl.Int64)).clip(0)
    zeros = pl.lit(0, dtype=pl.Int64).repeat_by(n_missing)
    ones = pl.lit(1, dtype=pl.Int64).repeat_by(tokens.list.len())
    mask = pl.col("attention_mask") if has_values(frame, "attention_mask") else ones
    return frame.with_columns(
        tokens.list.concat(zeros).alias("tokens"), mask.list.concat(zeros).alias("attention_mask")
    )


def cut_rows(frame: pl.DataFrame, collector: WindowCollector, *, where: str) -> pl.DataFrame:
    """Cut each row's text; every window gets the other columns of its row.

    A row that gives one window keeps its `sequence_id`, other windows are numbered after the
    largest id. `start` and `end` count from the row's own `start` where it has one.

    Args:
        frame: needs `text`; a null counts as too short.
        collector: without texts so far; holds the counts afterwards.
        where: the table's path; its name stands for documents that have none.

    Raises:
        UserError: no text as long as one window.
    """
    with track("reading", total=frame.height, unit="texts") as progress:
        for text in frame["text"]:
            collector.add(text or "")
            progress.advance()
            if collector.is_full:
                break
    windows = collector.to_frame(where=where)
    others = _others(frame, Path(where).name)
    joined = windows.join(others, on="source", how="left", maintain_order="left")
    shift = pl.col("_shift").fill_null(0)
    joined = joined.with_columns(pl.col("start") + shift, pl.col("end") + shift)
    return _in_order(_number(joined).drop("source", "_shift"))


def _others(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """The columns a window takes from its row: all but those made by cutting."""
    rows = frame.drop("text", "tokens", "end", strict=False).with_row_index("source")
    rows = rows.with_columns(pl.col("source").cast(pl.Int64))
    given = pl.col("document") if "document" in rows.columns else pl.lit(None, pl.String)
    named = pl.format("{}, row {}", pl.lit(where), "source")
    shift = pl.col("start") if "start" in rows.columns else pl.lit(0, pl.Int64)
    rows = rows.with_columns(pl.coalesce(given, named).alias("document"), shift.alias("_shift"))
    return rows.drop("start", strict=False)


def _number(joined: pl.DataFrame) -> pl.DataFrame:
    """A row's own id where it gave one window, else numbers after the largest id."""
    if "sequence_id" not in joined.columns:
        return joined.with_columns(_numbers())
    is_alone = pl.len().over("source") == 1
    later = pl.col("sequence_id").max() + (~is_alone).cum_sum().cast(pl.Int64)
    own = pl.when(is_alone).then("sequence_id").otherwise(later)
    return joined.with_columns(own.alias("sequence_id"))


def _numbers() -> pl.Expr:
    return pl.int_range(pl.len(), dtype=pl.Int64).alias("sequence_id")


def _in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns of the schema first, in its order."""
    known = [name for name in COLUMNS if name in frame.columns]
    return frame.select(*known, pl.exclude(known))
