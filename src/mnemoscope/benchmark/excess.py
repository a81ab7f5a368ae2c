"""Excess alignment: what attention shows of a taxonomy beyond what needs no memory.

Min-F1 of the CNNs on the model's attention minus the larger of what the text alone gives (the
better of the CNNs on blind maps and the n-gram regression) and what the attention of a model
gives that never saw the sequences. The interval is a paired bootstrap over evaluation
sequences (within each class, whose sizes are fixed by the design) and seeds. The pairwise AUC
has its excess too, from the same draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mnemoscope.cnn.metrics import (
    Resamples,
    confusion_matrix,
    draw_resamples,
    f1_per_class,
    min_f1_of_each,
    resample_confusions,
)
from mnemoscope.errors import DamagedDataError
from mnemoscope.stats import Floats as paired_Floats
from mnemoscope.stats import Interval, interval_of
from mnemoscope.taxonomy.sample import order_keys

# Turn the long table of predictions into arrays: one `Votes` a source.

_RUN = ["setting", "seed", "epoch"]
_GRID = ("sequence_id", "true", "predicted")


@dataclass(frozen=True)
class Votes:
    """All predictions of one source for one taxonomy.

    Attributes:
        sequence_ids: of the evaluation sequences, ascending, shape (n,), int64.
        true: class index of each, shape (n,), int64.
        predicted: shape (runs, n), int64; a run is one setting, seed and epoch.
        seeds: seed of each run, shape (runs,), int64.
        n_classes: classes of the taxonomy.
        probabilities: of each class, mean over runs, shape (n, classes), float64; where none
            were kept, the share of runs that predicted the class.
        scores: probabilities of each training (a setting and a seed; its final weights), shape
            (trainings, n, classes), float32; None where none were kept.
        score_seeds: seed of each training, shape (trainings,); None with `scores`.
    """

    sequence_ids: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    seeds: np.ndarray
    n_classes: int
    probabilities: np.ndarray
    scores: np.ndarray | None = None
    score_seeds: np.ndarray | None = None

    def at(self, rows: np.ndarray) -> "Votes":
        """Keep the evaluation sequences at these positions only."""
        return replace(
            self,
            sequence_ids=self.sequence_ids[rows],
            true=self.true[rows],
            predicted=self.predicted[:, rows],
            probabilities=self.probabilities[rows],
            scores=None if self.scores is None else self.scores[:, rows],
        )


def collect_votes(predictions: pl.DataFrame, n_classes: int, *, where: str) -> Votes:
    """Arrange the predictions of one taxonomy and source.

    Args:
        predictions: their rows, in any order, at least one.
        n_classes: classes of the taxonomy.
        where: taxonomy and source, for errors.

    Returns:
        Runs in the order of setting, seed, epoch; sequences in the order of their ids.

    Raises:
        DamagedDataError: a run lacks a sequence or has one twice, a sequence has two true
            classes, or a class index is outside the taxonomy.
    """
    ordered = predictions.sort([*_RUN, "sequence_id"])
    runs = ordered.select(_RUN).unique(maintain_order=True)
    ids = ordered["sequence_id"].unique().sort().to_numpy()
    shape = (len(runs), len(ids))
    repair = "Run 'mnemoscope train' again: the predictions are not whole."
    if ordered.height != runs.height * len(ids):
        raise DamagedDataError(
            f"predictions of {where}: {ordered.height} rows for {shape[0]} runs of {shape[1]} "
            f"sequences. {repair}"
        )
    grid = {name: ordered[name].to_numpy().reshape(shape) for name in _GRID}
    if (grid["sequence_id"] != ids).any() or (grid["true"] != grid["true"][0]).any():
        raise DamagedDataError(
            f"predictions of {where}: runs differ in their sequences or true classes. {repair}"
        )
    classes = np.concatenate([grid["true"], grid["predicted"]])
    if classes.min() < 0 or classes.max() >= n_classes:
        raise DamagedDataError(
            f"predictions of {where}: class {classes.min()} to {classes.max()}, wanted 0 to "
            f"{n_classes - 1}. {repair}"
        )
    votes = Votes(
        sequence_ids=ids,
        true=grid["true"][0],
        predicted=grid["predicted"],
        seeds=runs["seed"].to_numpy(),
        n_classes=n_classes,
        probabilities=np.eye(n_classes)[grid["predicted"]].mean(axis=0),
    )
    return _with_probabilities(votes, ordered, runs)


def _with_probabilities(votes: Votes, ordered: pl.DataFrame, runs: pl.DataFrame) -> Votes:
    """Add the class probabilities where they were kept; epochs of one training share theirs."""
    if "probabilities" not in ordered.columns or ordered["probabilities"].null_count():
        return votes
    kept = ordered["probabilities"].list.to_array(votes.n_classes).to_numpy()
    by_run = kept.reshape(*votes.predicted.shape, votes.n_classes)
    last = runs.select(pl.struct("setting", "seed").is_last_distinct()).to_series().to_numpy()
    return replace(
        votes,
        probabilities=by_run.mean(axis=0, dtype=np.float64),
        scores=by_run[last],
        score_seeds=votes.seeds[last],
    )


# Pairwise AUC: how well each two classes are told apart, whatever becomes of the others.

Floats = NDArray[np.float64]


class PairwiseAuc(NamedTuple):
    """AUC of every pair of classes, in the order of `auc_pairs`, with 95 % intervals."""

    values: tuple[float, ...]
    intervals: tuple[Interval, ...]


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


def auc_of_each(votes: Votes, pair: tuple[int, int], sequences: NDArray[np.int32]) -> Floats:
    """AUC of two classes for every training and resample.

    A tie counts half; where neither class was given any probability the ratio is 0.5.

    Args:
        votes: of one source, with the probabilities of each training.
        pair: the two classes' indices.
        sequences: how often each sequence counts in each resample, (resamples, n); both classes
            keep their sizes, as `draw_resamples` draws them.

    Returns:
        Fractions, shape (trainings, resamples).

    Raises:
        ValueError: no probabilities were kept.
    """
    if votes.scores is None:
        raise ValueError("pairwise AUC: no class probabilities were kept")
    first, second = (np.flatnonzero(votes.true == label) for label in pair)
    one, other = (votes.scores[..., label].astype(np.float64) for label in pair)
    total = one + other
    ratios = np.divide(one, total, out=np.full_like(total, 0.5), where=total > 0)
    above, below = (sequences[:, rows].astype(np.float64) for rows in (first, second))
    n_pairs = above.sum(axis=1) * below.sum(axis=1)
    areas = [_area(ratio[first], ratio[second], above, below) for ratio in ratios]
    shares: Floats = np.stack(areas) / n_pairs
    return shares


def bootstrap_auc(votes: Votes, *, seed: int, n_resamples: int) -> PairwiseAuc | None:
    """AUC of every pair with percentile intervals over evaluation sequences.

    Args:
        votes: of one source.
        seed: of the draws; the same seed draws the same sequences as for the other figures.
        n_resamples: how many.

    Returns:
        None where no class probabilities were kept.
    """
    if votes.scores is None:
        return None
    once = np.ones((1, len(votes.true)), dtype=np.int32)
    drawn = draw_resamples(votes.true, seed=seed, n_resamples=n_resamples).sequences
    values, intervals = [], []
    for pair in auc_pairs(votes.n_classes):
        values.append(float(auc_of_each(votes, pair, once).mean()))
        intervals.append(interval_of(auc_of_each(votes, pair, drawn).mean(axis=0)))
    return PairwiseAuc(tuple(values), tuple(intervals))


def mean_auc(votes: Votes, pair: tuple[int, int], resamples: Resamples) -> Floats:
    """AUC of two classes in each resample, averaged over the trainings that it holds.

    Args:
        votes: of one source.
        pair: the two classes' indices.
        resamples: of sequences and of the source's trainings (None: each once).

    Returns:
        Fractions, shape (resamples,).
    """
    each = auc_of_each(votes, pair, resamples.sequences)
    if resamples.runs is None:
        mean: Floats = each.mean(axis=0)
        return mean
    weights = resamples.runs.T / resamples.runs.sum(axis=1)
    weighted: Floats = (each * weights).sum(axis=0)
    return weighted


def measures_auc(sources: Mapping[str, Votes]) -> bool:
    """Say whether every source kept the probabilities of its trainings."""
    return all(votes.scores is not None for votes in sources.values())


def _area(above: Floats, below: Floats, weights: Floats, counterweights: Floats) -> Floats:
    """Weighted number of pairs in the right order, ties half, for every resample.

    Args:
        above: scores of the class that should score higher, (m,).
        below: scores of the other, (k,).
        weights: how often each of the former counts, (resamples, m).
        counterweights: of the latter, (resamples, k).
    """
    order = np.argsort(below, kind="stable")
    passed = np.zeros((len(weights), len(below) + 1))
    np.cumsum(counterweights[:, order], axis=1, out=passed[:, 1:])
    ranked = below[order]
    lower, upper = (np.searchsorted(ranked, above, side=side) for side in ("left", "right"))
    area: Floats = np.einsum("rm,rm->r", weights, passed[:, lower])
    area += np.einsum("rm,rm->r", weights, passed[:, upper])
    return area / 2


# Excess alignment: what attention shows of a taxonomy beyond what needs no memory.

CONTROLS = ("blind", "ngram", "reference")
"""Sources that a min-F1 is held against; the largest counts."""

_SEEDS_STREAM = 1
"""Keeps the draws of seeds apart from those of sequences."""


@dataclass(frozen=True)
class Excess:
    """Excess alignment with its 95 % interval; fractions.

    Attributes:
        value: on the evaluation sequences as they are.
        low: 2.5th percentile over resamples.
        high: 97.5th percentile.
        strongest: the control with the largest min-F1.
        min_f1: of the model's attention, what the excess is counted from.
        auc: the same difference in the AUC of each pair of classes, in the order of `auc_pairs`,
            over the largest control of that pair; None where no probabilities were kept.
        auc_intervals: their intervals; None with `auc`.
    """

    value: float
    low: float
    high: float
    strongest: str
    min_f1: float | None = None
    auc: tuple[float, ...] | None = None
    auc_intervals: tuple[Interval, ...] | None = None


def measure_excess(
    model: Votes, controls: Mapping[str, Votes], *, n_resamples: int, seed: int
) -> Excess:
    """Measure the excess alignment of one taxonomy.

    The largest control is chosen anew within each resample, so the interval carries the
    uncertainty of that choice too. A resample draws the sequences once for all sources and the
    seeds once for all sources that were run with the same seeds; the others (a regression run
    once, say) draw among their own.

    Args:
        model: predictions from the model's attention.
        controls: predictions of one or more of `CONTROLS`, for the same sequences and classes.
        n_resamples: bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        The excess, its interval and the control it is over.

    Raises:
        ValueError: no control, or one that was evaluated on other sequences or classes.
    """
    _check_pairs(model, controls)
    sources = {"model": model, **controls}
    sequences = draw_resamples(model.true, seed=seed, n_resamples=n_resamples).sequences
    observed, drawn = _min_f1_of_all(sources, sequences, seed)
    low, high = interval_of(over_largest(drawn))
    strongest = max(controls, key=lambda name: observed[name])
    found = Excess(observed["model"] - observed[strongest], low, high, strongest, observed["model"])
    if not measures_auc(sources):
        return found
    values, intervals = _auc_excess(sources, sequences, n_resamples, seed)
    return replace(found, auc=values, auc_intervals=intervals)


def min_f1_gap(
    model: Votes, other: Votes, *, n_resamples: int, seed: int
) -> tuple[float, Interval]:
    """Min-F1 of the CNNs minus that of another reader of the same sequences.

    Sequences and seeds are drawn as by `measure_excess`.

    Args:
        model: predictions of the CNNs.
        other: predictions of the other reader.
        n_resamples: bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        The difference, a fraction, and its paired 95 % interval.

    Raises:
        ValueError: the other was evaluated on other sequences or classes.
    """
    _check_pairs(model, {"other": other})
    sources = {"model": model, "other": other}
    sequences = draw_resamples(model.true, seed=seed, n_resamples=n_resamples).sequences
    observed, drawn = _min_f1_of_all(sources, sequences, seed)
    return observed["model"] - observed["other"], interval_of(drawn["model"] - drawn["other"])


def _min_f1_of_all(
    sources: Mapping[str, Votes], sequences: NDArray[np.int32], seed: int
) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
    """Each source's min-F1 as it is, and in every resample of the sequences and of the seeds."""
    once = Resamples(np.ones((1, sequences.shape[1]), dtype=np.int32), None)
    observed = {name: float(min_f1_drawn(votes, once)[0]) for name, votes in sources.items()}
    seeds = {name: votes.seeds for name, votes in sources.items()}
    runs = draw_seeds(seeds, len(sequences), np.random.default_rng([seed, _SEEDS_STREAM]))
    drawn = {
        name: min_f1_drawn(votes, Resamples(sequences, runs[name]))
        for name, votes in sources.items()
    }
    return observed, drawn


