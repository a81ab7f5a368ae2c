"""Say why a taxonomy cannot be sampled: the class in the way, its count, and what helps."""

from dataclasses import dataclass

import polars as pl

from mnemoscope.taxonomy.draw import Draw
from mnemoscope.taxonomy.names import Taxonomy

__all__ = ["Impossible", "explain", "explain_null"]


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
    small = [name for name in taxonomy.classes if counts[name] < needed]
    ways = ["add sequences"]
    if may_drop and len(taxonomy.classes) - max(len(small), 1) >= 2:
        ways.append("leave small classes out with --drop-small-classes")
    if match is not None and not small:
        ways.append(f"do not match by {match}")
    if split == "group" and not small:
        ways.append("split by row")
    ways.append("ask for fewer")
    reason = _name_cause(draw, taxonomy, counts, small, match)
    reason = f"{needed:,} sequences of every class are needed, but {reason}"
    remedy = f"{', or '.join(ways)}."
    return Impossible(
        f"{reason}; {missing}" if missing else reason,
        counts,
        needed,
        remedy[0].upper() + remedy[1:],
    )


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
