"""Read a taxonomy from its name: ``Non-Memo, Recite[5], Reconstruct, Recollect``.

Class 0 is Non-Memo. Memorized sequences are asked the nodes in order, the first yes names the
class; the rest is the last class.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from mnemoscope.errors import UserError, nearest
from mnemoscope.taxonomy.nodes import Node, parse_node
from mnemoscope.taxonomy.partition import Partition, find_partition
from mnemoscope.taxonomy.spelling import is_near, node_meant

__all__ = ["LAST_CLASSES", "NON_MEMO", "NULL", "Taxonomy", "parse_taxonomy"]

NON_MEMO = "Non-Memo"
"""Class 0 of every taxonomy: not memorized."""
NULL = "null"
"""Stands for the sequences without a class in counts."""
LAST_CLASSES = ("Recall", "Recollect", "Others")
"""Last classes of the literature; free although Recollect is near a node."""
_EXAMPLE = "'Non-Memo, Recite[5], Reconstruct, Recollect'"
_SLUG_LENGTH = 100


@dataclass(frozen=True)
class Taxonomy:
    """An ordered list of nodes that gives every sequence exactly one class.

    Attributes:
        name: the classes joined by a comma and a space.
        classes: class 0 is Non-Memo, then one a node, and the rest last.
        nodes: asked in order of the memorized sequences.
    """

    name: str
    classes: tuple[str, ...]
    nodes: tuple[Node, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Feature columns that the nodes need, in the order of the nodes."""
        return tuple(dict.fromkeys(column for node in self.nodes for column in node.columns))

    @property
    def published_name(self) -> str:
        """The spelling of the published tables: ``Non-Memo, Guess, Others``."""
        return ", ".join([NON_MEMO, *(node.canonical for node in self.nodes), "Others"])

    @property
    def slug(self) -> str:
        """A name for files and folders, other for another name: ``recite-5_reconstruct_recollect``.

        Classes without Non-Memo, in lower case, joined by ``_``; eight digits of a hash follow
        where a free name holds more than a capital, letters and digits, or all is too long.
        """
        parts = [re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") for name in self.classes[1:]]
        plain = "_".join(parts)
        if len(plain) <= _SLUG_LENGTH and all(map(_is_plain, self.classes[1:])):
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
    """Read a taxonomy from its name.

    Args:
        name: ``Non-Memo``, nodes, and the name of the last class, separated by commas. The last
            name is free unless it is, or nearly is, the name of a node.
        own: the user's own nodes by name (see `yaml_file`).

    Returns:
        The taxonomy; classes are named as written, without spaces around.

    Raises:
        UserError: no Non-Memo in front, fewer than two classes, an unknown node, a node named
            twice, a last class that looks like a node; with the nearest known name.

    >>> parse_taxonomy("Non-Memo, Guess, Recall").classes
    ('Non-Memo', 'Guess', 'Recall')
    """
    parts = [part.strip() for part in name.split(",")]
    _check_frame(name, parts)
    own = own or {}
    try:
        nodes = tuple(parse_node(part, own) for part in parts[1:-1])
        _check_nodes(nodes)
        _check_last(parts[-1], own)
    except UserError as error:
        raise UserError(f"taxonomy '{name}': {error}") from error
    classes = (NON_MEMO, *(node.name for node in nodes), parts[-1])
    return Taxonomy(", ".join(classes), classes, nodes)


def _check_frame(name: str, parts: list[str]) -> None:
    """Non-Memo first, two classes or more, no empty name."""
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


def _check_last(last: str, own: Mapping[str, Node]) -> None:
    """A last class is free, but a misspelt node must not become one."""
    if last in LAST_CLASSES:
        return
    advice = "The rest needs a name of its own, for instance Recall or Others."
    if last.lower() == NULL or is_near(last, NON_MEMO):
        reserved = NULL if last.lower() == NULL else NON_MEMO
        raise UserError(f"last class '{last}' is too near '{reserved}', which is taken. {advice}")
    meant = node_meant(last, own)
    if meant == last:
        raise UserError(f"last class '{last}' is written like a node. {advice}")
    if meant:
        raise UserError(f"last class '{last}' looks like a node. Did you mean '{meant}'? {advice}")


def _is_plain(name: str) -> bool:
    """A name that its slug determines."""
    word = r"[A-Z][a-z0-9]*(\[[0-9a-z.-]+\])?"
    return re.fullmatch(rf"{word}(-or-{word})*", name) is not None
