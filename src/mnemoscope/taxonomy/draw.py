"""Draw rows so that every class gives equally many to each side: the arithmetic of sampling.

Arrays in, arrays out. A unit is what may not be divided: a group, or a single row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mnemoscope.taxonomy.sides import split_by_group

__all__ = ["Draw", "Pool", "apportion", "draw_balanced", "draw_lots", "order_keys"]

_SPARE_SHARE, _SPARE_ROWS = 1.25, 64
"""Rows that are looked at first, by those wanted of a class: the rest seldom matters."""


class Pool(NamedTuple):
    """Rows to draw from, in the order in which they are preferred; each array of shape (n,).

    The lot of a unit, in [0, 1), says which side it goes to wherever the shares allow.
    """

    class_index: np.ndarray
    unit: np.ndarray
    stratum: np.ndarray
    lot: np.ndarray


@dataclass(frozen=True)
class Draw:
    """Rows that were drawn.

    Attributes:
        classes: classes that were drawn from.
        rows: positions in the pool, training first, then in the pool's order.
        n_train: training rows of every class; they are the first ``n_train * len(classes)``.
        n_eval: evaluation rows of every class.
        n_units: units of every class, in order of `classes`.
    """

    classes: tuple[int, ...]
    rows: np.ndarray
    n_train: int
    n_eval: int
    n_units: tuple[int, ...]

    def is_enough(self, needed: int) -> bool:
        """True where both sides have rows, and together `needed` of every class."""
        return min(self.n_train, self.n_eval) > 0 and self.n_train + self.n_eval >= needed


def order_keys(sequence_ids: np.ndarray, seed: int) -> np.ndarray:
    """Keys whose order is one random order of all sequences.

    Two sequences keep their order whatever others are in the table, so that a table that grows
    keeps most of its sample. The keys are SplitMix64 (Steele et al. 2014), one to one in the id.

    Args:
        sequence_ids: shape (n,), int64.
        seed: from 0.

    Returns:
        Shape (n,), uint64.
    """
    start = _mix(np.array([seed], dtype=np.uint64))
    return _mix(np.ascontiguousarray(sequence_ids, dtype=np.int64).view(np.uint64) ^ start)


def draw_lots(keys: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """A lot for every unit, independent of the order that the keys give.

    Args:
        keys: from `order_keys`, shape (n,), rising.
        unit: unit of every row, shape (n,), int.

    Returns:
        Shape (n,), float64 in [0, 1), equal within a unit.
    """
    _, first, inverse = np.unique(unit, return_index=True, return_inverse=True)
    lots: np.ndarray = (_mix(keys[first]) >> np.uint64(11)) / 2.0**53
    return lots[inverse]


def draw_balanced(pool: Pool, classes: Sequence[int], *, n_train: int, n_eval: int) -> Draw:
    """Draw equally many rows of every class for each side, of every stratum equally many.

    Args:
        pool: rows in the order in which they are preferred.
        classes: which classes to draw from.
        n_train: training rows wanted of every class.
        n_eval: evaluation rows wanted of every class.

    Returns:
        The rows; fewer than wanted, in the same proportion, where a class has too few or its
        units are too large.
    """
    rows = np.flatnonzero(np.isin(pool.class_index, classes))
    place = np.searchsorted(np.sort(classes), pool.class_index[rows])
    n_classes, n_strata = len(classes), int(pool.stratum.max(initial=0)) + 1
    cells = _Cells(
        pool.stratum[rows] * n_classes + place, pool.unit[rows], pool.lot[rows], n_strata, n_classes
    )
    common = cells.count(slice(None)).min(axis=1)
    common = apportion(common, min(int(common.sum()), n_train + n_eval))
    train = apportion(common, int(common.sum()) * n_train // (n_train + n_eval))
    chosen, quota = _choose(cells, np.stack([common - train, train]))
    n_units = tuple(len(np.unique(pool.unit[rows[place == index]])) for index in range(n_classes))
    drawn_eval, drawn_train = (int(n) for n in quota.sum(axis=1))
    return Draw(tuple(sorted(classes)), rows[chosen], drawn_train, drawn_eval, n_units)


@dataclass(frozen=True)
class _Cells:
    """Rows by cell (stratum and class), each array of shape (n,)."""

    cell: np.ndarray
    unit: np.ndarray
    lot: np.ndarray
    n_strata: int
    n_classes: int

    def count(self, rows: np.ndarray | slice) -> np.ndarray:
        """How many of these rows every (stratum, class) has."""
        counts: np.ndarray = np.bincount(self.cell[rows], minlength=self.n_strata * self.n_classes)
        return counts.reshape(self.n_strata, self.n_classes)

    def split(self, rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Side of each of these rows; `wanted` (2: eval, train; strata)."""
        n_eval, n_train = np.repeat(wanted, self.n_classes, axis=1)
        return split_by_group(
            self.cell[rows], self.unit[rows], self.lot[rows], n_train=n_train, n_eval=n_eval
        )


