"""Blocks: the work `continue` and `capture` ask of a model, cut so that any process can do it.

A block is what one process does between two writes: a chunk of the table (`continue.part_rows`), or
a shard of maps (`capture.shard_rows`). This process does blocks, or the workers of a cluster, or
processes that did a part each (`parts`); the bytes are the same.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
import polars as pl
import torch

from mnemoscope.cluster.engine import current_engine, gpus_for
from mnemoscope.cluster.ray import Storage
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.files import parquet_bytes
from mnemoscope.lm.attention import PooledMaps, capture_pooled
from mnemoscope.lm.continue_ import (
    Continuations,
    Scan,
    capture_and_scan,
    continue_sequences,
    scan_memorized,
)
from mnemoscope.lm.model import HALVED, LanguageModel, note_halved, recording_batch_size
from mnemoscope.lm.probe import next_tokens
from mnemoscope.maps.format import StoreMeta, pack_shard
from mnemoscope.maps.shape import POOLED
from mnemoscope.parse import flatten, parse_json
from mnemoscope.progress import SILENT, Progress, say, track
from mnemoscope.store import keep_table, kept_table
from mnemoscope.study.folder import Study, versions
from mnemoscope.study.models import (
    Models,
    check_unlike,
    facts_of,
    other_tokens,
    reference_name,
    vocabulary_of,
)
from mnemoscope.study.settings import StudySettings

if TYPE_CHECKING:
    from mnemoscope.cluster.ray import Pool, RayEngine

DECODED = ("continuation", "memorization_score")
"""Columns that decoding fills in after a scan."""


@dataclass(frozen=True)
class Block:
    """A unit of work in plain values, so that it can be done without the study's folder.

    Attributes:
        kind: `verdicts`, `check`, `decoded`, `next_tokens`, `maps`; `facts` only asks for
            the model's.
        number: its index in the stage, from 0; decides which part does it.
        tokens: as shown to the model, int32, shape (rows, length).
        rows: depending on kind `sequence_id`, `suffix`, `is_memorized`, `smallest_gap`.
        name: of the file for its table.
        mask: of `tokens` if some are padded, for verdicts, checks and maps.
        store, with_verdicts: for maps, the name of their folder (`model`, `reference`,
            `model-heads`, ...), and whether their forward passes give verdicts too.
    """

    kind: str
    number: int
    tokens: np.ndarray
    rows: pl.DataFrame
    name: str = ""
    store: str = ""
    mask: np.ndarray | None = None
    with_verdicts: bool = False


class BlockResult(NamedTuple):
    """The result of a block: a table's Parquet file, or maps as a shard or the file that holds it.

    `table` of maps is their verdicts, or None; `sha256` is of the shard.
    """

    block: Block
    table: bytes | None
    shard: bytes | Path = b""
    sha256: str = ""


class Worker(Protocol):
    """Processes that do blocks with one model; `facts` describe the model, see `facts_of`."""

    facts: dict[str, Any]

    def make(self, blocks: Sequence[Block], progress: Progress) -> Iterator[BlockResult]:
        """Do blocks in any order and yield the results in the order given."""


OpenWorker = Callable[[str, int], AbstractContextManager[Worker]]
"""Gives the worker of a role (`model`, `reference`) for at most so many blocks."""


@contextmanager
def open_workers(study: Study, stage: str, models: Models) -> Iterator[OpenWorker]:
    """Give who does the blocks of a stage: this process, or the workers of the cluster in use."""
    engine = current_engine()
    if not engine.is_cluster:
        yield partial(open_local_worker, study, models)
        return
    worker = ClusterWorker(study, stage, cast("RayEngine", engine))
    yield worker.open_worker
    worker.storage.remove_all()  # after an error what is made stays for the next run


def make_tables(
    worker: Worker, blocks: Sequence[Block], label: str, folder: Path | None = None
) -> list[pl.DataFrame]:
    """The tables that blocks make, in order; `folder` keeps each under its block's name."""
    found = {}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for block in blocks:
            if (kept := kept_table(folder / block.name, "its rows")) is not None:
                found[block.number] = kept
    todo = [block for block in blocks if block.number not in found]
    with track(label, total=sum(len(block.tokens) for block in blocks)) as progress:
        progress.advance(sum(len(block.tokens) for block in blocks if block.number in found))
        for block, table, *_ in worker.make(todo, progress):
            assert table is not None
            if folder is not None:
                keep_table(folder / block.name, table)
            found[block.number] = pl.read_parquet(io.BytesIO(table))
    return [found[block.number] for block in blocks]


# -- what a model is asked --------------------------------------------------------------------


