"""Repeat an audit's spans and say whether they still hold: `mnemoscope audit --verify DIR`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.audit.chain import SCHEMA_VERSION, file_sha256
from mnemoscope.audit.continuing import continue_windows
from mnemoscope.audit.rule import rule_windows
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.texts import read_documents
from mnemoscope.errors import DamagedDataError, MnemoscopeError, UserError
from mnemoscope.lm.chat import in_chat
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["Verification", "read_audit", "verify_audit"]


class Verification(NamedTuple):
    """What came of it.

    Attributes:
        n_spans: spans of the audit.
        n_hold: spans whose window the model continues as recorded, with the same verdict.
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
    path = out / "audit.json"
    if not path.is_file():
        raise UserError(f"{out}: no audit in it (audit.json). Make one with 'mnemoscope audit'.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        later = record["schema_version"] > SCHEMA_VERSION
        frame = pl.read_parquet(out / "spans.parquet")
    except (ValueError, KeyError, TypeError, OSError, pl.exceptions.PolarsError) as error:
        raise DamagedDataError(f"{out}: cannot be read as an audit. Make it again.") from error
    if later:
        raise UserError(f"{path}: of a later mnemoscope. Upgrade it.")
    return record, frame


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
    """
    record, frame = read_audit(out)
    settings = AuditSettings(**record["settings"])
    problems, notes = _check_documents(record)
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
        holds = _repeat(lm, frame, settings)
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


def _check_documents(record: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Compare every document with its hash; what is said is (problems, notes)."""
    problems, notes, cache = [], [], dict[str, dict[str, str]]()
    for row in record["documents"]:
        name = row["document"]
        source = name.rpartition("#")[0] if not Path(name).exists() and "#" in name else name
        if name == "-":
            notes.append("standard input is not there any more; its text stands in texts/.")
            continue
        if source not in cache:
            cache[source] = _hashes(source, record)
        found = cache[source].get(name)
        if found is None:
            problems.append(f"{name}: cannot be read any more.")
        elif found != row["sha256"]:
            problems.append(f"{name}: its text was changed after the audit.")
    return problems, notes


def _hashes(source: str, record: dict[str, Any]) -> dict[str, str]:
    try:
        reading = read_documents([source], encoding=record.get("encoding", "utf-8"))
    except MnemoscopeError:
        return {}
    return {document.name: document.sha256 for document in reading.documents}
