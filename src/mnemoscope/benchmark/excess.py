"""Excess alignment: what attention shows of a taxonomy beyond what needs no memory.

Min-F1 of the CNNs on the model's attention minus the largest of the controls: what the text alone
gives (the better of the CNNs on blind maps and the n-gram regression) and what the attention of a
model gives that never saw the sequences. The pairwise AUC has its excess too.

The interval says what other evaluation sequences (groups of near duplicates, within each class)
and other trainings would give, paired: the same for all sources. The excess is the smallest of the
differences from each control, so its lower end is the smallest of theirs (all must lie above zero:
an intersection-union test, Berger 1982, Technometrics 24, 295), and its upper end the smallest of
theirs that hold together (Bonferroni). Resampling the largest control itself would not do: of
equals the largest lies above by chance, and in each resample once more.

This is the figure to compare with the paper. The verdict rests on another one, which sees smaller
leads: `benchmark.gain`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mnemoscope import stats
from mnemoscope.benchmark.sources import TABLE
from mnemoscope.cnn.metrics import confusion_matrix, f1_per_class, resample_confusions
from mnemoscope.errors import DamagedDataError
from mnemoscope.taxonomy.draw import order_keys

ObjectiveName = Literal["excess", "min_f1", "auc", "auc_excess"]
OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)
"""What a search may maximize."""

FigureName = Literal["min_f1", "mean_f1"]
FIGURES: dict[FigureName, Callable[[stats.Floats], stats.Floats]] = {
    "min_f1": lambda confusions: f1_per_class(confusions).min(axis=-1),
    "mean_f1": lambda confusions: f1_per_class(confusions).mean(axis=-1),
}
"""What two taxonomies can be compared by: confusions (..., classes, classes) to one number each."""

SETTING = {"kernel": pl.Int64, "filters": pl.Int64, "input": pl.String}
"""Columns of a CNN's setting (`CnnSetting`) in predictions and runs; null where there is none."""
_RUN = [*SETTING, "seed", "epoch"]
_GRID = ("sequence_id", "true", "predicted")
_CHANCE_STREAM = 1  # keeps its draws apart from those of sequences
_DRAWS = 20
_BLOCK = 32
_SEED_STRIDE = 1 << 24  # resamples that a seed can have before it meets the next seed's


@dataclass(frozen=True)
class Votes:
    """All predictions of one source for one taxonomy."""

    sequence_ids: np.ndarray  # of the evaluation sequences, ascending, shape (n,), int64
    true: np.ndarray  # class index of each, shape (n,), int64
    predicted: np.ndarray  # shape (runs, n), int64; a run is one setting, seed and epoch
    seeds: np.ndarray  # seed of each run, shape (runs,), int64
    n_classes: int  # classes of the taxonomy
    # mean over runs, (n, classes), float64; where none were kept, the share of runs that
    # predicted the class
    probabilities: np.ndarray
    # probabilities of each training (a setting and a seed; its final weights), shape (trainings,
    # n, classes), float32; None where none were kept
    scores: np.ndarray | None = None
    # seed of each training, shape (trainings,); None with `scores`
    score_seeds: np.ndarray | None = None
    # number of the group of near duplicates that each sequence is in, (n,), int64; of a group of
    # its own the sequence's id. None: every sequence is one
    groups: np.ndarray | None = None

    @property
    def owners(self) -> np.ndarray:
        """The group of each sequence, itself where `groups` are None."""
        return self.sequence_ids if self.groups is None else self.groups

    def at(self, rows: np.ndarray) -> "Votes":
        """Keep the evaluation sequences at these positions only."""
        return replace(
            self,
            sequence_ids=self.sequence_ids[rows],
            true=self.true[rows],
            predicted=self.predicted[:, rows],
            probabilities=self.probabilities[rows],
            scores=None if self.scores is None else self.scores[:, rows],
            groups=None if self.groups is None else self.groups[rows],
        )


class Resamples(NamedTuple):
    """How often each sequence (resamples, n) and run (resamples, runs) counts; None: once."""

    sequences: NDArray[Any]
    runs: NDArray[np.integer] | None = None


