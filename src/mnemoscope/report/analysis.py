"""A neighbouring analysis as the page shows it: question, sentence, figures, folded tables.

A figure comes as data (`mnemoscope.analysis.figures`); here it gets its place in the drawing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.analysis.figures import Chart, Figure, HeatMap, Series
from mnemoscope.analysis.registry import Entry
from mnemoscope.analysis.store import StoredResult, stored_results
from mnemoscope.study.folder import Study
from mnemoscope.words import count, duration

# A neighbouring analysis as the page shows it: question, sentence, figures, folded tables.

WIDTH, HEIGHT = 640.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 14.0, 22.0, 44.0
_MOST_NAMES = 16


@dataclass(frozen=True)
class AnalysisTable:
    """A table of an analysis.

    Attributes:
        title: its name.
        columns: names of the columns.
        rows: cells as text.
        n_rows: rows of the whole table, of which those here are the first.
        file: where the whole stands.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_rows: int
    file: str


@dataclass(frozen=True)
class AnalysisSection:
    """One analysis.

    Attributes:
        name: as it is typed.
        title: heading.
        question: what it answers.
        source: paper and arXiv number.
        sentence: the result.
        further: what was left out, what cannot be said.
        figures: to be drawn.
        tables: folded below.
        cost: seconds and forward passes in words.
        settings: in words.
    """

    name: str
    title: str
    question: str
    source: str
    sentence: str
    further: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[AnalysisTable, ...] = ()
    cost: str = ""
    settings: str = ""


class Tick(NamedTuple):
    """A place on an axis and what stands there."""

    at: float
    text: str


class PointView(NamedTuple):
    """One value, placed."""

    x: float
    y: float
    low: float | None
    high: float | None
    text: str


class SeriesView(NamedTuple):
    """One series, placed: curves as runs without gaps, bars with their width."""

    name: str
    place: int
    runs: list[list[PointView]]
    points: list[PointView]


class ChartView(NamedTuple):
    """A chart, placed in 640 × 300."""

    chart: Chart
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Tick]
    series: list[SeriesView]
    zero: float
    bar_width: float
    is_slanted: bool


class HeatCell(NamedTuple):
    """A cell, placed, with its strength (-1 to 1) and its value in words."""

    x: float
    y: float
    strength: float
    text: str
    title: str


class HeatView(NamedTuple):
    """A heat map, placed."""

    heat: HeatMap
    width: float
    height: float
    left: float
    top: float
    cell_width: float
    cell_height: float
    cells: list[HeatCell]
    shows_values: bool
    is_slanted: bool
    columns: list[Tick]
    rows: list[Tick]


