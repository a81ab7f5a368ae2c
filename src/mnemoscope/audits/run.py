"""Make an audit: windows, passages, every question, then tables, pages and, last, `audit.json`.

A folder with `audit.json` holds a whole audit.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import polars as pl

from mnemoscope.audits.asking import Answer, Auditing, ModelRecord
from mnemoscope.audits.brief import REPORT, render_brief
from mnemoscope.audits.documents import Document, Reading
from mnemoscope.audits.exports import sarif_log
from mnemoscope.audits.page import render_page
from mnemoscope.audits.passages import (
    GROUNDS,
    join_passages,
    passage_table,
    span_schema,
    with_verdicts,
)
from mnemoscope.audits.questions import QUESTIONS, Question
from mnemoscope.audits.records import (
    ARTEFACT,
    FOUNDED,
    PARTS,
    RECORD,
    SARIF,
    SCHEMA_VERSION,
    AuditRecord,
    DocumentRow,
    Skipped,
    audit_store,
    changed_files,
    other_audit,
    prepare_folder,
    read_audit,
    read_audit_record,
)
from mnemoscope.audits.reference import apart
from mnemoscope.audits.scan import check_long_enough, count_windows, extend, scan_windows
from mnemoscope.audits.settings import AuditSettings, flag_of
from mnemoscope.audits.shares import Sizes, count_document, overall
from mnemoscope.audits.spans import spans_of
from mnemoscope.audits.tokens import Place
from mnemoscope.audits.verdict import verdict_of
from mnemoscope.errors import DamagedDataError, MissingError, UserError
from mnemoscope.files import json_bytes, made_folder
from mnemoscope.progress import say
from mnemoscope.store import Store, store_of_parts
from mnemoscope.study.folder import versions

_READERS = ("pypdf", "python-docx", "inscriptis")
ADDED = ("unread", "read")
"""Questions that may be added to a finished audit, since no verdict on a passage rests on them."""


def make_audit(
    audit: Auditing,
    reading: Reading,
    out: Path,
    *,
    command: Sequence[str] = (),
    redo: bool = False,
) -> AuditRecord:
    """Audit the documents of `reading`, which are the texts of `audit`; a stopped run goes on.

    To a finished audit that asked all but `ADDED` these are added, and nothing is asked again.

    Gives what `audit.json` holds. `command` is recorded; `redo` makes the audit again, and writes
    over one of other documents or settings. Raises UserError: another audit is in the folder, or no
    document is as long as a window.
    """
    prepare_folder(out)
    check_long_enough(audit)
    key = audit_key(audit)
    skipped = _skipped(reading)
    earlier = None if redo else _asked_less(out, audit, skipped)
    done = None if earlier else _finished_audit(out, key, audit, skipped, redo=redo)
    if done is not None:
        say(f"{out}: this audit is already there.")
        return done
    if audit.model.kind == "here":  # the answers of a service are kept each by itself
        audit.kept = made_folder(out / PARTS / key[:16])
    date = _founded(out, key, command)
    if earlier is not None:
        return _extended(out, key, date, audit, *earlier, command=command)
    audit.steps = ["passages", *audit.asked()]
    find_passages(audit)
    audit.apart = apart(audit)
    answers = ask_questions(audit)
    tables = {name: one.table for name, one in answers.items() if one.table is not None}
    facts = {name: dict(one.facts) for name, one in answers.items() if one.facts is not None}
    reference = audit.reference.facts().record if audit.reference else None
    beside: Any = facts.pop("alone", None)
    if reference is not None:
        reference = {**reference, "apart": audit.apart, "beside": beside}
    others = {"reference": reference, "cnn": None}
    model = audit.model.facts()
    record = {
        "schema": "mnemoscope audit",
        "schema_version": SCHEMA_VERSION,
        "key": key,
        "date": date,
        "case": audit.case,
        "operator": audit.operator,
        "command": _printable(command),
        "versions": _versions(),
        "model": model.record,
        **({"api": model.api} if model.api else {}),
        **others,
        "settings": audit.settings.model_dump(),
        "encoding": reading.encoding,
        **({"columns": dict(reading.columns)} if reading.columns else {}),
        **({"excluded": dict(reading.excluded)} if reading.excluded else {}),
        "documents": (rows := _document_rows(audit, tables)),
        "skipped": skipped,
        "summary": (summary := overall(rows)),
        "verdict": verdict_of(
            model.record["name"],
            reference,
            summary,
            audit.passages,
            facts.get("unread"),
            documents=rows,
        ),
        **facts,
    }
    _write(out, cast(AuditRecord, record), audit, tables)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return read_audit_record(out)


def _skipped(reading: Reading) -> list[Skipped]:
    return [{"document": one.name, "reason": one.reason} for one in reading.skipped]


def _printable(command: Sequence[str]) -> list[str]:
    return [one.encode("utf-8", "backslashreplace").decode() for one in command]


def _asked_less(
    out: Path, audit: Auditing, skipped: list[Skipped]
) -> tuple[AuditRecord, pl.DataFrame, list[str]] | None:
    """The finished audit that lacks nothing but some of `ADDED`, its passages, and what to ask."""
    if not (out / RECORD).is_file():
        return None
    try:
        record, passages = read_audit(out)
    except (DamagedDataError, UserError):  # of which `_finished_audit` says what it is
        return None
    lacking = [name for name in ADDED if name in audit.asked() and name not in record]
    less = audit.settings.model_copy(update={name: record["settings"][name] for name in lacking})
    is_it = (
        bool(lacking)
        and record["key"] == audit_key(replace(audit, settings=less))
        and (record["skipped"], record["versions"]) == (skipped, _versions())
        and not changed_files(out, record)
    )
    # What `read` says rests on the unread documents.
    again = [name for name in ADDED if name in lacking or (name == "read" and name in record)]
    return (record, passages, again) if is_it else None


def _extended(
    out: Path,
    key: str,
    date: str,
    audit: Auditing,
    earlier: AuditRecord,
    passages: pl.DataFrame,
    added: Sequence[str],
    *,
    command: Sequence[str],
) -> AuditRecord:
    """Ask a finished audit's documents what was `added`, and write all again; its date stays."""
    store, reference = audit_store(out), earlier["reference"]
    audit.passages, answers = passages, dict[str, Answer]()
    audit.apart = None if reference is None else reference.get("apart")
    tables = {
        name: store.frame(ARTEFACT, file)
        for name in QUESTIONS
        if (file := f"{name}.parquet") in earlier["files"]
    }
    audit.steps, flags = added, " and ".join(f"--{name}" for name in added)
    verb = "is" if len(added) == 1 else "are"
    say(f"{out}: its passages stay as they are; only {flags} {verb} asked.")
    for name in added:
        _ask(audit, name, QUESTIONS[name], answers, span_schema())
    tables |= {name: one.table for name, one in answers.items() if one.table is not None}
    facts = {name: dict(one.facts) for name, one in answers.items() if one.facts is not None}
    unread = facts.get("unread") or earlier.get("unread")
    said = verdict_of(
        earlier["model"]["name"],
        reference,
        earlier["summary"],
        audit.passages,
        unread,
        documents=earlier["documents"],
    )
    record = {
        **{name: one for name, one in earlier.items() if name != "sha256"},
        "key": key,
        "command": _printable(command),
        "settings": audit.settings.model_dump(),
        "added": {**earlier.get("added", {}), **dict.fromkeys(added, date)},
        "verdict": said,
        **facts,
    }
    _write(out, cast(AuditRecord, record), audit, tables)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return read_audit_record(out)


