"""Parts of a stage: what one of several processes makes, beside the study, until all are there.

`mnemoscope continue STUDY --part 3/8` and `mnemoscope capture STUDY --part 3/8` write into
`STUDY/parts/STAGE/3-of-8/`; `mnemoscope merge STUDY` puts the parts together.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnemoscope.atomic_write import write_json
from mnemoscope.config import StudySettings, parse_settings
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.stages.halving import HALVED, halved_on_record
from mnemoscope.stages.models import Models, facts_of, reference_name
from mnemoscope.study import Study, hold_folder, versions

__all__ = ["Part", "PartRecord", "find_parts", "parse_part", "part_settings", "working_on"]

_TEXT = re.compile(r"(\d{1,6})/(\d{1,6})")
_FOLDER = re.compile(r"(\d{1,6})-of-(\d{1,6})")
_RECORD = "part.json"
_HALVED_FILE = "halved"


@dataclass(frozen=True)
class Part:
    """One of `n` equal shares of a stage's work; `number` counts from 1."""

    number: int
    n: int

    def __str__(self) -> str:
        return f"{self.number}/{self.n}"

    def is_mine(self, block: int) -> bool:
        """True of the blocks (counted from 0) that this part does."""
        return block % self.n == self.number - 1

    def folder(self, study: Study, stage: str) -> Path:
        """Where the part stands."""
        return study.folder / "parts" / stage / f"{self.number}-of-{self.n}"


@dataclass(frozen=True)
class PartRecord:
    """What a part says of itself: which part, in which folder, and the content of `part.json`."""

    part: Part
    folder: Path
    values: dict[str, Any]


