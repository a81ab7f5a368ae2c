"""The benchmark table: from the long table of predictions to one row a taxonomy and source.

The rows of the model's attention, one a reader (CNNs and regression), also carry the excess over
the controls that the same reader read, the verdict, and the figures on sequences that look alike to
the blind baseline. Where the controls have fewer CNN settings, the excess counts the model's
trainings with those settings alone: like is held against like.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from mnemoscope.benchmark import excess, sources, verdict
from mnemoscope.benchmark.gain import Gain, measure_gain
from mnemoscope.benchmark.matched import match_on_scores
from mnemoscope.cnn.metrics import (
    ScoreEstimates,
    confusion_matrix,
    estimate_scores,
    f1_per_class,
    precision_recall,
)
from mnemoscope.cnn.presets import OF_TWO_MODELS, CnnSetting
from mnemoscope.columns import Column, schema_of
from mnemoscope.stats import FIGURE, FIGURES, Estimate, Floats, estimate_of, frame_of, rows_of
from mnemoscope.taxonomy.sample import KEY_COLUMNS, SampleKey

_SHARES = pl.List(pl.Float64)
_PER_CLASS = Column(FIGURES, "one a class, in the order of the classes")
_SCORES = {
    "min_f1": Column(FIGURE, "smallest F1 of a class"),
    "mean_f1": Column(FIGURE, "mean F1 of the classes"),
    **dict.fromkeys(("f1", "precision", "recall"), _PER_CLASS),
    "confusion": Column(pl.List(pl.List(pl.Int64)), "rows true, columns predicted"),
}
_SCORED = {
    "source": Column(pl.String, "what is scored"),
    "did_train": Column(pl.Boolean, "a training counts: it left chance in training, or all are to"),
    "n_runs": Column(pl.Int64, "trainings"),
    "n_train": Column(pl.Int64, "training sequences"),
    "training_min_f1": Column(pl.Float64, "mean min-F1 of the trainings on their training sets"),
    "n_eval": Column(pl.Int64, "evaluation sequences"),
    "n_groups": Column(pl.Int64, "groups of near duplicates among these, which the intervals draw"),
    **_SCORES,
    "auc_pairs": Column(pl.List(pl.String), "names of the pairs of classes (`Guess | Recall`)"),
    "auc": Column(FIGURES, "of each pair: of p_a / (p_a + p_b), averaged over trainings"),
    "auc_chance_least": Column(_SHARES, "least AUC of a pair in twenty draws of permuted classes"),
    "auc_chance_most": Column(_SHARES, "the largest"),
    # From here on in the rows of the model's attention alone.
    "is_headline": Column(
        pl.Boolean,
        "the better of the two readers within the training sequences (`choice.parquet`); the "
        "regression where the CNNs have fewer than three seeds",
    ),
    "excess": Column(FIGURE, "min-F1 minus that of the best control of the same reader"),
    "excess_over": Column(pl.String, "that control"),
    "excess_min_f1": Column(pl.Float64, "min-F1 that it is counted from, on `excess_settings`"),
    "excess_settings": Column(pl.List(pl.String), "the CNN settings that the controls had too"),
    "auc_excess": Column(FIGURES, "of each pair: AUC minus that of its best control"),
    "gain": Column(
        FIGURE,
        "log score of the text's readers pooled with this one, minus that of the same with the "
        "reference's, nats a sequence; the verdict rests on it",
    ),
    "gain_over": Column(pl.String, "the source of that reference"),
    "gain_seen": Column(pl.Float64, "smallest gain that such a study sees in 80 % of cases"),
    "pool_min_f1": Column(pl.Float64, "min-F1 of the pool with this reader"),
    "pool_min_f1_without": Column(pl.Float64, "min-F1 of the pool with the reference"),
    "verdict_kind": Column(pl.String, "`adds`, `unclear`, `nothing` or `cannot`"),
    "verdict": Column(pl.String, "the same as a sentence"),
    "matched_min_f1": Column(FIGURE, "on sequences that the best blind source finds alike"),
    "matched_f1": Column(FIGURES, "of each class, there"),
    "matched_blind_min_f1": Column(FIGURE, "what that blind source reaches there"),
    "matched_by": Column(pl.String, "that blind source"),
    "matched_n_per_class": Column(pl.Int64, "matched sequences of a class"),
    "difference_before": Column(pl.Float64, "largest standardized difference of the blind scores"),
    "difference_after": Column(pl.Float64, "the same once matched"),
    "matched_note": Column(pl.String, "why there is no matched figure"),
    "over_statistics": Column(FIGURE, "the CNNs' min-F1 minus the regression's, paired"),
}
BENCHMARK_COLUMNS = {**KEY_COLUMNS, **_SCORED}
BENCHMARK_SCHEMA = schema_of(BENCHMARK_COLUMNS)
INPUT_COLUMNS = {
    **KEY_COLUMNS,
    "input": Column(pl.String, "what the CNNs see: `mean`, `max`, `both`, `heads`, `difference`"),
    **_SCORED,
}
INPUTS_SCHEMA = schema_of(INPUT_COLUMNS)
TOGETHER_COLUMNS = {
    "taxonomy": Column(pl.String, "its name; measured on its main sample"),
    "model": Column(pl.String, "a model's name, or `together`"),
    "n_eval": Column(pl.Int64, "evaluation sequences"),
    "n_runs": Column(pl.Int64, "trainings"),
    **_SCORES,
    "note": Column(pl.String, "why there is no figure"),
}
TOGETHER_SCHEMA = schema_of(TOGETHER_COLUMNS)

RUN_COLUMNS = {
    **KEY_COLUMNS,
    "source": Column(pl.String, "what was trained on: see [the controls](memory-or-text.md)"),
    "kernel": Column(pl.Int64, "kernel size of a CNN"),
    "filters": Column(pl.Int64, "filters of a CNN"),
    "input": Column(pl.String, "what a CNN sees"),
    "seed": Column(pl.Int64, "of the training"),
}
"""What makes a training one of its own in predictions and runs."""
RUN_KEY = list(RUN_COLUMNS)


@dataclass(frozen=True)
class Scores:
    """The scores of one source of one sample, or of several models summed."""

    min_f1: Estimate
    mean_f1: Estimate
    f1: Sequence[Estimate]  # one a class
    precision: Sequence[Estimate]
    recall: Sequence[Estimate]
    confusion: Sequence[Sequence[int]] | None  # rows true, columns predicted; None: did not train
    n_eval: int | None = None  # evaluation sequences
    n_runs: int | None = None  # trainings


def scores_of(benchmark: pl.DataFrame) -> dict[SampleKey, Scores]:
    """The scores in rows of the benchmark table, those of one source, by sample."""
    names = [one.name for one in fields(Scores)]
    return {
        SampleKey(row["taxonomy"], row["variant"]): Scores(**{name: row[name] for name in names})
        for row in rows_of(benchmark)
    }


def score_together(confusions: Sequence[ArrayLike], draws: Sequence[Floats] = ()) -> Scores:
    """Sum the models' confusion matrices (classes in one order) and score the sum.

    As in the paper, except that a model with more evaluation sequences or CNNs counts for more.
    Draws (resamples, classes, classes) of each model, add 95 % ends of min-F1 and mean F1. Raises
    ValueError: matrices of different shapes, or none.
    """
    shapes = {np.shape(one) for one in confusions}
    if len(shapes) != 1:
        raise ValueError(f"confusion matrices of shapes {sorted(shapes)} cannot be summed")
    total = np.sum([np.asarray(one, dtype=np.int64) for one in confusions], axis=0)
    f1, (precision, recall) = f1_per_class(total), precision_recall(total)
    drawn = f1_per_class(np.sum(draws, axis=0)) if len(draws) == len(confusions) else np.empty(0)
    lowest, mean = (drawn.min(axis=-1), drawn.mean(axis=-1)) if len(drawn) else (drawn, drawn)
    return Scores(
        min_f1=estimate_of(float(f1.min()), lowest),
        mean_f1=estimate_of(float(f1.mean()), mean),
        f1=list(map(Estimate, f1)),
        precision=list(map(Estimate, precision)),
        recall=list(map(Estimate, recall)),
        confusion=total.tolist(),
    )


def score_benchmark(
    predictions: pl.DataFrame,
    runs: pl.DataFrame,
    classes: Sequence[str],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    control_settings: Sequence[CnnSetting] | None = None,
    choice: Mapping[str, float] | None = None,
) -> pl.DataFrame:
    """Judge one sample on every source: columns as in `BENCHMARK_SCHEMA`, no row without runs.

    Predictions are as `mnemoscope.benchmark.excess` describes; `runs` has a row a training:
    `RUN_KEY`, n_train, did_train, train_min_f1; `classes` are named in the order of the indices.
    The excess counts the model's `control_settings` alone, all where None. `choice` is min-F1 of
    the readers (`model`, `statistics`) within the training rows; the larger is the headline, the
    CNNs where they are equal or none is given, and the regression where the CNNs have fewer than
    three trainings. Raises DamagedDataError: the predictions are not whole.
    """
    rows, chosen = [], choice or {}
    votes = trained_votes(predictions, runs, len(classes))
    present = [source for source in sources.SOURCES if source in set(runs["source"])]
    judged = {name: _SourceScores(one, n_resamples, seed) for name, one in votes.items()}
    like = _like_controls(judged, predictions, runs, control_settings)
    headline = max(_deciding(judged, runs), key=lambda one: chosen.get(one, 0.0))
    for source in present:
        own = runs.filter(pl.col("source") == source)
        row: dict[str, object] = {
            **runs.select(SampleKey._fields).row(0, named=True),
            "source": source,
            "auc_pairs": excess.pair_names(classes),
        }
        row |= _training_columns(own)
        if source in judged:
            row |= judged[source].columns()
        if source in sources.ATTENTION:
            row["is_headline"] = source == headline
            of_excess = like if source == "model" else _ComparableRuns(judged, [], own.height)
            free = [
                name for name in sources.of_reader(sources.MEMORY_FREE, source) if name in present
            ]
            row |= _excess_columns(source, of_excess, free, present, tuple(classes), own)
            row |= _matched_columns(source, judged)
        if source == "model":
            row |= _regression_columns(judged)
        rows.append(row)
    return frame_of(rows, BENCHMARK_SCHEMA)


def _deciding(judged: Mapping[str, "_SourceScores"], runs: pl.DataFrame) -> Sequence[str]:
    """The readers that the headline is one of: those whose verdict may take a side."""
    n_seeds = runs.filter(pl.col("source") == "model")["seed"].n_unique()
    few = n_seeds < verdict.FEWEST_TRAININGS and "statistics" in judged
    return ("statistics",) if few else sources.ATTENTION


@dataclass
class _SourceScores:
    """One source's votes, its figures and their intervals."""

    votes: excess.Votes
    n_resamples: int
    seed: int

    @cached_property
    def found(self) -> ScoreEstimates:
        return estimate_scores(
            self.votes.predicted,
            self.votes.true,
            n_classes=self.votes.n_classes,
            groups=self.votes.groups,
            **self.resampling,
        )

    @property
    def resampling(self) -> dict[str, int]:
        return {"seed": self.seed, "n_resamples": self.n_resamples}

    def columns(self) -> dict[str, object]:
        """Figures of the table that every source has."""
        votes, found = self.votes, self.found
        auc = excess.estimate_auc(votes, **self.resampling)
        chance = excess.auc_by_chance(votes, seed=self.seed)
        return {
            "n_eval": len(votes.true),
            "n_groups": len(np.unique(votes.owners)),
            "min_f1": found.min_f1,
            "mean_f1": found.mean_f1,
            "f1": found.f1,
            "precision": found.precision,
            "recall": found.recall,
            "confusion": confusion_matrix(votes.true, votes.predicted, votes.n_classes).tolist(),
            "auc": auc,
            "auc_chance_least": chance and [one.low for one in chance],
            "auc_chance_most": chance and [one.high for one in chance],
        }


