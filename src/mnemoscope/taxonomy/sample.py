"""Draw a class-balanced sample of a labelled table, divided into training and evaluation.

Every class gives the same number of sequences to each side. One order of all sequences, fixed
by the seed and by nothing else, serves all taxonomies, so that they share most of their maps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError, nearest
from mnemoscope.taxonomy.groups import SIMILARITY, connect, find_near_duplicates
from mnemoscope.taxonomy.labels import count_classes
from mnemoscope.taxonomy.names import Taxonomy

# Give every group of sequences a side, so that both sides can be filled for every class.

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


# Draw rows so that every class gives equally many to each side: the arithmetic of sampling.

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


# Say why a taxonomy cannot be sampled: the class in the way, its count, and what helps.

_FEWEST = 6
"""Sequences a class below which no setting allows training."""


@dataclass(frozen=True)
class Impossible:
    """Why a taxonomy cannot be sampled.

    Attributes:
        reason: which class has how many sequences, or what else is in the way.
        counts: sequences of every class in the table, "null" those without a class.
        needed: sequences needed of every class, training and evaluation together.
        remedy: what the user can do.
    """

    reason: str
    counts: dict[str, int]
    needed: int
    remedy: str

    def __str__(self) -> str:
        counted = ", ".join(f"{name} {n:,}" for name, n in self.counts.items())
        return f"{self.reason} (in the table: {counted}). {self.remedy}"


def explain(
    draw: Draw,
    taxonomy: Taxonomy,
    counts: dict[str, int],
    *,
    needed: int,
    split: str,
    match: str | None,
    may_drop: bool,
    missing: str,
) -> Impossible:
    """Say what is in the way and what helps; `draw` is what could be drawn of all classes."""
    n_other, n_memorized = _count_memorized(taxonomy, counts)
    small = [name for name in taxonomy.classes if counts[name] < needed]
    if not n_memorized or not n_other:
        reason, remedy = _name_one_sided(n_other, n_memorized)
    else:
        reason = _name_cause(draw, taxonomy, counts, small, match)
        ways = _find_ways(taxonomy, counts, small, split, match, may_drop)
        remedy = f"{', or '.join(ways)}."
    reason = f"{needed:,} sequences of every class are needed, but {reason}"
    return Impossible(
        f"{reason}; {missing}" if missing else reason,
        counts,
        needed,
        remedy[0].upper() + remedy[1:],
    )


def _count_memorized(taxonomy: Taxonomy, counts: dict[str, int]) -> tuple[int, int]:
    """Sequences that are not memorized, and those that are."""
    n_other = counts[taxonomy.classes[0]]
    return n_other, sum(counts[name] for name in taxonomy.classes[1:])


def _name_one_sided(n_other: int, n_memorized: int) -> tuple[str, str]:
    """Nothing is memorized, or everything: no taxonomy can be trained, so fewer would not help."""
    if n_other:
        return (
            f"none of the {n_other:,} sequences with a class is memorized",
            "take sequences that the model saw in training, best many times, or a model that "
            "memorizes more, such as a larger one.",
        )
    if n_memorized:
        return (
            f"all {n_memorized:,} sequences with a class are memorized",
            "add sequences that the model does not reproduce.",
        )
    return "no sequence has a class", "add the features that are missing."


def _find_ways(
    taxonomy: Taxonomy,
    counts: dict[str, int],
    small: list[str],
    split: str,
    match: str | None,
    may_drop: bool,
) -> list[str]:
    """What would make the taxonomy possible, each in a few words."""
    fewest = min(counts[name] for name in taxonomy.classes)
    ways = ["add sequences"]
    if fewest == 0:
        ways.append("choose other nodes or thresholds")
    if may_drop and len(taxonomy.classes) - max(len(small), 1) >= 2:
        ways.append("leave small classes out with --drop-small-classes")
    if match is not None and not small:
        ways.append(f"do not match by {match}")
    if split == "group" and not small:
        ways.append("split by row")
    if fewest >= _FEWEST:
        fewer = f"no more than {fewest:,} (label.minimum)" if small else "fewer"
        ways.append(f"ask for {fewer}")
    return ways


def _name_cause(
    draw: Draw, taxonomy: Taxonomy, counts: dict[str, int], small: list[str], match: str | None
) -> str:
    """Too few in the table, or too few of them of use."""
    if small:
        return " and ".join(f"{name} has {counts[name]:,}" for name in small)
    usable = f"only {draw.n_train:,} + {draw.n_eval:,} can be used"
    if match is not None:
        return f"matched by {match} {usable}"
    fewest = min(draw.n_units)
    name = taxonomy.classes[draw.n_units.index(fewest)]
    return (
        f"with near duplicates kept on one side {usable}: the sequences of {name} form "
        f"{fewest:,} group{'' if fewest == 1 else 's'}"
    )


def explain_null(frame: pl.DataFrame, labels: pl.Series, taxonomy: Taxonomy) -> str:
    """How many sequences have no class, and for want of what."""
    without = frame.filter(labels.is_null())
    if not without.height:
        return ""
    wanted = [*taxonomy.columns, "is_memorized", "memorization_score"]
    lacking = [name for name in wanted if name in frame.columns and without[name].null_count()]
    cause = f", for want of {', '.join(lacking)}" if lacking else ""
    return f"{without.height:,} sequences have no class{cause}"


# Count what all taxonomies need together: sequences and maps, shared and each for itself.


class SharedNeed(NamedTuple):
    """What the samples of all taxonomies need together."""

    n_sequences: int
    """Distinct sequences."""
    n_maps: int
    """Distinct pairs of sequence and shown suffix: what is captured."""
    n_unshared: int
    """Maps if every name were sampled and captured for itself: the sum of names × classes ×
    (training + evaluation sequences)."""

    def __str__(self) -> str:
        times = f", {self.n_unshared / self.n_maps:.1f} times as many" if self.n_maps else ""
        return (
            f"{self.n_sequences:,} distinct sequences ({self.n_maps:,} maps) serve all; each for "
            f"itself would need {self.n_unshared:,}{times}"
        )


def shared_need(samples: pl.DataFrame, n_names: Mapping[str, int] | None = None) -> SharedNeed:
    """Count what samples need together and apart.

    Before anything has been sampled, as for a dry run, `draw_first` makes a table of samples out
    of the labels of a whole table: ``shared_need(draw_first(ids, labels, n=6000, seed=0))``.
    That is what a split by row needs exactly, and by group up to a few per cent.

    Args:
        samples: one row a sample and sequence: columns sample, sequence_id, and suffix where
            one sequence may be shown with either suffix.
        n_names: how many names each sample serves, 1 where it is not named: a partition with
            two names is trained once, and apart would be sampled twice.

    Returns:
        The counts.
    """
    names = n_names or {}
    sizes = samples.group_by("sample").len().rows()
    shown = [name for name in ("sequence_id", "suffix") if name in samples.columns]
    return SharedNeed(
        n_sequences=samples["sequence_id"].n_unique(),
        n_maps=samples.select(shown).n_unique() if samples.height else 0,
        n_unshared=sum(size * names.get(name, 1) for name, size in sizes),
    )


def draw_first(
    sequence_ids: pl.Series, labels: Mapping[str, pl.Series], *, n: int, seed: int
) -> pl.DataFrame:
    """Draw each class's first sequences in the order of the seed, without groups and sides.

    Args:
        sequence_ids: of the whole table, int64.
        labels: class of every row by the taxonomy's name, in the order of `sequence_ids`; null
            is left out. Leave out names of one partition, and taxonomies with an empty class.
        n: sequences wanted of every class; all classes shrink to the smallest, as in a sample.
        seed: as in `sampling.sample_classes`.

    Returns:
        Columns sample, sequence_id, class.
    """
    order = np.argsort(order_keys(sequence_ids.to_numpy(), seed), kind="stable")
    ids = sequence_ids.gather(order)
    frames = []
    for name, classes in labels.items():
        rows = pl.DataFrame({"sequence_id": ids, "class": classes.gather(order)}).drop_nulls()
        fewest = min(rows["class"].value_counts()["count"].to_list(), default=0)
        drawn = rows.group_by("class", maintain_order=True).head(min(n, fewest))
        frames.append(drawn.select(pl.lit(name).alias("sample"), "sequence_id", "class"))
    empty = pl.DataFrame(schema={"sample": pl.String, "sequence_id": pl.Int64, "class": pl.String})
    return pl.concat([empty, *frames])


# Find groups of sequences that must stay on one side of a split.


def find_groups(frame: pl.DataFrame, *, similarity: float = SIMILARITY) -> pl.Series:
    """Give every sequence of a table its group.

    Args:
        frame: table with ``sequence_id`` and ``tokens`` (all of one length); ``document``,
            ``start``, ``end`` and ``group`` are used where they are and where they are not null.
        similarity: Jaccard similarity of the sets of token 5-grams from which two sequences are
            near duplicates.

    Returns:
        Series ``group`` of strings, never null: one id a connected component, the smallest
        ``sequence_id`` in it, so that the order of the rows plays no part. A sequence without
        relatives is a group of its own.

    Raises:
        UserError: no tokens, or not all of one length.

    >>> frame = pl.DataFrame({"sequence_id": [3, 1, 2], "tokens": [[7] * 6, [8] * 6, [7] * 6]})
    >>> find_groups(frame).to_list()
    ['2', '1', '2']
    """
    if "tokens" not in frame.columns:
        raise UserError(
            "the table has no column 'tokens', which is needed to find near duplicates. Add it, "
            "or split by row."
        )
    near = find_near_duplicates(token_matrix(frame), similarity=similarity)
    rows = np.arange(frame.height)
    edges = np.concatenate([_chain(near, rows), _chain_windows(frame), _chain_given(frame)])
    components = pl.Series("component", connect(frame.height, edges))
    first = pl.col("sequence_id").min().over("component")
    named = frame.select("sequence_id").with_columns(components)
    return named.select(first.cast(pl.String).alias("group")).to_series()


def _chain(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Connect each row with the first of its label, shape (n, 2)."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.column_stack([rows, rows[first[inverse]]])


def _chain_given(frame: pl.DataFrame) -> np.ndarray:
    """Connect the rows of each given group."""
    if "group" not in frame.columns:
        return np.empty((0, 2), dtype=np.int64)
    given = frame.select("group").with_row_index("row").drop_nulls()
    return _chain(given["group"].rank("dense").to_numpy(), given["row"].to_numpy())


def _chain_windows(frame: pl.DataFrame) -> np.ndarray:
    """Connect windows that overlap in one document; `end` is the first character after."""
    needed = ["document", "start", "end"]
    if not set(needed) <= set(frame.columns):
        return np.empty((0, 2), dtype=np.int64)
    windows = frame.select(needed).with_row_index("row").drop_nulls().sort("document", "start")
    reached = pl.col("end").cum_max().shift(1).over("document")
    overlaps = windows.select((pl.col("start") < reached).fill_null(False)).to_series()
    run = (~overlaps).cum_sum().to_numpy()
    return _chain(run, windows["row"].to_numpy())


# Draw a class-balanced sample of a labelled table, divided into training and evaluation.

PAPER_N_TRAIN, PAPER_N_EVAL = 4000, 2000
"""Sequences a class in arXiv 2508.02573."""
MINIMUM = 60
"""Sequences a class, training and evaluation together, below which nothing is trained.

