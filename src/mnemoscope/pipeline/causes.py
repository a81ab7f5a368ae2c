"""What grafts and knockouts allow to be said: their tables' names, and the sentences of rows.

Of grafts one finding a taxonomy, from `graft_specificity.parquet`: a row a taxonomy, part and
ordered pair of classes.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import polars as pl

from mnemoscope.localize.grafts import Finding
from mnemoscope.localize.rankings import RANKINGS
from mnemoscope.stats import FEWEST_GROUPS, Estimate, rows_of
from mnemoscope.words import MINUS, p_figure, part_words, percent, plain_figure, plural, ranged

GRAFT_FILE = "graft.parquet"
GRAFT_SPECIFICITY_FILE = "graft_specificity.parquet"
CURVES_FILE = "graft_curves.parquet"
PATCHES_FILE = "graft_patches.parquet"
SEQUENCES_FILE = "graft_sequences.parquet"
KNOCKOUT_FILE = "knockout.parquet"
SPECIFICITY_FILE = "specificity.parquet"
INTO_MODEL, INTO_TWIN = "twin_in_model", "model_in_twin"
SAME_SIZE: Literal["same size"] = "same size"
"""The control in `graft.parquet` of random changes as large as the twin's, means over draws."""
TRUTH = "by truth"
"""The classes `never read` and `read` of what the twin alone reproduces too, as a taxonomy of their
own, where the table knows what was read."""
FINDINGS = {
    Finding.SPECIFIC: "specific",
    Finding.EITHER_WAY: "either way along the line",
    Finding.ALIKE: "not shown",
    Finding.OUT_OF_REACH: "out of reach",
    Finding.FEW: "too few",
}
"""In a cell, those first that say most."""
_IN_WORDS = {"never read": "what was never read", "read": "what was read"}
_BY_TRUTH = (
    "by what was read and what never was, among sequences that the reference reproduces too, with "
    "kind and, where known, form held equal"
)
_MOST_NAMED = 2
FEWEST_GRAFTED = 2
"""Memorized sequences that grafts need."""

Row = Mapping[str, Any]
"""Of `graft_specificity.parquet`, as `rows_of` gives it."""


def finding_of(row: Row) -> Finding:
    """The finding that a row of `graft_specificity.parquet` holds."""
    return Finding[row["finding"]]


def by_weight(rows: Sequence[Row]) -> list[Row]:
    """A taxonomy's rows in the order of what they say, and by falling difference."""

    def weight(row: Row) -> tuple[int, float]:
        value = row["specific"].value
        return list(FINDINGS).index(finding_of(row)), float("inf") if value is None else -value

    return sorted(rows, key=weight)


def graft_statements(specific: pl.DataFrame, shares: pl.DataFrame) -> Iterator[str]:
    """What the grafts allow to be said, one sentence a taxonomy.

    `shares` are rows of `graft.parquet`; a taxonomy of one class is there alone.
    """
    found = dict(specific.group_by("taxonomy", maintain_order=True))
    for (taxonomy,), rows in shares.group_by("taxonomy", maintain_order=True):
        under = _BY_TRUTH if taxonomy == TRUTH else f"under {taxonomy}"
        said = list(rows_of(found[taxonomy,])) if (taxonomy,) in found else []
        groups = dict(rows.select("class", "n_groups").unique(maintain_order=True).iter_rows())
        yield f"Which part each class needs, {under}: {said_of(said, groups)}"


def said_of(rows: Sequence[Row], groups: Mapping[str, int]) -> str:
    """Say what the rows of one taxonomy show, the strongest finding first.

    `groups` counts those of near duplicates in each memorized class.
    """
    few = _too_few(groups)
    if few or not rows:
        return few
    first, *others = by_weight(rows)
    match finding_of(first):
        case Finding.SPECIFIC:
            return _specific(first) + _likewise(others)
        case Finding.EITHER_WAY:
            return _either_way(first)
        case Finding.ALIKE:
            return (
                "no part was found to break one class more than random changes of equal harm do; "
                f"the largest difference is {_points(first)} ({_named(first['broken'])} beyond "
                f"{_named(first['spared'])}, {part_words(first['part'])}{_chance(first)})"
                f"{_unreached(rows)}."
            )
        case Finding.OUT_OF_REACH:
            return (
                f"no verdict: random changes up to {first['largest_scale']:.1f} times the size of "
                "the reference's never break as much."
            )
        case Finding.FEW:
            return (
                "no verdict: no kind of text has enough sequences of two classes, or too few "
                f"random changes were tried ({first['n_walks']} of a part)."
            )


