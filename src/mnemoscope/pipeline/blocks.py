"""One block of `continue` or `capture` on a worker of a cluster: done once, then in the storage.

A block is what one process does between two writes: a chunk of the table (`continue.part_rows`),
or a shard of maps (`capture.shard_rows`). Its name is the hash of all that decides its bytes, so
what a killed run has finished is found again, and another model's or version's is not.
"""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.cluster.engine import Engine, Workers, current_engine
from mnemoscope.cluster.storage import Storage
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.files import read_parquet, write_bytes, write_json, write_parquet
from mnemoscope.lm.model import LanguageModel, note_halved, noting_halved
from mnemoscope.maps.store import MapStore, MapWriter
from mnemoscope.pipeline.capture import (
    LOGPROBS_FILE,
    check_head_bytes,
    fill_store,
    logprobs_of,
    maps_folder,
    shown_tokens,
    store_of,
    store_roles,
    wanted_maps,
)
from mnemoscope.pipeline.continue_ import (
    DECODED,
    check_scan,
    chunk_folder,
    chunk_name,
    chunks_of,
    continue_chunk,
    decode_block,
    draw_rows,
    hand_over,
    keep_decoded,
    keep_verdicts_of,
    lacking_blocks,
    verdict_folder,
)
from mnemoscope.pipeline.halving import HALVED, halved_on_record, read_halved
from mnemoscope.pipeline.padding import mask_of, refuse_padding
from mnemoscope.progress import say, track
from mnemoscope.study.folder import Study, hold_folder, versions
from mnemoscope.study.models import (
    ModelFacts,
    Models,
    check_unlike,
    facts_of,
    reference_name,
    vocabulary_of,
)
from mnemoscope.study.settings import StudySettings, parse_settings

# One block of `continue` or `capture` on a worker of a cluster: done once, then in the storage.


@dataclass(frozen=True)
class Block:
    """What a worker is to do: plain values, so that no study folder is needed to do it.

    Attributes:
        kind: `facts` (of the model alone), `verdicts`, `check`, `decoded`, `maps`, `logprobs`.
        rows: `tokens` as they are shown; by kind also `sequence_id`, `suffix`, `is_memorized`,
            `smallest_gap`.
        store: of maps, the name of their folder: `model`, `reference`, `model-heads`, ...
        mask: of maps, where tokens are padded.
        with_verdicts: of maps, note the verdicts of the same forwards too.
    """

    kind: str
    rows: pl.DataFrame
    store: str = ""
    mask: np.ndarray | None = None
    with_verdicts: bool = False


@dataclass(frozen=True)
class BlockRecord:
    """What is known of a finished block; it stands beside the block's files, written last.

    Attributes:
        name: hash of all that decides the block.
        files: SHA-256 of each file, by its suffix.
        facts: of the model that did it.
        vocabulary: hash of its tokens.
        halved: smallest batch that memory allowed, where it was halved.
    """

    name: str
    facts: dict[str, Any]
    vocabulary: str
    files: dict[str, str] = field(default_factory=dict)
    halved: int | None = None


class BlockWorker:
    """Holds one model and does blocks with it.

    Args:
        settings: of the study.
        role: `model` or `reference`.
        url: storage where finished blocks stand.
    """

    def __init__(self, settings: StudySettings, role: str, url: str) -> None:
        self._settings, self._storage = settings, Storage(url)
        self._model = Models(settings).alone(role)
        name = settings.model.name if role == "model" else reference_name(settings)
        self._facts = facts_of(self._model, str(name))
        self._vocabulary = vocabulary_of(self._model)

    def __call__(self, block: Block) -> BlockRecord:
        """Do a block, unless it is in the storage already."""
        name = self._name(block)
        if block.kind == "facts":
            return BlockRecord(name, self._facts, self._vocabulary)
        if (record := self._finished(name)) is not None:
            return record
        counts: dict[str, Any] = {}
        with noting_halved(counts):
            made = _do(block, self._model, self._settings)
        files = {each: self._storage.write(f"{name}.{each}", data) for each, data in made.items()}
        halved = counts.get("batch_size_halved_to")
        record = BlockRecord(name, self._facts, self._vocabulary, files, halved)
        self._storage.write(f"{name}.json", json.dumps(asdict(record)).encode())
        return record

    def _finished(self, name: str) -> BlockRecord | None:
        """The record of a block that is there and whole."""
        data = self._storage.read(f"{name}.json")
        if data is None:
            return None
        try:
            record = BlockRecord(**json.loads(data))
            whole = [
                self._storage.read(f"{name}.{each}", sha) for each, sha in record.files.items()
            ]
        except (ValueError, TypeError, DamagedDataError):
            return None
        return None if None in whole else record

    def _name(self, block: Block) -> str:
        """Hash of all that decides what comes of a block."""
        settings = self._settings
        basis = {
            "kind": [block.kind, block.store, block.with_verdicts],
            "facts": self._facts,
            "batch_size": settings.model.batch_size,
            "scan": settings.continue_.scan,
            "length": settings.sequences.length,
            "versions": versions(),
        }
        digest = hashlib.sha256(json.dumps(basis, sort_keys=True).encode())
        digest.update(block.rows.write_json().encode())
        if block.mask is not None:
            digest.update(block.mask.tobytes())
        return digest.hexdigest()[:32]


