"""Stage `localize`: where in the attention each class is decided, averaged over the CNNs.

The same from the reference model's attention and from the tokens alone (the blind baseline) stands
beside the model's own: what they show too belongs to the text.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mnemoscope.benchmark.baselines import BLIND_CHANNELS
from mnemoscope.cnn.files import load_cnn
from mnemoscope.cnn.training import TrainedCnn
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.files import made_folder, write_bytes, write_parquet
from mnemoscope.localize.attribution import COSTLY, check_attributions
from mnemoscope.localize.cut import copy_edges
from mnemoscope.localize.delta import (
    Agreement,
    ClassMeans,
    Decisiveness,
    agreement,
    average,
    average_models,
    class_means,
    decisiveness,
    mean_agreement,
    pooled,
    randomized,
)
from mnemoscope.localize.regions import Region, find_regions, layer_profile, region_sentence
from mnemoscope.maps.format import unpack_triangle
from mnemoscope.maps.shape import SHAPES, attention_shape
from mnemoscope.maps.store import MapStore
from mnemoscope.maps.views import rows_at_once
from mnemoscope.pipeline.benchmark import check_alike, check_different_models, name_models
from mnemoscope.pipeline.capture import maps_folder, shown_tokens
from mnemoscope.pipeline.train import Job, is_finished, job_maps, jobs_of, load_outcome, sample_rows
from mnemoscope.progress import track
from mnemoscope.study.folder import Study, is_study
from mnemoscope.study.models import Models

# Which evaluation sequences an attribution reads: all, or of costly ones a seeded few a class.


def rows_read(study: Study, sample: str, attribution: str) -> pl.DataFrame:
    """The evaluation sequences that one attribution reads, in the order of the sample.

    Args:
        study: with its samples drawn.
        sample: name of the sample.
        attribution: one of `localize.attribution.ATTRIBUTIONS`.
    """
    return _few(study, sample) if attribution in COSTLY else sample_rows(study, sample).evaluation


def rows_shared(study: Study, sample: str) -> pl.DataFrame:
    """The evaluation sequences that all attributions of a study read, to be compared on."""
    is_costly = any(name in COSTLY for name in study.settings.localize.attributions)
    return _few(study, sample) if is_costly else sample_rows(study, sample).evaluation


def in_halves(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """Two halves of every class; near duplicates, which are one group, stay together."""
    turn = pl.col("group").rank("dense").over("class") % 2
    return [rows.filter(turn == 1), rows.filter(turn == 0)]


def _few(study: Study, sample: str) -> pl.DataFrame:
    """`localize.attribution_sequences` of each class, drawn without regard to anything else."""
    rows, wanted = sample_rows(study, sample).evaluation, study.settings.localize
    if wanted.attribution_sequences is None:
        return rows
    lot = pl.Series("lot", np.random.default_rng(wanted.seed).permutation(rows.height))
    place = pl.col("lot").rank("ordinal").over("class")
    return rows.with_columns(lot).filter(place <= wanted.attribution_sequences).drop("lot")


# The checks of Δ in a study: is it stable, do attributions agree, is it of the CNN at all.

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


# The shape of the attention of each class and layer, in a few numbers, for `localize`.


def class_copies(study: Study, rows: pl.DataFrame) -> torch.Tensor:
    """Copy edges of sequences as they were shown to the model, those of the last query too.

    Args:
        study: with its sequences and continuations.
        rows: of `samples.parquet`.

    Returns:
        bool (n, query, key).
    """
    tokens = shown_tokens(study.sequences, rows.select("sequence_id", "suffix"))
    # A token more that equals no other, since the last query is left out where edges are cut.
    longer = np.concatenate([tokens, np.full((len(tokens), 1), -1, tokens.dtype)], axis=1)
    return copy_edges(torch.from_numpy(longer.astype(np.int64)), 1)[:, 0, :-1, :-1]


def shape_rows(study: Study, sample: str) -> Iterator[dict[str, Any]]:
    """Means over the evaluation sequences of each class, a row a layer, mean over heads.

    Args:
        study: with its maps captured.
        sample: name of the sample.
    """
    rows = sample_rows(study, sample)
    store = MapStore(maps_folder(study, "model"), verify=False)
    for name in rows.classes:
        part = rows.evaluation.filter(pl.col("class") == name)
        maps = store.dataset(part["sequence_id"].to_numpy(), part["suffix"].to_list(), "mean")
        copies = class_copies(study, part)
        batches = torch.split(torch.arange(len(maps)), rows_at_once(maps))
        found = [attention_shape(unpack_triangle(maps.read(b)), copies[b]) for b in batches]
        for layer, values in enumerate(torch.cat(found).mean(dim=0).tolist(), start=1):
            yield {"sample": sample, "class": name, "layer": layer, "n": len(maps)} | dict(
                zip(SHAPES, values, strict=True)
            )


# Stage `localize`: where in the attention each class is decided, averaged over the CNNs.

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


# Δ as tables: a row a class, layer and edge, and the layer profile, for `localize`.


def write_delta_tables(deltas: Sequence[StoredDelta], folder: Path) -> Iterator[Path]:
    """Write `delta.parquet` and `profile.parquet`, layers and tokens counted from 1."""
    for name, rows in (("delta", _delta_rows), ("profile", _profile_rows)):
        path = folder / f"{name}.parquet"
        write_parquet(path, pl.concat([rows(one) for one in deltas]))
        yield path


def _delta_rows(one: StoredDelta) -> pl.DataFrame:
    """A row a class, layer and causal edge."""
    query, key = np.tril_indices(one.delta.shape[-1])
    n_classes, n_layers = one.delta.shape[:2]
    shape = (n_classes, n_layers, len(query))
    index, layer = np.indices(shape)[:2].reshape(2, -1)
    return pl.DataFrame(
        {
            **_names(one),
            "class": np.array(one.classes)[index],
            "layer": (layer + 1).astype(np.int32),
            "query": np.broadcast_to(query + 1, shape).ravel().astype(np.int32),
            "key": np.broadcast_to(key + 1, shape).ravel().astype(np.int32),
            "delta": one.delta[:, :, query, key].ravel(),
        }
    )


def _profile_rows(one: StoredDelta) -> pl.DataFrame:
    """A row a class and layer: ΣΔ over the largest ΣΔ of all classes and layers."""
    profile = layer_profile(one.delta)
    index, layer = np.indices(profile.shape).reshape(2, -1)
    return pl.DataFrame(
        {
            **_names(one),
            "class": np.array(one.classes)[index],
            "layer": (layer + 1).astype(np.int32),
            "profile": profile.ravel(),
        }
    )


def _names(one: StoredDelta) -> dict[str, Any]:
    return {"sample": one.sample, "source": one.source, "attribution": one.attribution}


# Several studies of one depth as one: Δ averaged over the CNNs of all their models.

MODELS_FILE = "models.parquet"
_COUNTS = ("n_used", "n_skipped", "n_wrong")
_SETTINGS = tuple(
    f"localize.{name}" for name in ("attributions", "attribution_sequences", "correct_only")
)
_Key = tuple[str, str, str]  # sample, source, attribution


class TogetherDelta(NamedTuple):
    """What several models give together.

    Attributes:
        deltas: Δ of each sample, source and attribution, counts and CNNs summed over the models.
        models: a row a map, class and model: its counts, its CNNs, and how alike the models' Δ
            are (means over pairs of models; null with no two that can be compared).
        regions: rows of `regions.parquet`.
        names: of the models, in the order of the studies.
        left_out: what not every study has, a line each.
    """

    deltas: tuple[StoredDelta, ...]
    models: pl.DataFrame
    regions: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...]


def localize_together(studies: Sequence[Study]) -> TogetherDelta:
    """Average Δ over the CNNs of several models, each CNN counting alike.

    Args:
        studies: two or more with the localize stage done, of one depth and equal rules.

    Raises:
        UserError: a study named twice, not localized, made by other rules or of a model of
            another depth, or nothing that all of them have.
    """
    for study in studies:
        study.require("localize")
    _check_depth(studies)
    check_alike(studies, _SETTINGS)
    check_different_models(studies)
    stored = [_by_key(study) for study in studies]
    keys, left_out = _shared(studies, stored)
    names = name_models(studies)
    deltas = tuple(_localize_several_averaged([own[key] for own in stored]) for key in keys)
    return TogetherDelta(
        deltas=deltas,
        models=pl.DataFrame(
            [row for key in keys for row in _model_rows(names, [own[key] for own in stored])]
        ),
        regions=tuple(
            _localize_several_regions(
                studies, deltas, [[own[key] for own in stored] for key in keys]
            )
        ),
        names=names,
        left_out=left_out,
    )


def write_localized_together(folder: Path, together: TogetherDelta) -> list[Path]:
    """Write `decisiveness.safetensors`, and `models`, `regions`, `delta`, `profile` as Parquet.

    Raises:
        UserError: the folder is a study, whose own Δ would be lost, or cannot be made.
    """
    if is_study(folder):
        raise UserError(f"{folder}: is a study. Choose another folder with -o.")
    made_folder(folder)
    written = [*write_delta_tables(together.deltas, folder)]
    written.append(write_regions(folder, together.regions))
    write_parquet(folder / MODELS_FILE, together.models)
    return [*written, folder / MODELS_FILE, write_deltas(folder, together.deltas)]


def together_lines(together: TogetherDelta) -> Iterator[str]:
    """Say how alike the models are and where their Δ lies, by the first attribution."""
    first = together.deltas[0].attribution
    regions = pl.DataFrame(together.regions, infer_schema_length=None)
    for one in together.deltas:
        if (one.source, one.attribution) != ("model", first):
            continue
        yield f"{one.sample} ({first}): Δ of {', '.join(together.names)}, {one.n_cnns} CNNs"
        here = {"sample": one.sample, "source": "model", "attribution": first}
        for name in one.classes:
            rows = regions.filter(**here, **{"class": name}).iter_rows(named=True)
            found = [Region(row["region"], row["share"] or 0.0, row["even"]) for row in rows]
            alike = together.models.filter(**here, **{"class": name}).row(0, named=True)
            yield f"  {region_sentence(name, found)}{_alike(alike)}"
    yield from (f"Left out: {line}." for line in together.left_out)


def _alike(row: dict[str, Any]) -> str:
    """How alike the maps of the models are."""
    if row["pearson"] is None:
        return ""
    return (
        f" Between models: correlation {row['pearson']:.2f}, of ranks {row['spearman']:.2f}, "
        f"{row['overlap']:.0%} of the top 1 % of edges in common."
    )


def _check_depth(studies: Sequence[Study]) -> None:
    """Refuse models of different depth: layer 7 of 12 is not layer 7 of 24."""
    depths = [int(study.record["models"]["model"]["n_layers"]) for study in studies]
    for study, depth in zip(studies, depths, strict=True):
        if depth != depths[0]:
            raise UserError(
                f"{study.folder}: model of another depth: {depth} layers, where the model of "
                f"{studies[0].folder} has {depths[0]}. Put models of one depth together."
            )


def _by_key(study: Study) -> dict[_Key, StoredDelta]:
    """All of a study's Δ.

    Raises:
        UserError: none, or written before it was kept how many CNNs each mean is over.
    """
    found = {
        (one.sample, source, one.attribution): one
        for source in SOURCES
        for one in load_deltas(study, source)
    }
    if not found:
        raise UserError(f"{study.folder}: no Δ, since no CNN trained. Train on more sequences.")
    if any(not one.n_says for one in found.values()):
        raise UserError(
            f"{study.folder}: localized by an older version, which did not keep how many CNNs "
            f"each Δ rests on. Run: mnemoscope localize {study.folder} --redo"
        )
    return found


def _shared(
    studies: Sequence[Study], stored: Sequence[dict[_Key, StoredDelta]]
) -> tuple[list[_Key], tuple[str, ...]]:
    """What every study has with the same classes, and lines that name the rest."""
    keys, left_out = [], []
    for key in dict.fromkeys(key for own in stored for key in own):
        parts = [own.get(key) for own in stored]
        missing = [str(s.folder) for s, one in zip(studies, parts, strict=True) if one is None]
        classes = {one.classes for one in parts if one is not None}
        if missing:
            left_out.append(f"{', '.join(key)}: no Δ in {', '.join(missing)}")
        elif len(classes) > 1:
            left_out.append(f"{', '.join(key)}: trained with other classes in some")
        else:
            keys.append(key)
    if not any(source == "model" for _, source, _ in keys):
        raise UserError(f"nothing to put together: {'; '.join(left_out)}.")
    return keys, tuple(left_out)


def _localize_several_averaged(parts: Sequence[StoredDelta]) -> StoredDelta:
    """One map of all models."""
    delta, n_says = average_models([one.delta for one in parts], [one.n_says for one in parts])
    counts = {
        name: tuple(int(n) for n in np.sum([getattr(one, name) for one in parts], axis=0))
        for name in _COUNTS
    }
    return StoredDelta(
        sample=parts[0].sample,
        attribution=parts[0].attribution,
        classes=parts[0].classes,
        delta=delta,
        n_cnns=sum(one.n_cnns for one in parts),
        source=parts[0].source,
        n_says=n_says,
        **counts,
    )


def _model_rows(names: Sequence[str], parts: Sequence[StoredDelta]) -> Iterator[dict[str, Any]]:
    """Counts of every model, and how alike their maps are."""
    for index, class_name in enumerate(parts[0].classes):
        known = [one.delta[index] for one in parts if one.n_says[index]]
        alike = mean_agreement(known)._asdict()
        for name, one in zip(names, parts, strict=True):
            yield {
                "sample": one.sample,
                "source": one.source,
                "attribution": one.attribution,
                "class": class_name,
                "model": name,
                **{count: getattr(one, count)[index] for count in _COUNTS},
                "n_cnns": one.n_cnns,
                "n_says": one.n_says[index],
                **alike,
            }


def _localize_several_regions(
    studies: Sequence[Study],
    deltas: Sequence[StoredDelta],
    parts: Sequence[Sequence[StoredDelta]],
) -> Iterator[dict[str, Any]]:
    """Where the averaged Δ lies; copy edges are averaged over the models as Δ is."""
    found = [cache(partial(mean_copies, study)) for study in studies]
    for one, own in zip(deltas, parts, strict=True):

        def copies(
            name: str, one: StoredDelta = one, own: Sequence[StoredDelta] = own
        ) -> np.ndarray:
            each = np.stack([of(one.sample, name) for of in found])
            weights = np.array([model.n_says[one.classes.index(name)] for model in own])
            mean: np.ndarray = np.average(each, axis=0, weights=weights if weights.any() else None)
            return mean

        yield from region_rows(one, copies)
