"""Figures for paper are the notebook's, in three formats, the same bytes every time."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from mnemoscope.errors import UserError
from mnemoscope.localize.regions import layer_profile
from mnemoscope.report.charts import CutCurve, CutPanel, knockout_drawing, profile_drawing
from mnemoscope.report.pictures import check_print, draw_charts
from mnemoscope.stats import Estimate

CLASSES = ("Non-Memo", "Guess", "Recall")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def delta(build_delta) -> np.ndarray:
    return build_delta(3, 2, seed=0, length=16)


def test_every_format_is_what_its_name_says_and_repeats_to_the_byte(delta) -> None:
    drawing = profile_drawing(CLASSES, layer_profile(delta))
    picture = draw_charts({"model": drawing, "reference model": drawing}, "ΣΔ of a < b")
    first, again = picture.printed(), picture.printed()
    assert first == again
    assert first["pdf"].startswith(b"%PDF-")
    assert first["png"].startswith(b"\x89PNG")
    width = int.from_bytes(first["png"][16:20], "big")
    assert width == 7 * 300  # inches, dots an inch
    svg = first["svg"].decode("utf-8")
    ElementTree.fromstring(svg)
    # Programs for print know neither variables nor themes.
    assert not re.search(r"var\(|@media|--\w", svg)


def curves(element: ElementTree.Element) -> list[ElementTree.Element]:
    return [one for one in element.iter(f"{SVG}polyline") if "curve" in one.get("class", "")]


def knockout(*survived: tuple[float, float], name: str = "Guess"):
    """Two curves of one class, (strength, survival) each."""
    points = [
        {"strength": strength, "survival": Estimate(value, value - 0.1, value + 0.1)}
        for strength, value in survived
    ]
    cuts = [
        CutCurve("decisive", "Guess", "Guess's", points),
        CutCurve("random", "", "random edges", points),
    ]
    return knockout_drawing(CutPanel(name, 40, cuts), CLASSES)


def test_survival_is_drawn_by_strength_and_one_strength_alone_is_seen() -> None:
    survived = ((0.1, 0.9), (1.0, 0.6), (10.0, 0.2))
    panels = {one: knockout(*survived, name=one) for one in CLASSES[1:]}
    root = ElementTree.fromstring(draw_charts(panels, "cuts").svg)
    drawn = [one for one in curves(root) if one.get("points")]
    assert ["own" in one.get("class") for one in drawn] == [True, False, False, False]
    places = [float(one.split(",")[0]) for one in drawn[0].get("points").split()]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)  # logarithmic
    said = [one.text for one in root.iter(f"{SVG}title")]
    assert [one for one in said if one.startswith("Guess's")] == [
        f"Guess's, {x}: {y} [{y - 10}, {y + 10}]" for x, y in ((0.1, 90), (1, 60), (10, 20))
    ] * 2
    # A line through one point draws nothing: each curve is a point beside the others.
    root = ElementTree.fromstring(draw_charts({"Guess": knockout((1.0, 0.6))}, "cut").svg)
    points = [one for one in root.iter(f"{SVG}circle") if one.find(f"{SVG}title") is not None]
    assert len(points) == 2
    assert len({one.get("cx") for one in points}) == 2
    assert len({one.get("cy") for one in points}) == 1
    assert points[0].find(f"{SVG}title").text == "Guess's, 1: 60 [50, 70]"
    assert not curves(root)


def test_without_typst_the_way_to_it_is_said(hide) -> None:
    hide("typst")
    with pytest.raises(UserError, match="typst: pip install 'typst"):
        check_print()