def _choose(cells: _Cells, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows, training first, and how many of each stratum (2: eval, train; strata)."""
    turn = _number_turns(cells)
    enough = wanted.sum(axis=0) * _SPARE_SHARE + _SPARE_ROWS
    for most in (
        np.repeat(enough, cells.n_classes),
        np.full(cells.n_strata * cells.n_classes, np.inf),
    ):
        first = _take_first(cells.cell, turn, most)
        is_train = cells.split(first, wanted)
        held = np.stack(
            [cells.count(first[is_train == side]).min(axis=1) for side in (False, True)]
        )
        quota = _fit(wanted, held)
        if (quota == wanted).all() or len(first) == len(turn):
            break
    by_side = np.repeat(quota, cells.n_classes, axis=1)
    sides = [first[is_train], first[~is_train]]
    chosen = [
        rows[_take_first(cells.cell[rows], turn[rows], most)]
        for rows, most in zip(sides, by_side[::-1], strict=True)
    ]
    return np.concatenate(chosen), quota


def apportion(weights: np.ndarray, total: int) -> np.ndarray:
    """Divide `total` in proportion to whole weights by the largest remainder.

    Args:
        weights: shape (n,), int, from 0.
        total: at most the sum of the weights.

    Returns:
        Shape (n,), int, sum `total`, no entry above its weight.
    """
    whole = int(weights.sum())
    if total >= whole:
        return weights.copy()
    share, rest = np.divmod(weights.astype(np.int64) * total, whole)
    largest = np.argsort(-rest, kind="stable")[: total - int(share.sum())]
    share[largest] += 1
    return share


def _fit(wanted: np.ndarray, available: np.ndarray) -> np.ndarray:
    """Shrink both sides (2: eval, train; strata) to what there is, in the proportion wanted."""
    fitting = np.minimum(wanted, available)
    (has_eval, has_train), (want_eval, want_train) = fitting.sum(axis=1), wanted.sum(axis=1)
    if not want_eval or not want_train:
        return np.zeros_like(fitting)
    if has_train * want_eval <= has_eval * want_train:
        totals = has_train * want_eval // want_train, has_train
    else:
        totals = has_eval, has_eval * want_train // want_eval
    return np.stack([apportion(side, int(n)) for side, n in zip(fitting, totals, strict=True)])


def _number_turns(cells: _Cells) -> np.ndarray:
    """For every row, how many of its unit stand before it in its cell."""
    turn = np.empty(len(cells.cell), dtype=np.int64)
    by_unit = np.lexsort((cells.unit, cells.cell))  # stable: rows keep their order
    turn[by_unit] = _number_runs(np.stack([cells.cell, cells.unit])[:, by_unit])
    return turn


def _take_first(cell: np.ndarray, turn: np.ndarray, most: np.ndarray) -> np.ndarray:
    """First rows of every cell, one of each unit before a second; sorted positions."""
    order = np.lexsort((turn, cell))
    number = _number_runs(cell[order][None])
    chosen: np.ndarray = np.sort(order[number < most[cell[order]]])
    return chosen


def _number_runs(keys: np.ndarray) -> np.ndarray:
    """Number the entries of each run of equal columns from 0; keys (k, n)."""
    n = keys.shape[1]
    starts = np.ones(n, dtype=bool)
    starts[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    number = np.arange(n)
    since_start: np.ndarray = number - np.maximum.accumulate(np.where(starts, number, 0))
    return since_start


def _mix(values: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed
