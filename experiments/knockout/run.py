"""The tables of `docs/appendix/knockout.md` and `knockout-more.md`, from a study with a knockout.

mnemoscope knockout STUDY
python -m experiments.knockout.run STUDY --write docs/appendix/knockout.md
python -m experiments.knockout.run STUDY --curves --write docs/appendix/knockout.md --name NAME

The second gives every cut at every strength in place of the specificity, which a study with one
memorized class has not.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

import mnemoscope as ms
from experiments.pages import figure, show_tables, table_of
from mnemoscope.stats import rows_of

SURVIVAL = ("edges", "attention on them, %", "survive, %")
share = partial(figure, digits=0)


def survival(row: dict[str, Any]) -> list[str]:
    """The cells of `SURVIVAL`."""
    kept = share(*row["survival"])
    return [f"{row['n_edges']:,.0f}", f"{100 * row['mass']:.1f}", kept]


def specificities(study: ms.Study) -> str:
    """A line a class and strength."""
    columns = [
        *("taxonomy", "edges of", "ranked by", "strength, %", "broken of its own class, %"),
        *("by random edges of equal mass, %", "specificity"),
    ]
    rows = [
        [
            *(row["taxonomy"], row["class"], row["by"], f"{row['strength']:g}"),
            *(share(*row[name]) for name in ("broken_own", "broken_own_equal_mass")),
            figure(*row["specificity"], scale=1, digits=2),
        ]
        for row in rows_of(study.read("specificity.parquet"))
    ]
    return table_of(columns, rows)


def curves(study: ms.Study) -> str:
    """A line a kind of cut: what survives at each strength, and the attention cut."""
    rows = study.read("knockout.parquet").filter(pl.col("choice") != "nothing")
    drawn = rows.filter(pl.col("strength").is_not_null())
    strengths = sorted(drawn["strength"].unique().to_list())
    kinds = drawn.select("choice", "edges_of", "class").unique(maintain_order=True)
    lines = []
    for choice, edges_of, name in kinds.rows():
        found = drawn.filter(choice=choice, edges_of=edges_of, **{"class": name}).sort("strength")
        cells = [f"{share(*row['survival'])}; {100 * row['mass']:.1f}" for row in rows_of(found)]
        lines.append([choice, edges_of or "–", name, *cells])
    by_strength = ["cut", "edges of", "tried on", *(f"{one:g} %" for one in strengths)]
    others = [
        [row["choice"], row["class"], *survival(row)]
        for row in rows_of(rows.filter(pl.col("strength").is_null()))
    ]
    return table_of(by_strength, lines) + "\n" + table_of(["cut", "tried on", *SURVIVAL], others)


def survivals(study: ms.Study, strength: float) -> str:
    """A line a kind of cut at one strength, copy edges, and each sequence's own few edges."""
    table = study.read("knockout.parquet")
    chosen = table.filter(
        (pl.col("strength") == strength) | pl.col("choice").str.contains("^(copy|own)")
    )
    columns = ["taxonomy", f"cut, {strength:g} % of edges", "edges of", "tried on", *SURVIVAL]
    rows = [
        [row["taxonomy"], row["choice"], row["edges_of"] or "–", row["class"], *survival(row)]
        for row in rows_of(chosen)
    ]
    return table_of(columns, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--curves", action="store_true", help="every cut at every strength")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    parser.add_argument("--name", default="", help="of the tables, where a page has several")
    options = parser.parse_args()
    made = ms.Study(options.study)
    if options.curves:
        found = curves(made)
    else:
        found = specificities(made) + "\n" + survivals(made, options.strength)
    show_tables(found, options.write, options.name)
