"""Conditions on a watch: put to its last check, and written down for build servers."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.conditions import (
    TO_DO,
    UNDRAWN,
    Case,
    Gate,
    GateResult,
    Shown,
    Step,
    compared,
    each_said,
    failure_of,
    junit_suite,
    most_said,
    quoted,
    unchecked,
)
from mnemoscope.errors import UserError
from mnemoscope.flow.watch import (
    KINDS,
    near_groups,
    reproduced_at_last,
    share_of,
    shares_of,
    swapped_said,
)
from mnemoscope.lm.hub import step_of
from mnemoscope.stats import Estimate
from mnemoscope.training.history import History, read_history
from mnemoscope.training.windows import CONTROL, GUESS, PLACE, RECALL, lines_of, place_of
from mnemoscope.words import line_ranges, lines_said, plural

_CLASSES = {"reproduced": "", "guessed": GUESS, "recalled": RECALL}
_NAMED = 20  # windows in a JUnit report

NOT_DRAWN = "windows that were not drawn"
"""The test of a JUnit report that they fail with `--strict`, under a condition on each document."""


def judge_latest(history: History, gate: Gate, baseline: Path | None = None) -> GateResult:
    """Put a condition to the last check, and say what was found.

    Shares are those of the page: of the windows of that class. What was kept out of training does
    not count, nor with a `baseline`, another history, a text that its last check reproduces too.
    Raises UserError: no such window is watched, or fewer than the condition asks for; no history.
    """
    step, name = history.steps[-1], _CLASSES[gate.kind]
    rows = history.joined().filter(pl.col("source") != CONTROL, step=step)
    rows = rows.filter(pl.col("class") == name) if name else rows
    which = f" that {KINDS[name]}" if name else ""
    if rows.is_empty():
        raise UserError(
            f"--fail-if {gate.kind}: none of the watched windows are such{which}. Choose "
            "reproduced, or watch other texts."
        )
    if gate.of_number and not gate.holds(rows.height):
        raise UserError(
            f"--fail-if '{gate.text}': {plural(rows.height, 'window')}{which} are watched, so "
            "it never fails. Ask for fewer."
        )
    known = history.windows.select("window", "text", *PLACE)
    name_of = pl.col("document").fill_null(pl.col("window"))
    rows = rows.join(known, on="window", maintain_order="left").with_columns(document=name_of)
    unread = dict(history.unread.iter_rows())
    unasked = [name for name, why in unread.items() if not why.startswith(UNDRAWN)]
    beside = f"; {history.drawn_said}" if history.drawn else ""
    lacks = unchecked(unasked, history.n_documents + len(unread))
    beside += lacks
    done, older_is = f" reproduced{history.counts_from}", None
    if baseline is not None:
        done += f" newly ({int(rows['is_memorized'].sum()):,} in all)"
        older = read_history(baseline).counting(history.threshold)
        rows, older_is, said = _new_since(rows, history, older, baseline)
        beside += said
    swapped = swapped_said(history)
    beside += f"; {swapped}" if swapped else ""
    figures: dict[str, Any] = {"baseline": older_is, "drawn": history.drawn}
    to_do, further, audit = _to_do(history, rows.filter("is_memorized"), gate)
    figures |= {"swapped": bool(swapped), "to_do": to_do, "further": further, "audit": audit}
    unseen = _unseen_said(history, gate, is_new=baseline is not None)
    figures["unseen"] = "" if swapped else unseen
    parts = {str(name): part for (name,), part in rows.group_by("document", maintain_order=True)}
    amounts = {one: _amount(gate, part) for one, part in parts.items()}
    shown = {one: f"{_amount_said(gate, part)}{which}{done}" for one, part in parts.items()}
    figures["most_in"], failing = most_said(gate, amounts, shown)
    at = f"in {history.names[step]}, " if step in history.names else f"at step {step:,}, the last, "
    if gate.in_each:
        none = f"none of {plural(rows.height, 'watched window')}{which}{done}"
        said = f"{at}{each_said(gate, figures['most_in'], failing, len(parts), none)}{beside}"
        most = max(amounts.values())
        found = rows.filter("is_memorized"), most, len(parts), unread, lacks, failing
        return GateResult(gate, bool(failing), said, *found, **figures)
    share = share_of(rows.join(near_groups(history.windows), on="window", maintain_order="left"))
    said = f"{at}{_amount_said(gate, rows, share)}{which}{done}, {gate.allowed}{beside}"
    value = _amount(gate, rows)
    found_of = rows.filter("is_memorized"), value, rows.height, unread, lacks
    return GateResult(gate, gate.holds(value), said, *found_of, **figures)


def _to_do(history: History, counted: pl.DataFrame, gate: Gate) -> tuple[str, str, str]:
    """What to do about windows that came out, what to know beside it, and which audit decides.

    Empty: there are none. From where to train again, but for those that can be guessed or came out
    before training.
    """
    if counted.is_empty():
        return "", "", ""
    if (counted["class"] == GUESS).all():
        own = history.windows.filter(pl.col("source") != CONTROL, pl.col("class") == RECALL).height
        is_asked = own and (not gate.of_number or gate.holds(own))
        wanted = gate.text.replace(gate.kind, RECALL.lower() + "ed", 1)
        how = f"Put the condition on recalled: --fail-if '{wanted}'."
        how = how if is_asked else "Watch texts that cannot be guessed."
        said = "What to do: what came out can be guessed from its text and shows no memory."
        return f"{said} {how}", "", ""
    came_out = history.checks.filter("is_memorized").join(counted, on="window", how="semi")
    has_base = not {*history.steps} <= history.names.keys()  # else they are numbered as given
    early = came_out.filter(step=0) if has_base else came_out.clear()
    later = came_out.join(early, on="window", how="anti")
    if later.is_empty():
        said = (
            "What to do: all of it came out at step 0, before training, so this training is not "
            "the cause. Begin with another model, or count only what is new (--baseline, the "
            "folder of a watch of the model that training began with)."
        )
        return said, "", ""
    first = min(later["step"].to_list())
    before = [step for step in history.steps if step < first]
    more = ""
    if early.height:
        more = f" {early.height:,} of {plural(counted.height, 'window')} came out at step 0, "
        more += f"before training, which is not {'its' if early.height == 1 else 'their'} cause."
    if not before:
        where = f"before {history.say_step(first)}, the first check, where some come out"
        return TO_DO.format(where), more, ""
    last = history.say_step(before[-1])
    exactly = "" if history.counts_from else ", and for every token exactly"
    more += f" A watch alone does not clear {last}: it asks at fewer places{exactly}. "
    audit = _audit_of(history, before[-1], "--strict", "--fail-if", "near >= 1 passage")
    audit = f"Audit {last}{audit}" if audit else ""
    where = f"{last}, the last check where none of these windows came out"
    return TO_DO.format(where), more + (audit or f"Audit {last}."), audit


def _audit_of(history: History, step: int, *gate: str) -> str:
    """The command that audits a checkpoint, behind a colon; empty where no audit reads the texts.

    A callback knows texts without their places: TEXTS stands for them.
    """
    of, words = "", history.audit.get(step)
    if not words and not history.command:
        place = history.folder.parent / f"checkpoint-{step}"
        is_there = (place / "config.json").is_file()
        words = (str(place) if is_there else "CHECKPOINT", "TEXTS")
        of = ", with your texts for TEXTS" if is_there else ", with your names for the capitals"
    if not words:
        return ""
    model = Path(words[2] if words[1:2] == ("--revision",) else words[0]).name
    return f"{of}: {shlex.join(('mnemoscope', 'audit', *words, '-o', f'audit-{model}', *gate))}"


def _unseen_said(history: History, gate: Gate, *, is_new: bool) -> str:
    """What a gate that passes did not look at, and the command that does.

    With the same condition, as an audit has it; not beside a baseline, which is a watch.
    """
    wanted = gate.text.replace("window", "passage")
    near = wanted.replace(gate.kind, "near", 1)
    conditions = [near] if gate.kind == "recalled" else [wanted, near]
    flags = (word for one in conditions for word in ("--fail-if", one))
    asked = [] if is_new else ["--strict", *flags]
    audit = _audit_of(history, history.steps[-1], *asked) or ": an audit of its texts."
    return f"Not looked at: what begins between its windows, and near copies. Both{audit}"


def worst_windows(judged: Sequence[GateResult]) -> list[Shown]:
    """Windows for which conditions hold; those of documents with many of them first."""
    found = [
        one.counted.filter(pl.col("document").is_in([*one.failing])) if one.failing else one.counted
        for one in judged
        if one.gate.holds(one.value)
    ]
    if not found:
        return []
    columns = ("window", "text", *PLACE)
    rows = pl.concat(one.select(columns) for one in found).unique("window", maintain_order=True)
    rows = rows.sort(pl.len().over("document"), descending=True, maintain_order=True)
    is_named = pl.col("document") != pl.col("window")  # of others `judge_latest` gives that name
    rows = rows.with_columns(pl.when(is_named).then("document"))
    return [Shown(place_of(row), row["text"]) for row in rows.iter_rows(named=True)]


def _new_since(
    rows: pl.DataFrame, history: History, older: History, baseline: Path
) -> tuple[pl.DataFrame, dict[str, Any], str]:
    """Rows in which nothing counts whose text another history's last check reproduces too.

    Beside them how that one compares, for `--json` and in words.
    """
    before, watched = reproduced_at_last(older)["text"], older.windows["text"]
    both = history, older
    shares = [
        reproduced_at_last(one).filter(pl.col("source") != CONTROL).height / one.n_watched
        for one in both
    ]
    is_new = pl.col("is_memorized") & ~pl.col("text").is_in(before.implode())
    n_both = int(rows["text"].is_in(watched.implode()).sum())
    prints = [one.last.get("fingerprint") for one in both]
    is_same_model = prints[0] == prints[1] is not None
    facts, said = compared(
        *(baseline, "watched window"),
        dates=(older.last.get("date"), history.last.get("date")),
        is_same=older.sums == history.sums,
        n_both=n_both,
        n_all=rows.height,
        more=f"{baseline} checked the same weights" if is_same_model else "",
        steps=(_step_of(older), _step_of(history)),
        repeats_more=shares[1] > shares[0],
    )
    facts |= {"step": older.steps[-1], "same_model": is_same_model}
    return rows.with_columns(is_memorized=is_new), facts, said


def _step_of(history: History) -> Step:
    """The training and step of the last check; a callback's is of the run that it names."""
    if name := [*(history.last.get("model") or ())]:
        return step_of(name[0], *name[2:])
    return None if history.steps[-1] in history.names else (history.run, history.steps[-1])


