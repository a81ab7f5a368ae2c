"""Stage `benchmark`: score every taxonomy beside its controls and beside the published figures."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from mnemoscope.benchmark.inputs import score_inputs
from mnemoscope.benchmark.table import score_benchmark
from mnemoscope.engine import current_engine, run_tasks
from mnemoscope.progress import track
from mnemoscope.stages.compare import compare_study, write_comparison
from mnemoscope.stages.labels import samples_of
from mnemoscope.stages.models import Models
from mnemoscope.stages.training import PREDICTIONS_FILE, RUNS_FILE
from mnemoscope.study import Study

__all__ = ["BENCHMARK_FILE", "INPUTS_FILE", "ScoreTask", "benchmark_stage", "score_taxonomy"]

BENCHMARK_FILE = "benchmark.parquet"
INPUTS_FILE = "inputs.parquet"


@dataclass(frozen=True)
class ScoreTask:
    """One taxonomy to score, as it is sent to where the work runs.

    Attributes:
        place: among the study's taxonomies.
        predictions: its own, see `score_benchmark`.
        runs: its own trainings.
        classes: its name and class names.
        options: of `score_benchmark`, the same for all.
    """

    place: int
    predictions: pl.DataFrame
    runs: pl.DataFrame
    classes: dict[str, list[str]]
    options: dict[str, Any]


def score_taxonomy(task: ScoreTask) -> tuple[int, pl.DataFrame, pl.DataFrame]:
    """Score one taxonomy: its place, its rows of the benchmark, and of each input alone."""
    known = task.predictions, task.runs, task.classes
    frame = score_benchmark(*known, **task.options)
    return task.place, frame, score_inputs(*known, whole=frame, **task.options)


def benchmark_stage(study: Study, models: Models) -> None:  # noqa: ARG001 - all are called alike
    """Write `benchmark.parquet` (see `benchmark.columns`), `inputs.parquet`, `comparison.parquet`.

    `inputs.parquet` is the first once more for each input of the CNNs alone. With the last stands
    `conclusions.json`: rank correlations and the paper's conclusions.
    """
    study.require("train")
    settings = study.settings.benchmark
    with study.finishing("benchmark") as counts:
        runs = study.read(RUNS_FILE)
        options: dict[str, Any] = {
            "n_resamples": settings.n_resamples,
            "seed": settings.seed,
            "control_settings": _control_settings(runs),
        }
        frame, inputs = _score(list(_tasks(study, runs, options)))
        study.write(INPUTS_FILE, inputs)
        study.write(BENCHMARK_FILE, frame)
        write_comparison(study, compare_study(study, frame))
        counts["rows"] = frame.height


def _tasks(study: Study, runs: pl.DataFrame, options: dict[str, Any]) -> Iterator[ScoreTask]:
    """One task a taxonomy that was trained."""
    predictions = study.read(PREDICTIONS_FILE)
    possible = {name: one for name, one in samples_of(study).items() if "impossible" not in one}
    for place, (name, entry) in enumerate(possible.items()):
        own = [frame.filter(pl.col("taxonomy") == name) for frame in (predictions, runs)]
        yield ScoreTask(place, own[0], own[1], {name: entry["trained_classes"]}, options)


def _score(tasks: list[ScoreTask]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tables of benchmark and inputs; here one after the other, on a cluster side by side."""
    workers = 0 if current_engine().is_cluster else 1
    found = []
    with track("Scoring", total=len(tasks), unit="taxonomies") as progress:
        for scored in run_tasks(score_taxonomy, tasks, workers=workers):
            found.append(scored)
            progress.advance()
    found.sort(key=lambda scored: scored[0])
    frame = pl.concat((scored[1] for scored in found), rechunk=True)
    return frame, pl.concat((scored[2] for scored in found), rechunk=True)


def _control_settings(runs: pl.DataFrame) -> list[str] | None:
    """Settings that the controls were trained with; None where none were."""
    found = runs.filter(pl.col("source") == "control")["setting"].unique(maintain_order=True)
    return found.to_list() or None