def _do(block: Block, model: LanguageModel, settings: StudySettings) -> dict[str, bytes]:
    """The files of a block by suffix, made by what one process does with the same rows."""
    with TemporaryDirectory() as folder, track("Block") as progress:
        if block.kind == "verdicts":
            path = Path(folder) / chunk_name(0)
            continue_chunk(path, model, token_matrix(block.rows), settings, progress)
            return {"parquet": path.read_bytes()}
        if block.kind == "decoded":
            return {"parquet": _parquet(decode_block(settings, model, block.rows, progress))}
        if block.kind == "logprobs":
            return {"parquet": _parquet(logprobs_of(settings, model, block.rows))}
        if block.kind == "check":
            return {"check": json.dumps(_check(block.rows, model, settings)).encode()}
        return _maps(block, model, settings, Path(folder))


def _check(
    rows: pl.DataFrame, model: LanguageModel, settings: StudySettings
) -> dict[str, int | float]:
    """Ask scan and decoding both of the rows that were drawn."""
    return check_scan(
        model,
        token_matrix(rows),
        rows,
        n_rows=rows.height,
        scanned=settings.continue_.scan,
        batch_size=settings.model.batch_size,
    )


def _maps(
    block: Block, model: LanguageModel, settings: StudySettings, folder: Path
) -> dict[str, bytes]:
    """One shard, and the verdicts of its forwards where they are wanted."""
    store, verdicts = folder / "maps", folder / "verdicts"
    writer = store_of(settings, store, block.store, model)
    fill_store(
        settings,
        block.store,
        writer,
        model,
        block.rows.select("sequence_id", "suffix"),
        token_matrix(block.rows),
        block.mask,
        verdicts=verdicts if block.with_verdicts else None,
    )
    (shard,) = MapStore(store, verify=False).index["shard"].unique()
    files = {"shard": (store / shard).read_bytes()}
    if block.with_verdicts:
        (noted,) = verdicts.iterdir()
        files["verdicts"] = noted.read_bytes()
    return files


