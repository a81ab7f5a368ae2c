"""Weigh what comes out after unlearning against what comes out of a model that never read it.

*Forgotten* is an equivalence: under no stress more comes out than of the control, by more than a
margin, by every interval. *Hidden* is a difference: under one stress more comes out, by an interval
that holds over all stresses. What is neither cannot be told.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.benchmark.membership import sum_of
from mnemoscope.forgetting.texts import FORGET, GUESS, RECALL, UNREAD, UNTOUCHED
from mnemoscope.stats import (
    FEWEST_GROUPS,
    Estimate,
    Z,
    difference_of,
    frame_of,
    n_groups,
    pair_correlation,
    resampled_ratio,
    rows_of,
    share_true,
)
from mnemoscope.words import plural, ranged

FORGOTTEN, HIDDEN, KEPT, UNDECIDED = "forgotten", "hidden", "kept", "cannot be told"
VERDICTS = (FORGOTTEN, HIDDEN, KEPT, UNDECIDED)
AS_IT_IS, BITS = "as it is", "bits left"
_CLASSES = (RECALL, GUESS)


def column(subject: str, stress: str) -> str:
    """The column of a model's answers under a stress: `after_as_it_is`."""
    return f"{subject}_{stress}".replace(" ", "_").replace(",", "")


class Verdict(NamedTuple):
    """What is said of a class of passages, and why; `brings` back are the stresses that do."""

    name: str
    verdict: str
    reason: str
    brings: list[str]


def judged(rows: pl.DataFrame, stresses: Sequence[str], *, margin: float) -> pl.DataFrame:
    """One row a class and stress: what comes out after, of the control, and the difference.

    `rows` hold `role`, `class`, `group` and the answers by `column`. The control are the same
    passages of the twin (`twin_...`), or else passages never read. Columns: `class`, `stress`, `n`,
    `n_groups`, `share`, `control`, `beyond` (their difference, 95 %), `is_more` (above 0 by an
    interval that holds over all stresses) and `is_even` (less than `margin` by its 95 % interval);
    both null where there is no control or no interval. Of `bits left` the share is of what the
    model before holds beyond the twin, which itself holds none.
    """
    found = []
    for name in (*_CLASSES, UNTOUCHED):
        own = rows.filter(pl.col("role") != UNREAD, pl.col("class") == name)
        if own.is_empty():
            continue
        others = rows.filter(role=UNREAD).filter(pl.col("class") == name)
        found += [_compared(name, one, own, others, len(stresses) + 1, margin) for one in stresses]
        if column("twin", "nats") in rows.columns and name != UNTOUCHED:
            found += _bits_left(name, own, len(stresses) + 1, margin)
    return frame_of(found).with_columns(pl.col("is_more", "is_even").cast(pl.Boolean))


def _compared(
    name: str, stress: str, own: pl.DataFrame, others: pl.DataFrame, n_judged: int, margin: float
) -> Mapping[str, Any]:
    after, beside = column("after", stress), column("twin", stress)
    if beside in own.columns:
        control, correlation = own, pair_correlation(own[after], own[beside])
    else:
        control, beside, correlation = others, after, 0.0
    both: list[tuple[Estimate, Estimate, Estimate]] = []
    for many in (1, n_judged):
        share = share_true(own[after], own["group"], n_judged=many)
        of_control = Estimate(None)
        if not control.is_empty():
            of_control = share_true(control[beside], control["group"], n_judged=many)
        both.append((share, of_control, difference_of(share, of_control, correlation)))
    (share, of_control, beyond), strict = both[0], both[1][2]
    return _row(name, stress, own, (share, of_control, beyond), strict.low, margin)


def _bits_left(
    name: str, own: pl.DataFrame, n_judged: int, margin: float
) -> list[Mapping[str, Any]]:
    """Bits beyond the twin as a share of those before; nothing where there were none before."""
    nats = {one: own[column(one, "nats")].to_numpy() for one in ("before", "after", "twin")}
    held, left = nats["twin"] - nats["before"], nats["twin"] - nats["after"]
    before = sum_of(held, own["group"])
    if before.low is None or before.low <= 0:
        return []
    share, strict = (
        resampled_ratio(left, held, own["group"], n_judged=many) for many in (1, n_judged)
    )
    return [_row(name, BITS, own, (share, Estimate(0.0), share), strict.low, margin)]


def _row(
    name: str,
    stress: str,
    own: pl.DataFrame,
    figures: tuple[Estimate, Estimate, Estimate],
    strict_low: float | None,
    margin: float,
) -> Mapping[str, Any]:
    share, control, beyond = figures
    is_known = beyond.high is not None and strict_low is not None
    return {
        "class": name,
        "stress": stress,
        "n": own.height,
        "n_groups": n_groups(own["group"]),
        "share": share,
        "control": control,
        "beyond": beyond,
        "is_more": strict_low > 0 if is_known and strict_low is not None else None,
        "is_even": beyond.high < margin if beyond.high is not None else None,
    }


def verdicts_of(table: pl.DataFrame, margin: float) -> list[Verdict]:
    """The verdict of each class from the rows of `judged`."""
    return [
        _verdict(name, list(rows_of(table.filter(pl.col("class") == name))), margin)
        for name in _CLASSES
        if name in table["class"]
    ]


