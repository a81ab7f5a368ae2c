"""What a study found, as Polars frames and as pictures that a notebook shows.

A frame of a stage that has not been run is a `UserError`. A picture is one SVG with its own ground
and colours for light and dark: no script, no outside address.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.analysis.figures import Figure, HeatMap
from mnemoscope.benchmark.published import allocate
from mnemoscope.benchmark.sources import SOURCES, of_reader
from mnemoscope.errors import UserError
from mnemoscope.files import write_text
from mnemoscope.localize.delta import layer_profile
from mnemoscope.pipeline.benchmark import find_sample
from mnemoscope.pipeline.label import SampleEntry, samples_of
from mnemoscope.pipeline.localize import StoredDelta, load_deltas
from mnemoscope.report import charts
from mnemoscope.report.content import Record, TaxonomyResult, flows_of, taxonomy_results
from mnemoscope.report.page import environment
from mnemoscope.study.folder import Study
from mnemoscope.taxonomy.groups import find_groups

WIDTH = 920
_PANEL_GAP, _MARGIN, _ROW, _TOP, _LABEL, _MAP_GAP = 40, 28, 25, 96, 138, 12.0
_LEGEND_COLUMNS, _LEGEND_LINE = 4, 22
_INK = (74, 140, 224)  # one blue that stands out on both grounds


@dataclass(frozen=True)
class Picture:
    """An SVG that shows itself in a notebook; `svg` is the text of the file."""

    svg: str = field(repr=False)

    def save(self, path: Path | str) -> None:
        """Write the SVG, whole or not at all; an existing file is replaced.

        Raises:
            NoRoomError: the disk is full.
            UserError: the folder is missing or cannot be written to.
        """
        write_text(path, self.svg)

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        """As an image, so that its style does not reach the notebook's page."""
        data = base64.b64encode(self.svg.encode("utf-8")).decode("ascii")
        return f'<img src="data:image/svg+xml;base64,{data}" style="max-width:100%">'


def stored_delta(
    study: Study, taxonomy: str | None = None, *, attribution: str = "gradient"
) -> StoredDelta:
    """Δ of a taxonomy (the first unless named), with its classes and counts.

    Raises:
        UserError: localize has not been run, or there is no such taxonomy or attribution.
    """
    study.require("localize")
    sample = sample_named(study, taxonomy)
    for stored in load_deltas(study):
        if stored.sample == sample.key and stored.attribution == attribution:
            return stored
    raise UserError(
        f"{study.folder}: no decisiveness of '{sample.shown}' with attribution '{attribution}' "
        "(it was not asked for, or no CNN trained). See localize.attributions."
    )


def benchmark_figure(study: Study, *taxonomies: str) -> Picture:
    """Min-F1 beside its controls, a panel a taxonomy, with Δ of the strongest layer below it.

    The shaded band reaches to the best figure without memory: a model's dot within it shows
    nothing that the text does not show. All taxonomies are shown when none is named.

    Raises:
        UserError: a stage has not been run, there is no such taxonomy, or none was measured.
    """
    study.require("benchmark")
    names = {sample_named(study, name).shown for name in taxonomies}
    shown = [one for one in taxonomy_results(study) if not names or one.name in names]
    return draw_benchmarks(shown, str(study.record["models"]["model"]["name"]))


def draw_benchmarks(taxonomies: Sequence[TaxonomyResult], model: str) -> Picture:
    """Draw the panels of `benchmark_figure`, two in a row; UserError if none was measured."""
    measured = [one for one in taxonomies if one.main is not None and one.main.rows]
    if not measured:
        raise UserError("no taxonomy with a measured benchmark: there is nothing to draw.")
    n_columns = min(len(measured), 2)
    rows: list[Record] = []
    top: float = 0
    for start in range(0, len(measured), n_columns):
        placed = enumerate(measured[start : start + n_columns])
        panels = [_panel(one, place, n_columns) for place, one in placed]
        map_size = max(panel["map_size"] for panel in panels)
        maps_y = max(panel["bottom"] for panel in panels) + 78
        rows.append({"top": top, "panels": panels, "maps_y": maps_y})
        top += maps_y + map_size + 14 if map_size else maps_y - 40
    has_maps = any(panel["maps"] for row in rows for panel in row["panels"])
    height = top + (52 if has_maps else 18)
    return _picture(f"{model}: memory or only text?", height, rows=rows, has_maps=has_maps)


