"""Conditions on an audit or on items: checked before the work, judged and written down after it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from mnemoscope.cli.options import Answer, GateFlags
from mnemoscope.errors import UserError, printable

if TYPE_CHECKING:
    from mnemoscope.audits.gate import Asked, Gate, Judged

_GATE_FAILED = 3


class Gated(NamedTuple):
    """What a gate needs of results of one kind; `found` is an `Audit`, or `Items`."""

    asked: "Asked"
    check: Callable[[Path], None]  # refuses a folder without such a result
    judge: "Callable[[Gate, Any, Path | None], Judged]"
    junit: "Callable[[Any, Judged | None], str]"
    sarif: Callable[[Any, Path], dict[str, Any]]  # beside a baseline


def gated_audits() -> Gated:
    """Audits."""
    from mnemoscope.audits.exports import junit_xml, sarif_beside
    from mnemoscope.audits.gate import PASSAGES, judge
    from mnemoscope.audits.records import check_is_audit

    return Gated(
        PASSAGES,
        check_is_audit,
        lambda gate, made, baseline: judge(gate, made.record, made.passages, baseline),
        lambda made, judged: junit_xml(made.record, made.passages, judged),
        lambda made, baseline: sarif_beside(made.folder, made.passages, baseline),
    )


def gated_items() -> Gated:
    """Items."""
    from mnemoscope.audits.gate import ITEMS
    from mnemoscope.contamination import found

    return Gated(
        ITEMS, found.check_is_items, found.judge_items, found.items_junit, found.items_sarif_beside
    )


def read_gate(flags: GateFlags, of: Gated, *, needed: bool = False) -> "Gate | None":
    """The condition, if any, and whether what is asked for beside it can be read and written."""
    from mnemoscope.audits.gate import parse_gate

    if needed and flags.fail_if is None and flags.sarif is None:
        raise UserError(f"gate: no condition. Add --fail-if, such as {of.asked.examples}.")
    if flags.baseline is not None:
        if flags.fail_if is None and flags.sarif is None:
            raise UserError("--baseline: for what is new. Add --fail-if or --sarif.")
        of.check(flags.baseline)
    elif flags.sarif is not None:
        raise UserError(
            "--sarif: for what is new since an older result. Add --baseline; the log of all "
            "findings is in the folder."
        )
    for name, file in (("--junit", flags.junit), ("--sarif", flags.sarif)):
        if file is not None and not file.absolute().parent.is_dir():
            raise UserError(f"{name} {file}: no such folder. Make it first.")
        if file is not None and file.is_dir():
            raise UserError(f"{name} {file}: a folder. Name a file.")
    return None if flags.fail_if is None else parse_gate(flags.fail_if, of.asked)


def judge_found(
    found: Any, gate: "Gate | None", flags: GateFlags, of: Gated, answer: Answer
) -> None:
    """Write what build servers read, and leave with status 3 if the condition holds."""
    from mnemoscope.files import json_bytes, write_bytes, write_text

    judged = None if gate is None else of.judge(gate, found, flags.baseline)
    if flags.junit is not None:
        write_text(flags.junit, of.junit(found, judged))
        print(f"Wrote {flags.junit}.")
    if flags.sarif is not None and flags.baseline is not None:
        write_bytes(flags.sarif, json_bytes(of.sarif(found, flags.baseline)))
        print(f"Wrote {flags.sarif}.")
    if judged is None:
        return
    text = judged.gate.text
    answer.facts["gate"] = {"text": text, "failed": judged.is_failed, "said": judged.said}
    print(printable(f"{'Failed' if judged.is_failed else 'Passed'} ({text}): {judged.said}."))
    if judged.is_failed:
        raise typer.Exit(_GATE_FAILED)