def trained_votes(
    predictions: pl.DataFrame, runs: pl.DataFrame, n_classes: int
) -> dict[str, excess.Votes]:
    """Arrange the predictions of a sample's runs that left chance, by source."""
    trained = runs.filter(pl.col("did_train"))
    counted = predictions.join(trained, on=RUN_KEY, how="semi", nulls_equal=True)
    return {
        source: excess.collect_votes(
            counted.filter(pl.col("source") == source), n_classes, where=source
        )
        for source in trained["source"].unique(maintain_order=True)
    }


def settings_of_runs(runs: pl.DataFrame) -> list[CnnSetting]:
    """The settings of CNNs' trainings, each once, in their order."""
    found = runs.select(*excess.SETTING).unique(maintain_order=True)
    return [CnnSetting(*row) for row in found.rows()]


class _ComparableRuns(NamedTuple):
    """What the excess compares: every source, the model on `settings` alone (`n_runs`)."""

    judged: dict[str, _SourceScores]
    settings: list[CnnSetting]
    n_runs: int


def _like_controls(
    judged: dict[str, _SourceScores],
    predictions: pl.DataFrame,
    runs: pl.DataFrame,
    control_settings: Sequence[CnnSetting] | None,
) -> _ComparableRuns:
    """Put the model on the controls' settings in place of the model on all."""
    own = runs.filter(pl.col("source") == "model")
    kept = own
    if control_settings is not None:
        kept = own.filter(
            [CnnSetting(*row) in control_settings for row in own.select(*excess.SETTING).rows()]
        )
    settings = settings_of_runs(kept)
    if kept.height == own.height or "model" not in judged:
        return _ComparableRuns(judged, settings, kept.height)
    rest = {name: one for name, one in judged.items() if name != "model"}
    if not kept["did_train"].any():
        return _ComparableRuns(rest, settings, kept.height)
    whole = judged["model"]
    votes = trained_votes(predictions, kept, whole.votes.n_classes)
    model = _SourceScores(votes["model"], **whole.resampling)
    return _ComparableRuns(rest | {"model": model}, settings, kept.height)


