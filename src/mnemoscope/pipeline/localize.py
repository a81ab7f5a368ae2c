"""Stage `localize`: where in the attention each class is decided, averaged over the CNNs.

The reference model's attention and the tokens alone (the blind baseline) are localized too: what
they also show comes from the text. Beside Δ stands what the model itself moves or owes along each
edge (`localize.cut.RANKINGS`). Several studies of models of one depth are averaged alike.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import polars as pl
import torch
from safetensors.torch import load, save

from mnemoscope.benchmark.baselines import BLIND_CHANNELS
from mnemoscope.cluster.run import run_units
from mnemoscope.cluster.units import Result, Share, Together, Unit
from mnemoscope.cnn.presets import INPUTS
from mnemoscope.cnn.training import TrainedCnn
from mnemoscope.columns import schema_of
from mnemoscope.errors import UserError
from mnemoscope.files import digest, made_folder, write_bytes, write_parquet
from mnemoscope.library.reader import in_halves
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.placement import find_cnn_device
from mnemoscope.localize.cut import class_mean, contrasted
from mnemoscope.localize.delta import (
    COUNTS,
    ClassMeans,
    Decisiveness,
    average,
    check_attributions,
    class_means,
    decisiveness_of_each,
    pooled,
    randomized,
)
from mnemoscope.localize.rankings import COSTLY, RANKINGS
from mnemoscope.localize.regions import (
    Agreement,
    Region,
    agreement,
    average_models,
    find_regions,
    mean_agreement,
    region_sentence,
)
from mnemoscope.maps.shape import SHAPES, attention_shape, copy_edges
from mnemoscope.maps.triangle import unpack_triangle
from mnemoscope.maps.views import rows_at_once
from mnemoscope.pipeline.benchmark import check_alike, check_different_models, name_models
from mnemoscope.pipeline.capture import shown_tokens
from mnemoscope.pipeline.deltas import (
    AGREEMENT_COLUMNS,
    AGREEMENT_FILE,
    DECISIVENESS_FILE,
    MODEL_COLUMNS,
    MODELS_FILE,
    REGION_COLUMNS,
    REGIONS_FILE,
    SHAPE_COLUMNS,
    SHAPES_FILE,
    SOURCES,
    StoredDelta,
    load_deltas,
    pack_deltas,
    write_delta_tables,
)
from mnemoscope.pipeline.label import samples_of
from mnemoscope.pipeline.questions import clear_units, unit_store
from mnemoscope.pipeline.stored_maps import open_maps
from mnemoscope.pipeline.train import (
    Job,
    SampleRows,
    cnn_store,
    device_here,
    finds_gpu,
    group_units,
    held_maps,
    job_maps,
    job_rows,
    jobs_of,
    load_outcome,
    needs_of_cnns,
    opened,
    sample_rows,
    shared,
    trained_cnn,
)
from mnemoscope.progress import Progress
from mnemoscope.study.folder import Study, is_study
from mnemoscope.study.models import Models
from mnemoscope.taxonomy.sample import SampleKey
from mnemoscope.words import plural

_HALVES = ("first", "second")
_MOST_HELD = 4  # what a CNN sees and the maxima, of either half
_SANITY_SEQUENCES = 64  # per class: enough for a mean map, and cheap compared with training
_RULES = tuple(f"localize.{name}" for name in ("attributions", "attribution_sequences", "rows"))
_Key = tuple[SampleKey, str, str]  # sample, source, attribution


class LocalizedCnn(NamedTuple):
    """Δ of one CNN by one attribution: from each half of its sequences, and from both.

    `shared` is from the sequences that all attributions use, to compare them.
    """

    job: Job
    attribution: str
    halves: tuple[Decisiveness, ...]
    whole: Decisiveness
    shared: Decisiveness


@dataclass(frozen=True)
class Localization:
    """Δ of one CNN by every attribution: a unit of work on the study."""

    key: str
    job: Job
    size: int
    device: str

    def run(self, study: Study, progress: Progress) -> dict[str, bytes]:
        """Δ and counts of the parts of each attribution; nothing of a CNN that does not count."""
        return _localize_together([self], study, progress)[0]

    def read(self, result: Result, attributions: Sequence[str]) -> Iterator[LocalizedCnn]:
        """What `run` made."""
        file = result.files["safetensors"]
        tensors = load(file.read_bytes() if isinstance(file, Path) else cast(bytes, file))
        for attribution in attributions if tensors else ():
            parts = {
                part: Decisiveness(
                    *(tensors[f"{attribution} {part} {name}"] for name in ("delta", *COUNTS))
                )
                for part in (*_HALVES, "shared")
                if f"{attribution} {part} delta" in tensors
            }
            halves = tuple(parts[half] for half in _HALVES)
            whole = pooled(halves)
            yield LocalizedCnn(self.job, attribution, halves, whole, parts.get("shared", whole))


def _localize_together(
    units: Sequence[Localization], study: Study, progress: Progress
) -> list[dict[str, bytes]]:
    """What each of the CNNs gives, which read the same maps."""
    made: list[dict[str, torch.Tensor]] = [{} for _ in units]
    jobs = [unit.job for unit in units]
    for attribution, part, number, found in _of_cnns(study, jobs, units[0].device):
        values = vars(found).items()
        made[number] |= {f"{attribution} {part} {name}": one for name, one in values}
    progress.advance(sum(unit.size for unit in units))
    return [{"safetensors": save(one)} for one in made]


def localize_stage(study: Study, models: Models) -> None:
    """Write Δ of each sample, source and attribution, its regions, and checks of it.

    `decisiveness.safetensors` holds Δ with its counts and `regions.parquet` where it is large.
    `agreement.parquet` compares Δ between halves, seeds, attributions, and before and after
    randomizing the CNN; `attention.parquet` has the shape of the attention itself. Raises
    UserError: an attribution needs Captum, which is not installed.
    """
    study.require("train")
    attributions = study.settings.localize.attributions
    check_attributions(attributions)
    with study.finishing("localize") as counts:
        jobs = list(jobs_of(study))
        units = _localizations(study, jobs)
        stored: list[StoredDelta] = []
        agreements: list[dict[str, object]] = []
        results = _localized(study, _together(units))
        for sample, parts in groupby(results, lambda one: one[0].job.sample):
            found = [one for unit, made in parts for one in unit.read(made, attributions)]
            stored += _averaged(study, sample, found)
            permuted = [one for one in jobs if (one.sample, one.source) == (sample, "control")]
            agreements += _agreement_rows(study, sample, found, permuted)
        samples = list(dict.fromkeys(unit.job.sample for unit in units))
        for name in study.settings.localize.rankings:
            model = models.model(study)
            stored += [rank_edges(study, model, sample, name) for sample in samples]
        counts["maps"] = len(stored)
        regions: list[dict[str, object]] = []
        for sample in samples:
            copies = cache(partial(_mean_copies, study, sample))
            for one in stored:
                if one.sample == sample:
                    regions += _region_rows(one, copies, study.settings.sequences.n_prefix)
        shapes = [row for one in samples for row in _shape_rows(study, one)]
        for file, rows, columns in (
            (REGIONS_FILE, regions, REGION_COLUMNS),
            (SHAPES_FILE, shapes, SHAPE_COLUMNS),
            (AGREEMENT_FILE, agreements, AGREEMENT_COLUMNS),
        ):
            study.write(file, pl.DataFrame(rows, schema_of(columns)), columns)
        study.write(DECISIVENESS_FILE, pack_deltas(stored))
    clear_units(study, "localize")


def localize_share(study: Study, models: Models, share: Share) -> None:  # noqa: ARG001
    """Find Δ of a share of the CNNs; errors as `localize_stage`."""
    study.require("train")
    check_attributions(study.settings.localize.attributions)
    units = _localizations(study, list(jobs_of(study)))
    for _ in _localized(study, share.of(_together(units))):
        pass


def _localizations(study: Study, jobs: Sequence[Job]) -> list[Localization]:
    """The CNNs that read maps by layer, sample by sample."""
    wanted = study.settings.localize
    basis = wanted.model_dump_json(
        include={"attributions", "attribution_sequences", "rows", "seed"}
    )
    device = device_here(study)
    return [
        Localization(digest([job.key, basis]), job, len(wanted.attributions), device)
        for job in jobs
        if job.source in SOURCES and job.setting and INPUTS[job.setting.pooling].is_by_layer
    ]


def _together(units: Sequence[Localization]) -> list[Unit]:
    """The units of these CNNs; on a GPU those that are trained as one are asked as one."""
    on_gpu = bool(units) and finds_gpu(units[0].device)
    return group_units(units, lambda one: shared(one.job) if on_gpu else None, _localize_together)


def _localized(study: Study, units: Sequence[Unit]) -> Iterator[tuple[Localization, Result]]:
    """Each CNN with what it gives."""
    store, device = unit_store(study, "localize"), device_here(study)
    noun, needs = "CNNs and attributions", needs_of_cnns(study, device)
    made = run_units(units, store, opened(study), label="Localizing", noun=noun, needs=needs)
    for unit, result in zip(units, made, strict=True):
        if not isinstance(unit, Together):
            yield cast(Localization, unit), result
            continue
        for one in unit.units:
            yield cast(Localization, one), cast(Result, store.get(one.key))


# Δ of each CNN, from the sequences that its attribution uses.


AS_RUN = 200
"""Sequences of a class that the code of arXiv 2508.02573 averages Δ over."""


def localized_rows(study: Study, job: Job) -> pl.DataFrame:
    """The sequences that `localize.rows` names, before a CNN is asked whether it is right."""
    return _named(study, job_rows(study, job))


def _named(study: Study, rows: SampleRows) -> pl.DataFrame:
    if study.settings.localize.rows != "as_run":
        return rows.evaluation
    drawn = pl.concat([rows.train, rows.evaluation])
    return drawn.filter(pl.int_range(pl.len()).over("class") < AS_RUN)


def rows_read(study: Study, rows: pl.DataFrame, *attributions: str) -> pl.DataFrame:
    """Those of the sequences that all these attributions use, in their order.

    Costly attributions use a random draw of `localize.attribution_sequences` per class.
    """
    wanted = study.settings.localize
    is_costly = any(name in COSTLY for name in attributions)
    if wanted.attribution_sequences is None or not is_costly:
        return rows
    lot = pl.Series("lot", np.random.default_rng(wanted.seed).permutation(rows.height))
    place = pl.col("lot").rank("ordinal").over("class")
    return rows.with_columns(lot).filter(place <= wanted.attribution_sequences).drop("lot")


def _of_cnns(
    study: Study, jobs: Sequence[Job], device: str
) -> Iterator[tuple[str, str, int, Decisiveness]]:
    """Δ of CNNs that read the same maps: attribution, part, number of the CNN, and Δ of that.

    Parts are the halves of the sequences, and the shared ones where not all are. Nothing of a CNN
    that did not train, unless rows are as run.
    """
    needs_trained = study.settings.localize.rows != "as_run"
    counted = [
        number
        for number, job in enumerate(jobs)
        if not needs_trained or load_outcome(job).facts.did_train
    ]
    if not counted:
        return
    where = find_cnn_device(device)
    cnns = [trained_cnn(jobs[number]) for number in counted]
    cnns = [
        replace(one, network=one.network.to(where), scaling=one.scaling.to(where)) for one in cnns
    ]
    attributions = study.settings.localize.attributions
    asked = localized_rows(study, jobs[0])
    for_all = rows_read(study, asked, *attributions)
    for attribution in attributions:
        rows = rows_read(study, asked, attribution)
        parts = dict(zip(_HALVES, in_halves(rows), strict=True))
        if len(rows) != len(for_all):
            parts["shared"] = for_all
        for name, part in parts.items():
            found = _delta_of(study, jobs[0], cnns, attribution, part)
            yield from ((attribution, name, *one) for one in zip(counted, found, strict=True))


def _delta_of(
    study: Study, job: Job, cnns: Sequence[TrainedCnn], attribution: str, rows: pl.DataFrame
) -> list[Decisiveness]:
    device = next(cnns[0].network.parameters()).device
    seen, maxima = (
        held_maps(study, one, rows, job_maps(study, one, rows), device, most=_MOST_HELD)
        for one in (job, _of_maxima(job))
    )
    return decisiveness_of_each(
        cnns,
        seen,
        torch.from_numpy(rows["class_index"].to_numpy().copy()),
        attribution=attribution,
        max_maps=maxima,
        correct_only=study.settings.localize.rows == "correct",
    )


def rank_edges(study: Study, model: LanguageModel, sample: SampleKey, name: str) -> StoredDelta:
    """What a ranking gives each class's edges, over its evaluation sequences; clipped at 0 as Δ is.

    Raises UserError: the model's family has no such values.
    """
    ranking, rows = RANKINGS[name], sample_rows(study, sample)
    size = study.settings.rows_at_once
    means, n_used = [], []
    for one in rows.classes:
        part = rows.evaluation.filter(pl.col("class") == one)
        tokens = shown_tokens(study.sequences, part.select("sequence_id", "suffix"))
        prefix = study.settings.sequences.n_prefix
        means.append(class_mean(model, tokens, ranking.measure, size, prefix))
        n_used.append(len(tokens))
    values = contrasted(means) if ranking.contrast else means
    none = (0,) * len(n_used)
    return StoredDelta(
        sample=sample,
        shown=samples_of(study)[sample].shown,
        attribution=name,
        classes=rows.classes,
        delta=torch.stack(values).clamp(min=0).numpy(),
        n_used=tuple(n_used),
        n_skipped=none,
        n_wrong=none,
        n_cnns=0,
        source="model",
        n_says=(1,) * len(n_used),
    )


def _of_maxima(job: Job) -> Job:
    """The job with maxima over heads, which weigh Δ whatever the CNN reads."""
    assert job.setting is not None
    return replace(job, setting=replace(job.setting, pooling="max"))


def _averaged(study: Study, sample: SampleKey, found: list[LocalizedCnn]) -> Iterator[StoredDelta]:
    """Δ averaged over the CNNs of each source and attribution."""
    for source in SOURCES:
        for attribution in study.settings.localize.attributions:
            of = (source, attribution)
            parts = [one.whole for one in found if (one.job.source, one.attribution) == of]
            if not parts:
                continue
            mean = average(parts)
            yield StoredDelta(
                sample=sample,
                shown=samples_of(study)[sample].shown,
                attribution=attribution,
                classes=sample_rows(study, sample).classes,
                delta=mean.delta.numpy(),
                n_cnns=len(parts),
                source=source,
                n_says=tuple(torch.stack([one.n_used > 0 for one in parts]).sum(dim=0).tolist()),
                **{name: tuple(getattr(mean, name).tolist()) for name in COUNTS},
            )


# Checks of Δ: is it stable, do attributions agree, does it depend on the CNN.


def _agreement_rows(
    study: Study, sample: SampleKey, found: list[LocalizedCnn], permuted: Sequence[Job]
) -> Iterator[dict[str, object]]:
    """All checks of one sample, one row per class; `permuted` are its trainings of the control.

    Of `seeds` the mean over pairs; D are the weights of Δ = mean D · A.
    """
    classes = sample_rows(study, sample).classes
    for index, row in _checks(study, found, permuted):
        yield {**sample._asdict(), "class": classes[index], **row}


def _checks(
    study: Study, found: list[LocalizedCnn], permuted: Sequence[Job]
) -> Iterator[tuple[int, dict[str, object]]]:
    """Index of the class and the rest of the row."""
    attributions = study.settings.localize.attributions
    of_model = {
        name: [one for one in found if (one.job.source, one.attribution) == ("model", name)]
        for name in attributions
    }
    if not of_model[attributions[0]]:
        return
    shared = {name: average([one.shared for one in own]) for name, own in of_model.items()}
    for attribution, own in of_model.items():
        halves = [average([one.halves[part] for one in own]) for part in (0, 1)]
        yield from _compared(halves, attribution, "halves", "the other half")
        by_seed: dict[int, list[Decisiveness]] = {}
        for one in own:
            by_seed.setdefault(one.job.seed, []).append(one.whole)
        seeds = [average(parts) for parts in by_seed.values()]
        yield from _compared(seeds, attribution, "seeds", "other seeds")
        for other in attributions:
            if other != attribution:
                pair = [shared[attribution], shared[other]]
                yield from _compared(pair, attribution, "attributions", other)
        asked = ("reference", attribution)
        reference = [one.whole for one in found if (one.job.source, one.attribution) == asked]
        if reference:
            pair = [average([one.whole for one in own]), average(reference)]
            yield from _compared(pair, attribution, "reference", "the reference model")
    if study.settings.localize.sanity:
        yield from _sane(study, of_model[attributions[0]][0].job, permuted)


def _compared(
    maps: list[Decisiveness], attribution: str, check: str, against: str
) -> Iterator[tuple[int, dict[str, object]]]:
    """Agreement between maps by class; null figures for classes without sequences in a map."""
    for index in range(len(maps[0].delta)):
        known = [one.delta[index].numpy() for one in maps if one.n_used[index] > 0]
        found = mean_agreement(known if len(known) == len(maps) else [])
        yield index, _row(attribution, check, against, "Δ", found)


def _row(
    attribution: str, check: str, against: str, of: str, found: Agreement
) -> dict[str, object]:
    names = {"attribution": attribution, "check": check, "against": against, "of": of}
    return {**names, **found._asdict()}


def _sane(
    study: Study, job: Job, permuted: Sequence[Job]
) -> Iterator[tuple[int, dict[str, object]]]:
    """Compare D and Δ of a CNN with those of randomized CNNs and the control task's."""
    trained = trained_cnn(job)
    others = [("randomized", name, one) for name, one in randomized(trained)]
    for other in permuted:
        alike = replace(other, source=job.source, key=job.key) == job
        if alike and cnn_store(study).has(other.key):
            others.append(("permuted", "labels permuted", trained_cnn(other)))
    for attribution in study.settings.localize.attributions:
        before = _first_means(study, job, trained, attribution)
        for index in range(len(before.delta)):
            found = agreement(before.delta[index].numpy(), before.attention[index].numpy())
            yield index, _row(attribution, "attention", "the attention itself", "Δ", found)
        for check, against, cnn in others:
            after = _first_means(study, job, cnn, attribution)
            for index in range(len(before.delta)):
                for of, old, new in zip(("D", "Δ"), before[:2], after[:2], strict=True):
                    found = agreement(old[index].numpy(), new[index].numpy())
                    yield index, _row(attribution, check, against, of, found)


