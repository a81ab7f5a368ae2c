"""Figures for paper: decisiveness maps, layer profile and knockout as SVG, PDF and PNG.

Drawn with Matplotlib (extra `figures`), which writes all three without a browser.
"""

import io
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnemoscope.errors import UserError, check_installed
from mnemoscope.files import made_folder, write_bytes
from mnemoscope.localize.delta import layer_profile
from mnemoscope.pipeline.knockout import KNOCKOUT_FILE, SPECIFICITY_FILE
from mnemoscope.pipeline.localize import (
    AGREEMENT_FILE,
    REGIONS_FILE,
    SHAPES_FILE,
    SOURCES,
    StoredDelta,
    load_deltas,
    write_delta_tables,
)
from mnemoscope.report import charts
from mnemoscope.report.content import knockout_of
from mnemoscope.study.folder import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")
_WIDTH_INCHES = 7.0  # the text width of a two-column page
_DPI = 300
_SHADES = 64  # of a map, more than can be told apart; each one makes the files larger
_STYLE = {
    "font.size": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,  # letters stay letters, as journals ask
    "svg.hashsalt": "mnemoscope",  # the same figure gives the same bytes
}
_LINES = {
    "solid": "-",
    "dash": (0, (5, 2)),
    "dot": (0, (1, 1.5)),
    "dashdot": (0, (5, 2, 1, 2)),
    "longdash": (0, (8, 2)),
    "longdashdot": (0, (8, 2, 1, 2)),
}
_MARKS = "osD^vP*<>X"
_APART = 1.05  # from one mark to the next where there is a single strength
_PANELS = {"model": "model", "reference": "reference model"}


def check_matplotlib() -> None:
    """Raise UserError where Matplotlib is not installed, with the command that installs it."""
    check_installed("making figures for print needs", "matplotlib", extra="figures")


def export_localization(study: Study, folder: Path | str) -> list[Path]:
    """Write every figure as SVG, PDF and PNG, and the numbers as Parquet; gives what was written.

    `delta.parquet` and `profile.parquet` count layers and tokens from 1 as the figures do; the
    tables of regions, checks, shapes and cuts are the study's, where it has them. A missing folder
    is made; files of the same names are replaced.
    Raises UserError: no Matplotlib, no Δ in the study, or a folder that cannot be made.
    """
    check_matplotlib()
    study.require("localize")
    deltas = [one for source in SOURCES for one in load_deltas(study, source)]
    if not deltas:
        raise UserError(
            f"{study.folder}: no Δ to export, since no CNN trained. Train on more sequences."
        )
    folder = made_folder(folder)
    made = list(write_delta_tables(deltas, folder))
    tables = [REGIONS_FILE, AGREEMENT_FILE, SHAPES_FILE]
    tables += [KNOCKOUT_FILE, SPECIFICITY_FILE] if study.is_done("knockout") else []
    for name in tables:
        if (study.folder / name).is_file():
            shutil.copyfile(study.folder / name, folder / name)
            made.append(folder / name)
    made += draw_deltas(deltas, folder, prefix=study.settings.sequences.n_prefix)
    for one in {one.sample: one for one in deltas}.values():
        cut = knockout_of(study, one.sample)
        if cut is not None:
            panels = {
                f"{panel.name} ({panel.n} sequences)": charts.knockout_drawing(panel, one.classes)
                for panel in cut.panels
            }
            figure = chart_print(panels, one.shown)
            made += _write(folder / f"{_slug(one.shown)}-knockout", drawn(figure))
    return made


