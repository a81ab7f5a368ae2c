"""Where a study keeps the results of its analyses: `analysis/NAME/`, and the shelf beside them.

A result is valid for the settings and inputs that made it (its key); `result.json` is written
last, so a folder that has one is whole.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mnemoscope.analysis.figures import Chart, HeatMap
from mnemoscope.analysis.inputs import AnalysisResult, Shelf
from mnemoscope.analysis.registry import Entry, every_entry
from mnemoscope.errors import DamagedDataError
from mnemoscope.files import read_parquet, read_record, write_parquet, write_record
from mnemoscope.study.folder import Study, versions

RESULT_FILE = "result.json"


class StoredResult(BaseModel):
    """What `result.json` holds; the tables lie beside it as Parquet files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    key: str
    settings: dict[str, Any]
    inputs: dict[str, Any]
    sentence: str
    further: tuple[str, ...]
    figures: tuple[Annotated[Chart | HeatMap, Field(discriminator="kind")], ...]
    frames: dict[str, int] = Field(description="Rows of each table, by name.")
    seconds: float
    forward_passes: int
    versions: dict[str, Any]


def result_folder(study: Study, entry: Entry) -> Path:
    """Where the result of an analysis lies."""
    return study.folder / "analysis" / entry.name


def load_result(folder: Path) -> StoredResult | None:
    """Read a result, None where there is none; DamagedDataError where it cannot be read."""
    path = folder / RESULT_FILE
    if not path.is_file():
        return None
    remedy = f"Delete {folder} and run 'mnemoscope analyze' again."
    values = read_record(path, needed={}, remedy=remedy)
    try:
        return StoredResult.model_validate(values)
    except ValidationError:
        raise DamagedDataError(f"{path}: damaged (no result of ours). {remedy}") from None


def store_result(folder: Path, result: AnalysisResult, **facts: Any) -> StoredResult:
    """Write a result over whatever was there: tables first, `result.json` last.

    Args:
        folder: from `result_folder`.
        result: of the analysis.
        facts: `name`, `key` (the hash of all that decided it), `settings` and `inputs`.
    """
    if folder.is_dir():
        (folder / RESULT_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for table, frame in result.frames.items():
        write_parquet(folder / f"{table}.parquet", frame)
    stored = StoredResult(
        **facts,
        sentence=result.sentence,
        further=result.further,
        figures=result.figures,
        frames={table: frame.height for table, frame in result.frames.items()},
        seconds=result.cost.seconds,
        forward_passes=result.cost.forward_passes,
        versions=versions(*result.libraries),
    )
    write_record(folder / RESULT_FILE, stored.model_dump(mode="json"))
    return stored


def shelf_of(study: Study) -> Shelf:
    """The study's shelf: frames under `analysis/kept/`, named by the hash of their basis."""
    folder = study.folder / "analysis" / "kept"

    def keep(name: str, basis: Mapping[str, Any], make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        digest = hashlib.sha256(json.dumps([name, dict(basis)], sort_keys=True).encode())
        path = folder / f"{name}-{digest.hexdigest()[:20]}.parquet"
        if path.is_file():
            try:
                return read_parquet(path)
            except (OSError, DamagedDataError):
                path.unlink(missing_ok=True)  # it is made again
        frame = make()
        folder.mkdir(parents=True, exist_ok=True)
        write_parquet(path, frame)
        return frame

    return keep


def stored_results(study: Study) -> Iterator[tuple[Entry, StoredResult, Path]]:
    """Every result that the study holds, in the order of `every_entry`."""
    for entry in every_entry():
        folder = result_folder(study, entry)
        result = load_result(folder)
        if result is not None:
            yield entry, result, folder
