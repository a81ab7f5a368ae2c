"""The study: one folder with everything a run made, and a manifest for each stage.

A stage's output is valid for the settings and inputs that made it; its manifest, written last,
holds their hash.
"""

import hashlib
import itertools
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from html import escape
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import BaseFileLock, FileLock, Timeout

from mnemoscope.errors import DamagedDataError, UserError, first_line
from mnemoscope.files import (
    NO_ROOM,
    check_shape,
    digest,
    disk_full,
    made_folder,
    parquet_bytes,
    read_parquet,
    read_record,
    seal_of,
    write_bytes,
    write_record,
    write_text,
)
from mnemoscope.parse import parse_json, parse_yaml, read_bounded
from mnemoscope.plugins import Plugin
from mnemoscope.study.records import Manifest, Seals, WithRecord
from mnemoscope.study.settings import StudySettings, parse_settings
from mnemoscope.study.stages import STAGES, TABLE_FILE, Stage, stage_named
from mnemoscope.version import __version__

if TYPE_CHECKING:
    import polars as pl

STUDY_VERSION = 1
SETTINGS_FILE = "study.yaml"
LOCK_FILE = ".lock"
TABLES_RECORD = "tables.json"
# Settings added later, each with the value that leaves a stage's output as it was before. A study
# whose file lacks one has this value.
NEUTRAL: dict[str, Any] = {
    "model.device_map": None,
    "sequences.pad": False,
    "sequences.also": [],
    "sequences.columns": {},
    "sequences.prefix": None,
    "sequences.suffix": None,
    "label.both_splits": False,
    "capture.per_head": False,
    "train.device": "cpu",
    "benchmark.control_taxonomies": None,
    "benchmark.control_settings": 1,
    "localize.attribution_sequences": 32,  # gradient and guided always read all
    "localize.seed": 0,
    "localize.correct_only": True,
    "localize.sanity": True,
    "localize.rankings": ["value_norm_contrast"],
    "knockout.by": "delta",
    "knockout.own_edges": 8,
    "graft.patch": False,
    "graft.patch_blocks": 4,
}

_TEMPORARY = [
    f"{one}.*.tmp" for one in ("", "cnn/", "graft/", "knockout/", "manifests/", "units/*/")
]
"""What killed processes leave."""
_NAMING = ("label.taxonomies", "search.nodes", "search.beside")


