"""The benchmark table: from the long table of predictions to one row a taxonomy and source.

Every source is judged alike; the model's row also carries the excess over the controls, the
verdict in words, and its figures on the sequences that look alike to the blind baseline. Where
the controls were trained with fewer CNN settings than the model, the excess counts the model's
trainings with the controls' settings alone: like is held against like.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.benchmark.auc import PairwiseAuc, bootstrap_auc, pair_names
from mnemoscope.benchmark.columns import BENCHMARK_SCHEMA
from mnemoscope.benchmark.excess import CONTROLS, Excess, measure_excess, min_f1_gap
from mnemoscope.benchmark.matched import match_on_scores
from mnemoscope.benchmark.verdict import BenchmarkFigures, give_verdict
from mnemoscope.benchmark.votes import Votes, collect_votes
from mnemoscope.cnn.intervals import Interval, ScoreIntervals, bootstrap_scores
from mnemoscope.cnn.metrics import Scores, confusion_matrix, scores

__all__ = ["SOURCES", "score_benchmark"]

SOURCES = ("model", "statistics", "blind", "ngram", "reference", "control", "logits")
"""What a prediction may rest on, in the order of the table."""

_TEXT_ALONE = ("blind", "ngram")
_RUN_KEY = ["taxonomy", "source", "setting", "seed"]


def score_benchmark(
    predictions: pl.DataFrame,
    runs: pl.DataFrame,
    classes: Mapping[str, Sequence[str]],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    control_settings: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Judge every taxonomy on every source.

    Args:
        predictions: as `mnemoscope.benchmark.votes` describes; all taxonomies and sources.
        runs: one row a training: taxonomy, source, setting, seed, did_train, train_min_f1.
        classes: for each taxonomy its class names in the order of the indices.
        n_resamples: bootstrap resamples.
        seed: of every bootstrap; the same for all taxonomies and sources.
        control_settings: names of the model's settings that have controls; the excess counts
            these alone. None: all.

    Returns:
        Columns as in `BENCHMARK_SCHEMA`; taxonomies in the order of `classes`, sources in that
        of `SOURCES`, no row for a source without runs.

    Raises:
        DamagedDataError: the predictions are not whole.
    """
    rows = []
    for taxonomy, names in classes.items():
        own_runs = runs.filter(pl.col("taxonomy") == taxonomy)
        votes = _trained_votes(predictions, own_runs, taxonomy, len(names))
        present = [source for source in SOURCES if source in set(own_runs["source"])]
        judged = {name: _Judged(one, n_resamples, seed) for name, one in votes.items()}
        like = _like_controls(judged, predictions, own_runs, control_settings)
        for source in present:
            row: dict[str, Any] = {
                "taxonomy": taxonomy,
                "source": source,
                "auc_pairs": pair_names(names),
            }
            row |= _training_columns(own_runs.filter(pl.col("source") == source))
            if source in judged:
                row |= judged[source].columns()
            if source == "model":
                row |= _excess_columns(
                    like, present, tuple(names), row["training_min_f1"], n_resamples, seed
                )
                row |= _matched_columns(judged, n_resamples, seed)
                row |= _regression_columns(judged, n_resamples, seed)
            rows.append(row)
    return pl.DataFrame(rows, schema=BENCHMARK_SCHEMA)


class _Judged:
    """One source's figures and their intervals."""

    def __init__(self, votes: Votes, n_resamples: int, seed: int) -> None:
        self.votes = votes
        self.n_resamples, self.seed = n_resamples, seed
        self.confusion = confusion_matrix(votes.true, votes.predicted, votes.n_classes)
        self.scores: Scores = scores(self.confusion)
        self.intervals: ScoreIntervals = bootstrap_scores(
            votes.predicted,
            votes.true,
            n_classes=votes.n_classes,
            seed=seed,
            n_resamples=n_resamples,
        )

    def columns(self) -> dict[str, Any]:
        """Figures of the table that every source has."""
        low, high = self.intervals.min_f1
        mean_low, mean_high = self.intervals.mean_f1
        return {
            "n_eval": len(self.votes.true),
            "min_f1": self.scores.min_f1,
            "low": low,
            "high": high,
            "mean_f1": self.scores.mean_f1,
            "mean_f1_low": mean_low,
            "mean_f1_high": mean_high,
            **_per_class("f1", self.scores.f1, self.intervals.f1),
            **_per_class("precision", self.scores.precision, self.intervals.precision),
            **_per_class("recall", self.scores.recall, self.intervals.recall),
            "confusion": self.confusion.tolist(),
            **_auc_columns(bootstrap_auc(self.votes, seed=self.seed, n_resamples=self.n_resamples)),
        }


def _trained_votes(
    predictions: pl.DataFrame, runs: pl.DataFrame, taxonomy: str, n_classes: int
) -> dict[str, Votes]:
    """Arrange the predictions of the runs that left chance, for each source that has any."""
    trained = runs.filter(pl.col("did_train"))
    counted = predictions.join(trained, on=_RUN_KEY, how="semi")
    return {
        source: collect_votes(
            counted.filter(pl.col("source") == source), n_classes, where=f"'{taxonomy}', {source}"
        )
        for source in trained["source"].unique(maintain_order=True)
    }


class _Like(NamedTuple):
    """What the excess compares.

    Attributes:
        judged: every source; the model on the settings that have controls.
        settings: names of these settings.
        n_runs: the model's trainings with them, trained or not.
    """

    judged: dict[str, _Judged]
    settings: list[str]
    n_runs: int


