"""Parts of a stage: each of n processes makes every n-th block, and `merge` combines them.

A part such as `continue --part 3/8` only reads the study and writes to `parts/STAGE/3-of-8`.
`merge` runs the stage with the parts in place of the model.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import polars as pl
from typing_extensions import TypedDict

from mnemoscope.data.table import fill_columns
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.lm.model import HALVED, note_halved, read_halved, recording_batch_size
from mnemoscope.maps.store import MapStore
from mnemoscope.pipeline.blocks import (
    Block,
    BlockResult,
    OpenWorker,
    Worker,
    do_block,
    first_difference,
    load_role,
    make_tables,
    open_local_worker,
)
from mnemoscope.pipeline.capture import (
    DECODING,
    NEXT,
    capture_with,
    captured_roles,
    check_head_bytes,
    decoding_blocks,
    fill_store,
    maps_folder,
    missing_shards,
    next_blocks,
    open_store,
    shard_number,
    store_roles,
    wanted_maps,
    wants_controls,
)
from mnemoscope.pipeline.continue_ import chunk_blocks, chunk_folder, continue_with, verdict_folder
from mnemoscope.pipeline.graft import (
    check_twin,
    conclude_grafts,
    load_pair,
    make_part,
    tasks_of,
    wanted_parts,
)
from mnemoscope.progress import SILENT, Progress, say
from mnemoscope.store import Store, keep_table, kept_table, store_of_table
from mnemoscope.study.folder import LOCK_FILE, Study, hold_folder, versions
from mnemoscope.study.models import Models, facts_of, reference_name
from mnemoscope.study.records import Model
from mnemoscope.study.settings import StudySettings, parse_settings
from mnemoscope.study.stages import STAGES

_RECORD = "part"
_HALVED_FILE = "halved"
_VERDICTS = "verdicts"


@dataclass(frozen=True)
class Part:
    """One of `n` equal shares of a stage's work; `number` counts from 1."""

    number: int
    n: int

    def __str__(self) -> str:
        return f"{self.number}/{self.n}"

    def does(self, block: int) -> bool:
        """True for the blocks (counted from 0) of this part."""
        return block % self.n == self.number - 1


def parse_part(text: str) -> Part:
    """Parse `3/8`; UserError if malformed or out of range."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--part {text}: needs I/N with I from 1 to N, for example --part 3/8.")
    return Part(int(match[1]), int(match[2]))


# -- do one part ------------------------------------------------------------------------------


def run_part(
    study: Study,
    stage: str,
    part: Part,
    change: Callable[[StudySettings], StudySettings],
    *,
    redo: bool = False,
) -> Path | None:
    """Run one part of `continue`, `capture` or `graft`; what a killed run finished is kept.

    The study is only read, so several processes may each do a part, also on machines that share its
    folder. `change` must be the same for every part; `redo` starts the part again. Gives the part's
    folder, None if the stage is done already. Raises UserError: the settings differ from those of
    finished stages, an earlier stage is missing, another process works on the part, or it was
    started with other settings, another model, table or version. MnemoscopeError: as the stage
    itself.
    """
    with study.lock(shared=True):
        wanted = change(study.settings)
        study.changed_stages(wanted)
        study.settings = wanted
        study.require("sequences")
        if study.is_done(stage):
            return None
        models = Models(wanted)
        if stage == "graft":
            return _graft(study, part, models, redo=redo)
        roles = ("model",) if stage == "continue" else captured_roles(study)
        facts = _facts(study, models, roles)
        with _working_on(study, stage, part, facts, redo=redo) as folder:
            open_worker = partial(open_local_worker, study, models, is_recorded=False)
            if stage == "continue":
                _continue(study, part, folder, open_worker)
            else:
                _capture(study, part, folder, open_worker, roles)
    return folder


def _facts(study: Study, models: Models, roles: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Describe each model, and check that it made the study."""
    facts = {}
    for role in roles:
        name = study.settings.model.name if role == "model" else reference_name(study.settings)
        facts[role] = facts_of(load_role(models, role), str(name))
        study.check_model(role, facts[role])
    return facts


