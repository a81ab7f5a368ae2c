"""Conditions under which an audit or items fail: a share or a number, in all or each document."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from math import isclose
from operator import ge, gt
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
from mnemoscope.errors import UserError, nearest
from mnemoscope.stats import Estimate
from mnemoscope.words import plain_figure, plural

_GATE = re.compile(r"(\w+)? *(>=|>) *([0-9]+(?:\.[0-9]+)?) *(%|passages?|items?)?(?: +(in doc))?")
_MOST_DIGITS = 12
_WORD = re.compile(r"\S+")
_RUN = 8  # words in a row that an older audit's passage has too: they are known
_EDGE = 16  # words; fewer between and beside known ones are an edge that moved, or an edit
_SAID = {kind: kind for kind in KINDS} | {"near": "recalled or nearly so"}
_COMPARE: dict[str, Callable[[float, float], bool]] = {">": gt, ">=": ge}


class Asked(NamedTuple):
    """What a condition can be put to: which measures there are, and of how many what is counted."""

    kinds: tuple[str, ...]
    unit: str  # what is counted
    whole: str  # what shares are of
    examples: str
    has_each: bool = False


PASSAGES = Asked(
    KINDS,
    "passage",
    "characters",
    "'recalled > 0.5%', 'recalled > 3 passages' or 'recalled >= 1 passage in doc'",
    has_each=True,
)
ITEMS = Asked(("recalled",), "item", "items", "'recalled > 1%' or 'recalled > 3 items'")


class Gate(NamedTuple):
    """A condition, such as ``recalled > 0.5%``.

    `limit` is a fraction, or a number of passages or items if `of_number`; `in_each` document, or
    in all.
    """

    text: str
    kind: str
    sign: str
    limit: float
    of_number: bool
    in_each: bool
    asked: Asked = PASSAGES

    def holds(self, amount: float) -> bool:
        """Whether it is beyond the limit."""
        return _COMPARE[self.sign](_sign(amount, self.limit), 0)

    def say(self, amount: float, new: str = "", share: Estimate | None = None) -> str:
        """An amount in words: `3 new passages recalled`, `2.8 % recalled`.

        `share` is the one of all, with its interval.
        """
        if self.of_number:
            n = plural(int(amount), f"{new}{self.asked.unit}")
        else:
            n = self.say_share(share or Estimate(amount)) + (" newly" if new else "")
        return f"{n} {_SAID[self.kind]}"

    @property
    def allowed(self) -> str:
        """What passes, in words: `at most 0.5 % allowed`."""
        n = int(self.limit)
        limit = str(n) if self.of_number else f"{100 * self.limit:.12g} %"
        least = "fewer than" if self.of_number else "less than"
        each = " in each document" if self.in_each else ""
        return f"{'at most' if self.sign == '>' else least} {limit} allowed{each}"

    def say_share(self, share: Estimate) -> str:
        """A share with so many digits that what is read is beyond the limit where the share is."""
        value, limit = share.value or 0.0, 100 * self.limit
        shown = (round(100 * value, digits) for digits in range(1, _MOST_DIGITS))
        wanted = _sign(100 * value, limit)
        digits = next((n for n, one in enumerate(shown, 1) if _sign(one, limit) == wanted), 1)
        return plain_figure(value, share.low, share.high, digits=digits)


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


def parse_gate(text: str, asked: Asked = PASSAGES) -> Gate:
    """Read a condition: a measure, `>` or `>=`, a number with its unit, and `in doc` for each one.

    Raises UserError: anything else, a number without a unit too.

    >>> parse_gate("recalled > 0.5%").limit, parse_gate("recalled > 3 passages in doc").in_each
    (0.005, True)
    """
    match = _GATE.fullmatch(text.strip())
    kinds = " or ".join([", ".join(asked.kinds[:-1]), asked.kinds[-1]]).removeprefix(" or ")
    units = (None, "%", asked.unit, f"{asked.unit}s")
    is_read = match and match[4] in units and (asked.has_each or not match[5])
    if match is None or not is_read or match[1] not in (None, *asked.kinds):
        hint = nearest(match[1], asked.kinds) if match and is_read and match[1] else ""
        raise UserError(
            f"--fail-if '{text}': not understood.{hint} Write for example {asked.examples} "
            f"({kinds}; > or >=)."
        )
    kind, sign, number, unit = match[1], match[2], float(match[3]), match[4]
    each = " in doc" if match[5] else ""
    is_all = number > 100 or (number == 100 and sign == ">")
    if is_all and (unit == "%" or (unit is None and not number.is_integer())):
        raise UserError(f"--fail-if '{text}': more than all {asked.whole}, so it never fails.")
    said = f"{kind or 'recalled'} {sign if number else '>'}"
    if unit is None:
        ways = [] if is_all else [f"'{said} {match[3]}%{each}' (of the {asked.whole})"]
        if number.is_integer():
            ways.append(f"'{said} {plural(int(number), asked.unit)}{each}'")
        raise UserError(f"--fail-if '{text}': {match[3]} of what? Write {', or '.join(ways)}.")
    if unit != "%" and not number.is_integer():
        raise UserError(f"--fail-if '{text}': {asked.unit}s are counted. Give a whole number.")
    if number == 0 and sign == ">=":
        unit = unit if unit == "%" else f" {unit}"
        raise UserError(
            f"--fail-if '{text}': nothing is less, so it always fails. Write "
            f"'{said} 0{unit}{each}'."
        )
    if kind is None:
        raise UserError(
            f"--fail-if '{text}': it does not say what is measured ({kinds}). Write for example "
            f"'recalled {' '.join(text.split())}'."
        )
    limit = number / 100 if unit == "%" else number
    return Gate(text.strip(), kind, sign, limit, unit != "%", match[5] is not None, asked)


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
    new = beside = ""
    if baseline is not None:
        if gate.kind == "near":
            raise UserError("--baseline: near copies have none. Choose recalled.")
        older, before = read_verdicts(baseline)
        passages, beside = new_parts(passages, before), _in_common(record, older, baseline)
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
    known = {one[key] for one in older["documents"] for key in ("document", "sha256")}
    if any(one["document"] in known or one["sha256"] in known for one in record["documents"]):
        return ""
    return no_common(plural(len(record["documents"]), "document"), baseline)


def no_common(whole: str, baseline: Path) -> str:
    """What to add where a baseline holds nothing of what is judged."""
    return f"; none of the {whole} is in {baseline}: is it the right baseline?"


def _sign(value: float, limit: float) -> int:
    """Whether a share is above (1), at (0) or below (-1) a limit, but for the last digits."""
    return 0 if isclose(value, limit, rel_tol=1e-12) else 1 if value > limit else -1
