"""Charts as pictures: one SVG, light and dark, for a notebook; and for print as SVG, PDF and PNG.

The marks are those of the page (`charts.svg.j2`). A picture needs nothing from outside.
"""

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from mnemoscope.analysis.figures import Figure, HeatMap
from mnemoscope.benchmark.sources import SOURCES, of_reader
from mnemoscope.errors import UserError, check_installed
from mnemoscope.files import write_text
from mnemoscope.report import charts
from mnemoscope.report.answer import as_sentence
from mnemoscope.report.content import TaxonomyResult
from mnemoscope.report.style import (
    DARK,
    FONTS,
    LIGHT,
    RAMP_LIGHT,
    asset,
    css_variables,
    environment,
)
from mnemoscope.store import Facts
from mnemoscope.words import figure, part_words

WIDTH = 920
_MARGIN, _GAP, _TOP = 28, 40, 60.0
_INSIDE = WIDTH - 2 * _MARGIN
_LABEL, _LINE, _KEY_LINE = 138.0, 25.0, 20.0
_SCREEN = (
    f"svg {{ {css_variables(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ svg {{ {css_variables(DARK)} }} "
    ".map { filter: invert(1) hue-rotate(180deg); } }"
)
_PRINT_WIDTH = 504  # points: seven inches, the text width of a two-column page
_DOTS_AN_INCH = 300.0
_SHEET = f"""#set page(width: auto, height: auto, margin: 0pt, fill: white)
#set document(date: none)
#image(bytes(sys.inputs.svg), format: "svg", width: {_PRINT_WIDTH}pt)"""


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

    def printed(self) -> dict[str, bytes]:
        """The picture for print by file ending: `svg`, `pdf`, `png`, always the same bytes.

        On white, in plain colours, for many a program that reads SVG knows no CSS variables.

        Raises:
            UserError: Typst is not installed.
        """
        check_print()
        import typst

        svg = self.svg.replace(_SCREEN, "").replace('class="ground"', 'fill="#ffffff"')
        svg = re.sub(r"var\(--([\w-]+)\)", lambda found: LIGHT[found[1]], svg)
        sheet, given = _SHEET.encode("utf-8"), {"svg": svg}
        return {
            "svg": svg.encode("utf-8"),
            "pdf": typst.compile(sheet, format="pdf", sys_inputs=given),
            "png": typst.compile(sheet, format="png", sys_inputs=given, ppi=_DOTS_AN_INCH),
        }

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        """As an image, so that its style does not reach the notebook's page."""
        data = base64.b64encode(self.svg.encode("utf-8")).decode("ascii")
        return f'<img src="data:image/svg+xml;base64,{data}" style="max-width:100%">'


def check_print() -> None:
    """Raise UserError where Typst is not installed, with the command that installs it."""
    check_installed("making figures for print needs", "typst", extra="figures")


@dataclass(frozen=True)
class _Part:
    """Marks of `width` × `height` pixels, the first at `left`, that stand at (x, y), scaled."""

    marks: Markup
    x: float
    y: float
    width: float
    height: float
    scale: float = 1.0
    left: float = 0.0
    ink: str = ""


