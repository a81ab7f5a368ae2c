"""Where recalled passages come from: their occurrences in a corpus or an infini-gram index.

Of each passage two things are looked for: the whole of it, and the suffix of the window that
speaks for it, since a passage may run over what stands in two places.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

from mnemoscope.audits.asking import Answer, Auditing
from mnemoscope.audits.passages import whole_passages
from mnemoscope.audits.questions import CorpusSettings
from mnemoscope.audits.rule import RECALL
from mnemoscope.audits.tokens import Words
from mnemoscope.columns import Column, schema_of
from mnemoscope.data.corpus import Corpus, FlatFile, open_corpus
from mnemoscope.data.origins import SCHEME, Needle, find_in_corpus, find_in_index
from mnemoscope.errors import UserError

COLUMNS = {
    "origin_count": Column(pl.Int64, "how often the passage stands in `--corpus`"),
    "origin_suffix_count": Column(pl.Int64, "how often the suffix of its window does"),
}
TABLE = {
    "span": Column(pl.Int64, "number of the passage, from 1"),
    "document": Column(pl.String, "its document"),
    "start": Column(pl.Int64, "its first character"),
    "end": Column(pl.Int64, "position after its last character"),
    "found": Column(pl.String, "what is listed: the whole `passage` or the `suffix` of its window"),
    "count": Column(pl.Int64, "how often it stands in the corpus"),
    "in": Column(pl.String, "document of the corpus (of a table its row)"),
    "offset": Column(
        pl.Int64,
        "where it begins there; null where an index does not show the document's beginning",
    ),
    "unit": Column(pl.String, "of the offset: `characters` or `tokens`"),
}

_SHOWN = 5  # places of a passage on the page


def depends(audit: Auditing) -> object:
    """The content of the corpus; None of an index."""
    corpus = open_asked(audit)
    return None if corpus is None else corpus.identity()


def ask(audit: Auditing) -> Answer:
    """Look for the passages in the corpus that the settings name.

    Raises UserError: no such corpus, or one of token ids where no tokens are known.
    """
    rows, numbers, needles = audit.passages.rows(named=True), audit.numbers(), []
    for row in rows:
        document, own = audit.texts[numbers[row["document"]]]
        inside = (own.starts >= row["start"]) & (own.ends <= row["end"])
        suffix = row["window_tokens"][audit.settings.prefix :]
        text = document.text[row["suffix_start"] : row["window_end"]]
        needles.append(Needle(row["text"], own.ids[inside]))
        needles.append(Needle(text, np.array(suffix, np.int32)))
    corpus = open_asked(audit)
    if corpus is not None:
        found = find_in_corpus(needles, corpus)
    else:
        place, dtype = _corpus(audit)
        index, decode = place.removeprefix(SCHEME), audit.tokenizer.decode
        found = find_in_index(needles, index, decode, dtype=dtype)
    wholes, suffixes = found[::2], found[1::2]
    made = []
    for number, (row, *both) in enumerate(zip(rows, wholes, suffixes, strict=True), 1):
        for kind, one in zip(("passage", "suffix"), both, strict=True):
            spot_of = (number, row["document"], row["start"], row["end"], kind, one.n)
            made += [(*spot_of, *spot) for spot in one.spots]
    counts = {
        "origin_count": [one.n for one in wholes],
        "origin_suffix_count": [one.n for one in suffixes],
    }
    facts = {"sentence": _sentence(audit, counts["origin_count"], _corpus(audit)[0])}
    return Answer(counts, pl.DataFrame(made, schema=schema_of(TABLE), orient="row"), facts)


def _sentence(audit: Auditing, found: list[int], place: str) -> str:
    """How many recalled passages stand in the corpus as they are."""
    rows = audit.passages.with_columns(origin_count=pl.Series(found, dtype=pl.Int64))
    recalled = [one for one in whole_passages(rows) if one["verdict"] == RECALL]
    n, k = len(recalled), sum(bool(one["origin_count"]) for one in recalled)
    if n == 1:
        stands = "stands" if k else "does not stand"
        return f"The recalled passage {stands} word for word in the corpus {place}."
    which = f"Of {n:,} recalled passages {k or 'none'}" if n else "No recalled passage"
    return f"{which} {'stand' if k > 1 else 'stands'} word for word in the corpus {place}."


def open_asked(audit: Auditing) -> Corpus | None:
    """The corpus that the settings name; None of an index.

    Raises UserError: no such corpus, or one of token ids where no tokens are known.
    """
    (place, dtype), corpus = _corpus(audit), None
    if not place.startswith(SCHEME):
        corpus = open_corpus(place, tokenizer=audit.tokenizer, dtype=dtype)
    sources = [] if corpus is None else corpus.sources
    has_texts = all(not isinstance(one, FlatFile) and one.cutter is not None for one in sources)
    if isinstance(audit.tokenizer, Words) and not (corpus and has_texts):
        raise UserError(f"--corpus {place}: holds token ids. Give the model's --tokenizer.")
    return corpus


def _corpus(audit: Auditing) -> tuple[str, str | None]:
    settings = audit.settings
    assert isinstance(settings, CorpusSettings)
    return settings.corpus or "", settings.corpus_dtype


def show(table: pl.DataFrame, _: Mapping[str, str]) -> pl.DataFrame:
    """The first places of each passage; of its suffix where the whole is nowhere."""
    is_whole = pl.col("found") == "passage"
    shown = table.filter(is_whole | ~is_whole.any().over("span"))
    return shown.group_by("span", maintain_order=True).head(_SHOWN)
