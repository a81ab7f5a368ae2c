"""Figures with their 95 % interval: the one home of estimates, intervals and resampling.

What to use: `share_of` for k of n (Wilson), `share_true` for the same of a list; `clopper_pearson`
where a share of 0 must keep an upper bound; `resampled_mean` for one value a sequence (of many
columns `resampled_means`; of two values of the same sequences give it their differences),
`resampled_ratio` for a sum over a sum. For a figure of your own: draw resamples with `draw_within`
(how often each sequence counts, class by class), put the figure of every resample into
`estimate_of`, which keeps both. In a table a figure is one column, a struct `{value, low, high}`
(`FIGURE`), of a class or pair each a list of these: `frame_of` writes it, `rows_of` reads it.

Near duplicates are no independent sequences. All that resamples takes their `groups`, draws these
whole, and gives no interval below `FEWEST_GROUPS`: `draw_within` then draws nothing.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from numpy.typing import ArrayLike

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
TAIL = (1.0 - LEVEL) / 2.0
Z = NormalDist().inv_cdf(1 - TAIL)
"""Standard errors on either side that hold 95 % of a normal distribution."""

FEWEST = 4
"""Pairs below which no rank correlation is given: three can only be ordered in six ways."""

FEWEST_GROUPS = 10
"""Groups of near duplicates in a class below which it has no interval.

The resamples of g groups have (g - 1) / g of the variance that they should show and too thin tails:
of simulated means of unequal groups, the intervals of 10 hold 89 % in place of 95, of 5 84 %
(`experiments/verdicts/run.py`).
"""

_RESAMPLES = 1000


class _Figure(NamedTuple):
    value: float | None
    low: float | None = None
    high: float | None = None


class Estimate(_Figure):
    """A figure and its interval, in one unit; NaN or None where there is none.

    Numbers of NumPy become Python's: records and pages hold no others.
    """

    __slots__ = ()

    def __new__(
        cls, value: float | None, low: float | None = None, high: float | None = None
    ) -> Self:
        """Make it of numbers of any kind."""
        return super().__new__(
            cls, *(None if one is None else float(one) for one in (value, low, high))
        )

    def __str__(self) -> str:
        """Print a share: `91.2 % [88.0, 94.1]`."""
        if self.value is None or self.value != self.value:
            return "none to count"
        ends = (self.low, self.high)
        shown = ", ".join(f"{100 * one:.1f}" for one in ends if one is not None)
        return f"{100 * self.value:.1f} %" + (f" [{shown}]" if shown else "")

    def _repr_html_(self) -> str:
        """The same in a notebook."""
        return str(self)


NO_ESTIMATE = Estimate(None)
NOTHING_TO_COUNT = Estimate(*[float("nan")] * 3)

FIGURE = pl.Struct(dict.fromkeys(Estimate._fields, pl.Float64))
"""The column of an `Estimate`: null where there is no figure, its ends null where it has none."""
FIGURES = pl.List(FIGURE)
"""The column of one a class, or one a pair of classes."""


def frame_of(rows: Iterable[Mapping[str, Any]], schema: Any = None) -> pl.DataFrame:
    """Make a table of rows that hold each figure as an `Estimate`, or several as a list of them.

    Without a `schema` the other columns are as Polars infers them of all rows.

    >>> frame_of([{"class": "Guess", "f1": Estimate(0.6, 0.5, 0.7)}]).schema["f1"] == FIGURE
    True
    """
    kinds: dict[str, pl.DataType] = {}
    made = []
    for row in rows:
        made.append(dict(row))
        for name, value in row.items():
            if isinstance(value, Estimate):
                kinds[name], made[-1][name] = FIGURE, _cell(value)
            elif isinstance(value, list | tuple) and value and isinstance(value[0], Estimate):
                kinds[name], made[-1][name] = FIGURES, list(map(_cell, value))
    if schema is not None:
        return pl.DataFrame(made, schema=schema)
    return pl.DataFrame(made, schema_overrides=kinds, infer_schema_length=None)


def _cell(estimate: Estimate) -> Estimate | None:
    known = Estimate(*(None if one is None or one != one else one for one in estimate))
    return None if known.value is None else known


def rows_of(frame: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Read a table's rows as `frame_of` takes them: an `Estimate` of None, or no figures, for null.

    >>> next(rows_of(frame_of([{"f1": [Estimate(0.6, 0.5, 0.7)]}])))
    {'f1': [Estimate(value=0.6, low=0.5, high=0.7)]}
    """
    single, several = (
        [k for k, one in frame.schema.items() if one == kind] for kind in (FIGURE, FIGURES)
    )
    for row in frame.iter_rows(named=True):
        for name in single:
            row[name] = Estimate(**row[name]) if row[name] else NO_ESTIMATE
        for name in several:
            row[name] = [Estimate(**one) if one else NO_ESTIMATE for one in row[name] or ()]
        yield row


