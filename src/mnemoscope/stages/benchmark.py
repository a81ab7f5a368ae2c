"""Stage `benchmark`: score every taxonomy beside its controls and beside the published figures."""

from typing import Any

import polars as pl

from mnemoscope.benchmark.inputs import score_inputs
from mnemoscope.benchmark.table import score_benchmark
from mnemoscope.stages.compare import compare_study, write_comparison
from mnemoscope.stages.labels import samples_of
from mnemoscope.stages.models import Models
from mnemoscope.stages.training import PREDICTIONS_FILE, RUNS_FILE
from mnemoscope.study import Study

__all__ = ["BENCHMARK_FILE", "INPUTS_FILE", "benchmark_stage"]

BENCHMARK_FILE = "benchmark.parquet"
INPUTS_FILE = "inputs.parquet"


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
        classes = {
            sample: entry["trained_classes"]
            for sample, entry in samples_of(study).items()
            if "impossible" not in entry
        }
        predictions = study.read(PREDICTIONS_FILE)
        frame = score_benchmark(predictions, runs, classes, **options)
        study.write(INPUTS_FILE, score_inputs(predictions, runs, classes, whole=frame, **options))
        study.write(BENCHMARK_FILE, frame)
        write_comparison(study, compare_study(study, frame))
        counts["rows"] = frame.height


def _control_settings(runs: pl.DataFrame) -> list[str] | None:
    """Settings that the controls were trained with; None where none were."""
    found = runs.filter(pl.col("source") == "control")["setting"].unique(maintain_order=True)
    return found.to_list() or None