def _auc_excess(
    sources: Mapping[str, Votes], sequences: NDArray[np.int32], n_resamples: int, seed: int
) -> tuple[tuple[float, ...], tuple[Interval, ...]]:
    """The model's AUC minus the largest control's, pair by pair, with paired intervals."""
    seeds = {name: votes.score_seeds for name, votes in sources.items()}
    runs = draw_seeds(seeds, n_resamples, np.random.default_rng([seed, _SEEDS_STREAM]))
    once = Resamples(np.ones((1, sequences.shape[1]), dtype=np.int32), None)
    values, intervals = [], []
    for pair in auc_pairs(sources["model"].n_classes):
        observed = {name: mean_auc(votes, pair, once) for name, votes in sources.items()}
        drawn = {
            name: mean_auc(votes, pair, Resamples(sequences, runs[name]))
            for name, votes in sources.items()
        }
        values.append(float(over_largest(observed)[0]))
        intervals.append(interval_of(over_largest(drawn)))
    return tuple(values), tuple(intervals)


def over_largest(figures: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """The model's figure minus the largest of the others, for every resample."""
    others = [values for name, values in figures.items() if name != "model"]
    difference: NDArray[np.float64] = figures["model"] - np.max(others, axis=0)
    return difference


def _check_pairs(model: Votes, controls: Mapping[str, Votes]) -> None:
    """Refuse a pairing that is none."""
    if not controls:
        raise ValueError("excess: no control to hold the model's attention against")
    for name, votes in controls.items():
        same = np.array_equal(votes.sequence_ids, model.sequence_ids)
        if not (same and np.array_equal(votes.true, model.true)):
            raise ValueError(f"excess: {name} was evaluated on other sequences or classes")


def draw_seeds(
    seeds_of: Mapping[str, np.ndarray | None], n_resamples: int, generator: np.random.Generator
) -> dict[str, NDArray[np.int32]]:
    """Draw seeds with replacement, once for all sources that share them; a run as its seed.

    Returns:
        For each source how often each of its runs counts, int32 (resamples, runs).
    """
    drawn: dict[tuple[int, ...], NDArray[np.int32]] = {}
    weights = {}
    for name, of_runs in seeds_of.items():
        seeds, seed_of_run = np.unique(np.asarray(of_runs), return_inverse=True)
        key = tuple(seeds.tolist())
        if key not in drawn:
            share = np.full(len(seeds), 1 / len(seeds))
            drawn[key] = generator.multinomial(len(seeds), share, n_resamples).astype(np.int32)
        weights[name] = drawn[key][:, seed_of_run]
    return weights


def min_f1_drawn(votes: Votes, resamples: Resamples) -> NDArray[np.float64]:
    """Min-F1 of one source in each resample, settings and epochs summed as published."""
    return min_f1_of_each(
        resample_confusions(votes.predicted, votes.true, votes.n_classes, resamples)
    )


# What a search maximizes: excess alignment, min-F1, mean pairwise AUC or the excess of that.

ObjectiveName = Literal["excess", "min_f1", "auc", "auc_excess"]
OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)


