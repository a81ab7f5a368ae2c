"""What a part of the twin breaks of one class, beside random changes that break as much.

A control of equal norm is no control of equal harm: a class that the model holds less firmly loses
more under any change that is large enough. So each random direction is *walked*: the same change at
growing scales. The shares of two classes that it leaves trace a curve from all of both to none, and
the twin's part is compared with the place on each curve where as much is left of the other class
(and, again, where as much is left of both together). The twin is one draw: it is set against single
directions and their scatter, not against the interval of their mean.

Classes are compared within kinds of text: each class is weighted to the share of a kind that both
have (overlap weights; Li, Morgan and Zaslavsky 2018). Intervals draw groups of near duplicates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.stats import FEWEST_GROUPS, Estimate, Floats, draw_within, estimate_of, not_of_none

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FEWEST_WALKS = 6
"""Directions below which their scatter is not known."""
MOST_CHANCE = 0.025
"""Largest p, adjusted for all parts and pairs asked, with which a class is called specific."""
_REACHED = 0.8  # share of the directions that must break as much as the twin
_LEAST_SCATTER = 0.01  # of single directions, as a share of a class
_SHORT = 0.03  # a path that ends no further above a level is taken to be at it
_HALVINGS = 5
_ROUNDING = 1e-9  # of a number of groups


class Walk(NamedTuple):
    """One random direction: scales (S,), ascending, and what survives each (S, n) bool.

    A scale is the norm of the change as a multiple of the norm of the twin's.
    """

    scales: Floats
    survives: Bools


class Part(NamedTuple):
    """Which sequences (n,) come out under the twin's part, under its flip, and along each walk.

    The flip is the change of equal size away from the twin.
    """

    name: str
    twin: Bools
    flip: Bools
    walks: Sequence[Walk]


@dataclass(frozen=True)
class Tried:
    """The sequences that were tried, under one taxonomy, each array of shape (n,).

    Class index from 0, group of near duplicates, and kind of text (all 0 where it is not known).
    The model reproduces every one of them while nothing is changed.
    """

    classes: Ints
    groups: Ints
    kinds: Ints
    n_classes: int


class Finding(Enum):
    """What the walks say of a part and an ordered pair of classes."""

    SPECIFIC = "specific"
    EITHER_WAY = "specific, toward the twin or away from it"
    ALIKE = "not shown"
    OUT_OF_REACH = "no random change breaks as much"
    FEW = "too few groups, kinds in common or directions"


@dataclass(frozen=True)
class Specific:
    """One part and one ordered pair of classes: how much more of `broken` it breaks than chance.

    Random directions are compared where they leave as much of `spared`; shares are weighted to
    equal kinds of text.

    Attributes:
        part: its name.
        broken: class index.
        spared: class index.
        finding: what that says, whether specific or not.
        n_walks: directions that break as much as the twin.
        kept_broken: share of `broken` that survives the twin's part.
        kept_spared: of `spared`.
        random_broken: mean share of `broken` that survives the directions.
        value: `random_broken` minus `kept_broken`; positive if the twin breaks more.
        crude: the same without weights for kinds.
        at_equal_total: the gap between the classes minus the directions' gap, where as much is left
            of both together.
        over_flip: `value` minus that of the flip.
        scatter: standard deviation of single directions.
        p_value: one-sided, of the twin as one more direction; the larger of both comparisons,
            adjusted for all parts and pairs (Holm).
    """

    part: str
    broken: int
    spared: int
    finding: Finding
    n_walks: int
    kept_broken: float
    kept_spared: float
    random_broken: float | None = None
    value: Estimate = Estimate(None)
    crude: Estimate = Estimate(None)
    at_equal_total: Estimate = Estimate(None)
    over_flip: Estimate = Estimate(None)
    scatter: float | None = None
    p_value: float | None = None


_RESAMPLES = 1000  # of the groups of a class


class Kept(NamedTuple):
    """Share of each class that survives, (classes, grafts), and the ends of its interval."""

    survive: Floats
    low: Floats
    high: Floats


def kept_by_class(survives: Bools | Floats, tried: Tried, *, seed: int) -> Kept:
    """Share of each class that survives each graft, (n, grafts), with intervals by group.

    `survives` is bool, or the share of draws that a sequence survives.

    Ends are NaN where the class has fewer than `FEWEST_GROUPS` groups; where none or all survive
    they are Wilson's over the groups, for all resamples are then alike.
    """
    counts = _resamples(tried, seed, _RESAMPLES)
    weights = np.ones(len(survives))
    plain = [_means(survives, of, weights, _once(tried))[0] for of in _members(tried)]
    low, high = np.full((2, tried.n_classes, survives.shape[1]), np.nan)
    for at, of in enumerate(_members(tried)):
        own = counts[:, of]
        if not len(counts):  # a class is too small; another may not be
            alone = replace(tried, classes=np.zeros(of.sum(), int), groups=tried.groups[of])
            own = _resamples(alone, seed, _RESAMPLES)
        if len(own):
            every = np.ones(of.sum(), dtype=bool)
            drawn = _means(survives[of], every, weights[of], own)
            low[at], high[at] = np.quantile(drawn, [0.025, 0.975], axis=0)
            n_units = len(np.unique(tried.groups[of]))
            for one in np.flatnonzero(np.isin(plain[at], (0.0, 1.0))):
                share = Estimate(plain[at][one], low[at, one], high[at, one])
                _, low[at, one], high[at, one] = not_of_none(share, n_units)
    return Kept(np.stack(plain), low, high)


def compare_classes(
    parts: Sequence[Part], tried: Tried, *, seed: int, n_resamples: int = 1000
) -> list[Specific]:
    """Compare every ordered pair of classes under every part.

    A pair is `SPECIFIC` if the adjusted p is at most `MOST_CHANCE`, the interval over groups lies
    above 0, the difference is above 0 in each of ten halves of the groups, and the flip (as far
    from the model, away from the twin) does not do the same; where it does, `EITHER_WAY`.

    Args:
        parts: what survives each part; arrays over the sequences of `tried`.
        tried: classes, groups and kinds.
        seed: of resamples and halvings.
        n_resamples: of the groups, for the intervals.

    Returns:
        One for each part and ordered pair, in that order.
    """
    counts = _resamples(tried, seed, n_resamples)
    halves = _halves(tried, seed)
    found = [
        _compare(part, tried, pair, counts, halves)
        for part in parts
        for pair in permutations(range(tried.n_classes), 2)
    ]
    asked = [place for place, one in enumerate(found) if one.p_value is not None]
    adjusted = _holm([found[place].p_value or 0.0 for place in asked])
    for place, p_value in zip(asked, adjusted, strict=True):
        one = replace(found[place], p_value=p_value)
        if p_value > MOST_CHANCE and one.finding in (Finding.SPECIFIC, Finding.EITHER_WAY):
            one = replace(one, finding=Finding.ALIKE)
        found[place] = one
    return found


def _compare(
    part: Part, tried: Tried, pair: tuple[int, int], counts: npt.NDArray[Any], halves: Floats
) -> Specific:
    weights = kind_weights(tried, pair)
    if not weights.any():
        return Specific(part.name, *pair, Finding.FEW, len(part.walks), np.nan, np.nan)
    # The first row is the sequences as they are, the rest are resamples.
    once = _once(tried)
    curve = _curves(part, tried, pair, weights, np.concatenate([once, counts]))
    kept_broken, kept_spared = (float(one[0]) for one in curve.twin)
    plain = Specific(part.name, *pair, Finding.FEW, len(part.walks), kept_broken, kept_spared)
    fewest = min(_effective_groups(tried.groups, weights * (tried.classes == one)) for one in pair)
    if len(part.walks) < FEWEST_WALKS or fewest < FEWEST_GROUPS - _ROUNDING or not len(counts):
        return plain
    at_spared = curve.at_equal_spared(curve.twin)
    at_total = curve.at_equal_total(curve.twin)
    is_reached = np.isfinite(at_spared[:, 0]) & np.isfinite(at_total[:, 0])
    n_walks = int(is_reached.sum())
    if n_walks < max(FEWEST_WALKS, _REACHED * len(part.walks)):
        return replace(plain, finding=Finding.OUT_OF_REACH, n_walks=n_walks)
    at_flip = curve.at_equal_spared(curve.flip)
    value, total, of_flip = map(_mean_of_walks, (at_spared, at_total, at_flip))
    crude_curve = _curves(part, tried, pair, np.ones(len(weights)), np.concatenate([once, counts]))
    crude = _mean_of_walks(crude_curve.at_equal_spared(crude_curve.twin))
    p_value = max(_chance(one[is_reached, 0]) for one in (at_spared, at_total))
    estimate, over_flip = _estimate(value), _estimate(value - of_flip)
    halved = _curves(part, tried, pair, weights, halves)
    in_halves = _mean_of_walks(halved.at_equal_spared(halved.twin))
    return replace(
        plain,
        finding=_find(estimate, over_flip, in_halves),
        n_walks=n_walks,
        random_broken=kept_broken + float(value[0]),
        value=estimate,
        crude=_estimate(crude),
        at_equal_total=_estimate(total),
        over_flip=over_flip,
        scatter=float(at_spared[is_reached, 0].std(ddof=1)),
        p_value=p_value,
    )


def _mean_of_walks(distances: Floats) -> Floats:
    """Mean of distances (walks, R) over the directions that reach the level; NaN where few do."""
    reached = np.isfinite(distances).sum(axis=0)
    total = np.nansum(distances, axis=0)
    is_enough = reached >= _REACHED * len(distances)
    return np.where(is_enough, total / np.maximum(reached, 1), np.nan)


def _estimate(values: Floats) -> Estimate:
    """The first value with the interval of the others, its resamples (R + 1,)."""
    if not np.isfinite(values[0]):
        return Estimate(None)
    drawn = values[1:][np.isfinite(values[1:])]
    is_enough = len(drawn) >= _REACHED * (len(values) - 1)
    return estimate_of(float(values[0]), drawn) if is_enough else Estimate(float(values[0]))


def _find(value: Estimate, over_flip: Estimate, in_halves: Floats) -> Finding:
    """The finding of a pair, before its p-value is looked at (`compare_classes` does that)."""
    low, of_flip = value.low, over_flip.low
    if low is None or not low > 0 or not (in_halves > 0).all():
        return Finding.ALIKE
    return Finding.SPECIFIC if of_flip is not None and of_flip > 0 else Finding.EITHER_WAY


def _chance(distances: Floats) -> float:
    """One-sided p of the twin as one more draw: its distances (m,) from m single directions."""
    from scipy.special import stdtr

    scatter = max(float(distances.std(ddof=1)), _LEAST_SCATTER)
    m = len(distances)
    return float(stdtr(m - 1, -distances.mean() / (scatter * np.sqrt(1 + 1 / m))))


def _holm(p_values: Sequence[float]) -> list[float]:
    """Adjust for all that were asked (Holm 1979)."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(one) for one in adjusted]


