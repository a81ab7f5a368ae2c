"""What attention adds to the text, beyond what the attention of a model without memory adds.

The figure that the verdict rests on. Two pools tell the classes apart: the readers of the text with
the reader of the model's attention, and the same with the reader of the reference model's. A pool
weighs its readers' log-probabilities,
p(class) ∝ exp(b_class + Σ weight · log p_reader(class)), and is fitted to other groups of near
duplicates than it is asked of. The gain is the difference of their mean log scores, in nats a
sequence, each group counted once: ten windows of one licence are one text.

Both pools have equally many readers. So a model that shows the text as well as the reference does,
and nothing else, gains nothing on average. A pool of text, reference and model beside one of text
and reference would not do: a third reading of the same text sharpens the other two, and without any
memory such a nested gain is found above zero in up to a third of studies
(`experiments/verdicts/run.py`).

The interval holds for other evaluation sequences (groups of near duplicates, classes of fixed
size), for other training sequences (`OF_TRAINING`), and for other seeds (`between_trainings`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnemoscope import stats
from mnemoscope.benchmark.excess import Votes
from mnemoscope.cnn.metrics import confusion_matrix, min_f1

OF_TRAINING = 0.3
"""What a training sequence adds to the variance, as a share of what an evaluation sequence does.

So it adds most in folds, and less where few sequences are asked. Chosen by simulation and tried on
other studies (`docs/verdicts.md`): with 0 up to an eighth of intervals miss; 1, as in Nadeau and
Bengio 2003 (Machine Learning 52, 239), is wider than need be.
"""
POWER = 0.8  # share of studies that a gain "seen" is found in, as is usual
SPREAD = 0.3
"""Standard deviation of what a group gains, nats: a guess from before a study.

0.24 in simulated studies of equals, 0.36 of leads; of the embedded model up to 0.22.
"""
SPREADS = (0.24, 0.66)
"""Least and largest of the studies of known truth, trainings included: what one is said to see.

Of texts that nobody read, and of texts inserted into the training (`experiments/known_truth`).
"""
_FOLDS = 5
_LEAST = 1e-6  # probability; below it float32 softmax has no digits to tell apart
_SHRINKAGE = 1.0  # of the weights; keeps them finite where classes are wholly told apart


class Gain(NamedTuple):
    """What the model's attention adds over the reference's; nats a sequence."""

    value: float
    low: float
    high: float
    seen: float  # the smallest true gain that such a study finds above zero in 80 % of cases
    left: float  # log loss of text and reference: the most that could be gained
    min_f1: float  # of the pool with the model, fraction
    min_f1_without: float  # of the pool with the reference, fraction


def measure_gain(
    model: Votes, reference: Votes, text: Sequence[Votes], *, n_trained: float
) -> Gain:
    """Measure what the model's attention adds to the text beyond the reference's.

    `text` are the readers of the text alone, `n_trained` is the number of training sequences of
    each fit. Sources with the same seeds are paired by these. Raises ValueError: a source without
    probabilities, or one of other sequences or classes.
    """
    for votes in (model, reference, *text):
        same = np.array_equal(votes.sequence_ids, model.sequence_ids)
        if votes.scores is None or not same or not np.array_equal(votes.true, model.true):
            raise ValueError("gain: a source has no probabilities, or other sequences or classes")
    true, n_classes = model.true, model.n_classes
    _, first, group = np.unique(model.owners, return_index=True, return_inverse=True)
    sizes, class_of_group = np.bincount(group), true[first]

    def by_group(logs: stats.Floats) -> stats.Floats:
        """Mean log score of each group's sequences."""
        scores = logs[np.arange(len(true)), true]
        return np.asarray(np.bincount(group, scores) / sizes)

    folds = pool_folds(true, model.owners)
    pools = [Pool(true, folds, [*text, one]) for one in (model, reference)]
    own, other = (one.predict() for one in pools)  # (n, classes)
    gains = by_group(own) - by_group(other)  # (groups,)
    value, n_groups = float(gains.mean()), len(gains)
    # Around the means of the classes, as classes are of fixed size.
    class_means = np.bincount(class_of_group, gains, n_classes) / np.bincount(
        class_of_group, minlength=n_classes
    )
    squares = float(((gains - class_means[class_of_group]) ** 2).sum())
    variance = squares / (n_groups - n_classes) / n_groups
    fewest = stats.fewest_groups(true, model.owners)
    parts = [(variance * (1 + OF_TRAINING * len(true) / n_trained), fewest - 1)]
    seeds = np.unique(np.asarray(model.score_seeds))
    if len(seeds) > 1:
        each = [[by_group(pool.predict(seed)) for pool in pools] for seed in seeds]
        without = np.stack([one - other for one, other in each])  # (seeds, groups)
        parts.append((between_trainings(without), len(seeds) - 1))
    return Gain(
        value,
        *stats.t_interval(value, parts),
        seen=stats.smallest_seen(parts, POWER),
        left=-float(by_group(other).mean()),
        min_f1=min_f1(confusion_matrix(true, own.argmax(axis=1), n_classes)),
        min_f1_without=min_f1(confusion_matrix(true, other.argmax(axis=1), n_classes)),
    )


def expected_seen(n_asked: int, n_trained: float, n_classes: int) -> float:
    """About the smallest gain that a study with so many sequences of each class would see, nats.

    As if none had a near duplicate, trainings did not differ, and groups' gains had `SPREAD`.

    >>> round(expected_seen(480, 384, 3), 3)
    0.026
    """
    variance = SPREAD**2 / (n_asked * n_classes) * (1 + OF_TRAINING * n_asked / n_trained)
    return stats.smallest_seen([(variance, max(1, n_asked - 1))], POWER)


