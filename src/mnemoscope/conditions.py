"""Conditions of gates, such as `recalled > 0.5%`: a measure, a sign, and a number with its unit."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import isclose
from operator import ge, gt
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

from mnemoscope.errors import UserError, nearest
from mnemoscope.stats import Estimate
from mnemoscope.words import first_names, first_words, plain_figure, plural

if TYPE_CHECKING:
    import polars as pl

SHORT, UNDRAWN = "shorter than one window", "none of its windows was drawn"
"""How the reason begins why a document that was read was not asked."""
_NAMED = 3  # documents that were not checked
_IT = {False: "it", True: "them"}
_MOST_DIGITS = 12
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write."""
_COMPARE: dict[str, Callable[[float, float], bool]] = {">": gt, ">=": ge}


TO_DO = (
    "What to do: look for copies of these texts in the training data (an audit with --corpus "
    "TRAINING names them), take them out, train again from {}, and audit again."
)
"""What to do where a gate fails; it lacks from where."""


class Measures(NamedTuple):
    """What a condition can be put to: kinds of a unit, such as a passage, and what shares are of.

    `said` names kinds where their name is no word of a sentence.
    """

    kinds: tuple[str, ...]
    unit: str
    whole: str
    examples: str
    said: Mapping[str, str] = {}
    has_each: bool = False  # of documents
    elsewhere: Mapping[str, str] = {}  # kinds that another verb has, and what to do


class Gate(NamedTuple):
    """A condition, such as ``recalled > 0.5%``.

    `limit` is a fraction, or a number of units if `of_number`; `in_each` document, or in all.
    """

    text: str
    kind: str
    sign: str
    limit: float
    of_number: bool
    in_each: bool
    measures: Measures

    def holds(self, amount: float) -> bool:
        """Whether it is beyond the limit."""
        return _COMPARE[self.sign](_sign(amount, self.limit), 0)

    def say(self, amount: float, new: str = "", share: Estimate | None = None) -> str:
        """An amount in words: `3 new passages recalled`, `2.8 % recalled`.

        `share` is the one of all, with its interval.
        """
        if self.of_number:
            n = plural(int(amount), f"{new}{self.measures.unit}")
        else:
            n = self.say_share(share or Estimate(amount)) + (" newly" if new else "")
        return f"{n} {self.measures.said.get(self.kind, self.kind)}"

    @property
    def allowed(self) -> str:
        """What passes, in words: `at most 0.5 % allowed`."""
        n = int(self.limit)
        each = " in each document" if self.in_each else ""
        if self.limit == 0 or (self.of_number and n == 1 and self.sign == ">="):
            return f"none allowed{each}"
        limit = str(n) if self.of_number else f"{100 * self.limit:.12g} %"
        least = "fewer than" if self.of_number else "less than"
        return f"{'at most' if self.sign == '>' else least} {limit} allowed{each}"

    def say_share(self, share: Estimate) -> str:
        """A share with so many digits that what is read is beyond the limit where the share is."""
        value, limit = share.value or 0.0, 100 * self.limit
        shown = (round(100 * value, digits) for digits in range(1, _MOST_DIGITS))
        wanted = _sign(100 * value, limit)
        digits = next((n for n, one in enumerate(shown, 1) if _sign(one, limit) == wanted), 1)
        return plain_figure(value, share.low, share.high, digits=digits)