def _like_controls(
    judged: dict[str, _Judged],
    predictions: pl.DataFrame,
    runs: pl.DataFrame,
    control_settings: Sequence[str] | None,
) -> _Like:
    """Put the model on the controls' settings in place of the model on all."""
    own = runs.filter(pl.col("source") == "model")
    kept = own
    if control_settings is not None:
        kept = own.filter(pl.col("setting").is_in(list(control_settings)))
    settings = kept["setting"].unique(maintain_order=True).to_list()
    if kept.height == own.height or "model" not in judged:
        return _Like(judged, settings, kept.height)
    rest = {name: one for name, one in judged.items() if name != "model"}
    if not kept["did_train"].any():
        return _Like(rest, settings, kept.height)
    whole = judged["model"]
    votes = _trained_votes(predictions, kept, kept["taxonomy"][0], whole.votes.n_classes)
    model = _Judged(votes["model"], whole.n_resamples, whole.seed)
    return _Like(rest | {"model": model}, settings, kept.height)


def _training_columns(runs: pl.DataFrame) -> dict[str, Any]:
    """How many trainings there were, how many left chance, and their figure in training."""
    trained = runs.filter(pl.col("did_train"))
    return {
        "did_train": trained.height > 0,
        "n_runs": runs.height,
        "n_trained": trained.height,
        "training_min_f1": trained["train_min_f1"].mean(),
    }


def _excess_columns(
    like: _Like,
    present: Sequence[str],
    names: tuple[str, ...],
    training_min_f1: float | None,
    n_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The excess of the model's attention over its controls, and the verdict."""
    judged = like.judged
    controls = tuple(name for name in CONTROLS if name in present)
    failed = tuple(name for name in controls if name not in judged)
    if "model" not in judged or len(failed) == len(controls):
        figures = BenchmarkFigures(
            names,
            "model" in judged,
            controls=controls,
            failed_controls=failed,
            has_like_runs=like.n_runs > 0 or not controls,
        )
        return _verdict_columns(figures)
    model = judged["model"]
    found = measure_excess(
        model.votes,
        {name: judged[name].votes for name in controls if name in judged},
        n_resamples=n_resamples,
        seed=seed,
    )
    figures = BenchmarkFigures(
        classes=names,
        did_train=True,
        f1=tuple(model.scores.f1.tolist()),
        f1_low=tuple(one.low for one in model.intervals.f1),
        excess=found,
        controls=controls,
        failed_controls=failed,
        training_min_f1=training_min_f1,
    )
    return _verdict_columns(figures) | _found_columns(found) | {"excess_settings": like.settings}


def _found_columns(found: Excess) -> dict[str, Any]:
    """An excess, of min-F1 and of the pairwise AUC."""
    columns: dict[str, Any] = {
        "excess": found.value,
        "excess_low": found.low,
        "excess_high": found.high,
        "excess_over": found.strongest,
        "excess_min_f1": found.min_f1,
    }
    if found.auc is None or found.auc_intervals is None:
        return columns
    return columns | _per_class("auc_excess", np.array(found.auc), found.auc_intervals)


def _auc_columns(found: PairwiseAuc | None) -> dict[str, Any]:
    """Pairwise AUC and its intervals, nothing where no probabilities were kept."""
    return {} if found is None else _per_class("auc", np.array(found.values), found.intervals)


def _verdict_columns(figures: BenchmarkFigures) -> dict[str, Any]:
    """The verdict on these figures."""
    verdict = give_verdict(figures)
    return {"verdict_kind": verdict.kind, "verdict": verdict.sentence}


def _matched_columns(judged: Mapping[str, _Judged], n_resamples: int, seed: int) -> dict[str, Any]:
    """The model on sequences matched by the better blind baseline, and that baseline there."""
    blind = [name for name in _TEXT_ALONE if name in judged]
    if "model" not in judged or not blind:
        return {}
    best = max(blind, key=lambda name: judged[name].scores.min_f1)
    votes = judged[best].votes
    match = match_on_scores(votes.probabilities, votes.true)
    columns = {
        "matched_by": best,
        "matched_n_per_class": match.n_per_class,
        "difference_before": match.difference_before,
        "difference_after": match.difference_after,
        "matched_note": match.reason,
    }
    if match.reason is not None:
        return columns
    model, text = (
        _Judged(judged[name].votes.at(match.rows), n_resamples, seed) for name in ("model", best)
    )
    return columns | {
        **_one("matched_min_f1", "matched", model.scores.min_f1, model.intervals.min_f1),
        **_per_class("matched_f1", model.scores.f1, model.intervals.f1),
        **_one("matched_blind_min_f1", "matched_blind", text.scores.min_f1, text.intervals.min_f1),
    }


def _regression_columns(
    judged: Mapping[str, _Judged], n_resamples: int, seed: int
) -> dict[str, Any]:
    """How far the CNNs are above a regression on a few statistics of the same maps."""
    if not {"model", "statistics"} <= judged.keys():
        return {}
    model, plain = (judged[name].votes for name in ("model", "statistics"))
    value, interval = min_f1_gap(model, plain, n_resamples=n_resamples, seed=seed)
    return _one("over_statistics", "over_statistics", value, interval)


def _one(name: str, stem: str, value: float, interval: Interval) -> dict[str, Any]:
    """A figure and its interval."""
    return {name: value, f"{stem}_low": interval.low, f"{stem}_high": interval.high}


def _per_class(
    name: str, values: np.ndarray, intervals: tuple[Interval, ...]
) -> dict[str, list[float]]:
    """A figure of every class and its intervals."""
    return {
        name: values.tolist(),
        f"{name}_low": [one.low for one in intervals],
        f"{name}_high": [one.high for one in intervals],
    }
