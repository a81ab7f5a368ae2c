"""The heat map of a profile: a cell's colour is the largest chance of any window that reaches it.

Source: as in arXiv 2505.12546.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

LEVELS = (0.001, 0.01, 0.1, 0.5)
"""Chances of one try from which on a cell takes the next colour."""

COLUMNS = 60
"""Cells of a line."""

_MOST_CELLS = 900  # of a document
_MOST_DOCUMENTS = 20
_LIKELIEST = 5
_LONGEST_SHOWN = 160  # characters
_SPOT = ("suffix_start", "end", "extraction_logprob")


class Cell(NamedTuple):
    """Characters `start` up to `end`: the logarithm of the largest chance, and its colour.

    The level counts the limits in `LEVELS` that the chance reaches; None where nothing was asked.
    """

    start: int
    end: int
    logprob: float | None
    level: int | None


class Likely(NamedTuple):
    """A likely window: characters and text of its suffix, and the chance."""

    suffix_start: int
    end: int
    extraction_logprob: float
    text: str


class HeatMap(NamedTuple):
    """One document: lines of cells, and its likeliest windows."""

    document: str
    lines: list[list[Cell]]
    likeliest: list[Likely]


class HeatMaps(NamedTuple):
    """The documents with the largest chances, and how many more there are."""

    maps: list[HeatMap]
    n_more: int


def heat_maps(profile: pl.DataFrame, texts: Mapping[str, str]) -> HeatMaps:
    """The heat maps of a page."""
    best = (
        profile.group_by("document", maintain_order=True)
        .agg(pl.col("extraction_logprob").max())
        .sort("extraction_logprob", descending=True, maintain_order=True)
    )
    names = best["document"].to_list()
    found = []
    for name in names[:_MOST_DOCUMENTS]:
        rows = profile.filter(pl.col("document") == name)
        cells = _cells(rows, len(texts[name]))
        lines = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
        found.append(HeatMap(name, lines, _likeliest(rows, texts[name])))
    return HeatMaps(found, len(names) - len(found))


def _cells(rows: pl.DataFrame, n_characters: int) -> list[Cell]:
    width = max(-(-n_characters // min(_MOST_CELLS, max(rows.height, 1))), 1)
    values: list[float | None] = [None] * -(-n_characters // width)
    for start, end, value in rows.select(_SPOT).iter_rows():
        for cell in range(start // width, (end - 1) // width + 1):
            own = values[cell]
            values[cell] = value if own is None else max(own, value)
    levels = [
        None if one is None else sum(one >= math.log(level) for level in LEVELS) for one in values
    ]
    return [
        Cell(number * width, min((number + 1) * width, n_characters), value, level)
        for number, (value, level) in enumerate(zip(values, levels, strict=True))
    ]


def _likeliest(rows: pl.DataFrame, text: str) -> list[Likely]:
    """The windows of the largest chances whose suffixes do not overlap."""
    found: list[Likely] = []
    possible = rows.filter(pl.col("extraction_logprob") >= math.log(LEVELS[0]))
    order = possible.sort("extraction_logprob", descending=True, maintain_order=True)
    for start, end, logprob in order.select(_SPOT).iter_rows():
        if all(end <= one.suffix_start or one.end <= start for one in found):
            found.append(Likely(start, end, logprob, text[start:end][:_LONGEST_SHOWN]))
        if len(found) == _LIKELIEST:
            break
    return found