class _Curves(NamedTuple):
    """Shares of both classes, broken and spared, under each resample.

    `twin` and `flip`: 2 × (R,). `walks`: for each direction 2 × (S + 1, R), beginning with all.
    """

    twin: tuple[Floats, Floats]
    flip: tuple[Floats, Floats]
    walks: list[tuple[Floats, Floats]]

    def at_equal_spared(self, point: tuple[Floats, Floats]) -> Floats:
        """(walks, R): surviving share of the broken class on each curve, minus that at the point.

        Taken where the curve leaves as much of the spared class as the point does; NaN if it never
        breaks so much. Positive: the point breaks more.
        """
        return np.stack(
            [_at_level(spared, point[1], broken) - point[0] for broken, spared in self.walks]
        )

    def at_equal_total(self, point: tuple[Floats, Floats]) -> Floats:
        """(walks, R): spared minus broken at the point, minus the same on each curve.

        Taken where as much is left of both classes together; NaN as above.
        """
        level, gap = point[0] + point[1], point[1] - point[0]
        return np.stack(
            [
                gap - _at_level(broken + spared, level, spared - broken)
                for broken, spared in self.walks
            ]
        )


def _at_level(path: Floats, level: Floats, values: Floats) -> Floats:
    """`values` (S, R) where `path` (S, R) last is at `level` (R,), between two steps in proportion.

    NaN where the path ends more than `_SHORT` above the level. The last place and not the first:
    where the path stays at a level, more is broken of the values there, which is against a finding.
    """
    is_above = path >= level - 1e-12
    last = len(path) - 1 - is_above[::-1].argmax(axis=0)  # the first step is at all, so above
    column = np.arange(path.shape[1])
    after = np.minimum(last + 1, len(path) - 1)
    high, low = path[last, column], path[after, column]
    step = np.where(high > low, (high - level) / np.where(high > low, high - low, 1.0), 0.0)
    found = values[last, column] + step * (values[after, column] - values[last, column])
    is_end = (last == len(path) - 1) & (high > level + _SHORT)
    return np.where(is_end, np.nan, found)