def _versions() -> dict[str, str]:
    return versions("tokenizers", *_READERS)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _founded(out: Path, key: str, command: Sequence[str]) -> str:
    """When this audit was begun, in UTC; one that goes on has the date of its beginning.

    The command is kept for who finds the audit unfinished.
    """
    store, name = Store(out / PARTS), f"{FOUNDED}{key[:16]}"
    try:
        return str(store.record(name, key=key)["date"])
    except MissingError:
        store.put(name, {}, key=key, date=(date := _now()), command=[*command])
        return date


def find_passages(audit: Auditing, is_asked: Callable[[Place], bool] = lambda _: True) -> None:
    """Scan the documents and join hits to passages, with the verdict of the rule.

    `is_asked` says which windows, as in `scan.scan_windows`.
    """
    _say_step(audit, "passages", "which passages come out")
    audit.scanned = scan_windows(audit, is_asked)
    spans = spans_of(
        audit.tokenizer,
        audit.texts,
        audit.scanned,
        audit.settings,
        lambda places: extend(audit, places),
    )
    audit.passages = passage_table(audit.texts, spans, audit.settings, audit.tokenizer)


def _say_step(audit: Auditing, name: str, title: str) -> None:
    if name in audit.steps:
        say(f"Step {1 + audit.steps.index(name)} of {len(audit.steps)}: {title}")


def ask_questions(audit: Auditing) -> dict[str, Answer]:
    """Ask every question that is on, and give the answers; passages get columns and verdicts.

    What touches and has one verdict is joined as soon as all grounds are known.
    """
    answers: dict[str, Answer] = {}
    for name, question in decide_passages(audit, answers):
        _ask(audit, name, question, answers, span_schema())
    return answers


