"""The folder of an audit: `audit.json`, and the files that it names."""

import os
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired, cast

import polars as pl
from typing_extensions import TypedDict

from mnemoscope.audits.asking import ApiRecord, ModelRecord
from mnemoscope.audits.passages import span_schema
from mnemoscope.audits.questions import settings_class
from mnemoscope.audits.settings import Value, checked
from mnemoscope.audits.shares import DocumentCounts, Summary
from mnemoscope.audits.verdict import Verdict
from mnemoscope.data.table import whole_parquet
from mnemoscope.errors import DamagedDataError, UserError, first_line
from mnemoscope.files import made_folder
from mnemoscope.parse import read_json
from mnemoscope.store import Store, made_by, other_state_remedy, refuse_folder
from mnemoscope.version import __version__

SCHEMA_VERSION = 14
"""Of `audit.json` and the tables; raised when a column or key changes its meaning."""

ARTEFACT = "audit"
WINDOWS_LINES = (
    "Windows line ends (CR LF). A model that learned the text with others may repeat less of it: "
    "convert to LF, and ask again."
)
RECORD = f"{ARTEFACT}.json"
SPANS = "spans.parquet"
SARIF = "audit.sarif"
Sarif = dict[str, Any]
"""An object of SARIF 2.1.0, by whose schema the tests check each log."""

PARTS = "parts"
"""Folder of what is done of an audit that is not finished."""


FOUNDED = "founded-"
"""Beginning of the record in there of when an audit was begun."""


class DocumentRow(DocumentCounts):
    """What is said of a document."""

    sha256: str
    file_sha256: str | None
    text_file: str | None
    is_too_short: bool
    has_windows_lines: bool  # CR LF


class Skipped(TypedDict):
    """What was not read, and why."""

    document: str
    reason: str


class _Cnn(TypedDict):
    study: str
    reason: str | None


class _Said(TypedDict):
    sentence: str


class UnreadText(TypedDict):
    """A document of `--unread`, with the checksum of its text."""

    document: str
    sha256: str


class _Unread(TypedDict):
    texts: list[UnreadText]
    sentence: str


class AuditRecord(TypedDict):
    """`audit.json`, as far as anything reads it."""

    schema_version: int
    key: str
    date: str
    case: str | None
    operator: str | None
    command: list[str]
    versions: dict[str, str]
    verdict: Verdict
    model: ModelRecord
    reference: ModelRecord | None
    cnn: _Cnn | None
    api: NotRequired[ApiRecord]
    read: NotRequired[_Said]
    origins: NotRequired[_Said]
    unread: NotRequired[_Unread]
    added: NotRequired[dict[str, str]]
    redacted: NotRequired[str]  # SHA-256 of `audit.json`; of pages without the text alone
    settings: dict[str, Value]
    encoding: str
    columns: NotRequired[dict[str, str]]
    excluded: NotRequired[dict[str, list[str]]]  # files that each pattern of --exclude left out
    documents: list[DocumentRow]
    skipped: list[Skipped]
    summary: Summary
    files: dict[str, str]


_REDO = "make the audit again with --redo"

PLACE = ("document", "start", "end", "verdict", "reason", "text", "otherwise")
"""Columns of `spans.parquet` that say what was found where, and why."""
_RANKED = ("tokens", "score", "reference_says", "suffix_pieces")
"""Columns by which passages are put in order (`passages.in_order`)."""


def copies_said(record: "AuditRecord") -> str:
    """How many documents have the text of another one, in a sentence; empty where none has."""
    texts = [row["sha256"] for row in record["documents"]]
    n = len(texts) - len(set(texts))
    which = "1 document has" if n == 1 else f"{n:,} documents have"
    again = "Its passages are" if n == 1 else "Their passages are"
    return f"{which} the text of another. {again} counted again, in intervals too." if n else ""


def is_found(one: DocumentRow) -> bool:
    """Whether a passage of a document is recalled, or it cannot be told of one."""
    return bool(one["recall_spans"] or one["undecided_spans"] or one.get("near_recall_spans"))


def most_first(documents: Iterable[DocumentRow]) -> list[DocumentRow]:
    """Documents by what is recalled, then by what cannot be told, then the rest."""

    def key(one: DocumentRow) -> tuple[float, ...]:
        recalled, undecided = one["recalled"]["share"], one["undecided"]["share"]
        return not is_found(one), -recalled, -undecided, -one["reproduced"]["share"]

    return sorted(documents, key=key)


def silent_documents(record: "AuditRecord") -> list[str]:
    """Documents that were asked and of which nothing came out, not nearly either."""
    return [row["document"] for row in record["documents"] if _is_silent(row)]


def _is_silent(row: DocumentRow) -> bool:
    return not (row["is_too_short"] or row["reproduced"]["characters"] or row["near_spans"])


LISTED = 100
"""Rows, and names in a line, of documents; audit.html has every document in its table."""


def listed_documents(record: "AuditRecord") -> list[DocumentRow]:
    """Documents that have a row in report, print and terminal, those with most found first.

    The others, of which nothing came out, are named in a line (`silent_documents`).
    """
    return [row for row in most_first(record["documents"]) if not _is_silent(row)]


def near_alone(record: "AuditRecord") -> list["DocumentRow"]:
    """Documents of which near copies alone came out."""
    return [
        row
        for row in record["documents"]
        if row["near_spans"] and not row["reproduced"]["characters"]
    ]


def audit_store(out: Path) -> Store:
    """The store of an audit's folder: one artefact, `ARTEFACT`, of all its files."""
    return Store(out, remedy=lambda _: _REDO)


