"""Decisiveness as pictures: each layer scaled by its maximum, one small PNG a class and layer.

A pixel holds the square root of the scaled value in 8 bits, white for nothing and black for the
layer's maximum, transparent where a query cannot look (above the diagonal). The page colours it;
without colouring it is still a picture.
"""

import base64
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemoscope.benchmark.sources import TABLE, Source
from mnemoscope.localize.regions import layer_profile
from mnemoscope.report.content import (
    SOURCE_GROUPS,
    Benchmark,
    BenchmarkRow,
    DeltaMaps,
    TaxonomyResult,
)
from mnemoscope.stats import Estimate

# Decisiveness as pictures: each layer scaled by its maximum, one small PNG a class and layer.


class ZoneShares(NamedTuple):
    """Which share of a class's Δ lies where, fractions that add up to 1.

    Attributes:
        prefix: prefix tokens looking at the prefix.
        suffix_to_prefix: suffix tokens looking back at the prefix.
        suffix: suffix tokens looking at the suffix.
    """

    prefix: float
    suffix_to_prefix: float
    suffix: float


def scale_by_layer(delta: np.ndarray) -> np.ndarray:
    """Divide each layer by its largest value over all classes.

    Args:
        delta: (classes, layers, query, key), not negative.

    Returns:
        The same shape, float32 in [0, 1]; a layer that is zero everywhere stays zero.
    """
    largest = delta.max(axis=(0, 2, 3), keepdims=True)
    safe = np.where(largest > 0, largest, 1)
    scaled: np.ndarray = np.clip(delta / safe, 0, 1).astype(np.float32)
    return scaled


def strongest_layer(delta: np.ndarray) -> int:
    """Give the layer in which Δ of all classes together is largest."""
    return int(delta.sum(axis=(0, 2, 3)).argmax())


def zone_shares(delta: np.ndarray) -> list[ZoneShares | None]:
    """Say for each class which share of Δ lies in the three zones of a sequence.

    Args:
        delta: (classes, layers, query, key).

    Returns:
        One entry a class, None where Δ is zero.
    """
    half = delta.shape[-1] // 2
    shares: list[ZoneShares | None] = []
    for maps in delta.astype(np.float64).sum(axis=1):
        total = maps.sum()
        prefix, crossing = maps[:half, :half].sum(), maps[half:, :half].sum()
        shares.append(
            ZoneShares(prefix / total, crossing / total, maps[half:, half:].sum() / total)
            if total > 0
            else None
        )
    return shares


def png_grey(scaled: np.ndarray) -> bytes:
    """Encode one scaled map as a PNG of grey and alpha, as the module says.

    Args:
        scaled: (query, key), fractions in [0, 1].
    """
    size = len(scaled)
    grey = 255 - np.rint(255 * np.sqrt(scaled)).astype(np.uint8)
    alpha = np.where(np.tri(size, dtype=bool), 255, 0).astype(np.uint8)
    grey = np.where(alpha > 0, grey, 0).astype(np.uint8)
    return _png(np.stack([grey, alpha], axis=-1), colour_type=4)


def png_ink(scaled: np.ndarray, colour: tuple[int, int, int]) -> bytes:
    """Encode one scaled map as ink of one colour, the denser the larger: for any ground.

    Args:
        scaled: (query, key), fractions in [0, 1].
        colour: red, green, blue in 0 to 255.
    """
    alpha = np.rint(255 * np.sqrt(np.tril(scaled))).astype(np.uint8)
    palette = b"PLTE" + bytes(colour) * 256
    return _png(alpha, colour_type=3, palette=palette, alphas=b"tRNS" + bytes(range(256)))


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


# What the templates need beyond the content: charts' rows, pictures of Δ, settings as lines.

# Above this the further taxonomies keep their layer profile and tables, and the page says so: a
# page of tens of megabytes opens slowly on a phone. Pythia 12b's shape with both attributions
# takes about 1 MB a taxonomy.
PICTURE_BUDGET_BYTES = 12_000_000


INPUT_WORDS = {
    "mean": "weights averaged over the heads",
    "max": "their maximum over the heads",
    "both": "mean and maximum side by side",
    "heads": "every head’s weights",
    "difference": "the model’s means less the reference’s",
}
"""What the CNNs see under each input's name."""


class ChartRow(NamedTuple):
    """One line of the dot chart: who reached it, and its figures."""

    source: str
    words: Source
    row: BenchmarkRow