_Drawn = Mapping[str, Resamples]


@dataclass(frozen=True)
class Objective:
    """One figure with its 95 % interval (both ends the value where none was asked for)."""

    value: float
    low: float
    high: float


def measure_objective(
    sources: Mapping[str, Votes],
    objective: ObjectiveName,
    *,
    seed: int = 0,
    n_resamples: int = 0,
) -> Objective:
    """Measure what is maximized.

    `excess` is min-F1 minus the largest control's, as `measure_excess`; `auc` the mean over the
    pairs of classes; `auc_excess` its mean over the pairs after the largest control of each pair
    is taken off.

    Args:
        sources: predictions of `model` and of its controls on the same sequences; with class
            probabilities for the two figures of AUC.
        objective: which figure.
        seed: of the bootstrap over sequences (paired, within each class) and seeds.
        n_resamples: 0 for the figure alone.

    Raises:
        ValueError: an excess without a control.
    """
    if len(sources) < 2 and objective in ("excess", "auc_excess"):
        raise ValueError("excess: no control to hold the model's attention against")
    true = sources["model"].true
    once = Resamples(np.ones((1, len(true)), dtype=np.int32), None)
    value = float(_figure(sources, objective, dict.fromkeys(sources, once))[0])
    if not n_resamples:
        return Objective(value, value, value)
    sequences = draw_resamples(true, seed=seed, n_resamples=n_resamples).sequences
    is_auc = objective in ("auc", "auc_excess")
    seeds = {name: one.score_seeds if is_auc else one.seeds for name, one in sources.items()}
    runs = draw_seeds(seeds, n_resamples, np.random.default_rng([seed, _SEEDS_STREAM]))
    drawn = {name: Resamples(sequences, runs[name]) for name in sources}
    low, high = interval_of(_figure(sources, objective, drawn))
    return Objective(value, low, high)


