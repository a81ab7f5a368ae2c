"""Pictures as data: decisiveness maps, layer profiles, placed charts and heat maps.

A map is a small PNG a class and layer, each layer scaled by its maximum over the classes: a pixel
holds the square root of the scaled value in 8 bits. The templates draw charts in 640 × 300.
"""

import base64
import math
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mnemoscope.analysis.figures import Chart, HeatMap, Series, plain, series_of_estimates
from mnemoscope.localize.rankings import RANKINGS
from mnemoscope.localize.regions import layer_profile
from mnemoscope.pipeline.deltas import StoredDelta
from mnemoscope.report.style import N_CLASS_COLOURS, PAPER_COLOURS, class_colour, map_ramp
from mnemoscope.words import NARROW, UNKNOWN, number

# Above this further taxonomies keep their layer profile and tables alone: a page of tens of
# megabytes opens slowly on a phone. Pythia 12b with both attributions takes 1 MB a taxonomy.
PICTURE_BUDGET_BYTES = 12_000_000
WIDTH, HEIGHT = 640.0, 300.0
"""Size of a chart, in pixels."""
PHONE = 350.0
"""Its width where a page is as narrow as a phone."""
MOST_LAYERS_IN_A_ROW = 8
"""Of Δ, in a picture of its own."""

CLASS_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MAP_STEP, _MAP_GAP = 180.0, 12.0
_STRIP_STEP = 104.0  # from map to map on the page
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 14.0, 22.0, 44.0
_MOST_NAMES = 16
_MOST_LAYERS_NAMED = 12
_CUT_DASHES = {"random": "dot", "equal mass": "dash", "same layers": "dashdot"}
_EMPTY = {False: (0.0, 1.0), True: (1.0, 10.0)}  # ends of an axis without values, log or not


def scale_by_layer(delta: np.ndarray) -> np.ndarray:
    """Divide each layer by its largest value over all classes, to float32 in [0, 1].

    Δ is (classes, layers, query, key), not negative; a layer of zeros stays so.
    """
    largest = delta.max(axis=(0, 2, 3), keepdims=True)
    safe = np.where(largest > 0, largest, 1)
    scaled: np.ndarray = np.clip(delta / safe, 0, 1).astype(np.float32)
    return scaled


def strongest_layer(delta: np.ndarray) -> int:
    """Give the layer in which Δ of all classes together is largest."""
    return int(delta.sum(axis=(0, 2, 3)).argmax())


def zone_shares(delta: np.ndarray, prefix: int | None = None) -> list[dict[str, float] | None]:
    """Say for each class which share of Δ, (classes, layers, query, key), lies in each zone.

    The prefix is half of the tokens unless given. Zones are `prefix` (looking at the prefix),
    `suffix_to_prefix` and `suffix` (looking at the suffix); shares are fractions, None where Δ is
    zero.
    """
    half = delta.shape[-1] // 2 if prefix is None else prefix
    shares: list[dict[str, float] | None] = []
    for maps in delta.astype(np.float64).sum(axis=1):
        total = maps.sum()
        zones = {
            "prefix": maps[:half, :half],
            "suffix_to_prefix": maps[half:, :half],
            "suffix": maps[half:, half:],
        }
        shares.append({name: zone.sum() / total for name, zone in zones.items()} if total else None)
    return shares


def png_grey(scaled: np.ndarray) -> bytes:
    """Encode one scaled map as grey and alpha: white for nothing, black for the layer's maximum.

    Transparent above the diagonal, where a query cannot look. The page colours it.
    """
    size = len(scaled)
    grey = 255 - np.rint(255 * np.sqrt(scaled)).astype(np.uint8)
    alpha = np.where(np.tri(size, dtype=bool), 255, 0).astype(np.uint8)
    grey = np.where(alpha > 0, grey, 0).astype(np.uint8)
    return _png(np.stack([grey, alpha], axis=-1), colour_type=4)


