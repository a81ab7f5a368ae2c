"""The study: one folder with everything a run made, and a manifest for each stage.

A stage's output is valid for the settings and inputs that made it; its manifest, written last,
holds their hash.
"""

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from html import escape
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from mnemoscope.columns import Columns, check_columns
from mnemoscope.errors import (
    DamagedDataError,
    MissingError,
    MnemoscopeError,
    OutOfDateError,
    UserError,
    a_kind,
    first_line,
    nearest,
)
from mnemoscope.files import (
    as_path,
    check_shape,
    digest,
    hold_folder,
    made_folder,
    unmade,
    write_text,
)
from mnemoscope.parse import parse_json, parse_yaml, read_bounded
from mnemoscope.plugins import Plugin
from mnemoscope.progress import say
from mnemoscope.store import Making, Store
from mnemoscope.study.records import Model, StudyRecord, WithRecord
from mnemoscope.study.settings import StudySettings, parse_settings
from mnemoscope.study.stages import STAGES, TABLE_FILE, Stage, rests_on, stage_named
from mnemoscope.version import __version__

if TYPE_CHECKING:
    import polars as pl

STUDY_VERSION = 5
"""Of all that a study holds; one of another version is not opened."""
SETTINGS_FILE = "study.yaml"
DECODED_FILE = "decoded.parquet"
"""Continuations that a capture found after a scan; kept for as long as the verdicts."""
_RECORDS = (
    *("manifests/*", "decoded", "label_check", "search/*"),
    *("analysis/*/result", "analysis/kept/*"),
)
"""The records of a study's artefacts."""
_NEVER_EMPTY = ("cnn", "graft")
_UNITS = (*(folder for one in STAGES for folder in one.units), "units/*")
"""Folders with results of units, each a store of its own (`cluster.units.UnitStore`)."""
_TEMPORARY = [f"{one}/.*.tmp" for one in (".", "manifests", *_UNITS)]
"""What killed processes leave."""
_NAMING = ("label.taxonomies", "search.nodes", "search.baselines")


