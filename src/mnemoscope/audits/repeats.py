"""Recalled passages whose words another recalled passage has too, or nearly: one text, met twice.

A reworded copy or a quotation in another document is recalled for what the model learned from the
first. The mechanism is that of near copies (`near.align`), over words.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.audits.near import LEAST_SHARE, SHORTEST_BLOCK, Alignment, align
from mnemoscope.audits.passages import text_written
from mnemoscope.audits.rule import RECALL

_WORD = re.compile(r"\w+")
_GAP = 6  # words in a row that may differ, as tokens in `--near-gap`


class Repeat(NamedTuple):
    """Where the words of a passage stand too: characters `start` to `end` of a document.

    They are in passage `number`; `is_longer`: which comes out for longer, or else as long.
    `is_wording`: what the model wrote has more of that text than the document here has.
    """

    document: str
    start: int
    end: int
    number: int
    is_longer: bool
    is_wording: bool = False


_TYPES = {str: pl.String, int: pl.Int64, bool: pl.Boolean}
REPEAT = pl.Struct({name: _TYPES[kind] for name, kind in Repeat.__annotations__.items()})


def repeats(
    wholes: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]] | None = None
) -> dict[int, Repeat]:
    """Of passages of `whole_passages` those that repeat a longer one, or an equal one before them.

    By their numbers. Of a passage that repeats, at least `near.LEAST_SHARE` of the words stand in
    the other, in order. With `known`, passages of other documents, those that repeat one of these.
    """
    others = [row for row in known or () if row["verdict"] == RECALL]
    rows = [*others, *(row for row in wholes if row["verdict"] == RECALL)]
    words = [_words(row["text"]) for row in rows]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    order = sorted(range(len(rows)), key=lambda at: (at >= len(others), -len(words[at]), at))
    found: dict[int, Repeat] = {}
    for at in order:  # the longest first: what stands before is as long or longer
        own = words[at]
        runs = {tuple(own[i : i + SHORTEST_BLOCK]) for i in range(len(own) - SHORTEST_BLOCK + 1)}
        shared: dict[int, int] = defaultdict(int)
        for run in runs:
            for other in holders[run]:
                shared[other] += 1
        likeliest = sorted(shared, key=lambda one: (-shared[one], one))[:_TRIED]
        for other in likeliest * (at >= len(others)):
            blocks, row = _blocks(own, words[other]), rows[other]
            if (n := sum(one.matched for one in blocks)) >= LEAST_SHARE * len(own):
                places = [one.span() for one in _WORD.finditer(row["text"])]
                start = row["start"] + places[blocks[0].other_first][0]
                end = row["start"] + places[blocks[-1].other_last - 1][1]
                written = _blocks(_words(text_written(rows[at])), words[other])
                found[rows[at]["number"]] = Repeat(
                    *(row["document"], start, end, row["number"], len(words[other]) > len(own)),
                    is_wording=sum(one.matched for one in written) > n,
                )
                break
        if known is None or at < len(others):
            for run in runs:
                holders[run].append(at)
    return found


def with_repeats(wholes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The same passages, each with its `Repeat` under `repeats`; None where it repeats nothing."""
    found = repeats(wholes)
    return [{**row, "repeats": found.get(row["number"])} for row in wholes]


_TRIED = 5
"""Passages that share most runs of words, which are aligned."""


def _words(text: str) -> list[str]:
    return [one[0].lower() for one in _WORD.finditer(text)]


def _blocks(own: Sequence[str], others: Sequence[str]) -> list[Alignment]:
    """Where words stand in others."""
    known: dict[str, int] = {}
    ids, other_ids = ([known.setdefault(word, len(known)) for word in one] for one in (own, others))
    return align(ids, other_ids, gap=_GAP)