class Interval(NamedTuple):
    """Ends of an interval, in the unit of the figure."""

    low: float
    high: float


def interval_of(values: ArrayLike, tail: float = TAIL) -> Interval:
    """Percentile interval of a figure over its resamples, (resamples,).

    Resamples without a finite figure are left out; NaN where none has one. A `tail` of 0.025 and
    the default, 0.025000000000000022, differ in the last bit: analyses hold the former, benchmark
    and localize the latter.
    """
    every = np.asarray(values, dtype=np.float64)
    kept = every[np.isfinite(every)]
    if not len(kept):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(kept, [tail, 1.0 - tail])
    return Interval(float(low), float(high))


def estimate_of(value: float, draws: ArrayLike, tail: float = TAIL) -> Estimate:
    """A figure with the percentile interval of its resamples, (resamples,).

    `tail` is left out on either side: 0.025 gives 95 %. Resamples without a finite figure are left
    out; there are no ends where none was drawn.
    """
    drawn = np.asarray(draws)
    return Estimate(value, *interval_of(drawn, tail)) if len(drawn) else Estimate(value)


def share_of(part: int, whole: int) -> Estimate:
    """A share with Wilson's interval.

    >>> str(share_of(9, 10))
    '90.0 % [59.6, 98.2]'
    """
    return _wilson(part / whole, whole) if whole else NOTHING_TO_COUNT


def _wilson(share: float, n: int, effect: float = 1.0, n_judged: int = 1) -> Estimate:
    """A share of n with Wilson's interval; `effect` is the design effect, which divides n."""
    z = Z if n_judged == 1 else NormalDist().inv_cdf(1 - TAIL / n_judged)
    sure = z**2 * effect / n
    middle = (share + sure / 2) / (1 + sure)
    reach = math.sqrt(sure * share * (1 - share) + sure**2 / 4) / (1 + sure)
    return Estimate(share, max(0.0, middle - reach), min(1.0, middle + reach))


def clopper_pearson(part: float, whole: int) -> Estimate:
    """A share with Clopper and Pearson's interval; of an empty whole 0, anywhere in [0, 1].

    `part` may be a fraction, where an observation counts in part.

    >>> str(clopper_pearson(0, 100))
    '0.0 % [0.0, 3.6]'
    """
    from scipy.special import betaincinv

    tail, low, high = TAIL, 0.0, 1.0
    if part > 0:
        low = float(betaincinv(part, whole - part + 1, tail))
    if part < whole:
        high = float(betaincinv(part + 1, whole - part, 1 - tail))
    return Estimate(part / whole if whole else 0.0, low, high)


def share_true(flags: ArrayLike, groups: ArrayLike | None = None, *, n_judged: int = 1) -> Estimate:
    """Share of true ones, (n,), with Wilson's interval; of near duplicates by their `groups`.

    With groups, n is divided by the design effect where that is above 1: the variance of the share
    over groups by that over as many independent ones. Where none or all are true it is the number
    of groups. No ends below `FEWEST_GROUPS`. `n_judged` is as in `resampled_mean`.

    Source: effective sample size, Korn and Graubard 1998, Survey Methodology 24, 193.
    """
    so = np.asarray(flags, dtype=bool)
    part, n = int(so.sum()), len(so)
    if not n:
        return NOTHING_TO_COUNT
    share, effect, counted = part / n, 1.0, n
    if groups is not None:
        n_units = fewest_groups(np.zeros(n), groups)
        if n_units < FEWEST_GROUPS:
            return Estimate(share)
        if part in (0, n):
            counted = n_units
        else:
            spread = float(grouped_variance(so, groups))
            effect = max(1.0, spread * (n - 1) / (share * (1 - share)))
    return _wilson(share, counted, effect, n_judged)


