"""What an audit is to other programs: SARIF for editors and code hosts, JUnit for builds."""

import re
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

import polars as pl

from mnemoscope.audits.gate import TO_DO_HERE, held_in, new_copies, new_parts
from mnemoscope.audits.near import TABLE
from mnemoscope.audits.passages import (
    in_order,
    numbered,
    of_each_document,
    right_of,
    shares_said,
    whole_passages,
    wordings_said,
)
from mnemoscope.audits.records import (
    SARIF,
    AuditRecord,
    Sarif,
    read_audit_record,
    read_near,
    read_sarif,
    read_verdicts,
)
from mnemoscope.audits.rule import GUESS, RECALL, UNDECIDED, VERDICTS
from mnemoscope.audits.verdict import LEARNED, error_rate
from mnemoscope.columns import schema_of
from mnemoscope.conditions import SHORT, Case, GateResult, Shown, failure_of, junit_suite, quoted
from mnemoscope.data.formats import table_ending
from mnemoscope.data.hub import parse_hub_name
from mnemoscope.errors import UserError
from mnemoscope.version import __version__
from mnemoscope.words import from_word, line_ranges, lines_said, lines_words, plural

_SOURCE = "https://arxiv.org/abs/2508.02573"
_HELP = (
    "Shown the text before this passage, the model writes the passage (by default at least 29 of "
    "every 32 tokens right, each in its place). The verdict "
    "recall says that it does not follow from that text: no pattern goes on, and few of its tokens "
    "stand there already. That is evidence that the model learned these words, from this text or "
    "another that holds them.",
    "Was the model meant to be trained on this document? If not, find where the training data "
    "got it. "
    + TO_DO_HERE
    + " If the passage is a common one, such as a licence, compare with a model that cannot "
    "have seen the document. audit.html shows the evidence of each passage, token by "
    "token; mnemoscope audit verify FOLDER repeats it.",
)


def sarif_rule(name: str, short: str, full: str, to_do: str) -> Sarif:
    """A rule of a log: what a finding is, in a line and in whole, and what to do about it."""
    return {
        "id": re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower(),
        "name": name,
        "shortDescription": {"text": short},
        "fullDescription": {"text": full},
        "help": {"text": f"{full}\n\n{to_do}", "markdown": f"{full}\n\n**What to do.** {to_do}"},
        "helpUri": _SOURCE,
        "defaultConfiguration": {"level": "warning"},
        "properties": {"tags": ["memorization", "language-models"]},
    }


_RULE = sarif_rule(
    "RecalledPassage", "The model repeats this passage, and its prompt did not show it.", *_HELP
)


_NEAR = sarif_rule(
    "NearCopy",
    "The model writes nearly this passage, and its prompt did not show it.",
    "Shown the text before this passage, the model writes nearly the passage: words are inserted, "
    "left out or replaced, or lines end elsewhere. The rule says that it does not follow from that "
    "text, and it matches no other place of the documents nearly as much; no reference was asked. "
    "That is evidence that the model learned these words, or nearly these.",
    _HELP[1],
)


class Finding(NamedTuple):
    """What a log says of one place: `location` is a physical or logical one of the standard.

    `rule_id` is None where the first rule of the log is meant.
    """

    text: str
    location: Sarif
    properties: dict[str, str]
    rule_id: str | None = None


def sarif_of(
    rules: Sequence[Mapping[str, Any]], properties: Mapping[str, str], findings: Iterable[Finding]
) -> Sarif:
    """A SARIF log of findings under its rules.

    Source: OASIS, Static Analysis Results Interchange Format 2.1.0.
    """
    driver = {
        "name": "mnemoscope",
        "version": __version__,
        "informationUri": _SOURCE,
        "rules": [*rules],
    }
    results = [
        {
            "ruleId": one.rule_id or rules[0]["id"],
            "level": "warning",
            "message": {"text": f"{one.text}."},
            "locations": [one.location],
            "properties": one.properties,
        }
        for one in findings
    ]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "properties": properties,
                "results": results,
            }
        ],
    }