@contextmanager
def _working_on(
    study: Study,
    stage: str,
    part: Part,
    facts: dict[str, dict[str, Any]],
    *,
    redo: bool,
    beside: Mapping[str, Any] | None = None,
) -> Iterator[Path]:
    """Lock a part's folder; its record is written first and marked as finished last."""
    folder = study.folder / "parts" / stage / f"{part.number}-of-{part.n}"
    folder.mkdir(parents=True, exist_ok=True)
    values = {  # must be equal in all parts
        "stage": stage,
        "key": study.key(stage),
        "settings": study.settings.as_dict(),
        "models": facts,
        "versions": versions(),
        "table": study.tokens,
        **(beside or {}),
    }
    with hold_folder(folder):
        for path in folder.iterdir() if redo else ():
            if path.is_dir():
                shutil.rmtree(path)
            elif not path.name.startswith(LOCK_FILE):
                path.unlink()
        store = _part_store(part, folder)
        if store.has(_RECORD):
            record = _read_record(part, folder)
            if difference := first_difference(record.values, values):
                raise UserError(
                    f"{folder}: begun with {difference}. Use the same, or --redo to begin anew."
                )
        store.put(_RECORD, {}, values=values | {"finished": False})
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        counts: dict[str, Any] = {}
        with recording_batch_size(counts, folder / _HALVED_FILE):
            yield folder
        store.put(_RECORD, {}, values=values | counts | {"finished": True})


def _graft(study: Study, part: Part, models: Models, *, redo: bool) -> Path:
    check_twin(study)
    facts, loaded = _facts(study, models, ("model", "reference")), load_pair(study, models)
    parts = wanted_parts(study, loaded)
    with _working_on(study, "graft", part, facts, redo=redo, beside={"parts": parts}) as folder:
        make_part(study, loaded, facts, parts, folder, part.does)
    return folder


def _continue(study: Study, part: Part, folder: Path, open_worker: OpenWorker) -> None:
    mine = [block for block in chunk_blocks(study) if part.does(block.number)]
    if not mine:
        say(f"Part {part}: nothing to do, the table has fewer blocks than there are parts.")
    kept = chunk_folder(study)  # from a capture, or from a killed run
    for block in mine:
        found = None if (folder / block.name).is_file() else kept_table(kept / block.name, "it")
        if found is not None:
            keep_table(folder / block.name, found)
            for size in read_halved(kept / _HALVED_FILE):
                note_halved(size)
    with open_worker("model", len(mine)) as worker:
        make_tables(worker, mine, f"Part {part}", folder)


