"""Read a taxonomy from its name: ``Non-Memo, Recite[5], Reconstruct, Recollect``.

Class 0 is Non-Memo. Memorized sequences are asked the nodes in order, the first yes names the
class; the rest is the last class.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.errors import UserError, nearest
from mnemoscope.taxonomy.nodes import Node, first_yes, parse_node, written_nodes

_Value = float | bool
_FORM = (
    "Guess and Recall only say whether the beginning gives the end away, by the paper's rule. "
    "Whether the model stored a text is not decided here: an audit weighs the evidence for each "
    "passage."
)


class Partition(NamedTuple):
    """How a list of nodes divides the memorized sequences, whatever its classes are called."""

    key: str
    """Same for two lists of nodes exactly when they divide all sequences alike."""
    blocks: tuple[int, ...]
    """For every class but Non-Memo, in order: the number of its block of the partition."""


def find_partition(nodes: Sequence[Node]) -> Partition:
    """Reduce nodes, in their order, to the partition that they make; a user's own is one yes/no."""
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


def form_words(names: Iterable[str]) -> str:
    """What it says of a text that its class is Guess or Recall; empty where neither is named.

    >>> form_words(["Recite", "Recollect"])
    ''
    """
    return _FORM if {"Guess", "Recall"} & {*names} else ""


def match_classes(trained: "Taxonomy", other: "Taxonomy") -> tuple[int, ...]:
    """For every class of `other`, the index of the same class in `trained`, or ValueError."""
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


# Tell a name of one's own from a misspelt node, which must not silently become a last class.

_NEAR = 0.75
"""Ratio of `difflib` from which a name counts as misspelt: `Recall` has .67 with Recollect."""


def node_meant(name: str, own: Iterable[str] = ()) -> str | None:
    """The node that a name looks like: ``Recolect[5]`` gives ``Recollect[5]``.

    The name itself where it has a node's brackets and is near none; None for a name of its own.
    """
    parts = re.sub(r"\s+", "", name).split("-or-")
    meant = [_single_meant(part, list(own)) for part in parts]
    if not any(meant):
        return None
    return "-or-".join(found or part for found, part in zip(meant, parts, strict=True))


def _single_meant(name: str, own: list[str]) -> str | None:
    base = name.partition("[")[0]
    base = base.rstrip("]0123456789.-") or base
    known = {one.partition("[")[0].lower(): one for one in written_nodes(name, own)}
    found = get_close_matches(base.lower(), known, n=1, cutoff=_NEAR)
    if not found:
        return name if "[" in name or "]" in name else None
    return known[found[0]]


NON_MEMO = "Non-Memo"
"""Class 0 of every taxonomy: not memorized."""
NULL = "null"
"""Stands for the sequences without a class in counts."""
LAST_CLASSES = ("Recall", "Recollect", "Others")
"""Last classes of the literature; free although Recollect is near a node."""
_EXAMPLE = "'Non-Memo, Recite[5], Reconstruct, Recollect'"
_SLUG_LENGTH = 100
_WORD = r"[A-Z][a-z0-9]*(\[[0-9a-z.-]+\])?"
_PLAIN = re.compile(rf"{_WORD}(-or-{_WORD})*")  # names that their slugs determine


def memorized_first(classes: Iterable[str]) -> list[str]:
    """Classes in the order in which people read them: as given, and Non-Memo last."""
    return sorted(classes, key=NON_MEMO.__eq__)