def decide_passages(audit: Auditing, answers: dict[str, Answer]) -> list[tuple[str, Question]]:
    """Ask up to the last ground, and give passages their verdicts; the questions that are left."""
    left = list(audit.asked().items())
    while left and any({*GROUNDS} & {*one.part("COLUMNS", {})} for _, one in left):
        _ask(audit, *left.pop(0), answers, span_schema())
    audit.passages = with_verdicts(audit.passages)
    audit.passages = join_passages(audit.passages, partial(count_windows, audit))
    return left


def _ask(
    audit: Auditing,
    name: str,
    question: Question,
    answers: dict[str, Answer],
    schema: pl.Schema,
) -> None:
    _say_step(audit, name, question.title)
    record = f"answer-{name}"
    store = None if audit.kept is None else store_of_parts(audit.kept)
    answer = None if store is None else _kept_answer(store, record)
    if answer is None:
        answer = question.part("ask")(audit)
    columns = [
        pl.Series(column, list(values), dtype=schema[column])
        for column, values in answer.columns.items()
    ]
    if store is not None and not store.has(record):
        tables = {"columns": pl.DataFrame(columns), "table": answer.table}
        files = {f"{record}-{of}.parquet": one for of, one in tables.items() if one is not None}
        store.put(record, files, answer=answer.facts)
    answers[name] = answer
    audit.passages = audit.passages.with_columns(columns)


def _kept_answer(store: Store, record: str) -> Answer | None:
    """What a question was answered before the audit was stopped."""
    if (found := store.kept(record, "its answer")) is None:
        return None
    frames = {file: store.frame(record, file) for file in found["files"]}
    columns = frames[f"{record}-columns.parquet"].to_dict(as_series=False)
    return Answer(columns, frames.get(f"{record}-table.parquet"), found["answer"])


def audit_key(audit: Auditing) -> str:
    """Hash of all that decides an audit; UserError: a question that cannot be asked."""
    asked = audit.asked().items()
    depends = {name: one.part("depends") for name, one in asked}
    facts = {
        "schema_version": SCHEMA_VERSION,
        **audit.model.facts().identity,
        "settings": audit.settings.model_dump(),
        "case": [audit.case, audit.operator],
        "questions": {name: of(audit) if of else None for name, of in depends.items()},
        "documents": [[text.name, text.document.sha256] for text in audit.texts],
    }
    whole = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for text in audit.texts:
        # Words may be cut otherwise and get the same numbers.
        places = text.tokens.starts.tobytes() if audit.model.kind != "here" else b""
        whole.update(hashlib.sha256(text.tokens.ids.tobytes() + places).digest())
    return whole.hexdigest()


def _finished_audit(
    out: Path, key: str, audit: Auditing, skipped: list[Skipped], *, redo: bool
) -> AuditRecord | None:
    """The audit that is already there, if it is this one; another one only goes with `redo`.

    It is another one too where other files could not be read: a gate counts them.
    """
    if not (out / RECORD).is_file():
        return None
    different: list[str] = []
    try:
        record = read_audit_record(out)
        is_this = record["key"] == key and record["skipped"] == skipped
        if is_this and not redo and not changed_files(out, record):
            return record
        different = _differences(record, audit, skipped)
    except (DamagedDataError, UserError):
        is_this = False
    if not redo and is_this:
        raise UserError(
            f"{out}: files of this audit are missing or were changed. --redo makes it again."
        )
    if not redo:
        raise other_audit(out, different)
    audit_store(out).forget(ARTEFACT)
    return None


def _differences(record: AuditRecord, audit: Auditing, skipped: list[Skipped]) -> list[str]:
    """In what a finished audit differs from the one asked for, as far as its record tells."""

    def identity(model: ModelRecord | None) -> str | None:
        return None if model is None else model["fingerprint"] or model["name"]

    there, model = record["reference"], audit.model.facts().record
    here = audit.reference.facts().record if audit.reference else None
    asked = _asked_documents([text.document for text in audit.texts], skipped)
    found = ["another model"] * (identity(record["model"]) != identity(model))
    if identity(there) != identity(here):
        found.append(_other_reference(there, here["name"] if here else None))
    found += _other_requests(record, audit.settings, asked)
    if [record["case"], record["operator"]] != [audit.case, audit.operator]:
        found.append("another case or operator")
    return found


def _asked_documents(
    documents: Sequence[Document], skipped: Sequence[Skipped]
) -> set[tuple[str, str]]:
    """Names of documents with their checksums, and of those not read with the reason."""
    asked = {(one.name, one.sha256) for one in documents}
    return asked | {(one["document"], one["reason"]) for one in skipped}


def _other_reference(there: ModelRecord | None, here: str | None) -> str:
    """That verdicts rest on another reference, or on none."""
    names = there["name"] if there else "none", here or "none"
    said = "same name, other weights" if names[0] == names[1] else "{} there, {} here"
    return f"--reference: {said.format(*names)}, and verdicts rest on it"