def draw_deltas(
    deltas: Sequence[StoredDelta], folder: Path | str, *, prefix: int | None = None
) -> Iterator[Path]:
    """Draw maps and profiles of every sample into a folder; the prefix is half unless given."""
    folder = made_folder(folder)
    for one in deltas:
        if one.source == "blind":
            continue  # two channels of token repetitions are no attention
        title = f"{one.shown}: {_PANELS[one.source]}, {one.attribution}"
        stem = f"{_slug(one.shown)}-{one.attribution}-{one.source}"
        # All classes in one figure where each takes one row, else a figure a class.
        is_wide = one.delta.shape[1] > charts.MOST_LAYERS_IN_A_ROW
        for only in range(len(one.classes)) if is_wide else [None]:
            name = "" if only is None else f"-{_slug(one.classes[only])}"
            figure = maps_print(one.delta, one.classes, prefix=prefix, only=only, title=title)
            yield from _write(folder / f"{stem}-maps{name}", drawn(figure))
        if one.source == "model":
            beside = {
                _PANELS[other.source]: charts.profile_drawing(
                    one.classes, layer_profile(other.delta)
                )
                for other in deltas
                if other.source in _PANELS
                and (other.sample, other.attribution) == (one.sample, one.attribution)
            }
            figure = chart_print(beside, f"{one.shown}: {one.attribution}")
            stem = f"{_slug(one.shown)}-{one.attribution}"
            yield from _write(folder / f"{stem}-profile", drawn(figure))


def drawn(figure: "Figure") -> dict[str, bytes]:
    """Write a figure in every format, the same figure always as the same bytes."""
    made = {}
    for name in FORMATS:
        without_date = {} if name == "png" else {"Date" if name == "svg" else "CreationDate": None}
        buffer = io.BytesIO()
        with _style():
            figure.savefig(buffer, format=name, dpi=_DPI, metadata=without_date)
        made[name] = buffer.getvalue()
    return made


