"""The chance of a document by position: `mnemoscope audit --profile` slides over a whole book.

Nothing is decoded. Of every window the chance that one answer, drawn as `AuditSettings` say, is
the suffix comes from teacher-forced forwards; what a model may be asked n times comes out with
chance p where 1 - (1 - chance)^n >= p.

Windows of equal tokens are read once. Beyond that two windows share a forward only where what
stands before their suffixes begins at one place, since all that a model has read moves its
states: that is so with ``profile_prefix="all"``, where a forward serves every window of a block.

Source: (n, p)-discoverable extraction, Hayes et al., arXiv 2410.19482; slid over books in Cooper
    et al., arXiv 2505.12546.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.audits.asking import Answer, Auditing
from mnemoscope.audits.chance import tries_needed
from mnemoscope.audits.heat import heat_maps
from mnemoscope.audits.questions import ProfileSettings
from mnemoscope.audits.scan import BATCHES_A_PART
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.shares import covered
from mnemoscope.audits.spans import coarse_starts
from mnemoscope.audits.tokens import Place, Text, character_range, cut
from mnemoscope.columns import Column
from mnemoscope.progress import Progress, say
from mnemoscope.store import kept_in_parts
from mnemoscope.words import about

if TYPE_CHECKING:
    from mnemoscope.lm.model import LanguageModel

TABLE = {
    "document": Column(pl.String, "its name"),
    "start": Column(pl.Int64, "first character that is read"),
    "suffix_start": Column(pl.Int64, "first character of the suffix"),
    "end": Column(pl.Int64, "position after its last character"),
    "token": Column(pl.Int64, "first token of the window"),
    "prefix_tokens": Column(pl.Int64, "tokens read before the suffix"),
    "extraction_logprob": Column(
        pl.Float64,
        "natural logarithm of the chance that one answer is the suffix (`--temperature`, "
        "`--top-k`); -inf: never",
    ),
    "logprob": Column(pl.Float64, "that of its probability under the model as it is"),
    "run": Column(pl.Int64, "tokens right before the first one that is not the likeliest"),
}

TRIES = (1, 10, 100, 1_000, 10_000)
"""Answers of which a profile says how much of the text they bring out."""

_LONGEST = 2048  # tokens read at once of a model whose positions have no limit
_SAME_CHANCE = 1e-3  # another machine or batch rounds otherwise
_Job = Callable[[], pl.DataFrame]
_CHANCES = {name: TABLE[name].type for name in ("extraction_logprob", "logprob", "run")}

show = heat_maps


def ask(audit: Auditing) -> Answer:
    """The chance of every stride-th window, and how much text so many answers bring out."""
    settings = audit.settings
    assert isinstance(settings, ProfileSettings)
    frame = profile_documents(audit.lm, audit.texts, settings, audit.kept)
    return Answer(table=frame, facts=summarize_profile(frame, audit.texts, settings))


class _Block(NamedTuple):
    """Tokens `begin` up to `end` of a document, and the windows whose suffixes are read in them."""

    number: int
    begin: int
    end: int
    firsts: list[int]

    def ids(self, texts: Sequence[Text]) -> npt.NDArray[np.int32]:
        return texts[self.number].tokens.ids[self.begin : self.end]

    def suffixes(self, settings: AuditSettings) -> list[int]:
        """Where the suffixes of its windows begin in `ids`."""
        return [first + settings.prefix - self.begin for first in self.firsts]


def profile_documents(
    lm: "LanguageModel", texts: Sequence[Text], settings: ProfileSettings, kept: Path | None = None
) -> pl.DataFrame:
    """The chance of every stride-th window's suffix; columns `TABLE`.

    In `kept` finished parts stand, and are not asked again. What it takes is said first. Raises
    UserError: logits that are not finite.
    """
    from mnemoscope.audits.profile_chances import chances_of_block, chances_of_windows

    places = [
        (number, first)
        for number, text in enumerate(texts)
        for first in coarse_starts(len(text.tokens.ids), settings)
    ]
    begins = [first for _, first in places]
    if settings.profile_prefix == "all":
        blocks = list(_blocks(lm, places, settings))
        begins = [block.begin for block in blocks for _ in block.firsts]
        jobs = [
            lambda block=block: chances_of_block(
                lm, block.ids(texts), block.suffixes(settings), settings
            )
            for block in blocks
        ]
        n_tokens, order = sum(block.end - block.begin for block in blocks), None
    else:
        windows = cut(texts, places, settings.length)
        distinct, order = np.unique(windows, axis=0, return_inverse=True)
        size = settings.batch_size * BATCHES_A_PART
        parts = [distinct[start : start + size] for start in range(0, len(distinct), size)]
        jobs = [lambda part=part: chances_of_windows(lm, part, settings) for part in parts]
        n_tokens = distinct.size
    say(f"Profile: {len(places):,} windows, {n_tokens:,} tokens to be read.")
    frame = _run(jobs, kept)
    if order is not None:
        frame = frame[order.ravel()]
    return _table(texts, places, begins, frame, settings)


def summarize_profile(
    frame: pl.DataFrame, texts: Sequence[Text], settings: ProfileSettings
) -> dict[str, Any]:
    """What `audit.json` says of a profile: how much text so many answers bring out.

    A character is brought out by n answers where it stands in the suffix of a window that one of
    them is with a chance of at least `settings.probability`.
    """
    n_characters = sum(len(text.document.text) for text in texts)
    needed = [tries_needed(one, settings.probability) for one in frame["extraction_logprob"]]
    spots: dict[str, list[tuple[int, int, int | None]]] = {}
    columns = frame["document"], frame["suffix_start"], frame["end"], needed
    for name, *spot in zip(*columns, strict=True):
        spots.setdefault(name, []).append(tuple(spot))
    rows = []
    for tries in TRIES:
        n = sum(
            covered(
                (start, end)
                for start, end, one in spots.get(text.name, ())
                if one is not None and one <= tries
            )
            for text in texts
        )
        rows.append({"tries": tries, "characters": n, "share": n / n_characters})
    return {
        "windows": frame.height,
        "prefix": settings.profile_prefix,
        "probability": settings.probability,
        "extractable": rows,
    }


def _run(jobs: Sequence[_Job], kept: Path | None) -> pl.DataFrame:
    """All parts in order; the first one that is asked says how long the others will take."""
    is_said = False

    def make(some: Sequence[tuple[int, _Job]], progress: Progress) -> pl.DataFrame:
        nonlocal is_said
        ((number, job),) = some
        started = time.monotonic()
        part = job()
        left = (time.monotonic() - started) * (len(jobs) - number - 1)
        if not is_said and left > 1:
            say(f"Profile: {about(left)} more.")
        is_said = True
        progress.advance()
        return part

    parts = kept_in_parts(kept, "Profile", [*enumerate(jobs)], 1, make, unit="parts")
    return pl.concat([pl.DataFrame(schema=_CHANCES), *parts])


def _blocks(
    lm: "LanguageModel", places: Sequence[Place], settings: AuditSettings
) -> Iterator[_Block]:
    """Pieces of documents; before each suffix stands half of what the model can hold, or all."""
    room = _LONGEST if lm.max_positions is None else lm.max_positions - len(lm.before)
    owned: dict[int, list[int]] = {}
    for number, first in places:
        owned.setdefault(number, []).append(first)
    for number, firsts in owned.items():
        while firsts:
            begin, end = firsts[0] + settings.prefix, firsts[0] + settings.length
            start = 0 if end <= room else max(begin - room // 2, end - room)
            n = sum(first + settings.length <= start + room for first in firsts)
            yield _Block(number, start, firsts[n - 1] + settings.length, firsts[:n])
            firsts = firsts[n:]


def _table(
    texts: Sequence[Text],
    places: Sequence[Place],
    begins: Sequence[int],
    chances: pl.DataFrame,
    settings: AuditSettings,
) -> pl.DataFrame:
    rows = []
    for (number, first), begin in zip(places, begins, strict=True):
        own, suffix, last = texts[number].tokens, first + settings.prefix, first + settings.length
        start, end = character_range(own, suffix, last)
        shown = int(own.starts[begin])
        rows.append((texts[number].name, shown, start, end, first, suffix - begin))
    columns = {name: one.type for name, one in TABLE.items() if name not in _CHANCES}
    return pl.DataFrame(rows, schema=columns, orient="row").hstack(chances)


def check(audit: Auditing, kept: pl.DataFrame) -> list[str]:
    """Whether a profile comes out again; only where its documents are all there."""
    if not set(kept["document"]) <= {*audit.numbers()}:
        return []
    again = ask(audit).table
    assert again is not None
    places = ["document", "token", "prefix_tokens"]
    both = kept.join(again, on=places, how="left", suffix="_again")
    now, was = (both[f"extraction_logprob{end}"].exp() for end in ("_again", ""))
    n = int(((now - was).abs() > _SAME_CHANCE).fill_null(True).sum())
    return (
        [f"profile.parquet: {n:,} of {kept.height:,} chances do not come out again."] if n else []
    )