def _first_means(study: Study, job: Job, trained: TrainedCnn, attribution: str) -> ClassMeans:
    """D, Δ and attention of the first sequences of each class."""
    rows = rows_read(study, localized_rows(study, job), attribution)
    rows = rows.filter(pl.int_range(pl.len()).over("class") < _SANITY_SEQUENCES)
    return class_means(
        trained,
        job_maps(study, job, rows),
        torch.from_numpy(rows["class_index"].to_numpy().copy()),
        max_maps=job_maps(study, _of_maxima(job), rows),
        attribution=attribution,
    )


# Tables of where Δ is large, and of the shape of the attention.


def _class_copies(study: Study, rows: pl.DataFrame) -> torch.Tensor:
    """Copy edges of sequences as the model saw them, bool (n, query, key)."""
    tokens = shown_tokens(study.sequences, rows.select("sequence_id", "suffix"))
    # Append a token that equals no other: `copy_edges` leaves out the last query.
    longer = np.concatenate([tokens, np.full((len(tokens), 1), -1, tokens.dtype)], axis=1)
    return copy_edges(torch.from_numpy(longer.astype(np.int64)), 1)[:, 0, :-1, :-1]


def _shape_rows(study: Study, sample: SampleKey) -> Iterator[dict[str, object]]:
    """Shape of each class's mean attention over its evaluation sequences, one row per layer."""
    rows, prefix = sample_rows(study, sample), study.settings.sequences.n_prefix
    store = open_maps(study, "model")
    for name in rows.classes:
        part = rows.evaluation.filter(pl.col("class") == name)
        maps = store.dataset(part["sequence_id"].to_numpy(), part["suffix"].to_list(), "mean")
        copies = _class_copies(study, part)
        batches = torch.split(torch.arange(len(maps)), rows_at_once(maps))
        found = [attention_shape(unpack_triangle(maps.read(b)), copies[b], prefix) for b in batches]
        for layer, values in enumerate(torch.cat(found).mean(dim=0).tolist()):
            figures = dict(zip(SHAPES, values, strict=True))
            of = {"class": name, "layer": layer, "n": len(maps)}
            yield sample._asdict() | of | figures