def _training_columns(runs: pl.DataFrame) -> dict[str, object]:
    """How many trainings there were, whether one left chance, and the figure in training."""
    return {
        "did_train": runs["did_train"].any(),
        "n_runs": runs.height,
        "n_train": _n_train(runs),
        "training_min_f1": _training_min_f1(runs),
    }


def _n_train(runs: pl.DataFrame) -> int:
    return round(float(np.mean(runs["n_train"].to_numpy())))


def _training_min_f1(runs: pl.DataFrame) -> float | None:
    """Mean min-F1 in training of those that left chance; None where none did."""
    trained = runs.filter("did_train")["train_min_f1"].to_numpy()
    return float(np.mean(trained)) if len(trained) else None


def _excess_columns(
    source: str,
    like: _ComparableRuns,
    free: Sequence[str],
    present: Sequence[str],
    names: tuple[str, ...],
    runs: pl.DataFrame,
) -> dict[str, object]:
    """The excess of the model's attention over the controls `free`, and the verdict."""
    judged = like.judged
    reader = "CNN" if sources.TABLE[source].fit is None else "regression"
    failed = tuple(name for name in free if name not in judged)
    figures = verdict.BenchmarkFigures(
        names,
        source in judged,
        controls=tuple(free),
        failed_controls=failed,
        has_like_runs=like.n_runs > 0 or not free,
        reader=reader,
    )
    if source not in judged or len(failed) == len(free):
        return _verdict_columns(figures)
    model = judged[source]
    ran = {name: judged[name].votes for name in free if name in judged}
    found = excess.measure_excess(model.votes, ran, reader=source, **model.resampling)
    whole = Estimate(found.value, found.low, found.high)
    note = excess.why_no_interval(model.votes)
    reference = next((name for name in ran if sources.TABLE[name].needs_reference), None)
    has_scores = all(one.scores is not None for one in (model.votes, *ran.values()))
    gain = None
    if reference is not None and has_scores and note is None:
        text = [one for name, one in ran.items() if name != reference]
        gain = measure_gain(model.votes, ran[reference], text, n_trained=_n_train(runs))
    figures = replace(
        figures,
        f1=model.found.f1,
        gain=gain,
        excess=whole,
        n_trainings=found.n_trainings,
        training_min_f1=_training_min_f1(runs),
        interval_note=note,
        finds_mark=_finds_mark(source, judged, present),
    )
    return {
        **_verdict_columns(figures),
        "excess": whole,
        "excess_over": found.strongest,
        "excess_min_f1": found.min_f1,
        "excess_settings": [one.slug for one in like.settings],
        "auc_excess": found.auc,
        **(_gain_columns(gain) | {"gain_over": reference} if gain else {}),
    }