Sixty are 40 + 20 in the paper's proportion; on 20 evaluation sequences the 95 % interval of a
share of one half is 0.4 wide (Wilson), so that fewer say next to nothing.
"""
_LARGE_GROUP = 0.1


@dataclass(frozen=True)
class Sample:
    """A balanced sample.

    Attributes:
        frame: columns sequence_id, class, class_index (from 0, in the order of `classes`), split
            ("train" or "eval"), group; training first, each side in the order of the seed.
        classes: the classes that were sampled, in the taxonomy's order.
        n_train: training sequences of every class.
        n_eval: evaluation sequences of every class.
        split: "group" or "row".
        counts: sequences of every class in the table, "null" those without a class.
        dropped: classes that were left out because they were too small.
        n_groups_crossing: groups with sequences on both sides; None where the split is by row
            and the table has no column ``group``.
        warnings: what the reader of a figure should know, a line each.
    """

    frame: pl.DataFrame
    classes: tuple[str, ...]
    n_train: int
    n_eval: int
    split: str
    counts: dict[str, int]
    dropped: tuple[str, ...]
    n_groups_crossing: int | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Ordered:
    """A table in the order of its seed: what drawing looks at whatever the taxonomy.

    Attributes:
        frame: the table as it was given.
        rows: sequence_id and group, in the order of the seed; rows without a value to match by
            are left out.
        position: row of `frame` that each of `rows` is, shape (n,), int64.
        unit: what may not be divided, the group or the row itself, shape (n,), int64.
        stratum: number of the value that is matched, 0 without one, shape (n,), int64.
        lot: lot of each unit (see `draw.Pool`), shape (n,), float64.
        split: "group" or "row".
        match: column whose values are matched.
    """

    frame: pl.DataFrame
    rows: pl.DataFrame
    position: np.ndarray
    unit: np.ndarray
    stratum: np.ndarray
    lot: np.ndarray
    split: str
    match: str | None


def sample_classes(
    frame: pl.DataFrame,
    labels: pl.Series,
    taxonomy: Taxonomy,
    *,
    n_train: int = PAPER_N_TRAIN,
    n_eval: int = PAPER_N_EVAL,
    seed: int,
    split: str = "group",
    match: str | None = None,
    drop_small_classes: bool = False,
    minimum: int = MINIMUM,
) -> Sample | Impossible:
    """Draw the same number of sequences of every class for each side.

    Where a class has too few, all classes shrink in proportion. By group, no group stands on
    both sides, and every group gives one sequence before any gives a second; by row, every class
    gives its first sequences in the order of the seed, as in the paper. For many taxonomies of
    one table call `order_table` once and `draw_sample` for each: the samples are the same.

    Args:
        frame: table with ``sequence_id``; ``group`` from `splitting.find_groups` (found here
            where it is missing and needed).
        labels: class of every row, from `labels.label_sequences`; null is left out.
        taxonomy: the taxonomy that gave the labels.
        n_train: training sequences wanted of every class.
        n_eval: evaluation sequences wanted of every class.
        seed: fixes the order of all sequences; the order of the table's rows plays no part.
        split: "group" keeps groups on one side, "row" does not.
        match: column (such as "genre") of which every class gets each value equally often, on
            either side; rows where it is null are left out.
        drop_small_classes: leave out classes that are too small in place of giving up.
        minimum: sequences needed of every class, both sides together; where fewer are asked for,
            as many as asked for.

    Returns:
        The sample, or why there is none.

    Raises:
        UserError: unknown split or column, a size below 1, sequence ids that are not unique.
    """
    return draw_sample(
        order_table(frame, seed=seed, split=split, match=match),
        labels,
        taxonomy,
        n_train=n_train,
        n_eval=n_eval,
        drop_small_classes=drop_small_classes,
        minimum=minimum,
    )


def order_table(
    frame: pl.DataFrame, *, seed: int, split: str = "group", match: str | None = None
) -> Ordered:
    """Bring a table into the order of its seed, once for all taxonomies.

    Args:
        frame: as for `sample_classes`.
        seed: as there.
        split: as there.
        match: as there.

    Returns:
        What `draw_sample` draws from.

    Raises:
        UserError: unknown split or column, sequence ids that are not unique.
    """
    _check_table(frame, split=split, match=match)
    own_group = pl.col("sequence_id").cast(pl.String)
    rows = pl.DataFrame(
        {
            "sequence_id": frame["sequence_id"],
            "group": _find_given_groups(frame, split),
            "matched": [""] * frame.height if match is None else frame[match].cast(pl.String),
            "key": order_keys(frame["sequence_id"].to_numpy(), seed),
        }
    )
    rows = (
        rows.with_row_index("position")
        .sort("key")
        .with_columns(pl.col("group").fill_null(own_group))
    )
    by_group = rows["group"].rank("dense").cast(pl.Int64).to_numpy()
    unit = by_group if split == "group" else np.arange(rows.height)
    kept = rows.with_columns(unit=unit, lot=draw_lots(rows["key"].to_numpy(), unit)).drop_nulls(
        "matched"
    )
    return Ordered(
        frame=frame,
        rows=kept.select("sequence_id", "group"),
        position=kept["position"].to_numpy().astype(np.int64),
        unit=kept["unit"].to_numpy(),
        stratum=kept["matched"].rank("dense").cast(pl.Int64).to_numpy() - 1,
        lot=kept["lot"].to_numpy(),
        split=split,
        match=match,
    )


def draw_sample(
    ordered: Ordered,
    labels: pl.Series,
    taxonomy: Taxonomy,
    *,
    n_train: int = PAPER_N_TRAIN,
    n_eval: int = PAPER_N_EVAL,
    drop_small_classes: bool = False,
    minimum: int = MINIMUM,
) -> Sample | Impossible:
    """Draw one taxonomy's sample from a table in the order of its seed.

    Args:
        ordered: from `order_table`.
        labels: class of every row of the table as it was given to `order_table`.
        taxonomy: as for `sample_classes`.
        n_train: as there.
        n_eval: as there.
        drop_small_classes: as there.
        minimum: as there.

    Returns:
        The sample, or why there is none.

    Raises:
        UserError: a size below 1.
    """
    _check_sizes(n_train, n_eval)
    rows, pool = _label_pool(ordered, labels, taxonomy)
    counts = count_classes(labels, taxonomy.classes)
    needed = max(2, min(minimum, n_train + n_eval))
    draw = full = draw_balanced(pool, range(len(taxonomy.classes)), n_train=n_train, n_eval=n_eval)
    while drop_small_classes and not draw.is_enough(needed) and len(draw.classes) > 2:
        draw = _drop_one(pool, draw, n_train=n_train, n_eval=n_eval)
    missing = explain_null(ordered.frame, labels, taxonomy)
    if not draw.is_enough(needed):
        return explain(
            full,
            taxonomy,
            counts,
            needed=needed,
            split=ordered.split,
            match=ordered.match,
            may_drop=not drop_small_classes,
            missing=missing,
        )
    sampled = _make_frame(rows, draw, taxonomy)
    classes = tuple(taxonomy.classes[index] for index in draw.classes)
    has_groups = ordered.split == "group" or "group" in ordered.frame.columns
    return Sample(
        frame=sampled,
        classes=classes,
        n_train=draw.n_train,
        n_eval=draw.n_eval,
        split=ordered.split,
        counts=counts,
        dropped=tuple(name for name in taxonomy.classes if name not in classes),
        n_groups_crossing=_count_crossing(sampled) if has_groups else None,
        warnings=(
            *_warn_small(draw, classes, counts, (n_train, n_eval)),
            *_warn_dropped(taxonomy, classes, counts),
            *([f"{missing}."] if missing else []),
            *_warn_large_groups(rows, sampled, classes),
        ),
    )


def _check_table(frame: pl.DataFrame, *, split: str, match: str | None) -> None:
    """Refuse what cannot be asked of a table."""
    if split not in ("group", "row"):
        hint = nearest(split, ["group", "row"])
        raise UserError(f"split '{split}' is unknown.{hint} Choose group or row.")
    if match is not None and match not in frame.columns:
        hint = nearest(match, frame.columns)
        raise UserError(f"classes cannot be matched by '{match}': no such column.{hint}")
    if frame["sequence_id"].n_unique() < frame.height:
        raise UserError("column 'sequence_id' holds an id twice. Number the sequences anew.")


def _check_sizes(n_train: int, n_eval: int) -> None:
    """Refuse a side without sequences."""
    if n_train < 1 or n_eval < 1:
        raise UserError(
            f"n_train {n_train}, n_eval {n_eval}: at least one sequence a class is needed on "
            "each side."
        )


def _label_pool(
    ordered: Ordered, labels: pl.Series, taxonomy: Taxonomy
) -> tuple[pl.DataFrame, Pool]:
    """Rows that have a class, in the order of the seed, and what drawing looks at as numbers."""
    numbers = {name: index for index, name in enumerate(taxonomy.classes)}
    coded = labels.replace_strict(numbers, default=-1, return_dtype=pl.Int64).fill_null(-1)
    class_index = coded.to_numpy()[ordered.position]
    kept = np.flatnonzero(class_index >= 0)
    arrays = (class_index, ordered.unit, ordered.stratum, ordered.lot)
    rows = ordered.rows.with_columns(labels.gather(ordered.position).alias("class"))[kept]
    return rows, Pool(*(array[kept] for array in arrays))


def _find_given_groups(frame: pl.DataFrame, split: str) -> pl.Series:
    """The table's groups; found where they are needed and missing."""
    if "group" in frame.columns:
        return frame["group"].cast(pl.String)
    if split == "group":
        return find_groups(frame)
    return pl.Series("group", [None] * frame.height, dtype=pl.String)


