"""The neighbouring analyses as the report wants them, from what the study holds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.analysis.registry import Entry
from mnemoscope.report.analysis import AnalysisSection, AnalysisTable, value_text
from mnemoscope.report.numbers import count, seconds_text
from mnemoscope.stages.analysis_store import StoredResult, stored_results
from mnemoscope.study import Study

__all__ = ["analysis_sections", "table_of"]

_MOST_ROWS = 40


def analysis_sections(study: Study) -> Iterator[AnalysisSection]:
    """One section a result.

    Args:
        study: of any state.
    """
    for entry, result, folder in stored_results(study):
        yield _section(study, entry, result, folder)


def _section(study: Study, entry: Entry, result: StoredResult, folder: Path) -> AnalysisSection:
    """What the page says of one result."""
    place = folder.relative_to(study.folder)
    return AnalysisSection(
        name=entry.name,
        title=entry.title,
        question=entry.answers,
        source=entry.source,
        sentence=result.sentence,
        further=result.further,
        figures=result.figures,
        tables=tuple(
            table_of(name, study.read(f"{place}/{name}.parquet"), f"{place}/{name}.parquet")
            for name in result.frames
        ),
        cost=f"{seconds_text(result.seconds)} and {count(result.forward_passes)} sequences "
        "through a model",
        settings=", ".join(f"{key}={_plain(value)}" for key, value in result.settings.items()),
        variant=entry.published if result.settings.get("published") else "",
    )


def table_of(name: str, frame: pl.DataFrame, file: str) -> AnalysisTable:
    """The first rows of a table as text; columns of lists are left to the file."""
    shown = frame.select(
        column for column, kind in frame.schema.items() if not isinstance(kind, pl.List | pl.Array)
    )
    return AnalysisTable(
        title=name.replace("_", " "),
        columns=tuple(column.replace("_", " ") for column in shown.columns),
        rows=tuple(tuple(map(_cell, row)) for row in shown.head(_MOST_ROWS).rows()),
        n_rows=frame.height,
        file=file,
    )


def _cell(value: Any) -> str:
    """A cell as text; what is not known is a dash."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value_text(value, False) if isinstance(value, int | float) else str(value)


def _plain(value: Any) -> str:
    return "null" if value is None else str(value)
