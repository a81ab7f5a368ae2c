"""Find taxonomies that divide one table alike, so that each division is trained once."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.taxonomy.names import Taxonomy
from mnemoscope.taxonomy.partition import match_classes

__all__ = ["Alias", "find_aliases"]


class Alias(NamedTuple):
    """A taxonomy whose figures are another's, since both divide the sequences alike."""

    of: str
    """Name of the taxonomy that is trained; it comes first."""
    reason: Literal["same rule", "same labels here"]
    """Alike on any table, or on this one: two thresholds with no sequence between them."""
    classes: tuple[int, ...]
    """For every class, the index of the same class in the other."""


def find_aliases(
    taxonomies: Sequence[Taxonomy], labels: Mapping[str, pl.Series]
) -> dict[str, Alias]:
    """Find the taxonomies that need not be trained, because one before them divides alike.

    Args:
        taxonomies: in the order asked for, each name once.
        labels: class of every row by the taxonomy's name; all of one length.

    Returns:
        By name, in order. A taxonomy with an empty class is nobody's alias for its labels' sake:
        it has a class that the other lacks.
    """
    by_rule: dict[str, tuple[Taxonomy, Alias | None]] = {}
    by_labels: dict[str, Taxonomy] = {}
    found: dict[str, Alias] = {}
    for taxonomy in taxonomies:
        if taxonomy.partition_key in by_rule:
            same, through = by_rule[taxonomy.partition_key]
            classes = match_classes(same, taxonomy)
            if through is not None:
                classes = tuple(through.classes[index] for index in classes)
            found[taxonomy.name] = Alias(
                through.of if through else same.name,
                through.reason if through else "same rule",
                classes,
            )
            continue
        codes = _code(labels[taxonomy.name], taxonomy)
        key = _digest(codes)
        alias = None
        if len(np.unique(codes[codes >= 0])) == len(taxonomy.classes):
            first = by_labels.setdefault(key, taxonomy)
            if first is not taxonomy:
                classes = _match(_code(labels[first.name], first), codes, len(first.classes))
                alias = found[taxonomy.name] = Alias(first.name, "same labels here", classes)
        by_rule[taxonomy.partition_key] = (taxonomy, alias)
    return found


def _code(labels: pl.Series, taxonomy: Taxonomy) -> np.ndarray:
    """Index of every row's class, -1 for none."""
    numbers = {name: index for index, name in enumerate(taxonomy.classes)}
    coded = labels.replace_strict(numbers, default=-1, return_dtype=pl.Int8).fill_null(-1)
    codes: np.ndarray = coded.to_numpy()
    return codes


def _digest(codes: np.ndarray) -> str:
    """Same for two labellings exactly when their classes correspond one to one."""
    seen, first = np.unique(codes, return_index=True)
    names = {int(code): number for number, code in enumerate(seen[np.argsort(first)])}
    table = np.full(256, -1, dtype=np.int8)
    for code, number in names.items():
        table[code] = -1 if code < 0 else number - (-1 in names and names[-1] < number)
    return hashlib.sha256(table[codes].tobytes()).hexdigest()


def _match(trained: np.ndarray, other: np.ndarray, n_classes: int) -> tuple[int, ...]:
    """For every class of `other`, the class of `trained` that holds the same rows."""
    first = [int(np.flatnonzero(other == index)[0]) for index in range(n_classes)]
    return tuple(int(trained[row]) for row in first)