class Study:
    """A study folder: its settings, its table, its stages.

    Raises:
        UserError: the folder is missing or is not a study.
        DamagedDataError: `study.yaml` cannot be read.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._tables: dict[str, tuple[tuple[int, ...], pl.DataFrame]] = {}
        self._known_seals: tuple[tuple[int, ...], dict[str, list[str]]] = (), {}
        self._read_settings()

    def _read_settings(self) -> None:
        path = self.folder / SETTINGS_FILE
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder. Make a study with 'mnemoscope run'.")
        if not path.is_file():
            raise UserError(
                f"{self.folder}: not a study (it holds no {SETTINGS_FILE}). "
                "Make one with 'mnemoscope run', or name the right folder."
            )
        try:
            values = parse_yaml(read_bounded(path))
            check_shape(values, WithRecord)
            self.record: dict[str, Any] = values.pop("record")
        except (OSError, ValueError) as error:
            raise DamagedDataError(
                f"{path}: damaged ({first_line(error)}). Restore it from a copy, "
                "or make the study anew in another folder."
            ) from None
        if self.record.get("study_version") != STUDY_VERSION:
            raise UserError(
                f"{path}: study version {self.record.get('study_version')}, this program knows "
                f"{STUDY_VERSION}. Use the mnemoscope that made it."
            )
        for key, value in NEUTRAL.items():  # an earlier version knew no such setting
            room, name = key.split(".")
            if isinstance(values.setdefault(room, {}), dict):  # else it is refused in a moment
                values[room].setdefault(name, value)
        self.settings = parse_settings(values, where=str(path))

    @classmethod
    def create(cls, folder: Path | str, settings: StudySettings) -> "Study":
        """Create an empty study in a new or empty folder; errors as `check_free`."""
        folder = Path(folder)
        check_free(folder)
        made_folder(folder)
        record = {"study_version": STUDY_VERSION, "versions": versions(), "models": {}}
        _write_settings(folder, settings, record)
        return cls(folder)

    def __repr__(self) -> str:
        done = [stage.name for stage in STAGES if self.is_done(stage.name)]
        return f"Study({str(self.folder)!r}, done={done})"

    def _repr_html_(self) -> str:
        """A line a stage, for a notebook."""
        rows = "".join(
            f"<tr><td>{stage.name}</td><td>{'done' if self.is_done(stage.name) else '–'}</td></tr>"
            for stage in STAGES
        )
        return f"<b>Study</b> <code>{escape(str(self.folder))}</code><table>{rows}</table>"

    def __dir__(self) -> list[str]:
        """What a reader of a study wants, for completion; the rest is for the stages."""
        tables = ["sequences", "labels", "samples", "predictions", "benchmark", "comparison"]
        return ["folder", "is_done", "read", "seconds", "settings", *tables]

    # -- settings ---------------------------------------------------------------------------

    def adopt(self, settings: StudySettings, *, redo: bool = False) -> None:
        """Adopt new settings; with `redo`, drop stages made with others and what depends on them.

        Raises:
            UserError: a finished stage was made with other settings and `redo` is False; or the
                sequences or the model's name differ, which needs a new study.
        """
        for name in self.changed_stages(settings, redo=redo):
            self.forget(name)
        self._drop_unfinished(settings)
        self.settings = settings
        _write_settings(self.folder, settings, self.record)

    def changed_stages(self, settings: StudySettings, *, redo: bool = False) -> list[str]:
        """Finished stages that new settings would drop; arguments and errors as `adopt`."""
        changed = {
            stage.name: self._differences(stage, settings)
            for stage in STAGES
            if self.manifest(stage.name)
        }
        changed = {name: lines for name, lines in changed.items() if lines}
        if changed and (not redo or "sequences" in changed):
            name, lines = next(iter(changed.items()))
            remedy = ", or --redo to make it and what follows anew" if name != "sequences" else ""
            raise UserError(
                f"{self.folder}: stage '{name}' was made with other settings: {'; '.join(lines)}. "
                f"Use another folder{remedy}."
            )
        return list(changed)

    def _drop_unfinished(self, settings: StudySettings) -> None:
        """Drop what an interrupted stage made with other settings."""
        changed = self._differences(stage_named("continue"), settings)
        if not all(line.startswith("continue.") for line in changed):  # that decides verdicts alone
            self.forget("continue")
        if settings.capture.reference != self.settings.capture.reference:
            self.record["models"].pop("reference", None)
            for maps in self.folder.glob("maps/reference*"):  # pooled, and of all heads
                shutil.rmtree(maps, ignore_errors=True)

    def _differences(self, stage: Stage, settings: StudySettings) -> list[str]:
        """`key: study has x, you asked y` for each setting of the stage that differs."""
        old, new = _flatten(self.settings, stage), _flatten(settings, stage)
        return [
            f"{key}: the study has {old.get(key)!r}, you asked {new.get(key)!r}"
            for key in {**old, **new}
            if old.get(key) != new.get(key)
        ]

    def remember_model(self, role: str, facts: dict[str, Any]) -> None:
        """Record which model (`facts_of`) serves a role; errors as `check_model`."""
        self.check_model(role, facts)
        if self.record["models"].get(role) != facts:
            self.record["models"][role] = facts
            _write_settings(self.folder, self.settings, self.record)

    def check_model(self, role: str, facts: dict[str, Any]) -> None:
        """Raise UserError if the study was made with a model of other weights in this role."""
        known = self.record["models"].get(role)
        if known and known["fingerprint"] != facts["fingerprint"]:
            raise UserError(
                f"{self.folder}: made by another {role} ({known['name']}, weights "
                f"{known['fingerprint'][:12]}; now {facts['name']}, {facts['fingerprint'][:12]}). "
                "Use another folder for this model."
            )

    # -- stages -----------------------------------------------------------------------------

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """The record of a finished stage; None if it has not been run."""
        path = self._manifest_path(stage)
        remedy = "Delete it: the stage is run again, what is complete is kept."
        try:
            shape: Any = Manifest[stage_named(stage).counts]  # type: ignore[misc]
            found = read_record(path, shape, remedy=remedy)
        except FileNotFoundError:
            return None
        self.check_own(path, found, remedy=remedy)
        return found

    def key(self, stage: str) -> str:
        """Hash of everything that decides a stage's output: its settings and the stages before."""
        entry = stage_named(stage)
        flat = _flatten(self.settings, entry)
        decisive = {
            name: value
            for name, value in flat.items()
            if name not in NEUTRAL or value != NEUTRAL[name]
        }
        basis: list[Any] = [stage, decisive, [self.key(need) for need in entry.needs]]
        names, files = _named(flat)
        basis += [hashlib.sha256(one).hexdigest() for one in files]
        if plugins := _plugins(names, files):
            basis.append([one.facts for one in plugins])
        return digest(basis)

    def is_done(self, stage: str) -> bool:
        """True if the stage was made with the current settings and inputs."""
        manifest = self.manifest(stage)
        return manifest is not None and manifest["key"] == self.key(stage)

    def require(self, stage: str) -> None:
        """Raise UserError if a stage is not done, with the command that runs it."""
        if not self.is_done(stage):
            state = (
                "has not been run"
                if self.manifest(stage) is None
                else "is out of date (settings changed)"
            )
            raise UserError(
                f"{self.folder}: stage '{stage}' {state}. Run "
                f"'mnemoscope {stage} {self.folder}' first, or 'mnemoscope run -o {self.folder}'."
            )

    @contextmanager
    def finishing(self, stage: str) -> Iterator[dict[str, Any]]:
        """Time a stage and, if the block succeeds, write its manifest with the yielded counts."""
        counts: dict[str, Any] = {}
        started = time.monotonic()
        yield counts
        self._manifest_path(stage).parent.mkdir(exist_ok=True)
        flat = _flatten(self.settings, stage_named(stage))
        packages = {one.package for one in _plugins(*_named(flat))}
        value = {
            "stage": stage,
            "key": self.key(stage),
            "settings": flat,
            "needs": {need: self.key(need) for need in stage_named(stage).needs},
            "counts": counts,
            "versions": versions(*sorted(packages)),
        }
        value |= {} if self.tokens is None else {"tokens": self.tokens}
        write_record(self._manifest_path(stage), value)
        entry = {  # not in the manifests, which must be the same in every run
            "stage": stage,
            "seconds": round(time.monotonic() - started, 3),
            "at": time.strftime("%FT%TZ", time.gmtime()),
        }
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")

    def forget(self, stage: str) -> None:
        """Drop the manifests of a stage and all that depend on it; with `continue` also the maps.

        CNNs are named by the hash of what made them, so they stay.
        """
        for later in STAGES:
            if stage in later.needs:
                self.forget(later.name)
        self._manifest_path(stage).unlink(missing_ok=True)
        if stage == "continue":
            shutil.rmtree(self.folder / "maps", ignore_errors=True)
            self.record["models"] = {}

    def seconds(self) -> dict[str, float]:
        """Seconds each stage took, summed over its runs."""
        path = self.folder / "log.jsonl"
        total: dict[str, float] = {}
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            for line in text.splitlines():
                with suppress(ValueError, TypeError, KeyError):  # torn by a kill, or not ours
                    entry = parse_json(line)
                    stage, seconds = str(entry["stage"]), float(entry["seconds"])
                    total[stage] = total.get(stage, 0.0) + seconds
        return total

    def _manifest_path(self, stage: str) -> Path:
        return self.folder / "manifests" / f"{stage}.json"

    # -- tables -----------------------------------------------------------------------------

    @property
    def sequences(self) -> "pl.DataFrame":
        """The table of sequences with all columns added by the stages so far."""
        return self.read(TABLE_FILE)

    @property
    def labels(self) -> "pl.DataFrame":
        """`sequence_id` and a column of class names a taxonomy; null for no class."""
        return self.read("labels.parquet")

    @property
    def samples(self) -> "pl.DataFrame":
        """Which sequences each sample trains and evaluates on, with class, split and group."""
        return self.read("samples.parquet")

    @property
    def predictions(self) -> "pl.DataFrame":
        """Every prediction on an evaluation sequence: source, setting, seed, true, predicted."""
        return self.read("predictions.parquet")

    @property
    def benchmark(self) -> "pl.DataFrame":
        """A row a sample and source: min-F1, figures a class, intervals, excess, verdict."""
        return self.read("benchmark.parquet")

    @property
    def comparison(self) -> "pl.DataFrame":
        """A row a published taxonomy (54) and setting of ρ (27): ours, published, difference."""
        self.require("benchmark")
        return self.read("comparison.parquet")

    def add_columns(self, columns: "pl.DataFrame") -> None:
        """Add or replace columns of the table of sequences; rows must be in the same order."""
        self.write(TABLE_FILE, self.sequences.with_columns(columns.get_columns()))

    def read(self, name: str) -> "pl.DataFrame":
        """Read one of the study's Parquet files; cached until the file changes.

        Raises:
            UserError: the file does not exist yet.
            DamagedDataError: it cannot be read, or is another study's.
        """
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"{path}: not there. Run 'mnemoscope run -o {self.folder}'.")
        identity = _identity(path)
        known, frame = self._tables.get(name, ((), None))
        if frame is None or known != identity:
            remedy = f"delete {self.folder} and run again"
            frame = read_parquet(path, remedy=remedy, seals=self.seals().get(name))
            self._tables[name] = identity, frame
        return frame.clone()  # so that changes by the caller stay with the caller

    def write(self, name: str, frame: "pl.DataFrame") -> None:
        """Write one of the study's Parquet files atomically."""
        self._tables.pop(name, None)
        data, known = parquet_bytes(frame), self.seals()
        seal = seal_of(data)
        is_new = known.get(name) != [seal]
        if is_new and name in known:  # a killed process leaves the old table or the new one
            self._record_seals(known | {name: [*known[name], seal]})
        write_bytes(self.folder / name, data)
        if is_new:
            self._record_seals(known | {name: [seal]})

    @property
    def tokens(self) -> str | None:
        """Digest of the sequences (`data.table.table_digest`); None of earlier versions."""
        return self.record.get("tokens")

    def check_own(self, path: Path, said: Mapping[str, Any], *, remedy: str) -> None:
        """Raise DamagedDataError where what a file says of its sequences (`tokens`) is not theirs.

        One that says nothing, of earlier versions, may be anyone's.
        """
        if said.get("tokens", self.tokens) != self.tokens:
            raise DamagedDataError(f"{path}: of a study of other sequences. {remedy}")

    def write_sequences(self, table: "pl.DataFrame") -> None:
        """Write the table of sequences and record its digest, to which maps and CNNs are bound."""
        from mnemoscope.data.table import table_digest  # loads Polars

        self.record["tokens"] = table_digest(table)
        _write_settings(self.folder, self.settings, self.record)
        self.write(TABLE_FILE, table)

    def seals(self) -> dict[str, list[str]]:
        """The checksums of the study's own tables by name; none of what earlier versions wrote."""
        path = self.folder / TABLES_RECORD
        try:
            identity = _identity(path)
        except FileNotFoundError:
            return {}
        if self._known_seals[0] == identity:
            return self._known_seals[1]
        remedy = "Restore it from a copy, or delete it: tables are then read as they are."
        found = read_record(path, Seals, remedy=remedy)
        self.check_own(path, {"tokens": None} | found, remedy=remedy)  # these always say whose
        self._known_seals = identity, found["tables"]
        return self._known_seals[1]

    def _record_seals(self, seals: dict[str, list[str]]) -> None:
        values = {"tokens": self.tokens, "tables": dict(sorted(seals.items()))}
        write_record(self.folder / TABLES_RECORD, values)

    # -- one at a time ----------------------------------------------------------------------

    def refuse_locked(self) -> None:
        """Say that another process holds the study before anything is loaded; errors as `lock`."""
        with hold_folder(self.folder):
            pass

    @contextmanager
    def lock(self, *, shared: bool = False) -> Iterator[None]:
        """Lock the study for this process, and clean up after killed ones.

        Settings and record are read again, because another process may have changed them. `shared`
        lets other processes that work on parts hold the lock too, and cleans up nothing.

        Raises:
            UserError: another process holds the lock (names its process id).
            NoRoomError: the disk is full.
        """
        with hold_folder(self.folder, shared=shared):
            self._read_settings()
            if not shared:
                for pattern in _TEMPORARY:
                    for left in self.folder.glob(pattern):
                        left.unlink(missing_ok=True)
                for stage in STAGES:
                    units = self.folder / "units" / stage.name
                    if units.is_dir() and self.is_done(stage.name):
                        shutil.rmtree(units, ignore_errors=True)
            yield