def draw_benchmarks(taxonomies: Sequence[TaxonomyResult], model: str) -> Picture:
    """Min-F1 beside its controls, two taxonomies in a row, each above Δ of its strongest layer.

    Raises:
        UserError: no taxonomy was measured.
    """
    measured = [one for one in taxonomies if one.main is not None and one.main.rows]
    if not measured:
        raise UserError("no taxonomy with a measured benchmark: there is nothing to draw.")
    n_columns = min(len(measured), 2)
    width = (_INSIDE - (n_columns - 1) * _GAP) / n_columns
    parts, y = [], _TOP
    panels = [_benchmark_panel(one, width) for one in measured]
    for start in range(0, len(measured), n_columns):
        here = slice(start, start + n_columns)
        height = 70 + _LINE * max(len(panel["rows"]) for panel in panels[here])
        end = y + height + 20
        for column, (one, panel) in enumerate(zip(measured[here], panels[here], strict=True)):
            x = _MARGIN + column * (width + _GAP)
            parts.append(_Part(_marks("benchmark_marks", panel), x, y, width, height))
            if one.deltas:
                delta = np.asarray(one.deltas[0].delta)
                layer = charts.strongest_layer(delta)
                pictures = [[of[layer]] for of in charts.map_pictures(delta)]
                n, names = delta.shape[-1], one.deltas[0].classes
                grid = charts.map_grid(
                    names, pictures, n_tokens=n, prefix=n // 2, width=width, layer=layer
                )
                below = y + height + 20
                parts.append(_Part(_marks("map_marks", grid), x, below, grid.width, grid.height))
                end = max(end, below + grid.height + 24)
        y = end
    lines = ["min-F1 in per cent with 95 % intervals. Band: reached without any memory; only what "]
    lines[0] += "lies right of it speaks of memory."
    if any(one.deltas for one in measured):
        lines.append(
            "Maps: attention that the CNNs’ decision for a class rests on (Δ) in the layer where "
            "it is largest."
        )
    for line in lines:
        parts.append(_note(line, y))
        y += 18
    said = (
        f"{panel['title']}: {panel['verdict']}. "
        + "".join(
            f"{row['name']} {figure(row['min_f1'], gap=' ', unit=True)}. " for row in panel["rows"]
        )
        for panel in panels
    )
    return _picture(f"{model}: memory or only text?", y + 6, parts, "min-F1. " + "".join(said))


def _benchmark_panel(taxonomy: TaxonomyResult, width: float) -> Facts:
    """What `benchmark_marks` draws of a taxonomy: the headline's reader and its controls."""
    assert taxonomy.main is not None
    headline = taxonomy.main.headline
    shown = {*of_reader(SOURCES, headline["source"] if headline else "model")}
    return {
        "title": taxonomy.label,
        "verdict": as_sentence(taxonomy.brief.partition(" (")[0]).rstrip("."),
        "left": _LABEL,
        "width": width - _LABEL - 44,
        "line": _LINE,
        "best": taxonomy.main.best,
        "rows": [row for _, of in taxonomy.main.groups for row in of if row["source"] in shown],
    }


def draw_maps(
    delta: np.ndarray,
    classes: Sequence[str],
    *,
    title: str,
    prefix: int | None = None,
    only: int | None = None,
) -> Picture:
    """Draw Δ, (classes, layers, query, key): a row of maps a class, further rows for many layers.

    Each layer is scaled by its maximum over all classes. `only` is the one class to be drawn; lines
    divide prefix and suffix, halves unless `prefix` is given.
    """
    pictures = charts.map_pictures(delta)
    n_tokens = delta.shape[-1]
    border = n_tokens // 2 if prefix is None else prefix
    grid = charts.map_grid(
        classes, pictures, n_tokens=n_tokens, prefix=border, width=_INSIDE, only=only
    )
    ramp = _marks("ramp_marks", RAMP_LIGHT, border, n_tokens)
    y = _TOP + grid.height + 14
    parts = [
        _Part(_marks("map_marks", grid), _MARGIN, _TOP, grid.width, grid.height),
        _Part(ramp, _MARGIN, y, _INSIDE, 14),
    ]
    return _picture(title, y + 34, parts)


def draw_charts(panels: Mapping[str, Figure | charts.Drawing], title: str) -> Picture:
    """Draw charts under their names, each above its legend; several stand two in a row."""
    parts, y, bottom = [], _TOP, _TOP
    for place, (name, drawn) in enumerate(panels.items()):
        column, top = place % 2, y + (24 if name else 0)
        if not column:
            y, top = bottom, bottom + (24 if name else 0)
        is_alone = len(panels) == 1
        width = _INSIDE if is_alone else (_INSIDE - _GAP) / 2
        x = _MARGIN + column * (width + _GAP)
        if name:
            parts.append(_note(name, top - 8, x=x, kind="value"))
        if isinstance(drawn, HeatMap):
            heat = charts.heat_view(drawn)
            scale = min(1.4, width / heat["width"])
            size = heat["width"], heat["height"]
            parts.append(_Part(_marks("heat_marks", heat), x, top, *size, scale=scale))
            bottom = max(bottom, top + scale * heat["height"] + 16)
            continue
        view = charts.chart_view(drawn, width=charts.WIDTH if is_alone else width)
        scale = width / view.width
        parts.append(_Part(_marks("chart_marks", view), x, top, view.width, view.height, scale))
        keys = [
            (_marks("legend_mark", view.chart, one.stroke), one.stroke.ink, one.name)
            for one in view.series
            if one.name
        ]
        under = top + scale * view.height + 14
        parts += _legend(keys, x, under, width)
        n_lines = math.ceil(len(keys) / _n_columns(keys, width))
        bottom = max(bottom, under + _KEY_LINE * n_lines + 14)
    return _picture(title, bottom, parts)