def _mean_copies(study: Study, sample: SampleKey, name: str) -> np.ndarray:
    """For each edge, the share of a class's sequences of Δ in which it is a copy edge."""
    rows = _named(study, sample_rows(study, sample)).filter(pl.col("class") == name)
    mean: np.ndarray = _class_copies(study, rows).double().mean(dim=0).numpy()
    return mean


def _region_rows(
    one: StoredDelta, copies: Callable[[str], np.ndarray], prefix: int
) -> Iterator[dict[str, object]]:
    """Where Δ of each class is large, one row per region; `copies` is as `_mean_copies`."""
    channels = BLIND_CHANNELS if one.source == "blind" else ()
    for index, name in enumerate(one.classes):
        for region in find_regions(
            one.delta[index], copies(name), channels=channels, prefix=prefix
        ):
            yield one.names | {
                "class": name,
                "region": region.name,
                "share": region.share if one.n_used[index] else None,
                "even": region.even,
                "ratio": region.ratio if one.n_used[index] else None,
            }


# Several studies of one depth together.


class TogetherDelta(NamedTuple):
    """Δ of several models together; counts and CNNs are summed over the models.

    `models` says how alike the models' Δ of each map and class are (means over pairs of models;
    null if no two can be compared). `left_out` is what some study lacks, one line each.
    """

    deltas: tuple[StoredDelta, ...]
    models: pl.DataFrame
    regions: pl.DataFrame
    names: tuple[str, ...]
    left_out: tuple[str, ...]


