"""What the verb audit prints: shares, a verification, the gate's answer and its exit status."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from mnemoscope.audit.summary import Gate
    from mnemoscope.audit.verify import Verification

__all__ = ["judge", "print_record", "print_verification", "write_junit"]

_GATE_FAILED = 3


def print_verification(folder: Path, found: "Verification") -> None:
    """Say what does not hold, and leave with status 3 if anything does not."""
    for line in [*found.problems, *found.notes]:
        print(line)
    print(f"{folder}: {found.n_hold} of {found.n_spans} passages hold.")
    if found.problems:
        n = len(found.problems)
        print(f"{folder} does not hold: {n} problem{'' if n == 1 else 's'}, named above.")
        raise typer.Exit(_GATE_FAILED)


def print_record(out: Path, record: dict[str, Any]) -> None:
    """Say what was not asked, the shares, and where the audit is."""
    for row in record["documents"]:
        if row["is_too_short"]:
            print(f"{row['document']}: shorter than one window, not asked.")
    for row in record["skipped"]:
        print(f"{row['document']}: not read: {row['reason']}")
    whole = record["summary"]
    documents = f"{whole['documents']} document{'' if whole['documents'] == 1 else 's'}"
    print(
        f"{documents}, {whole['characters']:,} characters: "
        f"{_share(whole['reproduced'])} reproduced, {_share(whole['guessed'])} guessed "
        f"({_passages(whole['guess_spans'])}), {_share(whole['recalled'])} recalled "
        f"({_passages(whole['recall_spans'])})."
    )
    print(f"In {out / 'audit.html'}, spans.parquet and audit.json. Open the first in a browser.")


def write_junit(path: Path, out: Path, record: dict[str, Any]) -> None:
    """Write the JUnit report of an audit."""
    from mnemoscope.atomic_write import write_text
    from mnemoscope.audit.junit import junit_xml
    from mnemoscope.parquet import read_parquet

    write_text(path, junit_xml(record, read_parquet(out / "spans.parquet")))
    print(f"Wrote {path}.")


def _passages(n: int) -> str:
    return f"{n:,} passage{'' if n == 1 else 's'}"


def _share(share: dict[str, float]) -> str:
    return f"{100 * share['share']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def judge(gate: "Gate", record: dict[str, Any]) -> None:
    """Leave with status 3 if the condition holds."""
    if not gate.is_failed(record["summary"]):
        print(f"Passed ({gate.kind} {_share(record['summary'][gate.kind])}): not {gate.text}.")
        return
    print(f"Failed: {gate.text} ({_share(record['summary'][gate.kind])}).")
    raise typer.Exit(_GATE_FAILED)
