"""Stage `benchmark`: score every taxonomy beside its controls."""

from mnemoscope.benchmark.table import score_benchmark
from mnemoscope.progress import say
from mnemoscope.stages.labels import samples_of
from mnemoscope.stages.models import Models
from mnemoscope.stages.training import PREDICTIONS_FILE, RUNS_FILE
from mnemoscope.study import Study

__all__ = ["BENCHMARK_FILE", "benchmark_stage"]

BENCHMARK_FILE = "benchmark.parquet"


def benchmark_stage(study: Study, models: Models) -> None:  # noqa: ARG001 - all are called alike
    """Write `benchmark.parquet`: one row a sample and source (see `benchmark.columns`)."""
    study.require("train")
    settings = study.settings.benchmark
    with study.finishing("benchmark") as counts:
        frame = score_benchmark(
            study.read(PREDICTIONS_FILE),
            study.read(RUNS_FILE),
            {
                sample: entry["trained_classes"]
                for sample, entry in samples_of(study).items()
                if "impossible" not in entry
            },
            n_resamples=settings.n_resamples,
            seed=settings.seed,
        )
        study.write(BENCHMARK_FILE, frame)
        counts["rows"] = frame.height
    for row in frame.filter(frame["source"] == "model").iter_rows(named=True):
        say(f"{row['taxonomy']}: {row['verdict'] or 'no controls were run'}")