class GateResult(NamedTuple):
    """Whether a condition holds, and the figures: in a line, and as numbers.

    `value` is compared with the limit: of all, or the largest of any document. `n_compared` are the
    documents, items or windows that it was put to, `unread` the documents that nobody could ask,
    each with the reason; `unchecked` is the part of `said` about them.
    `counted` are the passages (items, windows) that count; `failing` are the documents of which it
    holds, with the amount of each in words, where it is asked of each. `is_strict`: what is unread
    fails too. `baseline`: how the older result compares, where there is one.
    `undecided`: how many passages and which share the condition leaves out because it cannot be
    told of them; None where that is no question. `near`: the same of near copies. `copies`: beside
    a baseline the near copies that are new. `swapped`: whether model and reference, or texts and
    control, look swapped. `drawn`: how many of all windows were asked, where a draw left some out.
    `advice`: what the line of a gate that passes ends with, by the kind that it advises a condition
    on; `unseen`: behind it, what was not looked at, and the command that does. `to_do`: what to do
    where it holds, and `further` the rest, of which a build's log has `audit`, a command, alone.
    `most_in`: documents with the most of it, and the amount in words, the worst first.
    """

    gate: Gate
    is_failed: bool
    said: str
    counted: "pl.DataFrame"
    value: float
    n_compared: int
    unread: Mapping[str, str] = {}
    unchecked: str = ""
    failing: Mapping[str, str] = {}
    is_strict: bool = False
    baseline: Mapping[str, Any] | None = None
    undecided: Mapping[str, Any] | None = None
    near: Mapping[str, Any] | None = None
    copies: "pl.DataFrame | None" = None
    swapped: bool = False
    drawn: Mapping[str, int] | None = None
    advice: Mapping[str, str] = {}
    unseen: str = ""
    to_do: str = ""
    further: str = ""
    audit: str = ""
    most_in: Mapping[str, str] = {}

    def strictly(self) -> "GateResult":
        """The same where what nobody asked fails: a document, or in each of them a window.

        What makes a pass void fails too (`is_void`).
        """
        is_failed = self.is_failed or any(self._open())
        return self._replace(is_strict=True, is_failed=is_failed)

    @property
    def is_void(self) -> bool:
        """Whether a pass says nothing."""
        return any(self._void())

    @property
    def is_only_strict(self) -> bool:
        """Whether it fails although the condition does not hold."""
        return self.is_failed and not self.gate.holds(self.value)

    def _open(self) -> Iterator[tuple[str, str]]:
        """What `--strict` fails for, each with what to do about it."""
        if n := len(self.unread):
            is_asked = any(one.startswith((SHORT, UNDRAWN)) for one in self.unread.values())
            were = f"{plural(n, 'document')} {'was' if n == 1 else 'were'} not"
            said = f"{were} {'asked' if is_asked else 'read'}: {first_names([*self.unread])}"
            each = [f"{name}: {why}" for name, why in self.unread.items()][:_NAMED]
            if n > _NAMED:
                each.append(f"--junit FILE gives the reasons of all {n:,}.")
            files = [one for one, why in self.unread.items() if not why.startswith(UNDRAWN)]
            way = how_to_exclude(files) if len(files) == n else "of the documents"
            yield said, f"What to do: {' '.join(each)} Or leave {_IT[n > 1]} out {way}."
        if self.gate.in_each and self.drawn is not None:
            n, whole = self.drawn["windows"], self.drawn["of"]
            how = f"watch anew, into another folder, with --most {whole} (in Python most={whole})"
            yield f"{n:,} of {whole:,} windows were drawn", f"What to do: {how}."
        yield from self._void()

    def _void(self) -> Iterator[tuple[str, str]]:
        """Of these what makes a pass say nothing."""
        older = self.baseline or {}
        if older.get("swapped"):
            yield (
                f"{older['folder']} was made later than what is judged, and repeats more",
                f"What to do: if {older['folder']} is of the later model, name each in the place "
                "of the other; if it is of the earlier one and was only asked again, ask what is "
                "judged again too (--redo).",
            )
        if self.swapped:
            yield (
                "roles look swapped",
                "What to do: if you swapped the two, run it again with each in its place.",
            )
        if self.near and self.near["would_fail"]:
            wanted = f"--fail-if '{self.gate.text.replace(self.gate.kind, 'near', 1)}'"
            yield "it would fail with near copies", f"What to do: put {wanted} beside it."

    @property
    def next_step(self) -> str:
        """What to do where it fails."""
        if self.is_only_strict:
            return " ".join(to_do for _, to_do in self._open())
        return (self.to_do + self.further) * self.is_failed

    @property
    def line(self) -> str:
        """The whole of it, as the last line of the command says it."""
        said, of = self.said, self.gate.text
        if self.is_only_strict:
            of, said = "--strict", self.reason
        word, end = "Failed" if self.is_failed else "Passed", "" if said[-1:] == "?" else "."
        first = "" if self.is_failed else self.unchecked  # what was not asked comes first
        said = said.replace(first, "") if first else said
        more = [] if self.is_failed else filter(None, [*self.advice.values(), self.unseen])
        return " ".join([f"{word} ({of}){first}: {said}{end}", *more])

    @property
    def reason(self) -> str:
        """Why it fails where only `--strict` does, and what was found."""
        why = "; ".join(said for said, _ in self._open())
        said = self.said.replace(self.unchecked, "")
        return f"{why}. {said[0].upper()}{said[1:]}"

    def as_json(self) -> Mapping[str, Any]:
        """What `--json` has of a condition, under `gate`."""
        gate = self.gate
        return {
            "text": gate.text,
            "failed": self.is_failed,
            "said": self.said,
            "value": self.value,
            "sign": gate.sign,
            "limit": gate.limit,
            "unit": gate.measures.unit if gate.of_number else "share",
            "in_each": gate.in_each,
            "failing": [*self.failing],
            "most_in": [*self.most_in],
            "compared": self.n_compared,
            "unread": len(self.unread),
            "strict": self.is_strict,
            "baseline": self.baseline,
            "undecided": self.undecided,
            "near": self.near,
            "swapped": self.swapped,
            "drawn": self.drawn,
            "to_do": self.next_step,
        }


