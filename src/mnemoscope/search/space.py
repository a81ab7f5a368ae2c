"""The taxonomies that a search may propose: families of nodes and their thresholds.

Thresholds are quantiles of the memorized training sequences, so the space is finite and every
proposal is an ordinary taxonomy that can be passed to ``-t``.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from mnemoscope.errors import UserError, check_installed
from mnemoscope.taxonomy.catalogue import read_nodes
from mnemoscope.taxonomy.names import NON_MEMO, Taxonomy, parse_taxonomy
from mnemoscope.taxonomy.nodes import MEASURES, SEARCHED, UNION, Node, is_node_file, read_range

_SHARES = tuple(np.linspace(0.1, 0.9, 9).tolist())
_PUBLISHED_DUPLICATES = (5, 50, 1000)
_RHO = tuple(round(0.1 * step, 1) for step in range(1, 10))
_DIGITS = 3
_LAST = "Others"
_SIDES = (">", "<=")


class Chooser(Protocol):
    """Makes the choices: an optuna trial, or a test."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """Choose one of several words."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Choose an integer from low to high, both included."""


@dataclass(frozen=True)
class SearchSpace:
    """What may be proposed."""

    # the node names of every family (a rule and its side), ordered by threshold
    nodes: dict[str, tuple[str, ...]]
    # among `one` (a node), `either` (two joined by ``-or-``), `two` (one after another)
    shapes: tuple[str, ...]
    own: dict[str, Node] = field(default_factory=dict)  # the user's own nodes by name

    @property
    def n_taxonomies(self) -> int:
        """Number of names that can be proposed; several may divide the sequences alike."""
        n = sum(map(len, self.nodes.values()))
        counts = {"one": n, "either": n * (n - 1), "two": n * (n - 1)}
        return sum(counts[shape] for shape in self.shapes)


def check_optuna() -> None:
    """Raise UserError if optuna is not installed, without importing it."""
    check_installed("search needs", "optuna", extra="search")


def find_columns(spec: Iterable[str]) -> tuple[str, ...]:
    """Columns of the measures that these families need; other entries are ignored."""
    families = [entry.partition("[")[0].strip() for entry in spec]
    return tuple(MEASURES[family].column for family in families if family in MEASURES)


def make_space(
    spec: Sequence[str], memorized: pl.DataFrame, *, classes: Sequence[int] = (3, 4)
) -> SearchSpace:
    """Build the search space from families of `SEARCHED` and files of the user's own nodes.

    A family may have a range (``Entropy[3.5..5]``, ``Recite[1..50]``). `memorized` are the
    sequences whose quantiles become the thresholds; families that do not divide them are left out.
    `classes` are the allowed numbers of classes (3, 4), Non-Memo included. Raises UserError: an
    unknown family, an invalid or empty range, a node called as the rest is, or no node left.
    """
    shapes = [one for n, one in ((3, "one"), (3, "either"), (4, "two")) if n in classes]
    nodes: dict[str, tuple[str, ...]] = {}
    own: dict[str, Node] = {}
    for entry in spec:
        if is_node_file(entry):
            for family, given in read_nodes(Path(entry)).items():
                own |= {node.name: node for node in given}
                nodes[family] = tuple(node.name for node in given)
                if _LAST in nodes[family]:
                    raise UserError(
                        f"{entry}: node '{_LAST}': a search calls the rest so. Rename the node."
                    )
        else:
            nodes |= _find_nodes(entry, memorized)
    if sum(map(len, nodes.values())) < (1 if "one" in shapes else 2):
        raise UserError(
            "search.nodes: none of these nodes divides the memorized sequences "
            f"({', '.join(spec) or 'none given'}). Choose among {', '.join(SEARCHED)}."
        )
    return SearchSpace(nodes, tuple(shapes), own)


def propose(space: SearchSpace, chooser: Chooser) -> Taxonomy | None:
    """Let the chooser put a taxonomy together; None if it names one node twice."""
    shape = chooser.suggest_categorical("shape", list(space.shapes))
    chosen = [_choose(space, chooser, place) for place in range(1 if shape == "one" else 2)]
    if len(set(chosen)) < len(chosen):
        return None
    rule = (UNION if shape == "either" else ", ").join(chosen)
    try:
        return parse_taxonomy(f"{NON_MEMO}, {rule}, {_LAST}", own=space.own)
    except UserError:  # one node in two spellings
        return None


