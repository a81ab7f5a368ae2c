"""What a search may build taxonomies from: a family of nodes, with a range of thresholds."""

import math
import re

from mnemoscope.errors import UserError, nearest
from mnemoscope.taxonomy.nodes import MEASURES

SEARCHED = ("Recite", "Reconstruct", "Guess", "Code", *MEASURES)
"""Families that a search may use; Recite includes Recollect, its other side."""

_ENTRY = re.compile(r"([^\[\]]+)(?:\[(.*)\.\.(.*)\])?")


def is_node_file(entry: str) -> bool:
    """True for a path of the user's own nodes, False for a family."""
    return entry.lower().endswith((".yaml", ".yml"))


def read_range(entry: str) -> tuple[str, float, float]:
    """A family and its range, infinite where none is given.

    Raises:
        UserError: an unknown family, or a range that is none or empty.

    >>> read_range("Entropy[3.5..5]")
    ('Entropy', 3.5, 5.0)
    """
    found = _ENTRY.fullmatch("".join(entry.split()))
    family = found[1] if found else entry.partition("[")[0]
    if family not in SEARCHED:
        hint = nearest(family, SEARCHED)
        raise UserError(
            f"search.nodes: unknown node '{entry}'.{hint} Known: {', '.join(SEARCHED)}, or the "
            "path of a YAML file with nodes of your own."
        )
    if found and found[2] is None:
        return family, -math.inf, math.inf
    try:
        assert found is not None
        low, high = (float(text.replace("k", "000")) for text in (found[2], found[3]))
    except (AssertionError, ValueError):
        raise UserError(
            f"search.nodes: '{entry}' is no range of thresholds. Write {family}[1..2], or "
            f"{family} alone."
        ) from None
    is_flag = family in ("Reconstruct", "Code")
    if low <= high and not is_flag:
        return family, low, high
    reason = "takes no threshold" if is_flag else "ends before it begins"
    raise UserError(f"search.nodes: '{entry}' {reason}. Correct it, or write {family} alone.")
