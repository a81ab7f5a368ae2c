"""Stage `capture`: store the attention maps of all sampled sequences, by model and reference.

Each map is captured once for all taxonomies, and stored maps are kept. Also decodes continuations
and finds log-probabilities that the samples need.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.data.table import look_up, mask_of, token_matrix
from mnemoscope.errors import DamagedDataError, MnemoscopeError, UserError
from mnemoscope.lm.model import recording_batch_size
from mnemoscope.maps.format import META_NAME, StoreMeta, find_rows, read_meta
from mnemoscope.maps.shape import map_bytes
from mnemoscope.maps.store import MapStore, MapWriter, find_damage
from mnemoscope.pipeline.blocks import (
    Block,
    OpenWorker,
    Worker,
    make_tables,
    open_local_worker,
    open_workers,
    store_meta,
)
from mnemoscope.pipeline.continue_ import store_scan_verdicts, verdict_folder
from mnemoscope.pipeline.label import SAMPLES_FILE, nothing_to_train
from mnemoscope.progress import say, track
from mnemoscope.store import keep_table
from mnemoscope.study.folder import DECODED_FILE, Study
from mnemoscope.study.models import Models, reference_name
from mnemoscope.study.settings import StudySettings

LOGPROBS_FILE = "logprobs.parquet"
NEXT_FILE = "next_logprobs.parquet"
MOST_HEAD_BYTES = 8_000_000_000
"""Most bytes on disk for one model's maps of every head."""


def capture_stage(study: Study, models: Models) -> None:
    """Capture what the samples need and the stores lack; without samples, every sequence.

    Without samples, a study with `continue.scan` also gets its verdicts from the same forward
    passes; `continue` takes them over.
    """
    with open_workers(study, "capture", models) as open_worker:
        capture_with(study, open_worker)


def capture_with(study: Study, open_worker: OpenWorker) -> None:
    """Run the stage with the worker that `open_worker` gives."""
    study.require("sequences")
    settings = study.settings
    halved = study.folder / "maps" / "halved"
    with study.finishing("capture") as counts, recording_batch_size(counts, halved):
        wanted = wanted_maps(study)
        n_shards = _n_shards(study, wanted)
        counts |= {"distinct": wanted.height, "batch_size": settings.model.batch_size}
        with open_worker("model", n_shards) as worker:
            check_head_bytes(worker.facts, wanted.height, settings)
            if blocks := decoding_blocks(study, wanted):
                frames = make_tables(worker, blocks, DECODING)
                if study.store.has("decoded"):
                    frames.insert(0, study.read(DECODED_FILE))
                study.store.put("decoded", {DECODED_FILE: pl.concat(frames)})
            _fill_stores(study, worker, "model", wanted)
            if wants_controls(study):
                blocks = next_blocks(study, study.sequences, wanted)
                _write_logprobs(study, pl.concat(make_tables(worker, blocks, NEXT)), wanted)
        if "reference" in captured_roles(study):
            with open_worker("reference", n_shards) as worker:
                _fill_stores(study, worker, "reference", wanted)
            counts["reference"] = wanted.height
    halved.unlink(missing_ok=True)


def damaged_maps(study: Study) -> list[MnemoscopeError]:
    """Errors in the stores of a finished study; reads every shard (about 1 GB/s)."""
    found: list[MnemoscopeError] = []
    for store in stores(study):
        folder = maps_folder(study, store)
        try:
            meta = read_meta(folder)
            check_maps(study, store, meta)
            index, damaged = find_damage(folder, meta)
            found += damaged.values()
            wanted = wanted_maps(study)
            if n := find_rows(index, wanted).null_count():
                why = f"{n} of {wanted.height} maps are missing or damaged"
                found.append(study.store.out_of_date(folder, "manifests/capture", why))
        except (DamagedDataError, UserError) as error:
            found.append(error)
    return found


def stores(study: Study) -> list[str]:
    """The roles whose maps are there, in part or whole."""
    return sorted(path.parent.name for path in study.folder.glob(f"maps/*/{META_NAME}"))


def repair_maps(study: Study, models: Models) -> None:
    """Capture again only what the stores of a finished study have lost."""
    wanted = wanted_maps(study)
    with open_workers(study, "capture", models) as open_worker:
        for role in ("model", "reference"):
            if role == "model" or maps_folder(study, role).is_dir():
                with open_worker(role, _n_shards(study, wanted)) as worker:
                    _fill_stores(study, worker, role, wanted)


def _n_shards(study: Study, wanted: pl.DataFrame) -> int:
    return math.ceil(wanted.height / study.settings.capture.shard_rows)


def capture_rows(study: Study, models: Models, wanted: pl.DataFrame) -> None:
    """Capture more rows with every model of the study; own suffixes must be decoded already."""
    open_worker: OpenWorker = partial(open_local_worker, study, models)
    for role in captured_roles(study):
        with open_worker(role, 1) as worker:
            _fill_stores(study, worker, role, wanted)


