"""Conditions under which an audit fails: a share or a number of passages, in all or in each."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import polars as pl

from mnemoscope.audits.records import AuditRecord, read_verdicts
from mnemoscope.audits.shares import (
    KINDS,
    Counts,
    count_document,
    estimate_of,
    number_of,
    overall,
    share_of,
)
from mnemoscope.conditions import Gate, GateResult, Measures
from mnemoscope.errors import UserError
from mnemoscope.words import plural

_WORD = re.compile(r"\S+")
_RUN = 8  # words in a row that an older audit's passage has too: they are known
_DECIDE = ("prefix", "suffix", "stride", "threshold", "patterns", "chat_template", "instruction")
"""Settings that decide which passages an audit has."""
_EDGE = 16  # words; fewer between and beside known ones are an edge that moved, or an edit
PASSAGES = Measures(
    KINDS,
    "passage",
    "characters",
    "'recalled > 0.5%', 'recalled > 3 passages' or 'recalled >= 1 passage in doc'",
    said={"near": "recalled or nearly so", "undecided": "of which it cannot be told"},
    has_each=True,
)


def amount_of(gate: Gate, counts: Counts) -> float:
    """What is compared of a document, or of all: a fraction of characters, a number of passages."""
    if not gate.of_number:
        return share_of(counts, gate.kind)["share"]
    return number_of(counts, gate.kind)


def judge(
    gate: Gate, record: AuditRecord, passages: pl.DataFrame, baseline: Path | None
) -> GateResult:
    """Put the condition to an audit; with `baseline` to what its passages did not have.

    Raises UserError: the audit did not look for what is asked, or `baseline` is no audit.
    DamagedDataError: it cannot be read.
    """
    rows: Sequence[Counts] = record["documents"]
    n_asked = sum(not row["is_too_short"] for row in record["documents"])
    n_unread = len(record["skipped"]) + len(rows) - n_asked
    whole_of = plural(len(record["skipped"]) + len(rows), "document")
    beside = f"; not checked: {n_unread:,} of {whole_of}, unread or too short" if n_unread else ""
    new = ""
    if baseline is not None:
        if gate.kind == "near":
            raise UserError("--baseline: near copies have none. Choose recalled.")
        older, before = read_verdicts(baseline)
        passages = new_parts(passages, before, grown=not gate.of_number)
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
        return GateResult(gate, bool(found), said, passages, most, n_asked, n_unread, found)
    whole, share = amount_of(gate, overall(rows)), None
    if not gate.of_number and baseline is None:
        share = estimate_of(share_of(record["summary"], gate.kind))
    in_all = "" if baseline is None else f" ({gate.say(amount_of(gate, record['summary']))} in all)"
    said = f"{gate.say(whole, new, share)}{in_all}, {gate.allowed}{beside}"
    return GateResult(gate, gate.holds(whole), said, passages, whole, n_asked, n_unread)


def new_parts(passages: pl.DataFrame, before: pl.DataFrame, *, grown: bool) -> pl.DataFrame:
    """What passages have that no passage of an older audit with the same verdict has: rows of them.

    By words, wherever they stand now: documents are edited and renamed, and a passage ends a few
    words further on after every training. Known are runs of 8 words that an older passage has, or
    a whole passage that is shorter. What is left of a passage that is known in part is new from 16
    words in a row on; without `grown`, which counts passages, not of one of which at least half the
    words are known: it is the older one, which now begins earlier or ends later. One without words
    (spaces, line ends) is known if such a one was there.
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
        known = older.get(verdict, []), runs.get(verdict, set())
        for start, end in _unknown(text, *known, grown=grown):
            place = {"start": row["start"] + start, "end": row["start"] + end}
            rows.append({**row, **place, "text": text[start:end]})
    return pl.DataFrame(rows, schema=passages.schema)


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[at : at + _RUN]) for at in range(len(words) - _RUN + 1))


def _unknown(
    text: str, older: Sequence[str], runs: set[tuple[str, ...]], *, grown: bool
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
        if not grown and 2 * sum(covered) >= len(words):
            return
        for is_covered, part in groupby(range(len(words)), key=covered.__getitem__):
            places = list(part)
            if known and not is_covered and len(places) >= _EDGE:
                yield found[places[0]].start(), found[places[-1]].end()
    if not known:
        yield 0, len(text)


def _in_common(record: AuditRecord, older: AuditRecord, baseline: Path) -> str:
    """What to add where a baseline is this audit, was asked otherwise or has no such document."""
    if older["key"] == record["key"] and older["date"] == record["date"]:
        return f"; {baseline} is this very audit, beside which nothing is new"
    now, then = record["settings"], older["settings"]
    prints = {one["model"]["fingerprint"] for one in (record, older)}
    is_same = len(prints) == 1 and None not in prints
    others = [f"{one} {then.get(one)}" for one in _DECIDE if then.get(one) != now.get(one)]
    said = f"; {baseline} audited the same model" if is_same else ""
    said += f"; {baseline} was made with {', '.join(others)}" if others else ""
    known = {one[key] for one in older["documents"] for key in ("document", "sha256")}
    if any(one["document"] in known or one["sha256"] in known for one in record["documents"]):
        return said
    return said + no_common(plural(len(record["documents"]), "document"), baseline)


def no_common(whole: str, baseline: Path) -> str:
    """What to add where a baseline holds nothing of what is judged."""
    return f"; none of the {whole} is in {baseline}: is it the right baseline?"