@contextmanager
def hold_folder(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Lock a folder until this process ends; errors as `Study.lock`.

    The file `.lock` is held by one process; who shares the folder holds it for a moment, to take a
    file of its own, `.lock-PID-NUMBER`. So the folder is free where `.lock` and all of these are.
    """
    with ExitStack() as held:
        try:
            gate = _gate(folder, shared=shared)
            held.callback(gate.release)
            if shared:
                (folder / _HOLDER_FILE).unlink(missing_ok=True)  # a killed one's
                own = folder / f"{LOCK_FILE}-{os.getpid()}-{next(_NUMBERS)}"
                held.callback(own.unlink, missing_ok=True)
                held.enter_context(_file_lock(own))
                gate.release()
            else:
                _clear_shares(folder)
                held.callback((folder / _HOLDER_FILE).unlink, missing_ok=True)
                (folder / _HOLDER_FILE).write_text(f"{os.getpid()}\n", encoding="utf-8")
        except OSError as error:
            if error.errno in NO_ROOM:
                raise disk_full(folder) from error
            raise UserError(
                f"{folder}: cannot be written to ({error.strerror}). Copy the study first."
            ) from None
        try:
            yield
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise disk_full(folder) from error


_HOLDER_FILE = f"{LOCK_FILE}.pid"
_NUMBERS = itertools.count()  # of the shares that this process takes
_PATIENCE = 10.0  # seconds; another share holds the gate for a moment


def _file_lock(path: Path) -> BaseFileLock:
    return FileLock(path, thread_local=False)


def _gate(folder: Path, *, shared: bool) -> BaseFileLock:
    """Take `.lock`; UserError names its holder."""
    lock = _file_lock(folder / LOCK_FILE)
    end = time.monotonic() + (_PATIENCE if shared else 0)
    while True:
        try:
            lock.acquire(timeout=0)
            return lock
        except Timeout:
            with suppress(OSError):
                if pid := (folder / _HOLDER_FILE).read_text(encoding="utf-8").strip():
                    raise _in_use(folder, f"process {pid}") from None
            if time.monotonic() >= end:
                raise _in_use(folder, _SHARERS) from None
            time.sleep(0.05)


def _clear_shares(folder: Path) -> None:
    """Remove what killed sharers left; UserError where one lives."""
    for path in folder.glob(f"{LOCK_FILE}-*"):
        try:
            lock = _file_lock(path)
            lock.acquire(timeout=0)
            lock.release()
        except Timeout:
            raise _in_use(folder, _SHARERS) from None
        path.unlink(missing_ok=True)


_SHARERS = "processes that work on parts of it"


def _in_use(folder: Path, holder: str) -> UserError:
    return UserError(f"{folder}: in use by {holder}. Wait until it ends, or stop it.")


def check_free(folder: Path) -> None:
    """Raise UserError for a path that is a file, a broken link or a folder with other content."""
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"{folder}: a link to what is not there. Remove it, or choose another.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder}: exists and is not a study. Choose a new or empty folder with -o."
        )


def is_study(folder: Path) -> bool:
    """True if the folder holds a study."""
    return (folder / SETTINGS_FILE).is_file()


_LIBRARIES = (
    "torch", "transformers", "safetensors", "polars", "numpy", "scipy", "scikit-learn",
)  # fmt: skip


def versions(*further: str) -> dict[str, str]:
    """Versions of the packages that produce the numbers, and of these further ones if installed."""
    found = {"mnemoscope": __version__, "python": platform.python_version()}
    for name in (*_LIBRARIES, *further):
        with suppress(metadata.PackageNotFoundError):
            found[name] = _version(name)
    return found


_version = cache(metadata.version)  # which reads the package's whole description


def _identity(path: Path) -> tuple[int, ...]:
    """What changes where a file is written anew."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _named(flat: dict[str, Any]) -> tuple[list[str], list[bytes]]:
    """Taxonomies and nodes that a stage's settings name, and the content of the files they name."""
    every = [one for key in _NAMING for one in flat.get(key, [])]
    files = [one for one in every if one.endswith((".yaml", ".yml")) and Path(one).is_file()]
    names = [one for one in every if one not in files]
    return names, [Path(one).read_bytes() for one in files]


def _plugins(names: list[str], files: list[bytes]) -> list[Plugin]:
    """Plugins whose nodes these speak of."""
    if not (names or files):
        return []
    from mnemoscope.taxonomy.nodes import plugins_named  # loads Polars

    return plugins_named([*names, *(one.decode("utf-8", "replace") for one in files)])


def _flatten(settings: StudySettings, stage: Stage) -> dict[str, Any]:
    """The settings that decide a stage's output, by dotted name."""
    values = settings.as_dict()
    flat: dict[str, Any] = {}
    for dotted in stage.settings:
        head, _, tail = dotted.partition(".")
        if tail:
            flat[dotted] = values[head][tail]
        elif isinstance(values[head], dict):
            flat |= {f"{head}.{key}": value for key, value in values[head].items()}
        else:
            flat[head] = values[head]
    if "sequences.split" not in flat:
        return flat
    if flat["sequences.split"] is None:  # then split and margin decide nothing
        unused = ("sequences.split", "sequences.margin")
        return {key: value for key, value in flat.items() if key not in unused}
    # A split's table depends on what the samples need.
    needed = ("taxonomies", "n_train", "n_eval", "seed")
    return flat | {f"label.{key}": values["label"][key] for key in needed}


def _write_settings(folder: Path, settings: StudySettings, record: dict[str, Any]) -> None:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # six times as fast
    values = settings.as_dict() | {"record": record}
    text = yaml.dump(values, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100)
    write_text(folder / SETTINGS_FILE, text)
