"""Repeat an audit's passages and say whether they still hold: `mnemoscope audit verify DIR`."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl

from mnemoscope.audits.asking import AskedModel, Auditing, Prompt
from mnemoscope.audits.documents import Document, read_documents
from mnemoscope.audits.passages import GROUNDS
from mnemoscope.audits.questions import QUESTIONS, settings_class
from mnemoscope.audits.records import (
    ARTEFACT,
    RECORD,
    DocumentRow,
    Record,
    audit_store,
    changed_files,
    read_audit,
)
from mnemoscope.audits.rule import decide, rule_windows
from mnemoscope.audits.run import pages_of
from mnemoscope.audits.scan import ask_in_parts, prompts_at
from mnemoscope.audits.settings import AuditSettings, checked
from mnemoscope.audits.shares import count_document, overall
from mnemoscope.audits.tokens import Text, Tokens, Words, character_range, cut_texts
from mnemoscope.audits.verdict import verdict_of
from mnemoscope.data.formats import is_there
from mnemoscope.errors import MnemoscopeError

Load = Callable[[Record, AuditSettings], AskedModel]
"""Gives the model that an audit's record speaks of."""


class Verification(NamedTuple):
    """What came of it: passages, those that hold, what does not hold, what could not be checked.

    A passage holds that stands in the document where the audit says, whose window the model
    continues as recorded, and whose verdict follows from what the grounds say.
    """

    n_spans: int
    n_hold: int
    problems: list[str]
    notes: list[str]


def verify_audit(out: Path, load: Load) -> Verification:
    """Repeat the passages of an audit with the model that `load` gives, and check its files.

    Raises UserError: no audit there, or the model cannot be loaded. DamagedDataError: a file that
    cannot be read.
    """
    record, frame = read_audit(out, as_it_is=True)
    documents, problems, notes = _check_documents(out, record)
    changed = changed_files(out, record)
    problems += changed.values()
    settings = checked(settings_class(), **record["settings"])
    model = load(record, settings)
    fingerprint = model.facts().record["fingerprint"]
    if fingerprint is None:
        notes.append("the weights behind an API cannot be checked, only what it writes now.")
    elif fingerprint != record["model"]["fingerprint"]:
        problems.append(f"{record['model']['name']}: other weights than those that were audited.")
    audit = Auditing(model, cut_texts(model.splitter, documents), settings, passages=frame)
    holds = _hold(audit)
    for row, ok in zip(frame.rows(named=True), holds, strict=True):
        if not ok:
            problems.append(f"{row['document']}, {row['start']}-{row['end']}: does not hold.")
    for name, question in audit.asked().items():
        check, file = question.part("check"), f"{name}.parquet"
        if check and file in record["files"].keys() - changed.keys():
            problems += check(audit, audit_store(out).frame(ARTEFACT, file))
    if not problems:
        problems += _not_following(out, record, frame, documents)
    sealed = hashlib.sha256((out / RECORD).read_bytes()).hexdigest()
    notes.append(
        f"{RECORD} has SHA-256 {sealed}; keep it where nobody can change it: nothing else protects "
        "date, case and operator."
    )
    return Verification(frame.height, sum(holds), problems, notes)


def _not_following(
    out: Path, record: Record, frame: pl.DataFrame, documents: Sequence[Document]
) -> Iterator[str]:
    """What of the counts, the sentence and the pages does not follow; all documents are there."""
    store = audit_store(out)
    asked = [name for name in QUESTIONS if f"{name}.parquet" in record["files"]]
    tables = {name: store.frame(ARTEFACT, f"{name}.parquet") for name in asked}
    texts = {one.name: one.text for one in documents}
    rows: list[DocumentRow] = []
    for row in record["documents"]:
        name = row["document"]
        sized: DocumentRow = {**row, "characters": len(texts[name])}
        counts = count_document(name, sized, frame, tables.get("near"))
        rows.append(cast(DocumentRow, {**row, **counts}))
    summary = overall(rows)
    again = rows, summary, verdict_of(record["model"]["name"], summary, frame)
    said = record["documents"], record["summary"], record["verdict"]
    if json.loads(json.dumps(again)) != json.loads(json.dumps(said)):
        yield f"{RECORD}: its counts or its sentence do not follow from the passages."
    else:
        for file, data in pages_of(record, frame, tables, texts).items():
            if (out / file).read_bytes() != data:
                yield f"{file}: does not say what the passages say."


