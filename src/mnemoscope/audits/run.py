"""Audit documents: `mnemoscope audit MODEL DOCUMENTS -o DIR`.

One way for a model that runs here (`local`) and one behind an API (`service`): windows, spans,
evidence, then `spans.parquet`, `audit.html` and, last, `audit.json`: a folder with `audit.json`
holds a whole audit.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired

import polars as pl
from pydantic import NonNegativeInt
from typing_extensions import TypedDict

from mnemoscope.audits.documents import Document, Reading
from mnemoscope.audits.evidence import AuditedModel, span_table
from mnemoscope.audits.near import begun_right, near_table
from mnemoscope.audits.ordinary import ask_ordinary, prompts_sha256, summarize_ordinary
from mnemoscope.audits.origins import find_origins, open_asked
from mnemoscope.audits.page import (
    REPORT_FILE,
    render_brief,
    render_page,
    sarif_log,
    summarize_profile,
)
from mnemoscope.audits.rule import overall, summarize
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.spans import Place, coarse_starts, fine_starts, spans_of
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.files import (
    file_sha256,
    read_record,
    write_json,
    write_parquet,
    write_record,
    write_text,
)
from mnemoscope.progress import say
from mnemoscope.study.folder import versions


class _Part(TypedDict):
    characters: NonNegativeInt
    share: float
    low: NotRequired[float | None]
    high: NotRequired[float | None]


class _Counts(TypedDict):
    characters: NonNegativeInt
    windows: NonNegativeInt
    guess_spans: NonNegativeInt
    recall_spans: NonNegativeInt
    near_spans: NotRequired[NonNegativeInt | None]
    reproduced: _Part
    guessed: _Part
    recalled: _Part
    near: NotRequired[_Part]


class _Row(_Counts):
    document: str
    sha256: str
    text_file: str | None
    is_too_short: bool


class _Skipped(TypedDict):
    document: str
    reason: str


class _Whole(_Counts):
    documents: NonNegativeInt


class _Model(TypedDict):
    name: str
    revision: str | None
    dtype: str | None
    fingerprint: str | None
    files: NotRequired[dict[str, str]]


class _Cnn(TypedDict):
    reason: str | None


class _Api(TypedDict):
    endpoint: str
    settings: dict[str, Any]
    pieces: Literal["tokens", "words"]
    tokenizer: str | None
    tokenizer_revision: str | None


class Record(TypedDict):
    """`audit.json`, as far as anything reads it."""

    schema_version: int
    key: str
    model: _Model
    reference: _Model | None
    cnn: _Cnn | None
    api: NotRequired[_Api]
    settings: dict[str, Any]
    encoding: NotRequired[str]
    columns: NotRequired[dict[str, str]]
    documents: list[_Row]
    skipped: list[_Skipped]
    summary: _Whole
    spans_sha256: str
    near_sha256: NotRequired[str]
    profile_sha256: NotRequired[str]
    origins_sha256: NotRequired[str]
    ordinary_sha256: NotRequired[str]


SCHEMA_VERSION = 2
"""Of `audit.json` and `spans.parquet`; raised when a column or key changes its meaning."""

RECORD = "audit.json"

PARTS = "parts"
"""Folder of what is done of an audit that is not finished."""

TABLES = ("near", "profile", "origins", "ordinary")
"""Tables beside the spans, each in a file of its name where it was asked for."""

_READERS = ("pypdf", "python-docx", "inscriptis")
_MODEL_FILES = ("*.safetensors", "*.json", "*.gguf", "*.model")


def audit(
    model: AuditedModel,
    reading: Reading,
    out: Path,
    *,
    command: Sequence[str] = (),
    redo: bool = False,
) -> dict[str, Any]:
    """Audit the documents of `reading`, which the model holds too; a stopped run goes on.

    Gives what `audit.json` holds. `command` is recorded; `redo` writes over an audit of other
    documents or settings. Raises UserError: another audit is in the folder, or no document is as
    long as a window.
    """
    prepare_folder(out)
    check_long_enough(model)
    key = _key(model)
    done = _finished_audit(out, model, redo=redo)
    if done is not None:
        say(f"{out}: this audit is already there.")
        return done
    model.resume(out, key)
    windows = scan_windows(model)
    spans = spans_of(model.tokenizer, model.tokens, windows, model.settings, model.extend)
    frame = span_table(model.documents, model.tokens, spans, model.gather(spans), model.settings)
    asked = {"near": _near_copies(model, windows, frame), "profile": model.profile()}
    if model.settings.corpus is not None:
        frame, asked["origins"] = find_origins(model, frame)
    if model.settings.ordinary is not None:
        asked["ordinary"] = ask_ordinary(model)
    tables = {name: table for name, table in asked.items() if table is not None}
    record = {
        "schema": "mnemoscope audit",
        "schema_version": SCHEMA_VERSION,
        "key": key,
        "command": [one.encode("utf-8", "backslashreplace").decode() for one in command],
        "versions": versions("tokenizers", *_READERS),
        **model.facts(frame),
        "settings": model.settings.model_dump(),
        "encoding": reading.encoding,
        **({"columns": dict(reading.columns)} if reading.columns else {}),
        **_summaries(model, reading, windows, frame, tables),
    }
    write_audit(out, record, reading.documents, frame, tables)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return record


def scan_windows(model: AuditedModel) -> pl.DataFrame:
    """Continue every stride-th window, then every window around a find, in their order."""
    coarse = model.continue_at(coarse_places(model), around=False)
    places = [
        (number, first)
        for number, tokens in enumerate(model.tokens)
        for first in fine_starts(
            coarse.filter(pl.col("document") == number), len(tokens.ids), model.settings
        )
        if model.is_whole((number, first))
    ]
    fine = model.continue_at(places, around=True)
    return pl.concat([coarse, fine]).sort("document", "first")


def coarse_places(model: AuditedModel) -> list[Place]:
    """Every stride-th window; one whose prompt may not end there moves on to the next that may."""
    found: list[Place] = []
    for number, tokens in enumerate(model.tokens):
        starts = coarse_starts(len(tokens.ids), model.settings)
        places = set()
        for start in starts:
            possible = ((number, one) for one in range(start, starts[-1] + 1))
            places.add(next((place for place in possible if model.is_whole(place)), None))
        found += sorted(place for place in places if place is not None)
    return found


def _near_copies(
    model: AuditedModel, windows: pl.DataFrame, frame: pl.DataFrame
) -> pl.DataFrame | None:
    """The table of near copies beside the spans; None where they are not asked about."""
    places = begun_right(windows)
    written = model.write_on(places) if model.settings.near_length else None
    return None if written is None else near_table(model, places, written, frame)


def _summaries(
    model: AuditedModel,
    reading: Reading,
    windows: pl.DataFrame,
    frame: pl.DataFrame,
    tables: Mapping[str, pl.DataFrame],
) -> dict[str, Any]:
    """Documents with their shares, what was passed over, the whole, and what tables hold."""
    rows, near = [], tables.get("near")
    for number, (document, own) in enumerate(zip(model.documents, model.tokens, strict=True)):
        spans = frame.filter(pl.col("document") == document.name)
        row = summarize(
            document.name,
            n_characters=len(document.text),
            n_tokens=len(own.ids),
            n_windows=windows.filter(pl.col("document") == number).height,
            spans=spans.select("start", "end", "verdict").rows(),
            near=None
            if near is None
            else near.filter(pl.col("document") == document.name)
            .select("start", "end", "verdict")
            .rows(),
        )
        row |= {
            "sha256": document.sha256,
            "text_file": f"texts/{number + 1:05d}.txt" if document.is_extracted else None,
            "is_too_short": len(own.ids) < model.settings.length,
        }
        rows.append(row)
    skipped = [{"document": one.name, "reason": one.reason} for one in reading.skipped]
    found = {"documents": rows, "skipped": skipped, "summary": overall(rows)}
    if "profile" in tables:
        found["profile"] = summarize_profile(tables["profile"], model.documents, model.settings)
    if "ordinary" in tables:
        found["ordinary"] = summarize_ordinary(
            tables["ordinary"], model.settings, is_chat=model.is_chat
        )
    return found


def write_audit(
    out: Path,
    record: dict[str, Any],
    documents: Sequence[Document],
    frame: pl.DataFrame,
    tables: Mapping[str, pl.DataFrame],
) -> None:
    """Write everything, `audit.json` last."""
    for row, document in zip(record["documents"], documents, strict=True):
        if row["text_file"] is not None:
            (out / "texts").mkdir(exist_ok=True)
            write_text(out / row["text_file"], document.text)
    for name in TABLES:
        (out / f"{name}.parquet").unlink(missing_ok=True)
    for name, table in {"spans": frame, **tables}.items():
        path = out / f"{name}.parquet"
        write_parquet(path, table)
        record[f"{name}_sha256"] = file_sha256(path)
    texts = {document.name: document.text for document in documents}
    write_text(out / "audit.html", render_page(record, frame, texts, tables))
    write_text(out / REPORT_FILE, render_brief(record, frame, tables))
    write_json(out / "audit.sarif", sarif_log(frame, texts))
    write_record(out / RECORD, record)


def check_long_enough(model: AuditedModel) -> None:
    """Refuse documents that are all shorter than one window."""
    longest, length = max((len(one.ids) for one in model.tokens), default=0), model.settings.length
    if longest < length:
        n = len(model.tokens)
        which = "the document is" if n == 1 else f"all {n} documents are"
        raise UserError(
            f"nothing to ask: {which} shorter than one window of {length} tokens (the "
            f"longest has {longest}). Give longer ones, or a smaller --prefix and --suffix."
        )


def _key(model: AuditedModel, known: Container[str] = AuditSettings.model_fields) -> str:
    """Hash of all that decides an audit; settings that are not `known` count unless default."""
    defaults = type(model.settings)().model_dump()
    settings = model.settings.model_dump().items()
    facts = {
        "schema_version": SCHEMA_VERSION,
        **model.identity(),
        "settings": {k: v for k, v in settings if k in known or v != defaults[k]},
        "documents": [[document.name, document.sha256] for document in model.documents],
    }
    if model.settings.ordinary is not None:
        facts["prompts"] = prompts_sha256(model.settings.ordinary)
    if model.settings.corpus is not None and (corpus := open_asked(model)) is not None:
        facts["corpus"] = corpus.identity()
    whole = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for one in model.tokens:
        # Words may be cut otherwise and get the same numbers.
        places = one.starts.tobytes() if "endpoint" in facts else b""
        whole.update(hashlib.sha256(one.ids.tobytes() + places).digest())
    return whole.hexdigest()


def model_files(place: Path) -> dict[str, str]:
    """SHA-256 of each file of a local model (a folder or one file), by name; else empty."""
    if place.is_file():
        return {place.name: file_sha256(place)}
    found = sorted({path for pattern in _MODEL_FILES for path in place.glob(pattern)})
    return {path.name: file_sha256(path) for path in found if path.is_file()}


def prepare_folder(out: Path) -> None:
    """Make the audit's folder. Raises UserError: something is in the way, or no permission."""
    if (out / "study.yaml").exists():
        raise UserError(f"{out}: already holds a study. Choose another folder with -o.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{out}: a file is in the way. Choose another folder with -o.") from None
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}). Choose another.") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise UserError(f"{out}: no permission to write here. Choose another place with -o.")
    for name in ("texts", PARTS, "study"):
        if (out / name).is_symlink():
            raise UserError(f"{out / name}: a link that leaves the output folder. Remove it.")


