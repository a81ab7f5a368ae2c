"""The pages of a finished audit without the text of its documents: `mnemoscope audit redact DIR`.

Tables are hidden before the pages are made of them: a text that nobody thought of is hidden too.
"""

from pathlib import Path

import polars as pl

from mnemoscope.audits.brief import REPORT, render_brief
from mnemoscope.audits.page import hidden, render_page
from mnemoscope.audits.passages import HIDDEN
from mnemoscope.audits.questions import QUESTIONS
from mnemoscope.audits.records import ARTEFACT, RECORD, audit_store, read_audit, read_sarif
from mnemoscope.errors import UserError
from mnemoscope.files import file_sha256, made_folder, write_text

_UNSAID = "audit.json has the reason"
"""In place of why a file was not read: a table's first line, which may be a record, is named."""


def redact_audit(folder: Path, out: Path) -> list[Path]:
    """Write `audit.html` and `report.html` of an audit to a new or empty folder, and name them.

    Of every text each character but white space is hidden; positions, figures, verdicts, checksums
    and names stay. Raises UserError: `out` holds something, and as `read_audit`. DamagedDataError:
    a file of the audit was changed.
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
    texts = {one["document"]: HIDDEN * one["characters"] for one in record["documents"]}
    record = record | {"redacted": file_sha256(folder / RECORD)}  # what was read is shared
    record["skipped"] = [{**one, "reason": _UNSAID} for one in record["skipped"]]
    pages = {
        REPORT: render_brief(record, spans, tables, read_sarif(folder)),
        "audit.html": render_page(record, spans, texts, tables),
    }
    for name, page in pages.items():
        write_text(out / name, page)
    return [out / name for name in pages]
