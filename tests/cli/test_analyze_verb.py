"""The verb analyze: lists, refuses in one line, stores, does nothing twice, is in the report."""

import json
import re
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mnemoscope.analysis.registry import ENTRIES, NEEDS, USES


@pytest.fixture
def study(study_at) -> Path:
    return study_at("report")


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_list_says_what_each_answers_and_needs(succeed):
    result = succeed("analyze", "--list")
    said = " ".join(result.out.split())
    for word in (*(entry.name for entry in ENTRIES), *NEEDS, *USES):
        assert word in said


def test_an_analysis_is_stored_shown_and_not_made_twice(study, tiny, call, succeed):
    """`levels` of a model and itself; a changed setting makes it anew, the same one does not."""
    arguments = ("analyze", "levels", study, "--second", tiny.model, "--set", "n_sequences=12")
    first = succeed(*arguments, "-q")
    assert "100.0 %" in first.out or "nothing that could stay" in first.out
    folder = study / "analysis" / "levels"
    stored = json.loads((folder / "result.json").read_text())
    assert stored["settings"]["n_sequences"] == 12
    assert stored["settings"]["seed"] == 0
    # 12 rows decoded by the second model, and those of whom the study knows no score by its own
    assert 12 <= stored["forward_passes"] <= 24
    assert {f"{name}.parquet" for name in stored["frames"]} == {
        path.name for path in folder.glob("*.parquet")
    }
    page = (study / "report.html").read_text(encoding="utf-8")
    assert stored["sentence"].split(",")[0] in page
    assert 'id="analysis-1"' in page
    before = stamps(folder)
    again = call(*arguments, "-q")
    assert "nothing to do" in again.out
    assert stamps(folder) == before
    succeed(*arguments, "--seed", "1", "-q")
    assert stamps(folder) != before
    assert json.loads((folder / "result.json").read_text())["settings"]["seed"] == 1
    # the model against itself: everything stays where it was
    moved = pl.read_parquet(folder / "transitions.parquet").filter(pl.col("n") > 0)
    assert (moved["from"] == moved["to"]).all()


def test_the_cost_is_said_before_and_a_dry_run_runs_nothing(study, tiny, succeed, refused):
    there = stamps(study)
    arguments = ("analyze", "levels", study, "--second", tiny.model, "--set", "n_sequences=12")
    said = succeed(*arguments, "--dry-run").out
    pattern = r"(\w+): at most ([\d,]+) sequences through a model, about .* not counted\."
    foretold = int(re.fullmatch(pattern, said.strip())[2])
    lines = succeed("analyze", "all", study, "--dry-run").out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*(one.name for one in ENTRIES), "all"]
    found = {
        one[1]: int(one[2].replace(",", "")) for one in map(re.compile(pattern).match, lines) if one
    }
    assert found.pop("all") == sum(found.values()) > 0
    assert "needs a student" in refused("analyze", "distilled", study, "--dry-run")
    assert stamps(study) == there
    done = succeed(*arguments)
    assert said in done.err
    assert f" {foretold:,} sequences through a model." in done.out
    assert succeed(*arguments, "--dry-run").out == "levels: nothing goes through a model.\n"


def test_another_sentence_model_in_the_same_folder_makes_the_copies_anew(
    study, call, succeed, tmp_path, monkeypatch
):
    encoder = types.SimpleNamespace(encode=lambda texts, **_: np.eye(len(texts))[:, :4])
    library = types.SimpleNamespace(SentenceTransformer=lambda _: encoder)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    model = tmp_path / "sentences"
    model.mkdir()
    (model / "modules.json").write_text("[]")
    brief = ("--set", "n_sequences=12", "--set", "n_resamples=50", "-q")
    arguments = ("analyze", "copying", study, "--set", f"sentence_model={model}", *brief)
    succeed(*arguments)
    assert "nothing to do" in call(*arguments).out
    (model / "modules.json").write_text("[ ]")
    assert "nothing to do" not in call(*arguments).out


def test_what_is_lacking_is_said_with_the_remedy(study, refused):
    settings = study / "study.yaml"
    lines = settings.read_text().splitlines()
    kept = ["  reference: null" if one.startswith("  reference:") else one for one in lines]
    settings.write_text("\n".join(kept))
    there = set(study.glob("analysis/*"))  # of a test before, by the study that this is a copy of
    assert "--second MODEL" in refused("analyze", "levels", study)
    assert set(study.glob("analysis/*")) == there


def test_every_analysis_names_the_stage_that_a_bare_study_lacks(
    study_at, tiny_studies, refused, succeed
):
    """What needs features or classes says so of a study that was only continued."""
    begun, continued = study_at("sequences"), tiny_studies["continue"]
    stages = {"features": "features", "classes": "label"}
    judging = [entry for entry in ENTRIES if "scores" in entry.needs]
    for entry in judging:
        said = refused("analyze", entry.name, begun)
        assert f"needs memorization scores. Run 'mnemoscope continue {begun}' first." in said
        if first := next((stages[need] for need in entry.needs if need in stages), None):
            said = refused("analyze", entry.name, continued)
            assert f"'mnemoscope {first} {continued}' first" in said
    result = succeed("analyze", "all", begun, "-q")
    lines = result.out.strip().splitlines()
    assert [line.partition(":")[0] for line in lines] == [entry.name for entry in ENTRIES]
    assert all(": left out. " in line for line in lines)
    assert sum("needs memorization scores. Run" in line for line in lines) == len(judging)
    assert not (begun / "analysis").exists()


def test_a_checkpoint_missing_in_the_middle_is_said(study, tiny, tmp_path, succeed, refused):
    for step in (100, 200, 300, 500):
        shutil.copytree(tiny.model, tmp_path / "run" / f"checkpoint-{step}")
    arguments = ("analyze", "levels", study, "--set", "n_sequences=10", "-q", "--checkpoint")
    result = succeed(*arguments, tmp_path / "run")
    assert "No check of step 400:" in result.out
    stored = json.loads((study / "analysis" / "levels" / "result.json").read_text())
    assert any("No check of step 400:" in line for line in stored["further"])
    (tmp_path / "run" / "checkpoint-400").mkdir()
    assert "checkpoint-400: holds no model" in refused(*arguments, tmp_path / "run")