def how_to_exclude(names: Sequence[str]) -> str:
    """How documents are left out; a row of a table is no file, which a flag could name.

    >>> how_to_exclude(["texts/short.txt"]), how_to_exclude(["table.csv#3"])
    ('(--exclude texts/short.txt)', 'of the documents')
    """
    if any("#" in one for one in names):
        return "of the documents"
    flags = " ".join(f"--exclude {shlex.quote(one)}" for one in names)
    return f"({flags if len(names) <= _NAMED else '--exclude PATTERN'})"


def to_do_of(judged: Sequence[GateResult]) -> list[str]:
    """What to do where any fails, each step once."""
    return [*dict.fromkeys(one.next_step for one in judged if one.next_step)]


def judge_all(
    gates: Sequence[Gate], judge: Callable[[Gate], GateResult], *, strict: bool
) -> list[GateResult]:
    """What each condition says; advice that another condition follows is left out."""
    results = [judge(gate) for gate in gates]
    has = {one.kind for one in gates}
    results = [
        one._replace(advice={kind: said for kind, said in one.advice.items() if kind not in has})
        for one in results
    ]
    results = [*(one._replace(unseen="") for one in results[:-1]), *results[-1:]]
    return [one.strictly() for one in results] if strict else results


class Shown(NamedTuple):
    """Text that a condition counts: where it stands, and its words."""

    place: str
    text: str


_SHOWN, _BEGINNING = 3, 60  # texts in the log of a build, and characters of each


def build_log(
    judged: Sequence[GateResult],
    shown: Sequence[Shown],
    page: Path,
    folder: Path,
    *,
    handing_over: str = "",
    verbose: bool = False,
) -> Iterator[str]:
    """What the log of a failing build says: what failed, the worst of it, where, and what to do.

    `shown` is what the conditions count, the worst first; `page` has all, and `folder` is what was
    judged. `handing_over` is what to do instead for who does not train. With `verbose` the whole of
    what to do.
    """
    for one in sorted(judged, key=lambda one: not one.is_failed):
        yield one.line.replace(one.unchecked, "") if one.is_failed else one.line
    yield from worst_said(shown, judged[0].gate.measures.unit)
    yield f"All of it, with the evidence: {page}"
    failed = [one for one in judged if one.is_failed]
    is_named = any(one.is_only_strict for one in failed)
    if said := next((one.unchecked for one in failed if one.unchecked and not is_named), ""):
        said = said.removeprefix("; ")
        yield f"{said[0].upper()}{said[1:]}."
    steps = to_do_of(judged)
    if shown and not verbose:
        steps = next(([one.to_do, one.audit] for one in failed if one.to_do), [])
        steps = [one for one in steps if one]
    yield from steps
    if shown and steps:
        give = handing_over or f"give {page}, which holds the texts, to whoever does."
        yield f"If you do not train this model: {give}"
    if shown:
        yield (
            f"If it may write this: --baseline {shlex.quote(str(folder))} lets pass what is known, "
            "in a later run into another folder."
        )


