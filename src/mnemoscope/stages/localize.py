"""Stage `localize`: where in the attention each class is decided, averaged over the CNNs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mnemoscope.atomic_write import write_bytes
from mnemoscope.cnn.files import load_cnn
from mnemoscope.errors import DamagedDataError
from mnemoscope.localize.decisiveness import Decisiveness, average, decisiveness
from mnemoscope.progress import track
from mnemoscope.stages.jobs import Job, job_maps, jobs_of, load_outcome, sample_rows
from mnemoscope.stages.models import Models
from mnemoscope.study import Study

__all__ = ["DECISIVENESS_FILE", "StoredDelta", "load_deltas", "localize_stage"]

DECISIVENESS_FILE = "decisiveness.safetensors"


@dataclass(frozen=True)
class StoredDelta:
    """Δ of one sample and attribution.

    Attributes:
        sample: name of the sample.
        attribution: `gradient` or `guided`.
        classes: names in order.
        delta: float32 (classes, layers, query, key), not negative.
        n_used, n_skipped, n_wrong: evaluation sequences a class, summed over the CNNs.
        n_cnns: how many CNNs were averaged.
    """

    sample: str
    attribution: str
    classes: tuple[str, ...]
    delta: np.ndarray
    n_used: tuple[int, ...]
    n_skipped: tuple[int, ...]
    n_wrong: tuple[int, ...]
    n_cnns: int


def localize_stage(study: Study, models: Models) -> None:  # noqa: ARG001 - all stages are called alike
    """Write `decisiveness.safetensors`: Δ of each sample and attribution, with its counts."""
    study.require("train")
    with study.finishing("localize") as counts:
        jobs = [job for job in jobs_of(study) if _can_be_localized(job)]
        attributions = study.settings.localize.attributions
        tensors: dict[str, torch.Tensor] = {}
        facts: list[dict[str, Any]] = []
        total = len(jobs) * len(attributions)
        with track("Localizing", total=total, unit="CNNs and attributions") as progress:
            for sample in dict.fromkeys(job.sample for job in jobs):
                for attribution in attributions:
                    found = []
                    for job in jobs:
                        if job.sample == sample:
                            found += _delta(study, job, attribution)
                            progress.advance()
                    if found:
                        tensors[f"{len(facts):04d}"] = average(found).delta
                        facts.append(_facts(study, sample, attribution, found))
        counts["maps"] = len(facts)
        data = save(tensors, metadata={"facts": json.dumps(facts, ensure_ascii=False)})
        write_bytes(study.folder / DECISIVENESS_FILE, data)


def load_deltas(study: Study) -> Iterator[StoredDelta]:
    """Read what the stage wrote.

    Raises:
        DamagedDataError: the file cannot be read.
    """
    path = study.folder / DECISIVENESS_FILE
    try:
        with safe_open(path, framework="np") as file:
            for number, facts in enumerate(json.loads(file.metadata()["facts"])):
                lists = ("classes", "n_used", "n_skipped", "n_wrong")
                plain = facts | {name: tuple(facts[name]) for name in lists}
                yield StoredDelta(delta=file.get_tensor(f"{number:04d}"), **plain)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedDataError(
            f"{path}: damaged ({type(error).__name__}). Delete it and run "
            f"'mnemoscope localize {study.folder} --redo'."
        ) from None


def _can_be_localized(job: Job) -> bool:
    """True for CNNs that see one map a layer, as Δ has it: means or maxima over heads."""
    is_pooled = job.setting is not None and job.setting.pooling in ("mean", "max")
    return job.source == "model" and is_pooled


def _delta(study: Study, job: Job, attribution: str) -> list[Decisiveness]:
    """Δ of one CNN; none from a CNN that did not train, whose gradients mean nothing."""
    if not load_outcome(job).facts["did_train"]:
        return []
    assert job.setting is not None
    rows = sample_rows(study, job.sample).evaluation
    largest = replace(job, setting=replace(job.setting, pooling="max"))
    return [
        decisiveness(
            load_cnn(job.cnn_path),
            job_maps(study, job, rows),
            torch.from_numpy(rows["class_index"].to_numpy().copy()),
            attribution=attribution,
            max_maps=job_maps(study, largest, rows),
        )
    ]


def _facts(
    study: Study, sample: str, attribution: str, found: list[Decisiveness]
) -> dict[str, Any]:
    """What is stored beside a Δ."""
    return {
        "sample": sample,
        "attribution": attribution,
        "classes": list(sample_rows(study, sample).classes),
        "n_used": _summed(found, "n_used"),
        "n_skipped": _summed(found, "n_skipped"),
        "n_wrong": _summed(found, "n_wrong"),
        "n_cnns": len(found),
    }


def _summed(found: list[Decisiveness], name: str) -> list[int]:
    """A count a class, summed over the CNNs."""
    columns = zip(*(np.asarray(getattr(one, name)).tolist() for one in found), strict=True)
    return [sum(int(value) for value in column) for column in columns]
