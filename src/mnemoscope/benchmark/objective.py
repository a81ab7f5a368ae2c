"""What a search maximizes: excess alignment, min-F1, mean pairwise AUC or the excess of that.

One figure from the predictions of a taxonomy's model and controls, with a paired interval.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mnemoscope.benchmark.auc import auc_pairs, mean_auc
from mnemoscope.benchmark.excess import draw_seeds, min_f1_drawn, over_largest
from mnemoscope.benchmark.votes import Votes
from mnemoscope.cnn.intervals import Resamples, draw_resamples, interval_of

__all__ = ["OBJECTIVES", "Objective", "ObjectiveName", "measure_objective"]

ObjectiveName = Literal["excess", "min_f1", "auc", "auc_excess"]
OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)

_SEEDS_STREAM = 1
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
