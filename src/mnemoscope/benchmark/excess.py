"""Excess alignment: what attention shows of a taxonomy beyond what needs no memory.

Min-F1 of the CNNs on the model's attention minus the larger of what the text alone gives (the
better of the CNNs on blind maps and the n-gram regression) and what the attention of a model
gives that never saw the sequences. The interval is a paired bootstrap over evaluation
sequences (within each class, whose sizes are fixed by the design) and seeds. The pairwise AUC
has its excess too, from the same draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mnemoscope.benchmark.auc import auc_pairs, mean_auc, measures_auc
from mnemoscope.benchmark.votes import Votes
from mnemoscope.cnn.intervals import (
    Interval,
    Resamples,
    draw_resamples,
    interval_of,
    min_f1_of_each,
    resample_confusions,
)

__all__ = [
    "CONTROLS",
    "Excess",
    "draw_seeds",
    "measure_excess",
    "min_f1_drawn",
    "min_f1_gap",
    "over_largest",
]

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