class ChartGroup(NamedTuple):
    """Lines of the dot chart that belong together."""

    title: str
    rows: list[ChartRow]


class DeltaClass(NamedTuple):
    """Δ of one class: pictures and profile layer by layer, and where it lies.

    Attributes:
        name: the class.
        pictures: one address a layer that holds the picture; empty beyond the budget.
        profile: one fraction a layer.
        peak: the layer with the largest profile, counted from 0.
        shares: share of Δ in each zone, None where Δ is zero.
        n_used: evaluation sequences averaged.
        n_skipped: evaluation sequences without a positive gradient.
        n_wrong: misclassified evaluation sequences, None when not told.
    """

    name: str
    pictures: list[str]
    profile: list[float]
    peak: int
    shares: ZoneShares | None
    n_used: int
    n_skipped: int
    n_wrong: int | None


class DeltaView(NamedTuple):
    """Decisiveness of one attribution, ready to be shown."""

    attribution: str
    n_layers: int
    length: int
    strongest: int
    classes: list[DeltaClass]
    has_pictures: bool


def chart_groups(benchmark: Benchmark) -> list[ChartGroup]:
    """Order the measured rows as every chart shows them, groups without rows left out."""
    groups = []
    for title, sources in SOURCE_GROUPS:
        found = [(source, benchmark.row(source)) for source in sources]
        rows = [ChartRow(source, TABLE[source], row) for source, row in found if row]
        if rows:
            groups.append(ChartGroup(title, rows))
    return groups


def best_of_class(benchmark: Benchmark, index: int) -> float | None:
    """Give the best F1 of one class among the sources without memory."""
    rows = [benchmark.row(source) for source in SOURCE_GROUPS[1][1]]
    estimates: list[Estimate] = [row.f1[index] for row in rows if row and row.f1]
    return max((each.value for each in estimates if each.value is not None), default=None)


def by_excess(taxonomies: tuple[TaxonomyResult, ...]) -> list[tuple[int, TaxonomyResult]]:
    """Number the taxonomies from 1 and order them by falling excess, those without one last."""

    def rank(numbered: tuple[int, TaxonomyResult]) -> float:
        main = numbered[1].main
        value = main.excess.estimate.value if main is not None and main.excess else None
        return float("inf") if value is None else -value

    return sorted(enumerate(taxonomies, 1), key=rank)


def delta_views(
    taxonomies: tuple[TaxonomyResult, ...], *, budget_bytes: int = PICTURE_BUDGET_BYTES
) -> list[list[DeltaView]]:
    """Draw the decisiveness maps of all taxonomies, in order, while the budget lasts.

    Returns:
        For each taxonomy one view an attribution.
    """
    left = budget_bytes
    views: list[list[DeltaView]] = []
    for taxonomy in taxonomies:
        of_taxonomy = []
        for maps in taxonomy.deltas:
            view = _delta_view(maps, taxonomy, with_pictures=left > 0)
            left -= sum(len(picture) for each in view.classes for picture in each.pictures)
            of_taxonomy.append(view)
        views.append(of_taxonomy)
    return views


def profile_view(maps: DeltaMaps, taxonomy: TaxonomyResult) -> DeltaView:
    """Give the view of one attribution without its pictures."""
    return _delta_view(maps, taxonomy, with_pictures=False)


def profile_points(profile: list[float]) -> list[tuple[float, float]]:
    """Place a layer profile on a square of 100 by 100, layers at equal distances, 0 at the foot."""
    step = 100 / len(profile)
    return [(step * (layer + 0.5), 100 - 100 * value) for layer, value in enumerate(profile)]


