"""The sequences of a study as data for the page's browser: texts, classes, figures, compressed.

What they are divided by is a `Division`: the classes of a taxonomy, or the flows between two.
"""

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.data.folders import NO_DOCUMENT
from mnemoscope.report.style import class_colour

MOST_TOKENS = 1_280_000
"""Tokens of the sequences that a page holds, 20,000 of 64; of more it holds a random sample."""
FIGURES = {
    "memorization_score": "score",
    "rouge_l": "ROUGE-L",
    "rouge_3": "ROUGE-3",
    "duplicates": "duplicates",
}
"""Columns that sequences are sorted by, with their titles."""
WORDS = {"document": "Document", "genre": "Kind"}
"""Columns that sequences are chosen and sorted by, with their titles."""


class Division(NamedTuple):
    """What divides the sequences into classes, each by its name; rows in the table's order.

    `read` are the classes that a reader of the attention took an evaluation sequence for, each
    once; null of other sequences. It is None where there is no such reader.
    """

    label: str
    classes: Sequence[str]
    labels: pl.Series  # of strings
    read: pl.Series | None = None  # of lists of strings

    @property
    def colours(self) -> list[int]:
        """The number of each class's colour."""
        return [class_colour(self.classes, one) for one in self.classes]


@dataclass(frozen=True)
class BrowsedSequences:
    """`data` is base64 of a zlib stream of JSON: a list a column, one entry a sequence."""

    data: str
    n: int  # sequences in it
    n_all: int  # of the study
    columns: Sequence[str]  # those of the table that it shows
    divisions: Sequence[Division]


def browsed(
    table: pl.DataFrame, divisions: Sequence[Division], tokenizer: Any, prefix: int
) -> BrowsedSequences | None:
    """Pack the sequences of a study; None where there are none.

    The first `prefix` tokens of a sequence are its prefix.
    """
    if table.is_empty():
        return None
    names = [f"class {at}" for at in range(len(divisions))]
    readings = [f"read {at}" for at in range(len(divisions))]
    rows = table.with_columns(
        *(one.labels.alias(name) for one, name in zip(divisions, names, strict=True)),
        *(
            pl.lit(None).alias(name) if one.read is None else one.read.alias(name)
            for one, name in zip(divisions, readings, strict=True)
        ),
    )
    most = max(1, MOST_TOKENS // max(1, int(rows["tokens"].list.len().max() or 1)))  # type: ignore[arg-type]
    if rows.height > most:
        rows = rows.with_row_index("row").sample(most, seed=0).sort("row")
    known = [
        name
        for name in (*FIGURES, *WORDS)
        if name in rows.columns and rows[name].null_count() < rows.height
    ]
    packed: dict[str, Any] = {"id": rows["sequence_id"].to_list()}
    packed |= dict(
        zip(("prefix", "suffix", "written"), _texts(rows, tokenizer, prefix), strict=True)
    )
    for name in known:
        values = rows[name].fill_null(NO_DOCUMENT) if name == "document" else rows[name]
        packed[name] = (values.round(4) if values.dtype.is_float() else values).to_list()
    packed["classes"] = [rows[name].to_list() for name in names]
    packed["read"] = [rows[name].to_list() for name in readings]
    text = json.dumps(packed, ensure_ascii=False, separators=(",", ":"), default=str)
    data = base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 9))
    shown = [one for one in known if one in FIGURES or rows[one].n_unique() > 1]
    return BrowsedSequences(data.decode("ascii"), rows.height, table.height, shown, divisions)


def _texts(rows: pl.DataFrame, tokenizer: Any, prefix: int) -> Iterator[list[str]]:
    """Prefix and suffix of each row, and what the model wrote where it is another suffix."""
    tokens, starts = rows["tokens"].to_list(), [prefix] * rows.height
    if "attention_mask" in rows.columns:
        masks = rows["attention_mask"].to_list()
        starts = [sum(mask[:prefix]) if mask else prefix for mask in masks]
        tokens = [
            [token for token, one in zip(own, mask, strict=True) if one] if mask else own
            for own, mask in zip(tokens, masks, strict=True)
        ]
    whole = _decode(tokenizer, tokens)
    first = _decode(tokenizer, [own[:start] for own, start in zip(tokens, starts, strict=True)])
    second = _decode(tokenizer, [own[start:] for own, start in zip(tokens, starts, strict=True)])
    yield first
    yield [
        text[len(one) :] if text.startswith(one) else other
        for text, one, other in zip(whole, first, second, strict=True)
    ]
    written: list[list[int]] = [[]] * rows.height
    if "continuation" in rows.columns:
        kept = zip(rows["continuation"].to_list(), rows["is_memorized"].to_list(), strict=True)
        written = [[] if is_memorized else own or [] for own, is_memorized in kept]
    yield _decode(tokenizer, written)


def _decode(tokenizer: Any, tokens: Sequence[Sequence[int]]) -> list[str]:
    found: list[str] = tokenizer.batch_decode(tokens, clean_up_tokenization_spaces=False)
    return found