def _drop_one(pool: Pool, draw: Draw, *, n_train: int, n_eval: int) -> Draw:
    """Leave out the class without which most can be drawn; of equals the smallest."""
    trials = []
    for dropped in draw.classes:
        rest = [index for index in draw.classes if index != dropped]
        trial = draw_balanced(pool, rest, n_train=n_train, n_eval=n_eval)
        n_dropped = int((pool.class_index == dropped).sum())
        trials.append((trial.n_train + trial.n_eval, -n_dropped, dropped, trial))
    return max(trials, key=lambda entry: entry[:3])[3]


def _make_frame(rows: pl.DataFrame, draw: Draw, taxonomy: Taxonomy) -> pl.DataFrame:
    """The sample as a table, training first."""
    n_train_rows = draw.n_train * len(draw.classes)
    numbers = {taxonomy.classes[old]: new for new, old in enumerate(draw.classes)}
    return rows[draw.rows].select(
        "sequence_id",
        "class",
        pl.col("class").replace_strict(numbers, return_dtype=pl.Int64).alias("class_index"),
        pl.Series("split", ["train"] * n_train_rows + ["eval"] * (len(draw.rows) - n_train_rows)),
        "group",
    )


def _count_crossing(sampled: pl.DataFrame) -> int:
    """Groups with sequences on both sides."""
    sides = sampled.group_by("group").agg(pl.col("split").n_unique())
    return int((sides["split"] > 1).sum())


