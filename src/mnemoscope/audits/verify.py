"""Repeat an audit's spans and say whether they still hold: `mnemoscope audit --verify DIR`."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.audits.documents import Document, Words, character_range, read_documents
from mnemoscope.audits.evidence import LATER_COLUMNS, SPAN_COLUMNS, AuditedModel
from mnemoscope.audits.rule import decide
from mnemoscope.audits.run import (
    RECORD,
    SCHEMA_VERSION,
    changed_tables,
    check_is_audit,
    read_audit_record,
)
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.data.formats import is_there
from mnemoscope.errors import DamagedDataError, MnemoscopeError, UserError
from mnemoscope.files import read_parquet

_SAME_CHANCE = 1e-3
"""Another machine or batch rounds otherwise."""

Load = Callable[[dict[str, Any], Sequence[Document], AuditSettings], AuditedModel]
"""Gives the model that an audit's record speaks of, for documents and settings."""


class Verification(NamedTuple):
    """What came of it: spans, those that hold, what does not hold, what could not be checked.

    A span holds that stands in the document where the audit says, whose window the model continues
    as recorded, and whose verdict follows from what the grounds say.
    """

    n_spans: int
    n_hold: int
    problems: list[str]
    notes: list[str]


def read_audit(out: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """Read `audit.json` and `spans.parquet` of a folder.

    Raises UserError: no audit there, or one of a later version. DamagedDataError: a file that
    cannot be read.
    """
    check_is_audit(out)
    record = read_audit_record(out)
    try:
        later = record["schema_version"] > SCHEMA_VERSION
        frame = read_parquet(out / "spans.parquet")
        if not later:
            later_columns = [one for one in LATER_COLUMNS if one not in frame.columns]
            frame = frame.with_columns(
                pl.lit(None, LATER_COLUMNS[one]).alias(one) for one in later_columns
            ).select(*SPAN_COLUMNS)
            AuditSettings(**record["settings"])
    except (ValueError, OSError, DamagedDataError, pl.exceptions.PolarsError) as error:
        raise DamagedDataError(f"{out}: cannot be read as an audit. Make it again.") from error
    if later:
        raise UserError(f"{out / RECORD}: of a later mnemoscope. Upgrade it.")
    return record, frame


def verify_audit(out: Path, load: Load) -> Verification:
    """Repeat the spans of an audit with the model that `load` gives.

    Raises UserError: no audit there, or the model cannot be loaded. DamagedDataError: a file that
    cannot be read.
    """
    record, frame = read_audit(out)
    documents, problems, notes = _check_documents(out, record)
    changed = changed_tables(out, record)
    problems += changed.values()
    asked = record["settings"] | {"ordinary": None}  # no prompts are asked again
    model = load(record, documents, AuditSettings(**asked))
    if model.fingerprint is None:
        notes.append("the weights behind an API cannot be checked, only what it writes now.")
    elif model.fingerprint != record["model"]["fingerprint"]:
        problems.append(f"{model.name}: other weights than those that were audited.")
    rows = frame.rows(named=True)
    holds = [all(both) for both in zip(model.repeats(rows), _stands(model, rows), strict=True)]
    for row, ok in zip(rows, holds, strict=True):
        if not ok:
            problems.append(f"{row['document']}, {row['start']}-{row['end']}: does not hold.")
    for name, check in {"near": _check_near, "profile": _check_profile}.items():
        if f"{name}_sha256" in record and name not in changed:
            problems += check(out, model)
    return Verification(frame.height, sum(holds), problems, notes)


def _check_profile(out: Path, model: AuditedModel) -> list[str]:
    """Whether a profile comes out again; only where its documents are all there."""
    kept, again = read_parquet(out / "profile.parquet"), model.profile()
    if again is None or not set(kept["document"]) <= {one.name for one in model.documents}:
        return []
    places = ["document", "token", "prefix_tokens"]
    both = kept.join(again, on=places, how="left", suffix="_again")
    now, was = (both[f"extraction_logprob{end}"].exp() for end in ("_again", ""))
    n = int(((now - was).abs() > _SAME_CHANCE).fill_null(True).sum())
    return (
        [f"profile.parquet: {n:,} of {kept.height:,} chances do not come out again."] if n else []
    )


def _is_written(tokenizer: Any, written: list[int], row: dict[str, Any]) -> bool:
    """Whether a model writes a near copy again; words have other numbers each time."""
    if isinstance(tokenizer, Words):
        return row["written"] in tokenizer.decode(written)
    return bool(written == row["continuation_tokens"])


def _check_near(out: Path, model: AuditedModel) -> list[str]:
    """What of the near copies does not hold; those of documents that are gone are passed over."""
    numbers = {document.name: number for number, document in enumerate(model.documents)}
    near = read_parquet(out / "near.parquet").filter(pl.col("document").is_in(list(numbers)))
    rows = near.rows(named=True)
    places = [(numbers[row["document"]], row["window_token"]) for row in rows]
    return [
        f"{row['document']}, {row['start']}-{row['end']}: the near copy does not hold."
        for row, written in zip(rows, model.write_on(places) or [], strict=True)
        if not _is_written(model.tokenizer, written, row)
        or model.documents[numbers[row["document"]]].text[row["start"] : row["end"]] != row["text"]
    ]


def _stands(model: AuditedModel, rows: Sequence[dict[str, Any]]) -> list[bool]:
    """Whether the verdict of each span follows, and the document, where it is there, has it so."""
    numbers = {document.name: number for number, document in enumerate(model.documents)}
    found = []
    for row in rows:
        names = ("rule_says", "reference_says", "cnn_says", "grafts_say", "needs_say")
        is_so = row["verdict"] == decide(*(row[name] for name in names))
        number = numbers.get(row["document"])
        if number is not None:
            own, first = model.tokens[number], row["window_token"]
            last, text = first + model.settings.length, model.documents[number].text
            places = (row["window_start"], row["window_end"])
            is_so = is_so and text[row["start"] : row["end"]] == row["text"]
            is_so = is_so and first >= 0 and last <= len(own.ids)
            is_so = is_so and character_range(own, first, last) == places
            # The numbers of words mean nothing outside the audit that met them.
            is_same = own.ids[first:last].tolist() == row["window_tokens"]
            is_so = is_so and (is_same or isinstance(model.tokenizer, Words))
        found.append(is_so)
    return found


def _check_documents(
    out: Path, record: dict[str, Any]
) -> tuple[list[Document], list[str], list[str]]:
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


def read_again(out: Path, record: dict[str, Any], *, copies: bool) -> dict[str, Document]:
    """The documents of an audit as they are now, by name; those that cannot be read are left out.

    Standard input, and with `copies` all that is no plain text, is read from the audit's folder.
    """
    found: dict[str, Document] = {}
    seen: set[str] = set()
    for row in record["documents"]:
        name = row["document"]
        source = name.rpartition("#")[0] if not is_there(name) and "#" in name else name
        if name == "-" or (copies and row["text_file"] is not None):
            found |= _kept_text(out, row)
        elif source not in seen:
            seen.add(source)
            with suppress(MnemoscopeError):
                reading = read_documents(
                    [source],
                    encoding=record.get("encoding", "utf-8"),
                    columns=record.get("columns"),
                )
                found |= {document.name: document for document in reading.documents}
    return found


def _kept_text(out: Path, row: dict[str, Any]) -> dict[str, Document]:
    path = (out / "texts" / Path(str(row["text_file"])).name).resolve()
    if not path.is_relative_to(out.resolve()):
        return {}
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    return {row["document"]: Document(row["document"], text, hashlib.sha256(data).hexdigest())}
