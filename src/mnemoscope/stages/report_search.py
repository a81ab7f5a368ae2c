"""What the report says of a search: the found taxonomies beside those that were only tried."""

from typing import Any

import polars as pl

from mnemoscope.report.content import Estimate, Table
from mnemoscope.report.numbers import interval, percent, points
from mnemoscope.stages.search import SEARCH_FILE, search_words
from mnemoscope.study import Study

__all__ = ["search_tables"]


def search_tables(study: Study) -> tuple[Table, ...]:
    """One table where the study holds a finished search, none else.

    Args:
        study: the study.
    """
    if not study.is_done("search") or not (study.folder / SEARCH_FILE).is_file():
        return ()
    objective = study.settings.search.objective
    rows = study.read(SEARCH_FILE).filter(
        pl.col("place").is_not_null() | (pl.col("kind") == "beside")
    )
    return (
        Table(
            title="Taxonomies found by search",
            columns=("taxonomy", "how", "where it was chosen", "final part", "min-F1", "excess"),
            rows=tuple(_row(row, objective) for row in rows.iter_rows(named=True)),
            summary=" ".join(search_words(study)),
        ),
    )


def _row(row: dict[str, Any], objective: str) -> tuple[str, ...]:
    """One taxonomy: the objective where it was chosen and on the final part, then both figures."""
    how = "beside" if row["place"] is None else f"found, {row['place']}"
    return (
        row["taxonomy"],
        how,
        _shown(objective, row["full"]),
        *(_figure(row, name) for name in (objective, "min_f1", "excess")),
    )


def _figure(row: dict[str, Any], name: str) -> str:
    """A figure of the final part with its interval."""
    ends = interval(Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"]))
    return f"{_shown(name, row[name])} {ends}".strip()


def _shown(name: str, value: float | None) -> str:
    """A difference in points with its sign, anything else in per cent."""
    return points(value) if "excess" in name else percent(value)
