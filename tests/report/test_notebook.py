"""Pictures for a notebook show the page's numbers and need nothing else."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from mnemoscope.errors import UserError
from mnemoscope.localize.delta import layer_profile
from mnemoscope.report.charts import png_ink, png_uri, scale_by_layer
from mnemoscope.report.notebook import draw_benchmarks, draw_delta, draw_profile

SVG = "{http://www.w3.org/2000/svg}"


def read(picture) -> ElementTree.Element:
    """The picture, once it is sure that it needs nothing from outside."""
    assert set(re.findall(r"https?://[^\s\"']+", picture.svg)) == {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme: dark" in picture.svg
    root = ElementTree.fromstring(picture.svg)
    assert not list(root.iter(f"{SVG}script"))
    return root


def test_every_taxonomy_has_its_panel_and_maps(content, build_taxonomy) -> None:
    hostile = build_taxonomy(("A<b", '"c"', "d&"), title="<x>&", n_layers=1)
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


def test_every_layer_of_every_class_has_its_map(content) -> None:
    stored = content.taxonomies[0].deltas[0]
    images = [image.get("href") for image in read(draw_delta(stored)).iter(f"{SVG}image")]
    scaled = scale_by_layer(stored.delta)
    assert images == [png_uri(png_ink(one, (74, 140, 224))) for of in scaled for one in of]


def test_the_profile_is_the_pages_and_saved_whole(content, tmp_path) -> None:
    stored = content.taxonomies[0].deltas[0]
    picture = draw_profile(stored)
    titles = [title.text for title in read(picture).iter(f"{SVG}title")][1:]
    shown = [float(title.rpartition(" ")[2]) for title in titles]
    assert shown == pytest.approx((100 * layer_profile(stored.delta)).ravel(), abs=0.05)
    assert picture._repr_html_().startswith('<img src="data:image/svg+xml;base64,')
    picture.save(tmp_path / "profile.svg")
    assert (tmp_path / "profile.svg").read_text("utf-8") == picture.svg == picture._repr_svg_()