def not_of_none(share: Estimate, n_units: int) -> Estimate:
    """A resampled share with Wilson's interval over its groups where it is none or all.

    All resamples of none are none, which says nothing of its interval; any other share, and one
    without an interval, stays as it is.

    >>> str(not_of_none(Estimate(0.0, 0.0, 0.0), 50)), str(not_of_none(Estimate(0.5, 0.3, 0.7), 50))
    ('0.0 % [0.0, 7.1]', '50.0 % [30.0, 70.0]')
    """
    if share.value is None or share.low is None or share.value not in (0.0, 1.0):
        return share
    return share_of(round(share.value * n_units), n_units)


def difference_of(first: Estimate, second: Estimate, correlation: float = 0.0) -> Estimate:
    """One share less another, from their intervals; no ends where one has none.

    `correlation` is that of pairs (`pair_correlation`); 0 for shares of unlike rows.

    Source: square and add, Newcombe 1998, Statistics in Medicine 17, 873 (method 10), of pairs
    2635 (method 10).

    >>> difference_of(Estimate(0.5, 0.4, 0.6), Estimate(0.0, 0.0, 0.3))
    Estimate(value=0.5, low=0.18377223398316206, high=0.6)
    """
    (p, low, high), (q, bottom, top) = first, second
    if p is None or q is None:
        return NO_ESTIMATE
    if low is None or high is None or bottom is None or top is None:
        return Estimate(p - q)

    def reach(own: float, other: float) -> float:
        return math.sqrt(max(own**2 - 2 * correlation * own * other + other**2, 0.0))

    return Estimate(p - q, p - q - reach(p - low, top - q), p - q + reach(high - p, q - bottom))


