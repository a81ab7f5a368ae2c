"""The benchmark table: from the long table of predictions to one row a taxonomy and source.

Every source is judged alike; the model's row also carries the excess over the controls, the
verdict in words, and its figures on the sequences that look alike to the blind baseline. Where
the controls were trained with fewer CNN settings than the model, the excess counts the model's
trainings with the controls' settings alone: like is held against like.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike
from polars.datatypes import DataType, DataTypeClass

from mnemoscope.benchmark.excess import (
    CONTROLS,
    Excess,
    PairwiseAuc,
    Votes,
    bootstrap_auc,
    collect_votes,
    measure_excess,
    min_f1_gap,
    pair_names,
)
from mnemoscope.benchmark.matched import match_on_scores
from mnemoscope.cnn.metrics import (
    ScoreIntervals,
    Scores,
    bootstrap_scores,
    confusion_matrix,
    f1_per_class,
    precision_recall,
    scores,
)
from mnemoscope.stats import Floats, Interval, interval_of

# The columns of the benchmark table.

_Share = pl.Float64
_Shares = pl.List(pl.Float64)  # one a class, in the order of the classes

_COLUMNS: dict[str, DataType | DataTypeClass] = {
    "taxonomy": pl.String,
    "source": pl.String,  # one of table.SOURCES
    # Trainings; those that left chance on their training set, which alone count below;
    # the mean min-F1 of these on their training sets; evaluation sequences.
    "did_train": pl.Boolean,
    "n_runs": pl.Int64,
    "n_trained": pl.Int64,
    "training_min_f1": _Share,
    "n_eval": pl.Int64,
    "min_f1": _Share,
    "low": _Share,
    "high": _Share,
    "mean_f1": _Share,
    "mean_f1_low": _Share,
    "mean_f1_high": _Share,
    "f1": _Shares,
    "f1_low": _Shares,
    "f1_high": _Shares,
    "precision": _Shares,
    "precision_low": _Shares,
    "precision_high": _Shares,
    "recall": _Shares,
    "recall_low": _Shares,
    "recall_high": _Shares,
    # Rows true, columns predicted, summed over trained runs and epochs.
    "confusion": pl.List(pl.List(pl.Int64)),
    # Pairs of classes in the order of auc.auc_pairs ("Guess | Recall"), and how well each two
    # are told apart: area under the ROC curve of p_a / (p_a + p_b) on the sequences of the two,
    # averaged over trained runs; one a pair.
    "auc_pairs": pl.List(pl.String),
    "auc": _Shares,
    "auc_low": _Shares,
    "auc_high": _Shares,
    # From here on in the model's row alone. The control that the excess is over; the kind
    # of verdict ("adds", "unclear", "nothing", "cannot") and its sentence.
    "excess": _Share,
    "excess_low": _Share,
    "excess_high": _Share,
    "excess_over": pl.String,
    # The model's min-F1 that the excess is counted from: of its trainings with the CNN settings
    # that the controls had too (excess_settings), same seeds. The excess of the AUC of each pair
    # is over the largest of blind, ngram and reference for that pair.
    "excess_min_f1": _Share,
    "excess_settings": pl.List(pl.String),
    "auc_excess": _Shares,
    "auc_excess_low": _Shares,
    "auc_excess_high": _Shares,
    "verdict_kind": pl.String,
    "verdict": pl.String,
    # The model on the matched sequences; what the blind baseline that matched them
    # (matched_by) still reaches there; sequences left a class; the largest standardized
    # difference of its scores before and after; why there is no figure.
    "matched_min_f1": _Share,
    "matched_low": _Share,
    "matched_high": _Share,
    "matched_f1": _Shares,
    "matched_f1_low": _Shares,
    "matched_f1_high": _Shares,
    "matched_blind_min_f1": _Share,
    "matched_blind_low": _Share,
    "matched_blind_high": _Share,
    "matched_by": pl.String,
    "matched_n_per_class": pl.Int64,
    "difference_before": _Share,
    "difference_after": _Share,
    "matched_note": pl.String,
    # Min-F1 of all the model's CNNs minus that of the regression on statistics of the same maps,
    # paired as the excess is.
    "over_statistics": _Share,
    "over_statistics_low": _Share,
    "over_statistics_high": _Share,
}

BENCHMARK_SCHEMA = pl.Schema(_COLUMNS)


# Several models as one: their confusion matrices summed, as for the paper's headline figures.

_MERGE_COLUMNS: dict[str, DataType | DataTypeClass] = {
    "taxonomy": pl.String,
    "model": pl.String,  # a model's name, or "together"
    "n_eval": pl.Int64,
    "n_runs": pl.Int64,
    "min_f1": _Share,
    "low": _Share,
    "high": _Share,
    "mean_f1": _Share,
    "mean_f1_low": _Share,
    "mean_f1_high": _Share,
    "f1": _Shares,
    "precision": _Shares,
    "recall": _Shares,
    "confusion": pl.List(pl.List(pl.Int64)),
    # Why there is no figure.
    "note": pl.String,
}

TOGETHER_SCHEMA = pl.Schema(_MERGE_COLUMNS)


def score_together(confusions: Sequence[ArrayLike], draws: Sequence[Floats] = ()) -> dict[str, Any]:
    """Sum the models' matrices and score the sum.

    A model with more evaluation sequences or CNNs counts for more, as in the paper, whose models
    all have equally many.

    Args:
        confusions: of each model, (classes, classes), counts, rows true, classes in one order.
        draws: of each model, (resamples, classes, classes), each model resampled for itself.

    Returns:
        min_f1, mean_f1, f1, precision, recall, confusion; low, high, mean_f1_low, mean_f1_high
        (95 %) where there are draws.

    Raises:
        ValueError: matrices of different shapes, or none.
    """
    shapes = {np.shape(one) for one in confusions}
    if len(shapes) != 1:
        raise ValueError(f"confusion matrices of shapes {sorted(shapes)} cannot be summed")
    total = np.sum([np.asarray(one, dtype=np.int64) for one in confusions], axis=0)
    found = scores(total)
    precision, recall = precision_recall(total)
    row: dict[str, Any] = {
        "min_f1": found.min_f1,
        "mean_f1": found.mean_f1,
        "f1": found.f1.tolist(),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "confusion": total.tolist(),
    }
    if len(draws) == len(confusions):
        f1 = f1_per_class(np.sum(draws, axis=0))
        row["low"], row["high"] = interval_of(f1.min(axis=-1))
        row["mean_f1_low"], row["mean_f1_high"] = interval_of(f1.mean(axis=-1))
    return row


# Say in one sentence what an excess is worth.

Kind = Literal["adds", "unclear", "nothing", "cannot"]

_GIVES = {
    "text": "what the text alone gives",
    "reference": "what the attention of a model that never saw these sequences gives",
}
_NOTHING = {
    "text": "nothing is left once the text is taken off",
    "reference": "nothing is left that a model which never saw these sequences does not show",
}


@dataclass(frozen=True)
class BenchmarkFigures:
    """What a verdict rests on; fractions, null where there is no figure.

    Attributes:
        classes: names in order.
        did_train: whether a CNN on the model's attention left chance on its training set.
        f1: of each class, on the model's attention.
        f1_low: lower ends of their 95 % intervals.
        excess: excess alignment.
        controls: the controls among these three that ran.
        failed_controls: those of them that did not train.
        has_like_runs: whether the model was trained with a CNN setting that the controls had.
        training_min_f1: the CNN's on its own training set; null where it is not known.
    """

    classes: tuple[str, ...]
    did_train: bool
    f1: tuple[float, ...] = ()
    f1_low: tuple[float, ...] = ()
    excess: Excess | None = None
    controls: tuple[str, ...] = ()
    failed_controls: tuple[str, ...] = ()
    has_like_runs: bool = True
    training_min_f1: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A verdict: its kind, for programs, and its sentence, for people."""

    kind: Kind
    sentence: str


