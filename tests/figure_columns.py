"""Tables taken apart, for what a test says of a single end."""

import polars as pl

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