def png_ink(scaled: np.ndarray, colour: tuple[int, int, int]) -> bytes:
    """Encode one scaled map as ink of one colour (RGB in 0 to 255), the denser the larger."""
    alpha = np.rint(255 * np.sqrt(np.tril(scaled))).astype(np.uint8)
    palette = b"PLTE" + bytes(colour) * 256
    return _png(alpha, colour_type=3, palette=palette, alphas=b"tRNS" + bytes(range(256)))


def png_ramp(scaled: np.ndarray) -> bytes:
    """Encode one scaled map in the light colours of Δ, transparent above the diagonal."""
    places = 1 + np.rint(254 * scaled).astype(np.uint8)
    shades = np.rint(255 * map_ramp(np.linspace(0, 1, 255))).astype(np.uint8)
    palette = b"PLTE" + bytes(3) + shades.tobytes()
    shown = np.where(np.tri(len(scaled), dtype=bool), places, 0).astype(np.uint8)
    return _png(shown, colour_type=3, palette=palette, alphas=b"tRNS\0")


def png_uri(png: bytes) -> str:
    """Write a PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _png(
    pixels: np.ndarray, *, colour_type: int, palette: bytes = b"", alphas: bytes = b""
) -> bytes:
    """Write 8-bit pixels (rows, columns[, channels]) as a PNG without filters."""
    n_rows, n_columns = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", n_columns, n_rows, 8, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = [b"IHDR" + header, palette, alphas, b"IDAT" + zlib.compress(lines, 9), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
        if chunk
    )


class Stroke(NamedTuple):
    """How a series is drawn: the number of its colour (None: neutral), its dash, whether thick."""

    colour: int | None
    dash: str
    is_main: bool = False

    @property
    def ink(self) -> str:
        """The style of its colour."""
        return "neutral" if self.colour is None else f"class-{self.colour}"


@dataclass(frozen=True)
class Drawing:
    """A chart with a stroke for each series; page, notebook and print draw the same.

    `ticks` are the places named on the x axis and `y_ends` the ends of the y axis, both found from
    the values unless given.
    """

    chart: Chart
    strokes: Sequence[Stroke]
    ticks: Sequence[float] = ()
    y_ends: tuple[float, float] | None = None


def class_stroke(index: int, *, is_main: bool = False) -> Stroke:
    """The stroke of a class; beyond six colours come round again."""
    place = index % N_CLASS_COLOURS
    return Stroke(place, CLASS_DASHES[place], is_main)


def class_ink(classes: Sequence[str], name: str) -> str:
    """The style of a class by its name."""
    return f"class-{class_colour(classes, name)}"


def profile_drawing(classes: Sequence[str], profile: np.ndarray, *, title: str = "") -> Drawing:
    """ΣΔ by layer, (classes, layers), as fractions of the largest; layers from 0."""
    n_layers = profile.shape[1]
    layers = range(n_layers)
    chart = Chart(
        title=title or f"Δ summed over each layer (0 to {n_layers - 1}), per cent of the largest",
        series=tuple(
            Series(name=name, x=plain(layers), y=plain(values))
            for name, values in zip(classes, profile, strict=True)
        ),
        x_label="layer",
        y_label="% of the largest",
        percent=True,
    )
    strokes = [class_stroke(class_colour(classes, name)) for name in classes]
    ticks = [one for one in layers if n_layers <= _MOST_LAYERS_NAMED or one == 1 or one % 6 == 0]
    return Drawing(chart, strokes, ticks, (0.0, 1.0))


@dataclass(frozen=True)
class CutCurve:
    """One way of choosing edges; `edges_of` is a class, or "" for random ones.

    `points` are its rows of `knockout.parquet` by rising `strength`, `survival` with its interval.
    """

    choice: str
    edges_of: str
    name: str
    points: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class CutPanel:
    """All cuts tried on one class; `curves` are drawn, `others` stand in the table alone."""

    name: str
    n: int
    curves: Sequence[CutCurve]
    others: Sequence[CutCurve] = ()


def cut_stroke(curve: CutCurve, classes: Sequence[str], panel: str) -> Stroke:
    """Decisive edges have the colour of their class, thick in its own panel; others are neutral."""
    if curve.choice == "decisive" and curve.edges_of in classes:
        place = class_colour(classes, curve.edges_of)
        return class_stroke(place, is_main=curve.edges_of == panel)
    return Stroke(None, _CUT_DASHES.get(curve.choice, "longdash"))


def knockout_drawing(panel: CutPanel, classes: Sequence[str]) -> Drawing:
    """Survival of one class by the strength of each cut, with intervals; axis logarithmic.

    A single strength makes no curve: its points stand side by side, in the order of the key.
    """
    ticks = sorted({one["strength"] for curve in panel.curves for one in curve.points})
    is_single = len(ticks) == 1
    series = []
    for place, curve in enumerate(panel.curves):
        values = series_of_estimates(curve.name, [one["survival"] for one in curve.points])
        beside = 0.6 * (place / max(len(panel.curves) - 1, 1) - 0.5)
        x = plain([beside] if is_single else [one["strength"] for one in curve.points])
        series.append(values.model_copy(update={"x": x}))
    chart = Chart(
        title=f"share of {panel.n:,} memorized sequences that survive, per cent, by the per cent "
        f"of edges cut (band: 95{NARROW}% interval)",
        series=tuple(series),
        x_label="edges cut, %" + (" (in the order of the key)" if is_single else ""),
        y_label="survive, %",
        form="points" if is_single else "line",
        x_names=tuple(f"{one:g}" for one in ticks) if is_single else (),
        percent=True,
        log_x=not is_single,
    )
    strokes = [cut_stroke(curve, classes, panel.name) for curve in panel.curves]
    return Drawing(chart, strokes, [] if is_single else ticks, (0.0, 1.0))


class PlacedMap(NamedTuple):
    """The map of a class and a layer, counted from 0, at its place in pixels."""

    name: str
    layer: int
    x: float
    y: float
    picture: str


class MapGrid(NamedTuple):
    """Maps of Δ of `size` pixels, each class under its name, of which `border` are prefix."""

    maps: Sequence[PlacedMap]
    names: Sequence[tuple[float, float, int, str]]  # x, y, colour of the class, its name
    ticks: Sequence["Tick"]  # of the keys
    size: float
    border: float
    width: float
    height: float


def map_pictures(
    delta: np.ndarray, encode: Callable[[np.ndarray], bytes] = png_ramp
) -> list[list[str]]:
    """Scale Δ, (classes, layers, query, key), and draw it: addresses of PNGs by class and layer."""
    return [[png_uri(encode(one)) for one in of] for of in scale_by_layer(delta)]


def map_grid(
    classes: Sequence[str],
    pictures: Sequence[Sequence[str]],
    *,
    width: float,
    n_tokens: int,
    prefix: int,
    only: int | None = None,
    layer: int | None = None,
) -> MapGrid:
    """Place the pictures of `map_pictures`: a class below the other, at most eight layers a row.

    `prefix` of the `n_tokens` are prefix. `only` is the one class that is shown. Where the
    pictures are of one `layer`, the classes stand side by side.
    """
    n_columns = len(classes) if layer is not None else min(len(pictures[0]), MOST_LAYERS_IN_A_ROW)
    step = min(_MAP_STEP, width / n_columns)
    size = step - _MAP_GAP
    maps, names, y = [], [], 0.0
    for index, (name, of) in enumerate(zip(classes, pictures, strict=True)):
        if only not in (None, index):
            continue
        x = 0.0 if layer is None else index * step
        names.append((x, y + 11, class_colour(classes, name), name))
        for at, picture in enumerate(of):
            row, column = divmod(at, n_columns)
            place = x + column * step, y + 33 + row * (size + 38)
            maps.append(PlacedMap(name, at if layer is None else layer, *place, picture))
        if layer is None:
            y = maps[-1].y + size + 30
    ticks = [Tick(tick.at * size, tick.text) for tick in token_ticks(n_tokens, prefix)[::2]]
    height = maps[-1].y + size + 18
    return MapGrid(maps, names, ticks, size, prefix / n_tokens * size, n_columns * step, height)


def token_ticks(n_tokens: int, prefix: int) -> list["Tick"]:
    """Name five tokens along a map, from 1: where prefix and suffix begin, halve and end."""
    halves = (prefix // 2, prefix, prefix + (n_tokens - prefix) // 2, n_tokens)
    return [Tick((one - 0.5) / n_tokens, str(one)) for one in sorted({1, *halves} - {0})]


class DeltaView(NamedTuple):
    """Decisiveness of one attribution, ready to be shown; layers are counted from 0.

    `pictures` are by class and layer (none beyond the budget), `shares` by class and zone.
    """

    maps: StoredDelta
    prefix: int
    ranking: str  # in words, where it is none of the CNNs
    strongest: int
    pictures: Sequence[Sequence[str]]
    grid: MapGrid | None
    ticks: Sequence["Tick"]  # along a map, as shares
    values: Sequence[Sequence[float]]  # the profile by class and layer
    profile: Drawing
    shares: Sequence[Mapping[str, float] | None]

    @property
    def n_layers(self) -> int:
        """Of the model."""
        return int(self.maps.delta.shape[1])


def delta_view(maps: StoredDelta, *, prefix: int = 32, with_pictures: bool = False) -> DeltaView:
    """Scale, draw and count the decisiveness of one attribution."""
    delta = np.asarray(maps.delta)
    values, ranking = layer_profile(delta), RANKINGS.get(maps.attribution)
    pictures = map_pictures(delta, png_grey) if with_pictures else []
    width, n_tokens = _STRIP_STEP * min(delta.shape[1], MOST_LAYERS_IN_A_ROW), delta.shape[-1]
    grid = (
        map_grid(maps.classes, pictures, n_tokens=n_tokens, prefix=prefix, width=width)
        if pictures
        else None
    )
    return DeltaView(
        maps,
        prefix,
        ranking=ranking.words if ranking else "",
        strongest=strongest_layer(delta),
        pictures=pictures,
        grid=grid,
        ticks=token_ticks(n_tokens, prefix),
        values=values.tolist(),
        profile=profile_drawing(maps.classes, values),
        shares=zone_shares(delta, prefix),
    )


def delta_views(
    taxonomies: Sequence[Sequence[StoredDelta]],
    *,
    prefix: int = 32,
    budget_bytes: int = PICTURE_BUDGET_BYTES,
) -> list[list[DeltaView]]:
    """Draw the decisiveness maps of all taxonomies (one an attribution) while the budget lasts."""
    left = budget_bytes
    views: list[list[DeltaView]] = []
    for deltas in taxonomies:
        views.append([])
        for maps in deltas:
            view = delta_view(maps, prefix=prefix, with_pictures=left > 0)
            left -= sum(len(picture) for of in view.pictures for picture in of)
            views[-1].append(view)
    return views


_FLOW_X, _FLOW_NODE = (170.0, 456.0), 14.0
_FLOW_TOP, _FLOW_HEIGHT, _FLOW_GAP = 14.0, 232.0, 14.0


class Tick(NamedTuple):
    """A place on an axis and what stands there."""

    at: float
    text: str


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

    def within(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def round_steps(self) -> list[float]:
        """Round values along the axis."""
        if self.is_log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            powers = [10.0**power for power in range(first, last + 1)]
            return powers if len(powers) > 1 else [self.low * 1.2, self.high / 1.2]
        rough = (self.high - self.low) / 5
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


class PlacedPoint(NamedTuple):
    """A point of a series in pixels, with the ends of its interval and what its tooltip says."""

    x: float
    y: float
    low: float | None
    high: float | None
    text: str


class PlacedSeries(NamedTuple):
    """A series in pixels; a gap ends a run."""

    name: str
    stroke: Stroke
    runs: Sequence[Sequence[PlacedPoint]]

    @property
    def points(self) -> list[PlacedPoint]:
        """Those of all runs."""
        return [point for run in self.runs for point in run]


class ChartView(NamedTuple):
    """A chart with everything placed, in a frame of `width` × `height` pixels."""

    chart: Chart
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    marks: Sequence[Tick]
    series: Sequence[PlacedSeries]
    zero: float
    bar_width: float
    is_slanted: bool
    width: float

    @property
    def height(self) -> float:
        """Slanted names need more."""
        return HEIGHT + 40 * self.is_slanted


def chart_view(drawn: Chart | Drawing, *, width: float = WIDTH) -> ChartView:
    """Place a chart: ticks, marks, and points; a bare one gets its strokes here."""
    if isinstance(drawn, Chart):
        strokes = [
            Stroke(one, class_stroke(index).dash) for index, one in enumerate(_colours(drawn))
        ]
        drawn = Drawing(drawn, strokes)
    chart = drawn.chart
    x_axis, y_axis = _x_axis(chart, width), _y_axis(chart, drawn.y_ends)
    step = (x_axis.end - x_axis.start) / max(len(chart.x_names), 1)
    bar_width = 0.8 * step / len(chart.series) if chart.form == "bars" else 0.0
    x_ticks = [(at, number(at)) for at in x_axis.round_steps()]
    if drawn.ticks:
        x_ticks = [(at, f"{at:g}") for at in drawn.ticks]
    elif chart.x_names:
        every = math.ceil(len(chart.x_names) / _MOST_NAMES)
        x_ticks = [(float(at), name) for at, name in enumerate(chart.x_names)][::every]
    series = []
    for index, (one, stroke) in enumerate(zip(chart.series, drawn.strokes, strict=True)):
        shift = bar_width * (index - (len(chart.series) - 1) / 2)
        runs = [run for run in _runs(chart, one, x_axis, y_axis, shift) if run]
        series.append(PlacedSeries(one.name, stroke, runs))
    zero = 0.0 if y_axis.low <= 0 <= y_axis.high and not y_axis.is_log else y_axis.low
    return ChartView(
        chart,
        x_ticks=[Tick(x_axis.place(at), text) for at, text in x_ticks],
        y_ticks=[
            Tick(y_axis.place(at), number(at, as_percent=chart.percent))
            for at in y_axis.round_steps()
        ],
        marks=[Tick(x_axis.place(at), word) for at, word in chart.marks],
        series=series,
        zero=y_axis.place(zero),
        bar_width=bar_width,
        is_slanted=sum(map(len, chart.x_names)) > 80,
        width=width,
    )


def _colours(chart: Chart) -> list[int]:
    """Series named after the paper's classes have the colours of these; others from 1 on."""
    named = [
        next(
            (at for word, at in PAPER_COLOURS.items() if re.search(rf"\b{word}\b", one.name)), None
        )
        for one in chart.series
    ]
    colours = [one for one in named if one is not None]
    is_clear = chart.form == "line" or len({*colours}) == len(colours)  # lines differ in dash too
    if len(colours) == len(chart.series) and is_clear:
        return colours
    # Colour 0 is the grey of Non-Memo.
    return [(index + 1) % N_CLASS_COLOURS for index in range(len(chart.series))]