def _other_requests(
    record: AuditRecord, settings: AuditSettings, asked: set[tuple[str, str]]
) -> list[str]:
    """Documents and settings that a finished audit has otherwise, in words."""
    known = {(one["document"], one["sha256"]) for one in record["documents"]}
    known |= {(one["document"], one["reason"]) for one in record["skipped"]}
    first, *rest = sorted({name for name, _ in known ^ asked}) or [""]
    more = f" and {len(rest):,} more" if rest else ""
    found = [f"other documents ({first}{more})"] * (known != asked)
    return [*found, *filter(None, [_other_settings(record, settings)])]


def _other_settings(record: AuditRecord, settings: AuditSettings) -> str:
    """Which settings a finished audit has otherwise, in words; empty where none."""
    there, here = record["settings"], json.loads(json.dumps(settings.model_dump()))
    differ = [
        f"{flag_of(name)}: {_value(there.get(name))} there, {_value(here.get(name))} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
    return f"other settings ({'; '.join(differ)})" if differ else ""


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def check_same(
    out: Path, settings: AuditSettings, reading: Reading, reference: str | None, *, redo: bool
) -> None:
    """Refuse a folder with another audit, as far as that is known before a model is loaded."""
    if redo or not (out / RECORD).is_file():
        return
    different: list[str] = []
    with suppress(DamagedDataError, UserError):  # of which `make_audit` says what it is
        record = read_audit_record(out)
        lacking = {one: record["settings"][one] for one in ADDED if one not in record}
        asked = _asked_documents(reading.documents, _skipped(reading))
        if ((there := record["reference"]) is None) != (reference is None):
            different.append(_other_reference(there, reference))
        different += _other_requests(record, settings.model_copy(update=lacking), asked)
    if different:
        raise other_audit(out, different)


def added_to(out: Path, settings: AuditSettings) -> list[str] | None:
    """What these settings ask that the finished audit in a folder has not; None: none is there."""
    with suppress(DamagedDataError, UserError):
        record = read_audit_record(out)
        return [name for name in ADDED if getattr(settings, name, None) and name not in record]
    return None


def check_no_other(out: Path, *, redo: bool) -> None:
    """Refuse a folder with an audit that asked no study, before one is made at length."""
    if redo or not (out / RECORD).is_file():
        return
    try:
        asked = read_audit_record(out)["cnn"]
    except (DamagedDataError, UserError):
        asked = None
    if asked is None:
        raise other_audit(out)


def _document_rows(audit: Auditing, tables: Mapping[str, pl.DataFrame]) -> list[DocumentRow]:
    """Documents with their shares."""
    rows: list[DocumentRow] = []
    for number, text in enumerate(audit.texts):
        document, n_tokens = text.document, len(text.tokens.ids)
        n_windows = audit.scanned.filter(pl.col("document") == number).height
        sizes: Sizes = {
            "characters": len(document.text),
            "tokens": n_tokens,
            "windows": n_windows,
        }
        asked = tables.get("near"), tables.get("alone")
        counts = count_document(text.name, sizes, audit.passages, *asked)
        file = f"texts/{number + 1:05d}.txt" if document.is_extracted else None
        is_short = n_tokens < audit.settings.length
        rows.append(
            {
                **counts,
                "sha256": document.sha256,
                "file_sha256": document.file_sha256,
                "text_file": file,
                "is_too_short": is_short,
                "has_windows_lines": "\r\n" in document.text,
            }
        )
    return rows


PAGES = ("audit.html", REPORT, SARIF)
"""What people and other tools read of an audit."""


def pages_of(
    record: AuditRecord,
    passages: pl.DataFrame,
    tables: Mapping[str, pl.DataFrame],
    texts: Mapping[str, str],
) -> dict[str, bytes]:
    """The `PAGES`: always the same of the same audit."""
    log = sarif_log(record, passages, texts, tables.get("near"))
    made = (
        render_page(record, passages, texts, tables).encode(),
        render_brief(record, passages, tables, log).encode(),
        json_bytes(log),
    )
    return dict(zip(PAGES, made, strict=True))


def _write(
    out: Path, record: AuditRecord, audit: Auditing, tables: Mapping[str, pl.DataFrame]
) -> None:
    """Write everything, `audit.json` last."""
    for name in QUESTIONS:
        (out / f"{name}.parquet").unlink(missing_ok=True)
    with audit_store(out).making(ARTEFACT) as made:
        for row, text in zip(record["documents"], audit.texts, strict=True):
            if row["text_file"] is not None:
                made.put(row["text_file"], text.document.text.encode())
        for name, table in {"spans": audit.passages, **tables}.items():
            made.put(f"{name}.parquet", table)
        record["files"] = made.files
        texts = {text.name: text.document.text for text in audit.texts}
        for file, data in pages_of(record, audit.passages, tables, texts).items():
            made.put(file, data)
        made.facts |= record