def _amount(gate: Gate, rows: pl.DataFrame) -> float:
    n = int(rows["is_memorized"].sum())
    return float(n) if gate.of_number else n / rows.height


def _amount_said(gate: Gate, rows: pl.DataFrame, share: Estimate | None = None) -> str:
    amount, of = _amount(gate, rows), plural(rows.height, "watched window")
    said = f"{amount:,.0f}" if gate.of_number else gate.say_share(share or Estimate(amount))
    return f"{said} of {of}"


def watch_junit(history: History, judged: Sequence[GateResult]) -> str:
    """A JUnit report: each condition is a test, and each checkpoint one with its counts.

    With a condition on each document these are tests too. The last checkpoint names the windows
    that count, and where they stand, so that a log says which text came out.
    """
    shares = shares_of(history.joined().join(near_groups(history.windows), on="window"))
    said: dict[int, list[str]] = {}
    for row in shares.sort("step", "source", "class").iter_rows(named=True):
        of = f"{plural(row['n'], 'window')} ({row['source']}) that {KINDS[row['class']]}"
        said.setdefault(row["step"], []).append(f"{row['memorized']:,} of {of} reproduced")
    counted = max((one.counted for one in judged), key=len, default=history.windows.clear())
    texts = counted.select("window").join(history.windows, on="window", maintain_order="left")
    at: dict[str, list[tuple[int, int]]] = {}
    for one in texts.iter_rows(named=True):
        if (lines := lines_of(one)) is not None:
            at.setdefault(one["document"], []).append(lines)
    found = {name: f"; on {lines_said(line_ranges(one))}" for name, one in at.items()}
    for one in texts.head(_NAMED).iter_rows(named=True):
        said[history.steps[-1]] += [place_of(one), quoted(one["text"])]
    if (n := texts.height - _NAMED) > 0:
        said[history.steps[-1]].append(f"... and {n:,} more")
    cases = [
        Case(history.names.get(step, f"step {step}"), output="\n".join(each))
        for step, each in said.items()
    ]
    if any(one.gate.in_each for one in judged):
        windows = history.windows.filter(pl.col("source") != CONTROL)
        names = windows.select(pl.col("document").fill_null(pl.col("window"))).to_series()
        cases += [Case(one, failure_of(judged, one)) for one in names.unique(maintain_order=True)]
        if history.drawn:
            cases.append(Case(NOT_DRAWN, skipped=f"not checked: {history.drawn_said}"))
    for name, reason in history.unread.iter_rows():
        cases.append(Case(name, skipped=f"not checked: {reason}"))
    drawn = {"drawn": history.drawn_said} if history.drawn else {}
    return junit_suite(f"watch of {history.run}", drawn, judged, cases, found)