def _parquet(frame: pl.DataFrame) -> bytes:
    """A table as the content of a Parquet file."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


# Parts of a stage: what one of several processes makes, beside the study, until all are there.

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


# Do one part of `continue` or `capture`: its blocks and no others, into the part's own folder.

DECODED_FILE = "decoded.parquet"
MAPS_FOLDER = "maps"
VERDICTS_FOLDER = "verdicts"


def run_part(
    study: Study,
    stage: str,
    part: Part,
    settings: StudySettings | Callable[[StudySettings], StudySettings],
    *,
    redo: bool = False,
) -> Path | None:
    """Do one part of a stage; what an earlier, killed run of it finished is kept.

    The study itself is only read, so several processes, also on several machines that share its
    folder, may each do a part.

    Args:
        study: an existing study whose earlier stages are done.
        stage: `continue` or `capture`.
        part: which.
        settings: of the run, the same in every part; or a function of those the study has.
        redo: begin the part anew.

    Returns:
        The part's folder, None when the stage is done already.

    Raises:
        UserError: the settings differ from what finished stages were made with, a stage before
            is missing, or as `parts.working_on`.
        MnemoscopeError: as the stage itself.
    """
    with study.lock(shared=True):
        wanted = settings(study.settings) if callable(settings) else settings
        study.changed_stages(wanted)
        study.settings = wanted
        study.require("sequences")
        if study.is_done(stage):
            return None
        models = Models(wanted)
        roles = ("model",) if stage == "continue" else captured_roles(study)
        with working_on(study, stage, part, models, roles=roles, redo=redo) as folder:
            if stage == "continue":
                _continue(study, models.model(), part, folder)
            else:
                _capture(study, models, part, folder, roles)
    return folder


def captured_roles(study: Study) -> tuple[str, ...]:
    """The models whose attention a study captures now."""
    with_reference = (
        study.is_done("label")
        and study.settings.benchmark.controls
        and reference_name(study.settings) is not None
    )
    return ("model", "reference") if with_reference else ("model",)


def _continue(study: Study, model: LanguageModel, part: Part, folder: Path) -> None:
    """Continue or scan every n-th chunk of the table."""
    refuse_padding(study)
    chunks = chunks_of(token_matrix(study.sequences), study.settings.continue_.part_rows)
    mine = [chunk for number, chunk in enumerate(chunks) if part.is_mine(number)]
    if not mine:
        say(f"Part {part}: nothing to do, the table has fewer blocks than there are parts.")
    with track(f"Part {part}", total=sum(len(rows) for _, rows in mine)) as progress:
        for start, rows in mine:
            _take_over(chunk_folder(study), folder, chunk_name(start))
            continue_chunk(folder / chunk_name(start), model, rows, study.settings, progress)


def _take_over(kept: Path, folder: Path, name: str) -> None:
    """Take a chunk that the study holds already: from a capture's forward, or of a killed run."""
    if (folder / name).is_file() or not (kept / name).is_file():
        return
    write_bytes(folder / name, (kept / name).read_bytes())
    for size in read_halved(kept / "halved"):
        note_halved(size)


def _capture(
    study: Study, models: Models, part: Part, folder: Path, roles: tuple[str, ...]
) -> None:
    """Capture every n-th shard of what the study's stores lack."""
    wanted = wanted_maps(study)
    model = models.model()
    check_head_bytes(model, wanted.height, study.settings)
    stores = [(role, each) for role in roles for each in store_roles(study.settings, role)]
    loaded = {role: models.model() if role == "model" else models.reference(None) for role in roles}
    judged = None if verdict_folder(study) is None else folder / VERDICTS_FOLDER
    rows = {}
    for role, each in stores:
        lm = loaded[role]
        assert lm is not None
        path = folder / f"rows-{each}.parquet"
        if not path.is_file():
            store = store_of(study.settings, maps_folder(study, each), each, lm)
            write_parquet(
                path, pl.DataFrame({"row": _my_rows(store, wanted, part)}, schema={"row": pl.Int64})
            )
        # What is mine is said once: the study's store may have taken over other parts since.
        rows[each] = read_parquet(path)["row"].to_numpy()
    table = _decode(study, model, wanted, np.unique(np.concatenate(list(rows.values()))), folder)
    for role, each in stores:
        if len(mine := wanted[rows[each]]):
            lm = loaded[role]
            assert lm is not None
            target = folder / MAPS_FOLDER / each
            writer = store_of(study.settings, target, each, lm)
            tokens, mask = shown_tokens(table, mine), mask_of(table, mine)
            noted = judged if each == "model" and mask is None else None
            fill_store(study.settings, each, writer, lm, mine, tokens, mask, verdicts=noted)
    if study.is_done("label") and study.settings.benchmark.controls:
        _logprobs(study, model, wanted, part, folder)


def _my_rows(writer: MapWriter, wanted: pl.DataFrame, part: Part) -> list[int]:
    """Positions in `wanted` of the shards that are this part's."""
    missing = writer.missing(wanted["sequence_id"].to_numpy(), wanted["suffix"].to_list())
    blocks = np.arange(len(missing)) // writer.shard_rows
    return [int(row) for row in missing[blocks % part.n == part.number - 1]]


