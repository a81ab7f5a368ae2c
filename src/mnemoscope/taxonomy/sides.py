"""Give every group of sequences a side, so that both sides can be filled for every class."""

from dataclasses import dataclass

import numpy as np

__all__ = ["split_by_group"]

_MOST_MOVES, _MOST_TRIED = 200, 200
"""Bounds on mending a split: moves, and groups that are tried for each."""
_ROUNDING = 1e-9


def split_by_group(
    cells: np.ndarray, groups: np.ndarray, n_train: np.ndarray, n_eval: np.ndarray
) -> np.ndarray:
    """Give every group a side so that each cell can fill its training and evaluation share.

    Largest groups first, each to the side that lacks most of what it holds; groups that are one
    sequence are dealt out in the order of the rows. A large group counts only for as many
    sequences as must be taken from it: where many groups are there, each gives few.

    Args:
        cells: class (and genre, where classes are matched) of every sequence, shape (n,), int in
            [0, cells); the order of the rows is the order in which sequences are preferred.
        groups: group of every sequence, shape (n,), int from 0.
        n_train: training sequences wanted of every cell, shape (cells,).
        n_eval: evaluation sequences wanted of every cell, shape (cells,).

    Returns:
        True for training, shape (n,); one value a group.
    """
    holdings = _count_holdings(cells, groups, n_train + n_eval)
    size = np.bincount(holdings.group, holdings.count)
    is_single = size[holdings.group] == 1
    needs = np.stack([n_eval, n_train]).astype(np.int64)
    side = np.zeros(len(size), dtype=bool)
    _place_large(holdings.select(~is_single), side, needs)
    _deal_out(holdings.select(is_single), side, needs, np.stack([n_eval, n_train]))
    _mend(holdings, side, np.stack([n_eval, n_train]))
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
    keys = np.column_stack([groups, cells])
    pairs, first_row, count = np.unique(keys, axis=0, return_index=True, return_counts=True)
    for cell, need in enumerate(wanted):
        inside = pairs[:, 1] == cell
        count[inside] = np.minimum(count[inside], _find_cap(count[inside], int(need)))
    return _Holdings(pairs[:, 0], pairs[:, 1], count, first_row)


def _find_cap(counts: np.ndarray, wanted: int) -> int:
    """Smallest number from each group that gives `wanted` in all; the largest if none does."""
    low, high = 1, int(counts.max(initial=1))
    while low < high:
        middle = (low + high) // 2
        enough = np.minimum(counts, middle).sum() >= wanted
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _place_large(holdings: _Holdings, side: np.ndarray, needs: np.ndarray) -> None:
    """Place groups of several sequences; changes `side` and `needs` (2: eval, train; cells)."""
    wanted = np.maximum(needs, 1).copy()
    starts = np.flatnonzero(np.diff(holdings.group, prepend=-1))
    stops = np.append(starts[1:], len(holdings.group))
    sizes = np.add.reduceat(holdings.count, starts) if len(starts) else starts
    earliest = np.minimum.reduceat(holdings.first_row, starts) if len(starts) else starts
    for i in np.lexsort((earliest, -sizes)):
        inside = slice(starts[i], stops[i])
        cell, count = holdings.cell[inside], holdings.count[inside]
        gain = np.minimum(count, np.maximum(needs[:, cell], 0)).sum(axis=1)
        lack = (needs[:, cell] / wanted[:, cell]).sum(axis=1)
        to_train = bool((gain[1], lack[1]) >= (gain[0], lack[0]))
        side[holdings.group[starts[i]]] = to_train
        needs[int(to_train), cell] -= count


def _deal_out(holdings: _Holdings, side: np.ndarray, needs: np.ndarray, wanted: np.ndarray) -> None:
    """Deal out groups of one sequence, cell by cell, in the proportion that is still lacking."""
    for cell in range(needs.shape[1]):
        inside = np.flatnonzero(holdings.cell == cell)
        inside = inside[np.argsort(holdings.first_row[inside])]
        lack = np.maximum(needs[:, cell], 0)
        lack = lack if lack.sum() else wanted[:, cell]
        turn = np.arange(len(inside) + 1) * int(lack[1]) // max(int(lack.sum()), 1)
        side[holdings.group[inside]] = np.diff(turn).astype(bool)


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