def with_levels(log: Mapping[str, Any], judged: Iterable[GateResult]) -> Sarif:
    """A log in which what a condition failed for is an error; all else stays a warning.

    GitHub fails the check of a pull request for new errors alone. Near copies are errors where the
    condition counts them, and what an older result knew is none.
    """
    failed = [one for one in judged if one.is_failed and not one.is_only_strict]
    failed = [one for one in failed if one.gate.kind not in ("guessed", "undecided")]
    (run,) = log["runs"]

    def is_error(result: Mapping[str, Any]) -> bool:
        place = result["locations"][0].get("physicalLocation", {}).get("artifactLocation", {})
        return result.get("baselineState", "new") == "new" and any(
            (result["ruleId"] != _NEAR["id"] or one.gate.kind == "near")
            and (not one.gate.in_each or place.get("uri") in map(address_of, one.failing))
            for one in failed
        )

    results = [{**one, "level": "error"} if is_error(one) else one for one in run["results"]]
    return {**log, "runs": [{**run, "results": results}]}


class Lines(NamedTuple):
    """Where a finding stands: its characters, and its lines from 1, the last one included."""

    start: int
    end: int
    first: int
    last: int


def lines_of(log: Mapping[str, Any], rules: Sequence[str] = ()) -> dict[str, list[Lines]]:
    """Where the findings of an audit's log stand, by the addresses of documents that are files.

    Of all rules or of these. A row of a table is no file: its findings have no region.
    """
    found: dict[str, list[Lines]] = {}
    for one in log["runs"][0]["results"]:
        place = one["locations"][0]["physicalLocation"]
        uri, region = place["artifactLocation"]["uri"], place.get("region")
        if region is not None and (not rules or one["ruleId"] in rules):
            start, last = region["charOffset"], region["endLine"]
            last -= region["endColumn"] == 1 and last > region["startLine"]  # it ends with the line
            lines = Lines(start, start + region["charLength"], region["startLine"], last)
            found.setdefault(uri, []).append(lines)
    return found


def recalled_lines(log: Mapping[str, Any]) -> dict[str, list[tuple[int, int]]]:
    """Lines on which something is recalled, as ranges by addresses of documents; ends included."""
    found = lines_of(log, [_RULE["id"]])
    return {uri: line_ranges((one.first, one.last) for one in own) for uri, own in found.items()}


def beside_baseline(
    log: Mapping[str, Any],
    older: Mapping[str, Any],
    is_new: Iterable[bool],
    is_gone: Iterable[bool],
) -> Sarif:
    """A log with the `baselineState` of its results, and those of an older one that are gone."""
    (run,), (before,) = log["runs"], older["runs"]
    states = ["new" if one else "unchanged" for one in is_new]
    states += ["absent" if one else "" for one in is_gone]
    every = zip([*run["results"], *before["results"]], states, strict=True)
    results = [{**one, "baselineState": state} for one, state in every if state]
    return {**log, "runs": [{**run, "results": results}]}


def beside_by_key(
    log: Mapping[str, Any],
    older: Mapping[str, Any],
    keys: Sequence[Hashable],
    older_keys: Sequence[Hashable],
) -> Sarif:
    """As `beside_baseline`, of results that are the same where their keys are."""
    mine, theirs = set(keys), set(older_keys)
    is_new, is_gone = (one not in theirs for one in keys), (one not in mine for one in older_keys)
    return beside_baseline(log, older, is_new, is_gone)


def row_place(where: str | None, row: Mapping[str, Any]) -> Sarif:
    """Where a row of a table stands: its `line`, else the table with its `row` as the fragment."""
    if where is None or not (table_ending(Path(where)) or parse_hub_name(where)):
        return {}
    line = row["line"]
    place = {"uri": address_of(where if line else f"{where}#{row['row']}")}
    region = {"region": {"startLine": line}} if line else {}
    return {"physicalLocation": {"artifactLocation": place, **region}}


