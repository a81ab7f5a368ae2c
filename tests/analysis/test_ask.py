"""`ms.analyze`: the same frames as the study keeps, and pictures that are well-formed SVG."""

from xml.etree import ElementTree

import polars as pl
import pytest

import mnemoscope as ms
from mnemoscope.analysis.figures import Chart, HeatMap, Series
from mnemoscope.errors import UserError
from mnemoscope.report.charts import Flow, sankey_view
from mnemoscope.report.notebook import draw_figure

SVG = "{http://www.w3.org/2000/svg}"


def test_an_analysis_gives_its_frames_and_pictures(own_study) -> None:
    study = ms.Study(own_study)
    asked = {"prompt_lengths": [32], "n_sequences": 40}
    found = ms.analyze(study, "length", **asked)
    for name, frame in found.frames.items():
        assert frame.equals(pl.read_parquet(found.folder / f"{name}.parquet"))
    assert found.figure is found.figures[0]
    for picture in found.figures:
        assert ElementTree.fromstring(picture.svg).tag == f"{SVG}svg"
    assert "<img" in found._repr_html_()
    record = found.folder / "result.json"
    before = record.stat().st_mtime_ns
    again = ms.analyze(study.folder, "length", **asked)
    assert (again.sentence, record.stat().st_mtime_ns) == (found.sentence, before)
    for name, values, said in (
        ("length", {"prompt_length": [32]}, "Did you mean 'prompt_lengths'"),
        ("predict", {"second": "other"}, "this analysis does not use it"),
        ("lenght", {}, "no such analysis"),
    ):
        with pytest.raises(UserError, match=said):
            ms.analyze(study, name, **values)


def test_every_form_of_a_figure_is_drawn() -> None:
    series = tuple(
        Series(name=f"series {n}", x=(0, 1), y=(0.2, 0.4 + n / 10), low=(0.1, 0.3), high=(0.3, 0.9))
        for n in range(6)
    )
    for form in ("line", "points", "bars"):
        chart = Chart(title="A & B", series=series, form=form, x_names=("one", "two"), percent=True)
        drawn = ElementTree.fromstring(draw_figure(chart).svg)
        words = [one.text for one in drawn.iter(f"{SVG}text")]
        assert {"A & B", *(one.name for one in series)} <= set(words)
        inside = float(drawn.get("height"))
        for group in drawn.findall(f"{SVG}g"):
            _, y = group.get("transform").removeprefix("translate(").rstrip(")").split()
            assert 0 < float(y) < inside
    names = {"row_names": ("a", "b"), "column_names": ("c", "d")}
    heat = HeatMap(title="counts", values=((1, None), (3, 4)), **names)
    drawn = ElementTree.fromstring(draw_figure(heat).svg)
    assert sum(one.get("class") == "heat" for one in drawn.iter(f"{SVG}rect")) == 3


def test_the_flow_between_the_taxonomies_is_whole(own_study) -> None:
    """Ribbons of a Sankey diagram are as thick as the shares, on both sides."""
    study = ms.Study(own_study)
    found = study.allocation()
    assert found["n"].sum() == study.sequences["is_memorized"].sum() == 160
    drawn = ElementTree.fromstring(ms.allocation_figure(study).svg)
    bars = [(one.get("class") or "").startswith("column") for one in drawn.iter(f"{SVG}rect")]
    assert sum(bars) == 5
    view = sankey_view([Flow("a", "c", 0.25), Flow("a", "d", 0.25), Flow("b", "d", 0.5)])
    heights = {node["name"]: node["height"] for node in view.nodes}
    assert heights["a"] == pytest.approx(heights["b"])
    assert heights["d"] == pytest.approx(3 * heights["c"])
    assert len(view.ribbons) == 3