@dataclass(frozen=True)
class Excess:
    """Excess alignment with its 95 % interval; fractions."""

    value: float  # on the evaluation sequences as they are
    low: float | None  # lower end; None where a class has too few groups to be drawn
    high: float | None  # upper end
    strongest: str  # the control with the largest min-F1
    min_f1: float | None = None  # of the model's attention, what the excess is counted from
    # the same for the AUC of each pair of `auc_pairs`, over the largest control of that pair;
    # None where no probabilities were kept
    auc: tuple[stats.Estimate, ...] | None = None
    # seeds of the CNNs, of the source that has fewest; None without CNNs
    n_trainings: int | None = None


@dataclass(frozen=True)
class PairedDifference:
    """A figure of one taxonomy minus the same figure of another; fractions.

    The interval uses the same weights for both, and is None where one has too few groups;
    `n_shared` sequences are in both evaluation sets.
    """

    value: float
    interval: stats.Interval | None
    n_shared: int
    n_first: int
    n_second: int


def _not_whole(where: str, found: str) -> DamagedDataError:
    return DamagedDataError(
        f"predictions of {where}: {found}. Run 'mnemoscope train' again: they are not whole."
    )


def collect_votes(predictions: pl.DataFrame, n_classes: int, *, where: str) -> Votes:
    """Arrange one taxonomy's predictions from one source, given in any order.

    Runs are in the order of setting, seed, epoch; sequences by id. `where` is for errors. Without a
    column `group` every sequence is a group of its own. Raises DamagedDataError: a run lacks a
    sequence or has one twice, a sequence has two true classes, or a class index is outside the
    taxonomy.
    """
    ordered = predictions.sort([*_RUN, "sequence_id"])
    runs = ordered.select(_RUN).unique(maintain_order=True)
    ids = ordered["sequence_id"].unique().sort().to_numpy()
    shape = (len(runs), len(ids))
    if ordered.height != runs.height * len(ids):
        found = f"{ordered.height} rows for {shape[0]} runs of {shape[1]} sequences"
        raise _not_whole(where, found)
    grid = {name: ordered[name].to_numpy().reshape(shape) for name in _GRID}
    predicted = grid["predicted"]
    if (grid["sequence_id"] != ids).any() or (grid["true"] != grid["true"][0]).any():
        raise _not_whole(where, "runs differ in their sequences or true classes")
    classes = np.concatenate([grid["true"], predicted])
    if classes.min() < 0 or classes.max() >= n_classes:
        found = f"class {classes.min()} to {classes.max()}, wanted 0 to {n_classes - 1}"
        raise _not_whole(where, found)
    votes = Votes(
        ids,
        grid["true"][0],
        predicted,
        runs["seed"].to_numpy(),
        n_classes,
        probabilities=np.eye(n_classes)[predicted].mean(axis=0),
        groups=ordered["group"].to_numpy()[: len(ids)] if "group" in ordered.columns else ids,
    )
    if "probabilities" not in ordered.columns or ordered["probabilities"].null_count():
        return votes
    kept = ordered["probabilities"].list.to_array(n_classes).to_numpy()
    by_run = kept.reshape(*predicted.shape, n_classes)
    # Epochs of one training share the probabilities of its final weights.
    last = runs.select(pl.struct(*SETTING, "seed").is_last_distinct()).to_series().to_numpy()
    return replace(
        votes,
        probabilities=by_run.mean(axis=0, dtype=np.float64),
        scores=by_run[last],
        score_seeds=votes.seeds[last],
    )


def why_no_interval(votes: Votes) -> str | None:
    """Say which class has too few groups of near duplicates for an interval; None if none has."""
    n_groups = stats.fewest_groups(votes.true, votes.owners)
    if n_groups >= stats.FEWEST_GROUPS:
        return None
    return (
        f"no interval: the evaluation sequences of a class are {n_groups} groups of near "
        f"duplicates, and {stats.FEWEST_GROUPS} are needed"
    )