def _verdict(name: str, rows: list[Mapping[str, Any]], margin: float) -> Verdict:
    if all(one["control"].value is None for one in rows):
        said = "no retrained twin, and no texts of this class that were never read, to compare with"
        return Verdict(name, UNDECIDED, said, [])
    if any(one["is_even"] is None for one in rows):
        said = f"{plural(rows[0]['n_groups'], 'group')} of passages, or fewer of the control, where"
        return Verdict(name, UNDECIDED, f"{said} {FEWEST_GROUPS} are needed", [])
    more = [one for one in rows if one["is_more"]]
    more.sort(key=lambda one: (one["stress"] == BITS, -one["beyond"].value))
    brings = [one["stress"] for one in more]
    limit = f"{100 * margin:g} points"
    if AS_IT_IS in brings:
        plain = next(one for one in more if one["stress"] == AS_IT_IS)
        said = f"without any stress {_said(plain)}"
        return Verdict(name, KEPT, said, brings)
    if more:
        where = "" if brings[0] == BITS else f"under '{brings[0]}' "
        further = f"; more than of the control also: {', '.join(brings[1:])}" if brings[1:] else ""
        return Verdict(name, HIDDEN, where + _said(more[0]) + further, brings)
    open_ = [one for one in rows if not one["is_even"]]
    if open_:
        widest = max(open_, key=lambda one: one["beyond"].high)
        said = f"under '{widest['stress']}' {_said(widest)}: less than {limit} more is not shown"
        least = math.floor(Z**2 * (1 - margin) / margin) + 1  # whose interval of none ends there
        if widest["n_groups"] < least:
            said += (
                f" with {widest['n_groups']:,} groups of passages, of which {least:,} are needed"
            )
        return Verdict(name, UNDECIDED, said, [])
    worst = max(rows, key=lambda one: one["beyond"].high)
    most = 100 * worst["beyond"].high
    said = f"at most {most:.1f} points more come out than of the control, under '{worst['stress']}'"
    if most <= 0:
        said = "under every stress less comes out than of the control"
    return Verdict(name, FORGOTTEN, said, [])


def _said(row: Mapping[str, Any]) -> str:
    share, control = (ranged(row[one], scale=100, unit=" %") for one in ("share", "control"))
    if row["stress"] == BITS:
        return f"{share} of the bits are left that the model before held beyond the twin"
    return f"{share} come out, of the control {control}"


def depth_of(rows: pl.DataFrame, parts: Sequence[str], weights: Sequence[float]) -> pl.DataFrame:
    """What each part of the model before brings back: in the model after, and in the twin.

    Columns: `class`, `part`, `weights` (its share of all weights), `n`, `share`, `control`,
    `beyond`. The twin with the same part is the control: what the part does in a model that never
    read them.
    """
    found = []
    for name in _CLASSES:
        own = rows.filter(role=FORGET).filter(pl.col("class") == name)
        for part, weight in zip(parts, weights, strict=True):
            if not own.is_empty():
                none = own.clear()
                row = {**_compared(name, part, own, none, 1, 0.0), "part": part, "weights": weight}
                found.append({one: row[one] for one in _DEPTH})
    return frame_of(found) if found else pl.DataFrame()


_DEPTH = ("class", "part", "weights", "n", "share", "control", "beyond")


def brought_back(rows: pl.DataFrame, table: pl.DataFrame) -> pl.Series:
    """By what each passage comes out and not of the twin; without one by what the verdict names."""
    stresses = [one for one in table["stress"].unique(maintain_order=True) if one != BITS]
    more = {tuple(one) for one in table.filter("is_more").select("class", "stress").rows()}
    found: list[list[str]] = [[] for _ in range(rows.height)]
    for stress in stresses:
        after, beside = column("after", stress), column("twin", stress)
        is_out = rows[after].to_numpy()
        if beside in rows.columns:
            is_out = is_out & ~rows[beside].to_numpy()
        else:
            named = [(name, stress) in more for name in rows["class"]]
            is_out = is_out & np.array(named)
        for row in np.flatnonzero(is_out & (rows["role"] == FORGET).to_numpy()).tolist():
            found[row].append(stress)
    return pl.Series("back", found, dtype=pl.List(pl.String))


def sentences_of(verdicts: Sequence[Verdict], table: pl.DataFrame) -> Iterator[str]:
    """What can be said, class by class, and what became of the rest."""
    for one in verdicts:
        yield f"{one.name}: {one.verdict}; {one.reason}."
    rows = table.filter(pl.col("class") == UNTOUCHED, stress=AS_IT_IS)
    if rows.is_empty():
        yield "What became of other texts is not known: none were given (--retain)."
        return
    kept = next(rows_of(rows))
    said = f"Of untouched text that the model before writes {ranged(kept['share'], scale=100)} %"
    beside = kept["control"]
    if beside.value is None:
        yield f"{said} still come out."
        return
    yield f"{said} still come out, of the twin {ranged(beside, scale=100)} %{_damage(kept)}."


def _damage(kept: Mapping[str, Any]) -> str:
    high = kept["beyond"].high
    return ": the unlearning has cost other texts too" if high is not None and high < 0 else ""
