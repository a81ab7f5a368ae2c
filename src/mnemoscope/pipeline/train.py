"""Stage `train`: train every CNN and baseline of the settings; finished ones are kept.

Several train at once, each in a process with one thread; the numbers do not depend on this.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mnemoscope.benchmark import baselines
from mnemoscope.benchmark.baselines import (
    ALL_STATISTICS,
    BaselineFit,
    all_statistics,
    blind_maps,
    permute_labels,
)
from mnemoscope.benchmark.sources import TABLE
from mnemoscope.cluster.engine import current_engine, gpus_for, n_workers, run_tasks
from mnemoscope.cnn.files import save_cnn
from mnemoscope.cnn.presets import OF_TWO_MODELS, PRESETS, CnnSetting
from mnemoscope.cnn.training import TrainedCnn, predict_logits, train_cnn
from mnemoscope.errors import DamagedDataError
from mnemoscope.files import write_bytes, write_text
from mnemoscope.lm.placement import find_device
from mnemoscope.maps.store import MapStore
from mnemoscope.maps.views import (
    DifferenceMaps,
    MapSource,
    MarkedMaps,
    PaintedMaps,
    Pooling,
    StackedMaps,
)
from mnemoscope.pipeline.capture import (
    LOGPROBS_FILE,
    NEXT_FILE,
    heads_role,
    maps_folder,
    shown_tokens,
)
from mnemoscope.pipeline.label import SAMPLES_FILE, aliases_of, samples_of
from mnemoscope.pipeline.trainings import (
    check_inputs,
    controlled_taxonomies,
    seeds_of,
    settings_of,
    sources_of,
)
from mnemoscope.progress import track
from mnemoscope.study.folder import SETTINGS_FILE, Study
from mnemoscope.study.models import Models, reference_name
from mnemoscope.taxonomy.names import NON_MEMO

PREDICTIONS_FILE = "predictions.parquet"
RUNS_FILE = "runs.parquet"
_MOST_ON_ACCELERATOR = 4
_FACTS = ("loss", "train_balanced_accuracy", "train_min_f1", "p_value", "did_train")


@dataclass(frozen=True)
class Job:
    """One CNN or baseline (without a setting) to train, as sent to another process.

    Attributes:
        source: what it reads, one of `benchmark.sources.SOURCES`.
        key: hash of everything that decides the result.
    """

    study: str
    sample: str
    source: str
    setting: CnnSetting | None
    preset: str
    seed: int
    control_seed: int
    key: str
    device: str = "cpu"

    @property
    def cnn_path(self) -> Path:
        """The trained weights of a CNN."""
        return Path(self.study) / "cnn" / f"{self.key}.safetensors"

    @property
    def outcome_path(self) -> Path:
        """Predictions and training figures; written last, so if it exists the job is done."""
        return Path(self.study) / "cnn" / f"{self.key}.outcome.safetensors"

    @property
    def setting_name(self) -> str:
        """The setting's name in tables, for example `k6-f10-mean`."""
        return self.setting.slug if self.setting else "-"


@dataclass(frozen=True)
class SampleRows:
    """A sample's training and evaluation rows, and its class names in order."""

    train: pl.DataFrame
    evaluation: pl.DataFrame
    classes: tuple[str, ...]


def sample_rows(study: Study, sample: str) -> SampleRows:
    """Rows of one sample, in the order in which they were drawn."""
    rows = study.read(SAMPLES_FILE).filter(pl.col("sample") == sample)
    return SampleRows(
        train=rows.filter(pl.col("split") == "train"),
        evaluation=rows.filter(pl.col("split") == "eval"),
        classes=tuple(samples_of(study)[sample]["trained_classes"]),
    )