def _x_axis(chart: Chart, width: float) -> _Axis:
    ends = (_LEFT, width - _RIGHT)
    if chart.x_names:
        return _Axis(-0.5, len(chart.x_names) - 0.5, *ends)
    values = [x for one in chart.series for x in one.x if x is not None]
    values += [at for at, _ in chart.marks]
    values = values or [*_EMPTY[chart.log_x]]
    low, high = min(values), max(values)
    if low == high:
        low, high = (low / 2, high * 2) if chart.log_x else (low - 0.5, high + 0.5)
    if chart.form == "points" and not chart.log_x:
        pad = 0.04 * (high - low)
        low, high = low - pad, high + pad
    return _Axis(low, high, *ends, is_log=chart.log_x)


def _y_axis(chart: Chart, given: tuple[float, float] | None) -> _Axis:
    ends = (HEIGHT - _BOTTOM, _TOP)
    if given is not None:
        return _Axis(*given, *ends)
    parts = [part for one in chart.series for part in (one.y, one.low, one.high)]
    values = [y for part in parts for y in part if y is not None]
    if chart.form == "bars":
        values.append(0.0)
    if chart.log_y:
        values = [value for value in values if value > 0]
    values = values or [*_EMPTY[chart.log_y]]
    low, high = min(values), max(values)
    if chart.log_y:
        return _Axis(low / 1.2, high * 1.2, *ends, is_log=True)
    if chart.percent and low >= 0 and high <= 1 and high > 0.5:
        return _Axis(0.0, 1.0, *ends)
    pad = 0.06 * (high - low) or 0.5
    bottom = 0.0 if 0 <= low < 0.5 * high else low - pad
    return _Axis(bottom, 0.0 if high == 0 and low < 0 else high + pad, *ends)