def _too_few(groups: Mapping[str, int]) -> str:
    """Say that fewer than two classes have the groups that a verdict needs; empty if two have."""
    if sum(n >= FEWEST_GROUPS for n in groups.values()) > 1:
        return ""
    counted = ", ".join(f"{_named(name)} has {n}" for name, n in groups.items())
    return (
        f"no verdict: it needs {FEWEST_GROUPS} sequences in each of two memorized classes, near "
        f"duplicates counted once; of those tried, {counted}. What each part breaks is in the "
        "table of grafts."
    )


def depends(row: Row) -> str:
    """Say of a specific finding which class depends on which part."""
    return (
        f"{_named(row['broken'])} depends on {part_words(row['part'])} more than "
        f"{_named(row['spared'])} does"
    )


def _specific(row: Row) -> str:
    value = row["crude"].value
    crude = "" if value is None else f"; crude, kinds not held equal: {100 * value:z.0f} points"
    chance = "" if row["p_value"] is None else f"{_p(row['p_value'])}, "
    return (
        f"{depends(row)}: {_left(row)}, {_points(row)} more ({chance}within kind of text{crude})."
    )


def _either_way(row: Row) -> str:
    return (
        f"{_named(row['broken'])} breaks more than {_named(row['spared'])} when "
        f"{part_words(row['part'])} moves along the line through the reference's: {_left(row)}, "
        f"{_points(row)} more. Moved as far away from the reference it breaks as much, so "
        f"{_named(row['broken'])} depends on this direction, toward the reference or away from it."
    )


def _left(row: Row) -> str:
    """What is left with the reference's part, and under random changes of equal harm."""
    broken, spared = _named(row["broken"]), _named(row["spared"])
    return (
        f"with the reference's, {percent(row['kept_broken'])} of {broken} is left; random changes "
        f"that break as much of {spared} leave {percent(row['random_broken'])}"
    )


def _chance(row: Row) -> str:
    """Why a difference whose interval over groups lies above 0 may still be chance."""
    if row["scatter"] is None or row["p_value"] is None:
        return ""
    total = row["equal_total"].value
    said = f"; random changes differ among themselves by {100 * row['scatter']:z.0f} points"
    if total is not None:
        said += "; beside those that leave as much of both classes together, the difference is "
        said += f"{100 * total:z.0f} points"
    return f"{said}; {_p(row['p_value'])}"


def _p(value: float) -> str:
    shown = p_figure(value)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def _likewise(others: Sequence[Row]) -> str:
    """Further specific findings, the first by name."""
    found = [row for row in others if finding_of(row) is Finding.SPECIFIC]
    if not found:
        return ""
    named = [
        f"{_named(row['broken'])} on {part_words(row['part'])} "
        f"({100 * row['specific'].value:.0f} points beyond {_named(row['spared'])})"
        for row in found[:_MOST_NAMED]
    ]
    more = len(found) - len(named)
    return f" So does {', '.join(named)}" + (f", and {more} more." if more else ".")


def _unreached(rows: Sequence[Row]) -> str:
    parts = {row["part"] for row in rows if finding_of(row) is Finding.OUT_OF_REACH}
    return f"; for {plural(len(parts), 'part')} they never break as much" if parts else ""


def _points(row: Row) -> str:
    return plain_figure(*row["specific"], unit=" points", digits=0, minus=MINUS)


def _named(name: str) -> str:
    return _IN_WORDS.get(name, name)


def spoken_strength(strengths: Iterable[float | None]) -> float:
    """The strength of cuts that is spoken of: nearest to 1 % of the edges, not what looks best."""
    return min((one for one in strengths if one), key=lambda one: abs(math.log(one)))


def statements(indices: Iterable[Row]) -> Iterator[str]:
    """Rows of `specificity.parquet`, as `rows_of` gives them, in words."""
    for row in indices:
        others = " and ".join(
            f"{_broken(one)} of {of}" for of, one in of_json(row, "broken_others")
        )
        by_others = "".join(
            f", the edges of {name} {_broken(one)}"
            for name, one in of_json(row, "broken_own_by_others")
        )
        yield (
            f"{row['taxonomy']}: cutting the {row['strength']:g} % edges most decisive for "
            f"{row['class']} (by {ranking_words(row)}) breaks {_broken(row['broken_own'])} of "
            f"{row['class']}"
            + (f" and {others}" if others else "")
            + f"; random edges of equal mass break {_broken(row['broken_own_equal_mass'])} of it"
            + f"{by_others}."
        )


