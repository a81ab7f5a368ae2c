"""The knockout of one taxonomy as the report wants it, where the study has one."""

import json
import math
from collections.abc import Iterator
from typing import Any

import polars as pl

from mnemoscope.errors import UserError
from mnemoscope.report.content import Estimate
from mnemoscope.report.knockout import (
    CopyRow,
    KnockoutCurve,
    KnockoutPanel,
    KnockoutPoint,
    KnockoutView,
    SpecificityRow,
)
from mnemoscope.stages.knockout import KNOCKOUT_FILE, SPECIFICITY_FILE
from mnemoscope.stages.knockout_rows import statements
from mnemoscope.study import Study

__all__ = ["knockout_of"]

_WORDS = {
    "random": "random edges",
    "equal mass": "random edges, mass as most decisive for {}",
    "same layers": "random edges, layers as most decisive for {}",
    "highest mass": "highest attention mass in {}",
    "decisive": "most decisive for {}",
}
_SPOKEN_OF = 1.0  # per cent of edges: fixed beforehand, not the strength that looks best


def knockout_of(study: Study, taxonomy: str) -> KnockoutView | None:
    """What cutting edges did to the classes of a taxonomy.

    Args:
        study: of any state.
        taxonomy: its name.

    Returns:
        None where the stage was not run (with the present settings), or not for this taxonomy.
    """
    if not study.is_done("knockout"):
        return None
    rows = study.read(KNOCKOUT_FILE).filter(pl.col("sample") == taxonomy)
    if rows.is_empty():
        return None
    indices = study.read(SPECIFICITY_FILE).filter(pl.col("sample") == taxonomy).to_dicts()
    strengths = tuple(sorted({one for one in rows["strength"].to_list() if one}))
    spoken = min(strengths, key=lambda one: abs(math.log(one / _SPOKEN_OF)))
    said = [(row["strength"] == spoken, line) for row, line in _said(indices)]
    return KnockoutView(
        panels=tuple(_panels(rows)),
        strengths=strengths,
        indices=tuple(map(_specificity, indices)),
        copies=tuple(_copies(rows)),
        statements=tuple(line for is_main, line in said if is_main),
        further=tuple(line for is_main, line in said if not is_main),
        attribution=study.settings.knockout.attribution,
        renormalize=study.settings.knockout.renormalize,
    )


def _said(indices: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each row of the specificity table with its sentence; the page names the taxonomy itself."""
    for row in indices:
        (line,) = statements([row])
        without = line.removeprefix(f"{row['sample']}: ")
        yield row, without[:1].upper() + without[1:]


def _panels(rows: pl.DataFrame) -> Iterator[KnockoutPanel]:
    """One panel a tried class."""
    for name in rows["class"].unique(maintain_order=True):
        tried = rows.filter((pl.col("class") == name) & pl.col("choice").is_in(list(_WORDS)))
        curves: list[KnockoutCurve] = []
        others: list[KnockoutCurve] = []
        for choice in ("decisive", *(one for one in _WORDS if one != "decisive")):
            for edges_of in tried.filter(choice=choice)["edges_of"].unique(maintain_order=True):
                points = tried.filter(choice=choice, edges_of=edges_of).sort("strength")
                words = _WORDS[choice].format(edges_of)
                curve = KnockoutCurve(
                    choice, edges_of, words, tuple(map(_point, points.to_dicts()))
                )
                is_drawn = choice == "decisive" or edges_of in ("", name)
                (curves if is_drawn else others).append(curve)
        yield KnockoutPanel(name, tried["n"][0], tuple(curves), tuple(others))


def _point(row: dict[str, Any]) -> KnockoutPoint:
    names = ("strength", "n_edges", "mass", "score", "logprob", "draws")
    return KnockoutPoint(survival=_survival(row), **{name: row[name] for name in names})


def _survival(row: dict[str, Any]) -> Estimate:
    return Estimate(row["survival"], row["low"], row["high"])


def _specificity(row: dict[str, Any]) -> SpecificityRow:
    return SpecificityRow(
        class_name=row["class"],
        strength=row["strength"],
        broken_own=row["broken_own"],
        broken_equal_mass=row["broken_own_equal_mass"],
        broken_others=tuple(json.loads(row["broken_others"]).items()),
        index=Estimate(row["specificity"], row["low"], row["high"]),
    )


def _copies(rows: pl.DataFrame) -> Iterator[CopyRow]:
    """Copy edges beside their controls, a row a class."""
    random, equal = (
        {row["class"]: row for row in rows.filter(choice=f"copy, {control}").to_dicts()}
        for control in ("random", "equal mass")
    )
    for row in rows.filter(choice="copy").to_dicts():
        name = row["class"]
        if name not in equal:
            raise UserError(
                f"knockout.parquet: the copy edges of '{name}' lack their control of equal mass, "
                "which an earlier version did not measure. Make it anew: knockout --redo."
            )
        yield CopyRow(
            class_name=name,
            n_edges=row["n_edges"],
            mass=row["mass"],
            survival=_survival(row),
            random=_survival(random[name]),
            random_mass=random[name]["mass"],
            equal=_survival(equal[name]),
            equal_mass=equal[name]["mass"],
        )
