"""Stage `localize`: where in the attention each class is decided, averaged over the CNNs.

The same from the reference model's attention and from the tokens alone (the blind baseline) stands
beside the model's own: what they show too belongs to the text.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mnemoscope.atomic_write import write_bytes
from mnemoscope.benchmark.blind import BLIND_CHANNELS
from mnemoscope.cnn.files import load_cnn
from mnemoscope.cnn.trained import TrainedCnn
from mnemoscope.errors import DamagedDataError
from mnemoscope.localize.attribution import check_attributions
from mnemoscope.localize.decisiveness import Decisiveness, average, decisiveness, pooled
from mnemoscope.localize.regions import find_regions
from mnemoscope.parquet import write_parquet
from mnemoscope.progress import track
from mnemoscope.stages.attention_shapes import class_copies, shape_rows
from mnemoscope.stages.jobs import Job, job_maps, jobs_of, load_outcome, sample_rows
from mnemoscope.stages.localize_checks import LocalizedCnn, agreement_rows
from mnemoscope.stages.localize_rows import in_halves, rows_read, rows_shared
from mnemoscope.stages.models import Models
from mnemoscope.study import Study

__all__ = [
    "AGREEMENT_FILE",
    "DECISIVENESS_FILE",
    "REGIONS_FILE",
    "SHAPES_FILE",
    "SOURCES",
    "StoredDelta",
    "load_deltas",
    "localize_stage",
    "mean_copies",
    "region_rows",
    "write_deltas",
    "write_regions",
]

DECISIVENESS_FILE = "decisiveness.safetensors"
REGIONS_FILE = "regions.parquet"
AGREEMENT_FILE = "agreement.parquet"
SHAPES_FILE = "attention.parquet"

SOURCES = ("model", "reference", "blind")
_AGREEMENT_SCHEMA = {
    **dict.fromkeys(("sample", "attribution", "class", "check", "against", "of"), pl.String),
    **dict.fromkeys(("pearson", "spearman", "overlap"), pl.Float64),
}
_REGIONS_SCHEMA = {
    **dict.fromkeys(("sample", "source", "attribution", "class", "region"), pl.String),
    **dict.fromkeys(("share", "even", "ratio"), pl.Float64),
}


@dataclass(frozen=True)
class StoredDelta:
    """Δ of one sample, source and attribution.

    Attributes:
        sample: name of the sample.
        attribution: one of `localize.attribution.ATTRIBUTIONS`.
        classes: names in order.
        delta: float32 (classes, layers, query, key), not negative; the blind baseline's maps have
            two channels in place of layers.
        n_used, n_skipped, n_wrong: evaluation sequences a class, summed over the CNNs.
        n_cnns: how many CNNs were averaged.
        source: whose maps the CNNs read: `model`, `reference` or `blind`.
        n_says: of each class the CNNs that used a sequence of it, over which Δ is the mean; empty
            in a file written before several models were averaged.
    """

    sample: str
    attribution: str
    classes: tuple[str, ...]
    delta: np.ndarray
    n_used: tuple[int, ...]
    n_skipped: tuple[int, ...]
    n_wrong: tuple[int, ...]
    n_cnns: int
    source: str = "model"
    n_says: tuple[int, ...] = ()


def localize_stage(study: Study, models: Models) -> None:  # noqa: ARG001 - all stages are called alike
    """Write Δ of each sample, source and attribution, its regions, and the checks of it.

    `decisiveness.safetensors` holds Δ with its counts, `regions.parquet` where it lies,
    `agreement.parquet` how alike Δ is between halves, seeds, attributions, and before and after
    the CNN was randomized, `attention.parquet` the shape of the attention itself.

    Raises:
        UserError: an attribution that needs Captum, which is not installed.
    """
    study.require("train")
    check_attributions(study.settings.localize.attributions)
    with study.finishing("localize") as counts:
        jobs = [job for job in jobs_of(study) if _can_be_localized(job)]
        samples = list(dict.fromkeys(job.sample for job in jobs))
        stored: list[StoredDelta] = []
        agreements: list[dict[str, Any]] = []
        total = len(jobs) * len(study.settings.localize.attributions)
        with track("Localizing", total=total, unit="CNNs and attributions") as progress:
            for sample in samples:
                found = []
                for job in jobs:
                    if job.sample == sample:
                        found += _of_cnn(study, job)
                        progress.advance(len(study.settings.localize.attributions))
                stored += _averaged(study, sample, found)
                agreements += agreement_rows(study, sample, found)
        counts["maps"] = len(stored)
        write_regions(study.folder, _regions(study, stored))
        shapes = [row for one in samples for row in shape_rows(study, one)]
        study.write(SHAPES_FILE, pl.DataFrame(shapes))
        study.write(AGREEMENT_FILE, pl.DataFrame(agreements, _AGREEMENT_SCHEMA))
        write_deltas(study.folder, stored)


def load_deltas(study: Study, source: str = "model") -> Iterator[StoredDelta]:
    """Read what the stage wrote of one source.

    Args:
        study: with the stage done.
        source: one of `SOURCES`.

    Raises:
        DamagedDataError: the file cannot be read.
    """
    path = study.folder / DECISIVENESS_FILE
    try:
        with safe_open(path, framework="np") as file:
            for number, facts in enumerate(json.loads(file.metadata()["facts"])):
                plain: dict[str, Any] = {
                    name: tuple(value) if isinstance(value, list) else value
                    for name, value in facts.items()
                }
                if plain.get("source", "model") == source:
                    yield StoredDelta(delta=file.get_tensor(f"{number:04d}"), **plain)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedDataError(
            f"{path}: damaged ({type(error).__name__}). Delete it and run "
            f"'mnemoscope localize {study.folder} --redo'."
        ) from None


def write_deltas(folder: Path, stored: Sequence[StoredDelta]) -> Path:
    """Write Δ and what belongs to it in one file, and say which."""
    facts = [{k: v for k, v in vars(one).items() if k != "delta"} for one in stored]
    tensors = {f"{n:04d}": torch.from_numpy(one.delta) for n, one in enumerate(stored)}
    data = save(tensors, metadata={"facts": json.dumps(facts, ensure_ascii=False)})
    write_bytes(folder / DECISIVENESS_FILE, data)
    return folder / DECISIVENESS_FILE


def _can_be_localized(job: Job) -> bool:
    """True for CNNs that see one map a layer, as Δ has it: means or maxima over heads."""
    is_pooled = job.setting is not None and job.setting.pooling in ("mean", "max")
    return job.source in SOURCES and is_pooled


def _of_cnn(study: Study, job: Job) -> list[LocalizedCnn]:
    """Δ of one CNN by every attribution, in two halves of the evaluation sequences.

    None from a CNN that did not train, whose gradients mean nothing.
    """
    if not load_outcome(job).facts["did_train"]:
        return []
    trained, found = load_cnn(job.cnn_path), []
    shared = rows_shared(study, job.sample)
    for attribution in study.settings.localize.attributions:
        rows = rows_read(study, job.sample, attribution)
        ask = partial(_delta_of, study, job, trained, attribution)
        halves = tuple(ask(half) for half in in_halves(rows))
        alike = pooled(halves) if len(rows) == len(shared) else ask(shared)
        found.append(LocalizedCnn(job, attribution, halves, alike))
    return found


def _delta_of(
    study: Study, job: Job, trained: TrainedCnn, attribution: str, rows: pl.DataFrame
) -> Decisiveness:
    """Δ of one CNN from some of its evaluation sequences."""
    assert job.setting is not None
    largest = replace(job, setting=replace(job.setting, pooling="max"))
    return decisiveness(
        trained,
        job_maps(study, job, rows),
        torch.from_numpy(rows["class_index"].to_numpy().copy()),
        attribution=attribution,
        max_maps=job_maps(study, largest, rows),
        correct_only=study.settings.localize.correct_only,
    )


def _averaged(study: Study, sample: str, found: list[LocalizedCnn]) -> Iterator[StoredDelta]:
    """Δ averaged over the CNNs of each source and attribution."""
    classes = sample_rows(study, sample).classes
    for source in SOURCES:
        for attribution in study.settings.localize.attributions:
            parts = [
                pooled(one.halves)
                for one in found
                if (one.job.source, one.attribution) == (source, attribution)
            ]
            if parts:
                yield _stored(sample, source, attribution, classes, parts)


def _stored(
    sample: str,
    source: str,
    attribution: str,
    classes: tuple[str, ...],
    parts: list[Decisiveness],
) -> StoredDelta:
    """The mean over CNNs with its counts."""
    mean = average(parts)
    return StoredDelta(
        sample=sample,
        attribution=attribution,
        classes=classes,
        delta=mean.delta.numpy(),
        n_used=tuple(mean.n_used.tolist()),
        n_skipped=tuple(mean.n_skipped.tolist()),
        n_wrong=tuple(mean.n_wrong.tolist()),
        n_cnns=len(parts),
        source=source,
        n_says=tuple(torch.stack([part.n_used > 0 for part in parts]).sum(dim=0).tolist()),
    )


def write_regions(folder: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write the rows of `region_rows`, and say where."""
    write_parquet(folder / REGIONS_FILE, pl.DataFrame(list(rows), _REGIONS_SCHEMA))
    return folder / REGIONS_FILE


