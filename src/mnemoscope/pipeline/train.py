"""Stage `train`: train every CNN and baseline of the settings; finished ones are kept.

Several train at once, each in a process with one thread; the numbers do not depend on this.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save

from mnemoscope.benchmark import baselines
from mnemoscope.benchmark.baselines import (
    ALL_STATISTICS,
    BaselineFit,
    all_statistics,
    blind_maps,
    permute_labels,
)
from mnemoscope.benchmark.excess import SETTING
from mnemoscope.benchmark.sources import ATTENTION, TABLE
from mnemoscope.benchmark.table import RUN_COLUMNS, RUN_KEY
from mnemoscope.cluster.local import LocalExecutor, n_processes
from mnemoscope.cluster.run import current_executor, run_units
from mnemoscope.cluster.units import Needs, Opened, Share, Together, Unit, UnitStore
from mnemoscope.cnn.inputs import Scaling, fit_scaling
from mnemoscope.cnn.metrics import confusion_matrix, min_f1
from mnemoscope.cnn.presets import INPUTS, PRESETS, CnnSetting, Precision
from mnemoscope.cnn.training import TrainedCnn, Wanted, load_cnn, pack_cnn, trains_together
from mnemoscope.columns import Column, schema_of
from mnemoscope.data.table import look_up
from mnemoscope.errors import UserError
from mnemoscope.library.reader import fit_cnns
from mnemoscope.lm.placement import find_cnn_device
from mnemoscope.maps.device import hold_maps
from mnemoscope.maps.shape import ROW_STATISTICS
from mnemoscope.maps.views import MapSource, MarkedMaps
from mnemoscope.pipeline.capture import LOGPROBS_FILE, shown_tokens
from mnemoscope.pipeline.label import SAMPLES_FILE, aliases_of, samples_of
from mnemoscope.pipeline.map_statistics import (
    POOLINGS_READ,
    TOKENS,
    Statistics,
    both_poolings,
    statistics_of,
    statistics_store,
    statistics_units,
    stored_maps,
)
from mnemoscope.pipeline.stored_maps import heads_role, maps_folder, open_maps
from mnemoscope.pipeline.trainings import (
    CHOICE_FILE,
    FOLDS,
    PREDICTIONS_FILE,
    RUNS_FILE,
    check_inputs,
    check_kernels,
    chooses_reader,
    controlled_taxonomies,
    in_common,
    seeds_of,
    settings_of,
    sources_of,
)
from mnemoscope.progress import Progress, say
from mnemoscope.store import Store
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models, identity_of
from mnemoscope.taxonomy.names import NON_MEMO
from mnemoscope.taxonomy.sample import N_FOLDS, SampleKey

PREDICTION_COLUMNS = {
    **RUN_COLUMNS,
    "epoch": Column(pl.Int64, "from 0 where every epoch is evaluated, else -1: the last"),
    "sequence_id": Column(pl.Int64, "the evaluation sequence"),
    "true": Column(pl.Int64, "index of its class; of the control task of the permuted one"),
    "predicted": Column(pl.Int64, "index of the class that was predicted"),
    "probabilities": Column(pl.List(pl.Float32), "one a class, of the final weights"),
}
TRAINING_COLUMNS = {
    **RUN_COLUMNS,
    "n_train": Column(pl.Int64, "training sequences; in folds their mean"),
    "device": Column(pl.String, "where it was trained"),
    "train_min_f1": Column(pl.Float64, "on the training sequences"),
    "did_train": Column(pl.Boolean, "whether it left chance there"),
    "key": Column(pl.String, "names its files in `cnn/`; in folds one each, blanks between"),
}
CHOICE_COLUMNS = {
    "taxonomy": Column(pl.String, "its name; of its main sample"),
    "source": Column(pl.String, "`model` or `statistics`: CNNs or regression on the attention"),
    "min_f1": Column(pl.Float64, "within the training sequences; the larger is the headline"),
}
_MOST_ON_ACCELERATOR = 4
_T = TypeVar("_T")
_U = TypeVar("_U", bound=Unit)
_ROLES = {"maps": "model", "reference": "reference", "tokens": TOKENS}
"""Whose maps a source reads."""
_LOGPROBS = {"logprobs": "logprobs", "prefix": "prefix_best"}
"""Column of `LOGPROBS_FILE` that a source reads."""


@dataclass(frozen=True)
class Job:
    """One CNN or baseline (without a setting) to train: a unit of work, run on the study.

    `key` is a hash of everything that decides the result. `fold` is the number of the fold that is
    evaluated after training on the others: `choice_jobs` folds the training rows, to choose between
    CNN and regression, and `label.split: folds` folds all rows. None: train on the sample's
    training rows, evaluate its evaluation rows. `rows` replaces them where they come from no sample
    of the label stage.
    """

    study: str
    sample: SampleKey
    source: str
    setting: CnnSetting | None
    preset: str
    seed: int
    control_seed: int
    key: str
    device: str = "cpu"
    precision: Precision = "float32"
    fold: int | None = None
    n_folds: int = 0
    rows: "SampleRows | None" = field(default=None, repr=False, compare=False)
    size = 1

    @property
    def cnn_path(self) -> Path:
        """The trained weights of a CNN."""
        return Path(self.study) / "cnn" / f"{self.key}.safetensors"

    def run(self, study: Study, progress: Progress) -> dict[str, object]:  # noqa: ARG002
        """Train and predict the evaluation sequences: weights, predictions, training figures."""
        rows = self.found_rows(study)
        if self.setting is None:
            return _fit_baseline(study, self, rows)
        return _train(study, [self], rows)[0]

    def found_rows(self, study: Study) -> "SampleRows":
        """What it trains on and is asked."""
        return job_rows(study, self) if self.rows is None else self.rows

    @property
    def setting_columns(self) -> dict[str, int | str | None]:
        """The setting in tables."""
        return dict(
            zip(SETTING, astuple(self.setting) if self.setting else [None] * 3, strict=True)
        )


@dataclass(frozen=True)
class TrainingFacts:
    """How a training went on its own training sequences, and where; columns of runs.parquet."""

    train_min_f1: float
    did_train: bool
    device: str = "cpu"


@dataclass(frozen=True)
class SampleRows:
    """A sample's training and evaluation rows (in folds all are for evaluation), its classes."""

    train: pl.DataFrame
    evaluation: pl.DataFrame
    classes: tuple[str, ...]

    @cached_property
    def digests(self) -> list[str]:
        """Hash of ids, classes and shown suffixes of either side, in order."""
        return [_digest(self.train), _digest(self.evaluation)]