class CutVerdict(NamedTuple):
    """Whether decisive edges break "more" or "less" than random ones, "" if open, and in words."""

    does: str
    words: str


def cut_verdict(rows: Sequence[Row], name: str) -> CutVerdict:
    """What the edges that decide a class break, at the strength spoken of and where else decided.

    `rows` of `specificity.parquet` are of one sample, `name` is a class of theirs.
    """
    own = [one for one in rows if one["class"] == name]
    spoken = spoken_strength(one["strength"] for one in own)
    row = next(one for one in own if one["strength"] == spoken)
    does = _does(row)
    others = "".join(f" and {_broken(one)} of {of}" for of, one in of_json(row, "broken_others"))
    said = (
        f"the {spoken:g} % of edges most decisive for {name} break "
        f"{_broken(row['broken_own'])} of it{others}; random edges that hold as much attention "
        f"break {_broken(row['broken_own_equal_mass'])} of it"
    )
    if not does and row["beyond_equal_mass"].value is not None:
        said += ", so whether these do more is undecided"
    if len(own) > 1:
        said += f"; of {len(own)} strengths the one nearest to 1 % is named"
        elsewhere: dict[str, list[str]] = {}
        for one in own:
            if one is not row and _does(one):
                elsewhere.setdefault(_does(one), []).append(f"{one['strength']:g}")
        for what, at in elsewhere.items():
            said += f", at {' and '.join(at)} % the decisive ones break {what} than random ones"
    return CutVerdict(does, said)


def cut_verdicts(indices: pl.DataFrame) -> Iterator[str]:
    """The verdict of every taxonomy and class of `specificity.parquet`, in a sentence each."""
    for _, rows in indices.group_by("taxonomy", "variant", maintain_order=True):
        found = list(rows_of(rows))
        for name in dict.fromkeys(one["class"] for one in found):
            yield f"{found[0]['taxonomy']}: {cut_verdict(found, name).words}."


def _does(row: Row) -> str:
    """Whether decisive edges break more or less than random ones; empty where that is open."""
    _, low, high = row["beyond_equal_mass"]
    if low is None:
        return ""
    return "more" if low > 0 else "less" if high < 0 else ""


def of_json(row: Row, column: str) -> list[tuple[str, Estimate]]:
    """The figures by class of a column of `specificity.parquet`."""
    return [(name, Estimate(**one)) for name, one in json.loads(row[column]).items()]


def _lost(kept: Estimate) -> Estimate:
    value, low, high = kept
    if value is None or low is None or high is None:
        return Estimate(None if value is None else 1 - value)
    return Estimate(1 - value, 1 - high, 1 - low)


def _broken(share: Estimate) -> str:
    return ranged(share, scale=100, unit=" %", digits=0)


def ranking_words(row: Mapping[str, object]) -> str:
    """What ranked the edges of a row, in words."""
    name = str(row["by"])
    return "Δ" if name == "delta" else RANKINGS[name].words


class OwnCut(NamedTuple):
    """Shares of a class that edges chosen for each sequence break, beside two controls."""

    taxonomy: str
    name: str
    n_edges: float
    own: Estimate
    equal: Estimate  # as heavy ones of its own
    another: Estimate  # another sequence's

    @property
    def words(self) -> str:
        """All three."""
        return (
            f"each sequence's own {self.n_edges:.0f} edges of largest total effect break "
            f"{_broken(self.own)} of {self.name}; as heavy ones of its own {_broken(self.equal)}, "
            f"another sequence's {_broken(self.another)}"
        )


def own_cuts(rows: pl.DataFrame) -> Iterator[OwnCut]:
    """What each sequence's own edges break, from rows of `knockout.parquet`; empty if not tried."""
    for taxonomy, name in rows.select("taxonomy", "class").unique(maintain_order=True).rows():
        found = {
            row["choice"]: row
            for row in rows_of(rows.filter(pl.col("class") == name, taxonomy=taxonomy))
            if row["choice"].startswith("own")
        }
        if not found:
            continue
        broken = (
            _lost(found[one]["survival"]) for one in ("own", "own, equal mass", "own, another's")
        )
        yield OwnCut(taxonomy, name, found["own"]["n_edges"], *broken)


def own_statements(rows: pl.DataFrame) -> Iterator[str]:
    """The same in sentences."""
    for one in own_cuts(rows):
        yield f"{one.taxonomy}: {one.words}."