def do_block(
    block: Block, model: LanguageModel, settings: StudySettings, progress: Progress
) -> dict[str, bytes]:
    """The files of a block by suffix: its table (`parquet`), its maps (`shard`)."""
    if block.kind == "maps":
        return _maps(block, model, settings, progress)
    size, scan = settings.model.batch_size, settings.continue_.scan
    prefix = settings.sequences.n_prefix
    ask = partial(
        verdicts,
        model,
        block.tokens,
        mask=block.mask,
        batch_size=size,
        prefix=prefix,
        progress=progress,
    )
    if block.kind == "verdicts":
        frame = ask(scan=scan)
    elif block.kind == "decoded":
        found = ask(scan=False)
        frame = block.rows.select("sequence_id", *found.select(DECODED).get_columns())
    elif block.kind == "next_tokens":
        said = next_tokens(model, block.tokens, batch_size=size)
        frame = block.rows.with_columns(
            pl.Series(name, values.tolist(), dtype=pl.List(pl.Float32))
            for name, values in said._asdict().items()
        )
        progress.advance(frame.height)
    else:
        assert block.kind == "check", block.kind
        frame = pl.DataFrame([disagreements(block.rows, ask(scan=not scan))])
    return {"parquet": parquet_bytes(frame)}


def verdicts(
    model: LanguageModel,
    tokens: np.ndarray,
    *,
    scan: bool,
    mask: np.ndarray | None = None,
    batch_size: int,
    prefix: int = 32,
    progress: Progress = SILENT,
) -> pl.DataFrame:
    """Ask which sequences the model reproduces; `tokens` int32 (sequences, length).

    They are padded where `mask` is 0. Gives columns `is_memorized`, `memorization_score` f32,
    `continuation` list<i32> and `smallest_gap` f32 (between the two best logits of any step). A
    `scan` by teacher forcing gives score 1 or null and no continuation: those of Non-Memo are
    decoded later, for sampled sequences only.
    """
    ask: Callable[..., Iterator[Scan | Continuations]]
    ask, frames = scan_memorized if scan else continue_sequences, []
    for batch in ask(model, tokens, batch_size=batch_size, prefix=prefix, attention_mask=mask):
        columns: dict[str, Any] = batch._asdict()
        if isinstance(batch, Continuations):
            written = [row[row >= 0].tolist() for row in batch.tokens]
            columns = {
                "is_memorized": batch.score == 1.0,
                "memorization_score": batch.score,
                "continuation": pl.Series(written, dtype=pl.List(pl.Int32)),
                "smallest_gap": batch.smallest_gap,
            }
        frames.append(pl.DataFrame(columns))
        progress.advance(frames[-1].height)
    return as_found(pl.concat(frames)) if scan else pl.concat(frames)


