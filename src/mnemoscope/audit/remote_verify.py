"""Ask a service again what an audit says it wrote: `--verify` for a model behind an API."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.audit.asking import Asker
from mnemoscope.audit.endpoint import Client
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.texts import Document, read_documents
from mnemoscope.audit.words import Splitter
from mnemoscope.errors import MnemoscopeError

__all__ = ["ask_again"]


def ask_again(
    client: Client, splitter: Splitter, out: Path, record: Mapping[str, Any], frame: pl.DataFrame
) -> list[bool]:
    """Ask for each span's continuation once more.

    Args:
        client: the service, without a store: everything is asked.
        splitter: as in the audit.
        out: the audit's folder, which holds the text of what has no file of its own.
        record: what `audit.json` holds.
        frame: the table of spans.

    Returns:
        For each span, whether the service writes the same again. A span of a document that is
        not there any more does not hold.
    """
    settings = AuditSettings(**record["settings"])
    documents = [
        document
        for row in record["documents"]
        if (document := _document(out, row, record["encoding"])) is not None
    ]
    numbers = {document.name: number for number, document in enumerate(documents)}
    asker = Asker(client, splitter, documents, settings)
    rows = [row for row in frame.iter_rows(named=True) if _is_there(row, asker, numbers, settings)]
    places = [(numbers[row["document"]], row["window_token"]) for row in rows]
    found = asker.continue_at(places, [settings.suffix] * len(places), label="Asking again")
    same = {
        (row["document"], row["start"]): one.pieces == row["continuation_pieces"]
        for row, one in zip(rows, found, strict=True)
    }
    keys = frame.select("document", "start").rows()
    return [same.get(key, False) for key in keys]


def _document(out: Path, row: Mapping[str, Any], encoding: str) -> Document | None:
    """A document as it was read, None where it is not the same any more."""
    name = row["document"]
    try:
        if row["text_file"] is not None:
            source = str(out / row["text_file"])
            found = read_documents([source]).documents
        else:
            source = name.rpartition("#")[0] if not Path(name).exists() and "#" in name else name
            found = read_documents([source], encoding=encoding).documents
    except MnemoscopeError:
        return None
    for document in found:
        if document.sha256 == row["sha256"] and document.name in (name, source):
            return Document(name, document.text, document.sha256)
    return None


def _is_there(
    row: Mapping[str, Any], asker: Asker, numbers: Mapping[str, int], settings: AuditSettings
) -> bool:
    number = numbers.get(row["document"])
    return number is not None and row["window_token"] + settings.length <= len(
        asker.tokens[number].ids
    )
