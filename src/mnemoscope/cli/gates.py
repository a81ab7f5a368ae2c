"""Conditions on an audit or on items: checked before the work, judged and written down after it."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, NamedTuple

from typer import Exit

from mnemoscope.cli.options import GATE_FAILED, GateFlags, JsonAnswer, is_failed, judged
from mnemoscope.errors import UserError, printable

if TYPE_CHECKING:
    from mnemoscope.audits.gated import Kind
    from mnemoscope.audits.records import Sarif
    from mnemoscope.conditions import Gate, GateResult, Measures, Shown


class Gated(NamedTuple):
    """What a gate needs of audits, or of watches; all else that it judges is a `Kind`."""

    measures: "Measures"
    check: Callable[[Path], None]  # refuses a folder without such a result
    judge: "Callable[[Gate, Any, Path | None], GateResult]"
    junit: "Callable[[Any, Sequence[GateResult]], str]"
    sarif: "Callable[[Any, Path | None], Sarif]"  # beside a baseline, if there is one
    worst: "Callable[[Any, Sequence[GateResult]], list[Shown]]"  # what conditions hold for
    handing_over: Callable[[Path], str] = lambda _: ""  # for who does not train, where it fails


def gated_audits() -> Gated:
    """Audits."""
    from mnemoscope.audits.exports import junit_xml, sarif_beside, worst_passages
    from mnemoscope.audits.gate import PASSAGES
    from mnemoscope.audits.library import judge_audit
    from mnemoscope.audits.records import check_is_audit, read_near, read_sarif

    return Gated(
        PASSAGES,
        check_is_audit,
        judge_audit,
        lambda made, judged: junit_xml(
            *(made.record, made.passages, judged, read_near(made.folder), read_sarif(made.folder))
        ),
        lambda made, baseline: sarif_beside(made.folder, made.passages, baseline),
        lambda made, judged: worst_passages(
            judged, read_near(made.folder), read_sarif(made.folder)
        ),
        lambda folder: (
            f"{folder / 'audit.html'} holds the documents, also those of which nothing came out. "
            "To hand over pages without the texts: mnemoscope audit redact "
            f"{shlex.quote(str(folder))} -o shared"
        ),
    )


def gated_watch() -> Gated:
    """The last check of a training."""
    from mnemoscope.training.history import WINDOWS, check_holds_history

    def judge(gate: "Gate", history: Any, baseline: Path | None) -> "GateResult":
        from mnemoscope.flow.watch_gate import judge_latest

        return judge_latest(history, gate, baseline)

    def junit(history: Any, judged: "Sequence[GateResult]") -> str:
        from mnemoscope.flow.watch_gate import watch_junit

        return watch_junit(history, judged)

    def sarif(history: Any, baseline: Path | None) -> "Sarif":
        from mnemoscope.audits.watched import watch_sarif

        return watch_sarif(history, baseline)

    def worst(_: Any, judged: "Sequence[GateResult]") -> "list[Shown]":
        from mnemoscope.flow.watch_gate import worst_windows

        return worst_windows(judged)

    return Gated(WINDOWS, check_holds_history, judge, junit, sarif, worst)


def read_gate(
    flags: GateFlags,
    of: "Gated | Kind[Any]",
    *,
    out: Path | None,
    sources: Sequence[str] = (),
    needed: bool = False,
) -> "list[Gate]":
    """The conditions, if any, and whether what is asked for beside them can be read and written.

    `out` is the folder that is judged; `sources`, what is asked of, are looked for first.
    """
    from mnemoscope.conditions import check_baseline, parse_gate

    if sources:
        from mnemoscope.audits.documents import check_sources

        check_sources(sources)
    if needed and out is not None:
        of.check(out)
    if needed and not flags.fail_if and flags.sarif is None:
        raise UserError(f"gate: no condition. Add --fail-if, such as {of.measures.examples}.")
    if flags.baseline is not None:
        if not flags.fail_if and flags.sarif is None:
            raise UserError("--baseline: for what is new. Add --fail-if or --sarif.")
        of.check(flags.baseline)
        check_baseline(flags.baseline, out)
    elif flags.sarif is not None and not flags.fail_if:
        log = "; the log of all findings is in the folder" * (of.measures.unit != "window")
        raise UserError(
            f"--sarif: for what a gate fails for, or what is new. Add --fail-if or --baseline{log}."
        )
    if flags.strict and not flags.fail_if:
        raise UserError("--strict: for a gate. Add --fail-if.")
    if flags.strict and not of.measures.has_each:
        raise UserError("--strict: for documents; items that cannot be read end the command.")
    for flag, file in (("--junit", flags.junit), ("--sarif", flags.sarif)):
        check_file(flag, file, [one for one in (out, flags.baseline) if one is not None])
    return [parse_gate(one, of.measures) for one in dict.fromkeys(flags.fail_if or ())]


def check_file(flag: str, file: Path | None, results: Sequence[Path]) -> None:
    """Refuse a file that cannot be written, or that one of the folders of `results` needs."""
    if file is None:
        return
    place, folders = file.absolute().parent.resolve(), {one.resolve() for one in results}
    is_own = file.suffix in _OF_RESULTS or file.name in {f"{one}.sarif" for one in _WITH_SARIF}
    inside = {one / name for one in folders for name in _FOLDERS}
    if (is_own and place in folders) or not inside.isdisjoint((place, *place.parents)):
        name = "gate.xml" if flag == "--junit" else "gate.sarif"
        raise UserError(f"{flag} {file}: a name for the result itself. Choose another, as {name}.")
    if not place.is_dir() and place not in folders:
        raise UserError(f"{flag} {file}: no such folder as {place}. Make it first.")
    if file.is_dir():
        raise UserError(f"{flag} {file}: a folder. Name a file.")
    if place.is_dir():
        try:
            with TemporaryFile(dir=place):
                pass
        except OSError as error:
            why = f"nothing can be written into {place} ({error.strerror})"
            raise UserError(f"{flag} {file}: {why}. Name a file in another folder.") from None


_OF_RESULTS = {".html", ".json", ".parquet"}
_FOLDERS = ("texts", "parts", "study")  # of an audit
_WITH_SARIF = ("audit", "items", "forget", "images")


def say_plan(said: str, unasked: Sequence[str], gate: GateFlags, answer: JsonAnswer) -> None:
    """Say what a dry run found; with `--strict` it fails where the work would fail anyway."""
    from mnemoscope.conditions import how_to_exclude
    from mnemoscope.words import first_names, plural

    print(*map(printable, said.splitlines()), sep="\n")
    answer.facts["estimate"] = said
    if gate.strict and unasked:
        why = f"of {plural(len(unasked), 'document')} nothing would be asked"
        way = f"Mend {'it' if len(unasked) == 1 else 'them'}, or leave out"
        way = f"{way} {how_to_exclude(unasked)}."
        print(printable(f"Failed (--strict): {why}: {first_names(unasked)}. {way}"))
        raise Exit(GATE_FAILED)


def judge_found(
    found: Any,
    gates: "Sequence[Gate]",
    flags: GateFlags,
    of: "Gated | Kind[Any]",
    answer: JsonAnswer,
    results: "list[GateResult] | None" = None,
    page: Path | None = None,
    verbose: bool = False,
    **more: Any,
) -> None:
    """Write what build servers read, and leave with status 3 if a condition holds.

    `results` are those of `results_of`, where they are known; `page` shows all that is judged, and
    where it fails, the log is `build_log`.
    """
    from mnemoscope.conditions import build_log
    from mnemoscope.files import json_bytes, write_bytes, write_text

    results = results_of(found, gates, flags, of) if results is None else results
    said: list[str] = []
    if page is not None and isinstance(of, Gated) and is_failed(results):
        worst = of.worst(found, results)
        given = of.handing_over(found.folder)
        said += build_log(results, worst, page, found.folder, handing_over=given, verbose=verbose)
        print(*map(printable, said), sep="\n")
    if flags.junit is not None:
        write_text(flags.junit, of.junit(found, results))
        print(f"Wrote {flags.junit}.")
    if flags.sarif is not None:
        from mnemoscope.audits.exports import with_levels

        log = with_levels(of.sarif(found, flags.baseline), results)
        write_bytes(flags.sarif, json_bytes(log))
        print(f"Wrote {flags.sarif}.")
    if results:
        judged(results, answer, is_said=bool(said), **more)


def results_of(
    found: Any, gates: "Sequence[Gate]", flags: GateFlags, of: "Gated | Kind[Any]"
) -> "list[GateResult]":
    """What each condition says."""
    from mnemoscope.conditions import judge_all

    judge = lambda gate: of.judge(gate, found, flags.baseline)  # noqa: E731
    return judge_all(gates, judge, strict=flags.strict)


def judge_finished(folder: Path, flags: GateFlags, of: "Kind[Any]", answer: JsonAnswer) -> None:
    """Put conditions to a finished result, whose files must be as written; no model is loaded."""
    gates = read_gate(flags, of, needed=True, out=folder)
    judge_found(of.read(folder), gates, flags, of, answer)
