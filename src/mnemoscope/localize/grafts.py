"""What a part of the twin breaks, class by class, beside what any change of its size would.

A class depends on a part as far as it loses more there than under changes of equal norm that know
nothing of the twin (random, or the twin's entries shuffled), and more than the others lose.
Classes differ in how firmly the model holds them, so they are compared among sequences of equal
margin, the smallest gap between the two best logits or the suffix's log-probability: within bins
each class is weighted to the share of the bin that all classes have (overlap weights; Li, Morgan
and Zaslavsky 2018). Intervals draw groups of near duplicates.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.stats import FEWEST_GROUPS, Estimate, Floats, draw_within, estimate_of

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LARGEST_IMBALANCE = 0.25
"""Standardized difference of the margin between matched classes, above which no side is taken."""
MOST_AGREEMENT = 0.8
"""Share of the choices that must agree before a part and a pair of classes are named."""
_BINS = 16
_HALVINGS = 5
_N_RESAMPLES = 1000


@dataclass(frozen=True)
class Tried:
    """The sequences that were tried, under one taxonomy, each array of shape (n,).

    Class index from 0, group of near duplicates, and how firmly the model holds each (`margin`).
    """

    classes: Ints
    groups: Ints
    margin: Floats
    n_classes: int

    @cached_property
    def bins(self) -> Ints:
        """Margin bin of each, shape (n,): sixteenths of all."""
        edges = np.quantile(self.margin, np.linspace(0, 1, _BINS + 1)[1:-1])
        return np.searchsorted(edges, self.margin).astype(np.int64)


def overlap_weights(tried: Tried, among: Bools | None = None) -> Floats:
    """Weights (n,) under which every class lies in the bins alike, summing to 1 in each class.

    A bin's share is the smallest that any class has there; all zero where no bin holds all classes.
    Only sequences `among` (n,) get a weight; None is all.
    """
    rows = np.ones(len(tried.classes)) if among is None else among.astype(np.float64)
    bins = tried.bins
    counts = np.zeros((tried.n_classes, int(bins.max()) + 1))
    np.add.at(counts, (tried.classes, bins), rows)
    common = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).min(axis=0)
    if not common.sum():
        return np.zeros(len(rows))
    each = np.maximum(counts, 1)[tried.classes, bins]
    found: Floats = rows * (common / common.sum())[bins] / each
    return found


def imbalance(tried: Tried) -> float:
    """Largest standardized difference of the margin between matched classes; NaN if none match."""
    weights = overlap_weights(tried)
    means = _class_means(tried.margin[:, None], tried, weights, np.ones((1, len(weights))))[0]
    return float(np.ptp(means) / max(tried.margin.std(), 1e-12))


class Kept(NamedTuple):
    """Share of each class that survives, (classes, grafts), its ends, and matched."""

    survive: Floats
    low: Floats
    high: Floats
    matched: Floats


def kept_by_class(survives: Bools, tried: Tried, *, seed: int) -> Kept:
    """Share of each class that survives each graft, (n, grafts) bool, with intervals by group.

    Ends are NaN where any class has fewer than `FEWEST_GROUPS` groups, `matched` where no margin
    is common to all classes.
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


