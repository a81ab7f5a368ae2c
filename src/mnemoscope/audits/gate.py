"""Conditions under which an audit fails: a share or a number of passages, in all or in each."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import polars as pl

from mnemoscope.audits.records import Record, read_verdicts
from mnemoscope.audits.shares import (
    KINDS,
    Counts,
    count_document,
    estimate_of,
    overall,
    share_of,
)
from mnemoscope.conditions import Gate, Measures
from mnemoscope.errors import UserError
from mnemoscope.words import plural

_WORD = re.compile(r"\S+")
_RUN = 8  # words in a row that an older audit's passage has too: they are known
_EDGE = 16  # words; fewer between and beside known ones are an edge that moved, or an edit
PASSAGES = Measures(
    KINDS,
    "passage",
    "characters",
    "'recalled > 0.5%', 'recalled > 3 passages' or 'recalled >= 1 passage in doc'",
    said={"near": "recalled or nearly so"},
    has_each=True,
)


class Judged(NamedTuple):
    """Whether the condition holds, and the figures in a line.

    `counted` are the passages that it was put to; `failing` are the documents of which it holds,
    with the amount of each in words, where it is asked of each.
    """

    gate: Gate
    is_failed: bool
    said: str
    counted: pl.DataFrame
    failing: Mapping[str, str] = {}


def amount_of(gate: Gate, counts: Counts) -> float:
    """What is compared of a document, or of all: a fraction of characters, a number of passages."""
    if not gate.of_number:
        return share_of(counts, gate.kind)["share"]
    numbers = {"guessed": counts["guess_spans"], "recalled": counts["recall_spans"]}
    numbers["reproduced"] = sum(numbers.values())
    numbers["near"] = numbers["recalled"] + (counts.get("near_recall_spans") or 0)
    return numbers[gate.kind]


def judge(gate: Gate, record: Record, passages: pl.DataFrame, baseline: Path | None) -> Judged:
    """Put the condition to an audit; with `baseline` to what its passages did not have.

    Raises UserError: the audit did not look for what is asked, or `baseline` is no audit.
    DamagedDataError: it cannot be read.
    """
    rows: Sequence[Counts] = record["documents"]
    new, beside = "", _unchecked(record)
    if baseline is not None:
        if gate.kind == "near":
            raise UserError("--baseline: near copies have none. Choose recalled.")
        older, before = read_verdicts(baseline)
        passages = new_parts(passages, before)
        beside += _in_common(record, older, baseline)
        rows = [count_document(row["document"], row, passages) for row in record["documents"]]
        new = "new "
    if gate.kind == "near" and "near" not in record["summary"]:
        raise UserError("--fail-if near: near copies were not looked for here. Choose recalled.")
    if gate.in_each:
        names = [row["document"] for row in record["documents"]]
        every = dict(zip(names, (amount_of(gate, row) for row in rows), strict=True))
        found = {name: gate.say(n, new) for name, n in every.items() if gate.holds(n)}
        name, most = max(every.items(), key=lambda one: one[1])
        where = f", the most, in {name}" if most else ""
        said = f"{gate.say(most, new)}{where}; {gate.allowed}{beside}"
        if found:
            too_many = f"{len(found):,} of {plural(len(rows), 'document')}"
            said = f"{too_many} {'has' if len(found) == 1 else 'have'} too much: {said}"
        return Judged(gate, bool(found), said, passages, found)
    whole, share = amount_of(gate, overall(rows)), None
    if not gate.of_number and baseline is None:
        share = estimate_of(share_of(record["summary"], gate.kind))
    said = f"{gate.say(whole, new, share)}, {gate.allowed}{beside}"
    return Judged(gate, gate.holds(whole), said, passages)


def _unchecked(record: Record) -> str:
    """How many documents nobody asked, which no condition can see."""
    n = len(record["skipped"]) + sum(row["is_too_short"] for row in record["documents"])
    whole = len(record["skipped"]) + len(record["documents"])
    return f"; not checked: {n:,} of {plural(whole, 'document')}, unread or too short" if n else ""


def new_parts(passages: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """What passages have that no passage of an older audit with the same verdict has: rows of them.

    By words, wherever they stand now: documents are edited and renamed, and a passage ends a few
    words further on after every training. Known are runs of 8 words that an older passage has, or
    a whole passage that is shorter. What is left of a passage that is known in part is new from 16
    words in a row on. One without words (spaces, line ends) is known if such a one was there.
    """
    older: dict[str, list[str]] = {
        str(verdict): part["text"].to_list() for (verdict,), part in before.group_by("verdict")
    }
    runs = {
        verdict: {run for text in texts for run in _runs(text.split())}
        for verdict, texts in older.items()
    }
    rows = []
    for row in passages.iter_rows(named=True):
        verdict, text = row["verdict"], row["text"]
        for start, end in _unknown(text, older.get(verdict, []), runs.get(verdict, set())):
            place = {"start": row["start"] + start, "end": row["start"] + end}
            rows.append({**row, **place, "text": text[start:end]})
    return pl.DataFrame(rows, schema=passages.schema)


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[at : at + _RUN]) for at in range(len(words) - _RUN + 1))


def _unknown(
    text: str, older: Sequence[str], runs: set[tuple[str, ...]]
) -> Iterator[tuple[int, int]]:
    """Ranges of characters of a passage that are new."""
    found = list(_WORD.finditer(text))
    words = [one[0] for one in found]
    if not words:
        known = text in older
    elif len(words) < _RUN:
        known = any(f" {' '.join(words)} " in f" {' '.join(one.split())} " for one in older)
    else:
        covered = [False] * len(words)
        for at, run in enumerate(_runs(words)):
            if run in runs:
                covered[at : at + _RUN] = [True] * _RUN
        known = any(covered)
        for is_covered, part in groupby(range(len(words)), key=covered.__getitem__):
            places = list(part)
            if known and not is_covered and len(places) >= _EDGE:
                yield found[places[0]].start(), found[places[-1]].end()
    if not known:
        yield 0, len(text)


def _in_common(record: Record, older: Record, baseline: Path) -> str:
    """How many documents the baseline has too, by name or text; a wrong one has none."""
    if older["key"] == record["key"] and older["date"] == record["date"]:
        return f"; {baseline} is this very audit, beside which nothing is new"
    known = {one[key] for one in older["documents"] for key in ("document", "sha256")}
    if any(one["document"] in known or one["sha256"] in known for one in record["documents"]):
        return ""
    return no_common(plural(len(record["documents"]), "document"), baseline)


def no_common(whole: str, baseline: Path) -> str:
    """What to add where a baseline holds nothing of what is judged."""
    return f"; none of the {whole} is in {baseline}: is it the right baseline?"