def _capture(
    study: Study, part: Part, folder: Path, open_worker: OpenWorker, roles: Sequence[str]
) -> None:
    """Capture every n-th shard of what the study's stores lack."""
    settings, wanted = study.settings, wanted_maps(study)
    mine: dict[str, list[np.ndarray]] = {}
    for role in roles:
        with open_worker(role, 0) as worker:
            if role == "model":
                check_head_bytes(worker.facts, wanted.height, settings)
            for store in store_roles(settings, role):
                there = open_store(study, maps_folder(study, store), store, worker.facts)
                shards = missing_shards(there, wanted, settings)
                mine[store] = [rows for rows in shards if part.does(shard_number(rows, settings))]
    n = settings.capture.shard_rows
    shown = {row // n for shards in mine.values() for row in chain(*shards)}
    table, noted = study.sequences, verdict_folder(study) and folder / _VERDICTS
    for role in roles:
        with open_worker(role, 0) as worker:
            if role == "model":
                blocks = [one for one in decoding_blocks(study, wanted) if one.number in shown]
                if blocks:
                    decoded = pl.concat(make_tables(worker, blocks, DECODING, folder))
                    table = fill_columns(table, decoded)
            for store in store_roles(settings, role):
                writer = open_store(study, folder / "maps" / store, store, worker.facts)
                lacking = set(chain(*missing_shards(writer, wanted, settings)))
                shards = [rows for rows in mine[store] if rows[0] in lacking]
                verdicts = noted if store == "model" else None
                fill_store(study, worker, writer, store, table, wanted, shards, verdicts)
            if role == "model" and wants_controls(study):
                blocks = next_blocks(study, table, wanted, part.does)
                make_tables(worker, blocks, NEXT, folder)


# -- put the parts together ---------------------------------------------------------------------


class _Values(TypedDict):
    settings: dict[str, Any]
    models: dict[str, Model]
    table: str
    finished: bool
    parts: NotRequired[list[str]]
    batch_size_halved_to: NotRequired[int]


class _PartRecord(TypedDict):
    values: _Values


@dataclass(frozen=True)
class _Record:
    """A part, its folder and the content of its `part.json`."""

    part: Part
    folder: Path
    values: dict[str, Any]


def merge_parts(study: Study, *, check: bool = True) -> list[str]:
    """Merge the parts of every stage that has some; returns the stages' names.

    `check` compares scan and decoding on a draw, as the stage does; without it no model is needed.
    Raises UserError: there are no parts, or they are incomplete or do not fit together.
    DamagedDataError: a file of a part is torn.
    """
    with study.lock():
        names = [one.name for one in STAGES if one.has_parts]
        stages = [name for name in names if _part_folders(study, name)]
        if not stages:
            raise UserError(
                f"{study.folder}: holds no parts. Make them with 'mnemoscope continue "
                f"{study.folder} --part 1/2' and 2/2, capture or graft likewise."
            )
        for stage in stages:
            records = _find_parts(study, stage)
            if not study.is_done(stage):
                values, where = records[0].values, str(records[0].folder / _RECORD)
                study.adopt(parse_settings(values["settings"], where=where))
                for role, facts in values["models"].items():
                    study.remember_model(role, facts)
                if stage == "graft":
                    _merge_grafts(study, records)
                elif stage == "continue":
                    continue_with(
                        study, _PartsWorker(study, stage, records).open_worker, check=check
                    )
                else:
                    capture_with(study, _PartsWorker(study, stage, records).open_worker)
            shutil.rmtree(study.folder / "parts" / stage)
        if not any((study.folder / "parts").iterdir()):
            (study.folder / "parts").rmdir()
    return stages


def _merge_grafts(study: Study, records: Sequence[_Record]) -> None:
    """Take the grafts of all parts into the study and conclude from them."""
    values, folder = records[0].values, study.folder / "graft"
    tasks = list(tasks_of(study, values["models"], values["parts"], folder))
    folder.mkdir(exist_ok=True)
    for at, task in enumerate(tasks):
        record = records[at % len(records)]
        path = record.folder / task.path.name
        keep_table(task.path, _part_table(study, "graft", record, path))
    conclude_grafts(study, tasks, values["parts"])


def _part_folders(study: Study, stage: str) -> list[tuple[Part, Path]]:
    """The parts of a stage that stand in the study, in order."""
    parts = []
    for path in (study.folder / "parts" / stage).glob("*-of-*"):
        named = re.fullmatch(r"(\d{1,6})-of-(\d{1,6})", path.name)
        if named and path.is_dir():
            parts.append((Part(int(named[1]), int(named[2])), path))
    return sorted(parts, key=lambda one: (one[0].n, one[0].number))


def _find_parts(study: Study, stage: str) -> list[_Record]:
    """All parts of a stage that has some; UserError if some are missing or do not fit together."""
    folder, parts = study.folder / "parts" / stage, _part_folders(study, stage)
    sizes = sorted({part.n for part, _ in parts})
    if len(sizes) > 1:
        raise UserError(
            f"{folder}: parts of {sizes[0]} and parts of {sizes[1]} stand here. "
            "Delete the folders of one kind."
        )
    there = {part.number for part, _ in parts}
    missing = sorted(set(range(1, sizes[0] + 1)) - there)
    if missing:
        raise _lacking(study, stage, missing, sizes[0], "missing")
    records = [_read_record(part, path) for part, path in parts]
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
    if records[0].values["table"] != study.tokens:
        raise UserError(
            f"{records[0].folder}: made from another table of sequences than the study's. "
            "Delete the parts and run them again."
        )
    return records


def _part_store(part: Part, folder: Path) -> Store:
    return Store(folder, remedy=lambda _: f"run part {part} again with --redo")


def _read_record(part: Part, folder: Path) -> _Record:
    found = _part_store(part, folder).record(_RECORD, shape=_PartRecord)
    return _Record(part, folder, found["values"])


def _lacking(study: Study, stage: str, numbers: list[int], n: int, what: str) -> UserError:
    """The error for a missing part, with the command that makes it."""
    named = ", ".join(str(number) for number in numbers[:10])
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    plural, verb = ("parts", "are") if len(numbers) > 1 else ("part", "is")
    return UserError(
        f"{study.folder}: {stage}, {plural} {named}{more} of {n} {verb} {what}. Run "
        f"'mnemoscope {stage} {study.folder} --part {numbers[0]}/{n}' first."
    )


class _PartsWorker:
    """Returns the blocks that the parts made; only the check asks the model itself."""

    def __init__(self, study: Study, stage: str, records: list[_Record]) -> None:
        self.facts: dict[str, Any] = {}
        self._study, self._stage, self._records = study, stage, records
        # Verify the sha256 of every shard before using any.
        self._stores = [self._open_stores(record) for record in records]

    @contextmanager
    def open_worker(self, role: str, n_blocks: int) -> Iterator[Worker]:  # noqa: ARG002 - as every worker
        """Report which model made the parts, and their smallest batch size."""
        if role not in self._records[0].values["models"]:
            raise self._incomplete(f"the maps of the {role}")
        self.facts = self._records[0].values["models"][role]
        for record in self._records:
            if HALVED in record.values:
                note_halved(record.values[HALVED])
        yield self

    def make(self, blocks: Sequence[Block], progress: Progress) -> Iterator[BlockResult]:
        """Yield blocks from the parts, once all are known to be there and intact."""
        find = {"maps": self._maps, "check": self._check}
        for made in [find.get(block.kind, self._table)(block) for block in blocks]:
            yield made
            progress.advance(len(made.block.tokens))

    def _open_stores(self, record: _Record) -> dict[str, MapStore]:
        """Open a part's maps; the error for a damaged shard names the part that makes it again."""
        try:
            return {path.name: MapStore(path) for path in record.folder.glob("maps/*")}
        except (DamagedDataError, UserError) as error:
            what = str(error).split(" Restore it")[0]
            raise DamagedDataError(
                f"{what} Run 'mnemoscope capture {self._study.folder} --part {record.part}' again: "
                "only what is damaged is captured anew."
            ) from None

    def _check(self, block: Block) -> BlockResult:
        """Run the check with the model, which must be on the device that the parts used."""
        settings = self._study.settings
        model = Models(settings).model()
        if model.device != self.facts["device"]:
            raise UserError(
                f"{self._study.folder}: the parts were made on {self.facts['device']}, here the "
                f"model is on {model.device}. Merge where they were made, or with --no-check, "
                "which needs no model."
            )
        return BlockResult(block, do_block(block, model, settings, SILENT)["parquet"])

    def _table(self, block: Block) -> BlockResult:
        """The file of a block, from whichever part has it."""
        own = self._records[block.number % len(self._records)]
        has_it = (one for one in self._records if (one.folder / block.name).is_file())
        record = next(has_it, own)
        path = record.folder / block.name
        return BlockResult(block, _part_table(self._study, self._stage, record, path))

    def _maps(self, block: Block) -> BlockResult:
        """The shard that starts with a block's first row, from whichever part has it."""
        keys = block.rows.select("sequence_id", "suffix")
        sequence_id, suffix = keys.row(0)
        for record, stores in zip(self._records, self._stores, strict=True):
            if block.store not in stores:
                continue
            index = stores[block.store].index
            first = index.filter(sequence_id=sequence_id, suffix=suffix, row=0)
            if first.is_empty():
                continue
            shard = index.filter(pl.col("shard") == first["shard"][0]).sort("row")
            if not shard.select(keys.columns).equals(keys):
                break
            noted = record.folder / _VERDICTS / f"from-{sequence_id}.parquet"
            verdicts = noted.is_file() and _part_table(self._study, self._stage, record, noted)
            path = record.folder / "maps" / block.store / shard["shard"][0]
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            return BlockResult(block, verdicts or None, path, sha256)
        raise self._incomplete(f"maps ({block.store}), the first of sequence {sequence_id}")

    def _incomplete(self, what: str) -> UserError:
        return UserError(
            f"{self._study.folder}: the parts lack {what}. Delete parts/{self._stage} and run them "
            "again."
        )


def _part_table(study: Study, stage: str, record: _Record, path: Path) -> bytes:
    """The content of a table that a part made; errors as `Store.path`, naming the part."""
    again = f"run 'mnemoscope {stage} {study.folder} --part {record.part}': the rest is kept"
    return store_of_table(path, again).path(path.stem, path.name).read_bytes()