def date_and_verdict(record: Mapping[str, Any]) -> dict[str, str]:
    """What a log or a JUnit report says of a result with a date and a sentence."""
    return {"date": record["date"], "verdict": record["sentence"]}


def sarif_log(
    record: AuditRecord,
    frame: pl.DataFrame,
    texts: Mapping[str, str],
    near: pl.DataFrame | None = None,
) -> Sarif:
    """Make a SARIF log of the passages with recalled text, then near copies; guesses are none.

    Lines and columns count from 1, columns in characters; line ends are those of the text.
    """
    lines = {
        name: [0, *(place + 1 for place, character in enumerate(text) if character == "\n")]
        for name, text in texts.items()
    }
    copies = {row["document"]: row["text_file"] for row in record["documents"]}
    findings = [
        Finding(_message(row, copies.get(row["document"])), _location(row, lines), _tokens(row))
        for row in whole_passages(frame)
        if row["verdict"] == RECALL
    ]
    findings += [
        Finding(f"Near copy, {_near_said(row)}", _location(row, lines), {}, _NEAR["id"])
        for row in recalled_copies(near).rows(named=True)
    ]
    return sarif_of([_RULE, _NEAR], about(record), findings)


def recalled_copies(near: pl.DataFrame | None) -> pl.DataFrame:
    """Near copies that are called recall; none where they were not looked for."""
    return pl.DataFrame(schema=schema_of(TABLE)) if near is None else near.filter(verdict=RECALL)


def _near_said(row: Mapping[str, Any]) -> str:
    place = f"characters {row['start']} to {row['end']}"
    return f"{place}: {row['matched']} of {row['tokens']} tokens match; {row['reason']}"


def sarif_beside(folder: Path, passages: pl.DataFrame, baseline: Path | None) -> Sarif:
    """`audit.sarif` of a finished audit, with what is new, unchanged and gone since an older one.

    As it is without an older one.

    A passage is new where less than half of a recalled piece of it was there (`gate.new_parts`),
    and gone where no word of any is left; a near copy is new likewise (`gate.new_copies`).
    Errors as `records.read_verdicts`.
    """
    if baseline is None:
        return read_sarif(folder)
    if not (baseline / SARIF).is_file():
        raise UserError(
            f"{baseline / SARIF}: missing, and needed for --sarif only. Copy it, or leave out "
            "--sarif."
        )
    record, (other, before) = read_audit_record(folder), read_verdicts(baseline)
    held, held_here = held_in(record, other, before), held_in(other, record, passages)
    now, then = read_sarif(folder), read_sarif(baseline)
    own, older = (
        frame.with_columns(passage=pl.Series(numbered(frame), dtype=pl.Int64))
        for frame in (passages, before)
    )
    near, known = (recalled_copies(read_near(at)) for at in (folder, baseline))
    new_near = {*new_copies(near, older, known, grown=False)["copy"]}
    gone_near = {*new_copies(known, own.clear(), near, grown=False)["copy"]}
    own, older = own.filter(verdict=RECALL), older.filter(verdict=RECALL)
    new = {*new_parts(own, older, grown=False, held=held)["passage"]}
    gone = new_parts(older, own, grown=False, held=held_here)
    kept = {*older.join(gone, on=["passage", "text"], how="anti")["passage"]}
    each, earlier = (frame["passage"].unique(maintain_order=True) for frame in (own, older))
    is_new = [one in new for one in each]
    is_new += [one in new_near for one in range(near.height)]
    is_gone = [one not in kept for one in earlier]
    is_gone += [one in gone_near for one in range(known.height)]
    return beside_baseline(now, then, is_new, is_gone)


