"""`continue` and `capture` spread over a cluster's workers: `--engine ray`, see docs/cluster.md.

Workers do the blocks of one process and put them into shared storage; this process takes them
over in order, so that the study is byte for byte what one process makes. It loads no model.
"""

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from hashlib import sha256
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.atomic_write import write_bytes
from mnemoscope.config import StudySettings
from mnemoscope.engine import Engine, Workers, current_engine
from mnemoscope.engine.storage import Storage
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.lm.batching import note_halved
from mnemoscope.parquet import read_parquet
from mnemoscope.progress import say, track
from mnemoscope.sequences.schema import token_matrix
from mnemoscope.stages.blocks import Block, BlockRecord, BlockWorker
from mnemoscope.stages.capture import (
    LOGPROBS_FILE,
    check_head_bytes,
    maps_folder,
    shown_tokens,
    store_of,
    store_roles,
    wanted_maps,
)
from mnemoscope.stages.continuation import chunk_folder, chunk_name, chunks_of, keep_verdicts_of
from mnemoscope.stages.decoding import keep_decoded, lacking_blocks
from mnemoscope.stages.halving import halved_on_record
from mnemoscope.stages.models import ModelFacts, Models, check_unlike, reference_name
from mnemoscope.stages.padding import mask_of, refuse_padding
from mnemoscope.stages.part_work import captured_roles
from mnemoscope.stages.parts import first_difference
from mnemoscope.stages.scan_check import draw_rows
from mnemoscope.stages.verdicts import hand_over, verdict_folder
from mnemoscope.study import Study

__all__ = ["gpus_for", "repair_spread", "spread_capture", "spread_continue"]

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
            check = _check(crew, tokens, found, study.settings)
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
                _logprobs(study, crew, wanted)
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


def _check(
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


def _logprobs(study: Study, crew: _Crew, wanted: pl.DataFrame) -> None:
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
