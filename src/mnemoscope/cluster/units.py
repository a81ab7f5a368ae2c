"""Units of work: pure functions of their inputs, each with a key; their results are kept by it.

What a unit makes is kept under its key, as files with their checksums and a record that is written
last. So a killed run finds again what it finished, parts of the work may be done in several folders
that are then copied together, and where a unit runs changes nothing.
"""

import hashlib
import io
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import polars as pl
from typing_extensions import TypedDict

from mnemoscope.errors import first_line
from mnemoscope.parse import MOST_BYTES, open_regular, parse_json
from mnemoscope.progress import SILENT, Progress, say
from mnemoscope.store import CHANGED, Facts, Store, check_record

T = TypeVar("T")


class Unit(Protocol):
    """A piece of work, sent to other processes as it is.

    Attributes:
        key: hash of everything that decides what it makes; its files are named by it.
        size: how much of the work it is, in the unit of the progress bar.
    """

    @property
    def key(self) -> str:
        """Hash of everything that decides what it makes."""

    @property
    def size(self) -> int:
        """Share of the work."""

    def run(self, context: Any, progress: Progress) -> Mapping[str, Any]:
        """Make its results by name, with what its process has loaded.

        Tables and bytes are kept as files (`KEY.NAME`), everything else, which must be fit for
        JSON, in the unit's record.
        """


@dataclass(frozen=True)
class Result:
    """What a unit made.

    Attributes:
        key: of the unit.
        files: tables, and other files as the path where they are kept, or as bytes where the
            store is no folder of this machine.
        values: everything else.
        sha256: of each file that is kept.
    """

    key: str
    files: Mapping[str, "pl.DataFrame | bytes | Path"] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def table(self) -> pl.DataFrame:
        """The result of a unit that makes one table."""
        table = self.files["parquet"]
        assert isinstance(table, pl.DataFrame)
        return table


@dataclass(frozen=True)
class Share:
    """One of `n` equal shares of the work; `number` counts from 1."""

    number: int = 1
    n: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.n}"

    def of(self, units: Sequence[T]) -> list[T]:
        """Every n-th unit."""
        return list(units[self.number - 1 :: self.n])


ALL = Share()