class Study:
    """A study folder: its settings, its table, its stages.

    Raises:
        UserError: the folder is missing or is not a study.
        DamagedDataError: `study.yaml` cannot be read.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder: Path = as_path(folder, "study")
        self.store: Store = Store(self.folder, lambda: self.owner, self._remedy)
        self._making: Making | None = None  # the manifest being written, while a stage runs
        self._tables: dict[tuple[str, ...], tuple[tuple[str, ...], pl.DataFrame]] = {}
        self._read_settings()

    @property
    def owner(self) -> dict[str, str]:
        """What binds every artefact to this study: the digest of its sequences, see `Store`."""
        return {"sequences": self.tokens}

    def _remedy(self, name: str) -> str:
        """How an artefact is made again."""
        folder, _, rest = name.partition("/")
        last = rest.split("/")[0]
        if (folder, last) == ("manifests", "sequences"):
            return "make the study anew in another folder"
        if name == "label_check":
            return f"run 'mnemoscope run -o {self.folder} --check-labels'"
        if (folder, last) == ("analysis", "kept"):
            return "run the analysis again"
        if folder == "analysis":
            return f"run 'mnemoscope analyze {last} {self.folder} --redo'"
        if folder == "decoded":
            return f"run 'mnemoscope capture {self.folder} --redo'"
        verb = last if folder in ("manifests", "units") else {"cnn": "train"}.get(folder, folder)
        if verb not in {one.name for one in STAGES}:
            return "if no verb wrote it, take it out of the study's folder"
        return f"run 'mnemoscope {verb} {self.folder}'"

    def _read_settings(self) -> None:
        path = self.folder / SETTINGS_FILE
        if not self.folder.is_dir():
            studies = (str(one.parent) for one in self.folder.parent.glob(f"*/{SETTINGS_FILE}"))
            hint = nearest(str(self.folder), studies)
            raise UserError(
                f"{self.folder}: no such folder.{hint} Make a study with 'mnemoscope run'."
            )
        if not path.is_file():
            raise UserError(
                f"{self.folder}: not a study (it holds no {SETTINGS_FILE}). "
                "Make one with 'mnemoscope run', or name the right folder."
            )
        try:
            values = parse_yaml(read_bounded(path))
            check_shape(values, WithRecord)
            self.record: StudyRecord = values.pop("record")
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
        self.settings: StudySettings = parse_settings(values, where=str(path))

    @classmethod
    def create(cls, folder: Path | str, settings: StudySettings) -> "Study":
        """Create an empty study in a new or empty folder; errors as `check_free`."""
        folder = Path(folder)
        check_free(folder)
        made_folder(folder)
        record = StudyRecord(study_version=STUDY_VERSION, versions=versions(), models={})
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
        self.drop(self.changed_stages(settings, redo=redo))
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

    def drop(self, stages: Sequence[str]) -> None:
        """Forget stages; first say which finished ones go with them that no run makes again."""
        if said := self.lost_with(stages):
            say(said)
        for name in stages:
            self.forget(name)

    def lost_with(self, stages: Sequence[str]) -> str:
        """The sentence on finished optional stages that rest on these; empty if there are none."""
        lost = [
            one.name
            for one in STAGES
            if one.is_optional and self.store.record_path(f"manifests/{one.name}").is_file()
            if one.name not in stages[:1] and any(rests_on(one.name, each) for each in stages)
        ]
        if not lost:
            return ""
        again = " and ".join(f"'mnemoscope {one} {self.folder}'" for one in lost)
        return (
            f"{', '.join(lost)}: will be dropped too, for {stages[0]} is made anew. Afterwards run "
            f"{again}; what is still valid is taken from {self.folder}."
        )

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

    def fingerprint(self, role: str) -> str | None:
        """The digest of the weights of the model in a role; None where none is recorded."""
        facts = self.record["models"].get(role)
        return None if facts is None else facts["fingerprint"]

    def remember_model(self, role: str, facts: Model) -> None:
        """Record which model (`facts_of`) serves a role; errors as `check_model`."""
        self.check_model(role, facts)
        if self.record["models"].get(role) != facts:
            self.record["models"][role] = facts
            _write_settings(self.folder, self.settings, self.record)

    def check_model(self, role: str, facts: Model) -> None:
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
        """The record of a finished stage; None if it has not been run.

        Raises DamagedDataError: it is unreadable, or another study's. OutOfDateError: another
        model's.
        """
        name = f"manifests/{stage}"
        try:
            found = self.store.record(name)
        except MissingError:
            return None
        known = self.fingerprint("model")
        if known is not None and found.get("model", known) != known:
            path = self.store.record_path(name)
            raise self.store.out_of_date(path, name, "made by another model")
        return found

    def key(self, stage: str) -> str:
        """Hash of everything that decides a stage's output: its settings and the stages before."""
        entry = stage_named(stage)
        flat = _flatten(self.settings, entry)
        basis: list[Any] = [stage, flat, [self.key(need) for need in entry.needs]]
        names, files = _named(flat)
        basis += [hashlib.sha256(one).hexdigest() for one in files]
        if plugins := _plugins(names, files):
            basis.append([one.facts for one in plugins])
        return digest(basis)

    def is_done(self, stage: str) -> bool:
        """True if its files are there, made with the current settings and inputs."""
        manifest = self.manifest(stage)
        return (
            manifest is not None
            and manifest["key"] == self.key(stage)
            and self.store.has(f"manifests/{stage}")
        )

    def damaged(self, stage: str) -> list[MnemoscopeError]:
        """What a stage's record, the files it names and its units' results lack of being whole.

        Missing tables are no damage: their stage is not done.
        """
        name = f"manifests/{stage}"
        try:
            if not self.is_done(stage):
                return []
            for file in self.store.record(name)["files"]:
                self.store.path(name, file)
        except (DamagedDataError, OutOfDateError) as error:
            return [error]
        return [error for *_, error in self._damaged_units(stage)]

    def drop_damaged(self, stages: Iterable[str]) -> list[MnemoscopeError]:
        """Forget each of these stages that is `damaged`, and units that are; says what is.

        What depends on it stays: made again it has the same bytes.
        """
        found: list[MnemoscopeError] = []
        for stage in stages:
            if errors := self.damaged(stage):
                found += errors
                self.store.forget(f"manifests/{stage}")
                for store, key, _ in self._damaged_units(stage):
                    for path in store.folder.glob(f"{key}.*") if key else ():
                        path.unlink()
        return found

    def _damaged_units(self, stage: str) -> Iterator[tuple[Store, str, MnemoscopeError]]:
        """Store, key and error of each result that is not as it was written, or of all, gone."""
        for folder in stage_named(stage).units:
            store = self._units_in(self.folder / folder)
            keys = [path.stem for path in sorted(store.folder.glob("[!.]*.json"))]
            if not keys and folder in _NEVER_EMPTY:
                yield store, "", store.missing(store.folder, folder)
            data = (one for one in store.folder.glob("[!.]*.*") if one.suffix != ".json")
            for key in sorted(
                {one.name.partition(".")[0] for one in data if one.is_file()} - {*keys}
            ):
                yield store, key, store.missing(store.record_path(key), key)
            for key in keys:
                try:
                    for file in store.record(key)["files"]:
                        store.path(key, file)
                except (UserError, DamagedDataError) as error:
                    yield store, key, error

    def require(self, stage: str) -> None:
        """Raise UserError if a stage is not done, with the command that runs it."""
        if not self.is_done(stage):
            manifest, state = self.manifest(stage), "has not been run"
            kind: type[UserError] = MissingError
            if manifest is not None:
                is_other = manifest["key"] != self.key(stage)
                state = "is out of date (settings changed)" if is_other else "lacks files"
                kind = UserError
            verb, run = f"'mnemoscope {stage} {self.folder}'", f"'mnemoscope run -o {self.folder}'"
            entry = stage_named(stage)
            if not all(map(self.is_done, entry.needs)):  # its verb alone would refuse
                advice = f"{run} first, then {verb}" if entry.is_optional else f"{run} first"
            else:
                advice = f"{verb} first" + f", or {run}" * (not entry.is_optional)
            raise kind(f"{self.folder}: stage '{stage}' {state}. Run {advice}.")

    def note_path(self, stage: str) -> Path:
        """Where `progress.noted` says how far a stage is that runs or was stopped."""
        return self.folder / f".progress-{stage}.json"

    @contextmanager
    def finishing(self, stage: str) -> Iterator[dict[str, object]]:
        """Time a stage and, if the block succeeds, write its manifest with the yielded counts.

        What the block writes (`write`) is the stage's, and named by the manifest; an earlier one
        is dropped first, that of a leaf when the first file is written.
        """
        counts: dict[str, object] = {}
        started, entry = time.monotonic(), stage_named(stage)
        if not entry.is_leaf:
            self.store.forget(f"manifests/{stage}")
        with self.store.making(f"manifests/{stage}") as self._making:
            try:
                yield counts
                flat = _flatten(self.settings, entry)
                packages = {one.package for one in _plugins(*_named(flat))}
                model = self.record["models"].get("model") if _asks_model(entry) else None
                self._making.facts |= {
                    "stage": stage,
                    "key": self.key(stage),
                    "settings": flat,
                    "needs": {need: self.key(need) for need in entry.needs},
                    "counts": counts,
                    "versions": versions(*sorted(packages)),
                    **({"model": model["fingerprint"]} if model else {}),
                }
            finally:
                self._making = None
        self.log(stage, time.monotonic() - started)

    def log(self, stage: str, seconds: float) -> None:
        """Write down that a stage was worked on, and how long."""
        line = {  # not in the manifests, which must be the same in every run
            "stage": stage,
            "seconds": round(seconds, 3),
            "at": time.strftime("%FT%TZ", time.gmtime()),
        }
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def forget(self, stage: str) -> None:
        """Drop the manifests of a stage and all that depend on it; with `continue` also the maps.

        CNNs are named by the hash of what made them, so they stay.
        """
        for later in STAGES:
            if stage in later.needs:
                self.forget(later.name)
        self.store.forget(f"manifests/{stage}")
        self.note_path(stage).unlink(missing_ok=True)
        if stage == "continue":
            self.store.forget("decoded")
            shutil.rmtree(self.folder / "maps", ignore_errors=True)
            self.record["models"] = {}

    def starts_afresh(self, stage: str, changed: Sequence[str]) -> bool:
        """Whether `--redo` keeps no unit of an optional stage: it is done, and nothing changed.

        Units that still fit are kept where settings differ (`changed`), and where a redo was
        stopped: the same command goes on.
        """
        is_leaf = stage_named(stage).is_leaf and self.is_done(stage)
        return is_leaf and not changed and not self.note_path(stage).exists()

    def drop_units(self, stage: str) -> None:
        """Remove the results of a stage's units, of all settings; its tables stay."""
        for folder in stage_named(stage).units:
            shutil.rmtree(self.folder / folder, ignore_errors=True)

    def seconds(self) -> dict[str, float]:
        """Seconds each stage took, summed over its runs."""
        total: dict[str, float] = {}
        for stage, seconds in self.logged():
            total[stage] = total.get(stage, 0.0) + seconds
        return total

    def logged(self) -> Iterator[tuple[str, float]]:
        """Stages in the order in which they were worked on, each with its seconds."""
        path = self.folder / "log.jsonl"
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            for line in text.splitlines():
                with suppress(ValueError, TypeError, KeyError):  # torn by a kill, or not ours
                    entry = parse_json(line)
                    found = str(entry["stage"]), float(entry["seconds"])
                    yield found

    # -- tables -----------------------------------------------------------------------------

    @property
    def sequences(self) -> "pl.DataFrame":
        """The table of sequences with all columns added by the stages so far.

        Each file has columns of its own; of the same one, a later file fills in what is there.
        """
        from mnemoscope.data.table import fill_columns  # loads Polars

        sources = [("manifests/sequences", TABLE_FILE), *self._columns()]
        checksums = tuple(self._sha256_of(*one) for one in sources)
        names = tuple(file for _, file in sources)
        known, table = self._tables.get(names, ((), None))
        if table is None or known != checksums:
            table = self.read(TABLE_FILE)
            for name in names[1:]:
                table = fill_columns(table, self.read(name))
            self._tables[names] = checksums, table
        return table.clone()  # so that changes by the caller stay with the caller

    def _columns(self) -> Iterator[tuple[str, str]]:
        """Record and file of each table that adds columns to that of the sequences."""
        for stage in STAGES:
            name = f"manifests/{stage.name}"
            if stage.columns and self._sha256_of(name, stage.columns):
                yield name, stage.columns
            if stage.name == "continue" and self.store.has("decoded"):
                yield "decoded", DECODED_FILE

    def _sha256_of(self, name: str, file: str) -> str:
        """The SHA-256 of a file of an artefact; empty where it has none."""
        if self._making is not None and file in self._making.files:
            return self._making.files[file]
        with suppress(MissingError):
            return str(self.store.record(name)["files"].get(file, ""))
        return ""

    @property
    def table_sums(self) -> dict[str, str]:
        """SHA-256 of the files with what is known of each sequence, by name; no measures."""
        measured = {stage.columns for stage in STAGES if stage.name in ("label", "search")}
        sources = [("manifests/sequences", TABLE_FILE), *self._columns()]
        return {file: self._sha256_of(name, file) for name, file in sources if file not in measured}

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

    def read(self, name: str) -> "pl.DataFrame":
        """Read one of the study's Parquet files; cached until the file changes.

        Raises:
            MissingError: the file does not exist yet.
            UserError: no stage makes a file of this name.
            DamagedDataError: it cannot be read, or is another study's.
        """
        import polars as pl

        tables = [one for stage in STAGES for one in stage.outputs if one.endswith(".parquet")]
        if name not in tables and not self.store.has(self._record_of(name)):
            hint = nearest(name, tables)
            raise UserError(
                f"{self.folder}: a study has no table '{name}'.{hint} It has {', '.join(tables)}."
            )
        record, path = self._record_of(name), self.folder / name
        if self._making is None or name not in self._making.files:
            if not (path.exists() or self.store.has(record)):
                for stage in (one.name for one in STAGES if name in one.outputs):
                    if self.manifest(stage) is None:  # else the file was lost
                        self.require(stage)
            path = self.store.path(record, name)
        checksum = (self._sha256_of(record, name),)
        known, frame = self._tables.get((name,), ((), None))
        if frame is None or known != checksum:
            frame = pl.read_parquet(path, glob=False)
            self._tables[name,] = checksum, frame
        return frame.clone()

    def write(
        self, name: str, value: "pl.DataFrame | bytes", columns: Columns | None = None
    ) -> None:
        """Write one of the files of the stage that runs (`finishing`), whole or not at all.

        Raises TypeError: a table that has not the `columns` that are declared for it.
        """
        assert self._making is not None, f"{name}: no stage runs"
        if columns is not None and not isinstance(value, bytes):
            check_columns(name, value, columns)
        self._making.put(name, value)

    def path(self, name: str) -> Path:
        """The path of one of the study's files, found to be whole; errors as `read`."""
        return self.store.path(self._record_of(name), name)

    def kept(self, name: str, make: "Callable[[], pl.DataFrame]") -> "pl.DataFrame":
        """The table kept under a name that says what decides it, made where it is not there."""
        file = f"{name}.parquet"
        if self.store.kept(name, "it") is None:
            self.store.put(name, {file: make()})
        return self.store.frame(name, file)

    def verify(self) -> list[MnemoscopeError]:
        """Read all that the study holds but maps; what is missing, damaged or another study's."""
        found = self.store.verify(_RECORDS, self._record_of)
        for folder in sorted(one for name in _UNITS for one in self.folder.glob(name)):
            found += self._units_in(folder).verify(["*"])
        return found

    def _units_in(self, folder: Path) -> Store:
        remedy = self._remedy(folder.relative_to(self.folder).as_posix())
        return Store(folder, lambda: self.owner, lambda _: remedy)

    def _record_of(self, name: str) -> str:
        """The record that names a file: its stage's manifest, or one of its own."""
        owners = (f"manifests/{stage.name}" for stage in STAGES if name in stage.outputs)
        return next(owners, name.partition(".")[0])

    @property
    def tokens(self) -> str:
        """Digest of the sequences (`data.table.table_digest`), to which all else is bound."""
        return str(self.record.get("tokens", ""))

    def write_sequences(self, table: "pl.DataFrame") -> None:
        """Write the table of sequences and record its digest, to which maps and CNNs are bound."""
        from mnemoscope.data.table import table_digest

        self.record["tokens"] = table_digest(table)
        _write_settings(self.folder, self.settings, self.record)
        self.write(TABLE_FILE, table)

    # -- one at a time ----------------------------------------------------------------------

    def refuse_locked(self) -> None:
        """Raise UserError at once, before a model is loaded, if another process holds the study."""
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


