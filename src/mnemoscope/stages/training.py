"""Stage `train`: every CNN and baseline that the settings ask for; finished ones are kept.

Several train at once, one process a core, each with one thread: the same numbers either way.
"""

from typing import Any

import numpy as np
import polars as pl

from mnemoscope.engine import current_engine, run_tasks
from mnemoscope.engine.local import n_workers
from mnemoscope.lm.device import find_device
from mnemoscope.maps.store import MapStore
from mnemoscope.progress import track
from mnemoscope.stages.capture import heads_role, maps_folder
from mnemoscope.stages.jobs import (
    Job,
    Outcome,
    SampleRows,
    is_finished,
    jobs_of,
    load_outcome,
    run_job,
    sample_rows,
    true_labels,
)
from mnemoscope.stages.models import Models
from mnemoscope.stages.spread import gpus_for
from mnemoscope.study import SETTINGS_FILE, Study

__all__ = ["PREDICTIONS_FILE", "RUNS_FILE", "train_stage", "training_gpus"]

PREDICTIONS_FILE = "predictions.parquet"
RUNS_FILE = "runs.parquet"

_MOST_ON_ACCELERATOR = 4


def train_stage(study: Study, models: Models) -> None:  # noqa: ARG001 - all stages are called alike
    """Train what is missing, then gather predictions and training figures of all.

    Writes `cnn/`, `predictions.parquet` (taxonomy, source, setting, seed, epoch, sequence_id,
    true, predicted, probabilities) and `runs.parquet` (one row a training).
    """
    study.require("label")
    study.require("capture")
    with study.finishing("train") as counts:
        jobs = list(jobs_of(study))
        (study.folder / "cnn").mkdir(exist_ok=True)
        _check_maps(study)
        todo = [job for job in jobs if not is_finished(job)]
        workers = _n_processes(study)
        with track("Training", total=len(jobs), unit="CNNs and baselines") as progress:
            progress.advance(len(jobs) - len(todo))
            for _ in run_tasks(run_job, todo, workers=workers, gpus=training_gpus(study)):
                progress.advance()
        _gather(study, jobs)
        counts |= {"trainings": len(jobs)}


def _n_processes(study: Study) -> int:
    """Processes that train at once; an accelerator is shared by four, unless more are asked for.

    Raises:
        UserError: no such device here.
    """
    wanted = study.settings.train
    if current_engine().is_cluster:
        return wanted.workers
    workers = n_workers(wanted.workers)
    if find_device(wanted.device).type == "cpu" or wanted.workers:
        return workers
    return min(workers, _MOST_ON_ACCELERATOR)


def training_gpus(study: Study) -> float:
    """Share of an accelerator that a training on a cluster is given; checks what it reads.

    Raises:
        UserError: a machine of the cluster does not see the study.
    """
    engine, device = current_engine(), study.settings.train.device
    engine.check_sees(study.folder / SETTINGS_FILE)
    return gpus_for(device, engine) / _MOST_ON_ACCELERATOR


def _check_maps(study: Study) -> None:
    """Compare every shard with its checksum once, before anything is learned from it."""
    for role in ("model", "reference"):
        for folder in (maps_folder(study, role), maps_folder(study, heads_role(role))):
            if folder.is_dir():
                MapStore(folder)


def _gather(study: Study, jobs: list[Job]) -> None:
    """One long table of predictions and one row a training."""
    samples = {job.sample: sample_rows(study, job.sample) for job in jobs}
    predictions, runs = [], []
    for job in jobs:
        outcome, rows = load_outcome(job), samples[job.sample]
        predictions.append(_predictions(job, outcome, rows))
        runs.append(_run(job, outcome, rows))
    study.write(PREDICTIONS_FILE, pl.concat(predictions))
    study.write(RUNS_FILE, pl.DataFrame(runs))


def _predictions(job: Job, outcome: Outcome, rows: SampleRows) -> pl.DataFrame:
    """A job's predictions, one row an epoch and sequence."""
    n_epochs, n_rows = outcome.predicted.shape
    epochs = np.arange(n_epochs) if n_epochs > 1 else np.array([-1])
    probabilities = pl.Series(outcome.probabilities.tolist(), dtype=pl.List(pl.Float32))
    return pl.DataFrame(
        {
            "taxonomy": job.sample,
            "source": job.source,
            "setting": job.setting_name,
            "seed": np.full(n_epochs * n_rows, job.seed, dtype=np.int64),
            "epoch": np.repeat(epochs.astype(np.int64), n_rows),
            "sequence_id": np.tile(rows.evaluation["sequence_id"].to_numpy(), n_epochs),
            "true": np.tile(true_labels(job, rows), n_epochs),
            "predicted": outcome.predicted.ravel(),
            "probabilities": pl.concat([probabilities] * n_epochs),
        }
    )


def _run(job: Job, outcome: Outcome, rows: SampleRows) -> dict[str, Any]:
    """A job's row in the table of trainings; its seconds stand in `cnn/`, by its key."""
    return {
        "taxonomy": job.sample,
        "source": job.source,
        "setting": job.setting_name,
        "seed": job.seed,
        "n_train": rows.train.height,
        "n_eval": rows.evaluation.height,
        "device": "cpu",  # a baseline's, and a CNN's of a study without the setting
        **outcome.facts,
        "key": job.key,
    }
