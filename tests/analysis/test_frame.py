"""The one shape of all analyses: figures through JSON, settings, entries, refusals, resuming."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version

import polars as pl
import pytest
from pydantic import TypeAdapter, ValidationError

from mnemoscope.analysis import registry
from mnemoscope.analysis.figures import Chart, HeatMap, Series, bars_by, plain, series_by
from mnemoscope.analysis.inputs import (
    AnalysisResult,
    AnalysisSettings,
    Forwards,
    OtherModel,
)
from mnemoscope.analysis.registry import (
    ENTRIES,
    NEEDS,
    USES,
    entry_named,
    load_result,
    read_frames,
    result_folder,
    run_analysis,
    store_result,
)
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.lm.load import load_model
from mnemoscope.lm.probe import suffix_logprobs
from mnemoscope.report.charts import chart_view, heat_view
from mnemoscope.study.folder import Study, versions

ENDS = {"low": (0.0, None, 0.8), "high": (0.2, None, 1.0)}
SERIES = Series(name="a", x=(0.0, 1.0, 2.0), y=(0.1, None, 0.9), **ENDS)
CHART = Chart(title="Shares", series=(SERIES,), x_names=("x", "y", "z"), percent=True)
NAMES = {"row_names": ("r", "s"), "column_names": ("c", "d")}
HEAT = HeatMap(title="T", values=((0.5, None), (-1.0, 0.0)), **NAMES, diverging=True)


def test_figures_go_through_json_unchanged_and_refuse_what_does_not_fit_together() -> None:
    for figure in (CHART, HEAT):
        text = json.dumps(figure.model_dump(mode="json"))
        assert TypeAdapter(Chart | HeatMap).validate_json(text) == figure
    with pytest.raises(ValidationError, match="differ in length"):
        Series(name="a", x=(1.0,), y=(1.0, 2.0))
    with pytest.raises(ValidationError, match="differ in number"):
        HeatMap(title="T", values=((1.0,),), **NAMES)
    with pytest.raises(ValidationError, match="logarithmic"):
        Chart(title="T", series=(SERIES,), log_x=True)
    assert plain([1, float("inf"), float("nan")]) == (1.0, None, None)


def test_the_number_of_sequences_stands_where_a_line_or_a_bar_is_of_a_class() -> None:
    rows = pl.DataFrame({"class": ["A", "A", "B", "B"], "at": ["x", "y", "x", "y"]})
    rows = rows.with_columns(
        share=pl.Series([0.1, 0.2, 0.3, 0.4]), n=pl.Series([40, 40, 1200, 1200])
    )

    def names(chart: Chart) -> tuple[list[str], tuple[str, ...]]:
        return [one.name for one in chart.series], chart.x_names

    by_class = names(bars_by("T", rows, "class", "share", at="at"))
    assert by_class == (["A (n 40)", "B (n 1,200)"], ("x", "y"))
    counted = ("A (n 40)", "B (n 1,200)")
    assert names(bars_by("T", rows, "at", "share", at="class")) == (["x", "y"], counted)
    same = rows.with_columns(n=40)  # of the class, not of x and y
    assert names(bars_by("T", same, "at", "share", at="class"))[0] == ["x", "y"]
    parts = rows.with_columns(of=pl.Series([50, 50, 60, 60]), n=pl.Series([1, 2, 3, 4]))
    assert [one.name for one in series_by(parts, "class", "share")] == ["A (n 50)", "B (n 60)"]
    unlike = rows.with_columns(n=pl.Series([1, 2, 3, 4]))
    ranges = (["A (n 1–2)", "B (n 3–4)"], ("x", "y"))
    assert names(bars_by("T", unlike, "class", "share", at="at")) == ranges
    at_bars = rows.with_columns(n=pl.Series([1, 2, 1, 2]))
    of_bars = (["A", "B"], ("x (n 1)", "y (n 2)"))
    assert names(bars_by("T", at_bars, "class", "share", at="at")) == of_bars


def test_a_chart_is_placed_upright_and_a_gap_ends_a_curve() -> None:
    view = chart_view(CHART)
    assert [len(run) for run in view.series[0].runs] == [1, 1]
    first, last = view.series[0].points
    assert first.y > last.y  # SVG counts from the top
    assert first.low > first.y > first.high
    assert 58 < first.x < last.x < 626
    assert [tick.text for tick in view.y_ticks] == ["0", "20", "40", "60", "80", "100"]
    assert "[80, 100]" in last.text
    assert [cell["strength"] for cell in heat_view(HEAT)["cells"]] == [0.5, -1.0, 0.0]


def test_every_entry_has_its_module_settings_source_and_known_needs() -> None:
    for entry in ENTRIES:
        module = entry.module()
        assert "Source:" in module.__doc__
        assert "arXiv" in entry.source
        assert set(entry.uses) <= set(USES) - set(entry.needs)
        described = module.Settings.model_fields.values()
        assert all(field.description for field in described), entry.name
    assert {need for entry in ENTRIES for need in entry.needs} == set(NEEDS)  # no need unused
    assert {use for entry in ENTRIES for use in entry.uses} == set(USES)
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("fails", [False, True])
def test_an_analysis_leaves_no_counter_on_the_models(taught, monkeypatch, fails) -> None:
    own, other = (load_model(taught.load_model().name) for _ in range(2))
    others = (OtherModel("other", lambda: other),)
    inputs = replace(taught, load_model=lambda: own, others=others, forwards=Forwards())

    def analysed(_entry, given, _settings) -> AnalysisResult:
        for _ in range(2):
            for _, one in given.models():
                suffix_logprobs(one, [[1] * 8] * 5, batch_size=2, prefix=4)
        if fails:
            raise UserError("too few")
        return AnalysisResult("It is so.", {})

    monkeypatch.setattr(registry, "_analysed", analysed)
    before = [set(vars(one.model.base_model)) for one in (own, other)]
    entry = replace(entry_named("levels"), each_model=False)
    with pytest.raises(UserError, match="too few") if fails else nullcontext():
        run_analysis(entry, inputs, AnalysisSettings())
    assert inputs.forwards.n == 20
    for one, names in zip((own, other), before, strict=True):
        assert not one.model.base_model._forward_pre_hooks
        assert set(vars(one.model.base_model)) == names


def test_a_result_is_stored_whole_and_read_back(own_study, tmp_path) -> None:
    of = Study(shutil.copytree(own_study, tmp_path / "study")), entry_named("levels")
    folder = result_folder(*of)
    shutil.rmtree(folder, ignore_errors=True)
    result = AnalysisResult("It is so.", {"t": pl.DataFrame({"a": [1, 2]})}, (CHART, HEAT))
    facts = {"key": "k", "settings": {"seed": 0}, "inputs": {}}
    assert load_result(*of) is None
    store_result(*of, result, **facts)
    again = replace(result, frames={"u": pl.DataFrame({"a": [1]})}, libraries=("rapidfuzz",))
    store_result(*of, again, **facts)  # another run's tables do not stay
    assert sorted(path.name for path in folder.iterdir()) == ["result.json", "u.parquet"]
    stored = load_result(*of)
    assert stored is not None
    assert stored.figures == (CHART, HEAT)
    assert stored.frames == {"u": 1}
    assert stored.versions == versions() | {"rapidfuzz": version("rapidfuzz")}
    assert {"scipy", "torch"} < set(versions())
    assert read_frames(*of, stored)["u"].equals(again.frames["u"])
    (folder / "result.json").write_text("{")
    with pytest.raises(DamagedDataError, match="run 'mnemoscope analyze"):
        load_result(*of)