def jobs_of(study: Study) -> Iterator[Job]:
    """Every training of the settings, by sample, source, setting and seed.

    Raises:
        UserError: an input was not captured, or controls name an unknown taxonomy.
    """
    settings = study.settings
    has_reference = reference_name(settings) is not None
    check_inputs(settings, has_reference)
    controlled = controlled_taxonomies(settings)
    if controlled is not None:
        aliases = aliases_of(study)
        controlled = {aliases[name].of if name in aliases else name for name in controlled}
    for sample, entry in samples_of(study).items():
        if "impossible" in entry:
            continue
        rows = sample_rows(study, sample)
        is_controlled = controlled is None or entry["taxonomy"] in controlled
        for source in sources_of(settings, has_reference, is_controlled=is_controlled):
            if TABLE[source].reads == "painted" and not (study.folder / NEXT_FILE).is_file():
                continue  # an earlier version captured
            for setting in settings_of(settings, source):
                for seed in seeds_of(settings, source):
                    yield make_job(study, sample, rows, source, setting, seed)


def run_job(job: Job) -> str:
    """Train, predict the evaluation sequences and write both; returns the job's key."""
    study = Study(job.study)
    return run_job_on(study, job, sample_rows(study, job.sample))


def run_job_on(study: Study, job: Job, rows: SampleRows) -> str:
    """Run a job on rows that are not a sample of the label stage; see `run_job`."""
    tensors, facts = (_fit_baseline if job.setting is None else _train)(study, job, rows)
    # Seconds are stored separately, because the outcome is the same in every run.
    write_text(job.outcome_path.with_suffix(".seconds"), f"{facts.pop('seconds'):.3f}\n")
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(job.outcome_path, save(whole, metadata={"facts": json.dumps(facts)}))
    return job.key


