"""Figures as plotly objects that a notebook shows: benchmark, decisiveness maps, layer profile.

The page draws its own, since plotly's script alone is 4.8 MB; the figures here have the same
signs, colours and scales.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mnemoscope.localize.regions import layer_profile
from mnemoscope.report.charts import (
    CLASS_DASHES,
    LIGHT,
    ChartRow,
    chart_groups,
    class_colour,
    map_ramp,
    scale_by_layer,
    strongest_layer,
)
from mnemoscope.report.content import Benchmark, BenchmarkRow, TaxonomyResult, best_without_memory
from mnemoscope.stats import Estimate

_RAMP_STEPS = 33


def benchmark_figure(taxonomies: Sequence[TaxonomyResult]) -> go.Figure:
    """Draw min-F1 with intervals, the model's beside its controls, a panel a taxonomy.

    The shaded band reaches to the best figure without memory: a model's dot within it shows
    nothing that the text does not show.

    Args:
        taxonomies: those to compare; the ones without a measured benchmark are left out.

    Returns:
        A figure with one panel below the other, x from 0 to 100 per cent.

    Raises:
        ValueError: none of them was measured.
    """
    measured = [(each, each.main) for each in taxonomies if each.main is not None]
    panels = [(each, main) for each, main in measured if main.rows and not each.impossible]
    if not panels:
        raise ValueError("no taxonomy with a measured benchmark: there is nothing to draw")
    heights = [len(main.rows) for _, main in panels]
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        row_heights=heights,
        vertical_spacing=min(0.12, 0.5 / len(panels)),
        subplot_titles=[each.title or each.name for each, _ in panels],
    )
    for number, (_, benchmark) in enumerate(panels, 1):
        _add_benchmark(figure, benchmark, number)
    figure.update_xaxes(range=[0, 100], title_text="min-F1, %", row=len(panels), col=1)
    height = 90 + 34 * sum(heights) + 60 * len(panels)
    return figure.update_layout(template="plotly_white", height=height, showlegend=False)


def delta_figure(
    delta: np.ndarray, classes: Sequence[str], *, layer: int | None = None
) -> go.Figure:
    """Draw the decisiveness maps of one layer, a panel a class, with a slider over the layers.

    Args:
        delta: (classes, layers, query, key), not negative.
        classes: their names.
        layer: the layer shown first, counted from 0; None takes the strongest.

    Returns:
        A figure; each layer is scaled by its maximum over the classes, colours from 0 to 1.

    Raises:
        ValueError: the names do not fit the maps.
    """
    if delta.ndim != 4 or len(delta) != len(classes):
        raise ValueError(
            f"delta has shape {delta.shape}, wanted ({len(classes)} classes, layers, query, key)"
        )
    shown = strongest_layer(delta) if layer is None else layer
    maps = _blank_above_diagonal(scale_by_layer(delta))
    n_layers, length = delta.shape[1], delta.shape[-1]
    figure = make_subplots(rows=1, cols=len(classes), subplot_titles=list(classes))
    for column, of_class in enumerate(maps, 1):
        figure.add_trace(_map_trace(of_class[shown]), row=1, col=column)
    tokens = {"range": [length + 0.5, 0.5], "title_text": "query (looks)"}
    figure.update_yaxes(constrain="domain", **tokens)
    for column in range(1, len(classes) + 1):
        anchor = f"x{column if column > 1 else ''}"
        figure.update_yaxes(scaleanchor=anchor, row=1, col=column)
    figure.update_xaxes(range=[0.5, length + 0.5], title_text="key (looked at)")
    _add_layer_slider(figure, maps, n_layers, shown)
    return figure.update_layout(
        template="plotly_white",
        width=120 + 330 * len(classes),
        height=500,
        coloraxis={"colorscale": _colour_scale(), "cmin": 0, "cmax": 1},
    )


def layer_profile_figure(delta: np.ndarray, classes: Sequence[str]) -> go.Figure:
    """Draw the layer profile: Δ summed over each layer, scaled by the overall maximum.

    Args:
        delta: (classes, layers, query, key); or the profile itself, (classes, layers).
        classes: their names.

    Returns:
        A figure with one line a class, layers counted from 1, y in per cent.

    Raises:
        ValueError: the names do not fit the maps.
    """
    if delta.ndim not in (2, 4) or len(delta) != len(classes):
        raise ValueError(
            f"delta has shape {delta.shape}, wanted ({len(classes)} classes, layers[, query, key])"
        )
    profile = layer_profile(delta) if delta.ndim == 4 else delta
    figure = go.Figure()
    for index, (name, values) in enumerate(zip(classes, profile, strict=True)):
        figure.add_scatter(
            x=list(range(1, len(values) + 1)),
            y=[100 * float(value) for value in values],
            name=name,
            mode="lines+markers",
            line={"color": class_colour(index), "dash": CLASS_DASHES[index % len(CLASS_DASHES)]},
            hovertemplate="layer %{x}: %{y:.1f} %",
        )
    figure.update_xaxes(title_text="layer", dtick=max(1, profile.shape[1] // 12))
    figure.update_yaxes(title_text="Δ, % of the largest", range=[0, 105])
    return figure.update_layout(template="plotly_white", height=380)


def _add_benchmark(figure: go.Figure, benchmark: Benchmark, number: int) -> None:
    """Draw one panel: band, edge, and a dot with its interval for each source."""
    lines = [row for group in chart_groups(benchmark) for row in group.rows]
    for line in lines:
        if line.row.min_f1.value is not None:
            figure.add_trace(_dot(line), row=number, col=1)
    best = best_without_memory(benchmark)
    if best is not None:  # after the traces: plotly leaves empty panels without shapes
        band = {"fillcolor": LIGHT["text-band"], "line_width": 0, "layer": "below"}
        figure.add_vrect(x0=0, x1=100 * best.value, row=number, col=1, **band)
        figure.add_vline(x=100 * best.value, line_color=LIGHT["text-edge"], row=number, col=1)
    names = [_line_name(line) for line in reversed(lines)]
    figure.update_yaxes(categoryorder="array", categoryarray=names, row=number, col=1)
    figure.update_xaxes(range=[0, 100], row=number, col=1)


def _line_name(line: ChartRow) -> str:
    """Name a line of the benchmark figure."""
    return f"{line.words.name}: {line.words.detail}"


def _dot(line: ChartRow) -> go.Scatter:
    """Draw a source's dot with its interval."""
    row: BenchmarkRow = line.row
    colour = LIGHT["model" if line.words.group == "attention" else "other"]
    value = 100 * (row.min_f1.value or 0.0)
    low, high = _reach(row.min_f1)
    return go.Scatter(
        x=[value],
        y=[_line_name(line)],
        mode="markers",
        marker={"symbol": line.words.mark, "color": colour, "size": 11},
        error_x={"array": [high], "arrayminus": [low], "color": colour},
        hovertemplate="%{x:.1f} %<extra>%{y}</extra>",
    )


