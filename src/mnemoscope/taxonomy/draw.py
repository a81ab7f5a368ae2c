"""Draw rows so that every class gives equally many to each side: the arithmetic of sampling.

Groups that may not be divided get a side first, so that both sides can be filled for every class;
then every group gives one row before any gives a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

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
    """Rows of `classes` that were drawn: positions in the pool, training first, in its order.

    `n_train` and `n_eval` rows are of every class, `n_units` units in order of `classes`.
    """

    classes: tuple[int, ...]
    rows: np.ndarray
    n_train: int
    n_eval: int
    n_units: tuple[int, ...]

    def is_enough(self, needed: int, *, n_folds: int = 0) -> bool:
        """True where both sides (of folds the one) have rows, and `needed` of every class."""
        if n_folds:
            return self.n_train >= needed and min(self.n_units) >= n_folds
        return min(self.n_train, self.n_eval) > 0 and self.n_train + self.n_eval >= needed


def order_keys(sequence_ids: np.ndarray, seed: int) -> np.ndarray:
    """Keys, uint64 of shape (n,), whose order is one random order of all sequences.

    Two sequences keep their order whatever others are in the table, so that a table that grows
    keeps most of its sample. SplitMix64 (Steele et al. 2014), one to one in the id.
    """
    start = _mix(np.array([seed], dtype=np.uint64))
    return _mix(np.ascontiguousarray(sequence_ids, dtype=np.int64).view(np.uint64) ^ start)


def draw_lots(keys: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """A lot in [0, 1) for every unit, independent of the order that the rising keys give."""
    _, first, inverse = np.unique(unit, return_index=True, return_inverse=True)
    lots: np.ndarray = (_mix(keys[first]) >> np.uint64(11)) / 2.0**53
    return lots[inverse]


def draw_balanced(pool: Pool, classes: Sequence[int], *, n_train: int, n_eval: int) -> Draw:
    """Draw equally many rows of every class for each side, of every stratum equally many.

    With `n_eval` 0 units need no side, and every row may be drawn for training.

    Fewer than wanted are drawn, in the same proportion, where a class has too few or its units
    are too large.
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
        """Rows of every cell, shape (strata, classes)."""
        counts: np.ndarray = np.bincount(self.cell[rows], minlength=self.n_strata * self.n_classes)
        return counts.reshape(self.n_strata, self.n_classes)

    def split(self, rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Side of each row; `wanted` (2: eval, train; strata)."""
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
        is_train = cells.split(first, wanted) if wanted[0].any() else np.ones(len(first), bool)
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
    """Divide `total` in proportion to whole weights by the largest remainder, none above itself."""
    whole = int(weights.sum())
    if total >= whole:
        return weights.copy()
    share, rest = np.divmod(weights.astype(np.int64) * total, whole)
    largest = np.argsort(-rest, kind="stable")[: total - int(share.sum())]
    share[largest] += 1
    return share


def _fit(wanted: np.ndarray, available: np.ndarray) -> np.ndarray:
    """Shrink both sides (2: eval, train; strata) to what there is, in the proportion wanted."""
    fitting: np.ndarray = np.minimum(wanted, available)
    (has_eval, has_train), (want_eval, want_train) = fitting.sum(axis=1), wanted.sum(axis=1)
    if not want_train:
        return np.zeros_like(fitting)
    if not want_eval:
        return fitting
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


_MOST_MOVES, _MOST_TRIED = 200, 200
"""Bounds on mending a split: moves, and groups that are tried for each."""
_MOST_WEIGHED = 500
"""Groups of several sequences that are weighed one by one, the largest; the rest go by lot."""
_SMALL_SHARE = 0.02
"""A group with at most this share of a cell goes by its lot if both sides have room."""
_ROUNDING = 1e-9


def split_by_group(
    cells: np.ndarray,
    groups: np.ndarray,
    lots: np.ndarray,
    *,
    n_train: np.ndarray,
    n_eval: np.ndarray,
) -> np.ndarray:
    """Give every group a side so that each cell can fill its shares; True for training, shape (n,).

    Largest groups first, each to the side that lacks most of what it holds, small ones by their
    lot; groups that are one sequence are dealt out so that the first of each cell fill both its
    shares exactly, the lowest lots to evaluation. A large group counts only for as many
    sequences as must be taken from it: where many groups are there, each gives few.

    `cells` are class (and genre, where classes are matched) of every sequence, shape (n,), in the
    order in which sequences are preferred; lots in [0, 1) are equal within a group. `n_train` and
    `n_eval` are wanted of every cell, shape (cells,).
    """
    wanted = np.stack([n_eval, n_train]).astype(np.int64)
    _, first, groups = np.unique(groups, return_index=True, return_inverse=True)
    holdings = _count_holdings(cells, groups, wanted.sum(axis=0))
    size = np.bincount(holdings.group, holdings.count, minlength=len(first))
    is_single = size[holdings.group] == 1
    needs, lot = wanted.copy(), lots[first]
    side = np.zeros(len(first), dtype=bool)
    _place_large(holdings.select(~is_single), side, needs, lot)
    _deal_out(holdings.select(is_single), side, lot, np.where(needs.any(axis=0), needs, wanted))
    _mend(holdings, side, wanted)
    sides: np.ndarray = side[groups]
    return sides


@dataclass(frozen=True)
class _Holdings:
    """How many sequences of which cell a group gives; one entry a (group, cell), shape (m,)."""

    group: np.ndarray
    cell: np.ndarray
    count: np.ndarray
    first_row: np.ndarray

    def select(self, keep: np.ndarray) -> "_Holdings":
        return _Holdings(self.group[keep], self.cell[keep], self.count[keep], self.first_row[keep])


def _count_holdings(cells: np.ndarray, groups: np.ndarray, wanted: np.ndarray) -> _Holdings:
    """Count by group and cell; no group for more than the cell must take from it."""
    keys, first_row, count = np.unique(
        groups * len(wanted) + cells, return_index=True, return_counts=True
    )
    group, cell = np.divmod(keys, len(wanted))
    for number, need in enumerate(wanted):
        inside = cell == number
        count[inside] = np.minimum(count[inside], _find_cap(count[inside], int(need)))
    return _Holdings(group, cell, count, first_row)


def _find_cap(counts: np.ndarray, wanted: int) -> int:
    """Smallest number from each group that gives `wanted` in all; the largest if none does."""
    low, high = 1, int(counts.max(initial=1))
    while low < high:
        middle = (low + high) // 2
        enough = np.minimum(counts, middle).sum() >= wanted
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _place_large(holdings: _Holdings, side: np.ndarray, needs: np.ndarray, lot: np.ndarray) -> None:
    """Place groups of several sequences; changes `side` and `needs` (2: eval, train; cells)."""
    wanted = np.maximum(needs, 1)
    starts = np.flatnonzero(np.diff(holdings.group, prepend=-1))
    stops = np.append(starts[1:], len(holdings.group))
    sizes = np.add.reduceat(holdings.count, starts) if len(starts) else starts
    earliest = np.minimum.reduceat(holdings.first_row, starts) if len(starts) else starts
    largest_first = np.lexsort((earliest, -sizes))
    for i in largest_first[:_MOST_WEIGHED]:
        inside = slice(starts[i], stops[i])
        group, cell, count = (
            holdings.group[starts[i]],
            holdings.cell[inside],
            holdings.count[inside],
        )
        to_train = _weigh(count, needs[:, cell], wanted[:, cell], float(lot[group]))
        side[group] = to_train
        needs[int(to_train), cell] -= count
    by_lot = holdings.group[starts[largest_first[_MOST_WEIGHED:]]]
    side[by_lot] = lot[by_lot] >= wanted[0].sum() / wanted.sum()
    rest = holdings.select(np.isin(holdings.group, by_lot))
    np.subtract.at(needs, (side[rest.group].astype(np.int64), rest.cell), rest.count)
    np.maximum(needs, 0, out=needs)


def _weigh(count: np.ndarray, needs: np.ndarray, wanted: np.ndarray, lot: float) -> bool:
    """Does a group go to training: `count` a cell, `needs` and `wanted` (2: eval, train; cells)."""
    gain = np.minimum(count, np.maximum(needs, 0)).sum(axis=1)
    if gain[0] == gain[1] and (count <= _SMALL_SHARE * wanted.sum(axis=0)).all():
        return bool(lot >= wanted[0].sum() / wanted.sum())
    lack = (needs / wanted).sum(axis=1)
    return bool((gain[1], lack[1]) >= (gain[0], lack[0]))


def _deal_out(holdings: _Holdings, side: np.ndarray, lot: np.ndarray, lack: np.ndarray) -> None:
    """Deal out groups of one sequence: lowest lots of a cell's first ones to evaluation."""
    for cell in range(lack.shape[1]):
        inside = np.flatnonzero(holdings.cell == cell)
        groups = holdings.group[inside[np.argsort(holdings.first_row[inside])]]
        n_lacking = max(int(lack[:, cell].sum()), 1)
        n_first = min(len(groups), n_lacking)
        n_eval = n_first * int(lack[0, cell]) // n_lacking
        by_lot = np.sort(lot[groups[:n_first]])
        side[groups] = lot[groups] >= (by_lot[n_eval] if n_eval < n_first else np.inf)


def _mend(holdings: _Holdings, side: np.ndarray, wanted: np.ndarray) -> None:
    """Move groups over, one at a time, while that fills the emptiest share; changes `side`."""
    held = np.zeros((len(side), wanted.shape[1]), dtype=np.int64)
    held[holdings.group, holdings.cell] = holdings.count
    filled = np.stack([held[~side].sum(axis=0), held[side].sum(axis=0)])
    for _ in range(_MOST_MOVES):
        share = _share_filled(filled, wanted)
        lacking, cell = np.unravel_index(share.argmin(), share.shape)
        others = np.flatnonzero((side != bool(lacking)) & (held[:, cell] > 0))
        others = others[np.argsort(-held[others, cell], kind="stable")][:_MOST_TRIED]
        if share.min() >= 1 or not len(others):
            return
        change = np.stack([held[others], -held[others]], axis=1) * (1 if lacking == 0 else -1)
        scores = _score_sides(_share_filled(filled + change, wanted))
        best = int(scores.argmax())
        if scores[best] <= _score_sides(share) + _ROUNDING:
            return
        side[others[best]] = bool(lacking)
        filled = filled + change[best]


def _share_filled(filled: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How far each share is filled, at most 1, shape (..., 2, cells)."""
    return np.where(wanted > 0, np.minimum(filled / np.maximum(wanted, 1), 1.0), 1.0)


def _score_sides(share: np.ndarray) -> np.ndarray:
    """The emptiest share decides what can be drawn; of equals the better filled in all."""
    score: np.ndarray = share.min(axis=(-2, -1)) + 1e-3 * share.mean(axis=(-2, -1))
    return score