def _runs(
    chart: Chart, series: Series, x_axis: _Axis, y_axis: _Axis, shift: float
) -> list[list[PlacedPoint]]:
    """Place the points of one series."""
    runs: list[list[PlacedPoint]] = [[]]
    empty = (None,) * len(series.y)
    rows = zip(series.x, series.y, series.low or empty, series.high or empty, strict=True)
    for x, y, *ends in rows:
        if x is None or y is None:
            runs.append([])
            continue
        low, high = (None if one is None else y_axis.place(y_axis.within(one)) for one in ends)
        where = chart.x_names[round(x)] if chart.x_names else number(x)
        value, *said = (number(one, as_percent=chart.percent) for one in (y, *ends))
        text = f"{series.name}, {where}: {value}"
        if UNKNOWN not in said:
            text += f" [{', '.join(said)}]"
        place = x_axis.place(x) + shift
        runs[-1].append(PlacedPoint(place, y_axis.place(y), low, high, text))
    return runs


def heat_view(heat: HeatMap, *, width: float = WIDTH) -> dict[str, Any]:
    """Place a heat map: names along the sides, cells with their strength (-1 to 1)."""
    n_rows, n_columns = len(heat.row_names), len(heat.column_names)
    left = 12.0 + 6.6 * min(max(map(len, heat.row_names)), 26) + (16 if heat.row_label else 0)
    cell_width = min((width - left - 60) / n_columns, 92.0)
    cell_height = min(max(cell_width * 0.62, 8.0), 34.0) if n_columns <= 12 else cell_width
    longest = max(map(len, heat.column_names))
    is_slanted = longest > 3 and 6.4 * longest > max(cell_width, 44.0)
    top = (44.0 if heat.column_label else 24.0) + (2.9 * min(longest, 26) if is_slanted else 0.0)
    largest = max((abs(v) for row in heat.values for v in row if v is not None), default=0.0)
    scale = 1.0 if heat.percent and not heat.diverging and largest > 0.25 else largest or 1.0
    cells = [
        {
            "x": left + column * cell_width,
            "y": top + row * cell_height,
            "strength": value / scale,
            "text": _cell_text(value, heat.percent, largest),
            "title": f"{heat.row_names[row]}, {heat.column_names[column]}: "
            f"{number(value, as_percent=heat.percent)}",
        }
        for row, line in enumerate(heat.values)
        for column, value in enumerate(line)
        if value is not None
    ]
    return {
        "heat": heat,
        "width": left + n_columns * cell_width + (60 if is_slanted else 8),
        "height": top + n_rows * cell_height + 8,
        "left": left,
        "top": top,
        "cell_width": cell_width,
        "cell_height": cell_height,
        "cells": cells,
        "shows_values": n_columns <= 12 and cell_height >= 16,
        "is_slanted": is_slanted,
        "columns": _names(heat.column_names, left, cell_width, 18.0 if is_slanted else 44.0),
        "rows": _names(heat.row_names, top, cell_height, 13.0),
    }