# -- what is wanted ---------------------------------------------------------------------------


def maps_folder(study: Study, role: str) -> Path:
    """Folder of the maps of a role: `model`, `reference`, or with all heads `model-heads`."""
    return study.folder / "maps" / role


def open_maps(study: Study, store: str, *, verify: bool = False) -> MapStore:
    """Open the maps of a role, as `MapStore`; errors also as `check_maps`."""
    found = MapStore(maps_folder(study, store), verify=verify)
    check_maps(study, store, found.meta)
    return found


def check_maps(study: Study, store: str, meta: StoreMeta) -> None:
    """Raise OutOfDateError if the maps of a role are another study's or another model's."""
    facts = study.record["models"].get(store.removesuffix("-heads"), {})
    wanted = {"tokens": study.tokens, "weights": facts.get("fingerprint")}
    for name, value in wanted.items():
        if value and meta.model.get(name) != value:
            why = f"maps of other {name} than the study's"
            raise study.store.out_of_date(maps_folder(study, store), "capture", why)


def heads_role(role: str) -> str:
    """Name of the folder with all heads of a role."""
    return f"{role}-heads"


def store_roles(settings: StudySettings, role: str) -> list[str]:
    """Folders for a model's maps: pooled, and all heads if the settings ask for them."""
    return [role, heads_role(role)] if settings.capture.per_head else [role]


def wants_controls(study: Study) -> bool:
    """True if the benchmark adds controls to the model's maps of the samples."""
    return study.is_done("label") and study.settings.benchmark.controls


def captured_roles(study: Study) -> tuple[str, ...]:
    """The models whose attention is to be captured."""
    has_reference = wants_controls(study) and reference_name(study.settings) is not None
    return ("model", "reference") if has_reference else ("model",)


def wanted_maps(study: Study) -> pl.DataFrame:
    """What to capture: `sequence_id`, `suffix`; true suffixes first, then by id."""
    if study.is_done("label"):
        if (reason := nothing_to_train(study)) is not None:
            raise UserError(reason)
        rows = study.read(SAMPLES_FILE).select("sequence_id", "suffix").unique()
    else:
        rows = study.sequences.select("sequence_id", pl.lit("true").alias("suffix"))
    return rows.sort("suffix", "sequence_id", descending=[True, False])


def check_head_bytes(facts: dict[str, Any], n_rows: int, settings: StudySettings) -> None:
    """Raise UserError if the model or the sample is too large to store every head."""
    if not settings.capture.per_head:
        return
    n_layers, n_heads = facts["n_layers"], facts["n_heads"]
    n_bytes = map_bytes(n_layers, settings.sequences.length, n_tensors=n_heads) * n_rows
    if n_bytes > MOST_HEAD_BYTES:
        raise UserError(
            f"capture.per_head: every head of {facts['name']} ({n_layers} layers of {n_heads} "
            f"heads) in {n_rows:,} sequences takes {n_bytes / 1e9:.1f} GB, the most is "
            f"{MOST_HEAD_BYTES / 1e9:.0f} GB. Sample fewer sequences, or leave it off."
        )


def shown_tokens(table: pl.DataFrame, wanted: pl.DataFrame) -> np.ndarray:
    """Tokens shown to the model: prefix, then the text's suffix or the model's own continuation.

    `wanted` has `sequence_id` and `suffix` ("true" or "own"); int32 (its rows, length).
    """
    columns = [name for name in ("tokens", "continuation") if name in table.columns]
    rows = look_up(wanted, table, *columns)
    tokens = token_matrix(rows)
    own = np.flatnonzero((rows["suffix"] == "own").to_numpy())
    if len(own):
        tokens, written = tokens.copy(), token_matrix(rows[own], column="continuation")
        tokens[own, -written.shape[1] :] = written
    return tokens


# -- maps -------------------------------------------------------------------------------------


def open_store(study: Study, folder: Path, store: str, facts: dict[str, Any]) -> MapWriter:
    """Open a folder for a model's maps of a study's sequences, see `MapWriter`."""
    return MapWriter(folder, store_meta(study.settings, store, facts, study.tokens))


def missing_shards(
    writer: MapWriter, wanted: pl.DataFrame, settings: StudySettings
) -> list[np.ndarray]:
    """Rows of `wanted` that a store lacks, grouped by shard."""
    rows = writer.missing(wanted["sequence_id"].to_numpy(), wanted["suffix"].to_list())
    n = settings.capture.shard_rows
    return [rows[at : at + n] for at in range(0, len(rows), n)]


def shard_number(rows: np.ndarray, settings: StudySettings) -> int:
    """Index of the shard with these rows, whatever is stored already."""
    return int(rows[0]) // settings.capture.shard_rows