def _hold(audit: Auditing) -> list[bool]:
    """Whether each passage is written again, by the same rule, and stands where it is said to.

    A model that runs here is asked by the tokens that the table holds, a service by the document.
    """
    settings, numbers = audit.settings, audit.numbers()
    rows = audit.passages.rows(named=True)
    if audit.model.kind == "here":
        asked, prompts = rows, [_prompt_of(row, settings) for row in rows]
    else:
        asked = [row for row in rows if _is_in(audit, row, numbers)]
        places = [(numbers[row["document"]], row["window_token"]) for row in asked]
        prompts = prompts_at(audit, places)
    written = ask_in_parts(audit, prompts, "miss", "Asking again")
    again = {
        id(row): one.ids == row["continuation_tokens"]
        if one.pieces is None
        else one.pieces == row["continuation_pieces"]
        for row, one in zip(asked, written, strict=True)
    }
    says = [row["rule_says"] for row in rows]
    if not isinstance(audit.tokenizer, Words):  # whose numbers mean nothing outside their audit
        rulings = rule_windows(
            audit.tokenizer, audit.windows, prefix=settings.prefix, patterns=settings.patterns
        )
        says = [one.verdict for one in rulings]
    return [
        again.get(id(row), False) and row["rule_says"] == said and _stands(audit, row, numbers)
        for row, said in zip(rows, says, strict=True)
    ]


def _prompt_of(row: Mapping[str, Any], settings: AuditSettings) -> Prompt:
    """The window that speaks for a passage, as the table has it."""
    ids = np.array(row["window_tokens"], dtype=np.int32)
    places = np.arange(len(ids))
    text = Text(Document(row["document"], "", ""), Tokens(ids, places, places))
    return Prompt(text, 0, settings.prefix, settings.length)


def _is_in(audit: Auditing, row: Mapping[str, Any], numbers: Mapping[str, int]) -> bool:
    """Whether the document is there, and as long as the window of a passage says."""
    number, last = numbers.get(row["document"]), row["window_token"] + audit.settings.length
    return (
        number is not None
        and row["window_token"] >= 0
        and last <= len(audit.texts[number].tokens.ids)
    )


def _stands(audit: Auditing, row: Mapping[str, Any], numbers: Mapping[str, int]) -> bool:
    """Whether the verdict of a passage follows, and the document, where it is there, has it so."""
    if row["verdict"] != decide(row["rule_says"], *(row[name] for name in GROUNDS)):
        return False
    if row["document"] not in numbers:
        return True
    if not _is_in(audit, row, numbers):
        return False
    document, own = audit.texts[numbers[row["document"]]]
    first = row["window_token"]
    last, place = first + audit.settings.length, (row["window_start"], row["window_end"])
    is_same = own.ids[first:last].tolist() == row["window_tokens"]
    return (
        document.text[row["start"] : row["end"]] == row["text"]
        and character_range(own, first, last) == place
        and (is_same or isinstance(audit.tokenizer, Words))
    )


def _check_documents(out: Path, record: Record) -> tuple[list[Document], list[str], list[str]]:
    """Compare every document with its hash: those that are the same, problems, notes."""
    same: list[Document] = []
    problems, notes, there = [], [], read_again(out, record, copies=False)
    for row in record["documents"]:
        name, found = row["document"], there.get(row["document"])
        if name == "-":
            notes.append("standard input is not there any more; its text stands in texts/.")
        if found is None:
            problems.append(f"{name}: cannot be read any more.")
        elif found.sha256 != row["sha256"]:
            problems.append(f"{name}: its text was changed after the audit.")
        else:
            same.append(found)
    return same, problems, notes


def read_again(out: Path, record: Record, *, copies: bool) -> dict[str, Document]:
    """The documents of an audit as they are now, by name; those that cannot be read are left out.

    Standard input, and with `copies` all that is no plain text, is read from the audit's folder.
    """
    found: dict[str, Document] = {}
    seen: set[str] = set()
    for row in record["documents"]:
        name = row["document"]
        source = name.rpartition("#")[0] if not is_there(name) and "#" in name else name
        if name == "-" or (copies and row["text_file"] is not None):
            found |= _kept_text(out, name, str(row["text_file"]))
        elif source not in seen:
            seen.add(source)
            with suppress(MnemoscopeError):
                reading = read_documents(
                    [source],
                    encoding=record["encoding"],
                    columns=record.get("columns"),
                )
                found |= {document.name: document for document in reading.documents}
    return found


def _kept_text(out: Path, name: str, file: str) -> dict[str, Document]:
    path = (out / "texts" / Path(file).name).resolve()
    if not path.is_relative_to(out.resolve()):
        return {}
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: Document(name, text, hashlib.sha256(data).hexdigest())}
