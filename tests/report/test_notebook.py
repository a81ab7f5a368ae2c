"""Pictures for a notebook show the page's numbers and need nothing else."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from mnemoscope.errors import UserError
from mnemoscope.localize.regions import layer_profile
from mnemoscope.report.charts import map_pictures, profile_drawing
from mnemoscope.report.pictures import draw_benchmarks, draw_figure, draw_maps
from tests.report.conftest import make_taxonomy

SVG = "{http://www.w3.org/2000/svg}"


def read(picture) -> ElementTree.Element:
    """The picture, once it is sure that it needs nothing from outside."""
    assert set(re.findall(r"https?://[^\s\"']+", picture.svg)) == {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme: dark" in picture.svg
    root = ElementTree.fromstring(picture.svg)
    assert not list(root.iter(f"{SVG}script"))
    return root


def test_every_taxonomy_has_its_panel_and_maps(content) -> None:
    hostile = make_taxonomy(("A<b", '"c"', "d&"), title="<x>&", n_layers=1)
    taxonomies = [*content.taxonomies, hostile]
    root = read(draw_benchmarks(taxonomies, "a <model>"))
    images = [image.get("href") for image in root.iter(f"{SVG}image")]
    assert len(images) == sum(len(one.classes) for one in taxonomies)
    assert all(address.startswith("data:image/png;base64,") for address in images)
    said = root.find(f"{SVG}desc").text
    assert "Prashanth et al.: Attention did worse than the text. CNNs 31.2" in said
    assert "<x>&: " in said
    # Each row is as wide as the axis from 0 to 1; its mark stands at the figure.
    marks = [one for one in root.iter(f"{SVG}svg") if (one.find(f"{SVG}circle") is not None)]
    assert marks[0].find(f"{SVG}circle").get("class") == "mark model"
    assert marks[0].get("x") == "31.20%"
    with pytest.raises(UserError, match="nothing to draw"):
        draw_benchmarks([replace(content.taxonomies[0], benchmarks=())], "model")


def test_every_layer_of_every_class_has_its_map(content) -> None:
    stored = content.taxonomies[0].deltas[0]
    maps = map_pictures(stored.delta)
    for only, shown in ((None, [one for of in maps for one in of]), (1, maps[1])):
        root = read(draw_maps(stored.delta, stored.classes, title="Δ", only=only))
        assert [image.get("href") for image in root.iter(f"{SVG}image")] == shown
    deep = np.concatenate([stored.delta] * 5, axis=1)
    cells = read(draw_maps(deep, stored.classes, title="Δ")).iter(f"{SVG}g")
    places = [one.get("transform") for one in cells if one.get("class") == "map-cell"]
    assert len({*places}) == len(places) == deep.shape[0] * deep.shape[1]
    assert len({one.split()[0] for one in places}) == 8  # layers in a row


def test_the_profile_is_the_pages_and_saved_whole(content, tmp_path) -> None:
    stored = content.taxonomies[0].deltas[0]
    picture = draw_figure(profile_drawing(stored.classes, layer_profile(stored.delta)))
    titles = [title.text for title in read(picture).iter(f"{SVG}title")][1:]
    shown = [float(title.rpartition(" ")[2]) for title in titles]
    assert shown == pytest.approx((100 * layer_profile(stored.delta)).ravel(), abs=0.05)
    assert picture._repr_html_().startswith('<img src="data:image/svg+xml;base64,')
    picture.save(tmp_path / "profile.svg")
    assert (tmp_path / "profile.svg").read_text("utf-8") == picture.svg == picture._repr_svg_()