def _gain_columns(gain: Gain) -> dict[str, object]:
    return {
        "gain": Estimate(gain.value, gain.low, gain.high),
        "gain_seen": gain.seen,
        "pool_min_f1": gain.min_f1,
        "pool_min_f1_without": gain.min_f1_without,
    }


def _finds_mark(
    source: str, judged: Mapping[str, _SourceScores], present: Sequence[str]
) -> bool | None:
    """Whether the reader tells planted marks apart better than by guessing; None if not tried."""
    tried = [name for name in sources.of_reader(sources.PLANTED, source) if name in present]
    if not tried:
        return None
    found = [judged[name] for name in tried if name in judged]
    return bool(found) and all(
        (one.found.min_f1.low or 0.0) > 1 / one.votes.n_classes for one in found
    )


def _verdict_columns(figures: verdict.BenchmarkFigures) -> dict[str, object]:
    given = verdict.give_verdict(figures)
    return {"verdict_kind": given.kind, "verdict": given.sentence}


def _matched_columns(source: str, judged: Mapping[str, _SourceScores]) -> dict[str, object]:
    """The model on sequences matched by the better blind baseline, and that baseline there."""
    blind = [name for name in sources.of_reader(sources.TEXT_ALONE, source) if name in judged]
    min_f1 = {name: judged[name].found.min_f1.value for name in blind}
    if source not in judged or not min_f1:
        return {}
    best = max(min_f1, key=lambda name: min_f1[name] or 0.0)
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
        _SourceScores(judged[name].votes.at(match.rows), **judged[name].resampling).found
        for name in (source, best)
    )
    return {
        **columns,
        "matched_min_f1": model.min_f1,
        "matched_f1": model.f1,
        "matched_blind_min_f1": text.min_f1,
    }