@dataclass(frozen=True)
class Taxonomy:
    """An ordered list of nodes that gives every sequence exactly one class.

    `classes` are Non-Memo, then one a node, and the rest last; `name` is all of them.
    """

    name: str
    classes: tuple[str, ...]
    nodes: tuple[Node, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Feature columns that the nodes need, in the order of the nodes."""
        return tuple(dict.fromkeys(column for node in self.nodes for column in node.columns))

    def codes(self, labels: pl.Series) -> npt.NDArray[np.int64]:
        """Index of the class that each row is labelled with, (n,); -1 without one."""
        numbers = {name: index for index, name in enumerate(self.classes)}
        coded = labels.replace_strict(numbers, default=-1, return_dtype=pl.Int64)
        return coded.fill_null(-1).to_numpy()

    @property
    def published_name(self) -> str:
        """The spelling of the published tables: ``Non-Memo, Guess, Others``."""
        return ", ".join([NON_MEMO, *(node.canonical for node in self.nodes), "Others"])

    @property
    def slug(self) -> str:
        """A name for files and folders, other for another name: ``recite-5_reconstruct_recollect``.

        Eight digits of a hash follow where a free name holds more than a capital, letters and
        digits, or all is too long.
        """
        parts = [re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") for name in self.classes[1:]]
        plain = "_".join(parts)
        if len(plain) <= _SLUG_LENGTH and all(map(_PLAIN.fullmatch, self.classes[1:])):
            return plain
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        return f"{plain[:_SLUG_LENGTH]}_{digest}".lstrip("_")

    @cached_property
    def partition(self) -> Partition:
        """How the nodes divide the memorized sequences, whatever the classes are called."""
        return find_partition(self.nodes)

    @property
    def partition_key(self) -> str:
        """Same for two names of one partition: train it once."""
        return self.partition.key


def parse_taxonomy(name: str, *, own: Mapping[str, Node] | None = None) -> Taxonomy:
    """Read a taxonomy from its name: ``Non-Memo``, nodes and a last class, separated by commas.

    The last name is free unless it is, or nearly is, the name of a node. `own` are the user's nodes
    by name (see `catalogue.read_taxonomies`). Classes are named as written, without spaces around.
    Raises UserError: no Non-Memo in front, fewer than two classes, an unknown node, a node named
    twice, a last class that is or looks like a node; with the nearest known name.

    >>> parse_taxonomy("Non-Memo, Guess, Recall").classes
    ('Non-Memo', 'Guess', 'Recall')
    """
    parts = [part.strip() for part in name.split(",")]
    _check_frame(name, parts)
    own = own or {}
    try:
        nodes = tuple(parse_node(part, own) for part in parts[1:-1])
        _check_nodes(nodes)
        _check_last(parts[-1], nodes, own)
    except UserError as error:
        raise UserError(f"taxonomy '{name}': {error}") from error
    classes = (NON_MEMO, *(node.name for node in nodes), parts[-1])
    return Taxonomy(", ".join(classes), classes, nodes)


def taxonomy_or_none(name: str) -> Taxonomy | None:
    """As `parse_taxonomy`; None for a name that it cannot read, such as one with a user's nodes."""
    try:
        return parse_taxonomy(name)
    except UserError:
        return None


def find_taxonomy(asked: str, names: Mapping[str, str], *, where: str) -> str:
    """Which of some taxonomies is meant: by one of its spellings, or any of its partition.

    `names` gives each by every spelling. Raises UserError, from `where`: none is meant.
    """
    if asked in names:
        return names[asked]
    if (meant := taxonomy_or_none(asked)) is not None:
        for spelling, name in names.items():
            one = taxonomy_or_none(spelling)
            if one is not None and one.partition_key == meant.partition_key:
                return name
    hint = nearest(asked, names) or f" There are: {'; '.join(dict.fromkeys(names.values()))}."
    raise UserError(f"{where}: no taxonomy '{asked}' in this study.{hint}")


def _check_frame(name: str, parts: list[str]) -> None:
    if parts[0] != NON_MEMO:
        hint = nearest(parts[0], [NON_MEMO])
        raise UserError(
            f"taxonomy '{name}': a taxonomy begins with the class {NON_MEMO}, not with "
            f"'{parts[0]}'.{hint} Write for instance {_EXAMPLE}."
        )
    if len(parts) < 2 or not all(parts):
        raise UserError(
            f"taxonomy '{name}': a class has no name, or there is only one class. Write "
            f"{NON_MEMO}, the nodes and a name for the rest, for instance {_EXAMPLE}."
        )


def _check_nodes(nodes: tuple[Node, ...]) -> None:
    """No rule twice, under whatever spelling."""
    seen: dict[str, str] = {}
    for node in nodes:
        if node.canonical in seen:
            first = seen[node.canonical]
            same = "" if first == node.name else f", that is '{first}',"
            raise UserError(f"node '{node.name}'{same} stands twice. Name every node once.")
        seen[node.canonical] = node.name


def _check_last(last: str, nodes: tuple[Node, ...], own: Mapping[str, Node]) -> None:
    """A last class is free, but a node, also a misspelt one, must not become one."""
    if last in LAST_CLASSES:
        if last in [node.name for node in nodes]:  # of the user's own, which may be called so
            raise UserError(f"last class '{last}' is the name of a node. Give the rest another.")
        return
    advice = "The rest needs a name of its own, for instance Recall or Others."
    if last.lower() == NULL or get_close_matches(last.lower(), [NON_MEMO.lower()], cutoff=_NEAR):
        reserved = NULL if last.lower() == NULL else NON_MEMO
        raise UserError(f"last class '{last}' is too near '{reserved}', which is taken. {advice}")
    meant = node_meant(last, own)
    if meant == last:
        raise UserError(f"last class '{last}' is written like a node. {advice}")
    if meant:
        raise UserError(f"last class '{last}' looks like a node. Did you mean '{meant}'? {advice}")


# Find taxonomies that divide one table alike, so that each division is trained once.


def distinct_partitions(taxonomies: Sequence[Taxonomy]) -> list[Taxonomy]:
    """Each partition once, under the name that comes first."""
    first: dict[str, Taxonomy] = {}
    for taxonomy in taxonomies:
        first.setdefault(taxonomy.partition_key, taxonomy)
    return list(first.values())


def count_class_sets(taxonomies: Sequence[Taxonomy]) -> int:
    """Number of different classes over all taxonomies, Non-Memo once."""
    found = set()
    for taxonomy in distinct_partitions(taxonomies):
        cuts = tuple(cut for node in taxonomy.nodes for cut in node.cuts)
        answer = first_yes([node.probe for node in taxonomy.nodes])
        for index, name in enumerate(taxonomy.classes[1:]):
            is_class = answer == index
            found.add(find_partition([Node(name, is_class, "", (), name, cuts, is_class)]))
    return 1 + len(found)


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

    `labels` are the classes of every row by the taxonomy's name. A taxonomy with an empty class
    is no alias by its labels: it has a class that the other lacks.
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
        codes = taxonomy.codes(labels[taxonomy.name])
        key = label_digest(codes)
        alias = None
        if len(np.unique(codes[codes >= 0])) == len(taxonomy.classes):
            first = by_labels.setdefault(key, taxonomy)
            if first is not taxonomy:
                known = first.codes(labels[first.name])
                rows = [int(np.flatnonzero(codes == at)[0]) for at in range(len(first.classes))]
                classes = tuple(int(known[row]) for row in rows)  # which holds the same rows
                alias = found[taxonomy.name] = Alias(first.name, "same labels here", classes)
        by_rule[taxonomy.partition_key] = (taxonomy, alias)
    return found


def label_digest(codes: npt.NDArray[np.int64]) -> str:
    """Hash of `Taxonomy.codes`, (n,): same exactly when classes correspond, Non-Memo to itself."""
    fixed = np.concatenate([[-1, 0], codes])
    _, first, inverse = np.unique(fixed, return_index=True, return_inverse=True)
    return hashlib.sha256(np.argsort(np.argsort(first))[inverse].tobytes()).hexdigest()
