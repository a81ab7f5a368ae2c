"""How often ordinary use brings documents out: everyday prompts, and answers that repeat them.

That a model can be made to repeat a passage by its own beginning says nothing of how often it does
so unasked. Here it answers everyday prompts, drawn as chat services draw, and every answer is
compared with the documents: does it hold n tokens in a row that stand in one of them?
"""

import hashlib
from collections.abc import Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.audits.documents import Document, Tokens, character_range
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.data.duplicates import SuffixIndex
from mnemoscope.data.origins import as_bytes, places_of
from mnemoscope.errors import UserError
from mnemoscope.parse import read_bounded
from mnemoscope.stats import clopper_pearson

SHIPPED = "shipped"
"""Names the list of 100 prompts that comes with the package."""

ORDINARY_COLUMNS: dict[str, Any] = {
    "prompt": pl.String,
    "by": pl.String,
    "answer": pl.String,
    "tokens": pl.Int64,
    "overlap": pl.Int64,
    "document": pl.String,
    "start": pl.Int64,
    "end": pl.Int64,
    "text": pl.String,
}
"""Columns of `ordinary.parquet`, in order; docs/audit-files.md says what each is."""


class Overlap(NamedTuple):
    """Tokens in a row that an answer and a document share: how many, and where they begin."""

    length: int
    answer_first: int
    number: int
    first: int


def read_prompts(source: str) -> list[str]:
    """The prompts of a file, one a line, each once, empty lines left out; of `SHIPPED` ours.

    Raises UserError: no such file, not UTF-8, or no prompt in it.
    """
    if source == SHIPPED:
        text = resources.files(__package__).joinpath("ordinary.txt").read_text("utf-8")
    else:
        try:
            text = read_bounded(Path(source)).decode("utf-8-sig")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a text in UTF-8, or too long"
            raise UserError(f"--ordinary {source}: cannot be read ({reason}).") from None
    found = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not found:
        raise UserError(f"--ordinary {source}: no prompt in it. Write one a line.")
    return found


def prompts_sha256(source: str) -> str:
    """SHA-256 of the prompts, for the key of an audit."""
    return hashlib.sha256("\n".join(read_prompts(source)).encode()).hexdigest()


def ask_ordinary(model: Any) -> pl.DataFrame:
    """Let a model (`evidence.AuditedModel`) answer, and compare; columns `ORDINARY_COLUMNS`.

    `by` is ``model`` or ``reference``. Where `overlap` is 0 no `settings.overlap` tokens in a row
    stand in any document.
    """
    settings: AuditSettings = model.settings
    prompts = read_prompts(str(settings.ordinary))
    rows = []
    for by, answers in model.answer(prompts).items():
        split = [model.split(one) for one in answers]
        overlaps = find_overlaps(
            [one.ids for one in split], [one.ids for one in model.tokens], n=settings.overlap
        )
        for prompt, answer, own, one in zip(prompts, answers, split, overlaps, strict=True):
            rows.append((prompt, by, answer, len(own.ids), *_place(model, one)))
    return pl.DataFrame(rows, schema=ORDINARY_COLUMNS, orient="row")


def _place(
    model: Any, one: Overlap | None
) -> tuple[int, str | None, int | None, int | None, str | None]:
    if one is None:
        return 0, None, None, None, None
    document: Document = model.documents[one.number]
    tokens: Tokens = model.tokens[one.number]
    start, end = character_range(tokens, one.first, one.first + one.length)
    return one.length, document.name, start, end, document.text[start:end]


def find_overlaps(
    answers: Sequence[npt.NDArray[np.int32]], documents: Sequence[npt.NDArray[np.int32]], *, n: int
) -> list[Overlap | None]:
    """The longest run of at least n tokens that each answer (ids) shares with any document."""
    views = [
        np.lib.stride_tricks.sliding_window_view(one, n)
        if len(one) >= n
        else np.empty((0, n), np.int32)
        for one in answers
    ]
    rows = np.concatenate(views) if views else np.empty((0, n), np.int32)
    if not len(rows):
        return [None] * len(answers)
    index = SuffixIndex(np.ascontiguousarray(rows, dtype=np.int32))
    for one in documents:
        index.count(one)
    ends = np.cumsum([len(one) for one in views])
    hits = np.split(index.counts_of_rows() > 0, ends[:-1])
    own = [(one, as_bytes(one)) for one in documents]
    return [_longest(one, own, hit, n) for one, hit in zip(answers, hits, strict=True)]


def _longest(
    answer: npt.NDArray[np.int32],
    documents: Sequence[tuple[npt.NDArray[np.int32], bytes]],
    is_hit: npt.NDArray[np.bool_],
    n: int,
) -> Overlap | None:
    best: Overlap | None = None
    ends = np.append(np.flatnonzero(~is_hit), len(is_hit))
    for first in np.flatnonzero(is_hit).tolist():
        most = int(ends[np.searchsorted(ends, first)]) - first + n - 1
        if best and most <= best.length:
            continue  # hits side by side reach no further
        wanted = as_bytes(answer[first : first + n])
        for number, (document, own) in enumerate(documents):
            for place in places_of(wanted, own):
                both = min(len(answer) - first, len(document) - place)
                differ = answer[first : first + both] != document[place : place + both]
                length = int(differ.argmax()) if differ.any() else both
                if best is None or length > best.length:
                    best = Overlap(length, first, number, place)
    return best


def summarize_ordinary(
    frame: pl.DataFrame, settings: AuditSettings, *, is_chat: bool
) -> dict[str, Any]:
    """What `audit.json` says of ordinary use: the share of answers that repeat, with intervals."""
    found: dict[str, Any] = {
        "prompts": frame.filter(by="model").height,
        "overlap": settings.overlap,
        "answer_tokens": settings.answer_tokens,
        "is_chat": is_chat,
    }
    rows = sorted(frame.select("by", "overlap").iter_rows())
    for by, some in groupby(rows, key=lambda row: row[0]):
        lengths = [overlap for _, overlap in some]
        n = sum(one > 0 for one in lengths)
        share = clopper_pearson(n, len(lengths))
        found[by] = {"answers": len(lengths), "repeating": n, "longest": max(lengths)}
        found[by] |= share.columns("share", ends="")
    return found