def _regression_columns(judged: Mapping[str, _SourceScores]) -> dict[str, object]:
    """How far the CNNs are above a regression on a few statistics of the same maps."""
    pair = {name: judged[name].votes for name in ("model", "statistics") if name in judged}
    if len(pair) < 2:
        return {}
    found = excess.measure_objective(pair, "excess", **judged["model"].resampling)
    return {"over_statistics": found}


def score_by_input(
    predictions: pl.DataFrame,
    runs: pl.DataFrame,
    classes: Sequence[str],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    control_settings: Sequence[CnnSetting] | None = None,
    whole: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Judge a sample once more for each kind of input, which tells what carries memory.

    Arguments as `score_benchmark`; its table `whole` is taken over where there is a single input.
    Columns as in `INPUTS_SCHEMA`, one row an input and source (all but regression and logits),
    inputs in the order of the runs.
    """
    own = runs.filter(pl.col("source") == "model")
    inputs = own["input"].unique(maintain_order=True).to_list()
    if whole is not None and len(inputs) == 1:
        same = whole.filter(
            pl.col("source").is_in([*sources.of_reader(sources.TEXT_ALONE, "model"), *sources.CNNS])
        )
        return same.with_columns(pl.lit(inputs[0]).alias("input")).select(INPUTS_SCHEMA.names())
    tables = []
    for name in inputs:
        table = score_benchmark(
            predictions.filter(_belongs_to(name)),
            runs.filter(_belongs_to(name)),
            classes,
            n_resamples=n_resamples,
            seed=seed,
            control_settings=control_settings,
        )
        tables.append(table.with_columns(pl.lit(name).alias("input")))
    if not tables:
        return pl.DataFrame(schema=INPUTS_SCHEMA)
    return pl.concat(tables).select(INPUTS_SCHEMA.names())


def _belongs_to(name: str) -> pl.Expr:
    """Rows of one input: its CNNs, those of its controls, and what reads tokens."""
    source, seen = pl.col("source"), pl.col("input")
    of_maps = [one for one in sources.CNNS if sources.TABLE[one].reads == "maps"]
    of_reference = [one for one in sources.CNNS if sources.TABLE[one].needs_reference]
    return (
        (source.is_in(of_maps) & (seen == name))
        | (source.is_in(of_reference) & (seen == ("mean" if name in OF_TWO_MODELS else name)))
        | source.is_in(sources.of_reader(sources.TEXT_ALONE, "model"))
    )