def draw_figure(figure: Figure | charts.Drawing) -> Picture:
    """Draw a chart, with its strokes or those of any chart, or a heat map."""
    chart = figure.chart if isinstance(figure, charts.Drawing) else figure
    return draw_charts({"": figure}, chart.title)


def draw_flows(flows: Sequence[charts.Flow], title: str) -> Picture:
    """Draw flows whose shares add up to about 1 as a Sankey diagram, shares in per cent."""
    view = charts.sankey_view(flows)
    size = view.width, view.height
    scale = _INSIDE / view.width
    part = _Part(_marks("sankey_marks", view), _MARGIN, _TOP, *size, scale=scale)
    return _picture(title, _TOP + scale * view.height + 16, [part])


def draw_doses(doses: Sequence[Mapping[str, Any]], classes: Sequence[str], title: str) -> Picture:
    """Draw dose curves, as `graft_of` gives them, three in a row: what is left of two classes."""
    parts, y = [], _TOP
    inks = [charts.class_ink(classes, dose["y"]) for dose in doses]
    for place, (dose, ink) in enumerate(zip(doses, inks, strict=True)):
        row, column = divmod(place, 3)
        x, y = _MARGIN + column * _INSIDE / 3, _TOP + row * 296
        row_of = dose["row"]
        parts.append(_note(part_words(row_of["part"]).removeprefix("the "), y + 12, x, "value"))
        parts.append(_note(row_of["words"], y + 30, x))
        marks = _marks("dose_marks", dose)
        parts.append(_Part(marks, x, y + 44, 248, 236, left=-38, ink=ink))
    return _picture(title, y + 300, parts)


def _legend(
    keys: Sequence[tuple[Markup, str, str]], x: float, y: float, width: float
) -> Iterable[_Part]:
    """The signs of a chart, each (marks, ink, words), in as many columns as their words let."""
    columns = _n_columns(keys, width)
    for place, (marks, ink, words) in enumerate(keys):
        row, column = divmod(place, columns)
        at = x + column * width / columns, y + row * _KEY_LINE
        yield _Part(marks, *at, 26, 10, ink=ink)
        yield _note(words, at[1] + 9, at[0] + 34)


def _n_columns(keys: Sequence[tuple[Markup, str, str]], width: float) -> int:
    longest = max((len(words) for *_, words in keys), default=1)
    return max(1, min(4, int(width / (64 + 7 * longest))))


def _note(words: str, y: float, x: float = _MARGIN, kind: str = "") -> _Part:
    """A line of text."""
    text = Markup('<text class="{}" y="10">{}</text>').format(kind, words)
    return _Part(text, x, y - 10, _INSIDE, 14)


def _marks(name: str, *placed: Any) -> Markup:
    """What a macro of the charts draws."""
    marks: Markup = getattr(environment().get_template("charts.svg.j2").module, name)(*placed)
    return marks


def _picture(title: str, height: float, parts: Sequence[_Part], description: str = "") -> Picture:
    svg = environment().get_template("picture.svg.j2")
    look = {"screen": Markup(_SCREEN), "style": asset("charts.css"), "sans": FONTS["sans"]}
    size = {"width": WIDTH, "height": height, "margin": _MARGIN}
    return Picture(svg.render(title=title, description=description, parts=parts, **size, **look))
