"""Say why a taxonomy cannot be sampled: the class in the way, its count, and what helps."""

from dataclasses import dataclass

import polars as pl

from mnemoscope.taxonomy.draw import Draw
from mnemoscope.taxonomy.names import Taxonomy

__all__ = ["Impossible", "explain", "explain_null"]

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
