"""Columns of a table that is kept, declared once: its writer makes it by them, docs show them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import polars as pl


class Column(NamedTuple):
    """A column of a table: its Polars type, and what it holds."""

    type: Any
    meaning: str


Columns = Mapping[str, Column]


def schema_of(columns: Columns) -> "pl.Schema":
    """The schema of a table of these columns."""
    import polars as pl

    return pl.Schema({name: one.type for name, one in columns.items()})


def check_columns(name: str, frame: "pl.DataFrame", columns: Columns) -> None:
    """Raise TypeError if a table is not of the columns that are declared for it."""
    if frame.schema != schema_of(columns):
        raise TypeError(f"{name}: other columns than declared: {dict(frame.schema)}")
