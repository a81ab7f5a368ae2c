"""Figures for paper and for a notebook show the page's numbers and need nothing else."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from mnemoscope.errors import UserError
from mnemoscope.localize.delta import layer_profile
from mnemoscope.report.charts import (
    CutCurve,
    CutPanel,
    Drawing,
    knockout_drawing,
    png_ink,
    png_uri,
    profile_drawing,
    scale_by_layer,
)
from mnemoscope.report.export import chart_print, check_matplotlib, drawn, maps_print
from mnemoscope.report.notebook import draw_benchmarks, draw_delta, draw_profile
from mnemoscope.stats import Estimate
from tests.report.conftest import make_delta, make_taxonomy

CLASSES = ("Non-Memo", "Guess", "Recall")


@pytest.fixture(scope="module")
def delta() -> np.ndarray:
    return make_delta(3, 2, seed=0, length=16)


def profile(delta: np.ndarray) -> Drawing:
    return profile_drawing(CLASSES, layer_profile(delta))


def test_every_format_is_what_its_name_says_and_repeats_to_the_byte(delta):
    figures = [chart_print({"model": profile(delta)}) for _ in range(2)]
    first, again = (drawn(figure) for figure in figures)
    assert first == again
    assert first["svg"].lstrip().startswith(b"<?xml")
    assert first["pdf"].startswith(b"%PDF-")
    assert first["png"].startswith(b"\x89PNG")
    width = int.from_bytes(first["png"][16:20], "big")
    assert width == 7 * 300  # inches, dots an inch


def test_maps_are_the_scaled_ones_and_nothing_stands_above_the_diagonal(delta):
    figure = maps_print(delta, CLASSES)
    scaled = scale_by_layer(delta)
    causal = np.tri(16, dtype=bool)
    panels = [ax for ax in figure.axes if ax.images]
    assert len(panels) == 3 * 2
    for place, ax in enumerate(panels):
        shown = np.ma.filled(ax.images[0].get_array().astype(float), np.nan)
        np.testing.assert_array_equal(shown[causal], scaled[place // 2, place % 2][causal])
        assert np.isnan(shown[~causal]).all()
        assert ax.images[0].get_clim() == (0, 1)
    assert "maximum over the classes" in figure.axes[-1].get_ylabel()
    deep = np.concatenate([delta] * 5, axis=1)  # 10 layers: two rows
    panels = [ax for ax in maps_print(deep, CLASSES, only=2).axes if ax.images]
    assert [ax.get_title() for ax in panels] == [f"layer {n}" for n in range(1, 11)]
    # One class alone keeps the scale of all.
    assert panels[0].images[0].get_array().max() == pytest.approx(scaled[2, 0].max())


def test_the_profile_is_the_pages(delta):
    figure = chart_print({"model": profile(delta), "reference model": profile(delta[:, ::-1])})
    lines = figure.axes[0].lines
    np.testing.assert_allclose([line.get_ydata() for line in lines], 100 * layer_profile(delta))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == list(CLASSES)
    assert figure.axes[1].get_title() == "reference model"


def knockout(*survived: tuple[float, float], name: str = "Guess") -> Drawing:
    """Two curves of one class, (strength, survival) each."""
    points = [
        {"strength": strength, "survival": Estimate(value, value - 0.1, value + 0.1)}
        for strength, value in survived
    ]
    curves = [
        CutCurve("decisive", "Guess", "Guess's", points),
        CutCurve("random", "", "random edges", points),
    ]
    return knockout_drawing(CutPanel(name, 40, curves), CLASSES)


def test_survival_is_drawn_by_strength_and_one_strength_alone_is_seen():
    survived = ((0.1, 0.9), (1.0, 0.6), (10.0, 0.2))
    figure = chart_print({one: knockout(*survived, name=one) for one in CLASSES[1:]})
    for ax in figure.axes:
        assert ax.lines[0].get_xdata().tolist() == [0.1, 1.0, 10.0]
        assert ax.lines[0].get_ydata().tolist() == pytest.approx([90, 60, 20])
        assert ax.lines[0].get_color() != ax.lines[1].get_color()
    assert figure.axes[0].lines[0].get_linewidth() > figure.axes[1].lines[0].get_linewidth()
    # A line through one point draws nothing: each curve is a mark beside the others.
    (ax,) = chart_print({"Guess": knockout((1.0, 0.6))}).axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [pytest.approx([60])] * 2
    assert len({line.get_marker() for line in ax.lines} - {"None"}) == 2
    places = [line.get_xdata()[0] for line in ax.lines]
    assert places[0] < 1.0 < places[1]
    low, high = ax.get_xlim()
    assert low < places[0]
    assert places[1] < high
    assert ax.get_xticks().tolist() == [1.0]


def test_without_matplotlib_the_way_to_it_is_said(hide):
    hide("matplotlib")
    with pytest.raises(UserError, match=r"pip install 'mnemoscope\[figures\]'"):
        check_matplotlib()


SVG = "{http://www.w3.org/2000/svg}"


def read(picture) -> ElementTree.Element:
    """The picture, once it is sure that it needs nothing from outside."""
    assert set(re.findall(r"https?://[^\s\"']+", picture.svg)) == {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme: dark" in picture.svg
    root = ElementTree.fromstring(picture.svg)
    assert not list(root.iter(f"{SVG}script"))
    return root


def test_every_taxonomy_has_its_panel_and_maps(content):
    hostile = make_taxonomy(("A<b", '"c"', "d&"), title="<x>&", n_layers=1)
    taxonomies = [*content.taxonomies, hostile]
    root = read(draw_benchmarks(taxonomies, "a <model>"))
    images = [image.get("href") for image in root.iter(f"{SVG}image")]
    assert len(images) == sum(len(one.classes) for one in taxonomies)
    assert all(address.startswith("data:image/png;base64,") for address in images)
    said = root.find(f"{SVG}desc").text
    assert "Prashanth et al.: Too little beyond the text. CNNs min-F1 31.2" in said
    assert "<x>&: " in said
    panel = root.find(f"{SVG}g")
    lines = panel.iter(f"{SVG}line")
    grid = [float(line.get("x1")) for line in lines if line.get("class") == "grid"]
    dot = next(g for g in panel.iter(f"{SVG}g") if g.find(f"{SVG}circle") is not None)
    x = float(re.match(r"translate\(([\d.]+)", dot.get("transform")).group(1))
    # coordinates are printed to a tenth of a pixel, the axis is 230 px long
    assert (x - grid[0]) / (grid[-1] - grid[0]) == pytest.approx(0.312, abs=0.001)
    with pytest.raises(UserError, match="nothing to draw"):
        draw_benchmarks([replace(content.taxonomies[0], benchmarks=())], "model")


def test_every_layer_of_every_class_has_its_map(content):
    stored = content.taxonomies[0].deltas[0]
    images = [image.get("href") for image in read(draw_delta(stored)).iter(f"{SVG}image")]
    scaled = scale_by_layer(stored.delta)
    assert images == [png_uri(png_ink(one, (74, 140, 224))) for of in scaled for one in of]


def test_the_profile_is_the_pages_and_saved_whole(content, tmp_path):
    stored = content.taxonomies[0].deltas[0]
    picture = draw_profile(stored)
    titles = [title.text for title in read(picture).iter(f"{SVG}title")][1:]
    shown = [float(title.rpartition(" ")[2]) for title in titles]
    assert shown == pytest.approx((100 * layer_profile(stored.delta)).ravel(), abs=0.05)
    assert picture._repr_html_().startswith('<img src="data:image/svg+xml;base64,')
    picture.save(tmp_path / "profile.svg")
    assert (tmp_path / "profile.svg").read_text("utf-8") == picture.svg == picture._repr_svg_()
