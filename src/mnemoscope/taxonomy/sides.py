"""Give every group of sequences a side, so that both sides can be filled for every class.

Each group draws a lot, the same for all taxonomies, and goes to the side that its lot says
wherever the shares allow: so two taxonomies evaluate on the same sequences as far as they can.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["split_by_group"]

_MOST_MOVES, _MOST_TRIED = 200, 200
"""Bounds on mending a split: moves, and groups that are tried for each."""
_MOST_WEIGHED = 500
"""Groups of several sequences that are weighed one by one, the largest; the rest go by lot."""
_SMALL_SHARE = 0.02
"""Of a cell: up to it a group goes by its lot where both sides have room."""
_ROUNDING = 1e-9


def split_by_group(
    cells: np.ndarray,
    groups: np.ndarray,
    lots: np.ndarray,
    *,
    n_train: np.ndarray,
    n_eval: np.ndarray,
) -> np.ndarray:
    """Give every group a side so that each cell can fill its training and evaluation share.

    Largest groups first, each to the side that lacks most of what it holds, small ones by their
    lot; groups that are one sequence are dealt out so that the first of each cell fill both its
    shares exactly, the lowest lots to evaluation. A large group counts only for as many
    sequences as must be taken from it: where many groups are there, each gives few.

    Args:
        cells: class (and genre, where classes are matched) of every sequence, shape (n,), int in
            [0, cells); the order of the rows is the order in which sequences are preferred.
        groups: group of every sequence, shape (n,), int from 0.
        lots: lot of every sequence, equal within a group, shape (n,), float in [0, 1).
        n_train: training sequences wanted of every cell, shape (cells,).
        n_eval: evaluation sequences wanted of every cell, shape (cells,).

    Returns:
        True for training, shape (n,); one value a group.
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
        """The entries to keep."""
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