def localize_together(studies: Sequence[Study]) -> TogetherDelta:
    """Average Δ over all CNNs of two or more models of one depth.

    Raises UserError: a study is named twice, not localized, made with other settings, of another
    depth, or the studies have nothing in common.
    """
    for study in studies:
        study.require("localize")
    _check_depth(studies)
    check_alike(studies, _RULES)
    check_different_models(studies)
    stored = [_by_key(study) for study in studies]
    keys, left_out = _shared(studies, stored)
    parts = [[own[key] for own in stored] for key in keys]
    deltas = tuple(_average_stored(own) for own in parts)
    names = name_models(studies)
    copies = [cache(partial(_mean_copies, study)) for study in studies]
    prefix = studies[0].settings.sequences.n_prefix

    def averaged_copies(one: StoredDelta, own: list[StoredDelta], name: str) -> np.ndarray:
        weights = np.array([model.n_says[one.classes.index(name)] for model in own])
        each = np.stack([of(one.sample, name) for of in copies])
        mean: np.ndarray = np.average(each, axis=0, weights=weights if weights.any() else None)
        return mean

    return TogetherDelta(
        deltas=deltas,
        models=pl.DataFrame(
            [row for own in parts for row in _alike_rows(own)], schema_of(MODEL_COLUMNS)
        ),
        regions=pl.DataFrame(
            [
                row
                for one, own in zip(deltas, parts, strict=True)
                for row in _region_rows(one, partial(averaged_copies, one, own), prefix)
            ],
            schema_of(REGION_COLUMNS),
        ),
        names=names,
        left_out=left_out,
    )


