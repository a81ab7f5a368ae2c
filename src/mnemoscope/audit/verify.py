"""Repeat an audit's spans and say whether they still hold: `mnemoscope audit --verify DIR`."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.audit.documents import Document, Splitter, character_range, read_documents, tokenize
from mnemoscope.audit.evidence import SPAN_COLUMNS
from mnemoscope.audit.rule import rule_windows
from mnemoscope.audit.run import SCHEMA_VERSION, check_is_audit, file_sha256
from mnemoscope.audit.scan import continue_windows
from mnemoscope.audit.service import Asker, Client
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.errors import DamagedDataError, MnemoscopeError, UserError
from mnemoscope.files import read_parquet
from mnemoscope.lm.model import LanguageModel, in_chat

# Repeat an audit's spans and say whether they still hold: `mnemoscope audit --verify DIR`.


class Verification(NamedTuple):
    """What came of it.

    Attributes:
        n_spans: spans of the audit.
        n_hold: spans that stand in the document where the audit says, whose window the model
            continues as recorded, and whose verdict follows from what the grounds say.
        problems: what does not hold, a line each; empty: everything does.
        notes: what could not be checked.
    """

    n_spans: int
    n_hold: int
    problems: list[str]
    notes: list[str]


def read_audit(out: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """Read `audit.json` and `spans.parquet` of a folder.

    Args:
        out: the audit's folder.

    Raises:
        UserError: no audit there, or one of a later version.
        DamagedDataError: a file that cannot be read.
    """
    check_is_audit(out)
    path = out / "audit.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        later = record["schema_version"] > SCHEMA_VERSION
        frame = read_parquet(out / "spans.parquet")
        if not later:
            frame = frame.select(*SPAN_COLUMNS)
            _check_record(record)
    except (
        ValueError,
        KeyError,
        TypeError,
        OSError,
        DamagedDataError,
        pl.exceptions.PolarsError,
    ) as error:
        raise DamagedDataError(f"{out}: cannot be read as an audit. Make it again.") from error
    if later:
        raise UserError(f"{path}: of a later mnemoscope. Upgrade it.")
    return record, frame


def _check_record(record: dict[str, Any]) -> None:
    """Refuse, by the error that it makes, a record without what is read of it."""
    for name in ("model", "summary", "spans_sha256"):
        _ = record[name]
    for row in record["documents"]:
        _ = row["document"], row["sha256"], row["text_file"]
    AuditSettings(**record["settings"])


def verify_audit(
    out: Path,
    load: Callable[[dict[str, Any]], LanguageModel],
    ask: Callable[[dict[str, Any], pl.DataFrame], list[bool]] | None = None,
) -> Verification:
    """Repeat the spans of an audit.

    Args:
        out: the audit's folder.
        load: gives the model that an audit's `model` speaks of.
        ask: asks the service of an audit behind an API again, see `remote_verify`.

    Raises:
        UserError: no audit there, or the model cannot be loaded.
        DamagedDataError: a file that cannot be read.
    """
    record, frame = read_audit(out)
    settings = AuditSettings(**record["settings"])
    documents, problems, notes = _check_documents(out, record)
    if file_sha256(out / "spans.parquet") != record["spans_sha256"]:
        problems.append("spans.parquet was changed after the audit.")
    if record.get("api"):
        if ask is None:
            raise UserError(f"{out}: of a model behind an API, which is not asked again here.")
        notes.append("the weights behind an API cannot be checked, only what it writes now.")
        holds = ask(record, frame)
    else:
        lm = load(record["model"])
        if lm.fingerprint != record["model"]["fingerprint"]:
            problems.append(f"{lm.name}: other weights than those that were audited.")
        if settings.chat_template:
            lm = in_chat(lm, settings.instruction)
        stands = _stands(lm, frame, documents, settings)
        holds = [all(both) for both in zip(_repeat(lm, frame, settings), stands, strict=True)]
    for row, ok in zip(frame.iter_rows(named=True), holds, strict=True):
        if not ok:
            problems.append(f"{row['document']}, {row['start']}-{row['end']}: does not hold.")
    return Verification(frame.height, sum(holds), problems, notes)


def _repeat(lm: LanguageModel, frame: pl.DataFrame, settings: AuditSettings) -> list[bool]:
    """Continue each span's window again and judge it again."""
    if not frame.height:
        return []
    windows = np.array(frame["window_tokens"].to_list(), dtype=np.int32)
    batches = continue_windows(
        lm,
        windows,
        prefix=settings.prefix,
        n_allowed=settings.suffix,
        batch_size=settings.batch_size,
    )
    written = [row for batch in batches for row in batch.tokens.tolist()]
    rulings = rule_windows(
        lm.tokenizer, windows, prefix=settings.prefix, patterns=settings.patterns
    )
    recorded = zip(frame["continuation_tokens"].to_list(), frame["rule_says"], strict=True)
    return [
        tokens == before and ruling.verdict == verdict
        for tokens, ruling, (before, verdict) in zip(written, rulings, recorded, strict=True)
    ]