def read_audit_record(out: Path) -> dict[str, Any]:
    """What `audit.json` holds, seen to be as it was written; of earlier versions, as it is.

    Raises FileNotFoundError: no audit there. DamagedDataError: unreadable, or changed since it was
    written.
    """
    return read_record(out / RECORD, Record, remedy="Make the audit again with --redo.")


def check_is_audit(out: Path) -> None:
    """Refuse a folder without an audit."""
    if not (out / "audit.json").is_file():
        raise UserError(f"{out}: contains no audit (audit.json). Make one with 'mnemoscope audit'.")


def _finished_audit(out: Path, model: AuditedModel, *, redo: bool) -> dict[str, Any] | None:
    """The audit that is already there, if it is this one; another one only goes with `redo`."""
    path = out / "audit.json"
    if not path.is_file():
        return None
    try:
        record = read_audit_record(out)
        is_this = record["key"] == _key(model, record["settings"])
    except (OSError, DamagedDataError):
        record, is_this = {}, False
    if is_this and (out / "audit.html").is_file() and not changed_tables(out, record):
        return dict(record)
    if not redo and is_this:
        raise UserError(
            f"{out}: files of this audit are missing or were changed. --redo makes it again."
        )
    if not redo:
        raise other_audit(out)
    path.unlink()
    return None


def changed_tables(out: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with tables that are gone or not as they were written, by their names."""
    found = {}
    for name in ("spans", *TABLES):
        path = out / f"{name}.parquet"
        if f"{name}_sha256" not in record:
            continue
        if not path.is_file():
            found[name] = f"{path.name} is missing."
        elif file_sha256(path) != record[f"{name}_sha256"]:
            found[name] = f"{path.name} was changed after the audit."
    return found


def other_audit(out: Path) -> UserError:
    """What to say of a folder with another audit in it."""
    return UserError(
        f"{out}: holds an audit of other documents, settings or another model. Choose another "
        "folder with -o, or --redo to write over it."
    )