def prepare_folder(out: Path) -> None:
    """Make the audit's folder; errors as `made_folder`, and UserError: no place for an audit."""
    if (out / "study.yaml").exists():
        raise UserError(f"{out}: already holds a study. Choose another folder with -o.")
    if not os.access(made_folder(out), os.W_OK | os.X_OK):
        raise UserError(f"{out}: no permission to write here. Choose another place with -o.")
    for name in ("texts", PARTS, "study"):
        if (out / name).is_symlink():
            raise UserError(f"{out / name}: a link that leaves the output folder. Remove it.")


def check_folder(out: Path) -> None:
    """Refuse what `prepare_folder` would, and leave no folder that was not there."""
    new = [one for one in (out, *out.parents) if not one.exists()]
    try:
        prepare_folder(out)
    finally:
        for one in new:
            with suppress(OSError):
                one.rmdir()


def read_audit_record(out: Path) -> AuditRecord:
    """What `audit.json` holds, seen to be as it was written.

    Raises UserError: no audit there, or one of another version of mnemoscope. DamagedDataError:
    unreadable, or changed since it was written.
    """
    store = audit_store(out)
    found = store.record(ARTEFACT)
    if (schema := found.get("schema_version")) != SCHEMA_VERSION:
        versions = found.get("versions")
        other = versions.get("mnemoscope") if isinstance(versions, dict) else None
        raise UserError(
            f"{out / RECORD}: {made_by(other)} (format {schema}); this is mnemoscope {__version__} "
            f"(format {SCHEMA_VERSION}). Nothing is said against it: "
            f"{other_state_remedy(other, 'make the audit again')}."
        )
    return cast(AuditRecord, store.record(ARTEFACT, shape=AuditRecord))


def read_audit(out: Path, *, as_it_is: bool = False) -> tuple[AuditRecord, pl.DataFrame]:
    """Read `audit.json` and `spans.parquet` of a folder; the table also if changed, `as_it_is`.

    Raises UserError: no audit there, or one of another version. DamagedDataError: a file that
    cannot be read, or was changed.
    """
    check_is_audit(out)
    record, store = read_audit_record(out), audit_store(out)
    try:
        if as_it_is:
            with whole_parquet(out / SPANS, f"Restore it from a copy, or {_REDO}."):
                spans = pl.read_parquet(out / SPANS, glob=False)
        else:
            spans = store.frame(ARTEFACT, SPANS)
        checked(settings_class(), **record["settings"])
        return record, spans.select(*span_schema())
    except (ValueError, OSError, UserError, pl.exceptions.PolarsError) as error:
        raise store.damaged(out, ARTEFACT, first_line(error)) from error


def read_verdicts(out: Path) -> tuple[AuditRecord, pl.DataFrame]:
    """Read `audit.json`, and of each passage its place and rank, without what questions need.

    Every other file of the audit that is there must be as it was written. Raises as `read_audit`.
    """
    check_is_audit(out)
    record, store = read_audit_record(out), audit_store(out)
    store.check(ARTEFACT)
    return record, store.frame(ARTEFACT, SPANS).select(*PLACE, *_RANKED)


def read_sarif(out: Path) -> Sarif:
    """`audit.sarif` of a finished audit; errors as `read_audit`."""
    found: Sarif = read_json(audit_store(out).path(ARTEFACT, SARIF))
    return found


def read_near(out: Path) -> pl.DataFrame | None:
    """Near copies of a finished audit; None where they were not looked for; as `read_audit`."""
    store = audit_store(out)
    name = "near.parquet"
    return store.frame(ARTEFACT, name) if name in store.record(ARTEFACT)["files"] else None


def check_is_audit(out: Path) -> None:
    """Refuse a folder without an audit."""
    if not (out / RECORD).is_file():
        if said := begun_said(out):
            raise UserError(said)
        remedy = "Make one with 'mnemoscope audit'."
        if (out / "audit.html").is_file():
            remedy = (
                "It holds pages alone, as a redacted copy does. Name the audit itself; 'mnemoscope "
                f"audit redact AUDIT --check {out}' compares them with what was made of it."
            )
        refuse_folder(out, "contains no audit (audit.json)", remedy)


def begun_said(out: Path) -> str:
    """That a folder holds an audit that is not finished, and how to go on; else empty."""
    begun = sorted((out / PARTS).glob(f"{FOUNDED}*.json"))
    if (out / RECORD).is_file() or not begun:
        return ""
    command: Sequence[str] = ()
    with suppress(OSError, ValueError, KeyError, TypeError):
        command = [str(one) for one in read_json(begun[-1])["command"]]
    again = "Run the command that began it again: it goes on from what was kept."
    where = f" In the folder where it was given: {shlex.join(command)}" if command else ""
    return f"{out}: an audit that was begun and is not finished. {again}{where}"


def changed_record(out: Path) -> str | None:
    """What is wrong with an `audit.json` that can be read, but is not as it was written."""
    try:
        audit_store(out).record(ARTEFACT)
    except DamagedDataError as error:
        with suppress(OSError, ValueError):
            if isinstance(found := read_json(out / RECORD), dict) and "sha256" in found:
                return f"{error} Nothing else was checked."
    return None


def changed_files(out: Path, record: AuditRecord) -> dict[str, str]:
    """What is wrong with files that are gone or not as they were written, by their names."""
    found, store = {}, audit_store(out)
    for file in record["files"]:
        try:
            store.path(ARTEFACT, file, again=True)
        except (UserError, DamagedDataError) as error:
            found[file] = str(error)
    return found


def other_audit(out: Path, different: Sequence[str] = ()) -> UserError:
    """What to say of a folder with another audit in it, which differs in this."""
    said = ", ".join(different) or "other documents or settings, another model or case"
    return UserError(
        f"{out}: holds another audit ({said}). Choose another folder with -o, or --redo to write "
        "over it."
    )