def _figure(
    sources: Mapping[str, Votes], objective: ObjectiveName, drawn: _Drawn
) -> NDArray[np.float64]:
    """The figure in every resample, shape (resamples,)."""
    model = sources["model"]
    if objective == "min_f1":
        return min_f1_drawn(model, drawn["model"])
    if objective == "excess":
        return over_largest({name: min_f1_drawn(one, drawn[name]) for name, one in sources.items()})
    pairs = auc_pairs(model.n_classes)
    if objective == "auc":
        of_pairs = [mean_auc(model, pair, drawn["model"]) for pair in pairs]
    else:
        of_pairs = [
            over_largest({name: mean_auc(one, pair, drawn[name]) for name, one in sources.items()})
            for pair in pairs
        ]
    mean: NDArray[np.float64] = np.mean(of_pairs, axis=0)
    return mean


# Resample several taxonomies at once: a sequence has one weight, in whichever of them it stands.

FigureName = Literal["min_f1", "mean_f1"]

FIGURES: dict[FigureName, Callable[[paired_Floats], paired_Floats]] = {
    "min_f1": lambda confusions: f1_per_class(confusions).min(axis=-1),
    "mean_f1": lambda confusions: f1_per_class(confusions).mean(axis=-1),
}
"""What two taxonomies can be compared by: confusions (..., classes, classes) to one number each."""