def fill_store(
    study: Study,
    worker: Worker,
    writer: MapWriter,
    store: str,
    table: pl.DataFrame,
    wanted: pl.DataFrame,
    shards: Sequence[np.ndarray],
    verdicts: Path | None,
) -> None:
    """Capture shards and add them to a store, in order.

    `store` is `model`, `reference` or `...-heads`; `shards` are rows of `wanted` as from
    `missing_shards`; `table` must hold the continuations of own suffixes. `verdicts` is the folder
    for verdicts of the same forward passes, only for the model's pooled maps.
    """
    for error in writer.damaged:
        say(f"Redoing what is damaged: {error}")
    if not shards:
        return
    captured = wanted[np.concatenate(shards)]
    tokens, mask = shown_tokens(table, captured), mask_of(table, captured)
    if mask is not None:
        verdicts = None
    blocks = []
    for rows, end in zip(shards, accumulate(map(len, shards)), strict=True):
        here = slice(end - len(rows), end)
        block = Block(
            "maps",
            shard_number(rows, study.settings),
            tokens[here],
            captured[here].select("sequence_id", "suffix"),
            store=store,
            mask=None if mask is None else mask[here],
            with_verdicts=verdicts is not None,
        )
        blocks.append(block)
    with track(f"Capturing ({store})", total=len(tokens)) as progress:
        for block, table_bytes, shard, sha256 in worker.make(blocks, progress):
            ids, suffixes = block.rows["sequence_id"].to_numpy(), block.rows["suffix"].to_list()
            if verdicts is not None and table_bytes is not None:
                verdicts.mkdir(parents=True, exist_ok=True)
                keep_table(verdicts / f"from-{ids[0]}.parquet", table_bytes)
            writer.take(shard, ids, suffixes, sha256=sha256)


def _fill_stores(study: Study, worker: Worker, role: str, wanted: pl.DataFrame) -> None:
    """Capture what one model's stores lack; pooled maps record verdicts too."""
    verdicts = verdict_folder(study) if role == "model" else None
    for store in store_roles(study.settings, role):
        writer = open_store(study, maps_folder(study, store), store, worker.facts)
        shards = missing_shards(writer, wanted, study.settings)
        noted = verdicts if store == role else None
        fill_store(study, worker, writer, store, study.sequences, wanted, shards, noted)
    if verdicts is not None and verdicts.is_dir():
        store_scan_verdicts(study, verdicts)


# -- continuations and log-probabilities --------------------------------------------------------

DECODING = "Continuing the sampled Non-Memo"
NEXT = "Log-probabilities"


def decoding_blocks(study: Study, wanted: pl.DataFrame) -> list[Block]:
    """Blocks of Non-Memo sequences that are shown with a continuation and lack it after a scan.

    Blocks have the length of a shard and do not depend on what is stored, so that the batches are
    the same in one process or several.
    """
    shard_rows = study.settings.capture.shard_rows
    rows = (
        wanted.with_row_index("_row")
        .filter(pl.col("suffix") == "own")
        .select((pl.col("_row") // shard_rows).alias("_block"), "sequence_id")
    )
    if rows.is_empty():
        return []
    lacking = rows.join(
        study.sequences.filter(pl.col("continuation").is_null()),
        on="sequence_id",
        how="inner",
        maintain_order="left",
    )
    return [
        Block(
            "decoded",
            int(number),
            token_matrix(frame),
            frame.select("sequence_id"),
            f"decoded-{number:06d}.parquet",
        )
        for (number,), frame in lacking.group_by("_block", maintain_order=True)
    ]


def next_blocks(
    study: Study,
    table: pl.DataFrame,
    wanted: pl.DataFrame,
    does: Callable[[int], bool] = lambda _: True,
) -> list[Block]:
    """Blocks of sequences for the log-probability of every token but the first.

    Those that are shown, if there is a reference over whose attention they are painted: numbered
    as the shards are, with the continuations of `table`. Then the sampled texts that are not among
    them: their suffixes are a positive control. `does` chooses by number.
    """
    shown = wanted if "reference" in captured_roles(study) else wanted.clear()
    texts = wanted.select("sequence_id", pl.lit("true").alias("suffix")).unique()
    texts = texts.join(shown, on=["sequence_id", "suffix"], how="anti").sort("sequence_id")
    n = study.settings.capture.shard_rows
    shards = enumerate(chain(shown.iter_slices(n), texts.iter_slices(n)))
    return [
        Block(
            "next_tokens",
            number,
            shown_tokens(table, rows),
            rows,
            f"tokens-{number:06d}.parquet",
        )
        for number, rows in shards
        if does(number)
    ]


def _write_logprobs(study: Study, said: pl.DataFrame, wanted: pl.DataFrame) -> None:
    """Write what `next_blocks` found: of the texts, and with a reference of what is shown."""
    prefix = study.settings.sequences.n_prefix
    texts = said.filter(pl.col("suffix") == "true").select(
        "sequence_id",
        pl.col("logprobs").list.slice(prefix - 1),
        pl.col("best").list.head(prefix).alias("prefix_best"),
    )
    study.write(LOGPROBS_FILE, texts)
    if "reference" in captured_roles(study):
        study.write(NEXT_FILE, said.head(wanted.height).drop("best"))