def worst_said(shown: Sequence[Shown], unit: str) -> Iterator[str]:
    """The worst of what conditions count, a line each; nothing where there is none.

    Of texts that repeat words of another one stands for all.
    """
    distinct = [*_distinct(shown)]
    if shown:
        said = plural(len(shown), unit)
        said = f"the worst {_SHOWN} of {said}" if len(distinct) > _SHOWN else said
        if n := len(shown) - len(distinct):
            said += f", of which {n:,} repeat{'s' * (n == 1)} words of another"
        yield f"What the model repeats of the documents ({said}):"
    for place, text in distinct[:_SHOWN]:
        yield f"  {place}: {first_words(text, _BEGINNING)}"


_RUN = 8  # words in a row


def _distinct(shown: Sequence[Shown]) -> Iterator[Shown]:
    """Texts of which less than half the runs of words stand in one before; a short one nowhere."""
    known, lines = set[tuple[str, ...]](), list[str]()
    for one in shown:
        words = re.findall(r"\w+", one.text.lower())
        runs = [tuple(words[at : at + _RUN]) for at in range(len(words) - _RUN + 1)]
        line = f" {' '.join(words)} "
        is_short = bool(words) and not runs and any(line in other for other in lines)
        if not is_short and (not runs or 2 * sum(run in known for run in runs) < len(runs)):
            yield one
        known.update(runs)
        lines.append(line)


_WORST = 10  # documents of which a result says how much