def auc_pairs(n_classes: int) -> list[tuple[int, int]]:
    """Give the pairs of classes in their fixed order.

    >>> auc_pairs(3)
    [(0, 1), (0, 2), (1, 2)]
    """
    return list(combinations(range(n_classes), 2))


def pair_names(classes: Sequence[str]) -> list[str]:
    """Name the pairs in the order of `auc_pairs`.

    >>> pair_names(["Non-Memo", "Guess", "Recall"])
    ['Non-Memo | Guess', 'Non-Memo | Recall', 'Guess | Recall']
    """
    return [f"{classes[a]} | {classes[b]}" for a, b in auc_pairs(len(classes))]


def auc_of_each(
    votes: Votes, pair: tuple[int, int], sequences: NDArray[np.integer]
) -> stats.Floats:
    """AUC of two classes for every training and resample, (trainings, resamples); ties count half.

    `sequences` (resamples, n) says how often each counts, as from `draw_within`. Raises ValueError:
    no probabilities were kept.
    """
    rows = np.isin(votes.true, pair)
    is_first, drawn = votes.true[rows] == pair[0], sequences[:, rows]
    ratios = _ratios(votes, pair, rows)
    return np.stack([stats.resampled_auc(ratio, is_first, drawn)[1:] for ratio in ratios])


def estimate_auc(votes: Votes, *, seed: int, n_resamples: int) -> tuple[stats.Estimate, ...] | None:
    """AUC of every pair with its interval over evaluation sequences; None without probabilities."""
    if votes.scores is None:
        return None
    drawn = _draw_sequences(votes, seed, n_resamples)
    return tuple(
        stats.estimate_of(float(_auc(votes, pair, _once(votes))[0]), _auc(votes, pair, drawn))
        for pair in auc_pairs(votes.n_classes)
    )


def auc_by_chance(votes: Votes, *, seed: int) -> list[stats.Interval] | None:
    """The least and the largest AUC of every pair in twenty draws of permuted classes.

    The classes of the pair's groups of near duplicates are dealt out anew, readers as they are:
    what an AUC shows where the classes mean nothing. None without probabilities, or where a class
    has too few groups.
    """
    if votes.scores is None or why_no_interval(votes):
        return None
    generator, found = np.random.default_rng([seed, _CHANCE_STREAM]), []
    for pair in auc_pairs(votes.n_classes):
        rows = np.flatnonzero(np.isin(votes.true, pair))
        _, first, group = np.unique(votes.owners[rows], return_index=True, return_inverse=True)
        classes = votes.true[rows][first]
        if len(np.unique(classes)) < len(pair):  # groups that hold both
            return None
        dealt = np.array([generator.permutation(classes)[group] for _ in range(_DRAWS)])
        first_of = (dealt == pair[0]).astype(np.float64)
        n_first, n_other = first_of.sum(axis=1), (dealt == pair[1]).sum(axis=1)
        # the readers' order is of all deals one: what the first class has above its own ranks
        above = _midranks(_ratios(votes, pair, rows)) @ first_of.T - n_first * (n_first + 1) / 2
        drawn = (above / (n_first * n_other)).mean(axis=0)
        found.append(stats.Interval(float(drawn.min()), float(drawn.max())))
    return found


def _ratios(votes: Votes, pair: tuple[int, int], rows: NDArray[Any]) -> stats.Floats:
    """The first class's probability among the two, (trainings, rows); .5 where both are 0."""
    if votes.scores is None:
        raise ValueError("pairwise AUC: no class probabilities were kept")
    one, other = (votes.scores[:, rows, label].astype(np.float64) for label in pair)
    total = one + other
    return np.divide(one, total, out=np.full_like(total, 0.5), where=total > 0)


def _midranks(values: stats.Floats) -> stats.Floats:
    """Ranks along each row, from 1 on, equal values the mean of theirs."""
    ranked = []
    for row in values:
        _, place, counts = np.unique(row, return_inverse=True, return_counts=True)
        ranked.append((counts.cumsum() - (counts - 1) / 2)[place])
    return np.array(ranked)


