"""Stage `capture`: store the attention maps of all sampled sequences, by model and reference.

Each map is captured once for all taxonomies, and stored maps are kept. Also decodes continuations
and finds log-probabilities that the samples need.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate, chain
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.cluster.local import Behind
from mnemoscope.cluster.units import ALL, Result, Share
from mnemoscope.columns import Column
from mnemoscope.data.table import fill_columns, look_up, mask_of, token_matrix
from mnemoscope.errors import UserError
from mnemoscope.library.maps import store_meta
from mnemoscope.lm.model import recording_batch_size
from mnemoscope.maps.shape import map_bytes
from mnemoscope.maps.store import MapWriter
from mnemoscope.pipeline.continue_ import note_verdicts, store_scan_verdicts, wants_verdicts
from mnemoscope.pipeline.questions import (
    Decoded,
    Maps,
    NextTokens,
    StudyModel,
    clear_units,
    unit_store,
)
from mnemoscope.pipeline.reference import keep_answers
from mnemoscope.pipeline.stored_maps import (
    captured_roles,
    maps_folder,
    store_roles,
    wanted_maps,
    wants_controls,
)
from mnemoscope.progress import say
from mnemoscope.study.folder import DECODED_FILE, Study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import StudySettings

LOGPROBS_FILE = "logprobs.parquet"
LOGPROB_COLUMNS = {
    "sequence_id": Column(pl.Int64, "a sampled sequence, shown as its text has it"),
    "logprobs": Column(pl.List(pl.Float32), "log-probability of each token of the suffix, nats"),
    "prefix_best": Column(pl.List(pl.Float32), "of the likeliest at each place of the prefix"),
}
MOST_HEAD_BYTES = 8_000_000_000
"""Most bytes on disk for one model's maps of every head."""


def capture_stage(study: Study, models: Models) -> None:
    """Capture what the samples need and the stores lack; without samples, every sequence.

    Without samples, a study with `continue.scan` also gets its verdicts from the same forward
    passes; `continue` takes them over.
    """
    study.require("sequences")
    halved = study.folder / "maps" / "halved"
    with study.finishing("capture") as counts, recording_batch_size(counts, halved):
        wanted = wanted_maps(study)
        counts |= {"distinct": wanted.height, "batch_size": study.settings.rows_at_once}
        ask_maps(study, models)
        if "reference" in captured_roles(study):
            counts["reference"] = wanted.height
    halved.unlink(missing_ok=True)
    clear_units(study, "capture")


def ask_maps(study: Study, models: Models, share: Share = ALL) -> None:
    """Capture the maps, continuations and log-probabilities that the study lacks.

    With a share only its units are run and kept; nothing is written to the study.
    """
    wanted, model = wanted_maps(study), None
    for role in captured_roles(study):
        asked = StudyModel(study, models, role, unit_store(study, "capture"), share)
        model = model or asked
        if role == "model":
            check_head_bytes(asked.facts, wanted.height, study.settings)
        writers = {one: _writer(study, asked, one) for one in store_roles(study.settings, role)}
        shards = {
            one: share.of(missing_shards(writer, wanted, study.settings))
            for one, writer in writers.items()
        }
        said = share.of(next_rows(study, wanted)) if asked is model else []
        shown = [*(wanted[rows] for each in shards.values() for rows in each), *said]
        table = study.sequences
        questions = decodings(study, model, wanted, None if share == ALL else shown)
        if questions:
            frames = model.tables(questions, DECODING)
            table = fill_columns(table, pl.concat(frames))
            if share == ALL:
                if study.store.has("decoded"):
                    frames.insert(0, study.read(DECODED_FILE))
                study.store.put("decoded", {DECODED_FILE: pl.concat(frames)})
        for one, writer in writers.items():
            _fill(study, asked, None if share != ALL else writer, one, table, wanted, shards[one])
        asking = [asked.question(NextTokens, shown_tokens(table, one), one) for one in said]
        answers = asked.tables(asking, NEXT)
        if answers and share == ALL:
            _write_logprobs(study, pl.concat(answers))
        if role == "reference" and share == ALL:
            keep_answers(study, asked)
        if role == "model" and share == ALL and wants_verdicts(study):
            store_scan_verdicts(study, asked)


def repair_maps(study: Study, models: Models) -> None:
    """Capture again only what the stores of a finished study have lost."""
    roles = [one for one in ("model", "reference") if maps_folder(study, one).is_dir()]
    _capture_rows(study, models, wanted_maps(study), roles)


def capture_rows(study: Study, models: Models, wanted: pl.DataFrame) -> None:
    """Capture more rows with every model of the study; own suffixes must be decoded already."""
    _capture_rows(study, models, wanted, captured_roles(study))


def _capture_rows(study: Study, models: Models, wanted: pl.DataFrame, roles: Sequence[str]) -> None:
    store = unit_store(study, "capture")
    for role in roles:
        asked = StudyModel(study, models, role, store)
        for one in store_roles(study.settings, role):
            writer = _writer(study, asked, one)
            shards = missing_shards(writer, wanted, study.settings)
            _fill(study, asked, writer, one, study.sequences, wanted, shards)
    clear_units(study, "capture")