def about(record: AuditRecord) -> dict[str, str]:
    """What an audit is, and what it says, in a few lines."""
    facts = {"case": record["case"], "operator": record["operator"], "date": record["date"]}
    verdict, unread = record["verdict"], record.get("unread")
    said = {"verdict": verdict["sentence"], "error rate": error_rate(verdict)}
    said |= {"error rate here": unread["sentence"]} if unread else {}
    return {name: one for name, one in {**facts, **said}.items() if one is not None}


def _tokens(row: Mapping[str, Any]) -> dict[str, str]:
    """How many tokens of its window model and reference wrote; not of one that is no control."""
    is_control = row["reference_says"] is not None
    beside = right_of(row, "reference_score") if is_control else None
    said = {"model writes": right_of(row), "reference writes": beside}
    return {name: f"{one} tokens" for name, one in said.items() if one}


def _message(row: Mapping[str, Any], copy: str | None) -> str:
    """What is said of a passage; `copy` is the file whose lines are meant, if no text itself."""
    where = f" (lines of {copy})" if copy else ""
    if "#" in address_of(row["document"]):  # which has no region
        where = f" (from character {row['start']} of the row's text)"
    found = f"{plural(row['end'] - row['start'], 'character')}{where}"
    mixed = shares_said(row)
    said = [LEARNED, f"of these {mixed}" if mixed else "", row["reason"], wordings_said(row)]
    return f"Recalled, {found}: {'; '.join(filter(None, said))}"


def _location(row: Mapping[str, Any], lines: Mapping[str, list[int]]) -> Sarif:
    place: Sarif = {"artifactLocation": {"uri": address_of(row["document"])}}
    if "#" in place["artifactLocation"]["uri"]:  # a row: its lines are not those of the file
        return {"physicalLocation": place}
    region = {"charOffset": row["start"], "charLength": row["end"] - row["start"]}
    for end in ("start", "end"):
        begins = lines[row["document"]]
        line = bisect_right(begins, row[end])
        region |= {f"{end}Line": line, f"{end}Column": row[end] - begins[line - 1] + 1}
    return {"physicalLocation": place | {"region": region}}


def address_of(document: str) -> str:
    """The URI of a document; a row of a table is the table, with the row as its fragment."""
    source, _, row = document.rpartition("#")
    is_row = row.isdecimal() and (table_ending(Path(source)) or parse_hub_name(source))
    name, fragment = (source, f"#{row}") if is_row else (document, "")
    path = PurePosixPath(name)
    return (path.as_uri() if path.is_absolute() else quote(name)) + fragment


def junit_xml(
    record: AuditRecord,
    frame: pl.DataFrame,
    judged: Sequence[GateResult],
    near: pl.DataFrame | None = None,
    log: Mapping[str, Any] | None = None,
) -> str:
    """Make a JUnit report that fails where a condition of a gate does.

    Each document is a test, which fails if a condition on each document holds of it; the passages
    called recall, those of which it cannot be told, and near copies stand in its output; beside a
    baseline also how many are known. `log` is the audit's, which has the lines of what is recalled.
    Documents that were too short or not read are skipped tests.
    """
    whole, frame = frame, max((one.counted for one in judged), key=len, default=frame)
    is_compared = any(one.baseline is not None for one in judged)
    near = next((one.copies for one in judged if one.copies is not None), near)
    cases, copies = [], recalled_copies(near).to_dicts()
    places = {} if log is None else lines_of(log)
    for row in record["documents"]:
        name = row["document"]
        own = whole_passages(frame.filter(document=name))
        at = places.get(address_of(name), []) if places else []
        lines = [*_found_of(own, at)]
        for one in copies:
            if one["document"] == name:
                lines += [f"near copy, {_near_said(one)}", quoted(one["text"])]
        if is_compared:
            lines = [*_known_said(whole_passages(whole.filter(document=name)), own), *lines]
        skipped = SHORT if row["is_too_short"] else None
        cases.append(Case(name, failure_of(judged, name), skipped, "\n".join(lines) or None))
    cases += (
        Case(one["document"], skipped=f"not read: {one['reason']}") for one in record["skipped"]
    )
    at_lines = {} if log is None else recalled_lines(log)
    said = {
        row["document"]: f"; recalled on {lines_said(found)}"
        for row in record["documents"]
        if at_lines and (found := at_lines.get(address_of(row["document"])))
    }
    return junit_suite(f"audit of {record['model']['name']}", about(record), judged, cases, said)


