"""Tables on the terminal: our figures beside the published ones, and several models as one."""

from collections.abc import Sequence
from typing import Any

import polars as pl
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from mnemoscope.benchmark.comparison import Comparison, published_conclusions
from mnemoscope.report.content import Estimate
from mnemoscope.report.numbers import interval, percent, points
from mnemoscope.report.published import (
    WHOLES,
    correlation_sentence,
    in_reading_order,
    rho_words,
    short_name,
)

__all__ = ["console", "difference_text", "print_comparison", "print_together"]

_PLAIN_WIDTH = 120
"""Columns where the output is no terminal, whose width would be taken for 80."""
_TITLES = {
    "catalogue": "Published taxonomies, %",
    "rho": "Threshold ρ of Guess, % (published: Pythia 12b)",
}


def console() -> Console:
    """The terminal, or a plain page wide enough for the tables."""
    found = Console(highlight=False, markup=False)
    if not found.is_terminal:
        found.width = max(found.width, _PLAIN_WIDTH)
    return found


def difference_text(value: float | None, low: float | None, high: float | None) -> str:
    """A difference in points and its interval."""
    return f"{points(value)} {interval(Estimate(value, low, high))}".strip()


def print_comparison(comparison: Comparison, *, with_reasons: bool = True) -> None:
    """Print, for the 54 and for ρ, ours beside published; then correlations and conclusions.

    Args:
        comparison: of a study, or of several together.
        with_reasons: say of each taxonomy that was asked for why it has no figure.
    """
    page = console()
    for kind, whole in WHOLES.items():
        rows = in_reading_order(comparison.frame, kind)
        asked = rows.filter(pl.col("state") != "absent")
        if asked.is_empty():
            continue
        shown = asked.filter(pl.col("min_f1").is_not_null())
        if not shown.is_empty():
            page.print(_table(shown, kind))
        if with_reasons:
            _print_missing(page, asked.filter(pl.col("min_f1").is_null()))
        n_absent = rows.height - asked.height
        if n_absent:
            page.print(f"{n_absent} {whole} {'is' if n_absent == 1 else 'are'} not in this study.")
        page.print(correlation_sentence(comparison.correlations[kind], whole))
    _print_conclusions(page, comparison)


def print_together(frame: pl.DataFrame, models: Sequence[str]) -> None:
    """Print, for each taxonomy, min-F1 of every model and of all together.

    Args:
        frame: columns as in `TOGETHER_SCHEMA`.
        models: names of the models in order.
    """
    page = console()
    table = Table(
        "taxonomy", *models, "together", "mean F1", title="min-F1 per model and together, %"
    )
    notes = []
    for name in frame["taxonomy"].unique(maintain_order=True):
        own = frame.filter(pl.col("taxonomy") == name)
        rows = {row["model"]: row for row in own.iter_rows(named=True)}
        total = rows["together"]
        cells = [percent(rows[model]["min_f1"], unit=False) for model in models]
        ends = ("min_f1", "low", "high"), ("mean_f1", "mean_f1_low", "mean_f1_high")
        table.add_row(short_name(name), *cells, *[_cell(total, *one) for one in ends])
        if total["note"]:
            notes.append(f"{short_name(name)}: {total['note']}")
    page.print(table)
    for note in notes:
        page.print(note)


def _table(rows: pl.DataFrame, kind: str) -> Table:
    """Ours, published and the difference."""
    names = ["taxonomy" if kind == "catalogue" else "used, ρ", "min-F1", "mean F1", "published"]
    models = [] if kind == "rho" else ["12b", "6.9b", "2.8b"]
    table = Table(*names, *models, "difference", title=_TITLES[kind])
    for row in rows.iter_rows(named=True):
        table.add_row(
            _name(row),
            _cell(row, "min_f1", "low", "high"),
            _cell(row, "mean_f1", "mean_f1_low", "mean_f1_high"),
            " / ".join(
                percent(row[f"published_{figure}"], unit=False) for figure in ("min_f1", "mean_f1")
            ),
            *[percent(row[f"published_min_f1_{model}"], unit=False) for model in models],
            _cell(row, "difference", "difference_low", "difference_high", signed=True),
        )
    table.caption = (
        "Published: min-F1 / mean F1"
        + (", three models summed; then min-F1 of each. " if models else ". ")
        + "Difference: of min-F1, in points. Every taxonomy begins with Non-Memo."
    )
    return table


def _name(row: dict[str, Any]) -> str:
    """A published taxonomy or setting of ρ; under an alias the name that was trained."""
    if row["kind"] == "rho":
        return rho_words(row)
    alias = f"\n= {short_name(row['taxonomy'])}" if row["state"] == "alias" else ""
    return short_name(row["published_name"]) + alias


def _print_missing(page: Console, rows: pl.DataFrame) -> None:
    """Name what has no figure, with its reason."""
    for row in rows.iter_rows(named=True):
        name = rho_words(row) if row["kind"] == "rho" else short_name(row["published_name"])
        page.print(f"{name}: {row['state']}. {row['note']}")


def _print_conclusions(page: Console, comparison: Comparison) -> None:
    """The paper's conclusions on its own figures and on ours."""
    page.print("Conclusions of the paper:")
    for ours, theirs in zip(comparison.conclusions, published_conclusions(), strict=True):
        page.print(f"- {ours.claim}")
        for where, one in (("here", ours), ("published", theirs)):
            page.print(Padding(f"{where}: {one.verdict}. {one.reason}", (0, 0, 0, 4)))


def _cell(row: dict[str, Any], value: str, low: str, high: str, *, signed: bool = False) -> str:
    """A figure in per cent, its interval below it."""
    if row[value] is None:
        return "–"
    shown = points(row[value]) if signed else percent(row[value], unit=False)
    ends = interval(Estimate(row[value], row[low], row[high]))
    return f"{shown}\n{ends}".strip()