def sample_rows(study: Study, sample: SampleKey) -> SampleRows:
    """Rows of one sample, in the order in which they were drawn."""
    rows = study.read(SAMPLES_FILE).filter(**sample._asdict())
    return SampleRows(
        train=rows.filter(pl.col("split") == "train"),
        evaluation=rows.filter(pl.col("split") == "eval"),
        classes=tuple(samples_of(study)[sample].trained_classes),
    )


def jobs_of(study: Study) -> Iterator[Job]:
    """Every training of the settings, by sample, source, setting and seed.

    Where the rows are asked in folds, those of a setting and seed stand one behind the other.
    Raises UserError: an input was not captured, controls name an unknown taxonomy, or groups of
    near duplicates are too large for folds.
    """
    settings = study.settings
    has_reference = settings.reference is not None
    check_kernels(settings)
    check_inputs(settings, has_reference)
    controlled = controlled_taxonomies(settings)
    if controlled is not None:
        aliases = aliases_of(study)
        controlled = {aliases[name].of if name in aliases else name for name in controlled}
    for sample, entry in samples_of(study).items():
        if entry.impossible:
            continue
        parts: dict[int | None, SampleRows] = {None: sample_rows(study, sample)}
        if entry.split_by == "folds":
            folds = fold_rows(parts[None], N_FOLDS)
            if folds is None:
                raise UserError(
                    f"'{entry.shown}' cannot be asked in {N_FOLDS} folds: a group of near "
                    "duplicates holds most of a class. Set label.split: group."
                )
            parts = dict(enumerate(folds))
        is_controlled = controlled is None or entry.taxonomy in controlled
        for source in sources_of(settings, has_reference, is_controlled=is_controlled):
            for setting in settings_of(settings, source):
                for seed in seeds_of(settings, source):
                    for fold, rows in parts.items():
                        job = make_job(study, sample, rows, source, setting, seed)
                        yield job if fold is None else replace(job, fold=fold, n_folds=len(parts))