def measure_excess(
    model: Votes,
    controls: Mapping[str, Votes],
    *,
    n_resamples: int,
    seed: int,
    reader: str = "model",
) -> Excess:
    """Measure the excess alignment of one taxonomy: its model's attention beyond its controls.

    A resample draws the sequences once for all sources. Sources that were run with the same seeds
    are paired by these too; a regression run once has none that could vary. Controls are of
    `sources.MEMORY_FREE` or nested, for the same sequences and classes; `reader` is the source
    that `model` is of. Raises ValueError: no control, or one that was evaluated on other sequences
    or classes.
    """
    sources = {"model": model, **controls}
    _check_pairs(sources)
    sequences = _draw_sequences(model, seed, n_resamples)
    varied = _vary_each(sources, sequences)
    strongest = max(controls, key=lambda name: varied[name].whole.value)
    _, low, high = _over_largest(varied)
    read = {reader: model, **controls}
    cnns = [len(np.unique(one.seeds)) for name, one in read.items() if TABLE[name].fit is None]
    found = Excess(
        value=varied["model"].whole.value - varied[strongest].whole.value,
        low=low,
        high=high,
        strongest=strongest,
        min_f1=varied["model"].whole.value,
        n_trainings=min(cnns, default=None),
    )
    if any(votes.scores is None for votes in sources.values()):
        return found
    pairs = auc_pairs(model.n_classes)
    of_pairs = [_over_largest(_vary_each(sources, sequences, pair)) for pair in pairs]
    return replace(found, auc=tuple(of_pairs))


def measure_objective(
    sources: Mapping[str, Votes], objective: ObjectiveName, *, seed: int = 0, n_resamples: int = 0
) -> stats.Estimate:
    """Measure one figure of the model, or how far it is above its controls.

    `excess` is min-F1 minus the largest control's; `auc` the mean over pairs of classes;
    `auc_excess` its mean over pairs less the largest control of each, whose ends are the means of
    the pairs' ends. With `n_resamples` 0 there are none. Raises ValueError: an excess without a
    control, or with one of other sequences or classes.
    """
    model, is_excess = sources["model"], objective in ("excess", "auc_excess")
    if is_excess:
        _check_pairs(sources)
    sequences = _draw_sequences(model, seed, n_resamples)
    used = sources if is_excess else {"model": model}
    if objective in ("excess", "min_f1"):
        varied = [_vary_each(used, sequences)]
    else:
        varied = [_vary_each(used, sequences, pair) for pair in auc_pairs(model.n_classes)]
    if is_excess:
        found = [_over_largest(one) for one in varied]
    else:
        whole = [one["model"].whole for one in varied]
        found = [stats.Estimate(one.value, *(one.ends() or (None, None))) for one in whole]
    value, low, high = (
        None if None in column else float(np.mean(column)) for column in zip(*found, strict=True)
    )
    return stats.Estimate(value, low, high)


def compare_objective(
    first: Mapping[str, Votes],
    second: Mapping[str, Votes],
    objective: ObjectiveName,
    *,
    seed: int,
    n_resamples: int,
) -> stats.Estimate:
    """One objective of a taxonomy's sources minus that of another's, each on its own sequences.

    A group of near duplicates has one weight in both; trainings of the two are independent. An
    excess is that over the control which is strongest as it is. No ends where one has too few
    groups.
    """
    votes = [one["model"] for one in (first, second)]
    many = 0 if any(map(why_no_interval, votes)) else n_resamples
    ids = np.unique(np.concatenate([one.owners for one in votes]))
    weights = _weights(ids, seed, range(many)) if many else np.empty((0, len(ids)))
    own, other = (
        _vary_objective(sources, objective, weights[:, np.searchsorted(ids, one.owners)])
        for sources, one in zip((first, second), votes, strict=True)
    )
    apart, without = own.value - other.value, own.without + other.without
    n_groups = min(own.n_groups, other.n_groups)
    found = stats.Varied(apart, own.draws - other.draws, without, n_groups)
    return stats.Estimate(apart, *(found.ends() or ()))