class Opened:
    """The context that the units of one process share (a model, a study), loaded when first asked.

    A pickled copy does not carry it, so every process loads its own.
    """

    def __init__(self, load: Callable[[], Any], loaded: Any = None) -> None:
        self._load, self._loaded = load, loaded
        self.name: str = uuid.uuid4().hex  # under which a process knows it

    def __call__(self) -> Any:
        """What is loaded."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_loaded": None}


@dataclass(frozen=True)
class Needs:
    """What units need of where they run.

    Attributes:
        processes: of this machine, 0 for one a core; one is this process. A cluster uses as many
            workers as fit.
        threads: of each; None for as many as this process uses.
        gpus: of each worker of a cluster.
    """

    processes: int = 1
    threads: int | None = None
    gpus: float = 0.0


@dataclass(frozen=True)
class Together:
    """Units that are made in one go, each kept under its own key: a unit itself.

    It is finished when all of them are, and made whole if one is missing: what a unit gives may
    depend, by rounding, on those beside it. `make` gives the results in order.
    """

    units: tuple[Unit, ...]
    make: Callable[[Sequence[Any], Any, Progress], Sequence[Mapping[str, Any]]]

    @property
    def key(self) -> str:
        """Of all."""
        return hashlib.sha256(" ".join(one.key for one in self.units).encode()).hexdigest()[:20]

    @property
    def size(self) -> int:
        """Of all."""
        return sum(one.size for one in self.units)

    def run(self, context: Any, progress: Progress) -> Mapping[str, Any]:
        """What each makes, by its key."""
        made = self.make(self.units, context, progress)
        return {one.key: each for one, each in zip(self.units, made, strict=True)}


# -- what is kept -----------------------------------------------------------------------------


class _UnitRecord(TypedDict):
    values: dict[str, Any]


class UnitStore(Store):
    """The results of units in a folder of this machine, each an artefact named by its key."""

    def __init__(self, url: str | Path, owner: Mapping[str, str] | None = None) -> None:
        super().__init__(Path(url), partial(dict, owner or {}))
        self.url: str = str(url)

    def has(self, key: str) -> bool:
        """Whether a unit is finished; `get` sees whether it is whole."""
        return self.read(f"{key}.json", MOST_BYTES) is not None

    def get(self, key: str) -> Result | None:
        """The results of a unit; None if it is not finished, or damaged, which is said."""
        record = None
        try:
            record = self.found(key, shape=_UnitRecord)
            sums = {file.removeprefix(f"{key}."): sha for file, sha in record["files"].items()}
            sizes = record["sizes"]
            files = {
                name: self._whole(key, name, sha, sizes.get(f"{key}.{name}", 0))
                for name, sha in sums.items()
            }
            return Result(key, files, record["values"], sums)
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            if record is not None or not isinstance(error, FileNotFoundError):
                say(f"{self.url}/{key}: damaged ({first_line(error)}); recomputing it.")
            return None

    def put(self, key: str, made: Mapping[str, Any]) -> Result:  # type: ignore[override]
        """Keep the results of a unit, whole or not at all. NoRoomError: there is no room."""
        files, values = {}, {}
        with self.making(key) as kept:
            for name, value in made.items():
                if not isinstance(value, pl.DataFrame | bytes):
                    values[name] = value
                    continue
                kept.put(f"{key}.{name}", value)
                files[name] = self.place(key, name, value) if isinstance(value, bytes) else value
            kept.facts |= {"key": key, "values": values}
        sums = {file.removeprefix(f"{key}."): sha for file, sha in kept.files.items()}
        return Result(key, files, values, sums)

    def drop(self, key: str, result: Result) -> None:
        """Remove a unit."""
        for name in ("json", *result.sha256):
            self.remove(f"{key}.{name}")

    def all_keys(self) -> list[str]:
        """The keys of all finished units."""
        return [name.removesuffix(".json") for name in self.names() if name.endswith(".json")]

    def _whole(self, key: str, name: str, sha256: str, size: int) -> "pl.DataFrame | bytes | Path":
        data = self.read(f"{key}.{name}", size + 1)
        if data is None:
            raise ValueError(f"{name} is missing")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"{name}: {CHANGED}")
        if name.endswith("parquet"):
            return pl.read_parquet(io.BytesIO(data))
        return self.place(key, name, data)

    def read_record(self, name: str) -> Facts:
        """As of `Store`, but read anew each time."""
        if (data := self.read(f"{name}.json", MOST_BYTES + 1)) is None:
            raise FileNotFoundError(f"{name}.json")
        check_record(found := parse_json(data))
        return dict(found)

    # Where files are; another kind of store says these otherwise, `write` and `remove` too.

    def place(self, key: str, name: str, data: bytes) -> "bytes | Path":  # noqa: ARG002
        """A file that is kept: its path, or its content where it has no path."""
        return self.folder / f"{key}.{name}"

    def read(self, file: str, most: int | None = None) -> bytes | None:
        """The content of a file, or so many bytes of it; None if it is not there."""
        try:
            with open(self.folder / file, "rb", opener=open_regular) as handle:
                return handle.read(-1 if most is None else most)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """The names of all files."""
        return [path.name for path in self.folder.glob("[!.]*")]

    def remove_all(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def do_unit(
    unit: Unit, store: UnitStore | None, context: Opened, progress: Progress = SILENT
) -> Result:
    """Run one unit in this process and keep what it makes."""
    return keep_unit(unit, store, run_unit(unit, context, progress))


def run_unit(unit: Unit, context: Opened, progress: Progress = SILENT) -> Mapping[str, Any]:
    """Run one unit in this process."""
    return unit.run(context(), progress)


def keep_unit(unit: Unit, store: UnitStore | None, made: Mapping[str, Any]) -> Result:
    """Keep what a unit has made; without a store it is a plain value."""
    if store is None:
        return Result("", {}, made)
    if isinstance(unit, Together):
        for one in unit.units:
            if store.get(one.key) is None:
                store.put(one.key, made[one.key])
        return Result(unit.key)
    return store.put(unit.key, made)


def has_unit(unit: Unit, store: UnitStore) -> bool:
    """Whether a unit is finished; `get_unit` sees whether it is whole."""
    parts = unit.units if isinstance(unit, Together) else (unit,)
    return all(store.has(one.key) for one in parts)


def get_unit(unit: Unit, store: UnitStore) -> Result | None:
    """The results of a unit, as `UnitStore.get`; of several together an empty one."""
    if not isinstance(unit, Together):
        return store.get(unit.key)
    return Result(unit.key) if all(store.get(one.key) for one in unit.units) else None