def give_verdict(figures: BenchmarkFigures) -> Verdict:
    """Put an excess and its interval into words.

    Args:
        figures: of one taxonomy.

    Returns:
        Kind and sentence; figures in points (per cent of F1), the interval in brackets.
    """
    excess = figures.excess
    if figures.training_min_f1 == 0:
        return Verdict(
            "cannot",
            "cannot be said: the CNN never finds one of the classes, on its own training set "
            "either, so it has not learned to tell them apart",
        )
    if excess is None:
        return Verdict("cannot", f"cannot be said: {_say_missing(figures)}")
    over = "reference" if excess.strongest == "reference" else "text"
    points = f"{_points(excess.value)} points [{_points(excess.low)}, {_points(excess.high)}]"
    adds = f"attention adds {points} to {_GIVES[over]}"
    note = _say_limits(figures)
    if excess.high <= 0:
        return Verdict("nothing", f"{_NOTHING[over]}: {points}{note}")
    if excess.value <= 0:
        return Verdict(
            "unclear", f"cannot be told from nothing: {points} beyond {_GIVES[over]}{note}"
        )
    if excess.low <= 0:
        return Verdict("unclear", f"cannot be told from nothing: {adds}{note}")
    lost = _say_lost_class(figures)
    if lost:
        return Verdict("unclear", f"{lost}, so it means little that {adds}{note}")
    return Verdict("adds", f"{adds}{note}")


