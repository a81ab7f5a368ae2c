"""Conditions on an audit or on items: checked before the work, judged and written down after it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mnemoscope.cli.options import GateFlags, JsonAnswer, judged
from mnemoscope.errors import UserError

if TYPE_CHECKING:
    from mnemoscope.audits.records import Sarif
    from mnemoscope.conditions import Gate, GateResult, Measures


class Gated(NamedTuple):
    """What a gate needs of results of one kind; `found` is an `Audit`, or `Items`."""

    measures: "Measures"
    check: Callable[[Path], None]  # refuses a folder without such a result
    judge: "Callable[[Gate, Any, Path | None], GateResult]"
    junit: "Callable[[Any, GateResult | None], str]"
    sarif: "Callable[[Any, Path], Sarif]"  # beside a baseline


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
    from mnemoscope.contamination import found

    return Gated(
        found.ITEMS,
        found.check_is_items,
        found.judge_items,
        found.items_junit,
        found.items_sarif_beside,
    )


def read_gate(
    flags: GateFlags, of: Gated, *, out: Path | None, needed: bool = False
) -> "Gate | None":
    """The condition, if any, and whether what is asked for beside it can be read and written.

    `out` is the folder that is judged.
    """
    from mnemoscope.conditions import parse_gate

    if needed and flags.fail_if is None and flags.sarif is None:
        raise UserError(f"gate: no condition. Add --fail-if, such as {of.measures.examples}.")
    if flags.baseline is not None:
        if flags.fail_if is None and flags.sarif is None:
            raise UserError("--baseline: for what is new. Add --fail-if or --sarif.")
        of.check(flags.baseline)
        if out is not None and flags.baseline.resolve() == out.resolve():
            raise UserError(
                f"--baseline {flags.baseline}: the folder that is judged, beside which nothing is "
                "new, so it never fails. Keep the older result in another folder."
            )
    elif flags.sarif is not None:
        raise UserError(
            "--sarif: for what is new since an older result. Add --baseline; the log of all "
            "findings is in the folder."
        )
    if flags.strict and flags.fail_if is None:
        raise UserError("--strict: for a gate. Add --fail-if.")
    if flags.strict and not of.measures.has_each:
        raise UserError("--strict: for documents; items that cannot be read end the command.")
    check_file("--junit", flags.junit)
    check_file("--sarif", flags.sarif)
    return None if flags.fail_if is None else parse_gate(flags.fail_if, of.measures)


def check_file(flag: str, file: Path | None) -> None:
    """Refuse a file that cannot be written."""
    if file is not None and not file.absolute().parent.is_dir():
        raise UserError(f"{flag} {file}: no such folder. Make it first.")
    if file is not None and file.is_dir():
        raise UserError(f"{flag} {file}: a folder. Name a file.")


def judge_found(
    found: Any, gate: "Gate | None", flags: GateFlags, of: Gated, answer: JsonAnswer
) -> None:
    """Write what build servers read, and leave with status 3 if the condition holds."""
    from mnemoscope.files import json_bytes, write_bytes, write_text

    judgement = None if gate is None else of.judge(gate, found, flags.baseline)
    if judgement is not None and flags.strict:
        judgement = judgement.strictly()
    if flags.junit is not None:
        write_text(flags.junit, of.junit(found, judgement))
        print(f"Wrote {flags.junit}.")
    if flags.sarif is not None and flags.baseline is not None:
        write_bytes(flags.sarif, json_bytes(of.sarif(found, flags.baseline)))
        print(f"Wrote {flags.sarif}.")
    if judgement is not None:
        judged(judgement, answer)
