"""The tables of `docs/appendix/knockout.md` and `knockout-more.md`, from a study with a knockout.

mnemoscope knockout STUDY
python benchmarks/knockout_page.py STUDY --write docs/appendix/knockout.md
python benchmarks/knockout_page.py STUDY --curves --write docs/appendix/knockout.md --name NAME

The second gives every cut at every strength in place of the specificity, which a study with one
memorized class has not.
"""

import argparse
from functools import partial
from pathlib import Path

import polars as pl
from pages import figure, write_tables

import mnemoscope as ms

share = partial(figure, digits=0)


def specificity_lines(study: ms.Study) -> list[str]:
    """A line a class and strength."""
    lines = [
        "| taxonomy | edges of | ranked by | strength, % | broken of its own class, % | by random "
        "edges of equal mass, % | specificity |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in study.read("specificity.parquet").iter_rows(named=True):
        index = figure(row["specificity"], row["low"], row["high"], scale=1, digits=2)
        lines.append(
            f"| {row['sample']} | {row['class']} | {row['by']} | {row['strength']:g} "
            f"| {100 * row['broken_own']:.0f} | {100 * row['broken_own_equal_mass']:.0f} "
            f"| {index} |"
        )
    return lines


def curve_lines(study: ms.Study) -> list[str]:
    """A line a kind of cut: what survives at each strength, and the attention cut."""
    rows = study.read("knockout.parquet").filter(pl.col("choice") != "nothing")
    drawn = rows.filter(pl.col("strength").is_not_null())
    strengths = sorted(drawn["strength"].unique().to_list())
    kinds = drawn.select("choice", "edges_of", "class").unique(maintain_order=True)
    lines = [
        f"| cut | edges of | tried on | {' | '.join(f'{one:g} %' for one in strengths)} |",
        "|---" * (3 + len(strengths)) + "|",
    ]
    for choice, edges_of, name in kinds.rows():
        found = drawn.filter(choice=choice, edges_of=edges_of, **{"class": name}).sort("strength")
        cells = [
            f"{share(row['survival'], row['low'], row['high'])}; {100 * row['mass']:.1f}"
            for row in found.iter_rows(named=True)
        ]
        lines.append(f"| {choice} | {edges_of or '–'} | {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| cut | tried on | edges | attention on them, % | survive, % |",
        "|---" * 5 + "|",
    ]
    for row in rows.filter(pl.col("strength").is_null()).iter_rows(named=True):
        survival = share(row["survival"], row["low"], row["high"])
        lines.append(
            f"| {row['choice']} | {row['class']} | {row['n_edges']:,.0f} "
            f"| {100 * row['mass']:.1f} | {survival} |"
        )
    return lines


def survival_lines(study: ms.Study, strength: float) -> list[str]:
    """A line a kind of cut at one strength, copy edges, and each sequence's own few edges."""
    lines = [
        f"| taxonomy | cut, {strength:g} % of edges | edges of | tried on | edges | attention on "
        "them, % | survive, % |",
        "|---|---|---|---|---|---|---|",
    ]
    table = study.read("knockout.parquet")
    chosen = table.filter(
        (pl.col("strength") == strength) | pl.col("choice").str.contains("^(copy|own)")
    )
    for row in chosen.iter_rows(named=True):
        survival = share(row["survival"], row["low"], row["high"])
        lines.append(
            f"| {row['sample']} | {row['choice']} | {row['edges_of'] or '–'} | {row['class']} "
            f"| {row['n_edges']:,.0f} | {100 * row['mass']:.1f} | {survival} |"
        )
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--curves", action="store_true", help="every cut at every strength")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    parser.add_argument("--name", default="", help="of the tables, where a page has several")
    options = parser.parse_args()
    made = ms.Study(options.study)
    tables = (
        curve_lines(made)
        if options.curves
        else [*specificity_lines(made), "", *survival_lines(made, options.strength)]
    )
    found = "\n".join([*tables, ""])
    print(found)
    if options.write:
        write_tables(options.write, found, options.name)
