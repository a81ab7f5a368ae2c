"""The folder of an audit: `audit.json`, and the files that it names."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

import polars as pl
from pydantic import NonNegativeInt
from typing_extensions import TypedDict

from mnemoscope.audits.passages import span_schema
from mnemoscope.audits.questions import settings_class
from mnemoscope.audits.settings import checked
from mnemoscope.errors import DamagedDataError, UserError, first_line
from mnemoscope.files import made_folder, read_parquet
from mnemoscope.store import Store

SCHEMA_VERSION = 3
"""Of `audit.json` and the tables; raised when a column or key changes its meaning."""

ARTEFACT = "audit"
RECORD = f"{ARTEFACT}.json"
SPANS = "spans.parquet"

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


def audit_store(out: Path) -> Store:
    """The store of an audit's folder: one artefact, `ARTEFACT`, of all its files."""
    return Store(out, remedy=lambda _: "make the audit again with --redo")


def prepare_folder(out: Path) -> None:
    """Make the audit's folder; errors as `made_folder`, and UserError: no place for an audit."""
    if (out / "study.yaml").exists():
        raise UserError(f"{out}: already holds a study. Choose another folder with -o.")
    if not os.access(made_folder(out), os.W_OK | os.X_OK):
        raise UserError(f"{out}: no permission to write here. Choose another place with -o.")
    for name in ("texts", PARTS, "study"):
        if (out / name).is_symlink():
            raise UserError(f"{out / name}: a link that leaves the output folder. Remove it.")


def read_audit_record(out: Path) -> dict[str, Any]:
    """What `audit.json` holds, seen to be as it was written.

    Raises UserError: no audit there, or one of another version of mnemoscope. DamagedDataError:
    unreadable, or changed since it was written.
    """
    store = audit_store(out)
    if store.record(ARTEFACT).get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{out / RECORD}: of another mnemoscope. Make the audit again.")
    return dict(store.record(ARTEFACT, shape=Record))


def read_audit(out: Path, *, as_it_is: bool = False) -> tuple[dict[str, Any], pl.DataFrame]:
    """Read `audit.json` and `spans.parquet` of a folder; the table also if changed, `as_it_is`.

    Raises UserError: no audit there, or one of another version. DamagedDataError: a file that
    cannot be read, or was changed.
    """
    check_is_audit(out)
    record, store = read_audit_record(out), audit_store(out)
    try:
        spans = read_parquet(out / SPANS) if as_it_is else store.frame(ARTEFACT, SPANS)
        checked(settings_class(), record["settings"])
        return record, spans.select(*span_schema())
    except (ValueError, OSError, UserError, pl.exceptions.PolarsError) as error:
        raise store.damaged(out, ARTEFACT, first_line(error)) from error


def check_is_audit(out: Path) -> None:
    """Refuse a folder without an audit."""
    if not (out / RECORD).is_file():
        raise UserError(f"{out}: contains no audit (audit.json). Make one with 'mnemoscope audit'.")


def changed_files(out: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with files that are gone or not as they were written, by their names."""
    found, store = {}, audit_store(out)
    for file in record["files"]:
        try:
            store.path(ARTEFACT, file, again=True)
        except (UserError, DamagedDataError) as error:
            found[file] = str(error)
    return found


def other_audit(out: Path) -> UserError:
    """What to say of a folder with another audit in it."""
    return UserError(
        f"{out}: holds an audit of other documents, settings or another model. Choose another "
        "folder with -o, or --redo to write over it."
    )
