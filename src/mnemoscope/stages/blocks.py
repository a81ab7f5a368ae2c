"""One block of `continue` or `capture` on a worker of a cluster: done once, then in the storage.

A block is what one process does between two writes: a chunk of the table (`continue.part_rows`),
or a shard of maps (`capture.shard_rows`). Its name is the hash of all that decides its bytes, so
what a killed run has finished is found again, and another model's or version's is not.
"""

import hashlib
import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.config import StudySettings
from mnemoscope.engine.storage import Storage
from mnemoscope.errors import DamagedDataError
from mnemoscope.lm.batching import noting_halved
from mnemoscope.lm.loading import LanguageModel
from mnemoscope.maps.store import MapStore
from mnemoscope.progress import track
from mnemoscope.sequences.schema import token_matrix
from mnemoscope.stages.capture import fill_store, logprobs_of, store_of
from mnemoscope.stages.continuation import chunk_name, continue_chunk
from mnemoscope.stages.decoding import decode_block
from mnemoscope.stages.models import Models, facts_of, reference_name, vocabulary_of
from mnemoscope.stages.scan_check import check_scan
from mnemoscope.study import versions

__all__ = ["Block", "BlockRecord", "BlockWorker"]


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
