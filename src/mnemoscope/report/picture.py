"""One standalone SVG of a report: the benchmark of each taxonomy and a strip of Δ, for a README.

Its own ground and colours for light and dark, no script, no outside address, no dependency.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from mnemoscope import files as atomic_write
from mnemoscope.errors import MnemoscopeError
from mnemoscope.report.charts import (
    DARK,
    LIGHT,
    ChartRow,
    chart_groups,
    css_variables,
    png_ink,
    png_uri,
    scale_by_layer,
    strongest_layer,
)
from mnemoscope.report.content import (
    Benchmark,
    Best,
    ReportContent,
    TaxonomyResult,
    best_without_memory,
    taxonomy_standing,
)
from mnemoscope.report.gather import report_content
from mnemoscope.report.page import environment
from mnemoscope.stats import Estimate
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models

# One standalone SVG of a report: the benchmark of each taxonomy and a strip of Δ, for a README.

WIDTH = 920
MOST_PANELS = 2
_PANEL_GAP, _MARGIN, _ROW, _TOP = 40, 28, 25, 96
_LABEL = 138
_INK = (74, 140, 224)  # one blue that stands out on both grounds


class Line(NamedTuple):
    """One line of a panel, placed."""

    source: str
    name: str
    y: float
    estimate: Estimate
    x: float | None
    low: float | None
    high: float | None


class Panel(NamedTuple):
    """One taxonomy's chart and maps, placed in the picture."""

    x: float
    title: str
    verdict: str
    plot_x: float
    plot_width: float
    bottom: float
    best: Best | None
    edge: float | None
    lines: list[Line]
    layer: int | None
    maps: list[tuple[str, float, str]]
    map_size: float


def render_svg(content: ReportContent) -> str:
    """Draw the picture of a report.

    Args:
        content: what the report says; the first two measured taxonomies are drawn.

    Returns:
        SVG text, 920 wide.

    Raises:
        ValueError: no taxonomy was measured.
    """
    measured = [each for each in content.taxonomies if each.main is not None and each.main.rows]
    if not measured:
        raise ValueError("no taxonomy with a measured benchmark: there is nothing to draw")
    shown = measured[:MOST_PANELS]
    panels = [_panel(each, place, len(shown)) for place, each in enumerate(shown)]
    foot = max(panel.bottom for panel in panels) + 26
    has_maps = any(panel.maps for panel in panels)
    map_size = max(panel.map_size for panel in panels)
    return (
        environment()
        .get_template("picture.svg.j2")
        .render(
            content=content,
            panels=panels,
            width=WIDTH,
            margin=_MARGIN,
            maps_y=foot + 52,
            height=foot + (map_size + 118 if has_maps else 30),
            has_maps=has_maps,
            light_css=Markup(css_variables(LIGHT)),
            dark_css=Markup(css_variables(DARK)),
        )
    )


def write_svg(path: Path | str, content: ReportContent) -> None:
    """Write the picture of a report, whole or not at all; errors as `render_svg`.

    Args:
        path: where to; an existing file is replaced.
        content: what the report says.
    """
    atomic_write.write_text(path, render_svg(content))


def _panel(taxonomy: TaxonomyResult, place: int, n_panels: int) -> Panel:
    """Place one taxonomy."""
    benchmark = taxonomy.main or Benchmark("")
    width = (WIDTH - 2 * _MARGIN - (n_panels - 1) * _PANEL_GAP) / n_panels
    left = _MARGIN + place * (width + _PANEL_GAP)
    plot_x, plot_width = left + _LABEL, width - _LABEL - 44
    rows = [row for group in chart_groups(benchmark) for row in group.rows]
    kept = [row for row in rows if row.source != "statistics"]
    best = best_without_memory(benchmark)
    lines = [_line(row, _TOP + 22 + _ROW * i, plot_x, plot_width) for i, row in enumerate(kept)]
    layer, maps, map_size = _maps(taxonomy, left, width)
    return Panel(
        x=left,
        title=taxonomy.title or taxonomy.name,
        verdict=taxonomy_standing(taxonomy).value,
        plot_x=plot_x,
        plot_width=plot_width,
        bottom=_TOP + 8 + _ROW * len(kept),
        best=best,
        edge=plot_x + plot_width * best.value if best else None,
        lines=lines,
        layer=layer,
        maps=maps,
        map_size=map_size,
    )


def _line(row: ChartRow, y: float, plot_x: float, plot_width: float) -> Line:
    """Place one source."""
    estimate = row.row.min_f1
    x, low, high = (
        None if value is None else plot_x + plot_width * value
        for value in (estimate.value, estimate.low, estimate.high)
    )
    return Line(row.source, row.words.name, y, estimate, x, low, high)


def _maps(
    taxonomy: TaxonomyResult, left: float, width: float
) -> tuple[int | None, list[tuple[str, float, str]], float]:
    """Draw the strongest layer's Δ of each class: (layer, (class, x, address) ..., size)."""
    if not taxonomy.deltas:
        return None, [], 0.0
    delta = taxonomy.deltas[0].delta
    layer = strongest_layer(delta)
    scaled = scale_by_layer(delta)[:, layer]
    gap, n = 12.0, len(taxonomy.classes)
    size = min(132.0, (width - gap * (n - 1)) / n)
    maps = [
        (facts.name, left + index * (size + gap), png_uri(png_ink(scaled[index], _INK)))
        for index, facts in enumerate(taxonomy.classes)
    ]
    return layer, maps, size


# Write one picture of a study for a README or a talk: the benchmark and a strip of maps.


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture; exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="a study with its report made")
    parser.add_argument("-o", "--out", type=Path, required=True, help=".svg file to write")
    given = parser.parse_args(arguments)
    try:
        study = Study(given.study)
        study.require("localize")
        write_svg(given.out, report_content(study, Models(study.settings).tokenizer()))
    except MnemoscopeError as error:
        print(f"picture: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
