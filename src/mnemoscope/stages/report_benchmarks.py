"""The benchmark of one taxonomy as the report wants it: each sample with its rows and runs."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.cnn.metrics import confusion_matrix, scores
from mnemoscope.cnn.presets import PRESETS
from mnemoscope.report.content import (
    Benchmark,
    BenchmarkRow,
    CnnFacts,
    CnnRun,
    Estimate,
    Excess,
    MatchedScores,
)
from mnemoscope.stages.benchmark import BENCHMARK_FILE
from mnemoscope.stages.labels import samples_of
from mnemoscope.stages.training import PREDICTIONS_FILE, RUNS_FILE
from mnemoscope.study import Study

__all__ = ["benchmarks_of"]

_NO_ESTIMATE = Estimate(None)


def benchmarks_of(study: Study, taxonomy: str) -> Iterator[Benchmark]:
    """Every sample of a taxonomy: as drawn first, then the repetitions.

    Args:
        study: with the benchmark stage done.
        taxonomy: its name.
    """
    table = study.read(BENCHMARK_FILE)
    for sample, entry in samples_of(study).items():
        if entry["taxonomy"] != taxonomy:
            continue
        if "impossible" in entry:
            if sample != taxonomy:  # an impossible taxonomy says so itself
                yield Benchmark(
                    title=entry["title"], note=entry["note"], impossible=entry["impossible"]
                )
            continue
        rows = table.filter(pl.col("taxonomy") == sample).to_dicts()
        yield _benchmark(study, sample, entry, rows)


def _benchmark(
    study: Study, sample: str, entry: dict[str, Any], rows: list[dict[str, Any]]
) -> Benchmark:
    """One sample's rows, excess, matched figures and trainings."""
    model = next((row for row in rows if row["source"] == "model"), None)
    runs = study.read(RUNS_FILE).filter(pl.col("taxonomy") == sample)
    seconds = _seconds(study, runs)
    n_classes = len(entry["trained_classes"])
    confusion = model["confusion"] if model else None
    return Benchmark(
        title=entry["title"],
        note=entry["note"],
        rows=tuple(_row(row, seconds.get(row["source"]), n_classes) for row in rows),
        excess=_excess(model),
        matched=_matched(model, n_classes),
        confusion=None if confusion is None else np.array(confusion, dtype=np.int64),
        cnn=_cnn(study, sample, runs, n_classes),
    )


def _row(row: dict[str, Any], seconds: float | None, n_classes: int) -> BenchmarkRow:
    """One source's figures."""
    return BenchmarkRow(
        source=row["source"],
        min_f1=Estimate(row["min_f1"], row["low"], row["high"]),
        f1=_estimates(row, "f1", n_classes),
        precision=_estimates(row, "precision", n_classes),
        recall=_estimates(row, "recall", n_classes),
        n_eval=row["n_eval"] or 0,
        n_runs=row["n_runs"],
        did_train=row["did_train"],
        training_min_f1=row["training_min_f1"],
        seconds=seconds,
    )


def _estimates(row: dict[str, Any], name: str, n_classes: int) -> tuple[Estimate, ...]:
    """A figure of every class with its interval; dashes where there is none."""
    if row[name] is None:
        return (_NO_ESTIMATE,) * n_classes
    lists = zip(row[name], row[f"{name}_low"], row[f"{name}_high"], strict=True)
    return tuple(Estimate(*values) for values in lists)


def _excess(model: dict[str, Any] | None) -> Excess | None:
    """Excess and verdict of the model's row."""
    if model is None or model["verdict"] is None:
        return None
    estimate = Estimate(model["excess"], model["excess_low"], model["excess_high"])
    return Excess(estimate=estimate, verdict=model["verdict"], kind=model["verdict_kind"])


def _matched(model: dict[str, Any] | None, n_classes: int) -> MatchedScores | None:
    """Figures on the sequences that look alike to the blind baseline."""
    if model is None or model["matched_by"] is None:
        return None
    per_class = model["matched_n_per_class"] or 0
    before, after = model["difference_before"], model["difference_after"]
    note = model["matched_note"] or (
        f"Largest standardized difference of the blind scores between classes: {before:.2f} before "
        f"matching, {after:.2f} after; {per_class:,} sequences a class are left."
    )
    return MatchedScores(
        min_f1=_estimate(model, "matched_min_f1", "matched"),
        f1=_estimates(model, "matched_f1", n_classes),
        blind_min_f1=_estimate(model, "matched_blind_min_f1", "matched_blind"),
        n_eval=per_class * n_classes,
        note=note,
    )


def _estimate(row: dict[str, Any], name: str, stem: str) -> Estimate:
    """A figure and its interval."""
    return Estimate(row[name], row[f"{stem}_low"], row[f"{stem}_high"])


def _seconds(study: Study, runs: pl.DataFrame) -> dict[str, float]:
    """Seconds of training by source."""
    total: dict[str, float] = {}
    for source, key in runs.select("source", "key").iter_rows():
        total[source] = total.get(source, 0.0) + _seconds_of(study, key)
    return total


def _seconds_of(study: Study, key: str) -> float:
    """Seconds of one training."""
    path: Path = study.folder / "cnn" / f"{key}.outcome.seconds"
    return float(path.read_text()) if path.is_file() else 0.0


def _cnn(study: Study, sample: str, runs: pl.DataFrame, n_classes: int) -> CnnFacts:
    """Every CNN on the model's attention: training F1 beside evaluation F1."""
    predictions = study.read(PREDICTIONS_FILE).filter(
        (pl.col("taxonomy") == sample) & (pl.col("source") == "model")
    )
    found = []
    for run in runs.filter(pl.col("source") == "model").iter_rows(named=True):
        kernel, filters, pooling = run["setting"].split("-")
        own = predictions.filter(
            (pl.col("setting") == run["setting"]) & (pl.col("seed") == run["seed"])
        )
        confusion = confusion_matrix(own["true"].to_numpy(), own["predicted"].to_numpy(), n_classes)
        found.append(
            CnnRun(
                kernel=int(kernel[1:]),
                filters=int(filters[1:]),
                pooling=pooling,
                seed=run["seed"],
                training_min_f1=run["train_min_f1"] if run["did_train"] else None,
                eval_min_f1=scores(confusion).min_f1 if run["did_train"] else None,
                did_train=run["did_train"],
                seconds=_seconds_of(study, run["key"]),
            )
        )
    preset = study.settings.train.preset
    return CnnFacts(preset=preset, settings=asdict(PRESETS[preset]), runs=tuple(found))
