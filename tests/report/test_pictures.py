"""Figures for notebooks and the standalone picture show the same numbers as the page."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from mnemoscope import report
from mnemoscope.localize.regions import layer_profile
from mnemoscope.report import content as c
from mnemoscope.report.charts import scale_by_layer
from mnemoscope.report.figures import benchmark_figure, delta_figure, layer_profile_figure
from mnemoscope.report.picture import render_svg, write_svg

SVG = "{http://www.w3.org/2000/svg}"


def test_the_benchmark_figure_holds_every_source_and_the_band(content: c.ReportContent) -> None:
    figure = benchmark_figure(content.taxonomies)
    assert len(figure.data) == 14
    model = next(trace for trace in figure.data if trace.y[0].startswith("CNNs"))
    assert model.x[0] == pytest.approx(31.2)
    assert model.error_x.arrayminus[0] == pytest.approx(4.0)
    bands = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert [shape.x1 for shape in bands] == pytest.approx([43.0, 43.1])


def test_a_figure_of_nothing_is_refused(content: c.ReportContent) -> None:
    empty = c.TaxonomyResult("Non-Memo, Others", ())
    with pytest.raises(ValueError, match="nothing to draw"):
        benchmark_figure([empty])
    with pytest.raises(ValueError, match="nothing to draw"):
        render_svg(replace(content, taxonomies=(empty,)))


def test_the_delta_figure_shows_the_scaled_layer_and_can_change_it(build_delta) -> None:
    delta = build_delta(3, 4, seed=1)
    figure = delta_figure(delta, ["a", "b", "c"], layer=1)
    below = np.tri(64, dtype=bool)
    np.testing.assert_array_equal(figure.data[2].z[below], scale_by_layer(delta)[2, 1][below])
    assert np.isnan(figure.data[2].z[~below]).all()
    (slider,) = figure.layout.sliders
    assert (len(slider.steps), slider.active) == (4, 1)
    with pytest.raises(ValueError, match="delta has shape"):
        delta_figure(delta, ["a", "b"])


def test_the_layer_profile_figure_is_the_profile(build_delta) -> None:
    delta = build_delta(3, 4, seed=1)
    figure = layer_profile_figure(delta, ["a", "b", "c"])
    shown = np.array([trace.y for trace in figure.data])
    np.testing.assert_allclose(shown, 100 * layer_profile(delta))
    assert list(figure.data[0].x) == [1, 2, 3, 4]
    again = layer_profile_figure(layer_profile(delta), ["a", "b", "c"])
    assert again.to_json() == figure.to_json()


def test_the_picture_is_well_formed_and_needs_nothing(
    tmp_path, content: c.ReportContent, build_taxonomy
) -> None:
    hostile = replace(content, taxonomies=(build_taxonomy(("A<b", '"c"', "d&"), title="<x>&"),))
    for each in (content, hostile):
        write_svg(tmp_path / "picture.svg", each)
        text = (tmp_path / "picture.svg").read_text("utf-8")
        root = ElementTree.fromstring(text)
        images = [image.get("href") for image in root.iter(f"{SVG}image")]
        assert len(images) == sum(len(t.classes) for t in each.taxonomies)
        assert all(address.startswith("data:image/png;base64,") for address in images)
        outside = re.findall(r"https?://[^\s\"']+", text)
        assert set(outside) == {"http://www.w3.org/2000/svg"}
        assert "prefers-color-scheme: dark" in text
        assert not list(root.iter(f"{SVG}script"))


def test_the_pictures_dot_stands_where_the_page_has_it(content: c.ReportContent) -> None:
    root = ElementTree.fromstring(render_svg(content))
    panel = root.find(f"{SVG}g")
    grid = [
        float(line.get("x1")) for line in panel.iter(f"{SVG}line") if line.get("class") == "grid"
    ]
    dot = next(g for g in panel.iter(f"{SVG}g") if g.find(f"{SVG}circle") is not None)
    x = float(re.match(r"translate\(([\d.]+)", dot.get("transform")).group(1))
    # coordinates are printed to a tenth of a pixel, the axis is 230 px long
    assert (x - grid[0]) / (grid[-1] - grid[0]) == pytest.approx(0.312, abs=0.001)


def test_every_public_name_can_be_had() -> None:
    assert all(getattr(report, name) is not None for name in report.__all__)
    with pytest.raises(AttributeError):
        _ = report.absent