def fold_rows(rows: SampleRows, n_folds: int = FOLDS) -> list[SampleRows] | None:
    """Divide the training rows into folds, or the evaluation rows if there are no training rows.

    Each fold in turn is evaluated by what was trained on the others. Groups of near duplicates
    stay whole. None where a side would lack a class.
    """
    whole = rows.train if rows.train.height else rows.evaluation
    classes = whole["class_index"].to_numpy()
    groups = whole.select(pl.col("group").fill_null(pl.col("sequence_id"))).to_series().to_numpy()
    names, owners = np.unique(groups, return_inverse=True)
    smallest = np.bincount(classes, minlength=len(rows.classes)).min()
    if smallest < n_folds or len(names) < n_folds:
        return None
    found = []
    for sides in _sides(classes.tobytes(), owners.tobytes(), n_folds):
        if any(len(np.unique(classes[side])) < len(rows.classes) for side in sides):
            return None
        kept, asked = (whole[side] for side in sides)
        found.append(SampleRows(kept, asked, rows.classes))
    return found


@lru_cache(maxsize=8)  # every job of a sample asks for the same
def _sides(classes: bytes, groups: bytes, n_folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of either side of each fold, of int64 arrays."""
    from sklearn.model_selection import StratifiedGroupKFold

    truth, owners = (np.frombuffer(one, dtype=np.int64) for one in (classes, groups))
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=0)
    return list(folds.split(truth, truth, owners))


def job_rows(study: Study, job: Job) -> SampleRows:
    """What a job trains on and what it is asked."""
    rows = sample_rows(study, job.sample)
    if job.fold is None:
        return rows
    folds = fold_rows(rows, job.n_folds)
    assert folds is not None
    return folds[job.fold]


def choice_jobs(study: Study) -> Iterator[Job]:
    """Trainings within the training rows, to choose between CNNs and regression.

    CNNs use their first setting and seed. Only a taxonomy's main sample is used; its repetitions
    reuse the choice. A sample that cannot be folded gives no job. Under `label.split: folds` there
    are no separate training rows, so all rows are used. None where it decides nothing: with fewer
    than three seeds the regression is the headline.
    """
    settings = study.settings
    for sample, entry in samples_of(study).items() if chooses_reader(settings) else ():
        if entry.impossible or not sample.is_main:
            continue
        for fold, rows in enumerate(fold_rows(sample_rows(study, sample)) or []):
            for source in ATTENTION:
                setting, seed = settings_of(settings, source)[0], seeds_of(settings, source)[0]
                job = make_job(study, sample, rows, source, setting, seed)
                yield replace(job, fold=fold, n_folds=FOLDS)


def _train(study: Study, jobs: Sequence[Job], rows: SampleRows) -> list[dict[str, object]]:
    """Train the CNNs of jobs that read the same maps; one alone, or all as one."""
    first = jobs[0]
    labels = [[torch.from_numpy(one) for one in job_labels(job, rows)] for job in jobs]
    device, parts = find_cnn_device(first.device), (rows.train, rows.evaluation)
    training, evaluation = (job_maps(study, first, part) for part in parts)
    scaling = None
    if mark := TABLE[first.source].mark:
        training, evaluation = (
            MarkedMaps(maps, classes, mark, study.settings.sequences.n_prefix)
            for maps, classes in zip((training, evaluation), labels[0], strict=True)
        )
    else:
        scaling = _scaling(study, first, rows, training)
        training, evaluation = (
            held_maps(study, first, part, maps, device)
            for part, maps in zip(parts, (training, evaluation), strict=True)
        )
    fits = fit_cnns(
        training,
        [
            Wanted(learned, job.setting, job.seed)
            for job, (learned, _) in zip(jobs, labels, strict=True)
            if job.setting is not None
        ],
        evaluation,
        n_classes=len(rows.classes),
        preset=first.preset,
        prefix=study.settings.sequences.n_prefix,
        scaling=scaling,
        device=device,
        precision=first.precision,
    )
    made = []
    for fitted in fits:
        trained, history = fitted.trained, fitted.trained.history
        assert history.train_min_f1 is not None
        facts = TrainingFacts(history.train_min_f1, history.did_train, str(device))
        outcome = _outcome(fitted.predicted, fitted.probabilities, facts, trained.seconds)
        made.append({"safetensors": pack_cnn(trained)} | outcome)
    return made


def _train_together(
    jobs: Sequence[Job], study: Study, progress: Progress
) -> list[dict[str, object]]:
    """Train jobs that `_together` put together."""
    made = _train(study, jobs, jobs[0].found_rows(study))
    progress.advance(len(jobs))
    return made


def together(study: Study, jobs: Sequence[Job]) -> list[Unit]:
    """The units of these jobs: on a GPU those CNNs as one that share sample, input and kernel.

    They are the same whatever is trained already and wherever units run, in the order of their
    first jobs. A CNN trained so has a result of its own.
    """
    on_gpu = finds_gpu(study.settings.train.device)
    return group_units(jobs, lambda job: shared(job) if on_gpu else None, _train_together)


def group_units(
    units: Sequence[_U],
    group: Callable[[_U], object | None],
    make: Callable[[Sequence[_U], Study, Progress], Sequence[Mapping[str, object]]],
) -> list[Unit]:
    """Units of one group as a unit, made in one go; where the group is None each for itself."""
    groups: dict[object, list[_U]] = {}
    for unit in units:
        groups.setdefault(group(unit) or unit.key, []).append(unit)
    found: list[Unit] = []
    for own in groups.values():
        those = tuple({unit.key: unit for unit in own}.values())
        found += [Together(those, make)] if len(those) > 1 else own
    return found


def finds_gpu(device: str) -> bool:
    """Whether a unit of `needs_of_cnns` finds a GPU, here or on a cluster."""
    if _is_local():
        return trains_together(find_cnn_device(device))
    return current_executor().gpus(device) > 0


def shared(job: Job) -> tuple[object, ...] | None:
    """What CNNs have in common that a GPU trains and asks as one; None of a baseline."""
    if job.setting is None:
        return None
    rows = job.sample, job.fold, job.n_folds, tuple(job.rows.digests) if job.rows else ()
    return rows, in_common(job.source, job.setting), job.preset


_scalings: dict[str, Scaling] = {}
"""The latest of this process, by what decides them."""
_MOST_SCALINGS = 8


def _scaling(study: Study, job: Job, rows: SampleRows, maps: MapSource) -> Scaling:
    """Fit the scaling of a job's training maps; once for all its settings, seeds and controls."""
    preset, prefix = PRESETS[job.preset], study.settings.sequences.n_prefix
    basis = [*_maps_identity(study, job, rows.digests[0]), asdict(preset), prefix]
    return _latest(
        _scalings, _MOST_SCALINGS, json.dumps(basis), lambda: fit_scaling(maps, preset, prefix)
    )


def _maps_identity(study: Study, job: Job, rows_digest: str) -> list[object]:
    """What decides the maps that a job reads of some rows."""
    assert job.setting is not None
    identity = _source_identity(study, job.source, job.setting)
    return [
        rows_digest,
        TABLE[job.source].reads,
        identity,
        job.setting.pooling,
        study.tokens,
    ]


_held: dict[str, MapSource] = {}
"""The latest maps in an accelerator's memory, by what decides them."""


def held_maps(
    study: Study,
    job: Job,
    rows: pl.DataFrame,
    maps: MapSource,
    device: torch.device,
    *,
    most: int = 2,
) -> MapSource:
    """A job's maps of some rows (`job_maps`), in an accelerator's memory if there is room.

    At `most` so many are held, for the jobs that come next: training and evaluation maps of a
    sample, unless given.
    """
    if device.type == "cpu":
        return maps
    key = json.dumps([*_maps_identity(study, job, _digest(rows)), str(device)])
    return _latest(_held, most, key, lambda: hold_maps(maps, device))


def _latest(kept: dict[str, _T], most: int, key: str, make: Callable[[], _T]) -> _T:
    """What is kept under a key, made if it is not there; the oldest goes where there are `most`."""
    if key not in kept:
        while len(kept) >= most:
            del kept[next(iter(kept))]
        kept[key] = make()
    return kept[key]


def _fit_baseline(study: Study, job: Job, rows: SampleRows) -> dict[str, object]:
    """Fit a baseline's regression or boosting; the outcome is like a CNN's."""
    train, evaluation = _inputs(study, job, rows)
    fit = getattr(baselines, TABLE[job.source].fit or "")
    found: BaselineFit = fit(train, job_labels(job, rows)[0], evaluation, job.seed)
    predicted, probabilities = map(torch.from_numpy, (found.predicted[None], found.probabilities))
    facts = TrainingFacts(found.train_min_f1, found.did_train)
    return _outcome(predicted, probabilities.float(), facts, found.seconds)


def _outcome(
    predicted: torch.Tensor,
    probabilities: torch.Tensor,
    facts: TrainingFacts,
    seconds: float | None,
) -> dict[str, object]:
    """The predictions as a file, and what a unit's record says of the training."""
    tensors = {"predicted": predicted.to(torch.int16), "probabilities": probabilities}
    data = save({name: one.contiguous() for name, one in tensors.items()})
    return {
        "outcome.safetensors": data,
        "facts": asdict(facts),
        "seconds": round(seconds or 0.0, 3),
    }


def _inputs(study: Study, job: Job, rows: SampleRows) -> list[np.ndarray]:
    """A baseline's input for the training and the evaluation rows, (rows, columns) or by layer."""
    source, parts = TABLE[job.source], (rows.train, rows.evaluation)
    if column := _LOGPROBS.get(source.reads):
        table = study.read(LOGPROBS_FILE)
        given = [look_up(part.select("sequence_id"), table, column)[column] for part in parts]
        return [np.stack(one.to_list()).astype(np.float32) for one in given]
    tokens = [shown_tokens(study.sequences, part) for part in parts]
    if source.fit == "ngram_logits":
        return tokens
    if source.mark:
        found, prefix = [], study.settings.sequences.n_prefix
        for part, own, labels in zip(parts, tokens, job_labels(job, rows), strict=True):
            maps = both_poolings(study, "model", part)
            marked = MarkedMaps(maps, torch.from_numpy(labels), source.mark, prefix)
            found.append(all_statistics(marked, own, prefix).astype(np.float32))
        return found
    return [statistics_of(study, _ROLES[source.reads], part) for part in parts]


def job_labels(job: Job, rows: SampleRows) -> tuple[np.ndarray, np.ndarray]:
    """Class indices that a job learns and is asked, int64 (rows,); permuted for the control task.

    For the planted mark Non-Memo's are permuted too: nothing but the mark tells the classes apart.
    """
    both = pl.concat([rows.train, rows.evaluation])
    labels = both["class_index"].to_numpy()
    if TABLE[job.source].is_permuted:
        ids, splits = both["sequence_id"].to_numpy(), both["split"].to_numpy()
        keeps_own = _has_non_memo(rows) and not TABLE[job.source].mark
        non_memo = 0 if keeps_own else None
        labels = permute_labels(ids, labels, splits, seed=job.control_seed, non_memo=non_memo)
    return labels[: rows.train.height].copy(), labels[rows.train.height :].copy()


def _has_non_memo(rows: SampleRows) -> bool:
    """False if Non-Memo was left out as too small; otherwise it is the first class."""
    return rows.classes[0] == NON_MEMO


def job_maps(study: Study, job: Job, rows: pl.DataFrame) -> MapSource:
    """A job's maps: from the model's or the reference's store, or from the tokens alone."""
    source = TABLE[job.source]
    if source.reads == "tokens":
        return blind_maps(shown_tokens(study.sequences, rows.select("sequence_id", "suffix")))
    seen = INPUTS[job.setting.pooling if job.setting else "mean"]
    roles = ["reference" if source.reads == "reference" else "model"]
    roles += ["reference"] if seen.is_of_two else []
    return seen.view_of(
        [stored_maps(study, role, rows, name) for role in roles for name in seen.reads]
    )


@dataclass(frozen=True)
class Outcome:
    """Results of a finished job.

    `predicted` are class indices, int64 (epochs, evaluation sequences), every epoch where the
    preset counts them all, else the last; `probabilities`, float32 (evaluation sequences, classes),
    are of the final weights.
    """

    predicted: np.ndarray
    probabilities: np.ndarray
    facts: TrainingFacts
    seconds: float


def cnn_store(study: Study) -> UnitStore:
    """Where trainings are kept, those of earlier settings too."""
    return UnitStore(study.folder / "cnn", study.owner)


def load_outcome(job: Job) -> Outcome:
    """Read the results of a finished job; errors as `Store.path`."""
    store = _store_of(job)
    tensors = load_file(store.path(job.key, f"{job.key}.outcome.safetensors"))
    said = store.record(job.key)["values"]
    return Outcome(
        predicted=tensors["predicted"].numpy().astype(np.int64),
        probabilities=tensors["probabilities"].numpy(),
        facts=TrainingFacts(**said["facts"]),
        seconds=said["seconds"],
    )


def trained_cnn(job: Job) -> TrainedCnn:
    """Read the CNN of a finished job; errors as `Store.path`."""
    return load_cnn(_store_of(job).path(job.key, job.cnn_path.name))


def _store_of(job: Job) -> Store:
    remedy = f"run 'mnemoscope train {job.study} --redo': the rest is kept"
    return Store(job.cnn_path.parent, remedy=lambda _: remedy)


def make_job(
    study: Study,
    sample: SampleKey,
    rows: SampleRows,
    source: str,
    setting: CnnSetting | None,
    seed: int,
    preset: str | None = None,
) -> Job:
    """Make a job with its key; `preset` defaults to that of the settings."""
    preset = preset or study.settings.train.preset
    control_seed = study.settings.benchmark.seed
    basis = [
        *rows.digests,
        rows.classes,
        source,
        _source_identity(study, source, setting),
        asdict(setting) if setting else None,
        asdict(PRESETS[preset]) if setting else None,
        seed,
        control_seed if TABLE[source].is_permuted else None,
    ]
    if TABLE[source].is_permuted and not _has_non_memo(rows):
        basis.append("all labels permuted")
    if mark := TABLE[source].mark:
        basis.append(f"mark {mark}")
    if TABLE[source].fit == "classify_statistics":
        basis.append([POOLINGS_READ, *ALL_STATISTICS])
    if setting and PRESETS[preset].scaling == "rows":
        basis.append([str(study.settings.sequences.n_prefix), *ROW_STATISTICS])
    wanted = study.settings.train
    device, precision = (wanted.device, wanted.precision) if setting else ("cpu", "float32")
    basis += [f"tokens {study.tokens}", device]
    if precision != "float32":
        basis.append(precision)
    key = hashlib.sha256(json.dumps(basis).encode()).hexdigest()[:20]
    of = (sample, source, setting, preset, seed, control_seed)
    return Job(str(study.folder), *of, key, device, precision)


def _source_identity(study: Study, source: str, setting: CnnSetting | None) -> list[str]:
    """What decides a source's maps or tokens apart from the rows; own suffixes need the model."""
    is_of_two = setting is not None and INPUTS[setting.pooling].is_of_two
    is_read = is_of_two or TABLE[source].needs_reference
    has_reference = is_read and "reference" in study.record["models"]
    roles = ("model", "reference") if has_reference else ("model",)
    return [" ".join(map(str, identity_of(study.record["models"][role]))) for role in roles]


def _digest(rows: pl.DataFrame) -> str:
    digest = hashlib.sha256(rows["sequence_id"].to_numpy().tobytes())
    digest.update(rows["class_index"].to_numpy().tobytes())
    digest.update(",".join(rows["suffix"]).encode())
    return digest.hexdigest()


def train_stage(study: Study, models: Models) -> None:  # noqa: ARG001 - all stages are called alike
    """Train what is missing, then collect all predictions and training figures.

    Writes `cnn/`, `predictions.parquet`, `runs.parquet` (one row a training) and `choice.parquet`.
    """
    with study.finishing("train") as counts:
        _check_inputs(study)
        jobs, choosing = list(jobs_of(study)), list(choice_jobs(study))
        _train_all(study, together(study, [*jobs, *choosing]))
        _gather(study, jobs)
        study.write(CHOICE_FILE, _chosen(study, choosing), CHOICE_COLUMNS)
        counts |= {"trainings": len(jobs), "choosing": len(choosing)}


def train_share(study: Study, models: Models, share: Share) -> None:  # noqa: ARG001
    """Train a share of what is missing."""
    _check_inputs(study)
    _train_all(study, share.of(together(study, [*jobs_of(study), *choice_jobs(study)])))


def _is_local() -> bool:
    """Whether trainings run on this machine, so that its devices count."""
    return isinstance(current_executor(), LocalExecutor)


def _check_inputs(study: Study) -> None:
    """Raise UserError where a stage before is missing or the device is not there."""
    study.require("label")
    study.require("capture")
    if _is_local():
        find_cnn_device(study.settings.train.device)
    for role in ("model", "reference"):
        for store in (role, heads_role(role)):
            if maps_folder(study, store).is_dir():
                open_maps(study, store, verify=True)  # every shard's checksum, once


def _train_all(study: Study, units: Sequence[Unit]) -> None:
    """Train what is missing, once the statistics that it reads are there."""
    store = cnn_store(study)
    jobs = [one for one in units if isinstance(one, Job)]  # a group has CNNs alone
    read = _statistics_units(study, [job for job in jobs if not store.has(job.key)])
    needs = Needs(study.settings.train.workers, threads=1)
    for _ in run_units(
        read, statistics_store(study), opened(study), label="Statistics of maps", needs=needs
    ):
        pass
    _run(study, units, "Training")


def run_jobs(study: Study, jobs: Sequence[Job], label: str) -> None:
    """Train what is missing of these, several at once; by default four share a GPU."""
    _run(study, together(study, jobs), label)


def _run(study: Study, units: Sequence[Unit], label: str) -> None:
    needs, noun = needs_of_cnns(study, study.settings.train.device), "CNNs and baselines"
    store = cnn_store(study)
    for _ in run_units(units, store, opened(study), label=label, noun=noun, needs=needs):
        pass
    _held.clear()  # of this process; others have ended


def needs_of_cnns(study: Study, device: str) -> Needs:
    """What units with a CNN on a device need of where they run."""
    processes = study.settings.train.workers
    if processes == 0 and _is_local() and find_cnn_device(device).type != "cpu":
        processes = min(n_processes(0), _MOST_ON_ACCELERATOR)
    gpus = current_executor().gpus(device) / _MOST_ON_ACCELERATOR
    return Needs(processes, threads=1, gpus=gpus)


def device_here(study: Study) -> str:
    """Where CNNs are asked: `train.device`, or the processor where this machine has no such."""
    wanted = study.settings.train.device
    if _is_local():
        try:
            find_cnn_device(wanted)
        except UserError as error:
            say(f"{error} What is trained already is asked on the processor.")
            return "cpu"
    return wanted


def opened(study: Study) -> Opened:
    """A study as the context of units: each process opens its own."""
    return Opened(partial(Study, study.folder))


def _statistics_units(study: Study, jobs: Sequence[Job]) -> list[Statistics]:
    """The statistics of maps that the jobs read, each once."""
    read = {
        TABLE[job.source].reads for job in jobs if TABLE[job.source].fit == "classify_statistics"
    }
    roles = sorted({_ROLES[one] for one in read})
    known = [one for one in roles if one == TOKENS or one in study.record["models"]]
    return [unit for role in known for unit in statistics_units(study, role)]


def _gather(study: Study, jobs: list[Job]) -> None:
    """Write one long table of predictions and one row per training."""
    first = {(job.sample, job.fold): job for job in reversed(jobs)}
    rows_of = {place: job_rows(study, job) for place, job in first.items()}
    predictions, runs = [], []
    for job in jobs:
        outcome, rows = load_outcome(job), rows_of[job.sample, job.fold]
        names = {
            **job.sample._asdict(),
            "source": job.source,
            **job.setting_columns,
            "seed": job.seed,
        }
        n_epochs, n_rows = outcome.predicted.shape
        epochs = np.arange(n_epochs) if n_epochs > 1 else np.array([-1])
        probabilities = pl.Series(outcome.probabilities.tolist(), dtype=pl.List(pl.Float32))
        columns = {
            "epoch": np.repeat(epochs.astype(np.int64), n_rows),
            "sequence_id": np.tile(rows.evaluation["sequence_id"].to_numpy(), n_epochs),
            "true": np.tile(job_labels(job, rows)[1], n_epochs),
            "predicted": outcome.predicted.ravel(),
            "probabilities": pl.concat([probabilities] * n_epochs),
        }
        seeds = np.full(n_epochs * n_rows, job.seed, dtype=np.int64)
        table = pl.DataFrame(names | {"seed": seeds} | columns, schema_overrides=SETTING)
        predictions.append(table)
        facts = {"n_train": rows.train.height, **vars(outcome.facts), "key": job.key}
        runs.append(names | facts)
    study.write(PREDICTIONS_FILE, pl.concat(predictions), PREDICTION_COLUMNS)
    trainings = pl.DataFrame(runs, schema_of(TRAINING_COLUMNS), orient="row")
    study.write(RUNS_FILE, _of_all_folds(trainings), TRAINING_COLUMNS)


def _of_all_folds(runs: pl.DataFrame) -> pl.DataFrame:
    """Merge folds into a row a source, setting and seed: sizes added, figures averaged."""
    return runs.group_by(RUN_KEY, maintain_order=True).agg(
        pl.col("n_train").mean().round().cast(pl.Int64),
        pl.col("device").first(),
        pl.col("train_min_f1").mean(),
        pl.col("did_train").all(),
        pl.col("key").str.join(" "),
    )


def _chosen(study: Study, jobs: list[Job]) -> pl.DataFrame:
    """Min-F1 of each reader of each taxonomy over the folds of its training rows, summed."""
    confusions: dict[tuple[str, str], np.ndarray] = {}
    for job in jobs:
        rows = job_rows(study, job)
        predicted, n_classes = load_outcome(job).predicted, len(rows.classes)
        one = confusion_matrix(job_labels(job, rows)[1], predicted, n_classes)
        key = job.sample.taxonomy, job.source
        confusions[key] = confusions[key] + one if key in confusions else one
    return pl.DataFrame(
        [(*key, min_f1(one)) for key, one in confusions.items()],
        schema=schema_of(CHOICE_COLUMNS),
        orient="row",
    )
