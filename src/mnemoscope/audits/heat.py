"""The heat map of a profile: a cell's colour is the largest chance of any window that reaches it.

Source: as in arXiv 2505.12546.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

LEVELS = (0.001, 0.01, 0.1, 0.5)
"""Chances of one try from which on a cell takes the next colour."""

COLUMNS = 60
"""Cells of a line."""

_MOST_CELLS = 900  # of a document
_MOST_DOCUMENTS = 20
_LIKELIEST = 5
_LONGEST_SHOWN = 160  # characters


class Cell(NamedTuple):
    """Characters `start` up to `end`: the logarithm of the largest chance, and its colour.

    The level counts the limits in `LEVELS` that the chance reaches; None where nothing was asked.
    """

    start: int
    end: int
    logprob: float | None
    level: int | None


class HeatMap(NamedTuple):
    """One document: lines of cells, rows of the likeliest windows, and what those ask for."""

    document: str
    lines: list[list[Cell]]
    likeliest: list[dict[str, Any]]
    texts: list[str]


def heat_maps(profile: pl.DataFrame, texts: Mapping[str, str]) -> tuple[list[HeatMap], int]:
    """The heat maps of those documents with the largest chances, and how many are left out."""
    best = (
        profile.group_by("document", maintain_order=True)
        .agg(pl.col("extraction_logprob").max())
        .sort("extraction_logprob", descending=True, maintain_order=True)
    )
    names = best["document"].to_list()
    found = []
    for name in names[:_MOST_DOCUMENTS]:
        rows = profile.filter(pl.col("document") == name)
        likeliest = _likeliest(rows)
        parts = [texts[name][row["suffix_start"] : row["end"]] for row in likeliest]
        cells = _cells(rows, len(texts[name]))
        lines = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
        shown = [part[:_LONGEST_SHOWN] for part in parts]
        found.append(HeatMap(name, lines, likeliest, shown))
    return found, len(names) - len(found)


def _cells(rows: pl.DataFrame, n_characters: int) -> list[Cell]:
    width = max(-(-n_characters // min(_MOST_CELLS, max(rows.height, 1))), 1)
    values: list[float | None] = [None] * -(-n_characters // width)
    spots = rows.select("suffix_start", "end", "extraction_logprob").iter_rows()
    for start, end, value in spots:
        for cell in range(start // width, (end - 1) // width + 1):
            own = values[cell]
            values[cell] = value if own is None else max(own, value)
    return [
        Cell(number * width, min((number + 1) * width, n_characters), value, _level(value))
        for number, value in enumerate(values)
    ]


def _level(logprob: float | None) -> int | None:
    return None if logprob is None else sum(logprob >= math.log(one) for one in LEVELS)


def _likeliest(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """The windows of the largest chances whose suffixes do not overlap."""
    found: list[dict[str, Any]] = []
    possible = rows.filter(pl.col("extraction_logprob") >= math.log(LEVELS[0]))
    order = possible.sort("extraction_logprob", descending=True, maintain_order=True)
    for row in order.iter_rows(named=True):
        if all(
            row["end"] <= one["suffix_start"] or one["end"] <= row["suffix_start"] for one in found
        ):
            found.append(row)
        if len(found) == _LIKELIEST:
            break
    return found