def as_found(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Turn `is_memorized` and `smallest_gap` into the columns of `verdicts`; score 1 or null."""
    return verdicts.select(
        "is_memorized",
        pl.when("is_memorized").then(1.0).cast(pl.Float32).alias("memorization_score"),
        pl.lit(None, dtype=pl.List(pl.Int32)).alias("continuation"),
        "smallest_gap",
    )


def disagreements(found: pl.DataFrame, again: pl.DataFrame) -> dict[str, int | float]:
    """Count where scan and decoding differ: `checked`, `disagree`, `largest_gap_of_these` if any.

    Both agree except for near ties of the two best logits, which rounding decides. `found` holds
    `is_memorized` and `smallest_gap` of the rows, `again` what the other method says.
    """
    differs = found.filter(again["is_memorized"] != found["is_memorized"])
    counts: dict[str, int | float] = {"checked": found.height, "disagree": differs.height}
    if differs.height:
        counts["largest_gap_of_these"] = float(differs["smallest_gap"].to_numpy().max())
    return counts


def store_meta(
    settings: StudySettings, store: str, facts: dict[str, Any], tokens: str | None = None
) -> StoreMeta:
    """The metadata of one folder of maps, for a model with these facts.

    `tokens` is the digest of the sequences (`Study.tokens`).
    """
    is_heads = store.endswith("-heads")
    return StoreMeta(
        facts["n_layers"] * (facts["n_heads"] if is_heads else 1),
        settings.sequences.length,
        {
            "weights": facts["fingerprint"],
            "dtype": facts["dtype"],
            "device": facts["device"].split(":")[0],
            "bos_id": facts["bos_id"],
            **({} if tokens is None else {"tokens": tokens}),
        },
        tensors=("heads",) if is_heads else POOLED,
    )


def _maps(
    block: Block, model: LanguageModel, settings: StudySettings, progress: Progress
) -> dict[str, bytes]:
    """One shard, and the verdicts of its forward passes if wanted."""
    meta = store_meta(settings, block.store, facts_of(model, ""))
    size, prefix = settings.model.batch_size, settings.sequences.n_prefix
    found: Iterable[tuple[PooledMaps, Scan | None]]
    if block.with_verdicts:
        found = capture_and_scan(model, block.tokens, batch_size=size, prefix=prefix)
    else:
        captured = capture_pooled(
            model,
            block.tokens,
            attention_mask=block.mask,
            batch_size=size,
            keep_heads="heads" in meta.tensors,
        )
        found = ((maps, None) for maps in captured)
    batches, scans = [], []
    for maps, scan in found:
        batches.append(maps)
        if scan is not None:
            scans.append(pl.DataFrame(scan._asdict()))
        progress.advance(len(maps.mean))
    tensors = {name: torch.cat([getattr(one, name) for one in batches]) for name in meta.tensors}
    ids = block.rows["sequence_id"]
    files = {"shard": pack_shard(ids.to_numpy(), tensors, meta)}
    if scans:
        files["parquet"] = parquet_bytes(pl.concat(scans, rechunk=True).insert_column(0, ids))
    return files


# -- this process -----------------------------------------------------------------------------


@contextmanager
def open_local_worker(
    study: Study,
    models: Models,
    role: str,
    n_blocks: int,  # noqa: ARG001 - as every worker
    *,
    is_recorded: bool = True,
) -> Iterator[Worker]:
    """Do the blocks in this process; `is_recorded` records the role's model in the study."""
    yield _LocalWorker(load_role(models, role, study if is_recorded else None), study.settings)


def load_role(models: Models, role: str, study: Study | None = None) -> LanguageModel:
    """The model or the reference, recorded in a study where one is given."""
    loaded = models.model(study) if role == "model" else models.reference(study)
    assert loaded is not None
    return loaded


class _LocalWorker:
    def __init__(self, model: LanguageModel, settings: StudySettings) -> None:
        self.facts = facts_of(model, model.name)
        self._model, self._settings = model, settings

    def make(self, blocks: Sequence[Block], progress: Progress) -> Iterator[BlockResult]:
        for block in blocks:
            files = do_block(block, self._model, self._settings, progress)
            shard = files.get("shard", b"")
            yield BlockResult(block, files.get("parquet"), shard, hashlib.sha256(shard).hexdigest())


# -- the workers of a cluster -----------------------------------------------------------------


@dataclass(frozen=True)
class BlockRecord:
    """Metadata of a finished block, stored beside its files and written last.

    `name` hashes everything that decides the block, `vocabulary` the model's; `files` holds the
    SHA-256 of each file by its suffix, `halved` the smallest batch size that memory forced.
    """

    name: str
    facts: dict[str, Any]
    vocabulary: str
    files: dict[str, str] = field(default_factory=dict)
    halved: int | None = None


class BlockWorker:
    """Does blocks with one model and keeps each in the storage.

    A block's name is the hash of everything that decides its bytes, so a new run finds the blocks
    that a killed one finished, but not those of another model or version.
    """

    def __init__(self, settings: StudySettings, role: str, url: str) -> None:
        self._settings, self._storage = settings, Storage(url)
        self._model = Models(settings).alone(role)
        name = settings.model.name if role == "model" else reference_name(settings)
        self._facts = facts_of(self._model, str(name))
        self._vocabulary = vocabulary_of(self._model)

    def __call__(self, block: Block) -> BlockRecord:
        """Do a block unless it is in the storage already."""
        name = self._name(block)
        if block.kind == "facts":
            return BlockRecord(name, self._facts, self._vocabulary)
        if (record := self._finished(name)) is not None:
            return record
        counts: dict[str, Any] = {}
        with recording_batch_size(counts):
            made = do_block(block, self._model, self._settings, SILENT)
        files = {each: self._storage.write(f"{name}.{each}", data) for each, data in made.items()}
        record = BlockRecord(name, self._facts, self._vocabulary, files, counts.get(HALVED))
        self._storage.write(f"{name}.json", json.dumps(asdict(record)).encode())
        return record

    def _finished(self, name: str) -> BlockRecord | None:
        """The record of a block if it is complete."""
        data = self._storage.read(f"{name}.json")
        if data is None:
            return None
        try:
            record = BlockRecord(**parse_json(data))
            whole = [self._storage.read(f"{name}.{one}", sha) for one, sha in record.files.items()]
        except (ValueError, TypeError, DamagedDataError):
            return None
        return None if None in whole else record

    def _name(self, block: Block) -> str:
        """Hash of everything that decides the result of a block."""
        basis = {
            "kind": [block.kind, block.store, block.with_verdicts],
            "facts": self._facts,
            "batch_size": self._settings.model.batch_size,
            "scan": self._settings.continue_.scan,
            "versions": versions(),
        }
        digest = hashlib.sha256(json.dumps(basis, sort_keys=True).encode())
        digest.update(repr(block.tokens.shape).encode() + block.tokens.tobytes())
        digest.update(block.rows.write_json().encode())
        if block.mask is not None:
            digest.update(block.mask.tobytes())
        return digest.hexdigest()[:32]


class ClusterWorker:
    """A cluster's workers, with one model at a time, and the storage they write to."""

    def __init__(self, study: Study, stage: str, engine: "RayEngine") -> None:
        self.facts: dict[str, Any] = {}
        self._vocabulary = ""
        self._study, self._engine = study, engine
        self._workers: Pool
        url = str((study.folder / "blocks").resolve())
        if engine.storage:  # a name that no two studies in one bucket share
            own = hashlib.sha256(f"{study.folder.resolve()} {study.key(stage)}".encode())
            url = f"{engine.storage.rstrip('/')}/{stage}-{own.hexdigest()[:16]}"
        self.storage = Storage(url)

    @contextmanager
    def open_worker(self, role: str, n_blocks: int) -> Iterator[Worker]:
        """Load a role's model on the workers and record it in the study.

        Raises UserError: a setting or a machine does not fit, or the reference does not fit the
        model.
        """
        settings = self._study.settings
        if settings.model.device_map is not None:
            raise UserError(
                "model.device_map: with --engine ray each worker has one GPU and the whole model "
                "on it. Leave one of the two out."
            )
        if not self.facts:  # once a stage
            self._engine.check_storage(self.storage)
        make = partial(BlockWorker, settings, role, self.storage.url)
        gpus = gpus_for(settings.model.device, self._engine)
        say(f"Loading the {role} on the workers")
        with self._engine.workers(make, gpus=gpus, at_most=max(1, n_blocks)) as self._workers:
            nothing = Block("facts", 0, np.empty((0, 0), np.int32), pl.DataFrame())
            ((_, first),) = self._workers.run([nothing])
            if role == "reference":
                self._check_reference(first)
            self.facts, self._vocabulary = first.facts, first.vocabulary
            self._study.remember_model(role, first.facts)
            yield self

    def make(self, blocks: Sequence[Block], progress: Progress) -> Iterator[BlockResult]:
        """Do blocks; each is removed from the storage once the study has its result."""
        for number, record in self._in_turn(blocks):
            found = {kind: self._take(record, kind) for kind in record.files}
            shard = self.storage.path_of(f"{record.name}.shard") if "shard" in found else None
            whole = shard or found.get("shard", b"")
            yield BlockResult(
                blocks[number], found.get("parquet"), whole, record.files.get("shard", "")
            )
            self.drop(record)
            progress.advance(len(blocks[number].tokens))

    def drop(self, record: BlockRecord) -> None:
        """Remove a block from the storage."""
        for kind in ("json", *record.files):
            self.storage.remove(f"{record.name}.{kind}")

    def _in_turn(self, blocks: Sequence[Block]) -> Iterator[tuple[int, BlockRecord]]:
        """Results of blocks in their order, each as soon as possible."""
        waiting: dict[int, BlockRecord] = {}
        following = 0
        for number, record in self._workers.run(blocks):
            if record.halved is not None:
                note_halved(record.halved)
            if difference := first_difference(record.facts, self.facts):
                raise UserError(
                    f"{self._study.folder}: two workers of the cluster differ: {difference}. Give "
                    "all machines the same model and kind of device."
                )
            waiting[number] = record
            while following in waiting:
                yield following, waiting.pop(following)
                following += 1

    def _take(self, record: BlockRecord, kind: str) -> bytes:
        """Read one file of a block and verify its SHA-256."""
        name = f"{record.name}.{kind}"
        data = self.storage.read(name, record.files[kind])
        if data is None:
            raise UserError(
                f"{self.storage.url}/{name}: a worker wrote it, but it is not there. Give "
                "--storage a URL that all machines of the cluster see."
            )
        return data

    def _check_reference(self, record: BlockRecord) -> None:
        """Reject a reference with the model's weights or with another vocabulary."""
        name, model = record.facts["name"], self.facts
        check_unlike(name, record.facts["fingerprint"], model["name"], model["fingerprint"])
        if record.vocabulary != self._vocabulary:
            raise other_tokens(name, model["name"])


def first_difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """The first value that differs, in words; None if two records match."""
    here, there = dict(flatten(found)), dict(flatten(wanted))
    for key in sorted(here.keys() | there.keys()):
        if key not in ("finished", HALVED) and here.get(key) != there.get(key):
            name = key.removeprefix("settings.")
            return f"{name} {here.get(key)!r} (here {there.get(key)!r})"
    return None