def pair_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Correlation of two answers to each of n questions, bool (n,), corrected for continuity.

    As `difference_of` takes it: 0 where one of them is always the same.
    """
    one, other = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    both, neither = int((one & other).sum()), int((~one & ~other).sum())
    alone, beside = int((one & ~other).sum()), int((~one & other).sum())
    sides = (both + alone) * (beside + neither) * (both + beside) * (alone + neither)
    product = float(both * neither - alone * beside)
    if product > 0:
        product = max(product - len(one) / 2, 0.0)
    return float(product / math.sqrt(sides)) if sides else 0.0


def resampled_mean(
    values: ArrayLike, groups: ArrayLike | None = None, *, n_judged: int = 1
) -> Estimate:
    """Mean of one value a sequence, (n,), its interval by the bootstrap over their groups.

    `groups` of near duplicates (n,) are drawn whole. Of two values of the same sequences give it
    their differences.
    The intervals of `n_judged` figures hold together (Bonferroni): each has so many times smaller
    tails, of as many times more resamples.
    """
    numbers = np.asarray(values, dtype=np.float64)
    return resampled_ratio(numbers, np.ones_like(numbers), groups, n_judged=n_judged)


def resampled_means(columns: ArrayLike, groups: ArrayLike | None = None) -> list[Estimate]:
    """Give the `resampled_mean` of each column, (n, k); all are of the same resamples.

    A column that is not finite, or without rows, has nothing to count.
    """
    numbers = np.asarray(columns, dtype=np.float64)
    found = [NOTHING_TO_COUNT] * numbers.shape[1]
    finite = np.flatnonzero(np.isfinite(numbers).all(axis=0))
    if not len(numbers):
        return found
    numbers = np.ascontiguousarray(numbers[:, finite])
    generator = np.random.default_rng(0)
    drawn = draw_within(np.zeros(len(numbers)), generator, _RESAMPLES, groups=groups)
    draws = drawn @ numbers / drawn.sum(axis=1, keepdims=True)
    for place, mean, drawn_means in zip(finite, numbers.mean(axis=0), draws.T, strict=True):
        found[place] = estimate_of(float(mean), drawn_means, 0.025)
    return found


def resampled_ratio(
    parts: ArrayLike, wholes: ArrayLike, groups: ArrayLike | None = None, *, n_judged: int = 1
) -> Estimate:
    """Sum of parts over sum of wholes, one of either a sequence, (n,), resampled by group.

    `groups` of near duplicates (n,) are drawn whole; `n_judged` is as in `resampled_mean`. NaN
    where the wholes sum to 0.
    """
    part, whole = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    if not whole.sum():
        return NOTHING_TO_COUNT
    generator, many = np.random.default_rng(0), _RESAMPLES * n_judged
    drawn = draw_within(np.zeros(len(part)), generator, many, groups=groups)
    below = drawn @ whole
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (drawn @ part) / np.where(below > 0, below, np.nan)
    return estimate_of(float(part.sum() / whole.sum()), ratios, 0.025 / n_judged)


def draw_counts(generator: np.random.Generator, n: int, n_resamples: int) -> npt.NDArray[np.int64]:
    """Draw n units with replacement: how often each counts, (resamples, n), rows summing to n."""
    return generator.multinomial(n, np.full(n, 1 / n), n_resamples)


def draw_within(
    classes: ArrayLike,
    generator: np.random.Generator,
    n_resamples: int,
    *,
    groups: ArrayLike | None = None,
) -> npt.NDArray[np.int32]:
    """How often each sequence counts, int32 (resamples, n), drawn with replacement within classes.

    With `groups` of near duplicates (n,) these are drawn, all their sequences at once, so that
    classes keep their number of groups; one that lies in several classes is drawn among those of
    the class that holds most of it, and a resample that misses a class is drawn again. Groups of
    one sequence each give the same draws as none. There are no draws, (0, n), and so no interval,
    where a class has fewer than `FEWEST_GROUPS`. Source: the cluster bootstrap, Davison and Hinkley
    1997, section 3.8.
    """
    labels, of_row = np.unique(np.asarray(classes), return_inverse=True)
    if groups is None:
        unit_of_row, class_of_unit = np.arange(len(of_row)), of_row
    else:
        unit_of_row = _number_groups(groups)
        held = np.zeros((unit_of_row.max(initial=-1) + 1, len(labels)), dtype=np.int64)
        np.add.at(held, (unit_of_row, of_row), 1)
        if (held > 0).sum(axis=0).min(initial=FEWEST_GROUPS) < FEWEST_GROUPS:
            n_resamples = 0
        class_of_unit = held.argmax(axis=1)
    is_class = of_row == np.arange(len(labels))[:, None]
    drawn = np.zeros((n_resamples, len(of_row)), dtype=np.int32)
    missing = np.arange(n_resamples)
    while len(missing):
        units = np.zeros((len(missing), len(class_of_unit)), dtype=np.int32)
        for one in np.unique(class_of_unit):
            members = np.flatnonzero(class_of_unit == one)
            units[:, members] = draw_counts(generator, len(members), len(missing))
        drawn[missing] = units[:, unit_of_row]
        missing = missing[~np.all([drawn[missing][:, own].any(axis=1) for own in is_class], axis=0)]
    return drawn


def fewest_groups(classes: ArrayLike, groups: ArrayLike) -> int:
    """Groups of the class that has fewest, classes and groups (n,); a group may be in several.

    Below `FEWEST_GROUPS` there is no interval.
    """
    labels, owners = np.unique(np.asarray(classes), return_inverse=True)[1], _number_groups(groups)
    return min(len(np.unique(owners[labels == one])) for one in np.unique(labels))


def n_groups(groups: ArrayLike | None) -> int | None:
    """How many groups there are, (n,); None where they are not known."""
    return None if groups is None else len(np.unique(np.asarray(groups)))


def grouped_variance(values: ArrayLike, groups: ArrayLike) -> Any:
    """Variance of the mean of values, (n, ...), whose groups (n,) alone are independent: (...).

    Source: linearized for a ratio, as groups differ in size; Cochran 1977, section 9A.
    """
    numbers, owners = np.asarray(values, dtype=np.float64), _number_groups(groups)
    sums = np.zeros((owners.max() + 1, *numbers.shape[1:]))
    np.add.at(sums, owners, numbers - numbers.mean(axis=0))
    n = len(sums)
    return n / max(n - 1, 1) * (sums**2).sum(axis=0) / len(numbers) ** 2


class Varied(NamedTuple):
    """A figure with all that it may vary with."""

    value: float  # the figure
    draws: Floats  # of every resample of the groups, trainings as they are, (resamples,)
    # For each independent set of trainings, the figure without each of them in turn, (trainings,);
    # a set of one says nothing of its noise.
    without: tuple[Floats, ...]
    n_groups: int  # groups that were drawn, of the class that has fewest

    def ends(self, tail: float = TAIL) -> Interval | None:
        """Interval that holds the figure of other groups and trainings; None without draws.

        Variances of both add up: that over resamples, and the jackknife's over trainings. Student's
        t with Satterthwaite's degrees of freedom takes into account that trainings are few.

        Source: jackknife, Efron and Tibshirani 1993, section 11.5.
        """
        if not len(self.draws):
            return None
        parts = [(float(self.draws.var(ddof=1)), max(self.n_groups - 1, 1))]
        parts += [(jackknife_variance(one), len(one) - 1) for one in self.without if len(one) > 1]
        return t_interval(self.value, parts, tail)


def t_interval(value: float, parts: Sequence[tuple[float, int]], tail: float = TAIL) -> Interval:
    """Interval of a figure whose independent variances, each with its degrees of freedom, add up.

    Source: degrees of freedom, Satterthwaite 1946, Biometrics Bulletin 2, 110.
    """
    reach = _t_quantile(1 - tail, parts) * np.sqrt(sum(part for part, _ in parts))
    return Interval(float(value - reach), float(value + reach))


def smallest_seen(parts: Sequence[tuple[float, int]], power: float) -> float:
    """The smallest figure whose `t_interval` lies above zero in a share `power` of cases.

    >>> round(smallest_seen([(1.0, 10**6)], 0.8), 2)
    2.8
    """
    quantiles = _t_quantile(1 - TAIL, parts) + _t_quantile(power, parts)
    return float(quantiles * np.sqrt(sum(part for part, _ in parts)))


def _t_quantile(share: float, parts: Sequence[tuple[float, int]]) -> float:
    from scipy.special import stdtrit

    variance = sum(part for part, _ in parts)
    if variance <= 0:
        return 0.0
    freedom = variance**2 / sum(part**2 / free for part, free in parts)
    return float(stdtrit(freedom, share))


def jackknife_variance(without: ArrayLike) -> float:
    """Variance of a figure of n units from its values without each of them in turn, (n,)."""
    left = np.asarray(without, dtype=np.float64)
    return float((len(left) - 1) * left.var())


def _number_groups(groups: ArrayLike) -> npt.NDArray[np.int64]:
    """Number groups (n,) by their first sequence."""
    _, first, owner = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[owner]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ and Kendall's τ-b of n pairs with intervals; a note where they are not given."""

    n: int
    spearman: Estimate = NO_ESTIMATE
    kendall: Estimate = NO_ESTIMATE
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        both = {"spearman": self.spearman._asdict(), "kendall": self.kendall._asdict()}
        return {"n": self.n, **both, "note": self.note}


