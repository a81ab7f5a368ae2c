"""Excess alignment: what attention shows of a taxonomy beyond what needs no memory.

Min-F1 of the CNNs on the model's attention minus the larger of what the text alone gives (the
better of the CNNs on blind maps and the n-gram regression) and what the attention of a model
gives that never saw the sequences. The interval is a paired bootstrap over evaluation
sequences (within each class, whose sizes are fixed by the design) and seeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnemoscope.benchmark.votes import Votes
from mnemoscope.cnn.intervals import (
    Resamples,
    draw_resamples,
    interval_of,
    min_f1_of_each,
    resample_confusions,
)

__all__ = ["CONTROLS", "Excess", "measure_excess"]

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
    """

    value: float
    low: float
    high: float
    strongest: str


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
    once = Resamples(np.ones((1, len(model.true)), dtype=np.int32), None)
    observed = {name: float(_min_f1(votes, once)[0]) for name, votes in sources.items()}
    sequences = draw_resamples(model.true, seed=seed, n_resamples=n_resamples).sequences
    runs = _draw_runs(sources, n_resamples, np.random.default_rng([seed, _SEEDS_STREAM]))
    drawn = {
        name: _min_f1(votes, Resamples(sequences, runs[name])) for name, votes in sources.items()
    }
    differences = drawn["model"] - np.max([drawn[name] for name in controls], axis=0)
    low, high = interval_of(differences)
    strongest = max(controls, key=lambda name: observed[name])
    return Excess(observed["model"] - observed[strongest], low, high, strongest)


def _check_pairs(model: Votes, controls: Mapping[str, Votes]) -> None:
    """Refuse a pairing that is none."""
    if not controls:
        raise ValueError("excess: no control to hold the model's attention against")
    for name, votes in controls.items():
        same = np.array_equal(votes.sequence_ids, model.sequence_ids)
        if not (same and np.array_equal(votes.true, model.true)):
            raise ValueError(f"excess: {name} was evaluated on other sequences or classes")


def _draw_runs(
    sources: Mapping[str, Votes], n_resamples: int, generator: np.random.Generator
) -> dict[str, NDArray[np.int32]]:
    """Draw seeds with replacement, once for all sources that share them; a run as its seed.

    Returns:
        For each source how often each of its runs counts, int32 (resamples, runs).
    """
    drawn: dict[tuple[int, ...], NDArray[np.int32]] = {}
    weights = {}
    for name, votes in sources.items():
        seeds, seed_of_run = np.unique(votes.seeds, return_inverse=True)
        key = tuple(seeds.tolist())
        if key not in drawn:
            share = np.full(len(seeds), 1 / len(seeds))
            drawn[key] = generator.multinomial(len(seeds), share, n_resamples).astype(np.int32)
        weights[name] = drawn[key][:, seed_of_run]
    return weights


def _min_f1(votes: Votes, resamples: Resamples) -> NDArray[np.float64]:
    """Min-F1 of one source in each resample, settings and epochs summed as published."""
    return min_f1_of_each(
        resample_confusions(votes.predicted, votes.true, votes.n_classes, resamples)
    )
