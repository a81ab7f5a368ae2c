"""Recalled passages whose words another recalled passage has too, or nearly: one text, met twice.

A reworded copy or a quotation in another document is recalled for what the model learned from the
first. The mechanism is that of near copies (`near.align`), over words.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mnemoscope.audits.near import LEAST_SHARE, SHORTEST_BLOCK, align
from mnemoscope.audits.rule import RECALL

_WORD = re.compile(r"\w+")
_GAP = 6  # words in a row that may differ, as tokens in `--near-gap`


class Repeat(NamedTuple):
    """Where the words of a passage stand too: characters `start` to `end` of a document.

    They are in passage `number`; `is_longer`: which comes out for longer, or else as long.
    """

    document: str
    start: int
    end: int
    number: int
    is_longer: bool


def repeats(wholes: Sequence[Mapping[str, Any]]) -> dict[int, Repeat]:
    """Of passages of `whole_passages` those that repeat a longer one, or an equal one before them.

    By their numbers. Of a passage that repeats, at least `near.LEAST_SHARE` of the words stand in
    the other, in order.
    """
    rows = [row for row in wholes if row["verdict"] == RECALL]
    words = [[one[0].lower() for one in _WORD.finditer(row["text"])] for row in rows]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    order = sorted(range(len(rows)), key=lambda at: (-len(words[at]), at))
    found: dict[int, Repeat] = {}
    for at in order:  # the longest first: what stands before is as long or longer
        own = words[at]
        runs = {tuple(own[i : i + SHORTEST_BLOCK]) for i in range(len(own) - SHORTEST_BLOCK + 1)}
        shared: dict[int, int] = defaultdict(int)
        for run in runs:
            for other in holders[run]:
                shared[other] += 1
        for other in sorted(shared, key=lambda one: (-shared[one], one))[:_TRIED]:
            place = _place(own, words[other], rows[other])
            if place is not None:
                row = rows[other]
                is_longer = len(words[other]) > len(own)
                made = Repeat(row["document"], *place, row["number"], is_longer)
                found[rows[at]["number"]] = made
                break
        for run in runs:
            holders[run].append(at)
    return found


def with_repeats(wholes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The same passages, each with its `Repeat` under `repeats`; None where it repeats nothing."""
    found = repeats(wholes)
    return [{**row, "repeats": found.get(row["number"])} for row in wholes]


_TRIED = 5
"""Passages that share most runs of words, which are aligned."""


def _place(
    own: Sequence[str], others: Sequence[str], other: Mapping[str, Any]
) -> tuple[int, int] | None:
    """Where the words stand in the other passage; None where too few do."""
    known: dict[str, int] = {}
    ids, other_ids = ([known.setdefault(word, len(known)) for word in one] for one in (own, others))
    blocks = align(ids, other_ids, gap=_GAP)
    if sum(one.matched for one in blocks) < LEAST_SHARE * len(own):
        return None
    places = [one.span() for one in _WORD.finditer(other["text"])]
    first, last = blocks[0].other_first, blocks[-1].other_last
    return other["start"] + places[first][0], other["start"] + places[last - 1][1]