_BLOCK = 32
_SEED_STRIDE = 1 << 24
"""Resamples that a seed can have before it meets the next seed's."""


@dataclass(frozen=True)
class PairedDifference:
    """A figure of one taxonomy minus the same figure of another; fractions.

    Attributes:
        value: on the evaluation sequences as they are.
        interval: 95 % interval over the resamples, the same weights for both.
        n_shared: evaluation sequences that both have.
        n_first: evaluation sequences of the first.
        n_second: evaluation sequences of the second.
    """

    value: float
    interval: Interval
    n_shared: int
    n_first: int
    n_second: int


def resample_jointly(
    votes: Mapping[str, Votes], *, n_resamples: int, seed: int
) -> dict[str, paired_Floats]:
    """Confusion matrices of every resample for every taxonomy.

    Within a class the weights are scaled to the class's size, which the design fixes. The CNNs
    stay as they are: the draws say how figures vary with other sequences, not with other CNNs.

    Args:
        votes: predictions of each taxonomy; sequence ids mean the same sequence everywhere.
        n_resamples: how many resamples.
        seed: of the weights.

    Returns:
        For each name float64 (resamples, classes, classes), rows true, summed over runs.
    """
    ids = np.unique(np.concatenate([one.sequence_ids for one in votes.values()]))
    places = {name: np.searchsorted(ids, one.sequence_ids) for name, one in votes.items()}
    ballots = {name: _count_votes(one) for name, one in votes.items()}
    drawn: dict[str, paired_Floats] = {
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
    """Difference of a figure between two taxonomies on the evaluation sequences of either.

    Args:
        first: predictions for one taxonomy.
        second: predictions for another, with classes of its own.
        n_resamples: how many resamples.
        seed: of the weights.
        figure: `min_f1` or `mean_f1`.

    Returns:
        Figure of `first` minus figure of `second`, its interval and how many sequences they share.
    """
    pair = {"first": first, "second": second}
    show = FIGURES[figure]
    values = {
        name: float(
            show(confusion_matrix(one.true, one.predicted, one.n_classes).astype(np.float64))
        )
        for name, one in pair.items()
    }
    drawn = resample_jointly(pair, n_resamples=n_resamples, seed=seed)
    return PairedDifference(
        value=values["first"] - values["second"],
        interval=interval_of(show(drawn["first"]) - show(drawn["second"])),
        n_shared=len(np.intersect1d(first.sequence_ids, second.sequence_ids)),
        n_first=len(first.sequence_ids),
        n_second=len(second.sequence_ids),
    )


def _weights(ids: NDArray[np.int64], seed: int, resamples: range) -> paired_Floats:
    """Exponential weights, (resamples, ids), from keys that are uniform on 64 bits."""
    seeds = [(seed * _SEED_STRIDE + one) % (1 << 64) for one in resamples]
    keys = np.stack([order_keys(ids, one) for one in seeds])
    uniform = ((keys >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    drawn: paired_Floats = -np.log(uniform)
    return drawn


def _count_votes(votes: Votes) -> paired_Floats:
    """How many runs predicted each class, (n, classes)."""
    columns = [(votes.predicted == label).sum(axis=0) for label in range(votes.n_classes)]
    return np.stack(columns, axis=1).astype(np.float64)


def _confusions(
    weights: paired_Floats, true: NDArray[np.int64], ballots: paired_Floats
) -> paired_Floats:
    """Weighted confusion matrices, (resamples, classes, classes)."""
    n_classes = ballots.shape[1]
    found = np.zeros((len(weights), n_classes, n_classes))
    for label in range(n_classes):
        members = np.flatnonzero(true == label)
        own = weights[:, members]
        scale = len(members) / own.sum(axis=1, keepdims=True)
        found[:, label] = scale * (own @ ballots[members])
    return found