def write_localized_together(folder: Path, together: TogetherDelta) -> list[Path]:
    """Write `decisiveness.safetensors`, and `models`, `regions`, `delta`, `profile` as Parquet.

    Raises UserError: the folder cannot be created, or is a study, whose Δ would be lost.
    """
    if is_study(folder):
        raise UserError(f"{folder}: is a study. Choose another folder with -o.")
    made_folder(folder)
    written = [*write_delta_tables(together.deltas, folder)]
    for name, frame in ((REGIONS_FILE, together.regions), (MODELS_FILE, together.models)):
        write_parquet(folder / name, frame)
        written.append(folder / name)
    write_bytes(folder / DECISIVENESS_FILE, pack_deltas(together.deltas))
    return [*written, folder / DECISIVENESS_FILE]


def together_lines(together: TogetherDelta) -> Iterator[str]:
    """How alike the models are and where their Δ is large, by the first attribution."""
    first = together.deltas[0].attribution
    for one in together.deltas:
        if (one.source, one.attribution) != ("model", first):
            continue
        cnns = plural(one.n_cnns, "CNN")
        yield f"{one.shown} ({first}): Δ of {', '.join(together.names)}, {cnns}"
        for name in one.classes:
            here = {**one.names, "class": name}
            rows = together.regions.filter(**here).iter_rows(named=True)
            found = [Region(row["region"], row["share"] or 0.0, row["even"]) for row in rows]
            alike = together.models.filter(**here).row(0, named=True)
            said = ""
            if alike["pearson"] is not None:
                said = (
                    f" Between models: correlation {alike['pearson']:.2f}, of ranks "
                    f"{alike['spearman']:.2f}, {alike['overlap']:.0%} of the top 1 % of edges in "
                    "common."
                )
            yield f"  {region_sentence(name, found)}{said}"
    yield from (f"Left out: {line}." for line in together.left_out)