def maps_print(
    delta: np.ndarray,
    classes: Sequence[str],
    *,
    prefix: int | None = None,
    only: int | None = None,
    title: str = "",
) -> "Figure":
    """Draw maps of Δ, (classes, layers, query, key), a row a class, layers side by side.

    `only` is the one class to be drawn, on the scale of all. Lines divide prefix and suffix, halves
    unless `prefix` is given.
    """
    n_layers, length = delta.shape[1], delta.shape[-1]
    prefix = length // 2 if prefix is None else prefix
    scaled = np.where(np.tri(length, dtype=bool), charts.scale_by_layer(delta), np.nan)
    shown = range(len(classes)) if only is None else [only]
    columns = min(n_layers, charts.MOST_LAYERS_IN_A_ROW)
    rows_a_class = -(-n_layers // columns)
    n_rows = len(shown) * rows_a_class
    with _style():
        figure, axes, side = _grid(n_rows, columns)
        for number, index in enumerate(shown):
            for place in range(rows_a_class * columns):
                ax = axes[number * rows_a_class + place // columns, place % columns]
                if place >= n_layers:
                    ax.axis("off")
                    continue
                image = _draw_map(ax, scaled[index, place], prefix)
                if number == 0 or rows_a_class > 1:
                    ax.set_title(f"layer {place + 1}", fontsize=7, pad=2)
                if place % columns == 0:
                    ax.set_ylabel(f"{classes[index]}\nquery" if place == 0 else "query")
                has_map_below = number < len(shown) - 1 or place + columns < n_layers
                ax.tick_params(labelleft=place % columns == 0, labelbottom=not has_map_below)
                if number * rows_a_class + place // columns == n_rows - 1:
                    ax.set_xlabel("key", labelpad=1)
        bar = figure.colorbar(image, cax=figure.add_axes(side))
        bar.set_label("Δ, share of the layer's maximum over the classes")
        if title:
            figure.suptitle(title, fontsize=9)
    return figure


def chart_print(panels: Mapping[str, charts.Drawing], title: str = "") -> "Figure":
    """Draw charts of lines side by side, each under its name, with the page's strokes."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(_WIDTH_INCHES, 3.2), layout="constrained", dpi=_DPI)
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for ax, (name, panel) in zip(axes, panels.items(), strict=True):
            ax.set_xlabel(panel.chart.x_label)
            ax.set_title(name, fontsize=8)
            ax.spines[["top", "right"]].set_visible(False)
            _draw_lines(ax, panel)
        first = next(iter(panels.values()))
        axes[0].set_ylabel(first.chart.y_label)
        if title:
            figure.suptitle(title, fontsize=9)
    return figure


@contextmanager
def _style() -> Iterator[None]:
    """Sizes for print, for what is drawn within; Matplotlib's own settings stay."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def _grid(n_rows: int, columns: int) -> tuple["Figure", Any, tuple[float, float, float, float]]:
    """Square panels at fixed places (finding places for 144 takes minutes), and the bar's place."""
    from matplotlib.figure import Figure

    left, right, top, bottom, gap = 0.6, 0.75, 0.5, 0.4, 0.28  # inches
    side = (_WIDTH_INCHES - left - right - (columns - 1) * gap) / columns
    height = top + bottom + n_rows * side + (n_rows - 1) * gap
    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=_DPI)
    places = {
        "left": left / _WIDTH_INCHES,
        "right": 1 - right / _WIDTH_INCHES,
        "top": 1 - top / height,
        "bottom": bottom / height,
        "wspace": gap / side,
        "hspace": gap / side,
    }
    axes = figure.subplots(n_rows, columns, squeeze=False, gridspec_kw=places)
    tall = places["top"] - places["bottom"]
    return figure, axes, (places["right"] + 0.015, places["bottom"], 0.012, tall)


def _draw_map(ax: "Axes", values: np.ndarray, prefix: int) -> Any:
    """Draw one map, tokens counted from 1, lines between prefix and suffix."""
    from matplotlib.colors import ListedColormap

    length, border = len(values), prefix + 0.5
    image = ax.imshow(
        values,
        cmap=ListedColormap(charts.map_ramp(np.linspace(0, 1, _SHADES))),
        vmin=0,
        vmax=1,
        extent=(0.5, length + 0.5, length + 0.5, 0.5),
        interpolation="nearest",
    )
    ax.plot([border, border], [border, length + 0.5], color=charts.LIGHT["muted"], lw=0.4, ls=":")
    ax.plot([0.5, border], [border, border], color=charts.LIGHT["muted"], lw=0.4, ls=":")
    ax.set_xticks([1, prefix, length])
    ax.set_yticks([1, prefix, length])
    ax.tick_params(labelsize=5, length=2, pad=1)
    return image


def _draw_lines(ax: "Axes", drawing: charts.Drawing) -> None:
    """Draw the series of a chart in per cent, intervals as bands; single points as marks."""
    chart, n_series = drawing.chart, len(drawing.chart.series)
    for place, (series, stroke) in enumerate(zip(chart.series, drawing.strokes, strict=True)):
        colour = charts.LIGHT["other" if stroke.colour is None else f"class-{stroke.colour}"]
        marker: str | None = None
        width, x = 1.8 if stroke.is_main else 1.0, np.array(series.x, float)
        y, low, high = (100 * np.array(one, float) for one in (series.y, series.low, series.high))
        if len(x) == 1:  # a curve of one point is no line: side by side, each its mark
            x = x * _APART ** (place - (n_series - 1) / 2)
            marker = _MARKS[place % len(_MARKS)]
            ax.vlines(x, low, high, color=colour, lw=0.6)
        dash = _LINES[stroke.dash]
        ax.plot(
            x, y, lw=width, label=series.name, color=colour, ls=dash, marker=marker, ms=3 * width
        )
        if len(low):
            ax.fill_between(x, low, high, color=colour, alpha=0.08, lw=0)
    if chart.log_x:
        ax.set_xscale("log")
    ax.set_xticks(drawing.ticks, [f"{one:g}" for one in drawing.ticks])
    ax.minorticks_off()
    ax.set_ylim(-3, 105)
    ax.legend(frameon=False, fontsize=5.5, loc="upper center", bbox_to_anchor=(0.5, -0.26))


def _write(stem: Path, made: dict[str, bytes]) -> Iterator[Path]:
    for ending, data in made.items():
        path = stem.with_name(f"{stem.name}.{ending}")
        write_bytes(path, data)
        yield path


def _slug(name: str) -> str:
    """A sample's name as part of a file name: `Non-Memo, Recite[5], Recollect`, dashes between."""
    return re.sub(r"[^\w.]+", "-", name).strip("-").lower()
