"""Recognize two names of one partition: Recite[5] alone and Recollect[5] alone are the same.

The nodes are asked on a grid of made-up sequences that stand on both sides of every threshold.
What does not matter is merged away; the classes are numbered in the order in which they appear.
"""

import hashlib
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.taxonomy.nodes import Node, first_yes

if TYPE_CHECKING:
    from mnemoscope.taxonomy.names import Taxonomy

__all__ = ["Partition", "find_partition", "match_classes"]

_Value = float | bool


class Partition(NamedTuple):
    """How a list of nodes divides the memorized sequences, whatever its classes are called."""

    key: str
    """Same for two lists of nodes exactly when they divide all sequences alike."""
    blocks: tuple[int, ...]
    """For every class but Non-Memo, in order: the number of its block of the partition."""


def find_partition(nodes: Sequence[Node]) -> Partition:
    """Reduce nodes to the partition that they make.

    Args:
        nodes: in the order in which they are asked; a user's own node counts as one yes/no
            property that nothing else is known of.

    Returns:
        The partition.
    """
    axes = _find_axes(nodes)
    answers = _ask_grid(nodes, axes)
    for axis, (column, values) in enumerate(list(axes.items())):
        starts = _find_starts(answers, axis)
        answers = answers.take(starts, axis=axis)
        axes[column] = [values[start] for start in starts]
    seen, first = np.unique(answers, return_index=True)
    order = [int(index) for index in seen[np.argsort(first)]]
    order += [index for index in range(len(nodes) + 1) if index not in order]
    blocks = tuple(order.index(index) for index in range(len(nodes) + 1))
    kept = {column: values[1:] for column, values in axes.items() if len(values) > 1}
    cells = [blocks[index] for index in answers.ravel()]
    shape = repr((len(nodes) + 1, kept, cells))
    return Partition(hashlib.sha256(shape.encode()).hexdigest()[:16], blocks)


def match_classes(trained: "Taxonomy", other: "Taxonomy") -> tuple[int, ...]:
    """Find the classes of one taxonomy in another of the same partition.

    Args:
        trained: the taxonomy whose results exist.
        other: a taxonomy with the same `partition_key`.

    Returns:
        For every class of `other`, the index of the same class in `trained`.

    Raises:
        ValueError: the two are different partitions.
    """
    if trained.partition_key != other.partition_key:
        raise ValueError(f"'{trained.name}' and '{other.name}' are different partitions")
    blocks = trained.partition.blocks
    return (0, *(1 + blocks.index(block) for block in other.partition.blocks))


def _find_axes(nodes: Sequence[Node]) -> dict[str, list[_Value]]:
    """Column by column, sorted by name: values on both sides of each threshold."""
    found: dict[str, set[_Value]] = {}
    for node in nodes:
        for cut in node.cuts:
            found.setdefault(cut.column, set()).update(cut.values)
    return {column: sorted(found[column]) for column in sorted(found)}


def _ask_grid(nodes: Sequence[Node], axes: dict[str, list[_Value]]) -> np.ndarray:
    """Index of the first yes for every combination of values, one array axis a column."""
    cells = list(product(*axes.values())) or [()]
    grid = pl.DataFrame({column: [cell[i] for cell in cells] for i, column in enumerate(axes)})
    answers = grid.select(first_yes([node.probe for node in nodes])).to_series()
    return answers.to_numpy().reshape(tuple(len(values) for values in axes.values()))


def _find_starts(answers: np.ndarray, axis: int) -> list[int]:
    """Along one axis, where a slice differs from the one before it."""
    slices = np.moveaxis(answers, axis, 0)
    differs = (slices[1:] != slices[:-1]).reshape(len(slices) - 1, -1).any(axis=1)
    return [0, *(int(index) + 1 for index in np.flatnonzero(differs))]
