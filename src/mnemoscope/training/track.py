"""When each window became memorized, when it was forgotten, and how long memory lasts."""

import warnings
from itertools import pairwise

import numpy as np
import polars as pl

from mnemoscope.stats import Floats, draw_within, interval_of

_RESAMPLES = 1000
_TURNOVER = ("from_step", "to_step", "stays", "learned", "forgotten", "never")


def follow(checks: pl.DataFrame) -> pl.DataFrame:
    """Follow every window through the checks, columns `step`, `window`, `is_memorized`.

    Gives one row a window, in their order: `window`; `first_memorized`, the first step at which it
    was reproduced, null where it never was; `forgotten`, the first later step at which it was not,
    null where there is none; `n_memorized`, checks at which it was; `n_switches`, how often two
    neighbouring checks differ; `is_memorized`, at the last check.
    """
    memorized, step = pl.col("is_memorized"), pl.col("step")
    first = step.filter(memorized).min()
    return (
        checks.sort("step", maintain_order=True)
        .group_by("window", maintain_order=True)
        .agg(
            first.alias("first_memorized"),
            step.filter(~memorized & (step > first)).min().alias("forgotten"),
            memorized.sum().cast(pl.Int64).alias("n_memorized"),
            (memorized != memorized.shift()).sum().cast(pl.Int64).alias("n_switches"),
            memorized.last(),
        )
    )


def turnover(checks: pl.DataFrame) -> pl.DataFrame:
    """Count what changes between neighbouring checks, of every window at every step.

    Gives one row a pair of neighbours: `from_step`, `to_step`, `stays`, `learned`, `forgotten`,
    `never` (not memorized at either), counts of windows.
    """
    wide = checks.pivot(on="step", index="window", values="is_memorized").drop("window")
    steps = sorted(int(name) for name in wide.columns)
    rows = []
    for before, after in pairwise(steps):
        was, now = (wide[str(step)].to_numpy().astype(bool) for step in (before, after))
        counts = (int(so.sum()) for so in (was & now, ~was & now, was & ~now, ~was & ~now))
        rows.append((before, after, *counts))
    return pl.DataFrame(rows, schema=dict.fromkeys(_TURNOVER, pl.Int64), orient="row")


def survival(followed: pl.DataFrame, last_step: int) -> pl.DataFrame:
    """How long what was memorized, as `follow` gives it, stays so: Kaplan and Meier's estimate.

    A window's age counts from the step at which it was first seen memorized to the first later
    one at which it was not; one that is never seen forgotten is censored at the last step. Ages
    are known to the distance of two checks.

    Returns:
        `age` (steps), `survives`, `low`, `high` (share still memorized after that age, 95 %
        log-log interval, NaN where it cannot be given), `at_risk` (windows seen to that age);
        from age 0, where all do. Empty where nothing was memorized before the last step. Where
        `followed` has `near_duplicates`, the interval draws these groups, and is NaN below
        `FEWEST_GROUPS`.
    """
    known = followed.filter(pl.col("first_memorized") < last_step)
    start = pl.DataFrame(
        {"age": [0], "survives": [1.0], "low": [1.0], "high": [1.0], "at_risk": [known.height]}
    )
    if known.is_empty():
        return start.clear()
    from scipy.stats import CensoredData, ecdf

    is_censored = known["forgotten"].is_null().to_numpy()
    ages = known["forgotten"].fill_null(last_step) - known["first_memorized"]
    age = ages.to_numpy().astype(np.float64)
    curve = ecdf(CensoredData(age[~is_censored], right=age[is_censored])).sf
    places = np.unique(age)
    survives = curve.evaluate(places)
    if "near_duplicates" in known.columns:
        groups = known["near_duplicates"].to_numpy()
        low, high = _ends_over_groups(age, is_censored, places, survives, groups)
    else:
        with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # undefined ends are NaN, as is said
            reach = curve.confidence_interval(method="log-log")
        low, high = (end.evaluate(places) for end in (reach.low, reach.high))
    found = pl.DataFrame(
        {
            "age": places.astype(np.int64),
            "survives": survives,
            "low": low,
            "high": high,
            "at_risk": [int((age >= place).sum()) for place in places],
        }
    )
    return pl.concat([start, found], how="vertical_relaxed")


def _ends_over_groups(
    age: Floats, is_censored: np.ndarray, places: Floats, survives: Floats, groups: np.ndarray
) -> tuple[Floats, Floats]:
    """Percentile ends of the curve (places,) where groups are drawn; NaN where it is 0 or 1."""
    drawn = draw_within(np.zeros(len(age)), np.random.default_rng(0), _RESAMPLES, groups=groups)
    lost = drawn @ ((age[:, None] == places) & ~is_censored[:, None])
    at_risk = drawn @ (age[:, None] >= places)
    curves = np.cumprod(1 - lost / np.maximum(at_risk, 1), axis=1)
    ends = np.array([interval_of(curve) for curve in curves.T])
    ends[(survives == 0) | (survives == 1)] = np.nan
    return ends[:, 0], ends[:, 1]
