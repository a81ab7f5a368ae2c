"""Audit documents: `mnemoscope audit MODEL DOCUMENTS -o DIR`.

Windows, spans, evidence, then `spans.parquet`, `audit.html` and, last, `audit.json`: a folder
with `audit.json` holds a whole audit.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.atomic_write import write_json, write_text
from mnemoscope.audit.ask import ask_about, check_same_tokens
from mnemoscope.audit.chain import SCHEMA_VERSION, file_sha256, model_facts, record_head
from mnemoscope.audit.cnn_ground import CnnGround
from mnemoscope.audit.folder import finished_audit, other_audit, prepare_folder
from mnemoscope.audit.found import find_hits, frame_of, grown_spans, summaries
from mnemoscope.audit.growth import grow
from mnemoscope.audit.page import render_page
from mnemoscope.audit.parts import Parts
from mnemoscope.audit.sarif import sarif_log
from mnemoscope.audit.scan import scan_windows
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.texts import Document, Reading
from mnemoscope.audit.tokens import Tokens, tokenize
from mnemoscope.errors import UserError
from mnemoscope.lm.chat import in_chat
from mnemoscope.lm.language_model import LanguageModel, check_fits
from mnemoscope.parquet import write_parquet
from mnemoscope.progress import say, track

__all__ = [
    "audit_documents",
    "audit_spans",
    "check_audit",
    "check_long_enough",
    "write_audit",
]


def audit_documents(
    lm: LanguageModel,
    reading: Reading,
    out: Path,
    *,
    settings: AuditSettings | None = None,
    reference: LanguageModel | None = None,
    cnn: CnnGround | None = None,
    command: Sequence[str] = (),
    names: dict[str, str] | None = None,
    redo: bool = False,
) -> dict[str, Any]:
    """Audit documents and write the audit.

    Args:
        lm: the audited model, with its tokenizer.
        reading: the documents, from `read_documents`.
        out: folder of the audit; a run that was stopped there goes on.
        settings: of the audit; None takes the defaults.
        reference: a model that cannot have seen the documents, or None.
        cnn: the CNNs of a study of the audited model, or None.
        command: recorded, so that someone else can repeat it.
        names: what `model` and `reference` were called, where that is not their path.
        redo: write over an audit of other documents or settings.

    Returns:
        What `audit.json` holds.

    Raises:
        UserError: another audit is in the folder, a reference of another family, a model without
            tokenizer or with too few positions, no document as long as a window.
    """
    settings = settings or AuditSettings()
    prepare_folder(out)
    if settings.chat_template:
        lm = in_chat(lm, settings.instruction)
    _check_models(lm, reference, settings)
    tokens = _tokenize(reading.documents, lm)
    check_long_enough(tokens, settings)
    key = _key(lm, reference, reading.documents, tokens, settings, cnn)
    done = finished_audit(out, key, redo=redo)
    if done is not None:
        say(f"{out}: this audit is already there.")
        return done
    parts = Parts(out, key)
    windows = scan_windows(lm, tokens, settings=settings, parts=parts)
    frame = audit_spans(
        lm, reading.documents, tokens, windows, settings=settings, reference=reference, cnn=cnn
    )
    names = {"model": lm.name, "reference": reference.name if reference else "", **(names or {})}
    head = record_head(
        key,
        command,
        settings,
        reading.encoding,
        model=model_facts(lm, names["model"]),
        reference=None if reference is None else model_facts(reference, names["reference"]),
        cnn=None if cnn is None else cnn.facts,
    )
    record = head | summaries(reading, tokens, windows, frame, settings)
    write_audit(out, record, reading.documents, frame)
    parts.remove()
    return record


def audit_spans(
    lm: LanguageModel,
    documents: Sequence[Document],
    tokens: Sequence[Tokens],
    windows: pl.DataFrame,
    *,
    settings: AuditSettings,
    reference: LanguageModel | None = None,
    cnn: CnnGround | None = None,
) -> pl.DataFrame:
    """Make the table of spans from continued windows.

    Args:
        lm: the audited model.
        documents: their texts.
        tokens: their tokens.
        windows: from `scan_windows`.
        settings: of the audit.
        reference: a model of the same tokenizer, or None.
        cnn: the CNNs of a study of the audited model, or None.

    Returns:
        Columns `records.SPAN_COLUMNS`, in the order of documents and characters.
    """
    hits = find_hits(lm.tokenizer, tokens, windows, settings)
    spans = grown_spans(tokens, hits, lambda places: grow(lm, tokens, places, settings))
    asked = ask_about(lm, tokens, spans, settings=settings, reference=reference, cnn=cnn)
    return frame_of(documents, tokens, spans, asked, settings)


def _check_models(
    lm: LanguageModel, reference: LanguageModel | None, settings: AuditSettings
) -> None:
    if lm.tokenizer is None:
        raise UserError(f"{lm.name}: has no tokenizer. Save it with the model.")
    check_fits(lm, settings.length)
    if reference is not None:
        check_same_tokens(lm, reference)
        check_fits(reference, settings.length)


def _tokenize(documents: Sequence[Document], lm: LanguageModel) -> list[Tokens]:
    with track("Tokenizing", total=len(documents), unit="documents") as progress:
        found = []
        for document in documents:
            found.append(tokenize(document.text, lm.tokenizer))
            progress.advance()
    return found


def check_long_enough(tokens: Sequence[Tokens], settings: AuditSettings) -> None:
    """Refuse documents of which nothing can be asked.

    Args:
        tokens: of every document.
        settings: of the audit.

    Raises:
        UserError: all are shorter than one window.
    """
    longest = max((len(one.ids) for one in tokens), default=0)
    if longest < settings.length:
        which = "the document is" if len(tokens) == 1 else f"all {len(tokens)} documents are"
        raise UserError(
            f"nothing to ask: {which} shorter than one window of {settings.length} tokens (the "
            f"longest has {longest}). Give longer ones, or a smaller --prefix and --suffix."
        )


def _key(
    lm: LanguageModel,
    reference: LanguageModel | None,
    documents: Sequence[Document],
    tokens: Sequence[Tokens],
    settings: AuditSettings,
    cnn: CnnGround | None,
) -> str:
    """Hash of everything that decides what an audit says."""
    whole = hashlib.sha256()
    facts = {
        "schema_version": SCHEMA_VERSION,
        "model": [lm.fingerprint, lm.dtype, lm.bos_id],
        "reference": reference and [reference.fingerprint, reference.dtype, reference.bos_id],
        "settings": settings.model_dump(),
        "documents": [[document.name, document.sha256] for document in documents],
    }
    if cnn is not None:
        facts["cnn"] = {name: fact for name, fact in cnn.facts.items() if name != "study"}
    whole.update(json.dumps(facts, sort_keys=True).encode())
    for one in tokens:
        whole.update(hashlib.sha256(one.ids.tobytes()).digest())
    return whole.hexdigest()


def check_audit(
    lm: LanguageModel,
    reading: Reading,
    out: Path,
    settings: AuditSettings,
    reference: LanguageModel | None,
    *,
    redo: bool,
) -> None:
    """Refuse what `audit_documents` would refuse, before a study is made for it at length.

    Args:
        lm: as `audit_documents`.
        reading: as there.
        out: as there.
        settings: as there.
        reference: as there.
        redo: as there.

    Raises:
        UserError: as there; an audit that asked no study is another one than is wanted.
    """
    _check_models(lm, reference, settings)
    check_long_enough(_tokenize(reading.documents, lm), settings)
    if redo or not (out / "audit.json").is_file():
        return
    try:
        asked = json.loads((out / "audit.json").read_text(encoding="utf-8"))["cnn"]
    except (OSError, ValueError, KeyError, TypeError):
        asked = None
    if asked is None:
        raise other_audit(out)


def write_audit(
    out: Path, record: dict[str, Any], documents: Sequence[Document], frame: pl.DataFrame
) -> None:
    """Write everything, `audit.json` last."""
    for row, document in zip(record["documents"], documents, strict=True):
        if row["text_file"] is not None:
            (out / "texts").mkdir(exist_ok=True)
            write_text(out / row["text_file"], document.text)
    write_parquet(out / "spans.parquet", frame)
    record["spans_sha256"] = file_sha256(out / "spans.parquet")
    texts = {document.name: document.text for document in documents}
    write_text(out / "audit.html", render_page(record, frame, texts))
    write_json(out / "audit.sarif", sarif_log(frame, texts))
    write_json(out / "audit.json", record)
