"""The dearer rungs of a search: CNNs on the attention, the text and the reference's attention.

They are jobs as any study's, kept in `cnn/` by the hash of what decides them. A CNN is asked about
selection and final part at once; the answers about the final part are read in the end, and only
those of the finalists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mnemoscope.benchmark.votes import Votes
from mnemoscope.engine import run_tasks
from mnemoscope.progress import track
from mnemoscope.stages.jobs import (
    Job,
    Outcome,
    SampleRows,
    is_finished,
    load_outcome,
    make_job,
    run_job_on,
)
from mnemoscope.stages.search_rows import Candidate, has_reference
from mnemoscope.stages.training import training_gpus
from mnemoscope.stages.training_count import BASELINES, settings_of
from mnemoscope.study import Study

__all__ = ["Rung", "SearchTask", "collect", "run_search_task", "train"]


@dataclass(frozen=True)
class Rung:
    """How much a candidate is given.

    Attributes:
        name: what it is called in `search.parquet`.
        preset: of the CNNs.
        seeds: one CNN each.
    """

    name: str
    preset: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class SearchTask:
    """A job and its rows, as they are sent to another process."""

    job: Job
    rows: SampleRows


def run_search_task(task: SearchTask) -> str:
    """Run one job; returns its key.

    Args:
        task: from `train`.
    """
    return run_job_on(Study(task.job.study), task.job, task.rows)


def train(study: Study, candidates: Sequence[Candidate], rung: Rung) -> None:
    """Train what is missing of these candidates, several at once.

    Args:
        study: with maps of all their rows.
        candidates: of one rung.
        rung: how they are trained.

    Raises:
        MnemoscopeError: maps missing or damaged, no room; what is finished is kept.
    """
    (study.folder / "cnn").mkdir(exist_ok=True)
    tasks = [
        SearchTask(job, candidate.rows)
        for candidate in candidates
        for job in _jobs(study, candidate, rung)
    ]
    todo = [task for task in tasks if not is_finished(task.job)]
    workers, gpus = study.settings.train.workers, training_gpus(study)
    with track(f"Searching ({rung.name})", total=len(tasks), unit="CNNs and baselines") as progress:
        progress.advance(len(tasks) - len(todo))
        for _ in run_tasks(run_search_task, todo, workers=workers, gpus=gpus):
            progress.advance()


def collect(study: Study, candidate: Candidate, rung: Rung, part: str) -> dict[str, Votes]:
    """What the trainings of one candidate said of one part.

    Args:
        study: the study.
        candidate: whose trainings are finished.
        rung: how it was trained.
        part: `select` or `final`.

    Returns:
        Votes by source, of the trainings that left chance; a source without any is left out.
    """
    evaluation = candidate.rows.evaluation
    inside = (evaluation["part"] == part).to_numpy()
    found: dict[str, list[tuple[int, Outcome]]] = {}
    for job in _jobs(study, candidate, rung):
        outcome = load_outcome(job)
        if outcome.facts["did_train"]:
            found.setdefault(job.source, []).append((job.seed, outcome))
    rows = evaluation.filter(pl.Series(inside))
    return {source: _votes(runs, inside, rows) for source, runs in found.items()}


def _votes(runs: list[tuple[int, Outcome]], inside: np.ndarray, rows: pl.DataFrame) -> Votes:
    """Put the trainings of one source together; epochs are runs of one training."""
    scores = np.stack([outcome.probabilities[inside] for _, outcome in runs])
    return Votes(
        sequence_ids=rows["sequence_id"].to_numpy(),
        true=rows["class_index"].to_numpy(),
        predicted=np.concatenate([outcome.predicted[:, inside] for _, outcome in runs]),
        seeds=np.concatenate([np.full(len(outcome.predicted), seed) for seed, outcome in runs]),
        n_classes=scores.shape[2],
        probabilities=scores.mean(axis=0, dtype=np.float64),
        scores=scores.astype(np.float32),
        score_seeds=np.array([seed for seed, _ in runs]),
    )


def _jobs(study: Study, candidate: Candidate, rung: Rung) -> list[Job]:
    """The trainings of one candidate, in order."""
    sources = ["model", "blind", "ngram", *(["reference"] if has_reference(study) else [])]
    return [
        make_job(
            study,
            candidate.taxonomy.name,
            candidate.rows,
            source,
            settings_of(study.settings, source)[0],
            seed,
            rung.preset,
        )
        for source in sources
        for seed in (rung.seeds[:1] if source in BASELINES else rung.seeds)
    ]