def _choose(space: SearchSpace, chooser: Chooser, place: int) -> str:
    """Choose a node: its family, then its threshold."""
    family = chooser.suggest_categorical(f"family {place}", list(space.nodes))
    names = space.nodes[family]
    if len(names) == 1:
        return names[0]
    return names[chooser.suggest_int(f"threshold {place} of {family}", 0, len(names) - 1)]


def _find_nodes(entry: str, memorized: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """The nodes of one entry, by family and side; both sides of a threshold are families."""
    family, low, high = read_range(entry)
    if family == "Guess":
        return _guesses(entry, low, high)
    if family in ("Reconstruct", "Code"):
        columns = ("is_incrementing", "is_repeating") if family == "Reconstruct" else ("is_code",)
        known = all(name in memorized and memorized[name].count() for name in columns)
        return {family: (family,)} if known else {}
    if family == "Recite":
        counts = [f"{int(limit)}" for limit in _duplicates(memorized, entry, low, high)]
        sides = {side: [f"{side}[{n}]" for n in counts] for side in ("Recite", "Recollect")}
    else:
        limits = _quantiles(memorized, MEASURES[family].column, entry, low, high)
        plain = [np.format_float_positional(limit, trim="-") for limit in limits]
        sides = {f"{family} {side}": [f"{family}[{side}{one}]" for one in plain] for side in _SIDES}
    return {side: tuple(names) for side, names in sides.items() if names}


def _quantiles(
    memorized: pl.DataFrame, column: str, entry: str, low: float, high: float
) -> list[float]:
    """Deciles of a column within a range, rounded; empty if all values are equal."""
    values = memorized[column].drop_nulls() if column in memorized else pl.Series([])
    inside = values.filter(values.is_between(low, high)).cast(pl.Float64)
    if inside.is_empty():
        if values.is_empty():
            return []
        raise UserError(
            f"search.nodes: '{entry}' holds no memorized sequence; here {column} runs from "
            f"{_end(values.min()):.4g} to {_end(values.max()):.4g}. Choose a range within."
        )
    deciles = np.quantile(inside.to_numpy(), _SHARES).tolist()
    # Keep three digits of their spread, for readable names.
    spread = deciles[-1] - deciles[0]
    decimals = _DIGITS - 1 - math.floor(math.log10(spread)) if spread > 0 else _DIGITS
    found = {round(limit, decimals) for limit in deciles}
    smallest, largest = _end(values.min()), _end(values.max())
    return sorted(limit for limit in found if smallest <= limit < largest)


def _duplicates(memorized: pl.DataFrame, entry: str, low: float, high: float) -> list[float]:
    """Thresholds of duplicates: the deciles and those of the paper, as whole numbers."""
    if "duplicates" not in memorized or not memorized["duplicates"].count():
        return []
    counts = memorized["duplicates"]
    deciles = _quantiles(memorized, "duplicates", entry, low, high)
    found = {math.floor(limit) for limit in [*deciles, *_PUBLISHED_DUPLICATES]}
    smallest, largest = _end(counts.min()), _end(counts.max())
    return sorted(float(n) for n in found if low <= n <= high and smallest <= n < largest)


def _end(value: object) -> float:
    """The smallest or largest value of a numeric column, as a float."""
    assert isinstance(value, int | float)
    return float(value)


def _guesses(entry: str, low: float, high: float) -> dict[str, tuple[str, ...]]:
    """Guess by both ROUGE scores, or by one."""
    if (math.isfinite(low) and low < 0) or (math.isfinite(high) and high > 1):
        raise UserError(f"search.nodes: '{entry}': ROUGE lies in [0, 1]. Choose a range within.")
    limits = [limit for limit in _RHO if low <= limit <= high]
    if not limits:
        raise UserError(f"search.nodes: '{entry}' holds none of 0.1, 0.2, …, 0.9. Widen it.")
    return {
        "Guess": tuple(f"Guess[{one:g}-{one:g}]" for one in limits),
        "Guess by ROUGE-L": tuple(f"Guess[{one:g}-off]" for one in limits),
        "Guess by ROUGE-3": tuple(f"Guess[off-{one:g}]" for one in limits),
    }