def most_said(
    gate: Gate, amounts: Mapping[str, float], shown: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Amounts in words of documents, the worst first: of those with any, and of those that fail.

    None fail of a condition on all documents.
    """
    worst = sorted((one for one, n in amounts.items() if n), key=lambda one: -amounts[one])
    failing = [one for one in worst if gate.in_each and gate.holds(amounts[one])]
    return {one: shown[one] for one in worst[:_WORST]}, {one: shown[one] for one in failing}


def each_said(
    gate: Gate, most_in: Mapping[str, str], failing: Mapping[str, str], n: int, none: str
) -> str:
    """The line of a condition on each of `n` documents; `none` is said where none has any."""
    top = next(iter(most_in), None)
    said = f"{none} in any document" if top is None else f"most in {top} ({most_in[top]})"
    if failing:
        named = f" ({first_names([*failing])})" if len(failing) > 1 else ""
        has = "has" if len(failing) == 1 else "have"
        said = f"{len(failing):,} of {plural(n, 'checked document')}{named} {has} too much, {said}"
    return f"{said}; {gate.allowed}"


class Failure(NamedTuple):
    """Why a test of a JUnit report failed: `kind` is what was counted, or `unread`."""

    kind: str
    said: str
    to_do: str = ""


class Case(NamedTuple):
    """A test of a JUnit report: why it failed or was skipped, and what stands in its output."""

    name: str
    failure: Failure | None = None
    skipped: str | None = None
    output: str | None = None


def junit_suite(
    name: str,
    properties: Mapping[str, str],
    judged: Sequence[GateResult],
    cases: Sequence[Case],
    lines: Mapping[str, str] = {},
) -> str:
    """A JUnit report; each condition on all is a test of its own, before the others.

    Where it fails, its output names the documents with most and their `lines`. Every condition is
    a property too, with what was found. Skipped tests are, with `--strict`, failed ones of the type
    `unread`. Characters that XML 1.0 forbids are written as U+FFFD.
    """
    properties = {**properties, **{one.gate.text: one.line for one in judged}}
    if any(one.is_strict for one in judged):
        cases = [_strictly(one) if one.skipped else one for one in cases]
    is_void = [one.is_strict and one.is_void for one in judged]
    every = zip(judged, is_void, strict=True)
    wanted = ((one, void) for one, void in every if void or not one.gate.in_each)
    cases = [*(_of_all(one, void, lines) for one, void in wanted), *cases]
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(f"mnemoscope {name}"),
        tests=str(len(cases)),
        failures=str(sum(one.failure is not None for one in cases)),
        errors="0",
        skipped=str(sum(one.skipped is not None for one in cases)),
    )
    named = ElementTree.SubElement(suite, "properties")
    for key, value in properties.items():
        ElementTree.SubElement(named, "property", name=key, value=_clean(value))
    room = f"mnemoscope.{name.partition(' ')[0]}"
    for one in cases:
        own = ElementTree.SubElement(suite, "testcase", classname=room, name=_clean(one.name))
        if one.skipped is not None:
            ElementTree.SubElement(own, "skipped", message=_clean(one.skipped))
        if one.failure is not None:
            kind, said, to_do = one.failure
            failure = ElementTree.SubElement(own, "failure", type=kind, message=_clean(said))
            failure.text = _clean(to_do) or None
        if one.output is not None:
            ElementTree.SubElement(own, "system-out").text = _clean(one.output)
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'


def _strictly(case: Case) -> Case:
    return case._replace(failure=Failure("unread", f"--strict: {case.skipped}"), skipped=None)


def _of_all(judged: GateResult, is_void: bool, lines: Mapping[str, str]) -> Case:
    gate, to_do = judged.gate, judged.next_step
    said = f"{gate.text}: {judged.reason if judged.is_only_strict else judged.said}"
    is_failed = is_void or gate.holds(judged.value)
    found = (f"{one}: {n}{lines.get(one, '')}" for one, n in judged.most_in.items())
    output = "\n".join(found) if gate.holds(judged.value) else ""
    failure = Failure(gate.kind, said, to_do) if is_failed else None
    return Case(gate.text, failure, output=output or None)


def failure_of(judged: Sequence[GateResult], name: str) -> Failure | None:
    """Why a document fails: every condition on each document that holds of it; None if none."""
    found = [one for one in judged if name in one.failing]
    said = (f"{one.gate.text}: {one.failing[name]}, {one.gate.allowed}" for one in found)
    return Failure(found[0].gate.kind, "; ".join(said), found[0].next_step) if found else None


def quoted(text: str) -> str:
    """A text as it stands, each line behind a bar."""
    return indent(text, "    | ", lambda _: True)


def lacking(n: int, whole: int, unit: str, baseline: object) -> str:
    """What to say of a baseline that holds `n` of all that are judged; empty if it holds all."""
    if not n:
        return f"none of the {plural(whole, unit)} is in {baseline}: is it the right baseline?"
    if n == whole:
        return ""
    more = whole - n
    return f"{plural(more, unit)} of {whole:,} {'is' if more == 1 else 'are'} not in {baseline}"


def check_baseline(baseline: Path, folder: Path | None) -> None:
    """Refuse a baseline that is the folder that is judged."""
    if folder is not None and baseline.resolve() == folder.resolve():
        raise UserError(
            f"--baseline {baseline}: the folder that is judged, beside which nothing is new, so it "
            "never fails. Keep the older result in another folder."
        )


def refuse_same(baseline: object, date: str | None = None) -> None:
    """Refuse a baseline that is what is judged (UserError)."""
    of = f" (of {date})" if date else ""
    raise UserError(
        f"--baseline {baseline}: a copy of what is judged{of}, beside which nothing is new, so it "
        "never fails. Name the result of an earlier model, or make this one anew in another folder."
    )


Step = tuple[str, int] | None
"""The training that a model is of, and its step there; None where its name says none."""


def compared(
    baseline: object,
    unit: str,
    *,
    dates: tuple[str | None, str | None],
    is_same: bool,
    n_both: int,
    n_all: int,
    more: str = "",
    steps: tuple[Step, Step] = (None, None),
    repeats_more: bool = False,
) -> tuple[dict[str, Any], str]:
    """How a baseline compares with what is judged: for `--json`, and what a gate's line adds.

    `dates` are the baseline's and that of what is judged, `n_both` units of all `n_all` stand in
    both; `more` is said between the date and what the baseline lacks. `steps` and `repeats_more`
    are as `later_said` has them. UserError: it `is_same`.
    """
    if is_same:
        refuse_same(baseline, dates[0])
    later, swapped = later_said(baseline, dates, steps, repeats_more=repeats_more)
    said = [later, more, lacking(n_both, n_all, unit, baseline)]
    named = unit.split()[-1]
    counts = {f"{named}s_in_both": n_both, f"{named}s_only_here": n_all - n_both}
    facts = {"folder": str(baseline), "swapped": swapped} | counts
    return facts, "".join(f"; {one}" for one in said if one)


class Counted(NamedTuple):
    """What a condition is put to: all rows of a result, and those of them that count.

    `share` is that of all with its interval, where it is known.
    """

    record: Mapping[str, Any]
    every: "pl.DataFrame"
    counted: "pl.DataFrame"
    share: Estimate | None = None


def judge_rows(
    gate: Gate,
    own: Counted,
    on: Sequence[str],
    older: tuple[Path, Counted] | None,
) -> GateResult:
    """Put a condition to rows; beside an `older` result to those that do not count there.

    Rows are the same where the columns `on` are.
    """
    counted, share, new, beside, older_is = own.counted, own.share, "", "", None
    if older is not None:
        (baseline, then), new, share = older, "new ", None
        older_is, beside = compared(
            *(baseline, gate.measures.unit),
            dates=(then.record["date"], own.record["date"]),
            is_same={**then.record} == {**own.record},
            n_both=own.every.join(then.every, on=on, how="semi", nulls_equal=True).height,
            n_all=own.every.height,
        )
        counted = counted.join(then.counted, on=on, how="anti", nulls_equal=True)
    n = counted.height if gate.of_number else counted.height / own.every.height
    said = f"{gate.say(n, new, None if gate.of_number else share)}, {gate.allowed}{beside}"
    return GateResult(gate, gate.holds(n), said, counted, n, own.every.height, baseline=older_is)


def unchecked(names: Sequence[str], whole: int) -> str:
    """What a gate's line adds where some of all documents could not be asked; names up to three."""
    of = f"{len(names):,} of {plural(whole, 'document')}"
    return f"; not checked: {of}, unread or too short ({first_names(names)})" if names else ""


def later_said(
    baseline: object,
    dates: tuple[str | None, str | None],
    steps: tuple[Step, Step] = (None, None),
    *,
    repeats_more: bool = False,
) -> tuple[str, bool]:
    """That a baseline comes after what is judged, empty if not; and whether the two look swapped.

    Both pairs are the baseline's and that of what is judged. A date (ISO) says when a model was
    asked, not when it was trained. So they look swapped only where the baseline was made later and
    `repeats_more`, and no step of one training says that it is the earlier model.

    >>> later_said("old", ("2026-02", "2026-01"), (("run", 5), ("run", 9)), repeats_more=True)
    ('', False)
    >>> later_said("old", ("2026-02", "2026-01"), (("run", 9), ("run", 5)))
    ('old is of step 9, what is judged of step 5', False)
    """
    (then, now), (before, after) = dates, steps
    is_later = then is not None and now is not None and then > now
    said = f"{baseline} was made later ({then}) than what is judged ({now})" if is_later else ""
    if before and after and before[0] == after[0] and before[1] != after[1]:
        if before[1] < after[1]:
            return "", False
        said = f"{baseline} is of step {before[1]:,}, what is judged of step {after[1]:,}"
    return said + ", and repeats more" * (bool(said) and repeats_more), is_later and repeats_more


def parse_gate(text: str, measures: Measures) -> Gate:
    """Read a condition: a measure, `>` or `>=`, a number with its unit, and `in doc` for each one.

    Raises UserError: anything else, a number without a unit too.

    >>> items = Measures(("recalled",), "item", "items", "'recalled > 1%'")
    >>> parse_gate("recalled > 0.5%", items).limit, parse_gate("recalled > 3 items", items).limit
    (0.005, 3.0)
    """
    pattern = rf"(\w+)? *(>=|>) *([0-9]+(?:\.[0-9]+)?) *(%|{measures.unit}s?)?(?: +(in doc))?"
    match = re.fullmatch(pattern, text.strip())
    kinds = " or ".join([", ".join(measures.kinds[:-1]), measures.kinds[-1]]).removeprefix(" or ")
    is_read = match and (measures.has_each or not match[5])
    if match is None or not is_read or match[1] not in (None, *measures.kinds):
        hint = nearest(match[1], measures.kinds) if match and is_read and match[1] else ""
        hint = measures.elsewhere.get(match[1] or "", hint) if match else _bare(text, measures)
        hint = _below(text, measures) or _mended(text, measures) or hint or _word_of(text, measures)
        hint = hint or _unit_of(text, measures) or _unquoted(text)
        raise UserError(
            f"--fail-if '{text}': not understood.{hint} Write for example {measures.examples} "
            f"({kinds}; > or >={'; in doc: in any one of them' if measures.has_each else ''})."
        )
    kind, sign, number, unit = match[1], match[2], float(match[3]), match[4]
    each = " in doc" if match[5] else ""
    is_all = number > 100 or (number == 100 and sign == ">")
    if is_all and (unit == "%" or (unit is None and not number.is_integer())):
        raise UserError(f"--fail-if '{text}': more than all {measures.whole}, so it never fails.")
    said = f"{kind or 'recalled'} {sign if number else '>'}"
    if unit is None:
        ways = [] if is_all else [f"'{said} {match[3]}%{each}' (of the {measures.whole})"]
        if 0 < number < 1:  # a share as a program writes it
            share = f"{100 * number:.12g}%"
            ways.insert(0, f"'{said} {share}{each}' for {share} of the {measures.whole}")
        if number.is_integer():
            ways.append(f"'{said} {plural(int(number), measures.unit)}{each}'")
        raise UserError(f"--fail-if '{text}': {match[3]} of what? Write {', or '.join(ways)}.")
    if unit != "%" and not number.is_integer():
        raise UserError(f"--fail-if '{text}': {measures.unit}s are counted. Give a whole number.")
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
    return Gate(text.strip(), kind, sign, limit, unit != "%", match[5] is not None, measures)


def _bare(text: str, measures: Measures) -> str:
    """The whole condition, where it is only how much; else empty."""
    each = "( in doc)?" if measures.has_each else ""
    pattern = rf"([1-9][0-9]* *{measures.unit}s?|[0-9]+(\.[0-9]+)? *%){each}"
    if not re.fullmatch(pattern, text.strip()):
        return ""
    kind = "recalled" if "recalled" in measures.kinds else measures.kinds[0]
    return f" Did you mean '{kind} {'>' if '%' in text else '>='} {text.strip()}'?"


_SLIPS = {
    r"=>|≥": ">=",
    r"(\d),(\d{3})\b": r"\1\2",
    r"(\d),(\d)": r"\1.\2",
    r" ?per ?cent\b": "%",
    r"\s+(in|per)\s+((each|every|any|a)\s+)?doc(ument)?s?$": " in doc",
}
"""What is written in the place of a sign, a number or a unit, and what is meant."""


def _mended(text: str, measures: Measures) -> str:
    """A condition that could be meant, where one is written nearly so; else empty."""
    meant = _without_slips(text.strip())
    if meant != text.strip():
        with suppress(UserError):
            parse_gate(meant, measures)
            return f" Did you mean '{meant}'?"
    return ""


def _without_slips(text: str) -> str:
    for wrong, right in _SLIPS.items():
        text = re.sub(wrong, right, text, flags=re.IGNORECASE)
    return text


def _below(text: str, measures: Measures) -> str:
    """That a condition says what fails, where one says what passes; else empty."""
    if "<" not in text:
        return ""
    meant = _without_slips(text.strip().replace("<=", ">").replace("<", ">="))
    said = " It says what fails, which is above a limit: write "
    with suppress(UserError):
        parse_gate(meant, measures)
        return f"{said}'{meant}'."
    return f"{said}> or >=."


def _unquoted(text: str) -> str:
    """What lacks where there is no sign: a shell may have taken it for the name of a file.

    A text with a blank was in quotes.
    """
    if re.search("[<>=]", text):
        return ""
    if " " in text.strip():
        return " It lacks > or >= and a limit."
    return (
        " It lacks > and a limit: put all of it in quotes, for without them a shell takes > and "
        "what follows for a file."
    )


def _word_of(text: str, measures: Measures) -> str:
    """That a kind has another name in a condition, where one names it as results do; else empty."""
    words = " ".join(re.split("[<>=]", text)[0].split())
    named = measures.said.items() if " " in words else ()
    found = (kind for kind, said in named if words in said)
    return "".join(f" '{words}' is written {kind}." for kind in found)


_UNITS = {"passage": "audit", "window": "watch", "item": "items"}


def _unit_of(text: str, measures: Measures) -> str:
    """Which verb counts in the unit of a condition, where it is not this one; else empty."""
    found = (one for one in _UNITS if one != measures.unit and re.search(rf"\b{one}s?\b", text))
    said = " '{0}s' is a word of 'mnemoscope {1}'; here {2}s are counted."
    return "".join(said.format(one, _UNITS[one], measures.unit) for one in found)


def _sign(value: float, limit: float) -> int:
    """Whether a share is above (1), at (0) or below (-1) a limit, but for the last digits."""
    return 0 if isclose(value, limit, rel_tol=1e-12) else 1 if value > limit else -1


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
