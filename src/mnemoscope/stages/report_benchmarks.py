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
    InputRow,
    MatchedScores,
)
from mnemoscope.report.numbers import percent
from mnemoscope.report.standing import MEMORY_FREE
from mnemoscope.stages.benchmark import BENCHMARK_FILE, INPUTS_FILE
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
        pairs=tuple(model["auc_pairs"]) if model else (),
        inputs=tuple(_inputs(study, sample, n_classes)),
        over_statistics=_over_statistics(model),
    )


def _inputs(study: Study, sample: str, n_classes: int) -> Iterator[InputRow]:
    """Each input of the CNNs, beside the best without memory."""
    table = study.read(INPUTS_FILE).filter(pl.col("taxonomy") == sample)
    for name in table["input"].unique(maintain_order=True):
        rows = table.filter(pl.col("input") == name)
        model = rows.filter(pl.col("source") == "model").row(0, named=True)
        free = rows.filter(pl.col("source").is_in(list(MEMORY_FREE))).drop_nulls("min_f1")
        best = free.sort("min_f1").tail(1).to_dicts()
        yield InputRow(
            name=name,
            model=_row(model, None, n_classes),
            best=Estimate(best[0]["min_f1"], best[0]["low"], best[0]["high"])
            if best
            else _NO_ESTIMATE,
            excess=_excess(model),
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
        mean_f1=_estimate(row, "mean_f1", "mean_f1"),
        auc=_estimates(row, "auc", 0),
    )


def _estimates(row: dict[str, Any], name: str, n_lacking: int) -> tuple[Estimate, ...]:
    """A figure of every class (or pair) with its interval; so many dashes where there is none."""
    if row[name] is None:
        return (_NO_ESTIMATE,) * n_lacking
    lists = zip(row[name], row[f"{name}_low"], row[f"{name}_high"], strict=True)
    return tuple(Estimate(*values) for values in lists)


def _over_statistics(model: dict[str, Any] | None) -> Estimate:
    """How far the CNNs are above the regression; no figure in a table of before there was one."""
    if model is None or "over_statistics" not in model:
        return _NO_ESTIMATE
    return _estimate(model, "over_statistics", "over_statistics")


def _excess(model: dict[str, Any] | None) -> Excess | None:
    """Excess and verdict of the model's row."""
    if model is None or model["verdict"] is None:
        return None
    estimate = Estimate(model["excess"], model["excess_low"], model["excess_high"])
    return Excess(
        estimate=estimate,
        verdict=model["verdict"],
        kind=model["verdict_kind"],
        auc=_estimates(model, "auc_excess", 0),
        note=_like_with_like(model),
    )


def _like_with_like(model: dict[str, Any]) -> str:
    """Say which trainings the excess counts where the controls had fewer settings."""
    if model["excess_min_f1"] is None or model["excess_min_f1"] == model["min_f1"]:
        return ""
    return (
        f"The excess counts the model’s trainings with {', '.join(model['excess_settings'])} alone "
        f"(min-F1 {percent(model['excess_min_f1'])}), the CNN settings that the controls had too."
    )


def _matched(model: dict[str, Any] | None, n_classes: int) -> MatchedScores | None:
    """Figures on the sequences that look alike to the blind baseline."""
    if model is None or model["matched_by"] is None:
        return None
    is_measured = model["matched_min_f1"] is not None
    per_class = (model["matched_n_per_class"] or 0) if is_measured else 0
    note = _matched_note(model, per_class)
    return MatchedScores(
        min_f1=_estimate(model, "matched_min_f1", "matched"),
        f1=_estimates(model, "matched_f1", n_classes),
        blind_min_f1=_estimate(model, "matched_blind_min_f1", "matched_blind"),
        n_eval=per_class * n_classes,
        note=note,
    )


def _matched_note(model: dict[str, Any], per_class: int) -> str:
    """Balance before and after, or why there is no figure."""
    before, after = model["difference_before"], model["difference_after"]
    # Infinite where a score separates two classes wholly.
    shown = f"{before:.2f}" if np.isfinite(before) else "without bound"
    balance = f"largest standardized difference of the blind scores between classes: {shown} before"
    if model["matched_note"]:
        found = "" if after is None else f", {after:.2f} after"
        return f"{_capital(model['matched_note'])} ({balance} matching{found})."
    left = f"{per_class:,} sequences a class are left"
    return f"{_capital(balance)} matching, {after:.2f} after; {left}."


def _capital(text: str) -> str:
    """Begin with a capital."""
    return text[:1].upper() + text[1:]


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
    return CnnFacts(preset=preset, settings=_preset_facts(preset), runs=tuple(found))


def _preset_facts(preset: str) -> dict[str, Any]:
    """What a preset means, each name and value to be read one after the other."""
    facts = asdict(PRESETS[preset])
    every = facts.pop("scores_every_epoch")
    return facts | {"evaluated": "after every epoch, summed" if every else "after the last epoch"}
