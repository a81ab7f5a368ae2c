"""Where recalled passages come from: their occurrences in a corpus or an infini-gram index.

Of each passage two things are looked for: the whole of it, and the suffix of the window that
speaks for it, since a passage may run over what stands in two places.
"""

from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.audits.documents import Words
from mnemoscope.data.corpus import Corpus, FlatFile, open_corpus
from mnemoscope.data.origins import SCHEME, Needle, find_in_corpus, find_in_index
from mnemoscope.errors import UserError

ORIGIN_COLUMNS: dict[str, Any] = {
    "span": pl.Int64,
    "document": pl.String,
    "start": pl.Int64,
    "end": pl.Int64,
    "found": pl.String,
    "count": pl.Int64,
    "in": pl.String,
    "offset": pl.Int64,
    "unit": pl.String,
}
"""Columns of `origins.parquet`, in order; docs/audit-files.md says what each is."""

_SHOWN = 5  # places of a passage on the page


def find_origins(model: Any, spans: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Look for the passages of `spans.parquet` in the corpus that the settings name.

    `model` is an `evidence.AuditedModel`.

    Returns:
        The spans with `origin_count` (of the passage) and `origin_suffix_count`, and a row for each
        place that is listed, columns `ORIGIN_COLUMNS`.

    Raises UserError: no such corpus, or one of token ids where no tokens are known.
    """
    place, dtype = model.settings.corpus, model.settings.corpus_dtype
    rows = spans.rows(named=True)
    numbers = {document.name: number for number, document in enumerate(model.documents)}
    needles = []
    for row in rows:
        own = model.tokens[numbers[row["document"]]]
        inside = (own.starts >= row["start"]) & (own.ends <= row["end"])
        text = model.documents[numbers[row["document"]]].text
        suffix = row["window_tokens"][model.settings.prefix :]
        needles += [
            Needle(row["text"], own.ids[inside]),
            Needle(text[row["suffix_start"] : row["window_end"]], np.array(suffix, np.int32)),
        ]
    corpus = open_asked(model)
    if corpus is not None:
        found = find_in_corpus(needles, corpus)
    else:
        index, decode = place.removeprefix(SCHEME), model.tokenizer.decode
        found = find_in_index(needles, index, decode, dtype=dtype)
    wholes, suffixes = found[::2], found[1::2]
    made = []
    for number, (row, *both) in enumerate(zip(rows, wholes, suffixes, strict=True), 1):
        for kind, one in zip(("passage", "suffix"), both, strict=True):
            place = (number, row["document"], row["start"], row["end"], kind, one.n)
            made += [(*place, *spot) for spot in one.spots]
    frame = spans.with_columns(
        origin_count=pl.Series([one.n for one in wholes], dtype=pl.Int64),
        origin_suffix_count=pl.Series([one.n for one in suffixes], dtype=pl.Int64),
    )
    return frame, pl.DataFrame(made, schema=ORIGIN_COLUMNS, orient="row")


def open_asked(model: Any) -> Corpus | None:
    """The corpus that the settings of `model` name; None of an index.

    Raises UserError: no such corpus, or one of token ids where no tokens are known.
    """
    place, corpus = model.settings.corpus, None
    if not place.startswith(SCHEME):
        dtype = model.settings.corpus_dtype
        corpus = open_corpus(place, tokenizer=model.tokenizer, dtype=dtype)
    sources = [] if corpus is None else corpus.sources
    has_texts = all(not isinstance(one, FlatFile) and one.cutter is not None for one in sources)
    if isinstance(model.tokenizer, Words) and not (corpus and has_texts):
        raise UserError(f"--corpus {place}: holds token ids. Give the model's --tokenizer.")
    return corpus


def places_by_span(origins: pl.DataFrame) -> Mapping[int, list[dict[str, Any]]]:
    """The first places of each passage, by its number; of its suffix where the whole is nowhere."""
    found = {}
    for number, rows in groupby(origins.rows(named=True), key=itemgetter("span")):
        some = list(rows)
        whole = [row for row in some if row["found"] == "passage"]
        found[number] = (whole or some)[:_SHOWN]
    return found
