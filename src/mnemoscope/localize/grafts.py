"""What a part of the twin breaks, class by class, beside what any change of its size would.

A class is held by a part as far as it loses more there than under changes of equal norm that
know nothing of the twin (random, or the twin's entries shuffled), and more than the others lose.
Classes differ in how firmly the model holds them, so they are compared among sequences of equal
margin: within bins of the smallest gap between the two best logits and of the suffix's
log-probability, each class is weighted to the share of the bin that all classes have (overlap
weights). Intervals draw groups of near duplicates.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.stats import FEWEST_GROUPS, Estimate, Floats, draw_within, estimate_of

Ints = npt.NDArray[np.int64]

_GAP_BINS, _LOGPROB_BINS = 4, 2
_FOLDS = 5
_N_RESAMPLES = 1000


@dataclass(frozen=True)
class Tried:
    """The sequences that were tried, under one taxonomy.

    Attributes:
        classes: class index of each, shape (n,), from 0.
        groups: group of near duplicates of each, shape (n,), any integers.
        bins: margin bin of each, shape (n,), see `margin_bins`.
    """

    classes: Ints
    groups: Ints
    bins: Ints

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.classes.max()) + 1


def margin_bins(gap: npt.ArrayLike, logprob: npt.ArrayLike) -> Ints:
    """Bin sequences by how firmly the model holds them: quarters of gap by halves of log-prob.

    `gap` is the smallest difference of the two best logits, `logprob` the mean over the suffix,
    both (n,).
    """

    def cut(values: npt.ArrayLike, n: int) -> Ints:
        numbers = np.asarray(values, dtype=np.float64)
        edges = np.quantile(numbers, np.linspace(0, 1, n + 1)[1:-1])
        return np.searchsorted(edges, numbers).astype(np.int64)

    return cut(gap, _GAP_BINS) * _LOGPROB_BINS + cut(logprob, _LOGPROB_BINS)


def overlap_weights(tried: Tried) -> Floats:
    """Weights (n,) under which every class lies in the bins alike, summing to 1 in each class.

    A bin's share is the smallest that any class has there; all zero where no bin holds all classes.
    """
    counts = np.zeros((tried.n_classes, int(tried.bins.max()) + 1))
    np.add.at(counts, (tried.classes, tried.bins), 1)
    common = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).min(axis=0)
    if not common.sum():
        return np.zeros(len(tried.classes))
    found: Floats = (common / common.sum())[tried.bins] / counts[tried.classes, tried.bins]
    return found


class Kept(NamedTuple):
    """Of each class, (classes, grafts): the share that survives, its ends, and matched."""

    survive: Floats
    low: Floats
    high: Floats
    matched: Floats


def kept_by_class(survives: npt.NDArray[np.bool_], tried: Tried, *, seed: int) -> Kept:
    """Share of each class that survives each graft, (n, grafts) bool, with intervals by group.

    Ends are NaN where a class has fewer than `FEWEST_GROUPS` groups, `matched` where no margin is
    common to all classes.
    """
    drawn = _resamples(tried, np.random.default_rng(seed))
    shares = _class_means(survives, tried, np.ones(len(survives)), drawn)
    none = np.full((2, *shares.shape[1:]), np.nan)
    low, high = np.quantile(shares, [0.025, 0.975], axis=0) if len(shares) else none
    plain, matched = (
        _class_means(survives, tried, weights, np.ones((1, len(survives))))[0]
        for weights in (np.ones(len(survives)), overlap_weights(tried))
    )
    return Kept(plain, low, high, matched)


@dataclass(frozen=True)
class Specific:
    """What a part breaks of one class beyond the control, at equal margins; shares.

    Attributes:
        lost: of the class beyond the control.
        specificity: that, minus the mean of the same of the other classes, with its interval.
    """

    lost: float
    specificity: Estimate


def specificities(lost: Floats, tried: Tried, *, seed: int) -> Iterator[tuple[int, int, Specific]]:
    """For each class and part what the part breaks of it beyond the control.

    Args:
        lost: of each sequence and part, (n, parts): the share of the control's draws that it
            survives minus whether it survives the twin's part.
        tried: the sequences; two classes or more.
        seed: of the bootstrap.

    Yields:
        Class index, index of the part, figure.
    """
    weights = overlap_weights(tried)
    drawn = _resamples(tried, np.random.default_rng(seed))
    values = _class_means(lost, tried, weights, np.ones((1, len(lost))))[0]
    resampled = _class_means(lost, tried, weights, drawn)
    for index in range(tried.n_classes):
        others = [one for one in range(tried.n_classes) if one != index]
        value = values[index] - values[others].mean(axis=0)
        draws = resampled[:, index] - resampled[:, others].mean(axis=1)
        for part in range(lost.shape[1]):
            estimate = estimate_of(float(value[part]), draws[:, part])
            yield index, part, Specific(float(values[index, part]), estimate)


@dataclass(frozen=True)
class CausalScore:
    """How differently a taxonomy's classes break: its alignment with cause.

    The largest difference between two classes of what a part breaks beyond the control, at equal
    margins. Part and pair of classes are chosen on four fifths of the groups and measured on the
    others, five times; the mean may be negative where classes do not differ.

    Attributes:
        score: with its interval over groups.
        permuted: mean score of labels permuted among groups of equal margin.
        permuted_high: 95th percentile of that.
        p_value: share of permutations that score as high, one added on both sides.
        part: index of the part chosen most often, -1 where there is no score.
        broken, spared: the classes chosen with it.
        n_groups: groups of the class with the fewest.
    """

    score: Estimate
    permuted: float | None
    permuted_high: float | None
    p_value: float | None
    part: int
    broken: int
    spared: int
    n_groups: int


def causal_score(
    lost: Floats, tried: Tried, *, seed: int, n_permutations: int = 200
) -> CausalScore:
    """Score one taxonomy; arguments as `specificities`.

    There is no score with one class, or with fewer than `FEWEST_GROUPS` groups in a class.
    """
    fewest = min(
        len(np.unique(tried.groups[tried.classes == index])) for index in range(tried.n_classes)
    )
    if tried.n_classes < 2 or fewest < FEWEST_GROUPS:
        return CausalScore(Estimate(None), None, None, None, -1, -1, -1, fewest)
    generator = np.random.default_rng(seed)
    groups, place = np.unique(tried.groups, return_inverse=True)
    folds = (generator.permutation(len(groups)) % _FOLDS)[place]
    found = _cross_fitted(lost, tried, folds)
    if found is None:
        return CausalScore(Estimate(None), None, None, None, -1, -1, -1, fewest)
    once = np.ones((1, len(lost)))
    value = float(found.measure(once)[0])
    drawn = _resamples(tried, generator)
    chance = [
        float(one.measure(once)[0])
        for labels in _permuted(tried, generator, n_permutations)
        if (one := _cross_fitted(lost, labels, folds)) is not None
    ]
    most = max(set(found.choices), key=found.choices.count)
    return CausalScore(
        estimate_of(value, found.measure(drawn)),
        float(np.mean(chance)),
        float(np.quantile(chance, 0.95)),
        (1 + sum(one >= value for one in chance)) / (1 + len(chance)),
        *most,
        fewest,
    )


class _Choice(NamedTuple):
    part: int
    broken: int
    spared: int


@dataclass(frozen=True)
class _CrossFitted:
    """What was chosen without each fold (n,), to be measured on it."""

    lost: Floats
    tried: Tried
    weights: Floats
    folds: Ints
    choices: list[_Choice]

    def measure(self, counts: npt.NDArray[Any]) -> Floats:
        """Mean over folds of what was chosen without each; counts (resamples, n)."""
        found = []
        for fold, (part, broken, spared) in enumerate(self.choices):
            inside = self.weights * (self.folds == fold)
            means = _class_means(self.lost[:, [part]], self.tried, inside, counts)[..., 0]
            found.append(means[:, broken] - means[:, spared])
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nanmean(found, axis=0))


def _cross_fitted(lost: Floats, tried: Tried, folds: Ints) -> _CrossFitted | None:
    """Choose part and pair outside each fold; None where a class is missing there."""
    weights, once = overlap_weights(tried), np.ones((1, len(lost)))
    pairs = list(permutations(range(tried.n_classes), 2))
    choices = []
    for fold in range(_FOLDS):
        means = _class_means(lost, tried, weights * (folds != fold), once)[0]
        gaps = np.stack([means[first] - means[second] for first, second in pairs])
        if np.isnan(gaps).any():
            return None
        pair, part = np.unravel_index(int(gaps.argmax()), gaps.shape)
        choices.append(_Choice(int(part), *pairs[int(pair)]))
    return _CrossFitted(lost, tried, weights, folds, choices)


def _permuted(tried: Tried, generator: np.random.Generator, n: int) -> Iterator[Tried]:
    """Labels without meaning: whole groups exchange theirs within bins of equal margin."""
    _, place = np.unique(tried.groups, return_inverse=True)
    label, bin_ = (_commonest(values, place) for values in (tried.classes, tried.bins))
    for _ in range(n):
        shuffled = label.copy()
        for one in np.unique(bin_):
            members = np.flatnonzero(bin_ == one)
            shuffled[members] = label[generator.permutation(members)]
        yield Tried(shuffled[place], tried.groups, tried.bins)


def _commonest(values: Ints, place: Ints) -> Ints:
    """The commonest value of each group, the smallest of several."""
    counts = np.zeros((int(place.max()) + 1, int(values.max()) + 1))
    np.add.at(counts, (place, values), 1)
    found: Ints = counts.argmax(axis=1)
    return found


def _resamples(tried: Tried, generator: np.random.Generator) -> npt.NDArray[np.int32]:
    """How often each sequence counts where groups are drawn, (resamples, n)."""
    return draw_within(tried.classes, generator, _N_RESAMPLES, groups=tried.groups)


def _class_means(
    values: npt.NDArray[Any], tried: Tried, weights: Floats, counts: npt.NDArray[Any]
) -> Floats:
    """Weighted class means of values (n, columns): (resamples, classes, columns)."""
    found = []
    for index in range(tried.n_classes):
        rows = tried.classes == index
        counted = counts[:, rows] * weights[rows]
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append((counted @ values[rows]) / counted.sum(axis=1, keepdims=True))
    return np.stack(found, axis=1)
