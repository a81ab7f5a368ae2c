"""Stage `capture`: the attention maps of all that is sampled, of the model and its reference.

Every map is captured once, whatever the number of taxonomies; what the store holds is kept.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from mnemoscope.data.table import token_matrix
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import Scan, capture_and_scan
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import suffix_logprobs
from mnemoscope.maps.format import META_NAME, POOLED, triangle_size
from mnemoscope.maps.store import MapStore, MapWriter
from mnemoscope.pipeline.continue_ import decode_missing, hand_over, note_verdicts, verdict_folder
from mnemoscope.pipeline.halving import halved_on_record
from mnemoscope.pipeline.label import SAMPLES_FILE, samples_of
from mnemoscope.pipeline.padding import mask_of
from mnemoscope.progress import Progress, say, track
from mnemoscope.study.folder import Study
from mnemoscope.study.models import ModelFacts, Models
from mnemoscope.study.settings import StudySettings

LOGPROBS_FILE = "logprobs.parquet"
_REASONS_SAID = 3
MOST_HEAD_BYTES = 8_000_000_000
"""Every head's maps are for small models: this is the most that one model's may take on disk."""


def maps_folder(study: Study, role: str) -> Path:
    """Where the maps of `model` or `reference` stand, or every head's: `model-heads`."""
    return study.folder / "maps" / role


def heads_role(role: str) -> str:
    """What a role's folder of every head's maps is called."""
    return f"{role}-heads"


def capture_stage(study: Study, models: Models) -> None:
    """Capture what the samples ask for and the stores lack; without samples, every sequence.

    In the latter case a study with the setting `continue.scan` gets its verdicts in the same
    forward; `continue` takes them over.
    """
    study.require("sequences")
    settings = study.settings
    halved = study.folder / "maps" / "halved"
    with study.finishing("capture") as counts, halved_on_record(counts, halved):
        model = models.model(study)
        wanted = wanted_maps(study)
        counts |= {"distinct": wanted.height, "batch_size": settings.model.batch_size}
        check_head_bytes(model, wanted.height, settings)
        decode_missing(study, model, wanted)
        tokens = shown_tokens(study.sequences, wanted)
        verdicts = verdict_folder(study)
        _capture(study, "model", model, wanted, tokens, verdicts)
        if verdicts is not None and verdicts.is_dir():
            hand_over(study, verdicts)
        reference = models.reference(study) if study.is_done("label") else None
        if reference is not None and settings.benchmark.controls:
            _capture(study, "reference", reference, wanted, tokens)
            counts["reference"] = wanted.height
        if study.is_done("label") and settings.benchmark.controls:
            _write_logprobs(study, model, wanted)
    halved.unlink(missing_ok=True)


def damaged_maps(study: Study) -> list[DamagedDataError]:
    """What is wrong with the stores of a finished study; every shard is read (about 1 GB/s)."""
    found: list[DamagedDataError] = []
    folders = [path for path in study.folder.glob("maps/*") if (path / META_NAME).is_file()]
    for folder in sorted(folders):
        try:
            found += MapStore(folder, verify=False).damaged()
        except (DamagedDataError, UserError) as error:
            found.append(DamagedDataError(str(error)))
    return found


def repair_maps(study: Study, models: Models) -> None:
    """Capture again what the stores of a finished study have lost, and nothing else."""
    wanted = wanted_maps(study)
    tokens = shown_tokens(study.sequences, wanted)
    _capture(study, "model", models.model(study), wanted, tokens)
    if maps_folder(study, "reference").is_dir():
        reference = models.reference(study)
        assert reference is not None
        _capture(study, "reference", reference, wanted, tokens)


def capture_rows(study: Study, models: Models, wanted: pl.DataFrame) -> None:
    """Capture further rows with every model that the study holds maps of.

    Args:
        study: with the stage done.
        models: the study's models.
        wanted: columns `sequence_id`, `suffix`; own suffixes must have been decoded.
    """
    tokens = shown_tokens(study.sequences, wanted)
    _capture(study, "model", models.model(study), wanted, tokens)
    reference = models.reference(study)
    if reference is not None and study.settings.benchmark.controls:
        _capture(study, "reference", reference, wanted, tokens)