def _panel(taxonomy: TaxonomyResult, place: int, n_panels: int) -> Record:
    """Place the chart and the maps of one taxonomy."""
    assert taxonomy.main is not None
    width = (WIDTH - 2 * _MARGIN - (n_panels - 1) * _PANEL_GAP) / n_panels
    left = _MARGIN + place * (width + _PANEL_GAP)
    plot_x, plot_width = left + _LABEL, width - _LABEL - 44

    def along(value: float | None) -> float | None:
        return None if value is None else plot_x + plot_width * value

    headline = taxonomy.main.headline
    shown = {*of_reader(SOURCES, headline["source"] if headline else "model")}
    every = [row for _, rows in taxonomy.main.groups for row in rows if row["source"] in shown]
    best, n_classes = taxonomy.main.best, len(taxonomy.classes)
    panel: Record = {
        "x": left,
        "title": taxonomy.label,
        "verdict": taxonomy.standing.value,
        "plot_x": plot_x,
        "plot_width": plot_width,
        "bottom": _TOP + 8 + _ROW * len(every),
        "edge": along(best.value if best else None),
        "lines": [
            row
            | {"y": _TOP + 22 + _ROW * index}
            | dict(zip(("x", "low", "high"), map(along, row["min_f1"]), strict=True))
            for index, row in enumerate(every)
        ],
        "maps": [],
        "map_size": 0.0,
    }
    if taxonomy.deltas:
        delta = taxonomy.deltas[0].delta
        panel["layer"] = charts.strongest_layer(delta)
        size = panel["map_size"] = min(132.0, (width - _MAP_GAP * (n_classes - 1)) / n_classes)
        panel["maps"] = [
            (
                facts["name"],
                left + index * (size + _MAP_GAP),
                charts.png_uri(charts.png_ink(maps, _INK)),
            )
            for index, (facts, maps) in enumerate(
                zip(taxonomy.classes, charts.scale_by_layer(delta)[:, panel["layer"]], strict=True)
            )
        ]
    return panel


def delta_figure(
    study: Study, taxonomy: str | None = None, *, attribution: str = "gradient"
) -> Picture:
    """Δ by layer and class, each layer scaled by its maximum; arguments as `stored_delta`."""
    return draw_delta(stored_delta(study, taxonomy, attribution=attribution))


def draw_delta(stored: StoredDelta) -> Picture:
    """Draw the maps of `delta_figure`: a row a class, further rows where the layers are many."""
    n_layers = stored.delta.shape[1]
    n_columns = min(n_layers, charts.MOST_LAYERS_IN_A_ROW)
    size = min(132.0, (WIDTH - 2 * _MARGIN - _LABEL) / n_columns - _MAP_GAP)
    cells, y = [], 96.0
    for name, maps in zip(stored.classes, charts.scale_by_layer(stored.delta), strict=True):
        for layer, scaled in enumerate(maps):
            column = layer % n_columns
            y += size + 34 if layer and not column else 0.0
            x = _MARGIN + _LABEL + column * (size + _MAP_GAP)
            label = "" if layer else name
            cells.append((label, layer + 1, x, y, charts.png_uri(charts.png_ink(scaled, _INK))))
        y += size + 34
    title = f"{stored.shown}: Δ by {stored.attribution}"
    return _picture(title, y - 14, cells=cells, size=size)


def allocation_of(study: Study) -> pl.DataFrame:
    """How memorized sequences flow from Prashanth et al.'s classes to the paper's.

    Columns `prashanth`, `paper`, `n`, `share`, `low`, `high`, `published` (fractions), `n_groups`.

    Raises:
        UserError: the table lacks a feature that one of the taxonomies needs.
    """
    return allocate(study.sequences, find_groups(study.sequences))


def allocation_figure(study: Study) -> Picture:
    """The flow of `allocation_of` as a Sankey diagram, shares in per cent; errors as there."""
    view = charts.sankey_view(flows_of(allocation_of(study)))
    scale = (WIDTH - 2 * _MARGIN) / view.width
    title = "From Recite, Reconstruct and Recollect to Guess and Recall"
    return _picture(title, scale * view.height + 76, sankey=view, scale=scale)


def layer_profile_figure(
    study: Study, taxonomy: str | None = None, *, attribution: str = "gradient"
) -> Picture:
    """ΣΔ by layer and class, per cent of the largest; arguments as `stored_delta`."""
    return draw_profile(stored_delta(study, taxonomy, attribution=attribution))


def draw_profile(stored: StoredDelta) -> Picture:
    """Draw the chart of `layer_profile_figure`."""
    title = f"{stored.shown}: Δ by {stored.attribution}, summed over each layer"
    profile = layer_profile(stored.delta)
    return draw_figure(charts.profile_drawing(stored.classes, profile, title=title))


def draw_figure(figure: Figure | charts.Drawing) -> Picture:
    """Draw a chart, with its strokes or those of any chart, or a heat map."""
    if isinstance(figure, HeatMap):
        heat = charts.heat_view(figure)
        scale = min(1.4, (WIDTH - 2 * _MARGIN) / heat["width"])
        return _picture(figure.title, scale * heat["height"] + 76, heat=heat, scale=scale)
    view = charts.chart_view(figure)
    lines = -(-len(view.series) // _LEGEND_COLUMNS)
    height = 1.2 * view.height + 88 + _LEGEND_LINE * lines
    legend = {"columns": _LEGEND_COLUMNS, "line": _LEGEND_LINE, "lines": lines}
    return _picture(view.chart.title, height, view=view, legend=legend)


def _picture(title: str, height: float, **values: Any) -> Picture:
    """Fill the template with `rows` of panels, `cells` of maps, a `heat`, `sankey` or `view`."""
    template = environment().get_template("picture.svg.j2")
    body: Record = dict.fromkeys(("rows", "cells", "view", "heat", "sankey")) | values
    svg = template.render(title=title, width=WIDTH, height=height, margin=_MARGIN, **body)
    return Picture(svg)


def sample_named(study: Study, name: str | None) -> SampleEntry:
    """A sample that the study has."""
    known = list(samples_of(study).values())
    if not known:
        raise UserError(f"{study.folder}: nothing is labelled yet. Run 'mnemoscope label' first.")
    if name is None:
        return known[0]
    return find_sample(study, name)