def setting_lines(settings: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Turn nested settings into sections of (dotted name, value) lines, in the order given.

    >>> setting_lines({"seed": 1, "cnn": {"preset": "small", "grid": {"k": [6, 8]}}})
    [('', [('seed', '1')]), ('cnn', [('preset', 'small'), ('grid.k', '6, 8')])]
    """
    loose = [(str(k), _value_text(v)) for k, v in settings.items() if not isinstance(v, Mapping)]
    sections = [("", loose)] if loose else []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            sections.append((str(name), list(_flatten(value))))
    return sections


def _delta_view(maps: DeltaMaps, taxonomy: TaxonomyResult, *, with_pictures: bool) -> DeltaView:
    """Draw one attribution."""
    delta = np.asarray(maps.delta)
    scaled, profile, shares = scale_by_layer(delta), layer_profile(delta), zone_shares(delta)
    classes = [
        DeltaClass(
            name=facts.name,
            pictures=[png_uri(png_grey(layer)) for layer in scaled[index]] if with_pictures else [],
            profile=[float(value) for value in profile[index]],
            peak=int(profile[index].argmax()),
            shares=shares[index],
            n_used=maps.n_used[index],
            n_skipped=maps.n_skipped[index],
            n_wrong=maps.n_wrong[index] if maps.n_wrong else None,
        )
        for index, facts in enumerate(taxonomy.classes)
    ]
    return DeltaView(
        maps.attribution,
        delta.shape[1],
        delta.shape[-1],
        strongest_layer(delta),
        classes,
        with_pictures,
    )


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give (dotted name, value) of a nested mapping."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flatten(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _value_text(inner)


def _value_text(value: Any) -> str:
    """Print a setting: lists with commas, nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value_text(each) for each in value)
    return str(value)


# The colours of every picture, for light and dark pages: one definition for CSS, SVG and plotly.

LIGHT = {
    "page": "#faf9f6",
    "surface": "#ffffff",
    "ink": "#1b1e24",
    "muted": "#575d69",
    "line": "#dcd8cf",
    "grid": "#e9e6df",
    "model": "#1f5bb5",
    "other": "#4c5360",
    "text-band": "#ece7dc",
    "text-hatch": "#d9d1bf",
    "text-edge": "#85754f",
    "beyond": "#0f6b52",
    "undecided": "#8a5300",
    "prefix": "#575d69",
    "suffix-ground": "#e4edf9",
    "differs-ground": "#fbe3d3",
    "differs": "#94380a",
    "class-0": "#6b7280",
    "class-1": "#0068a8",
    "class-2": "#c04f00",
    "class-3": "#007f5c",
    "class-4": "#9a4a94",
    "class-5": "#7a6a00",
}
DARK = {
    "page": "#14171b",
    "surface": "#1b1f25",
    "ink": "#e8e6e1",
    "muted": "#a5abb6",
    "line": "#343a43",
    "grid": "#282d35",
    "model": "#7db3ff",
    "other": "#b4bac5",
    "text-band": "#2b2a26",
    "text-hatch": "#403d35",
    "text-edge": "#b5a577",
    "beyond": "#5fd0a8",
    "undecided": "#f0b45c",
    "prefix": "#a5abb6",
    "suffix-ground": "#1d2d44",
    "differs-ground": "#47281a",
    "differs": "#ffb38a",
    "class-0": "#9aa3af",
    "class-1": "#5fb8f0",
    "class-2": "#f59a5c",
    "class-3": "#3cc99b",
    "class-4": "#d99bd3",
    "class-5": "#d6c24a",
}
CLASS_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
N_CLASS_COLOURS = 6

# From nothing to the most: one hue, luminance steadily falling (light) or rising (dark).
_RAMP_LIGHT = ("#f3f1ec", "#cfe0f1", "#8fbce3", "#4a8fd0", "#1f5bb5", "#12346f", "#081a3c")
_RAMP_DARK = ("#20252c", "#1f3b63", "#2a60a8", "#4a8fe0", "#86bbf7", "#c8e1fd", "#fbfdff")


def class_colour(index: int, *, dark: bool = False) -> str:
    """Give the colour of a class; beyond six they come round again with another dash."""
    return (DARK if dark else LIGHT)[f"class-{index % N_CLASS_COLOURS}"]


def css_variables(colours: dict[str, str]) -> str:
    """Write colours as CSS custom properties.

    >>> css_variables({"ink": "#000000"})
    '--ink: #000000;'
    """
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


def map_ramp(positions: Sequence[float] | np.ndarray, *, dark: bool = False) -> np.ndarray:
    """Give the colours of Δ at positions between 0 (nothing) and 1 (the layer's maximum).

    Returns:
        Fractions of red, green and blue, float (positions, 3).
    """
    stops = np.array([_rgb(colour) for colour in (_RAMP_DARK if dark else _RAMP_LIGHT)])
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(positions, places, stops[:, channel]) for channel in range(3)], 1)


def _rgb(colour: str) -> list[float]:
    """Turn ``#rrggbb`` into fractions."""
    return [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