def _vary_objective(
    sources: Mapping[str, Votes], objective: ObjectiveName, sequences: NDArray[Any]
) -> stats.Varied:
    """An objective of the model, less that of each strongest control where it is an excess."""
    is_excess, n_classes = objective.endswith("excess"), sources["model"].n_classes
    pairs = auc_pairs(n_classes) if objective.startswith("auc") else [None]
    used = sources if is_excess else {"model": sources["model"]}
    terms = []
    for pair in pairs:
        varied = _vary_each(used, Resamples(sequences), pair)
        model, *controls = varied.pop("model"), *varied.values()
        terms.append((1 / len(pairs), model))
        if is_excess:
            strongest = max(controls, key=lambda one: one.whole.value)
            terms.append((-1 / len(pairs), strongest))
    without: dict[tuple[int, ...], stats.Floats] = {}
    for share, (whole, seeds) in terms:  # trainings with the same seeds are paired
        without[seeds] = without.get(seeds, 0.0) + share * whole.without[0]
    return stats.Varied(
        sum(share * one.whole.value for share, one in terms),
        np.sum([share * one.whole.draws for share, one in terms], axis=0),
        tuple(without.values()),
        terms[0][1].whole.n_groups,
    )


class _VariedSource(NamedTuple):
    """One source's figure with what it varies with, and the seeds it was run with."""

    whole: stats.Varied
    seeds: tuple[int, ...]


def _vary_each(
    sources: Mapping[str, Votes], sequences: Resamples, pair: tuple[int, int] | None = None
) -> dict[str, _VariedSource]:
    """Min-F1 of each source (the AUC of a `pair`): whole, resampled, without each seed in turn."""
    found = {}
    for name, votes in sources.items():

        def figure(drawn: Resamples, votes: Votes = votes) -> stats.Floats:
            if pair is not None:
                return _auc(votes, pair, drawn)
            # Settings and epochs are summed, as published.
            every = resample_confusions(votes.predicted, votes.true, votes.n_classes, *drawn)
            return FIGURES["min_f1"](every)

        of_runs = votes.seeds if pair is None else np.asarray(votes.score_seeds)
        seeds, once = np.unique(of_runs), _once(votes)
        without = np.empty(0)
        if len(seeds) > 1:
            kept = (of_runs != seeds[:, None]).astype(np.int64)
            without = figure(Resamples(np.repeat(once.sequences, len(seeds), axis=0), kept))
        n_groups = stats.fewest_groups(votes.true, votes.owners)
        varied = stats.Varied(float(figure(once)[0]), figure(sequences), (without,), n_groups)
        found[name] = _VariedSource(varied, tuple(seeds.tolist()))
    return found


def _over_largest(varied: Mapping[str, _VariedSource]) -> stats.Estimate:
    """The model's figure minus the largest of the others, with its interval."""
    gaps = [_gap(varied["model"], one) for name, one in varied.items() if name != "model"]
    value = min(gap.value for gap in gaps)
    pairs = [(gap.ends(), gap.ends(stats.TAIL / len(gaps))) for gap in gaps]
    low = min((one.low for one, _ in pairs if one), default=None)
    return stats.Estimate(value, low, min((one.high for _, one in pairs if one), default=None))


def _gap(model: _VariedSource, control: _VariedSource) -> stats.Varied:
    """The model's figure minus one control's; trainings with the same seeds are paired."""
    own, other = model.whole, control.whole
    if model.seeds == control.seeds:
        without: tuple[stats.Floats, ...] = (own.without[0] - other.without[0],)
    else:
        without = own.without + other.without
    return stats.Varied(own.value - other.value, own.draws - other.draws, without, own.n_groups)


def _auc(votes: Votes, pair: tuple[int, int], drawn: Resamples) -> stats.Floats:
    """AUC of two classes in each resample, averaged over the trainings that it holds."""
    each = auc_of_each(votes, pair, drawn.sequences)
    if drawn.runs is None:
        return np.asarray(each.mean(axis=0))
    return np.asarray((each * (drawn.runs.T / drawn.runs.sum(axis=1))).sum(axis=0))