def check_free(folder: Path) -> None:
    """Raise UserError for a file, a broken link, content, or where nothing can be made.

    Another process may have founded a study there since its caller looked.
    """
    if is_study(folder):
        Study(folder).refuse_locked()
        raise UserError(
            f"{folder}: holds a study already. Go on with it: 'mnemoscope run -o {folder}', or "
            "choose another with -o."
        )
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"{folder}: a link to what is not there. Remove it, or choose another.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder}: exists and is not a study. Choose a new or empty folder with -o."
        )
    above = next(one for one in folder.absolute().parents if one.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: nothing can be written to {above}. Choose another with -o.")
    try:  # rights alone do not say it: a disk is read-only, /proc makes no folders
        with TemporaryDirectory(dir=above, prefix="."):
            pass
    except OSError as error:
        raise unmade(folder, error) from None


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


def _asks_model(stage: Stage) -> bool:
    """True if a model's weights decide what the stage makes."""
    own = "model.dtype" in stage.settings
    return own or any(_asks_model(stage_named(need)) for need in stage.needs)


def _named(flat: Mapping[str, Any]) -> tuple[list[str], list[bytes]]:
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
    every = {
        f"{head}.{key}" if key else head: value
        for head, section in values.items()
        for key, value in (section if isinstance(section, dict) else {"": section}).items()
    }
    flat = {
        name: value
        for dotted in stage.settings
        for name, value in every.items()
        if dotted in (name, name.partition(".")[0])
    }
    if "sequences.split" not in flat:
        return flat
    if flat["sequences.split"] is None:  # then split and margin decide nothing
        unused = ("sequences.split", "sequences.margin")
        return {key: value for key, value in flat.items() if key not in unused}
    # A split's table depends on what the samples need.
    needed = ("taxonomies", "n_train", "n_eval", "seed")
    return flat | {f"label.{key}": values["label"][key] for key in needed}


def _write_settings(folder: Path, settings: StudySettings, record: StudyRecord) -> None:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # six times as fast
    values = settings.as_dict() | {"record": record}
    text = yaml.dump(values, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100)
    write_text(folder / SETTINGS_FILE, text)


def as_study(given: "Study | str | Path") -> Study:
    """A study as it is, or that of a folder; UserError for anything else."""
    if isinstance(given, str | Path):
        return Study(given)
    if not isinstance(given, Study):
        raise UserError(f"study: {a_kind(given)}; give ms.Study(folder), or what ms.run returns.")
    return given
