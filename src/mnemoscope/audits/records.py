"""The folder of an audit: `audit.json`, and the tables that it names."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

import polars as pl
from pydantic import NonNegativeInt
from typing_extensions import TypedDict

from mnemoscope.audits.passages import span_schema
from mnemoscope.audits.questions import QUESTIONS, settings_class
from mnemoscope.audits.settings import checked
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.files import file_sha256, read_parquet, read_record

SCHEMA_VERSION = 3
"""Of `audit.json` and the tables; raised when a column or key changes its meaning."""

RECORD = "audit.json"

PARTS = "parts"
"""Folder of what is done of an audit that is not finished."""


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
    encoding: str
    columns: NotRequired[dict[str, str]]
    documents: list[_Row]
    skipped: list[_Skipped]
    summary: _Whole
    files: dict[str, str]


def tables_of_audits() -> list[str]:
    """Names of the tables that an audit may have, without their ending."""
    return ["spans", *(name for name, one in QUESTIONS.items() if one.part("TABLE"))]


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
    """What `audit.json` holds, seen to be as it was written.

    Raises FileNotFoundError: no audit there. UserError: of another version of mnemoscope.
    DamagedDataError: unreadable, or changed since it was written.
    """
    record = read_record(out / RECORD, remedy="Make the audit again with --redo.")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{out / RECORD}: of another mnemoscope. Make the audit again.")
    return read_record(out / RECORD, Record, remedy="Make the audit again with --redo.")


def read_audit(out: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """Read `audit.json` and `spans.parquet` of a folder.

    Raises UserError: no audit there, or one of another version. DamagedDataError: a file that
    cannot be read.
    """
    check_is_audit(out)
    record = read_audit_record(out)
    try:
        frame = read_parquet(out / "spans.parquet").select(*span_schema())
        checked(settings_class(), record["settings"])
    except (ValueError, OSError, DamagedDataError, UserError, pl.exceptions.PolarsError) as error:
        raise DamagedDataError(f"{out}: cannot be read as an audit. Make it again.") from error
    return record, frame


def check_is_audit(out: Path) -> None:
    """Refuse a folder without an audit."""
    if not (out / RECORD).is_file():
        raise UserError(f"{out}: contains no audit (audit.json). Make one with 'mnemoscope audit'.")


def changed_tables(out: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with tables that are gone or not as they were written, by their names."""
    found = {}
    for name in tables_of_audits():
        path = out / f"{name}.parquet"
        if path.name not in record["files"]:
            continue
        if not path.is_file():
            found[name] = f"{path.name} is missing."
        elif file_sha256(path) != record["files"][path.name]:
            found[name] = f"{path.name} was changed after the audit."
    return found


def other_audit(out: Path) -> UserError:
    """What to say of a folder with another audit in it."""
    return UserError(
        f"{out}: holds an audit of other documents, settings or another model. Choose another "
        "folder with -o, or --redo to write over it."
    )