def _check_depth(studies: Sequence[Study]) -> None:
    """Reject models of different depth: layer 7 of 12 is not layer 7 of 24."""
    depths = [int(study.record["models"]["model"]["n_layers"]) for study in studies]
    for study, depth in zip(studies, depths, strict=True):
        if depth != depths[0]:
            raise UserError(
                f"{study.folder}: model of another depth: {depth} layers, where the model of "
                f"{studies[0].folder} has {depths[0]}. Put models of one depth together."
            )


def _by_key(study: Study) -> dict[_Key, StoredDelta]:
    found = {
        (one.sample, source, one.attribution): one
        for source in SOURCES
        for one in load_deltas(study, source)
    }
    if not found:
        raise UserError(f"{study.folder}: no Δ, since no CNN trained. Train on more sequences.")
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
        shown = next(one.shown for one in parts if one is not None)
        named = ", ".join((shown, *key[1:]))
        if missing:
            left_out.append(f"{named}: no Δ in {', '.join(missing)}")
        elif len(classes) > 1:
            left_out.append(f"{named}: trained with other classes in some")
        else:
            keys.append(key)
    if not any(source == "model" for _, source, _ in keys):
        raise UserError(f"nothing to put together: {'; '.join(left_out)}.")
    return keys, tuple(left_out)


def _average_stored(parts: Sequence[StoredDelta]) -> StoredDelta:
    delta, n_says = average_models([one.delta for one in parts], [one.n_says for one in parts])
    n_used, n_skipped, n_wrong = (
        tuple(int(n) for n in np.sum([getattr(one, name) for one in parts], axis=0))
        for name in COUNTS
    )
    return replace(
        parts[0],
        delta=delta,
        n_used=n_used,
        n_skipped=n_skipped,
        n_wrong=n_wrong,
        n_cnns=sum(one.n_cnns for one in parts),
        n_says=n_says,
    )


def _alike_rows(parts: Sequence[StoredDelta]) -> Iterator[dict[str, object]]:
    """How alike the models' maps of each class are."""
    for index, name in enumerate(parts[0].classes):
        known = [one.delta[index] for one in parts if one.n_says[index]]
        yield {**parts[0].names, "class": name, **mean_agreement(known)._asdict()}