def parse_part(text: str) -> Part:
    """Read `3/8`.

    Raises:
        UserError: no such form, or a number outside 1 to n.
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--part {text}: wants I/N with I from 1 to N, for example --part 3/8.")
    return Part(int(match[1]), int(match[2]))


@contextmanager
def working_on(
    study: Study, stage: str, part: Part, models: Models, *, roles: tuple[str, ...], redo: bool
) -> Iterator[Path]:
    """Hold a part's folder; its record is written first, and marked as finished last.

    Args:
        study: with the settings of this run; held by the caller.
        stage: `continue` or `capture`.
        part: which.
        models: loaded and checked here.
        roles: the models that the part needs.
        redo: throw away what an earlier run with other settings left.

    Yields:
        The part's folder.

    Raises:
        UserError: another process works on the part, or it was begun with other settings,
            another model, table or version; the first difference is named.
    """
    folder = part.folder(study, stage)
    folder.mkdir(parents=True, exist_ok=True)
    values = _values(study, stage, models, roles)
    with hold_folder(folder):
        if redo:
            _empty(folder)
        if (folder / _RECORD).is_file():
            record = read_record(part, folder)
            if difference := first_difference(record.values, values):
                raise UserError(
                    f"{folder}: begun with {difference}. Use the same, or --redo to begin anew."
                )
        write_json(folder / _RECORD, values | {"finished": False})
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        counts: dict[str, Any] = {}
        with halved_on_record(counts, folder / _HALVED_FILE):
            yield folder
        write_json(folder / _RECORD, values | counts | {"finished": True})


def read_record(part: Part, folder: Path) -> PartRecord:
    """Read what a part says of itself.

    Raises:
        DamagedDataError: it is not what a part writes.
    """
    path = folder / _RECORD
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not {"settings", "models", "versions", "table", "finished"} <= values.keys():
            raise ValueError("not what a part writes")
    except (OSError, ValueError, AttributeError):
        raise DamagedDataError(
            f"{path}: damaged or missing. Delete {folder} and run the part again."
        ) from None
    return PartRecord(part, folder, values)


def find_parts(study: Study, stage: str) -> list[PartRecord]:
    """All parts of a stage in order, once they are whole and fit together.

    Raises:
        UserError: parts of different numbers, one that is missing or not finished, or one that
            was made with other settings, another model, table or version than the first; or with
            another table than the study's.
    """
    folder = study.folder / "parts" / stage
    found = [(_FOLDER.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
    parts = sorted(
        ((Part(int(m[1]), int(m[2])), path) for m, path in found if m),
        key=lambda one: (one[0].n, one[0].number),
    )
    sizes = sorted({part.n for part, _ in parts})
    if len(sizes) > 1:
        raise UserError(
            f"{folder}: parts of {sizes[0]} and parts of {sizes[1]} stand here. "
            "Delete the folders of one kind."
        )
    there = {part.number for part, _ in parts}
    missing = [number for number in range(1, sizes[0] + 1) if number not in there] if sizes else []
    if missing:
        raise _lacking(study, stage, missing, sizes[0], "missing")
    records = [read_record(part, path) for part, path in parts]
    torn = [record.part.number for record in records if record.values["finished"] is not True]
    if torn:
        raise _lacking(study, stage, torn, sizes[0], "not finished")
    for record in records[1:]:
        if difference := first_difference(record.values, records[0].values):
            raise UserError(
                f"{record.folder}: does not fit part {records[0].part}: made with {difference}. "
                f"Run 'mnemoscope {stage} {study.folder} --part {record.part} --redo' with the "
                "settings of the others."
            )
    if records and records[0].values["table"] != table_digest(study):
        raise UserError(
            f"{records[0].folder}: made from another table of sequences than the study's. "
            "Delete the parts and run them again."
        )
    return records


def part_settings(record: PartRecord) -> StudySettings:
    """The settings that a part was made with."""
    return parse_settings(record.values["settings"], where=str(record.folder / _RECORD))


def first_difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """The first value that differs, in words; None where two parts fit together."""
    here, there = dict(_flat(found)), dict(_flat(wanted))
    for key in sorted(here.keys() | there.keys()):
        if key not in ("finished", HALVED) and here.get(key) != there.get(key):
            name = key.removeprefix("settings.")
            return f"{name} {here.get(key)!r} (here {there.get(key)!r})"
    return None


def table_digest(study: Study) -> str:
    """SHA-256 of the ids and tokens of a study's table, and of what is padding, where rows are."""
    table = study.sequences
    digest = hashlib.sha256(table["sequence_id"].to_numpy().tobytes())
    for column in ("tokens", "attention_mask"):
        if column in table.columns:
            digest.update(table[column].explode().to_numpy().astype("int32").tobytes())
    return digest.hexdigest()


def _values(study: Study, stage: str, models: Models, roles: tuple[str, ...]) -> dict[str, Any]:
    """What must be equal in all parts."""
    facts = {}
    for role in roles:
        loaded = models.model() if role == "model" else models.reference(None)
        assert loaded is not None
        name = study.settings.model.name if role == "model" else reference_name(study.settings)
        facts[role] = facts_of(loaded, str(name))
        study.check_model(role, facts[role])
    return {
        "stage": stage,
        "key": study.key(stage),
        "settings": study.settings.as_dict(),
        "models": facts,
        "versions": versions(),
        "table": table_digest(study),
    }


def _lacking(study: Study, stage: str, numbers: list[int], n: int, what: str) -> UserError:
    """The refusal to merge, with the command that makes the first part that is lacking."""
    named = ", ".join(str(number) for number in numbers[:10])
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    plural = "parts" if len(numbers) > 1 else "part"
    verb = "are" if len(numbers) > 1 else "is"
    return UserError(
        f"{study.folder}: {stage}, {plural} {named}{more} of {n} {verb} {what}. Run "
        f"'mnemoscope {stage} {study.folder} --part {numbers[0]}/{n}' first."
    )


def _empty(folder: Path) -> None:
    """Remove what a part holds, but not the lock that is held on it."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix in (".json", ".parquet") or path.name == _HALVED_FILE:
            path.unlink()


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys joined by dots."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
