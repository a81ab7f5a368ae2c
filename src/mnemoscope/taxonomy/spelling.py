"""Tell a name of one's own from a misspelt node, which must not silently become a last class."""

import re
from collections.abc import Iterable

from rapidfuzz.distance import OSA, Indel

from mnemoscope.taxonomy.nodes import MEASURES

__all__ = ["is_near", "node_meant"]

_NODES = ("Recite", "Recollect", "Reconstruct", "Guess", "Code", *MEASURES)
_WITH_DUPLICATES = ("Recite", "Recollect")
_NEAR = 0.8
"""Letters in common, as a share, from which a name counts as misspelt.

`Reconstrct` has .95 with its node, `Recall` .67 with Recollect and .50 with Recite.
"""


def node_meant(name: str, own: Iterable[str] = ()) -> str | None:
    """Say which node a name looks like.

    Args:
        name: what was written, such as the name of a last class.
        own: names of the user's own nodes.

    Returns:
        The node that is probably meant (``Recolect[5]`` gives ``Recollect[5]``); the name itself
        where it carries a node's brackets and is near none; None where it is a name of its own.
    """
    parts = re.sub(r"\s+", "", name).split("-or-")
    meant = [_single_meant(part, list(own)) for part in parts]
    if not any(meant):
        return None
    return "-or-".join(found or part for found, part in zip(meant, parts, strict=True))


def is_near(name: str, known: str) -> bool:
    """True one slip of the finger away, or with four fifths of the letters in common."""
    name, known = name.lower(), known.lower()
    return bool(OSA.distance(name, known) <= 1 or Indel.normalized_similarity(name, known) >= _NEAR)


def _single_meant(name: str, own: list[str]) -> str | None:
    """`node_meant` for a name that is no union."""
    base, bracket, rest = name.partition("[")
    base = base.rstrip("]0123456789.-") or base
    found = min(
        (node for node in [*_NODES, *own] if is_near(base, node)),
        key=lambda node: OSA.distance(base, node),
        default=None,
    )
    if found is None:
        return name if bracket or "]" in name else None
    argument = rest.rstrip("]") or (">1" if found in MEASURES else "5")
    is_always = found in _WITH_DUPLICATES or found in MEASURES
    takes_one = is_always or (found == "Guess" and bool(bracket))
    return f"{found}[{argument}]" if takes_one else found
