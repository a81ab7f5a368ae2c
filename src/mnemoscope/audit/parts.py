"""Keep what an unfinished audit has done, part by part, so that a killed one goes on.

A part that exists is complete; parts of other settings, documents or another model are not used.
"""

import json
import shutil
from pathlib import Path

import polars as pl

from mnemoscope.atomic_write import write_json
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.parquet import read_parquet, write_parquet

__all__ = ["Parts"]

_KEY_FILE = "key.json"


class Parts:
    """The folder `parts/` of an audit.

    Args:
        out: the audit's folder.
        key: hash of everything that decides what the parts hold.

    Raises:
        UserError: the folder is a link, so that parts would be written elsewhere.
    """

    def __init__(self, out: Path, key: str) -> None:
        self._folder = out / "parts"
        if self._folder.is_symlink():
            raise UserError(f"{self._folder}: a link that leaves the output folder. Remove it.")
        if self._folder.exists() and _read_key(self._folder) != key:
            self.remove()
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._folder / _KEY_FILE, {"key": key})

    def read(self, name: str) -> pl.DataFrame | None:
        """A part that an earlier run finished, None where there is none."""
        path = self._folder / f"{name}.parquet"
        try:
            return read_parquet(path) if path.is_file() else None
        except (OSError, DamagedDataError):
            return None  # torn or altered since: it is made again

    def write(self, name: str, frame: pl.DataFrame) -> None:
        """Keep a finished part."""
        write_parquet(self._folder / f"{name}.parquet", frame)

    def remove(self) -> None:
        """Leave nothing of the parts, once the audit stands."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _read_key(folder: Path) -> str | None:
    try:
        found = json.loads((folder / _KEY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("key") if isinstance(found, dict) else None
