"""Resample several taxonomies at once: a sequence has one weight, in whichever of them it stands.

Taxonomies share most of their evaluation sequences, so their figures rise and fall together; an
interval of a difference that passes this over is too wide. A resample gives each sequence id an
exponential weight (Bayesian bootstrap: Rubin, Annals of Statistics 9, 1981, p. 130) that depends
on seed, resample and id alone: the interval of a pair is the same whatever else is compared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mnemoscope.benchmark.votes import Votes
from mnemoscope.cnn.intervals import Interval, interval_of
from mnemoscope.cnn.metrics import Floats, confusion_matrix, f1_per_class
from mnemoscope.taxonomy.draw import order_keys

__all__ = ["FIGURES", "FigureName", "PairedDifference", "compare_pair", "resample_jointly"]

FigureName = Literal["min_f1", "mean_f1"]

FIGURES: dict[FigureName, Callable[[Floats], Floats]] = {
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
) -> dict[str, Floats]:
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
    drawn: dict[str, Floats] = {
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


def _weights(ids: NDArray[np.int64], seed: int, resamples: range) -> Floats:
    """Exponential weights, (resamples, ids), from keys that are uniform on 64 bits."""
    seeds = [(seed * _SEED_STRIDE + one) % (1 << 64) for one in resamples]
    keys = np.stack([order_keys(ids, one) for one in seeds])
    uniform = ((keys >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    drawn: Floats = -np.log(uniform)
    return drawn


def _count_votes(votes: Votes) -> Floats:
    """How many runs predicted each class, (n, classes)."""
    columns = [(votes.predicted == label).sum(axis=0) for label in range(votes.n_classes)]
    return np.stack(columns, axis=1).astype(np.float64)


def _confusions(weights: Floats, true: NDArray[np.int64], ballots: Floats) -> Floats:
    """Weighted confusion matrices, (resamples, classes, classes)."""
    n_classes = ballots.shape[1]
    found = np.zeros((len(weights), n_classes, n_classes))
    for label in range(n_classes):
        members = np.flatnonzero(true == label)
        own = weights[:, members]
        scale = len(members) / own.sum(axis=1, keepdims=True)
        found[:, label] = scale * (own @ ballots[members])
    return found