class _Axis(NamedTuple):
    """Values from `low` to `high` drawn from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def place(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.is_log:
            low, high, at = math.log10(low), math.log10(high), math.log10(value)
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def chart_view(chart: Chart) -> ChartView:
    """Place a chart.

    Args:
        chart: what is drawn.
    """
    x_axis, y_axis = _x_axis(chart), _y_axis(chart)
    n_bars = len(chart.series)
    step = (x_axis.end - x_axis.start) / max(len(chart.x_names), 1)
    bar_width = 0.8 * step / n_bars if chart.form == "bars" else 0.0
    series = [
        _place_series(chart, one, index, x_axis, y_axis, bar_width)
        for index, one in enumerate(chart.series)
    ]
    zero = 0.0 if y_axis.low <= 0 <= y_axis.high and not y_axis.is_log else y_axis.low
    return ChartView(
        chart=chart,
        x_ticks=_x_ticks(chart, x_axis),
        y_ticks=[Tick(y_axis.place(v), value_text(v, chart.percent)) for v in _round_steps(y_axis)],
        marks=[Tick(x_axis.place(at), word) for at, word in chart.marks],
        series=series,
        zero=y_axis.place(zero),
        bar_width=bar_width,
        is_slanted=sum(map(len, chart.x_names)) > 80,
    )


def _x_axis(chart: Chart) -> _Axis:
    ends = (_LEFT, WIDTH - _RIGHT)
    if chart.x_names:
        return _Axis(-0.5, len(chart.x_names) - 0.5, *ends)
    values = [x for one in chart.series for x in one.x if x is not None]
    values += [at for at, _ in chart.marks]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        low, high = (low / 2, high * 2) if chart.log_x else (low - 0.5, high + 0.5)
    if chart.form == "points" and not chart.log_x:
        pad = 0.04 * (high - low)
        low, high = low - pad, high + pad
    return _Axis(low, high, *ends, is_log=chart.log_x)


def _y_axis(chart: Chart) -> _Axis:
    ends = (HEIGHT - _BOTTOM, _TOP)
    parts = [part for one in chart.series for part in (one.y, one.low, one.high)]
    values = [y for part in parts for y in part if y is not None]
    if chart.form == "bars":
        values.append(0.0)
    low, high = min(values, default=0.0), max(values, default=1.0)
    if chart.log_y:
        values = [value for value in values if value > 0]
        low, high = min(values), max(values)
        return _Axis(low / 1.2, high * 1.2, *ends, is_log=True)
    if chart.percent and low >= 0 and high <= 1 and high > 0.5:
        return _Axis(0.0, 1.0, *ends)
    pad = 0.06 * (high - low) or 0.5
    bottom = 0.0 if 0 <= low < 0.5 * high else low - pad
    return _Axis(bottom, 0.0 if high == 0 and low < 0 else high + pad, *ends)


def _round_steps(axis: _Axis) -> list[float]:
    """Give round values along an axis."""
    if axis.is_log:
        first, last = math.ceil(math.log10(axis.low)), math.floor(math.log10(axis.high))
        powers = [10.0**power for power in range(first, last + 1)]
        return powers if len(powers) > 1 else [axis.low * 1.2, axis.high / 1.2]
    rough = (axis.high - axis.low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first = math.ceil(axis.low / step - 1e-9)
    last = math.floor(axis.high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _x_ticks(chart: Chart, axis: _Axis) -> list[Tick]:
    if chart.x_names:
        every = math.ceil(len(chart.x_names) / _MOST_NAMES)
        named = list(enumerate(chart.x_names))[::every]
        return [Tick(axis.place(float(index)), name) for index, name in named]
    return [Tick(axis.place(value), value_text(value, False)) for value in _round_steps(axis)]


def _place_series(
    chart: Chart, series: Series, index: int, x_axis: _Axis, y_axis: _Axis, bar_width: float
) -> SeriesView:
    """Place one series; a gap ends a run."""
    runs: list[list[PointView]] = [[]]
    shift = bar_width * (index - (len(chart.series) - 1) / 2)
    empty = (None,) * len(series.y)
    rows = zip(series.x, series.y, series.low or empty, series.high or empty, strict=True)
    for x, y, low, high in rows:
        if x is None or y is None:
            runs.append([])
            continue
        ends = [None if end is None else y_axis.place(_within(end, y_axis)) for end in (low, high)]
        words = _point_words(chart, series.name, x, y, low, high)
        place = PointView(x_axis.place(x) + shift, y_axis.place(y), ends[0], ends[1], words)
        runs[-1].append(place)
    kept = [run for run in runs if run]
    return SeriesView(series.name, index, kept, [point for run in kept for point in run])


def _within(value: float, axis: _Axis) -> float:
    return min(max(value, axis.low), axis.high)


def _point_words(
    chart: Chart, name: str, x: float, y: float, low: float | None, high: float | None
) -> str:
    """Say a value for the tooltip."""
    place = chart.x_names[round(x)] if chart.x_names else value_text(x, False)
    words = f"{name}, {place}: {value_text(y, chart.percent)}"
    if low is None or high is None:
        return words
    return f"{words} [{value_text(low, chart.percent)}, {value_text(high, chart.percent)}]"


def heat_view(heat: HeatMap) -> HeatView:
    """Place a heat map.

    Args:
        heat: what is drawn.
    """
    n_rows, n_columns = len(heat.row_names), len(heat.column_names)
    left = 12.0 + 6.6 * min(max(map(len, heat.row_names)), 26) + (16 if heat.row_label else 0)
    cell_width = min((WIDTH - left - 60) / n_columns, 92.0)
    cell_height = min(max(cell_width * 0.62, 8.0), 34.0) if n_columns <= 12 else cell_width
    longest = max(map(len, heat.column_names))
    is_slanted = longest > 3 and 6.4 * longest > max(cell_width, 44.0)
    top = (44.0 if heat.column_label else 24.0) + (2.9 * min(longest, 26) if is_slanted else 0.0)
    largest = max((abs(v) for row in heat.values for v in row if v is not None), default=0.0)
    scale = 1.0 if heat.percent and not heat.diverging and largest > 0.25 else largest or 1.0
    cells = [
        HeatCell(
            left + column * cell_width,
            top + row * cell_height,
            value / scale,
            _cell_text(value, heat.percent, largest),
            f"{heat.row_names[row]}, {heat.column_names[column]}: "
            f"{value_text(value, heat.percent)}",
        )
        for row, line in enumerate(heat.values)
        for column, value in enumerate(line)
        if value is not None
    ]
    return HeatView(
        heat=heat,
        width=left + n_columns * cell_width + (60 if is_slanted else 8),
        height=top + n_rows * cell_height + 8,
        left=left,
        top=top,
        cell_width=cell_width,
        cell_height=cell_height,
        cells=cells,
        shows_values=n_columns <= 12 and cell_height >= 16,
        is_slanted=is_slanted,
        columns=_names(heat.column_names, left, cell_width, least=18.0 if is_slanted else 44.0),
        rows=_names(heat.row_names, top, cell_height, least=13.0),
    )


def _cell_text(value: float, percent: bool, largest: float) -> str:
    """A value short enough for its cell: two digits, none below a hundredth of the largest."""
    if percent or abs(value) >= 100:
        return value_text(value, percent)
    finest = max(1, 2 - math.ceil(math.log10(largest))) if largest else 1
    return value_text(round(float(f"{value:.2g}"), min(finest, 300)), percent)


def _names(names: Sequence[str], start: float, size: float, *, least: float) -> list[Tick]:
    """Give the names that find room along a side."""
    every = max(1, math.ceil(least / size)) if len(names) > 1 and size < least else 1
    return [
        Tick(start + (index + 0.5) * size, name[:26])
        for index, name in list(enumerate(names))[::every]
    ]


def value_text(value: float | None, percent: bool) -> str:
    """Print a number of any size; fractions as per cent where wanted.

    >>> value_text(0.25, True), value_text(1234.5, False), value_text(0.00012, False)
    ('25', '1,234', '0.00012')
    """
    if value is None:
        return "–"
    if percent:
        text = f"{100 * value:.1f}".removesuffix(".0")
    elif value == round(value) and abs(value) < 1e6:
        text = f"{round(value):,}"
    elif 1e3 <= abs(value) < 1e6:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


# The neighbouring analyses as the report wants them, from what the study holds.

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
        cost=f"{duration(result.seconds)} and {count(result.forward_passes)} sequences "
        "through a model",
        settings=", ".join(f"{key}={_plain(value)}" for key, value in result.settings.items()),
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
