"""How often ordinary use brings documents out: everyday prompts, and answers that repeat them.

That a model can be made to repeat a passage by its own beginning says nothing of how often it does
so unasked. Here it answers everyday prompts, drawn as chat services draw, and every answer is
compared with the documents: does it hold n tokens in a row that stand in one of them?
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.audits.asking import Answer, Auditing
from mnemoscope.audits.questions import OrdinarySettings
from mnemoscope.audits.tokens import character_range
from mnemoscope.columns import Column, schema_of
from mnemoscope.data.duplicates import SuffixIndex
from mnemoscope.data.origins import as_bytes, places_of
from mnemoscope.errors import UserError
from mnemoscope.parse import read_bounded
from mnemoscope.progress import track
from mnemoscope.stats import clopper_pearson

SHIPPED = "shipped"
"""Names the list of 100 prompts that comes with the package."""

TABLE = {
    "prompt": Column(pl.String, "what was asked"),
    "by": Column(pl.String, "who answered: `model` or `reference`"),
    "answer": Column(pl.String, "the answer"),
    "tokens": Column(pl.Int64, "its length"),
    "overlap": Column(
        pl.Int64, "longest run of tokens that stands in a document; 0: shorter than `--overlap`"
    ),
    "document": Column(pl.String, "that document; null where there is none"),
    "start": Column(pl.Int64, "first character of the run there"),
    "end": Column(pl.Int64, "position after its last"),
    "text": Column(pl.String, "the run"),
}

_ANSWERS = 10  # that repeat a document, as shown


class Overlap(NamedTuple):
    """Tokens in a row that an answer and a document share: how many, and where in which."""

    length: int
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


def depends(audit: Auditing) -> object:
    """The prompts; UserError: unreadable, or too long for the model. Before anything is asked."""
    prompts = read_prompts(_settings(audit).ordinary or "")
    if audit.model.kind == "here":
        from mnemoscope.audits.sampling import prompts_shown  # torch, which a service needs not

        for lm in (audit.lm, audit.other_lm):
            if lm is not None:
                prompts_shown(lm, prompts)
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()


def ask(audit: Auditing) -> Answer:
    """Let the model, and the reference, answer prompts, and compare.

    Where `overlap` is 0 no `settings.overlap` tokens in a row stand in any document.
    """
    settings, rows = _settings(audit), []
    prompts = read_prompts(settings.ordinary or "")
    for by, model in (("model", audit.model), ("reference", audit.reference)):
        if model is None:
            continue
        with track("Asking everyday prompts", total=len(prompts), unit="prompts") as progress:
            written = model.continue_(prompts, progress=progress)
        answers = ["".join(one.pieces or []) for one in written]
        split = [audit.model.splitter.split(one) for one in answers]
        overlaps = find_overlaps(
            [one.ids for one in split], [one.tokens.ids for one in audit.texts], n=settings.overlap
        )
        for prompt, answer, own, one in zip(prompts, answers, split, overlaps, strict=True):
            rows.append((prompt, by, answer, len(own.ids), *_place(audit, one)))
    frame = pl.DataFrame(rows, schema=schema_of(TABLE), orient="row")
    facts = summarize_ordinary(frame, settings, is_chat=audit.model.is_chat)
    return Answer(table=frame, facts=facts)


def show(table: pl.DataFrame, _: Mapping[str, str]) -> pl.DataFrame:
    """Answers that repeat a document, the longest overlaps first."""
    rows = table.filter(pl.col("overlap") > 0, pl.col("by") == "model")
    rows = rows.sort("overlap", descending=True, maintain_order=True)
    return rows.head(_ANSWERS)


def _settings(audit: Auditing) -> OrdinarySettings:
    assert isinstance(audit.settings, OrdinarySettings)
    return audit.settings


def _place(
    audit: Auditing, one: Overlap | None
) -> tuple[int, str | None, int | None, int | None, str | None]:
    if one is None:
        return 0, None, None, None, None
    document, tokens = audit.texts[one.number]
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
                    best = Overlap(length, number, place)
    return best


def summarize_ordinary(
    frame: pl.DataFrame, settings: OrdinarySettings, *, is_chat: bool
) -> dict[str, Any]:
    """What `audit.json` says of ordinary use: the share of answers that repeat, with intervals."""
    of_each = {}
    for by in frame["by"].unique().sort():
        lengths = frame.filter(by=by)["overlap"].to_list()
        n = sum(one > 0 for one in lengths)
        share = clopper_pearson(n, len(lengths))
        of_each[by] = {"answers": len(lengths), "repeating": n, "longest": max(lengths)}
        of_each[by] |= {"share": share.value, "low": share.low, "high": share.high}
    return {
        "prompts": frame.filter(by="model").height,
        "overlap": settings.overlap,
        "answer_tokens": settings.answer_tokens,
        "is_chat": is_chat,
        **of_each,
    }
