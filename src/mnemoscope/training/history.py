"""What was seen, step by step, in Parquet: one file a check, so that a kill loses nothing.

A folder holds `windows.parquet` (what is watched), `watch.json` (of which windows, by which
versions) and `checks/step-N.parquet`: `window`, `is_memorized`, `right` (share of suffix tokens
that are the argmax after the true ones), `logprob` (mean a suffix token, nats) and, where the
windows were decoded, `memorization_score`.
"""

import re
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.files import read_parquet, read_record, write_parquet, write_record
from mnemoscope.training.windows import WatchedWindows

_FORMAT = 1
_PART = re.compile(r"step-(\d+)\.parquet")
_LIBRARIES = ("mnemoscope", "torch", "transformers")


@dataclass(frozen=True)
class History:
    """All checks of one run."""

    windows: pl.DataFrame = field(repr=False)  # of `WatchedWindows`
    checks: pl.DataFrame = field(repr=False)  # `step` and a check's columns, sorted by step
    run: str  # name of the run, or of the folder where none was recorded

    @property
    def steps(self) -> list[int]:
        """Steps at which was looked, rising."""
        return self.checks["step"].unique().sort().to_list()

    def joined(self) -> pl.DataFrame:
        """Checks with `source` and `class` of their window."""
        known = self.windows.select("window", "source", "class")
        return self.checks.join(known, on="window", how="left", maintain_order="left")


class HistoryWriter:
    """Adds checks to a folder, made where it is missing; opening it again goes on where it stood.

    The `facts` of the run are recorded in `watch.json`.

    Raises:
        UserError: the folder holds a history of other windows, or cannot be written to.
    """

    def __init__(self, folder: Path | str, windows: WatchedWindows, **facts: Any) -> None:
        self.folder = Path(folder)
        record = self.folder / "watch.json"
        if record.exists():
            if _read_record(self.folder)["windows"] != windows.digest:
                raise UserError(
                    f"{self.folder}: holds a history of other windows. Give another folder, or "
                    "watch the same texts with the same tokenizer."
                )
            return
        try:
            (self.folder / "checks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be made ({error.strerror}).") from error
        write_parquet(self.folder / "windows.parquet", windows.table)
        versions = {name: metadata.version(name) for name in _LIBRARIES}
        about = {"format": _FORMAT, "windows": windows.digest, "versions": versions}
        write_record(record, about | facts)

    def has(self, step: int) -> bool:
        """Whether a step has been looked at."""
        return self._path(step).exists()

    def add(self, step: int, check: pl.DataFrame) -> None:
        """Write one check, whole or not at all; a check of the same step is replaced."""
        write_parquet(self._path(step), check)

    def drop_after(self, step: int) -> int:
        """Forget checks after a step from which a run begins anew; gives how many they were."""
        late = [path for found, path in _parts(self.folder) if found > step]
        for path in late:
            path.unlink()
        return len(late)

    def _path(self, step: int) -> Path:
        return self.folder / "checks" / f"step-{step:09d}.parquet"


def read_history(folder: Path | str) -> History:
    """Read what a callback, a watch or `mnemoscope track` wrote.

    Raises:
        UserError: no history there, or no check in it yet.
        DamagedDataError: a file of it is torn.
    """
    folder = Path(folder)
    facts = _read_record(folder)
    checks = [
        _read(path).select(pl.lit(step, dtype=pl.Int64).alias("step"), pl.all())
        for step, path in _parts(folder)
    ]
    if not checks:
        raise UserError(f"{folder}: holds no check yet. Train on, or track checkpoints into it.")
    run = str(facts.get("run") or folder.resolve().name)
    return History(_read(folder / "windows.parquet"), pl.concat(checks, how="diagonal"), run)


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / "watch.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: holds no history of memorization (no watch.json). To look at checkpoints, "
            f"name what is watched: mnemoscope track {folder} --sequences PATH."
        )
    found = read_record(path, needed={}, remedy="Begin a new history.")
    if found.get("format") != _FORMAT:
        raise UserError(f"{path}: format {found.get('format')}, this version reads {_FORMAT}.")
    return found


def _parts(folder: Path) -> list[tuple[int, Path]]:
    """The checks of a folder by step, rising."""
    named = [(_PART.fullmatch(path.name), path) for path in (folder / "checks").glob("step-*")]
    return sorted((int(match[1]), path) for match, path in named if match)


def _read(path: Path) -> pl.DataFrame:
    try:
        return read_parquet(path)
    except (OSError, DamagedDataError) as error:
        raise DamagedDataError(f"{path}: cannot be read. Delete it; the others stay.") from error