def region_rows(one: StoredDelta, copies: Callable[[str], np.ndarray]) -> Iterator[dict[str, Any]]:
    """Where Δ of each class lies, a row a region.

    Args:
        one: Δ of a sample, source and attribution.
        copies: gives for a class what `mean_copies` does.
    """
    channels = BLIND_CHANNELS if one.source == "blind" else ()
    for index, name in enumerate(one.classes):
        for region in find_regions(one.delta[index], copies(name), channels=channels):
            yield {
                "sample": one.sample,
                "source": one.source,
                "attribution": one.attribution,
                "class": name,
                "region": region.name,
                "share": region.share if one.n_used[index] else None,
                "even": region.even,
                "ratio": region.ratio if one.n_used[index] else None,
            }


def mean_copies(study: Study, sample: str, name: str) -> np.ndarray:
    """Of each edge the share of a class's evaluation sequences of which it is a copy edge."""
    rows = sample_rows(study, sample).evaluation.filter(pl.col("class") == name)
    mean: np.ndarray = class_copies(study, rows).double().mean(dim=0).numpy()
    return mean


def _regions(study: Study, stored: list[StoredDelta]) -> Iterator[dict[str, Any]]:
    """The rows of all maps of a study; copies of a class are found once."""
    for sample in dict.fromkeys(one.sample for one in stored):
        copies = cache(partial(mean_copies, study, sample))
        for one in stored:
            if one.sample == sample:
                yield from region_rows(one, copies)
