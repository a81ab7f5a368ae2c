"""Tables taken apart, for what a test says of a single end; legends, for what they lack."""

import re

import polars as pl

from mnemoscope.analysis.figures import Chart
from mnemoscope.stats import FIGURE, Estimate


def apart(table: pl.DataFrame) -> pl.DataFrame:
    """A table with each figure as the columns `name`, `name_low` and `name_high`."""
    columns: list[pl.Expr] = []
    for name, kind in table.schema.items():
        names = (name, f"{name}_low", f"{name}_high")
        parts = zip(names, Estimate._fields, strict=True)
        columns += (
            [pl.col(name).struct.field(part).alias(one) for one, part in parts]
            if kind == FIGURE
            else [pl.col(name)]
        )
    return table.select(columns)


def uncounted(figures) -> list[str]:
    """Charts whose legend does not say of how many sequences each series or category is."""

    def is_counted(names) -> bool:
        return bool(names) and all(re.search(r" \(n [\d,]+(–[\d,]+)?\)$", one) for one in names)

    charts = [figure for figure in figures if isinstance(figure, Chart)]
    return [
        f"{chart.title}: {[one.name for one in chart.series]}"
        for chart in charts
        if not (is_counted([one.name for one in chart.series]) or is_counted(chart.x_names))
    ]