def _stands(
    lm: LanguageModel, frame: pl.DataFrame, documents: dict[str, Document], settings: AuditSettings
) -> list[bool]:
    """Whether each span and its window are what the document has there; True without it."""
    tokens = {
        name: tokenize(documents[name].text, lm.tokenizer)
        for name in frame["document"].unique()
        if name in documents
    }
    found = []
    for row in frame.iter_rows(named=True):
        is_so = row["verdict"] == _verdict_of(row)
        if row["document"] in tokens:
            own, first = tokens[row["document"]], row["window_token"]
            last = first + settings.length
            is_so &= documents[row["document"]].text[row["start"] : row["end"]] == row["text"]
            is_so &= own.ids[first:last].tolist() == row["window_tokens"]
            places = (row["window_start"], row["window_end"])
            is_so = is_so and character_range(own, first, last) == places
        found.append(is_so)
    return found


def _verdict_of(row: dict[str, Any]) -> str:
    """What the recorded grounds come to, see `records`."""
    says: list[str | None] = [row["rule_says"], row["cnn_says"], row["reference_says"]]
    both = says[1] is not None and says[1] == says[2]
    return str(says[1] if both else says[0])


def _check_documents(
    out: Path, record: dict[str, Any]
) -> tuple[dict[str, Document], list[str], list[str]]:
    """Compare every document with its hash: those that are the same, problems, notes."""
    same: dict[str, Document] = {}
    problems, notes, cache = [], [], dict[str, dict[str, Document]]()
    for row in record["documents"]:
        name = row["document"]
        source = name.rpartition("#")[0] if not Path(name).exists() and "#" in name else name
        if name == "-":
            notes.append("standard input is not there any more; its text stands in texts/.")
            cache[source] = _kept_input(out, row)
        elif source not in cache:
            cache[source] = _read_again(source, record)
        found = cache[source].get(name)
        if found is None:
            problems.append(f"{name}: cannot be read any more.")
        elif found.sha256 != row["sha256"]:
            problems.append(f"{name}: its text was changed after the audit.")
        else:
            same[name] = found
    return same, problems, notes


def _kept_input(out: Path, row: dict[str, Any]) -> dict[str, Document]:
    """What standard input said, as the audit kept it."""
    path = out / "texts" / Path(str(row["text_file"])).name
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    return {row["document"]: Document(row["document"], text, hashlib.sha256(data).hexdigest())}


def _read_again(source: str, record: dict[str, Any]) -> dict[str, Document]:
    try:
        reading = read_documents([source], encoding=record.get("encoding", "utf-8"))
    except MnemoscopeError:
        return {}
    return {document.name: document for document in reading.documents}


# Ask a service again what an audit says it wrote: `--verify` for a model behind an API.


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