def correlate_ranks(
    values: ArrayLike, others: ArrayLike, *, draws: ArrayLike | None = None
) -> RankCorrelation:
    """Correlate two lists (n,) by rank; ties share their mean rank.

    `draws` resamples the first list, (resamples, n), and adds its own noise, so the interval of
    noisy values lies below the figure. Gives `n`, `spearman`, `kendall` and `note`, which says why
    there is neither: fewer than 4 pairs, or no order.
    """
    first = np.asarray(values, dtype=np.float64)
    second = np.asarray(others, dtype=np.float64)
    n = len(first)
    if n < FEWEST:
        return RankCorrelation(n, note=f"{n} of them can be compared; {FEWEST} are needed")
    if len(set(first.tolist())) == 1 or len(set(second.tolist())) == 1:
        return RankCorrelation(n, note="all figures are equal, so there is no order to compare")
    rho, tau = (float(one(first[None], second)[0]) for one in (spearman, kendall))
    if draws is None:
        return RankCorrelation(n, Estimate(rho), Estimate(tau))
    drawn = np.asarray(draws, dtype=np.float64)
    return RankCorrelation(
        n, estimate_of(rho, spearman(drawn, second)), estimate_of(tau, kendall(drawn, second))
    )


def spearman(draws: Floats, others: Floats) -> Floats:
    """Spearman's ρ of every row of (resamples, n) with (n,); 0 for a row without any order."""
    from scipy.stats import rankdata

    ranks = rankdata(draws, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    fixed = rankdata(others)
    fixed -= fixed.mean()
    scale = np.sqrt((ranks**2).sum(axis=1) * (fixed**2).sum())
    found: Floats = np.divide(ranks @ fixed, scale, out=np.zeros(len(draws)), where=scale > 0)
    return found


def kendall(draws: Floats, others: Floats) -> Floats:
    """Kendall's τ-b of every row of (resamples, n) with (n,); 0 for a row without any order."""
    first, second = np.triu_indices(len(others), k=1)
    signs = np.sign(draws[:, first] - draws[:, second])
    fixed = np.sign(others[first] - others[second])
    scale = np.sqrt((signs**2).sum(axis=1) * (fixed**2).sum())
    found: Floats = np.divide(signs @ fixed, scale, out=np.zeros(len(draws)), where=scale > 0)
    return found


class Separation(NamedTuple):
    """How well low values tell memorized sequences from others, each with its 95 % interval.

    ROC AUC of the negative value, and the share of the others flagged where .75 of the memorized
    are.
    """

    auc: Estimate
    fpr: Estimate


NOT_SEPARATED = Separation(NOTHING_TO_COUNT, NOTHING_TO_COUNT)
"""Where one side is empty."""


def separation(
    values: ArrayLike,
    memorized: ArrayLike,
    *,
    seed: int,
    n_resamples: int,
    groups: ArrayLike | None = None,
) -> Separation:
    """Judge "low means memorized" at every threshold, and at a true-positive rate of .75.

    In values (n,) −inf is lowest and NaN left out; resamples are drawn within memorized and others,
    by `groups` of near duplicates as `draw_within` does, with NaN for ends where these are too few.
    Gives `auc` and `fpr`; NaN where one side is empty.
    """
    every, sides = np.asarray(values, dtype=np.float64), np.asarray(memorized, dtype=bool)
    kept = np.flatnonzero(~np.isnan(every))
    kept = kept[np.argsort(every[kept], kind="stable")]
    found, is_memorized = every[kept], sides[kept]
    low, high = found[is_memorized], found[~is_memorized]
    if not len(low) or not len(high):
        return NOT_SEPARATED
    owners = None if groups is None else np.asarray(groups)[kept]
    drawn = draw_within(~is_memorized, np.random.default_rng(seed), n_resamples, groups=owners)
    draws = [
        auc_and_fpr(*(np.repeat(found[side], one[side]) for side in (is_memorized, ~is_memorized)))
        for one in drawn
    ]
    ends = np.quantile(draws, [0.025, 0.975], axis=0) if draws else np.full((2, 2), np.nan)
    pairs = zip(auc_and_fpr(low, high), ends.T.tolist(), strict=True)
    return Separation(*(Estimate(value, *both) for value, both in pairs))


def auc_and_fpr(
    memorized: npt.NDArray[np.float64], others: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """AUC of low meaning memorized, and the share of others up to the .75 quantile; both sorted."""
    up_to = np.searchsorted(others, memorized, side="right")
    ties = up_to - np.searchsorted(others, memorized)
    auc = float((len(others) - up_to + 0.5 * ties).mean() / len(others))
    threshold = memorized[int(np.ceil(0.75 * len(memorized))) - 1]
    return auc, float(np.searchsorted(others, threshold, side="right") / len(others))


def resampled_auc(values: ArrayLike, own: ArrayLike, drawn: ArrayLike) -> Floats:
    """ROC AUC of a high value meaning `own`, a bool with both sides, of the sample and resamples.

    `drawn` (resamples, n) says how often each counts, as `draw_within` gives: (1 + resamples,).
    """
    every, sides = np.asarray(values, dtype=np.float64), np.asarray(own, dtype=bool)
    counts = np.concatenate([np.ones((1, len(every))), np.asarray(drawn)])
    above, below = counts[:, sides], counts[:, ~sides]
    order = np.argsort(every[~sides], kind="stable")
    passed = np.pad(below[:, order].cumsum(axis=1), ((0, 0), (1, 0)))
    ranked, wins = every[~sides][order], np.zeros(len(counts))
    for side in ("left", "right"):  # ties count half
        places = np.searchsorted(ranked, every[sides], side=side)
        wins += np.einsum("rm,rm->r", above, passed[:, places])
    return np.asarray(wins / (2 * above.sum(axis=1) * below.sum(axis=1)))