def check_head_bytes(facts: Mapping[str, Any], n_rows: int, settings: StudySettings) -> None:
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


def _writer(study: Study, asked: StudyModel, store: str) -> MapWriter:
    """Open a folder for a model's maps of a study's sequences, see `MapWriter`."""
    meta = store_meta(study.settings.sequences.length, store, asked.facts, study.tokens)
    writer = MapWriter(maps_folder(study, store), meta)
    for error in writer.damaged:
        say(f"Redoing what is damaged: {error}")
    return writer


def missing_shards(
    writer: MapWriter, wanted: pl.DataFrame, settings: StudySettings
) -> list[np.ndarray]:
    """Rows of `wanted` that a store lacks, grouped by shard."""
    rows = writer.missing(wanted["sequence_id"].to_numpy(), wanted["suffix"].to_list())
    n = settings.capture.shard_rows
    return [rows[at : at + n] for at in range(0, len(rows), n)]


def _fill(
    study: Study,
    asked: StudyModel,
    writer: MapWriter | None,
    store: str,
    table: pl.DataFrame,
    wanted: pl.DataFrame,
    shards: Sequence[np.ndarray],
) -> None:
    """Capture shards, in order, and hand them to a writer if there is one.

    `store` is `model`, `reference` or `...-heads`; `shards` are rows of `wanted` as from
    `missing_shards`; `table` must hold the continuations of own suffixes. The model's pooled maps
    come with verdicts where these are wanted.
    """
    if not shards:
        return
    captured = wanted[np.concatenate(shards)].select("sequence_id", "suffix")
    tokens, mask = shown_tokens(table, captured), mask_of(table, captured)
    with_verdicts = store == "model" and mask is None and wants_verdicts(study)
    ends = list(accumulate(map(len, shards)))
    questions = [
        asked.question(
            Maps,
            tokens[end - len(rows) : end],
            captured[end - len(rows) : end],
            None if mask is None else mask[end - len(rows) : end],
            store=store,
            with_verdicts=with_verdicts,
        )
        for rows, end in zip(shards, ends, strict=True)
    ]
    answers = asked.answers(questions, f"Capturing ({store})")
    with Behind[None]() as taken:
        for question, found in zip(questions, answers, strict=True):
            if writer is not None:
                note_verdicts(study, found)
                taken.add(partial(_take, writer, asked, question, found))
        taken.rest()


def _take(writer: MapWriter, asked: StudyModel, question: Maps, found: Result) -> None:
    """Add a shard to the maps, then let go of the unit that it was."""
    shard, rows = found.files["shard"], question.rows
    assert not isinstance(shard, pl.DataFrame)
    ids, suffixes = rows["sequence_id"].to_numpy(), rows["suffix"].to_list()
    writer.take(shard, ids, suffixes, sha256=found.sha256["shard"])
    asked.store.drop(question.key, found)


# -- continuations and log-probabilities --------------------------------------------------------

DECODING = "Continuing the sampled Non-Memo"
NEXT = "Log-probabilities"


def decodings(
    study: Study,
    model: StudyModel,
    wanted: pl.DataFrame,
    shown: Sequence[pl.DataFrame] | None = None,
) -> list[Decoded]:
    """Questions about Non-Memo sequences shown with a continuation that they lack after a scan.

    They have the length of a shard and do not depend on what is stored, so that the batches are
    the same in one process or several. Only those are asked that touch rows of `shown`.
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
    blocks = [frame for _, frame in lacking.group_by("_block", maintain_order=True)]
    if shown is not None:
        own = [rows.filter(pl.col("suffix") == "own")["sequence_id"] for rows in shown]
        ids = set(chain.from_iterable(own))
        blocks = [one for one in blocks if not ids.isdisjoint(one["sequence_id"])]
    return [model.question(Decoded, token_matrix(one), one.select("sequence_id")) for one in blocks]


def next_rows(study: Study, wanted: pl.DataFrame) -> list[pl.DataFrame]:
    """The sampled texts, a shard's length at a time, whose log-probabilities are to be found.

    Those of the suffixes are a positive control.
    """
    if not wants_controls(study):
        return []
    texts = wanted.select("sequence_id", pl.lit("true").alias("suffix")).unique()
    return [*texts.sort("sequence_id").iter_slices(study.settings.capture.shard_rows)]


def _write_logprobs(study: Study, said: pl.DataFrame) -> None:
    """Write what was said of `next_rows`."""
    prefix = study.settings.sequences.n_prefix
    texts = said.select(
        "sequence_id",
        pl.col("logprobs").list.slice(prefix - 1),
        pl.col("best").list.head(prefix).alias("prefix_best"),
    )
    study.write(LOGPROBS_FILE, texts, LOGPROB_COLUMNS)