def _cell_text(value: float, percent: bool, largest: float) -> str:
    """A value short enough for its cell: two digits, none below a hundredth of the largest."""
    if percent or abs(value) >= 100:
        return number(value, as_percent=percent)
    finest = max(1, 2 - math.ceil(math.log10(largest))) if largest else 1
    return number(round(float(f"{value:.2g}"), min(finest, 300)))


def _names(names: Sequence[str], start: float, size: float, least: float) -> list[Tick]:
    """The names that find room along a side, at least so far apart."""
    every = max(1, math.ceil(least / size)) if len(names) > 1 and size < least else 1
    shown = list(enumerate(names))[::every]
    return [Tick(start + (index + 0.5) * size, name[:26]) for index, name in shown]


class Flow(NamedTuple):
    """What goes from a class of one taxonomy to a class of another: a share of all."""

    source: str
    target: str
    share: float


class SankeyView(NamedTuple):
    """A flow chart with its places, in the chart's units."""

    nodes: Sequence[Mapping[str, object]]
    ribbons: Sequence[Mapping[str, object]]
    width: float
    height: float


def sankey_view(flows: Sequence[Flow]) -> SankeyView:
    """Place flows whose shares add up to about 1: nodes on two sides, ribbons between them."""
    sides = [
        list(dict.fromkeys(names))
        for names in ([one.source for one in flows], [one.target for one in flows])
    ]
    scale = _FLOW_HEIGHT - _FLOW_GAP * (max(map(len, sides)) - 1)
    scale /= sum(flow.share for flow in flows) or 1.0
    colours = {name: at for at, name in enumerate([*sides[1], *sides[0]], 1)}
    nodes: list[Mapping[str, object]] = []
    tops: list[dict[str, float]] = []
    for side, names in enumerate(sides):
        top: dict[str, float] = {}
        y = _FLOW_TOP
        for name in names:
            share = sum(one.share for one in flows if (one.source, one.target)[side] == name)
            top[name] = y
            nodes.append(
                {"name": name, "share": share, "side": side, "x": _FLOW_X[side], "y": y}
                | {"width": _FLOW_NODE, "height": scale * share, "colour": colours[name]}
            )
            y += scale * share + _FLOW_GAP
        tops.append(top)
    left, right = _FLOW_X[0] + _FLOW_NODE, _FLOW_X[1]
    middle, ribbons = (left + right) / 2, []
    for flow in (one for one in flows if one.share > 0):
        ends, thick = (flow.source, flow.target), scale * flow.share
        one, other = (top[name] for top, name in zip(tops, ends, strict=True))
        path = (
            f"M{left:.1f} {one:.1f}C{middle:.1f} {one:.1f} {middle:.1f} {other:.1f} "
            f"{right:.1f} {other:.1f}v{thick:.1f}C{middle:.1f} {other + thick:.1f} "
            f"{middle:.1f} {one + thick:.1f} {left:.1f} {one + thick:.1f}z"
        )
        ribbons.append({"path": path, "flow": flow, "colour": colours[flow.target]})
        for top, name in zip(tops, ends, strict=True):
            top[name] += thick
    return SankeyView(nodes, ribbons, WIDTH, _FLOW_TOP * 2 + _FLOW_HEIGHT)