def _reach(estimate: Estimate) -> tuple[float, float]:
    """Give how far the interval reaches below and above the figure, in per cent."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return 0.0, 0.0
    return 100 * (estimate.value - estimate.low), 100 * (estimate.high - estimate.value)


def _blank_above_diagonal(maps: np.ndarray) -> np.ndarray:
    """Put nothing where a query cannot look."""
    return np.where(np.tri(maps.shape[-1], dtype=bool), maps, np.nan)


def _map_trace(values: np.ndarray) -> go.Heatmap:
    """Draw one map, tokens counted from 1."""
    tokens = np.arange(1, len(values) + 1)
    return go.Heatmap(
        z=values,
        x=tokens,
        y=tokens,
        coloraxis="coloraxis",
        hovertemplate="token %{y} looks at token %{x}: %{z:.1%}<extra></extra>",
    )


def _add_layer_slider(figure: go.Figure, maps: np.ndarray, n_layers: int, shown: int) -> None:
    """Let the reader pick the layer of all panels at once."""
    traces = list(range(len(maps)))
    steps = [
        {
            "label": str(layer + 1),
            "method": "restyle",
            "args": [{"z": [of_class[layer] for of_class in maps]}, traces],
        }
        for layer in range(n_layers)
    ]
    slider = {
        "active": shown,
        "currentvalue": {"prefix": "layer "},
        "steps": steps,
        "pad": {"t": 46},
    }
    figure.update_layout(sliders=[slider])


def _colour_scale() -> list[list[object]]:
    """Give the page's colours of Δ as a plotly scale."""
    positions = np.linspace(0, 1, _RAMP_STEPS)
    colours = np.rint(255 * map_ramp(positions)).astype(int)
    return [
        [float(position), f"rgb({red},{green},{blue})"]
        for position, (red, green, blue) in zip(positions, colours, strict=True)
    ]
