"""The tables of `docs/embedded-catalogue.md`, from a finished study.

mnemoscope run embedded-catalogue -o STUDY
python -m experiments.catalogue.run STUDY --write docs/embedded-catalogue.md
"""

import argparse
import re
from pathlib import Path
from typing import Any

import polars as pl

import mnemoscope as ms
from experiments.pages import show_tables, table_of
from mnemoscope.benchmark.sources import SOURCES, TABLE, of_reader
from mnemoscope.pipeline.benchmark import load_comparison
from mnemoscope.report.published import WHOLES, published_view
from mnemoscope.stats import rows_of
from mnemoscope.words import interval, percent, points


def measured(study: ms.Study) -> list[str]:
    """Ours beside published, the 54 and then ρ, and what has no figure."""
    view, lines = published_view(load_comparison(study)), []
    columns = [
        *("taxonomy", "classes", "min-F1", "mean F1", "published min-F1"),
        *("published mean F1", "difference of min-F1", "trained as"),
    ]
    for part in view["parts"] if view else ():
        rows = []
        for row in part["rows"]:
            cells = [
                row["name"],
                str(row["n_classes"]),
                f"{percent(row['min_f1'].value)} {interval(row['min_f1'])}",
                f"{percent(row['mean_f1'].value)} {interval(row['mean_f1'])}",
                percent(row["published_min_f1"]),
                percent(row["published_mean_f1"]),
                f"{points(row['difference'].value)} {interval(row['difference'])}",
                row["alias_of"] or "itself",
            ]
            rows.append(cells)
        title = "### " + WHOLES[part["kind"]].removeprefix("of ").capitalize()
        lines += [title, "", part["correlation"], "", table_of(columns, rows)]
        if part["missing"]:
            lines += ["Without a figure:", ""]
            lines += [f"- {name}: {state}. {reason(note)}" for name, state, note in part["missing"]]
            lines.append("")
    for ours, _ in view["conclusions"] if view else ():
        lines.append(f"- {ours.claim} **{ours.verdict.capitalize()}** here: {ours.reason}")
    return lines


def controlled(study: ms.Study) -> str:
    """The taxonomies with controls: what is left once the text is taken off."""
    table, rows = study.benchmark, []
    sources = ("best blind", "reference", "control", "logits")
    chosen = table.filter(pl.col("is_headline").fill_null(False), pl.col("verdict").is_not_null())
    for row in rows_of(chosen):
        own = table.filter(taxonomy=row["taxonomy"], variant=row["variant"])
        beside = {one["source"]: one for one in rows_of(own)}
        figures, excess, auc = row["min_f1"], row["excess"], [one.value for one in row["auc"]]
        cells = [
            row["taxonomy"],
            TABLE[row["source"]].name,
            f"{percent(figures.value)} {interval(figures)}",
            *(percent(best_of(beside, row["source"], column)) for column in sources),
            f"{points(excess.value)} {interval(excess)}",
            percent(sum(auc) / len(auc) if auc else None),
            row["verdict"],
        ]
        rows.append(cells)
    columns = [
        "taxonomy",
        "reader",
        "min-F1",
        *sources,
        "excess",
        "mean pairwise AUC",
        "verdict",
    ]
    return table_of(columns, rows)


def best_of(rows: dict[str, dict[str, Any]], reader: str, column: str) -> float | None:
    """The best min-F1 of the sources of a column that a reader is held against."""
    names = [one for one in of_reader(SOURCES, reader) if TABLE[one].column == column]
    found = [rows[one]["min_f1"].value for one in names if one in rows]
    return max((value for value in found if value is not None), default=None)


def reason(note: str) -> str:
    """Why there is no figure, without what to do about it."""
    return re.split(r"\. (?:Add|Choose) ", note)[0].split(" (in the table")[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    options = parser.parse_args()
    made = ms.Study(options.study)
    found = "\n".join([*measured(made), "", "### With controls", "", controlled(made)])
    show_tables(found, options.write)