def times_wanted(found: stats.Estimate, effect: float | None = None) -> float | None:
    """How many times as many sequences would put an interval on one side of 0, or below `effect`.

    If the figure stays what it is: the width falls with the root of their number. None where there
    is no interval, or no number would do.

    >>> times_wanted(stats.Estimate(0.1, -0.1, 0.3)), times_wanted(stats.Estimate(0.0, -0.1, 0.1))
    (4.0, None)
    >>> round(times_wanted(stats.Estimate(0.0, -0.1, 0.1), effect=0.05), 9)
    4.0
    """
    value, low, high = found
    if value is None or low is None or high is None:
        return None
    ways = [((value - low) / value) ** 2 if value > 0 else None]
    ways.append(((high - value) / value) ** 2 if value < 0 and effect is None else None)
    if effect is not None and value < effect:
        ways.append(((high - value) / (effect - value)) ** 2)
    return min((one for one in ways if one is not None), default=None)


def between_trainings(without: stats.Floats) -> float:
    """Variance of the mean gain between trainings, from the gains `without` each seed.

    `without` has shape (seeds, groups). What a training makes of single groups alone is in the
    variance over groups already, so it is taken off. Source: readers and cases as crossed random
    factors, Dorfman, Berbaum and Metz 1992 (Investigative Radiology 27, 723).
    """
    n_groups: int = without.shape[1]
    of_mean = stats.jackknife_variance(without.mean(axis=1))
    of_each = float(((len(without) - 1) * without.var(axis=0)).mean())
    variance = (n_groups * of_mean - of_each) / (n_groups - 1)
    return float(max(0.0, variance))


Sides = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows that a pool is fitted to, and those that it then predicts."""


def pool_folds(
    true: NDArray[np.int64], owners: np.ndarray, *, seed: int = 0, n_folds: int = _FOLDS
) -> list[Sides]:
    """Divide sequences into folds of whole groups, as many groups of each class in every one."""
    _, first, group = np.unique(owners, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    fold = np.empty(len(first), dtype=np.int64)
    for label in np.unique(true[first]):
        members = order[true[first][order] == label]
        fold[members] = np.arange(len(members)) % n_folds
    return [
        (np.flatnonzero(fold[group] != one), np.flatnonzero(fold[group] == one))
        for one in range(n_folds)
    ]


class Pool:
    """A weighted combination of readers; each sequence is scored with weights of other groups.

    Weights are at least 0, so a reader worse than chance gets none. Classes are 0 to n - 1, `true`
    (n,), `folds` as `pool_folds` gives them.
    """

    def __init__(self, true: NDArray[np.int64], folds: list[Sides], readers: list[Votes]) -> None:
        self._readers = readers
        known = self._read(None)
        self._folds = [(asked, fit_pool(known[:, kept], true[kept])) for kept, asked in folds]

    def predict(self, without: int | None = None) -> stats.Floats:
        """Log-probabilities (n, classes); `without` a seed's trainings, weights not refitted."""
        known = self._read(without)
        found = np.empty(known.shape[1:])
        for asked, weights in self._folds:
            found[asked] = _pooled(known[:, asked], weights)
        return found

    def _read(self, without: int | None) -> stats.Floats:
        """Log-probabilities of each reader, the mean over its trainings, (readers, n, classes)."""
        found = []
        for votes in self._readers:
            scores, seeds = np.asarray(votes.scores), np.asarray(votes.score_seeds)
            kept = seeds != without if (seeds != without).any() else np.full(len(seeds), True)
            found.append(np.log(np.maximum(scores[kept], _LEAST), dtype=np.float64).mean(axis=0))
        return np.stack(found)


def fit_pool(known: stats.Floats, true: NDArray[np.int64]) -> stats.Floats:
    """Fit the weight of each reader and the class intercepts b_1, b_2, ...; b_0 is 0.

    Gives both behind one another, shape (readers + classes - 1,): the largest likelihood of a
    conditional logit with the readers' log-probabilities `known` (readers, n, classes), with an L2
    penalty on the weights.
    """
    from scipy.optimize import minimize

    n_readers, n, n_classes = known.shape
    is_true = np.eye(n_classes)[true]

    def loss(weights: stats.Floats) -> tuple[float, stats.Floats]:
        logs = _pooled(known, weights)  # (n, classes)
        residual = np.exp(logs) - is_true  # derivative of the loss by the pool's logits
        of_readers = weights[:n_readers]  # penalized; intercepts are not
        gradient = np.concatenate([np.tensordot(known, residual, 2), residual[:, 1:].sum(axis=0)])
        gradient[:n_readers] += _SHRINKAGE * of_readers
        value = -logs[np.arange(n), true].sum() + _SHRINKAGE / 2 * (of_readers**2).sum()
        return float(value), gradient

    start = np.concatenate([np.full(n_readers, 1 / n_readers), np.zeros(n_classes - 1)])
    bounds = [(0.0, None)] * n_readers + [(None, None)] * (n_classes - 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x)


def _pooled(known: stats.Floats, weights: stats.Floats) -> stats.Floats:
    """Log-probabilities of a pool, (n, classes)."""
    n_readers = len(known)
    logs = np.tensordot(weights[:n_readers], known, 1)
    logs[:, 1:] += weights[n_readers:]
    logs -= logs.max(axis=1, keepdims=True)
    return np.asarray(logs - np.log(np.exp(logs).sum(axis=1, keepdims=True)))