def shown_tokens(table: pl.DataFrame, wanted: pl.DataFrame) -> np.ndarray:
    """The tokens that are shown: prefix, then the text's own suffix or the model's continuation.

    Args:
        table: the study's sequences.
        wanted: columns `sequence_id`, `suffix` ("true" or "own").

    Returns:
        int32, shape (rows of `wanted`, length), in its order.
    """
    columns = [name for name in ("tokens", "continuation") if name in table.columns]
    rows = wanted.join(
        table.select("sequence_id", *columns), on="sequence_id", how="left", maintain_order="left"
    )
    tokens = token_matrix(rows)
    own = np.flatnonzero((rows["suffix"] == "own").to_numpy())
    if len(own):
        half = tokens.shape[1] // 2
        tokens = tokens.copy()
        tokens[own, half:] = token_matrix(rows[own], column="continuation")
    return tokens


def wanted_maps(study: Study) -> pl.DataFrame:
    """Which sequences are to be captured with which suffix: `sequence_id`, `suffix`, sorted."""
    if study.is_done("label"):
        _check_possible(study)
        rows = study.read(SAMPLES_FILE).select("sequence_id", "suffix").unique()
    else:
        rows = study.sequences.select("sequence_id", pl.lit("true").alias("suffix"))
    return rows.sort("suffix", "sequence_id", descending=[True, False])


def _check_possible(study: Study) -> None:
    """Refuse to go on where no taxonomy can be trained; one that can is enough."""
    samples = samples_of(study)
    reasons = [
        f"{name}: {entry['impossible']}" for name, entry in samples.items() if "impossible" in entry
    ]
    if len(reasons) < len(samples):
        return
    if not study.sequences["is_memorized"].any():
        reasons = [next(iter(samples.values()))["impossible"]]  # the same for all
    further = len(reasons) - _REASONS_SAID
    more = f" And {further:,} more, see {study.folder}/manifests/label.json." if further > 0 else ""
    said = " ".join(reasons[:_REASONS_SAID])
    raise UserError(f"{study.folder}: no taxonomy can be trained. {said}{more}")


def check_head_bytes(
    model: LanguageModel | ModelFacts, n_rows: int, settings: StudySettings
) -> None:
    """Refuse to store every head where the model or the sample is too large for it."""
    if not settings.capture.per_head:
        return
    size = triangle_size(settings.sequences.length)
    n_bytes = model.n_layers * model.n_heads * size * 2 * n_rows
    if n_bytes > MOST_HEAD_BYTES:
        raise UserError(
            f"capture.per_head: every head of {model.name} ({model.n_layers} layers of "
            f"{model.n_heads} heads) in {n_rows:,} sequences takes {n_bytes / 1e9:.1f} GB, the "
            f"most is {MOST_HEAD_BYTES / 1e9:.0f} GB. Sample fewer sequences, or leave it off."
        )


def store_roles(settings: StudySettings, role: str) -> list[str]:
    """The folders that a model's maps go to: pooled, and every head's where that is asked for."""
    return [role, heads_role(role)] if settings.capture.per_head else [role]


def tensors_of(role: str) -> tuple[str, ...]:
    """What a role's folder holds of each sequence."""
    return ("heads",) if role.endswith("-heads") else POOLED


def _capture(
    study: Study,
    role: str,
    model: LanguageModel,
    wanted: pl.DataFrame,
    tokens: np.ndarray,
    verdicts: Path | None = None,
) -> None:
    """Capture one model's maps of the rows that its stores lack; verdicts with the pooled ones."""
    settings = study.settings
    for each in store_roles(settings, role):
        writer = store_of(settings, maps_folder(study, each), each, model)
        mask = mask_of(study.sequences, wanted)
        noted = verdicts if each == role and mask is None else None
        fill_store(settings, each, writer, model, wanted, tokens, mask, verdicts=noted)


def store_of(
    settings: StudySettings, folder: Path, role: str, model: LanguageModel | ModelFacts
) -> MapWriter:
    """Open a folder for the maps of a role, see `MapWriter`."""
    tensors = tensors_of(role)
    return MapWriter(
        folder,
        n_layers=model.n_layers * (model.n_heads if "heads" in tensors else 1),
        length=settings.sequences.length,
        fingerprint=_fingerprint(model),
        shard_rows=settings.capture.shard_rows,
        tensors=tensors,
    )


