"""The pages of a finished audit without the text of its documents: `mnemoscope audit redact DIR`.

Tables are hidden before the pages are made of them: a text that nobody thought of is hidden too.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

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
    read_audit,
    read_sarif,
)
from mnemoscope.errors import UserError
from mnemoscope.files import file_sha256, made_folder, write_text

_UNSAID = "audit.json has the reason"
"""In place of why a file was not read: a table's first line, which may be a record, is named."""
_OF_FILES = {"unread", "corpus", "ordinary"}  # settings that may name files
_OF_NAMES = {"document", "in", "uri", "study", *_OF_FILES}
"""Where a name stands whole; sentences hold some."""
_UNNAMED = "(not named)"
_SHORTEST = 3  # characters of a name that is looked for in a sentence


def redact_audit(folder: Path, out: Path, *, hide_names: bool = False) -> list[Path]:
    """Write `audit.html` and `report.html` of an audit to a new or empty folder, and name them.

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
    log = read_sarif(folder)
    if hide_names:
        names = _new_names(record, tables)
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
    return [out / name for name in pages]


def _new_names(record: AuditRecord, tables: Mapping[str, pl.DataFrame]) -> dict[str, str]:
    """What each file is called in place of its name and its title."""
    unread = record["unread"]["texts"] if record.get("unread") else []
    corpus = tables["origins"]["in"].to_list() if "origins" in tables else []
    found: dict[str, list[str]] = {
        "document": [one["document"] for one in record["documents"]],
        "file not read": [one["document"] for one in record["skipped"]],
        "unread document": [one["document"] for one in unread],
        "text of the corpus": [*dict.fromkeys(corpus)],
    }
    others = [record["settings"].get(one) for one in _OF_FILES]
    others += [record["cnn"]["study"]] if record["cnn"] else []
    names = {one: _UNNAMED for one in others if isinstance(one, str) and one != SHIPPED}
    for kind, own in found.items():
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