def _curves(
    part: Part, tried: Tried, pair: tuple[int, int], weights: Floats, counts: npt.NDArray[Any]
) -> _Curves:
    points = np.stack([part.twin, part.flip], axis=1)
    columns = np.concatenate([points, *(walk.survives.T for walk in part.walks)], axis=1)
    sides = [
        _means(columns, tried.classes == one, weights, counts).T for one in pair
    ]  # (columns, R) each
    whole = np.ones((1, len(counts)))
    walks, first = [], 2
    for walk in part.walks:
        rows = slice(first, first + len(walk.scales))
        walks.append(tuple(np.concatenate([whole, side[rows]]) for side in sides))
        first = rows.stop
    twin, flip = (tuple(side[at] for side in sides) for at in (0, 1))
    return _Curves(twin, flip, walks)  # type: ignore[arg-type]


def kind_weights(tried: Tried, pair: tuple[int, int]) -> Floats:
    """Weights (n,) under which both classes have the kinds alike, each class summing to 1.

    A kind's share is the smaller of its shares in the two classes; all zero where no kind holds
    both.
    """
    n_kinds = int(tried.kinds.max()) + 1
    counts = np.stack(
        [np.bincount(tried.kinds[tried.classes == one], minlength=n_kinds) for one in pair]
    )
    common = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).min(axis=0)
    weights = np.zeros(len(tried.classes))
    if not common.sum():
        return weights
    for place, one in enumerate(pair):
        rows = tried.classes == one
        kinds = tried.kinds[rows]
        weights[rows] = (common / common.sum())[kinds] / counts[place][kinds]
    return weights