def _train(
    study: Study, job: Job, rows: SampleRows
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Train one CNN and write its weights; returns predictions and training figures."""
    assert job.setting is not None
    labels, true = (torch.from_numpy(one) for one in _labels(job, rows))
    training, evaluation = (job_maps(study, job, part) for part in (rows.train, rows.evaluation))
    if mark := TABLE[job.source].mark:
        training, evaluation = (
            MarkedMaps(maps, classes, mark)
            for maps, classes in ((training, labels), (evaluation, true))
        )
    predicted: list[torch.Tensor] = []
    device = find_device(job.device)

    def after_epoch(_: int, trained: TrainedCnn) -> None:
        if PRESETS[job.preset].scores_every_epoch:
            predicted.append(predict_logits(trained, evaluation).argmax(dim=1))

    trained = train_cnn(
        training,
        labels,
        n_classes=len(rows.classes),
        setting=job.setting,
        preset=PRESETS[job.preset],
        seed=job.seed,
        on_epoch=after_epoch,
        device=device,
    )
    logits = predict_logits(trained, evaluation)
    save_cnn(job.cnn_path, trained)
    tensors = {
        "predicted": torch.stack(predicted or [logits.argmax(dim=1)]).to(torch.int16),
        "probabilities": logits.softmax(dim=1),
    }
    history = trained.history
    facts = {"loss": history.loss[-1]} | {name: getattr(history, name) for name in _FACTS[1:]}
    return tensors, facts | {"device": str(device), "seconds": trained.seconds}


def _fit_baseline(
    study: Study, job: Job, rows: SampleRows
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Fit a baseline's regression or boosting; the outcome is like a CNN's."""
    train, evaluation = (_inputs(study, job, part) for part in (rows.train, rows.evaluation))
    fit = getattr(baselines, TABLE[job.source].fit or "")
    found: BaselineFit = fit(train, rows.train["class_index"].to_numpy(), evaluation, job.seed)
    tensors = {
        "predicted": torch.from_numpy(found.predicted[None].astype(np.int16)),
        "probabilities": torch.from_numpy(found.probabilities.astype(np.float32)),
    }
    return tensors, {name: getattr(found, name) for name in (*_FACTS, "seconds")}


def _inputs(study: Study, job: Job, rows: pl.DataFrame) -> np.ndarray:
    """A baseline's input for each row, shape (rows, columns)."""
    reads = TABLE[job.source].reads
    if reads == "logprobs":
        joined = rows.select("sequence_id").join(
            study.read(LOGPROBS_FILE), on="sequence_id", how="left", maintain_order="left"
        )
        return np.stack(joined["logprobs"].to_list()).astype(np.float32)
    tokens = shown_tokens(study.sequences, rows)
    return tokens if reads == "tokens" else all_statistics(job_maps(study, job, rows), tokens)


def _labels(job: Job, rows: SampleRows) -> tuple[np.ndarray, np.ndarray]:
    """Class indices of training and evaluation rows, int64; permuted for the control task.

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


def true_labels(job: Job, rows: SampleRows) -> np.ndarray:
    """The true classes for a job's predictions, int64 (evaluation sequences,)."""
    return _labels(job, rows)[1]


def job_maps(study: Study, job: Job, rows: pl.DataFrame) -> MapSource:
    """A job's maps: from the model's or the reference's store, or from the tokens alone."""
    source = TABLE[job.source]
    if source.reads == "tokens":
        return blind_maps(shown_tokens(study.sequences, rows.select("sequence_id", "suffix")))
    if source.reads == "painted":
        below = job_maps(study, replace(job, source="reference"), rows)
        return PaintedMaps(below, _next_logprobs(study, rows))
    role = "reference" if source.reads == "reference" else "model"
    pooling = job.setting.pooling if job.setting else "mean"
    if pooling == "both":
        mean, largest = _stored(study, role, rows, "mean"), _stored(study, role, rows, "max")
        return StackedMaps(mean, largest)
    if pooling == "difference":
        model, reference = (_stored(study, one, rows, "mean") for one in ("model", "reference"))
        return DifferenceMaps(model, reference)
    return _stored(study, heads_role(role) if pooling == "heads" else role, rows, pooling)


def _next_logprobs(study: Study, rows: pl.DataFrame) -> torch.Tensor:
    """The model's log-probabilities of every shown token but the first, (rows, T - 1)."""
    keys = ["sequence_id", "suffix"]
    found = rows.select(keys).join(
        study.read(NEXT_FILE), on=keys, how="left", maintain_order="left"
    )
    return torch.from_numpy(np.stack(found["logprobs"].to_list()).astype(np.float32))


def _stored(study: Study, role: str, rows: pl.DataFrame, tensor: Pooling) -> MapSource:
    """One tensor of the stored maps of these rows."""
    store = MapStore(maps_folder(study, role), verify=False)
    return store.dataset(rows["sequence_id"].to_numpy(), rows["suffix"].to_list(), tensor)


@dataclass(frozen=True)
class Outcome:
    """Results of a finished job.

    Attributes:
        predicted: class indices, int64 (epochs, evaluation sequences); one epoch but for `paper`.
        probabilities: float32 (evaluation sequences, classes), of the final weights.
        facts: `_FACTS`, and a CNN's device.
    """

    predicted: np.ndarray
    probabilities: np.ndarray
    facts: dict[str, Any]
    seconds: float


def load_outcome(job: Job) -> Outcome:
    """Read the results of a finished job.

    Raises:
        DamagedDataError: the file cannot be read.
    """
    try:
        with safe_open(job.outcome_path, framework="np") as file:
            return Outcome(
                predicted=file.get_tensor("predicted").astype(np.int64),
                probabilities=file.get_tensor("probabilities"),
                facts=json.loads(file.metadata()["facts"]),
                seconds=float(job.outcome_path.with_suffix(".seconds").read_text()),
            )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedDataError(
            f"{job.outcome_path}: damaged ({type(error).__name__}). Delete it and run "
            f"'mnemoscope train {job.study} --redo': it is trained again, the rest is kept."
        ) from None


def is_finished(job: Job) -> bool:
    """True if the job's outcome (written last) and its CNN exist."""
    return job.outcome_path.is_file() and (job.setting is None or job.cnn_path.is_file())


def make_job(
    study: Study,
    sample: str,
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
        _digest(rows.train),
        _digest(rows.evaluation),
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
    if source == "statistics":
        basis.append(ALL_STATISTICS)
    device = study.settings.train.device if setting else "cpu"
    if device != "cpu":  # keys of earlier studies, all on cpu, lack this entry
        basis.append(device)
    key = hashlib.sha256(json.dumps(basis).encode()).hexdigest()[:20]
    return Job(str(study.folder), sample, source, setting, preset, seed, control_seed, key, device)


def _source_identity(study: Study, source: str, setting: CnnSetting | None) -> list[str]:
    """What decides a source's maps or tokens apart from the rows; own suffixes need the model."""
    is_of_two = setting is not None and setting.pooling in OF_TWO_MODELS
    has_reference = is_of_two or TABLE[source].needs_reference
    roles = ("model", "reference") if has_reference else ("model",)
    models = [study.record["models"][role] for role in roles]
    return [
        f"{facts['fingerprint']} {facts['dtype']} {facts['device']} {facts['bos_id']}"
        for facts in models
    ]


def _digest(rows: pl.DataFrame) -> str:
    """Hash of ids, classes and shown suffixes, in order."""
    digest = hashlib.sha256(rows["sequence_id"].to_numpy().tobytes())
    digest.update(rows["class_index"].to_numpy().tobytes())
    digest.update(",".join(rows["suffix"]).encode())
    return digest.hexdigest()


def train_stage(study: Study, models: Models) -> None:  # noqa: ARG001 - all stages are called alike
    """Train what is missing, then collect all predictions and training figures.

    Writes `cnn/`, `predictions.parquet` (taxonomy, source, setting, seed, epoch, sequence_id,
    true, predicted, probabilities) and `runs.parquet` (one row per training).
    """
    study.require("label")
    study.require("capture")
    with study.finishing("train") as counts:
        jobs = list(jobs_of(study))
        (study.folder / "cnn").mkdir(exist_ok=True)
        for role in ("model", "reference"):
            for folder in (maps_folder(study, role), maps_folder(study, heads_role(role))):
                if folder.is_dir():
                    MapStore(folder)  # verifies every shard's checksum once
        todo = [job for job in jobs if not is_finished(job)]
        workers = _n_processes(study)
        with track("Training", total=len(jobs), unit="CNNs and baselines") as progress:
            progress.advance(len(jobs) - len(todo))
            for _ in run_tasks(run_job, todo, workers=workers, gpus=training_gpus(study)):
                progress.advance()
        _gather(study, jobs)
        counts |= {"trainings": len(jobs)}


def _n_processes(study: Study) -> int:
    """Number of processes that train at once; by default four share a GPU.

    Raises:
        UserError: the device does not exist here.
    """
    wanted = study.settings.train
    if current_engine().is_cluster:
        return wanted.workers
    workers = n_workers(wanted.workers)
    if find_device(wanted.device).type == "cpu" or wanted.workers:
        return workers
    return min(workers, _MOST_ON_ACCELERATOR)


def training_gpus(study: Study) -> float:
    """A training's share of a GPU on a cluster; UserError if a machine does not see the study."""
    engine, device = current_engine(), study.settings.train.device
    engine.check_sees(study.folder / SETTINGS_FILE)
    return gpus_for(device, engine) / _MOST_ON_ACCELERATOR


def _gather(study: Study, jobs: list[Job]) -> None:
    """Write one long table of predictions and one row per training."""
    samples = {job.sample: sample_rows(study, job.sample) for job in jobs}
    predictions, runs = [], []
    for job in jobs:
        outcome, rows = load_outcome(job), samples[job.sample]
        names = {
            "taxonomy": job.sample,
            "source": job.source,
            "setting": job.setting_name,
            "seed": job.seed,
        }
        n_epochs, n_rows = outcome.predicted.shape
        epochs = np.arange(n_epochs) if n_epochs > 1 else np.array([-1])
        probabilities = pl.Series(outcome.probabilities.tolist(), dtype=pl.List(pl.Float32))
        columns = {
            "epoch": np.repeat(epochs.astype(np.int64), n_rows),
            "sequence_id": np.tile(rows.evaluation["sequence_id"].to_numpy(), n_epochs),
            "true": np.tile(true_labels(job, rows), n_epochs),
            "predicted": outcome.predicted.ravel(),
            "probabilities": pl.concat([probabilities] * n_epochs),
        }
        seeds = np.full(n_epochs * n_rows, job.seed, dtype=np.int64)
        predictions.append(pl.DataFrame(names | {"seed": seeds} | columns))
        sizes = {"n_train": rows.train.height, "n_eval": rows.evaluation.height}
        # Baselines are fitted on the CPU.
        runs.append(names | sizes | {"device": "cpu"} | outcome.facts | {"key": job.key})
    study.write(PREDICTIONS_FILE, pl.concat(predictions))
    study.write(RUNS_FILE, pl.DataFrame(runs))
