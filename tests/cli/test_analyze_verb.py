"""The verb analyze: lists, refuses in one line, stores, does nothing twice, is in the report."""

import json
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


def test_the_list_says_what_each_answers_and_needs(call) -> None:
    result = call("analyze", "--list")
    assert result.status == 0
    said = " ".join(result.out.split())
    for word in (*(entry.name for entry in ENTRIES), *NEEDS, *USES):
        assert word in said


def test_an_analysis_is_stored_shown_and_not_made_twice(study, tiny, call) -> None:
    """`levels` of a model and itself; a changed setting makes it anew, the same one does not."""
    arguments = ("analyze", "levels", study, "--second", tiny.model, "--set", "n_sequences=12")
    first = call(*arguments, "-q")
    assert first.status == 0, first.err
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
    other = call(*arguments, "--seed", "1", "-q")
    assert other.status == 0
    assert stamps(folder) != before
    assert json.loads((folder / "result.json").read_text())["settings"]["seed"] == 1
    # the model against itself: everything stays where it was
    moved = pl.read_parquet(folder / "transitions.parquet").filter(pl.col("n") > 0)
    assert (moved["from"] == moved["to"]).all()


def test_another_sentence_model_in_the_same_folder_makes_the_copies_anew(
    study, call, tmp_path, monkeypatch
) -> None:
    class Encoder:
        def __init__(self, name: str) -> None: ...

        def encode(self, texts, *, normalize_embeddings: bool):
            return np.eye(len(texts))[:, :4]

    library = types.SimpleNamespace(SentenceTransformer=Encoder)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    model = tmp_path / "sentences"
    model.mkdir()
    (model / "modules.json").write_text("[]")
    brief = ("--set", "n_sequences=12", "--set", "n_resamples=50", "-q")
    arguments = ("analyze", "copying", study, "--set", f"sentence_model={model}", *brief)
    assert call(*arguments).status == 0
    assert "nothing to do" in call(*arguments).out
    (model / "modules.json").write_text("[ ]")
    assert "nothing to do" not in call(*arguments).out


def test_what_is_lacking_is_said_with_the_remedy(study, refused) -> None:
    for arguments in ((), ("levels",)):
        assert "--list" in refused("analyze", *arguments)
    settings = study / "study.yaml"
    lines = settings.read_text().splitlines()
    kept = ["  reference: null" if one.startswith("  reference:") else one for one in lines]
    settings.write_text("\n".join(kept))
    there = set(study.glob("analysis/*"))  # of a test before, by the study that this is a copy of
    assert "--second MODEL" in refused("analyze", "levels", study)
    assert set(study.glob("analysis/*")) == there


def test_every_analysis_names_the_stage_that_a_bare_study_lacks(
    study_at, tiny_studies, refused, call
) -> None:
    """What needs features or classes says so of a study that was only continued."""
    begun, continued = study_at("sequences"), tiny_studies["continue"]
    stages = {"features": "features", "classes": "label"}
    for entry in ENTRIES:
        said = refused("analyze", entry.name, begun)
        assert f"needs memorization scores. Run 'mnemoscope continue {begun}' first." in said
        if first := next((stages[need] for need in entry.needs if need in stages), None):
            said = refused("analyze", entry.name, continued)
            assert f"'mnemoscope {first} {continued}' first" in said
    result = call("analyze", "all", begun, "-q")
    assert result.status == 0
    lines = result.out.strip().splitlines()
    assert [line.partition(":")[0] for line in lines] == [entry.name for entry in ENTRIES]
    assert all("left out. needs memorization scores. Run" in line for line in lines)
    assert not (begun / "analysis").exists()


def test_a_second_model_of_another_tokenizer_is_refused(study, tiny, tmp_path, refused) -> None:
    from transformers import PreTrainedTokenizerFast

    other = shutil.copytree(tiny.model, tmp_path / "other")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(other)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(other)
    for option in ("--second", "--checkpoint"):
        assert "uses a different tokenizer" in refused(
            "analyze", "levels", study, option, other, "-q"
        )
    assert not (study / "analysis" / "levels").exists()


def test_a_checkpoint_missing_in_the_middle_is_said(study, tiny, tmp_path, call, refused) -> None:
    for step in (100, 200, 300, 500):
        shutil.copytree(tiny.model, tmp_path / "run" / f"checkpoint-{step}")
    arguments = ("analyze", "levels", study, "--set", "n_sequences=10", "-q", "--checkpoint")
    result = call(*arguments, tmp_path / "run")
    assert result.status == 0, result.err
    assert "No check of step 400:" in result.out
    stored = json.loads((study / "analysis" / "levels" / "result.json").read_text())
    assert any("No check of step 400:" in line for line in stored["further"])
    (tmp_path / "run" / "checkpoint-400").mkdir()
    assert "checkpoint-400: holds no model" in refused(*arguments, tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("levles",), "Did you mean 'levels'"),
        (("boundary", "--set", "tolerance=0.5"), "less than 0.125"),
        (("dynamics", "--set", "threshold=.nan"), "finite number"),
        (("psmi", "--set", "max_directions=700"), "multiple of 500"),
        (("levels", "--second", "nowhere/at-all-that-is"), "nowhere"),
        (("levels", "--second", "a", "--checkpoint", "b"), "Give one of them"),
        (("boundary", "--corpus", "not-there"), "not-there"),
        (("predict", "--second", "a"), "--second: this analysis does not use it. Leave it out"),
        (("predict", "--checkpoint", "a"), "--checkpoint: this analysis does not use it"),
        (("levels", "--corpus", "not-there"), "--corpus: this analysis does not use it"),
        (("boundary", "--set", "minimum=1000"), "1000 are needed"),
        (("predict", "--set", "minimum=1000"), "1000 of each are needed"),
        (("predict", "--set", "taxonomy=Foo"), "Foo"),
        (("dependencies", "--set", "minimum=1000"), "1000 of each are needed"),
        (("all", "--set", "seed=3"), "of one analysis"),
        (("distilled",), "needs a student of the study's model, and a control"),
        (("distilled", "--student", "a"), "give them: --student MODEL --control MODEL"),
        (("levels", "--student", "a"), "--student: this analysis does not use it"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tiny_studies, refused, arguments, said) -> None:
    (name, *rest), study = arguments, tiny_studies["report"]
    assert said in refused("analyze", name, study, *rest)
    assert not (study / "analysis" / name).exists()