def _check_pairs(sources: Mapping[str, Votes]) -> None:
    model = sources["model"]
    if len(sources) < 2:
        raise ValueError("excess: no control to hold the model's attention against")
    for name, votes in sources.items():
        same = np.array_equal(votes.sequence_ids, model.sequence_ids)
        if not (same and np.array_equal(votes.true, model.true)):
            raise ValueError(f"excess: {name} was evaluated on other sequences or classes")


def _once(votes: Votes) -> Resamples:
    return Resamples(np.ones((1, len(votes.true)), dtype=np.int32))


def _draw_sequences(votes: Votes, seed: int, n_resamples: int) -> Resamples:
    generator = np.random.default_rng(seed)
    return Resamples(stats.draw_within(votes.true, generator, n_resamples, groups=votes.owners))


def resample_jointly(
    votes: Mapping[str, Votes], *, n_resamples: int, seed: int
) -> dict[str, stats.Floats]:
    """Confusion matrices of every resample: by taxonomy, float64 (resamples, classes, classes).

    A group of near duplicates has one weight in all taxonomies, scaled within each class to its
    fixed size. The draws say how figures vary with other sequences, not with other CNNs. A taxonomy
    with too few groups for an interval is left out.
    """
    votes = {name: one for name, one in votes.items() if not why_no_interval(one)}
    owners = {name: one.owners for name, one in votes.items()}
    ids = np.unique(np.concatenate([*owners.values(), np.empty(0, dtype=np.int64)]))
    places = {name: np.searchsorted(ids, one) for name, one in owners.items()}
    ballots = {  # how many runs predicted each class, (n, classes)
        name: np.stack([(one.predicted == k).sum(axis=0) for k in range(one.n_classes)], axis=1)
        for name, one in votes.items()
    }
    drawn = {
        name: np.zeros((n_resamples, one.n_classes, one.n_classes)) for name, one in votes.items()
    }
    for start in range(0, n_resamples, _BLOCK):
        block = slice(start, min(start + _BLOCK, n_resamples))
        weights = _weights(ids, seed, range(block.start, block.stop))
        for name, one in votes.items():
            drawn[name][block] = _confusions(weights[:, places[name]], one.true, ballots[name])
    return drawn


def compare_pair(
    first: Votes,
    second: Votes,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    figure: FigureName = "min_f1",
) -> PairedDifference:
    """Difference of a figure between two taxonomies, each on its own evaluation sequences."""
    show = FIGURES[figure]
    value, other = (
        float(show(confusion_matrix(one.true, one.predicted, one.n_classes).astype(np.float64)))
        for one in (first, second)
    )
    pair = {"first": first, "second": second}
    drawn = resample_jointly(pair, n_resamples=n_resamples, seed=seed)
    return PairedDifference(
        value=value - other,
        interval=stats.interval_of(show(drawn["first"]) - show(drawn["second"]))
        if len(drawn) > 1
        else None,
        n_shared=len(np.intersect1d(first.sequence_ids, second.sequence_ids)),
        n_first=len(first.sequence_ids),
        n_second=len(second.sequence_ids),
    )


def _weights(ids: NDArray[np.int64], seed: int, resamples: range) -> stats.Floats:
    """Exponential weights, (resamples, ids), from keys that are uniform on 64 bits."""
    seeds = [(seed * _SEED_STRIDE + one) % (1 << 64) for one in resamples]
    keys = np.stack([order_keys(ids, one) for one in seeds])
    uniform = ((keys >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray(-np.log(uniform))


def _confusions(
    weights: stats.Floats, true: NDArray[np.int64], ballots: NDArray[np.int64]
) -> stats.Floats:
    """Weighted confusion matrices, (resamples, classes, classes)."""
    n_classes = ballots.shape[1]
    found = np.zeros((len(weights), n_classes, n_classes))
    for label in range(n_classes):
        members = np.flatnonzero(true == label)
        own = weights[:, members]
        scale = len(members) / own.sum(axis=1, keepdims=True)
        found[:, label] = scale * (own @ ballots[members].astype(np.float64))
    return found
