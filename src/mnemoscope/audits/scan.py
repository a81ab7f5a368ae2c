"""Ask a model at every stride-th window of documents, and around every find."""

from collections.abc import Callable, Sequence
from functools import partial

import polars as pl

from mnemoscope.audits.asking import Auditing, Prompt, Until, Written
from mnemoscope.audits.spans import (
    WINDOW_COLUMNS,
    Extension,
    coarse_starts,
    counts_as_hit,
    covered_by,
    fine_starts,
)
from mnemoscope.audits.tokens import Place, character_range
from mnemoscope.data.read import is_copied
from mnemoscope.errors import UserError
from mnemoscope.progress import Progress, track
from mnemoscope.store import kept_in_parts

BATCHES_A_PART = 4
"""Batches after which what was asked is kept."""


def check_long_enough(audit: Auditing) -> None:
    """Refuse documents that are all shorter than one window."""
    longest = max((len(one.tokens.ids) for one in audit.texts), default=0)
    length = audit.settings.length
    if longest < length:
        n = len(audit.texts)
        which = "the document is" if n == 1 else f"all {n} documents are"
        raise UserError(
            f"nothing to ask: {which} shorter than one window of {length} tokens (the "
            f"longest has {longest}). Give longer ones, or a smaller --prefix and --suffix."
        )


def scan_windows(
    audit: Auditing, is_asked: Callable[[Place], bool] = lambda _: True
) -> pl.DataFrame:
    """Continue every stride-th window, then every window around a find, in their order.

    Columns are `spans.WINDOW_COLUMNS`. Of the former those that are not `is_asked` count as wrong
    from the first token on.
    """
    coarse = scan_coarsely(audit, is_asked)
    places = [
        (number, first)
        for number, text in enumerate(audit.texts)
        for first in fine_starts(
            coarse.filter(pl.col("document") == number), len(text.tokens.ids), audit.settings
        )
        if _may_end(audit, (number, first))
    ]
    fine = _continued(audit, places, "Asking around finds")
    return pl.concat([coarse, fine]).sort("document", "first")


def scan_coarsely(
    audit: Auditing, is_asked: Callable[[Place], bool] = lambda _: True
) -> pl.DataFrame:
    """Every stride-th window alone; as `scan_windows`."""
    places = coarse_places(audit)
    left = [(*one, 0, None, None, None) for one in places if not is_asked(one)]
    asked = _continued(audit, [one for one in places if is_asked(one)], "Asking")
    return pl.concat([asked, pl.DataFrame(left, schema=WINDOW_COLUMNS, orient="row")])


def coarse_places(audit: Auditing) -> list[Place]:
    """Every stride-th window; one whose prompt may not end there moves on to the next that may."""
    found: list[Place] = []
    for number, text in enumerate(audit.texts):
        starts = coarse_starts(len(text.tokens.ids), audit.settings)
        places = set()
        for start in starts:
            possible = ((number, one) for one in range(start, starts[-1] + 1))
            places.add(next((place for place in possible if _may_end(audit, place)), None))
        found += sorted(place for place in places if place is not None)
    return found


def prompts_at(audit: Auditing, places: Sequence[Place], n: int | None = None) -> list[Prompt]:
    """What is shown at places, and the n tokens that are asked for there (default: a suffix)."""
    settings, n_asked = audit.settings, audit.settings.suffix if n is None else n
    found = []
    for number, first in places:
        begin = first + settings.prefix
        found.append(Prompt(audit.texts[number], first, begin, begin + n_asked))
    return found


def passage_prompts(audit: Auditing) -> list[Prompt]:
    """The prompts of the windows that speak for the passages."""
    numbers = audit.numbers()
    places = audit.passages.select("document", "window_token").iter_rows()
    return prompts_at(audit, [(numbers[name], first) for name, first in places])


def ask_in_parts(
    audit: Auditing, prompts: Sequence[Prompt], until: Until, label: str
) -> list[Written]:
    """Ask some at a time, so that little has to be remembered at once."""
    size, found = audit.settings.batch_size * BATCHES_A_PART, list[Written]()
    with track(label, total=len(prompts), unit="windows") as progress:
        for start in range(0, len(prompts), size):
            some = prompts[start : start + size]
            found += audit.model.continue_(some, until=until, progress=progress)
    return found


def extend(audit: Auditing, places: Sequence[Place]) -> list[Extension]:
    """How far the model goes on from places, as far as document and `max_growth` reach."""
    n = audit.settings.suffix + audit.settings.max_growth
    prompts = [
        one._replace(end=min(one.end, len(one.tokens.ids))) for one in prompts_at(audit, places, n)
    ]
    found = []
    with track("Following passages", total=len(prompts), unit="windows") as progress:
        written = audit.model.continue_(prompts, until="wrong", progress=progress)
    for prompt, one in zip(prompts, written, strict=True):
        ids = prompt.tokens.ids
        shown, then = ids[prompt.first : prompt.begin], ids[prompt.begin :][: one.common]
        found.append(Extension(one.common, is_copied(audit.tokenizer, shown, then)))
    return found


def count_windows(audit: Auditing, document: str, start: int, end: int) -> int:
    """Windows that come out and cover some of the characters from `start` up to `end`."""
    number, n = audit.numbers()[document], 0
    own, settings = audit.texts[number].tokens, audit.settings
    hits = audit.scanned.filter(
        pl.col("document") == number, pl.col("continuation").is_not_null()
    ).select("first", "continuation")
    for first, continuation in hits.iter_rows():
        begin = first + settings.prefix
        suffix = own.ids[begin : begin + settings.suffix]
        left, right = character_range(own, *covered_by(begin, suffix, continuation))
        n += left < end and right > start
    return n


def _may_end(audit: Auditing, place: Place) -> bool:
    """Whether the prompt of a window may end there: behind an API only between two characters."""
    tokens, begin = audit.texts[place[0]].tokens, place[1] + audit.settings.prefix
    return audit.model.kind == "here" or bool(tokens.starts[begin] >= tokens.ends[begin - 1])


def _continued(audit: Auditing, places: Sequence[Place], label: str) -> pl.DataFrame:
    """Continue windows part by part; a part that an earlier run finished is read."""
    size = audit.settings.batch_size * BATCHES_A_PART if audit.kept else max(len(places), 1)
    made = kept_in_parts(audit.kept, label, places, size, partial(_part, audit), unit="windows")
    return pl.concat([pl.DataFrame(schema=WINDOW_COLUMNS), *made])


def _part(audit: Auditing, places: Sequence[Place], progress: Progress) -> pl.DataFrame:
    prompts = prompts_at(audit, places)
    written = audit.model.continue_(prompts, until="miss", progress=progress)
    is_hit = [counts_as_hit(one.score, audit.settings) for one in written]
    columns = {
        "document": [number for number, _ in places],
        "first": [first for _, first in places],
        "common": [one.common for one in written],
        "score": [one.score for one in written],
        "continuation": [
            one.ids if hit else None for one, hit in zip(written, is_hit, strict=True)
        ],
        "pieces": [one.pieces if hit else None for one, hit in zip(written, is_hit, strict=True)],
    }
    return pl.DataFrame(columns, schema=WINDOW_COLUMNS)