def _decode(
    study: Study, model: LanguageModel, wanted: pl.DataFrame, rows: np.ndarray, folder: Path
) -> pl.DataFrame:
    """The study's table with the continuations that these rows of `wanted` need."""
    table = study.sequences
    needed = set((rows // study.settings.capture.shard_rows).tolist())
    blocks = [block for block in lacking_blocks(study, wanted) if block[0] in needed]
    if not blocks:
        return table
    path = folder / DECODED_FILE
    if not path.is_file():
        total = sum(frame.height for _, frame in blocks)
        with track("Continuing the sampled Non-Memo", total=total) as progress:
            found = [decode_block(study.settings, model, frame, progress) for _, frame in blocks]
        write_parquet(path, pl.concat(found))
    decoded = read_parquet(path)
    merged = table.join(decoded, on="sequence_id", how="left", suffix="_new", maintain_order="left")
    return merged.with_columns(pl.coalesce(f"{name}_new", name).alias(name) for name in DECODED)


def _logprobs(
    study: Study, model: LanguageModel, wanted: pl.DataFrame, part: Part, folder: Path
) -> None:
    """Log-probabilities of every n-th block of the sampled sequences, with their blocks."""
    path = folder / LOGPROBS_FILE
    if path.is_file():
        return
    rows = study.sequences.join(wanted, on="sequence_id", how="semi")
    shard_rows = study.settings.capture.shard_rows
    frames = [
        logprobs_of(study.settings, model, rows[start : start + shard_rows])
        for number, start in enumerate(range(0, rows.height, shard_rows))
        if part.is_mine(number)
    ]
    if frames:
        say(f"Log-probabilities of {sum(frame.height for frame in frames):,} sequences")
        write_parquet(path, pl.concat(frames))


# Put the parts of a stage together: `mnemoscope merge STUDY`.

_STAGES = ("continue", "capture")


def merge_parts(study: Study, *, check: bool = True) -> list[str]:
    """Put together the parts of every stage that has some.

    Args:
        study: with folders `parts/continue` or `parts/capture`.
        check: compare scan and decoding on a draw, as the stage does in one process; this loads
            the model. Without it the merge needs none.

    Returns:
        Names of the stages that are done now.

    Raises:
        UserError: no parts, or parts that do not fit together or are not all there.
        DamagedDataError: a file of a part is torn; which.
    """
    with study.lock():
        stages = [name for name in _STAGES if (study.folder / "parts" / name).is_dir()]
        if not stages:
            raise UserError(
                f"{study.folder}: holds no parts. Make them with 'mnemoscope continue "
                f"{study.folder} --part 1/2' and 2/2, or capture likewise."
            )
        for stage in stages:
            records = find_parts(study, stage)
            if records and not study.is_done(stage):
                study.adopt(part_settings(records[0]))
                for role, facts in records[0].values["models"].items():
                    study.remember_model(role, facts)
                if stage == "continue":
                    _merge_continue(study, records, check=check)
                else:
                    _merge_capture(study, records)
            shutil.rmtree(study.folder / "parts" / stage)
        if not any((study.folder / "parts").iterdir()):
            (study.folder / "parts").rmdir()
    return stages


def _merge_continue(study: Study, records: list[PartRecord], *, check: bool) -> None:
    """Read the chunks in the table's order and finish the stage with them."""
    tokens = token_matrix(study.sequences)
    chunks = chunks_of(tokens, study.settings.continue_.part_rows)
    with study.finishing("continue") as counts:
        frames = []
        for number, (start, rows) in enumerate(chunks):
            record = records[number % len(records)]
            frames.append(_read(record, chunk_name(start), len(rows), "continue", study))
        model = None
        if check and study.settings.continue_.check_rows:
            models = Models(study.settings)
            model = models.model()
            _check_same_device(study, facts_of(model, study.settings.model.name)["device"])
        keep_verdicts_of(study, model, tokens, pl.concat(frames), counts)
        _note_halved(counts, records)
    shutil.rmtree(study.folder / "continuation", ignore_errors=True)


def _check_same_device(study: Study, device: str) -> None:
    """Refuse to check the scan on another device than the parts ran on."""
    made = study.record["models"]["model"]["device"]
    if device != made:
        raise UserError(
            f"{study.folder}: the parts were made on {made}, here the model is on {device}. Merge "
            "where they were made, or with --no-check, which needs no model."
        )


def _merge_capture(study: Study, records: list[PartRecord]) -> None:
    """Take over shards, continuations and log-probabilities, and finish the stage."""
    wanted = wanted_maps(study)
    with study.finishing("capture") as counts:
        counts |= {"distinct": wanted.height, "batch_size": study.settings.model.batch_size}
        roles = list(records[0].values["models"])
        map_roles = sorted({name for one in records for name in _map_roles(one)})
        stores = {role: _open_stores(study, records, role) for role in map_roles}
        verdicts = _verdicts(records)
        decoded = [_frame(record, DECODED_FILE) for record in records]
        if any(frame is not None for frame in decoded):
            frames = [frame for frame in decoded if frame is not None]
            keep_decoded(study, pl.concat(frames).unique("sequence_id"))
        for role in map_roles:
            _merge_maps(study, stores[role], role, wanted)
        if verdicts and (folder := verdict_folder(study)) is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in verdicts.items():
                write_bytes(folder / name, data)
            hand_over(study, folder)
        if "reference" in roles:
            counts["reference"] = wanted.height
        if study.is_done("label") and study.settings.benchmark.controls:
            _merge_logprobs(study, records, wanted)
        _note_halved(counts, records)


def _verdicts(records: list[PartRecord]) -> dict[str, bytes]:
    """Verdicts that the parts found in the forward of their maps: each file's name and content."""
    found = {}
    for record in records:
        for path in sorted((record.folder / VERDICTS_FOLDER).glob("from-*.parquet")):
            _frame(record, f"{VERDICTS_FOLDER}/{path.name}")
            found[path.name] = path.read_bytes()
    return found


def _note_halved(counts: dict[str, Any], records: list[PartRecord]) -> None:
    """Say of a stage that memory forced smaller batches in a part, as one process does."""
    sizes = [record.values[HALVED] for record in records if HALVED in record.values]
    if sizes:
        counts[HALVED] = min(sizes)


def _map_roles(record: PartRecord) -> list[str]:
    """Roles of which a part holds maps."""
    folder = record.folder / MAPS_FOLDER
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _open_stores(study: Study, records: list[PartRecord], role: str) -> list[MapStore | None]:
    """Every part's maps of a role, each shard compared with its sha256 before any is taken."""
    stores: list[MapStore | None] = []
    for record in records:
        with _naming_the_part(study, record):
            has_maps = role in _map_roles(record)
            stores.append(MapStore(record.folder / MAPS_FOLDER / role) if has_maps else None)
    return stores


def _merge_maps(
    study: Study, stores: list[MapStore | None], role: str, wanted: pl.DataFrame
) -> None:
    """Take over the shards of one role in the order in which one process writes them."""
    first = next(store for store in stores if store is not None)
    writer = MapWriter(
        maps_folder(study, role),
        n_layers=first.meta.n_layers,
        length=first.meta.length,
        fingerprint=first.meta.model,
        shard_rows=study.settings.capture.shard_rows,
        tensors=first.meta.tensors,
    )
    shards = list(_in_turn([_shards(store) for store in stores]))
    with track(f"Merging maps ({role})", total=len(shards), unit="shards") as progress:
        for number, name in shards:
            store = stores[number]
            assert store is not None
            writer.take_shard(store, name)
            progress.advance()
    lacking = writer.missing(wanted["sequence_id"].to_numpy(), wanted["suffix"].to_list())
    if len(lacking):
        raise UserError(
            f"{study.folder}: the parts lack {len(lacking)} maps ({role}), the first is sequence "
            f"{wanted['sequence_id'][int(lacking[0])]}. Delete parts/capture and run them again."
        )


@contextmanager
def _naming_the_part(study: Study, record: PartRecord) -> Iterator[None]:
    """Say of a damaged shard which part makes it again."""
    try:
        yield
    except DamagedDataError as error:
        what = str(error).split(" Run 'mnemoscope")[0].split(" Delete ")[0]
        raise DamagedDataError(
            f"{what} Run 'mnemoscope capture {study.folder} --part {record.part}' again: only what "
            "is damaged is captured anew."
        ) from None


def _shards(store: MapStore | None) -> list[str]:
    """Names of a part's shards in the order in which they were written."""
    return [] if store is None else sorted(store.index["shard"].unique())


def _in_turn(names: list[list[str]]) -> Iterator[tuple[int, str]]:
    """Deal back what was dealt out: the first shard of each part, then the second, and so on."""
    for position in range(max(map(len, names))):
        for number, each in enumerate(names):
            if position < len(each):
                yield number, each[position]


def _merge_logprobs(study: Study, records: list[PartRecord], wanted: pl.DataFrame) -> None:
    """Put the log-probabilities in the table's order."""
    rows = study.sequences.join(wanted, on="sequence_id", how="semi").select("sequence_id")
    frames = [_frame(record, LOGPROBS_FILE) for record in records]
    found = pl.concat([frame for frame in frames if frame is not None])
    merged = rows.join(found, on="sequence_id", how="left", maintain_order="left")
    if merged["logprobs"].null_count():
        raise UserError(
            f"{study.folder}: the parts lack {merged['logprobs'].null_count()} log-probabilities. "
            "Delete parts/capture and run them again."
        )
    study.write(LOGPROBS_FILE, merged)


def _frame(record: PartRecord, name: str) -> pl.DataFrame | None:
    """A table of a part, None where it has none."""
    path = record.folder / name
    if not path.is_file():
        return None
    try:
        return read_parquet(path)
    except (OSError, DamagedDataError):
        raise DamagedDataError(
            f"{path}: torn. Delete it and run part {record.part} again: the rest of it is kept."
        ) from None


def _read(record: PartRecord, name: str, n_rows: int, stage: str, study: Study) -> pl.DataFrame:
    """A chunk that must be there with its rows."""
    frame = _frame(record, name)
    if frame is None or frame.height != n_rows:
        raise DamagedDataError(
            f"{record.folder / name}: missing or of another table. Run 'mnemoscope {stage} "
            f"{study.folder} --part {record.part}' again: the rest of it is kept."
        )
    return frame


# `continue` and `capture` spread over a cluster's workers: `--engine ray`, see docs/cluster.md.

BLOCKS_FOLDER = "blocks"


class _Crew:
    """A cluster's workers with one of a study's models, and the storage that they write to.

    Entered, it has loaded the model and recorded it in the study.
    """

    def __init__(self, study: Study, stage: str, role: str, *, at_most: int) -> None:
        self.engine = current_engine()
        self.storage = _storage(study, stage, self.engine)
        self._study, self._role, self._at_most = study, role, at_most
        self._stack = ExitStack()

    def __enter__(self) -> "_Crew":
        settings = self._study.settings
        if settings.model.device_map is not None:
            raise UserError(
                "model.device_map: with --engine ray each worker has one GPU and the whole model "
                "on it. Leave one of the two out."
            )
        self.engine.check_storage(self.storage)
        make = partial(BlockWorker, settings, self._role, self.storage.url)
        gpus = gpus_for(settings.model.device, self.engine)
        say(f"Loading the {self._role} on the workers")
        opened = self.engine.workers(make, gpus=gpus, at_most=max(1, self._at_most))
        self._workers: Workers = self._stack.enter_context(opened)
        try:
            ((_, self._first),) = self._workers.run([Block("facts", pl.DataFrame())])
            self._study.remember_model(self._role, self._first.facts)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    @property
    def facts(self) -> ModelFacts:
        """The model that the workers hold."""
        return ModelFacts.of(self._first.facts)

    @property
    def vocabulary(self) -> str:
        """Hash of its tokens."""
        return str(self._first.vocabulary)

    def in_turn(self, blocks: Sequence[Block]) -> Iterator[tuple[int, BlockRecord]]:
        """Have blocks done in any order, and give them back in theirs as soon as may be."""
        waiting: dict[int, BlockRecord] = {}
        following = 0
        for number, record in self._workers.run(blocks):
            self._check_same(record)
            waiting[number] = record
            while following in waiting:
                yield following, waiting.pop(following)
                following += 1

    def take(self, record: BlockRecord, kind: str) -> bytes:
        """One file of a block.

        Raises:
            UserError: it is not there.
            DamagedDataError: it has changed since it was written.
        """
        name = f"{record.name}.{kind}"
        with self.storage.at_hand(name, record.files[kind], self._study.folder) as path:
            return path.read_bytes()

    def drop(self, record: BlockRecord) -> None:
        """Remove a block that the study holds by now."""
        for kind in ("json", *record.files):
            self.storage.remove(f"{record.name}.{kind}")

    def frames(self, label: str, blocks: Sequence[Block]) -> pl.DataFrame:
        """Have tables made, and put them together."""
        frames = []
        with track(label, total=sum(block.rows.height for block in blocks)) as progress:
            for number, record in self.in_turn(blocks):
                frames.append(pl.read_parquet(io.BytesIO(self.take(record, "parquet"))))
                progress.advance(blocks[number].rows.height)
        return pl.concat(frames)

    def _check_same(self, record: BlockRecord) -> None:
        """Refuse workers that do not hold the same model, format and kind of device."""
        if record.halved is not None:
            note_halved(record.halved)
        if difference := first_difference(record.facts, self._first.facts):
            raise UserError(
                f"{self._study.folder}: two workers of the cluster differ: {difference}. Give all "
                "machines the same model and kind of device."
            )


def spread_continue(study: Study, models: Models) -> None:  # noqa: ARG001 - as all stages
    """The stage `continue`, chunk by chunk on the workers; see `continuation.continue_stage`."""
    study.require("sequences")
    refuse_padding(study)
    halved = chunk_folder(study) / "halved"
    with study.finishing("continue") as counts, halved_on_record(counts, halved):
        tokens = token_matrix(study.sequences)
        folder = chunk_folder(study)
        folder.mkdir(parents=True, exist_ok=True)
        chunks = chunks_of(tokens, study.settings.continue_.part_rows)
        todo = [
            (start, rows) for start, rows in chunks if not _is_whole(folder / chunk_name(start))
        ]
        label = "Scanning" if study.settings.continue_.scan else "Continuing"
        with _Crew(study, "continue", "model", at_most=len(todo)) as crew:
            with track(label, total=len(tokens)) as progress:
                progress.advance(len(tokens) - sum(len(rows) for _, rows in todo))
                for number, record in crew.in_turn([_of_tokens("verdicts", r) for _, r in todo]):
                    start, rows = todo[number]
                    write_bytes(folder / chunk_name(start), crew.take(record, "parquet"))
                    crew.drop(record)
                    progress.advance(len(rows))
            found = pl.concat([read_parquet(folder / chunk_name(start)) for start, _ in chunks])
            check = _spread_check(crew, tokens, found, study.settings)
        keep_verdicts_of(study, None, tokens, found, counts)
        counts["scan_check"] = check
    crew.storage.remove_all()
    shutil.rmtree(study.folder / "continuation")


def spread_capture(study: Study, models: Models) -> None:  # noqa: ARG001 - as all stages
    """The stage `capture`, shard by shard on the workers; see `capture.capture_stage`."""
    study.require("sequences")
    settings = study.settings
    halved = study.folder / "maps" / "halved"
    with study.finishing("capture") as counts, halved_on_record(counts, halved):
        wanted = wanted_maps(study)
        counts |= {"distinct": wanted.height, "batch_size": settings.model.batch_size}
        with _Crew(study, "capture", "model", at_most=_n_shards(wanted, settings)) as crew:
            check_head_bytes(crew.facts, wanted.height, settings)
            lacking = [Block("decoded", frame) for _, frame in lacking_blocks(study, wanted)]
            if lacking:
                keep_decoded(study, crew.frames("Continuing the sampled Non-Memo", lacking))
            _fill(study, crew, "model", wanted)
            if study.is_done("label") and settings.benchmark.controls:
                _spread_logprobs(study, crew, wanted)
        if "reference" in captured_roles(study):
            _capture_reference(study, wanted, crew)
            counts["reference"] = wanted.height
    halved.unlink(missing_ok=True)
    crew.storage.remove_all()


def repair_spread(study: Study) -> None:
    """Capture again what the stores of a finished study have lost, on the workers."""
    wanted = wanted_maps(study)
    with _Crew(study, "capture", "model", at_most=_n_shards(wanted, study.settings)) as crew:
        _fill(study, crew, "model", wanted)
    if maps_folder(study, "reference").is_dir():
        _capture_reference(study, wanted, crew)
    crew.storage.remove_all()


def gpus_for(device: str, engine: Engine) -> float:
    """Accelerators that a worker needs for a device of the settings.

    Raises:
        UserError: one of several is named, but a worker sees its own alone.
    """
    if device.startswith("cuda:"):
        raise UserError(
            f"--device {device}: with --engine ray each worker has one GPU of its own. Write "
            "--device cuda."
        )
    return 1.0 if device == "cuda" or (device == "auto" and engine.n_gpus()) else 0.0


def _storage(study: Study, stage: str, engine: Engine) -> Storage:
    """Where this study's blocks stand; named so that no two studies meet in one bucket."""
    own = sha256(f"{study.folder.resolve()} {study.key(stage)}".encode()).hexdigest()[:16]
    url = engine.storage or str((study.folder / BLOCKS_FOLDER).resolve())
    return Storage(url).under(f"{stage}-{own}") if engine.storage else Storage(url)


def _of_tokens(kind: str, tokens: np.ndarray, **columns: Any) -> Block:
    """A block of tokens alone."""
    lists = pl.Series("tokens", tokens.tolist(), dtype=pl.List(pl.Int32))
    return Block(kind, pl.DataFrame({"tokens": lists, **columns}))


def _is_whole(path: Any) -> bool:
    """Whether a chunk is there from a run before."""
    with suppress(OSError, DamagedDataError):
        read_parquet(path)
        return True
    return False


def _spread_check(
    crew: _Crew, tokens: np.ndarray, found: pl.DataFrame, settings: StudySettings
) -> dict[str, int | float]:
    """Scan against decoding on a draw, by a worker."""
    rows = draw_rows(found["is_memorized"].to_numpy(), settings.continue_.check_rows)
    if not len(rows):
        return {"checked": 0, "disagree": 0}
    drawn = found[rows]
    columns = {name: drawn[name] for name in ("is_memorized", "smallest_gap")}
    ((_, record),) = crew.in_turn([_of_tokens("check", tokens[rows], **columns)])
    checked: dict[str, int | float] = json.loads(crew.take(record, "check"))
    return checked


def _fill(study: Study, crew: _Crew, role: str, wanted: pl.DataFrame) -> None:
    """Fill the stores of a role with the shards that the workers make, in order."""
    settings, table = study.settings, study.sequences
    tokens, mask = shown_tokens(table, wanted), mask_of(table, wanted)
    verdicts = verdict_folder(study) if role == "model" and mask is None else None
    for each in store_roles(settings, role):
        writer = store_of(settings, maps_folder(study, each), each, crew.facts)
        for error in writer.damaged:
            say(f"Redoing what is damaged: {error}")
        missing = writer.missing(wanted["sequence_id"].to_numpy(), wanted["suffix"].to_list())
        shards = [
            missing[start : start + writer.shard_rows]
            for start in range(0, len(missing), writer.shard_rows)
        ]
        noted = verdicts if each == role else None
        blocks = [_shard(each, wanted, tokens, mask, rows, noted is not None) for rows in shards]
        with track(f"Capturing ({each})", total=len(missing)) as progress:
            for number, record in crew.in_turn(blocks):
                rows = blocks[number].rows
                if noted is not None:
                    noted.mkdir(parents=True, exist_ok=True)
                    data = crew.take(record, "verdicts")
                    write_bytes(noted / f"from-{rows['sequence_id'][0]}.parquet", data)
                name, digest = f"{record.name}.shard", record.files["shard"]
                with crew.storage.at_hand(name, digest, study.folder) as path:
                    ids, suffixes = rows["sequence_id"].to_numpy(), rows["suffix"].to_list()
                    writer.take_file(path, ids, suffixes, sha256=digest)
                crew.drop(record)
                progress.advance(rows.height)
    if verdicts is not None and verdicts.is_dir():
        hand_over(study, verdicts)


def _shard(
    store: str,
    wanted: pl.DataFrame,
    tokens: np.ndarray,
    mask: np.ndarray | None,
    rows: np.ndarray,
    with_verdicts: bool,
) -> Block:
    """The block that makes one shard."""
    lists = pl.Series("tokens", tokens[rows].tolist(), dtype=pl.List(pl.Int32))
    frame = wanted[rows].select("sequence_id", "suffix").with_columns(lists)
    part = None if mask is None else mask[rows]
    return Block("maps", frame, store, part, with_verdicts)


def _capture_reference(study: Study, wanted: pl.DataFrame, model: _Crew) -> None:
    """Capture the reference with workers of its own: each holds one model.

    Raises:
        UserError: its weights are the model's, or its tokens are others.
    """
    name = str(reference_name(study.settings))
    n_shards = _n_shards(wanted, study.settings)
    with _Crew(study, "capture", "reference", at_most=n_shards) as crew:
        check_unlike(name, crew.facts.fingerprint, model.facts.name, model.facts.fingerprint)
        if crew.vocabulary != model.vocabulary:
            raise UserError(
                f"{name}: another tokenizer than {model.facts.name}'s, so the same ids would be "
                "another text. Choose a model of the same family."
            )
        _fill(study, crew, "reference", wanted)


def _spread_logprobs(study: Study, crew: _Crew, wanted: pl.DataFrame) -> None:
    """Log-probabilities of every sampled sequence's true suffix, in the table's order."""
    rows = study.sequences.join(wanted, on="sequence_id", how="semi")
    shard_rows = study.settings.capture.shard_rows
    blocks = [
        Block("logprobs", rows[start : start + shard_rows].select("sequence_id", "tokens"))
        for start in range(0, rows.height, shard_rows)
    ]
    study.write(LOGPROBS_FILE, crew.frames("Log-probabilities", blocks))


def _n_shards(wanted: pl.DataFrame, settings: StudySettings) -> int:
    """Workers that a capture has use for."""
    return -(-wanted.height // settings.capture.shard_rows)