def specificities(
    lost: Floats, tried: Tried, *, seed: int
) -> Iterator[tuple[int, int, float, Estimate]]:
    """What each part breaks of each class beyond the control, at equal margins.

    Class index, part index, that share, and its difference from the mean of the other classes.
    `lost` (n, parts) is of each sequence the share of the control's draws that it survives minus
    whether it survives the twin's part.
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
            yield index, part, float(values[index, part]), estimate


@dataclass(frozen=True)
class CausalScore:
    """How differently a taxonomy's classes break: its alignment with cause.

    The largest difference between two classes of what a part breaks beyond the control, at equal
    margins. Part and pair of classes are chosen on one half of the groups and measured on the
    other, both ways, in five random halvings; classes are matched in each half for itself. So the
    score of classes that do not differ is 0 on average, and may be negative.

    `permuted` is the mean score of labels permuted among groups of equal margin, `permuted_high`
    its 95th percentile, `p_value` the share that score as high, one added on both sides. `part` is
    chosen most often with `broken` and `spared`, -1 where there is no score; `agreement` is the
    share of the ten choices that are this one, `n_groups` of the class with the fewest.
    """

    n_groups: int
    score: Estimate = Estimate(None)
    permuted: float | None = None
    permuted_high: float | None = None
    p_value: float | None = None
    imbalance: float | None = None
    part: int = -1
    broken: int = -1
    spared: int = -1
    agreement: float | None = None

    @property
    def takes_a_side(self) -> bool:
        """Whether classes differ beyond chance, among sequences of equal margin."""
        low, value, high = self.score.low, self.score.value, self.permuted_high
        if low is None or value is None or high is None or self.imbalance is None:
            return False
        return low > 0 and value > high and self.imbalance <= LARGEST_IMBALANCE


def causal_score(
    lost: Floats, tried: Tried, *, seed: int, n_permutations: int = 200
) -> CausalScore:
    """Score one taxonomy; arguments as `specificities`.

    There is no score with one class, with fewer than `FEWEST_GROUPS` groups in a class, or where
    classes have no margin in common.
    """
    fewest = min(
        len(np.unique(tried.groups[tried.classes == index])) for index in range(tried.n_classes)
    )
    none = CausalScore(fewest)
    if tried.n_classes < 2 or fewest < FEWEST_GROUPS:
        return none
    generator = np.random.default_rng(seed)
    groups, place = np.unique(tried.groups, return_inverse=True)
    halves = [
        (generator.permutation(len(groups)) % 2).astype(bool)[place] for _ in range(_HALVINGS)
    ]
    sides = [side for half in halves for side in (half, ~half)]
    found = _cross_fitted(lost, tried, sides)
    if found is None:
        return none
    once = np.ones((1, len(lost)))
    value = float(found.measure(once)[0])
    drawn = _resamples(tried, generator)
    chance = [
        float(one.measure(once)[0])
        for labels in _permuted(tried, generator, n_permutations)
        if (one := _cross_fitted(lost, labels, sides)) is not None
    ]
    if len(chance) < n_permutations / 2:
        return none
    most = max(set(found.choices), key=found.choices.count)
    return CausalScore(
        fewest,
        estimate_of(value, found.measure(drawn)),
        float(np.mean(chance)),
        float(np.quantile(chance, 0.95)),
        (1 + sum(one >= value for one in chance)) / (1 + len(chance)),
        imbalance(tried),
        *most,
        found.choices.count(most) / len(found.choices),
    )


class _Choice(NamedTuple):
    part: int
    broken: int
    spared: int


@dataclass(frozen=True)
class _CrossFitted:
    """What was chosen on each side, and the weights (n,) with which it is measured on the other."""

    lost: Floats
    tried: Tried
    weights: list[Floats]
    choices: list[_Choice]

    def measure(self, counts: npt.NDArray[Any]) -> Floats:
        """Mean over sides of what was chosen on the other; counts (resamples, n)."""
        found = []
        for weights, (part, broken, spared) in zip(self.weights, self.choices, strict=True):
            means = _class_means(self.lost[:, [part]], self.tried, weights, counts)[..., 0]
            found.append(means[:, broken] - means[:, spared])
        measured = np.isfinite(found).sum(axis=0)
        none = np.full(len(measured), np.nan)
        mean: Floats = np.divide(np.nansum(found, axis=0), measured, out=none, where=measured > 0)
        return mean


def _cross_fitted(lost: Floats, tried: Tried, sides: list[Bools]) -> _CrossFitted | None:
    """Choose part and pair on each side; None where a class has no weight on one."""
    once = np.ones((1, len(lost)))
    pairs = list(permutations(range(tried.n_classes), 2))
    choices, measured = [], []
    for side in sides:
        means = _class_means(lost, tried, overlap_weights(tried, side), once)[0]
        gaps = np.stack([means[first] - means[second] for first, second in pairs])
        measured.append(overlap_weights(tried, ~side))
        if np.isnan(gaps).any() or not measured[-1].any():
            return None
        pair, part = np.unravel_index(int(gaps.argmax()), gaps.shape)
        choices.append(_Choice(int(part), *pairs[int(pair)]))
    return _CrossFitted(lost, tried, measured, choices)


def _permuted(tried: Tried, generator: np.random.Generator, n: int) -> Iterator[Tried]:
    """Labels exchanged between groups of equal margin, or sequences where a class would be lost."""
    _, place = np.unique(tried.groups, return_inverse=True)
    bins = tried.bins
    if len(np.unique(_commonest(tried.classes, place))) < tried.n_classes:
        place = np.arange(len(place))
    label, bin_ = (_commonest(values, place) for values in (tried.classes, bins))
    for _ in range(n):
        shuffled = label.copy()
        for one in np.unique(bin_):
            members = np.flatnonzero(bin_ == one)
            shuffled[members] = label[generator.permutation(members)]
        yield replace(tried, classes=shuffled[place])


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