def _effective_groups(groups: Ints, weights: Floats) -> float:
    """Number of groups of equal weight that say as much (Kish 1965)."""
    of_group = np.bincount(np.unique(groups, return_inverse=True)[1], weights)
    return float(of_group.sum() ** 2 / (of_group**2).sum())


def _means(values: Bools | Floats, of: Bools, weights: Floats, counts: npt.NDArray[Any]) -> Floats:
    """Weighted means of the rows `of` (n,) of values (n, columns): (resamples, columns)."""
    counted = counts[:, of] * weights[of]
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (counted @ values[of].astype(np.float64)) / counted.sum(axis=1)[:, None]
    return found


def _members(tried: Tried) -> Iterator[Bools]:
    return (tried.classes == index for index in range(tried.n_classes))


def _once(tried: Tried) -> Ints:
    return np.ones((1, len(tried.classes)), dtype=np.int64)


def _resamples(tried: Tried, seed: int, n: int) -> npt.NDArray[np.int32]:
    """How often each sequence counts where groups are drawn, (resamples, n)."""
    generator = np.random.default_rng(seed)
    return draw_within(tried.classes, generator, n, groups=tried.groups)


def _halves(tried: Tried, seed: int) -> Floats:
    """Ten halves of the groups, (halves, n): five random halvings, both sides of each."""
    generator = np.random.default_rng([seed, 1])
    groups, place = np.unique(tried.groups, return_inverse=True)
    sides = [generator.permutation(len(groups))[place] % 2 for _ in range(_HALVINGS)]
    return np.stack([side == which for side in sides for which in (0, 1)]).astype(np.float64)