def fill_store(
    settings: StudySettings,
    role: str,
    writer: MapWriter,
    model: LanguageModel,
    wanted: pl.DataFrame,
    tokens: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    verdicts: Path | None = None,
) -> None:
    """Capture what one store lacks, a shard at a time.

    Args:
        settings: of the study.
        role: `model`, `reference` or `...-heads`.
        writer: as `store_of` opens it.
        model: whose attention is captured.
        wanted: as `wanted_maps` gives it.
        tokens: what is shown, int32, shape (rows of `wanted`, length).
        mask: of padded tokens, the same shape.
        verdicts: where the verdicts of the same forwards go (`stages.verdicts`); only for pooled
            maps of tokens without padding.
    """
    for error in writer.damaged:
        say(f"Redoing what is damaged: {error}")
    ids, suffixes = wanted["sequence_id"].to_numpy(), wanted["suffix"].to_list()
    missing = writer.missing(ids, suffixes)
    with track(f"Capturing ({role})", total=len(missing)) as progress:
        for start in range(0, len(missing), writer.shard_rows):
            rows = missing[start : start + writer.shard_rows]
            if verdicts is None:
                part = None if mask is None else mask[rows]
                maps = _maps(model, tokens[rows], part, settings, progress, writer.meta.tensors)
            else:
                maps, scans = _maps_and_scans(model, tokens[rows], settings, progress)
                note_verdicts(verdicts, ids[rows], scans)
            writer.append_tensors(ids[rows], [suffixes[row] for row in rows], maps)
    writer.close()


def _maps(
    model: LanguageModel,
    tokens: np.ndarray,
    mask: np.ndarray | None,
    settings: StudySettings,
    progress: Progress,
    tensors: tuple[str, ...],
) -> dict[str, torch.Tensor]:
    """Maps of one shard's sequences by name, each float32 (rows, channels, T, T)."""
    batch_size = settings.model.batch_size
    batches = []
    for batch in capture_pooled(
        model,
        tokens,
        attention_mask=mask,
        batch_size=batch_size,
        keep_heads="heads" in tensors,
    ):
        batches.append(batch)
        progress.advance(len(batch.mean))
    return {name: torch.cat([getattr(one, name) for one in batches]) for name in tensors}


def _maps_and_scans(
    model: LanguageModel, tokens: np.ndarray, settings: StudySettings, progress: Progress
) -> tuple[dict[str, torch.Tensor], list[Scan]]:
    """Pooled maps as `_maps`, and the verdicts of the same forwards."""
    batches, scans = [], []
    for maps, scan in capture_and_scan(
        model,
        tokens,
        batch_size=settings.model.batch_size,
        prefix=tokens.shape[1] // 2,
    ):
        batches.append(maps)
        scans.append(scan)
        progress.advance(len(maps.mean))
    return {name: torch.cat([getattr(one, name) for one in batches]) for name in POOLED}, scans


def _write_logprobs(study: Study, model: LanguageModel, wanted: pl.DataFrame) -> None:
    """Log-probabilities of every sampled sequence's true suffix: the positive control."""
    rows = study.sequences.join(wanted, on="sequence_id", how="semi")
    shard_rows = study.settings.capture.shard_rows
    blocks = range(0, rows.height, shard_rows)
    settings = study.settings
    frames = [logprobs_of(settings, model, rows[start : start + shard_rows]) for start in blocks]
    study.write(LOGPROBS_FILE, pl.concat(frames))


def logprobs_of(settings: StudySettings, model: LanguageModel, rows: pl.DataFrame) -> pl.DataFrame:
    """Log-probabilities of some rows' suffix tokens: `sequence_id`, `logprobs` list<f32>."""
    tokens, batch_size = token_matrix(rows), settings.model.batch_size
    values = suffix_logprobs(model, tokens, batch_size=batch_size, prefix=tokens.shape[1] // 2)
    return rows.select("sequence_id").with_columns(
        pl.Series("logprobs", values.tolist(), dtype=pl.List(pl.Float32))
    )


def _fingerprint(model: LanguageModel | ModelFacts) -> dict[str, Any]:
    """What must be equal for two captures to stand in one store."""
    return {
        "weights": model.fingerprint,
        "dtype": model.dtype,
        "device": model.device.split(":")[0],
        "bos_id": model.bos_id,
    }
