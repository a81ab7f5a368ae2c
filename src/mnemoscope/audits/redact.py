"""The pages of a finished audit without the text of its documents: `mnemoscope audit redact DIR`.

Tables are hidden before the pages are made of them: a text that nobody thought of is hidden too.
The audit's folder keeps what was handed over: `REDACTED`.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.audits.brief import REPORT, render_brief
from mnemoscope.audits.documents import titles_of
from mnemoscope.audits.exports import address_of
from mnemoscope.audits.ordinary import SHIPPED
from mnemoscope.audits.page import hidden, render_page
from mnemoscope.audits.passages import HIDDEN
from mnemoscope.audits.questions import QUESTIONS
from mnemoscope.audits.records import (
    ARTEFACT,
    RECORD,
    AuditRecord,
    audit_store,
    check_is_audit,
    read_audit,
    read_sarif,
)
from mnemoscope.errors import MnemoscopeError, UserError, first_line
from mnemoscope.files import file_sha256, made_folder, write_json, write_text
from mnemoscope.parse import read_json

REDACTED = "redacted.json"
"""The copies that were made of an audit: checksums of their pages, and who is who in them."""
_UNSAID = "audit.json has the reason"
"""In place of why a file was not read: a table's first line, which may be a record, is named."""
_OF_FILES = {"unread", "corpus", "ordinary"}  # settings that may name files
_OF_NAMES = {"document", "in", "uri", "study", *_OF_FILES}
"""Where a name stands whole; sentences hold some."""
_UNNAMED = "(not named)"
_SHORTEST = 3  # characters of a name that is looked for in a sentence


class Copy(NamedTuple):
    """Pages without texts, each with its checksum, and whether `REDACTED` could keep these."""

    pages: Mapping[Path, str]
    is_kept: bool


def redact_audit(folder: Path, out: Path, *, hide_names: bool = False) -> Copy:
    """Write `audit.html` and `report.html` of an audit to a new or empty folder.

    Of every text each character but white space is hidden; positions, figures, verdicts, checksums
    and names stay. With `hide_names` the Nth document of `audit.json` is "document N", other files
    likewise, and the command is left out. Raises UserError: `out` holds something, and as
    `read_audit`. DamagedDataError: a file of the audit was changed.
    """
    record, spans = read_audit(folder)
    store = audit_store(folder)
    store.check(ARTEFACT)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty. Choose another folder for the redacted pages.")
    made_folder(out)
    tables = {}
    for name in QUESTIONS:
        if (file := f"{name}.parquet") in record["files"]:
            table = store.frame(ARTEFACT, file)
            tables[name] = pl.DataFrame(hidden(table.to_dicts()), schema=table.schema)
    record = record | {"redacted": file_sha256(folder / RECORD)}  # what was read is shared
    record["skipped"] = [{**one, "reason": _UNSAID} for one in record["skipped"]]
    log, numbers = read_sarif(folder), dict[str, str]()
    if hide_names:
        names = _new_names(record, tables)
        numbers = {names[one]: one for some in _files_of(record, tables).values() for one in some}
        addresses = {address_of(old): address_of(new) for old, new in names.items()}
        record, log = _renamed(record, names), _renamed(log, addresses)
        record["command"] = []
        if n_left := sum(map(len, record.get("excluded", {}).values())):
            record["excluded"] = {_UNNAMED: [f"file left out {n + 1}" for n in range(n_left)]}
        spans, *rest = (_of_others(one, names) for one in (spans, *tables.values()))
        tables = dict(zip(tables, rest, strict=True))
    texts = {one["document"]: HIDDEN * one["characters"] for one in record["documents"]}
    pages = {
        REPORT: render_brief(record, spans, tables, log),
        "audit.html": render_page(record, spans, texts, tables),
    }
    for name, page in pages.items():
        write_text(out / name, page)
    sums = {name: hashlib.sha256(page.encode()).hexdigest() for name, page in pages.items()}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    made = {"date": date, "folder": str(out), "audit": record["redacted"]}
    is_kept = False
    with suppress(MnemoscopeError):  # an audit may stand where nothing can be written
        copies = [*_copies(folder), {**made, "pages": sums, "names": numbers}]
        write_json(folder / REDACTED, {"copies": copies})
        is_kept = True
    return Copy({out / name: sums[name] for name in pages}, is_kept)


def _copies(folder: Path) -> Sequence[Mapping[str, Any]]:
    if not (folder / REDACTED).is_file():
        return []
    try:
        return list(read_json(folder / REDACTED)["copies"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / REDACTED}: cannot be read ({first_line(error)}).") from None


def check_redacted(folder: Path, copy: Path) -> list[str]:
    """What is wrong with pages that were made of an audit: each that is gone or was changed.

    Raises UserError: the audit keeps no copies, or there are no pages.
    """
    check_is_audit(folder)
    if not (copies := _copies(folder)):
        raise UserError(f"{folder}: keeps no checksums of redacted pages ({REDACTED}).")
    there = {name: copy / name for name in (REPORT, "audit.html")}
    sums = {name: file_sha256(path) for name, path in there.items() if path.is_file()}
    if not sums:
        raise UserError(f"{copy}: holds neither {REPORT} nor audit.html.")
    newest = copies[::-1]  # the first of equals is taken
    like = max(newest, key=lambda one: sum(one["pages"].get(name) == sums[name] for name in sums))
    return [
        f"{there[name]}: "
        + ("changed since it was made." if name in sums else "gone.")
        + f" It had SHA-256 {wanted}."
        for name, wanted in like["pages"].items()
        if sums.get(name) != wanted
    ]


def _files_of(
    record: AuditRecord, tables: Mapping[str, pl.DataFrame]
) -> Mapping[str, Sequence[str]]:
    """The files that are numbered, of each kind in order."""
    unread = record["unread"]["texts"] if record.get("unread") else []
    corpus = tables["origins"]["in"].to_list() if "origins" in tables else []
    return {
        "document": [one["document"] for one in record["documents"]],
        "file not read": [one["document"] for one in record["skipped"]],
        "unread document": [one["document"] for one in unread],
        "text of the corpus": [*dict.fromkeys(corpus)],
    }


def _new_names(record: AuditRecord, tables: Mapping[str, pl.DataFrame]) -> dict[str, str]:
    """What each file is called in place of its name and its title."""
    others = [record["settings"].get(one) for one in _OF_FILES]
    others += [record["cnn"]["study"]] if record["cnn"] else []
    names = {one: _UNNAMED for one in others if isinstance(one, str) and one != SHIPPED}
    for kind, own in _files_of(record, tables).items():
        titles = titles_of(own)
        for number, name in enumerate(own, 1):
            for old in (name, titles[name], PureWindowsPath(name).name):
                names.setdefault(old, f"{kind} {number}")
    return names


def _renamed(value: Any, names: Mapping[str, str], key: str = "") -> Any:
    """A record with other names of files, in its sentences too."""
    if isinstance(value, Mapping):
        return {name: _renamed(one, names, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one, names, key) for one in value]
    if isinstance(value, str) and key in _OF_NAMES:
        return names.get(value, value)
    if isinstance(value, str) and key == "sentence":
        longest = sorted((one for one in names if len(one) >= _SHORTEST), key=len, reverse=True)
        pattern = rf"(?<![\w./-])(?:{'|'.join(map(re.escape, longest))})(?![\w/-])"
        return re.sub(pattern, lambda found: names[found[0]], value)
    return value


def _of_others(table: pl.DataFrame, names: Mapping[str, str]) -> pl.DataFrame:
    return table.with_columns(pl.col(*(_OF_NAMES & {*table.columns})).replace(names))
