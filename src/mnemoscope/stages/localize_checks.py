"""The checks of Δ in a study: is it stable, do attributions agree, is it of the CNN at all."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch

from mnemoscope.cnn.files import load_cnn
from mnemoscope.cnn.trained import TrainedCnn
from mnemoscope.localize.agreement import Agreement, agreement, mean_agreement
from mnemoscope.localize.decisiveness import Decisiveness, average, pooled
from mnemoscope.localize.sanity import ClassMeans, class_means, randomized
from mnemoscope.stages.jobs import Job, is_finished, job_maps, jobs_of, sample_rows
from mnemoscope.stages.localize_rows import rows_read
from mnemoscope.study import Study

__all__ = ["LocalizedCnn", "agreement_rows"]

_SANITY_SEQUENCES = 64  # a class: enough for a mean map, and cheap beside the training
_BOTH = ("D", "Δ")


@dataclass(frozen=True)
class LocalizedCnn:
    """Δ of one CNN by one attribution.

    Attributes:
        job: of the CNN.
        attribution: its name.
        halves: from each half of the evaluation sequences that it reads.
        shared: from those that all attributions read, on which they are compared.
    """

    job: Job
    attribution: str
    halves: tuple[Decisiveness, ...]
    shared: Decisiveness


def agreement_rows(
    study: Study, sample: str, found: list[LocalizedCnn]
) -> Iterator[dict[str, Any]]:
    """Every check of one sample, a row a class.

    `check` is `halves` (of the evaluation sequences), `seeds` (mean over pairs of CNN seeds),
    `attributions`, `reference` (the model's Δ against the reference's), `attention` (Δ against the
    mean attention itself), `randomized` (`against` names the lowest layer drawn anew) or
    `permuted` (the control task's CNN). `of` is Δ, or D where the weights D of Δ = mean D · A are
    compared without the attention.

    Args:
        study: with its CNNs trained.
        sample: name of the sample.
        found: Δ of all its CNNs.
    """
    classes = sample_rows(study, sample).classes
    for row in _all(study, sample, found):
        name = classes[row.pop("index")]
        yield {"sample": sample, "class": name, **row}


def _all(study: Study, sample: str, found: list[LocalizedCnn]) -> Iterator[dict[str, Any]]:
    """Rows with the class's index in place of its name."""
    attributions = study.settings.localize.attributions
    model = [one for one in found if one.job.source == "model"]
    if not model:
        return
    whole = {
        name: average([pooled(one.halves) for one in model if one.attribution == name])
        for name in attributions
    }
    shared = {
        name: average([one.shared for one in model if one.attribution == name])
        for name in attributions
    }
    for attribution in attributions:
        own = [one for one in model if one.attribution == attribution]
        halves = [average([one.halves[part] for one in own]) for part in (0, 1)]
        yield from _compared(halves, attribution, "halves", "the other half")
        by_seed: dict[int, list[Decisiveness]] = {}
        for one in own:
            by_seed.setdefault(one.job.seed, []).append(pooled(one.halves))
        seeds = [average(parts) for parts in by_seed.values()]
        yield from _compared(seeds, attribution, "seeds", "other seeds")
        for other in attributions:
            if other != attribution:
                pair = [shared[attribution], shared[other]]
                yield from _compared(pair, attribution, "attributions", other)
        reference = [
            pooled(one.halves)
            for one in found
            if one.job.source == "reference" and one.attribution == attribution
        ]
        if reference:
            pair = [whole[attribution], average(reference)]
            yield from _compared(pair, attribution, "reference", "the reference model")
    if study.settings.localize.sanity:
        yield from _sane(study, sample, model[0].job)


def _compared(
    maps: list[Decisiveness], attribution: str, check: str, against: str
) -> Iterator[dict[str, Any]]:
    """Agreement between maps, a row a class; one with no sequence in a map has no figure."""
    for index in range(len(maps[0].delta)):
        known = [one.delta[index].numpy() for one in maps if one.n_used[index] > 0]
        found = mean_agreement(known if len(known) == len(maps) else [])
        yield _row(index, attribution, check, against, "Δ", found)


def _row(
    index: int, attribution: str, check: str, against: str, of: str, found: Agreement
) -> dict[str, Any]:
    names = {"index": index, "attribution": attribution, "check": check, "against": against}
    return names | {"of": of} | found._asdict()


def _sane(study: Study, sample: str, job: Job) -> Iterator[dict[str, Any]]:
    """The sanity checks of the sample's first CNN."""
    trained = load_cnn(job.cnn_path)
    others = [("randomized", name, one) for name, one in randomized(trained)]
    control = _control_of(study, job)
    if control is not None:
        others.append(("permuted", "labels permuted", control))
    for attribution in study.settings.localize.attributions:
        before = _means(study, sample, job, trained, attribution)
        for index in range(len(before.delta)):
            found = agreement(before.delta[index].numpy(), before.attention[index].numpy())
            yield _row(index, attribution, "attention", "the attention itself", "Δ", found)
        for check, against, cnn in others:
            after = _means(study, sample, job, cnn, attribution)
            for index in range(len(before.delta)):
                for of, old, new in zip(_BOTH, before[:2], after[:2], strict=True):
                    found = agreement(old[index].numpy(), new[index].numpy())
                    yield _row(index, attribution, check, against, of, found)


def _control_of(study: Study, job: Job) -> TrainedCnn | None:
    """The CNN that the same setting and seed gave of permuted labels, if there is one."""
    for other in jobs_of(study):
        alike = (other.sample, other.setting, other.seed) == (job.sample, job.setting, job.seed)
        if alike and other.source == "control" and is_finished(other):
            return load_cnn(other.cnn_path)
    return None


def _means(
    study: Study, sample: str, job: Job, trained: TrainedCnn, attribution: str
) -> ClassMeans:
    """D, Δ and attention of the first evaluation sequences of each class."""
    assert job.setting is not None
    rows = rows_read(study, sample, attribution)
    rows = rows.filter(pl.int_range(pl.len()).over("class") < _SANITY_SEQUENCES)
    largest = replace(job, setting=replace(job.setting, pooling="max"))
    labels: np.ndarray = rows["class_index"].to_numpy().copy()
    return class_means(
        trained,
        job_maps(study, job, rows),
        torch.from_numpy(labels),
        max_maps=job_maps(study, largest, rows),
        attribution=attribution,
    )