def _say_missing(figures: BenchmarkFigures) -> str:
    """Why there is no excess."""
    if not figures.has_like_runs:
        return (
            "the controls were not trained with this setting (benchmark.control_settings: 0 "
            "trains them with all)"
        )
    if not figures.did_train:
        return "the CNN on the model's attention did not train"
    if figures.failed_controls:
        return f"no control trained ({', '.join(figures.failed_controls)})"
    return "no control was run, so the figure may come from the text alone"


def _say_lost_class(figures: BenchmarkFigures) -> str:
    """Name the weakest class where it is not told apart better than by guessing.

    Guessing gives F1 = 1 / classes at equal class sizes; an excess above zero then only says
    that the controls lose a class even more.
    """
    chance = 1 / len(figures.classes)
    weakest = min(range(len(figures.classes)), key=lambda index: figures.f1[index])
    if figures.f1_low[weakest] > chance:
        return ""
    return (
        f"{figures.classes[weakest]} is told apart no better than by guessing "
        f"(F1 {_points(figures.f1[weakest])}, guessing gives {_points(chance)})"
    )


def _say_limits(figures: BenchmarkFigures) -> str:
    """What the excess could not be held against."""
    limits = [f"{control} did not train" for control in figures.failed_controls]
    if not {"blind", "ngram"} & set(figures.controls):
        limits.append("no blind baseline")
    if "reference" not in figures.controls:
        limits.append("no reference model")
    return f" ({', '.join(limits)})" if limits else ""


def _points(share: float) -> str:
    """Print a fraction in points with one decimal; never a negative zero."""
    return f"{round(100 * share, 1) + 0.0:.1f}".replace("-", "−")


# The benchmark table: from the long table of predictions to one row a taxonomy and source.

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
        predictions: as `mnemoscope.benchmark.excess` describes; all taxonomies and sources.
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


# Which input carries memory: the benchmark table once more for each kind of input.

INPUTS_SCHEMA = pl.Schema(
    {"taxonomy": pl.String, "input": pl.String}
    | {name: kind for name, kind in BENCHMARK_SCHEMA.items() if name != "taxonomy"}
)
"""The columns of the benchmark table, and `input` after the taxonomy."""

_SHARED = ("blind", "ngram")
"""They read tokens and not attention, so they stand beside every input alike."""

_CNNS = ("model", "control", "reference")

_REFERENCE_INPUT = {"difference": "mean"}
"""The reference has no difference from itself; its own maps stand beside the model's."""


def input_of(setting: str) -> str:
    """Name the input of a setting.

    >>> input_of("k6-f10-mean")
    'mean'
    """
    return setting.rpartition("-")[2]


def score_inputs(
    predictions: pl.DataFrame,
    runs: pl.DataFrame,
    classes: Mapping[str, Sequence[str]],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    control_settings: Sequence[str] | None = None,
    whole: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Judge every taxonomy on every input.

    Args:
        predictions: as for `score_benchmark`.
        runs: likewise.
        classes: likewise.
        n_resamples: bootstrap resamples.
        seed: of every bootstrap.
        control_settings: names of the model's settings that have controls; None: all.
        whole: the benchmark table of the same, taken over where there is a single input.

    Returns:
        Columns as in `INPUTS_SCHEMA`, one row a taxonomy, input and source (model, blind, ngram,
        reference, control), taxonomies in the order of `classes`, inputs in that of the runs.
    """
    own = runs.filter(pl.col("source") == "model")
    inputs = list(dict.fromkeys(map(input_of, own["setting"])))
    tables = []
    if whole is not None and len(inputs) == 1:
        same = whole.filter(pl.col("source").is_in([*_SHARED, *_CNNS]))
        return same.with_columns(pl.lit(inputs[0]).alias("input")).select(INPUTS_SCHEMA.names())
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
    order = {name: position for position, name in enumerate(classes)}
    position = pl.col("taxonomy").replace_strict(order, return_dtype=pl.Int64)
    whole = pl.concat(tables).select(INPUTS_SCHEMA.names())
    return whole.sort(position, maintain_order=True)


def _belongs_to(name: str) -> pl.Expr:
    """Rows of one input: its CNNs, those of its controls, and what reads tokens."""
    source, ending = pl.col("source"), pl.col("setting").str.split("-").list.last()
    reference = _REFERENCE_INPUT.get(name, name)
    return (
        (source.is_in(["model", "control"]) & (ending == name))
        | ((source == "reference") & (ending == reference))
        | source.is_in(list(_SHARED))
    )