_COUNTED = {"recalled": [RECALL], "near": [RECALL], "undecided": [UNDECIDED], "guessed": [GUESS]}


def counted_passages(
    judged: Sequence[GateResult], near: pl.DataFrame | None
) -> list[Mapping[str, Any]]:
    """Passages for which conditions hold, in the order of the pages; near copies where they count.

    The first is of the document with most of what fails.
    """
    passages: dict[tuple[str, int, int], Mapping[str, Any]] = {}
    copies: dict[tuple[str, int, int], Mapping[str, Any]] = {}
    failed = [one for one in judged if one.gate.holds(one.value)]
    for one in failed:
        verdicts = _COUNTED.get(one.gate.kind, VERDICTS)
        own = [row for row in whole_passages(one.counted) if row["verdict"] in verdicts]
        nearly = recalled_copies(near if one.copies is None else one.copies)
        nearly = nearly if one.gate.kind == "near" else nearly.clear()
        for found, rows in ((passages, own), (copies, nearly.rows(named=True))):
            for row in rows:
                if not one.failing or row["document"] in one.failing:
                    found[row["document"], row["start"], row["end"]] = row
    names = dict.fromkeys(name for one in failed for name in one.most_in)
    ordered = in_order(passages.values())
    ordered += sorted(copies.values(), key=lambda row: -row["matched"])
    return of_each_document(ordered, names)


def worst_passages(
    judged: Sequence[GateResult], near: pl.DataFrame | None, log: Mapping[str, Any]
) -> list[Shown]:
    """`counted_passages` with their places; `log` is the audit's, which has the lines."""
    places, shown = lines_of(log), []
    for row in counted_passages(judged, near):
        name, start, end = row["document"], row["start"], row["end"]
        where = _lines_at(places.get(address_of(name), []), start, end)
        text = from_word(row["text"]) if start else row["text"]
        shown.append(Shown(f"{name}, {where or f'characters {start} to {end}'}", text))
    return shown


def _lines_at(places: Sequence[Lines], start: int, end: int) -> str:
    """The lines of the findings that stand among these characters, in words; empty: none does."""
    over = [one for one in places if one.start < end and start < one.end]
    return lines_words(over[0].first, over[-1].last) if over else ""


def _known_said(
    passages: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """How many of the recalled passages of a document the baseline has, and how many it has not."""
    n, n_new = (sum(one["verdict"] == RECALL for one in rows) for rows in (passages, new))
    if n:
        yield f"recalled passages: {max(n - n_new, 0):,} known, {n_new:,} new"


def _found_of(passages: Sequence[Mapping[str, Any]], places: Sequence[Lines]) -> Iterator[str]:
    """Lines on the passages of a document that are recalled, and on those that cannot be told.

    `places` are its findings. The reasons of passages stand in `audit.html` and the log.
    """
    kinds = (
        (RECALL, "recalled passage", f": {LEARNED}"),
        (UNDECIDED, "passage", " of which it cannot be told: rule and reference disagree"),
    )
    for verdict, noun, meaning in kinds:
        own = [one for one in passages if one["verdict"] == verdict]
        if own:
            yield f"{plural(len(own), noun)}{meaning}"
        for one in own:
            lines = _lines_at(places, one["start"], one["end"])
            lines = f", {lines}" if lines else ""
            mixed = f" ({said})" if (said := shares_said(one)) else ""
            yield f"characters {one['start']} to {one['end']}{lines}{mixed}"
            yield quoted(one["text"])