def _warn_small(
    draw: Draw, classes: tuple[str, ...], counts: dict[str, int], wanted: tuple[int, int]
) -> list[str]:
    """Fewer than asked for, and the class to blame."""
    if (draw.n_train, draw.n_eval) == wanted:
        return []
    fewest = min(classes, key=lambda name: counts[name])
    return [
        f"every class gives {draw.n_train:,} + {draw.n_eval:,} sequences (training + evaluation) "
        f"in place of {wanted[0]:,} + {wanted[1]:,}; the smallest, {fewest}, has "
        f"{counts[fewest]:,}."
    ]


def _warn_dropped(
    taxonomy: Taxonomy, classes: tuple[str, ...], counts: dict[str, int]
) -> list[str]:
    """Classes that were left out."""
    left_out = [name for name in taxonomy.classes if name not in classes]
    return [
        f"class {name} is left out: {counts[name]:,} sequences are too few." for name in left_out
    ]


def _warn_large_groups(
    rows: pl.DataFrame, sampled: pl.DataFrame, classes: tuple[str, ...]
) -> list[str]:
    """Groups that make up more than a tenth of a class, in the table or in the sample."""
    by = ["class", "group"]
    share = (pl.col("len") / pl.col("len").sum().over("class")).alias("share")
    found = (
        rows.filter(pl.col("class").is_in(classes))
        .group_by(by)
        .agg(pl.len(), pl.col("sequence_id").min().alias("example"))
    )
    drawn = sampled.group_by(by).len().with_columns(share).select(*by, drawn="share")
    large = (
        found.with_columns(share)
        .filter(pl.col("len") > 1)
        .join(drawn, on=by, how="left")
        .with_columns(pl.col("drawn").fill_null(0.0))
        .filter(pl.max_horizontal("share", "drawn") > _LARGE_GROUP)
        .sort("class", "len", "example")
    )
    return [_say_large(row) for row in large.iter_rows(named=True)]


def _say_large(row: dict[str, Any]) -> str:
    """One large group in words: its class, its shares, a sequence of it."""
    holds = (
        f"class {row['class']}: one group of near duplicates (such as sequence {row['example']}) "
        f"holds {row['share']:.0%} of its sequences"
    )
    if row["drawn"] > _LARGE_GROUP:
        return (
            f"{holds} and {row['drawn']:.0%} of its sample; its figures speak of that text more "
            "than of the class."
        )
    return f"{holds}; the sample takes {row['drawn']:.1%} from it and speaks of the others."
