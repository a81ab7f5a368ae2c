"""Study files that ship: found by name, valid, copied, and part of what is built."""

from pathlib import Path

import pytest

from mnemoscope.cnn.presets import PAPER_GRID, CnnSetting
from mnemoscope.pipeline.trainings import controlled_taxonomies, settings_of
from mnemoscope.study.names import find_study_file, shipped_names, shipped_path
from mnemoscope.study.settings import load_settings
from mnemoscope.taxonomy.catalogue import load_taxonomies

PYTHIA = ["pythia-12b", "pythia-2.8b", "pythia-6.9b"]


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_study_is_valid_and_commented(name) -> None:
    settings = load_settings(shipped_path(name))
    assert load_taxonomies(settings.label.taxonomies)
    controlled_taxonomies(settings)  # refuses a name that the study does not have
    text = shipped_path(name).read_text(encoding="utf-8")
    assert text.startswith("#")
    assert f"mnemoscope run {name} --dry-run" in text


@pytest.mark.parametrize("name", PYTHIA)
def test_the_papers_recipe_to_the_letter(name) -> None:
    size = name.partition("-")[2]
    settings = load_settings(shipped_path(name))
    assert settings.model.name == f"EleutherAI/pythia-{size}-deduped"
    assert (settings.sequences.source, settings.sequences.split) == (
        "usvsnsp/semantic-filters",
        f"deduped_{size}",
    )
    assert (settings.label.n_train, settings.label.n_eval) == (4000, 2000)
    assert settings.label.split == "row"
    assert settings.train.preset == "paper"
    grid = [one for one in settings_of(settings, "model") if isinstance(one, CnnSetting)]
    assert set(grid) == set(PAPER_GRID)
    assert len(settings.train.seeds) == 1
    assert len(load_taxonomies(settings.label.taxonomies)) == 54 + 27


@pytest.mark.parametrize("given", ["pythia-2.8b", "pythia-2.8b.yaml", "pythia-2.8b.yml"])
def test_a_name_that_is_no_path_is_looked_up(given, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_study_file(Path(given)) == shipped_path("pythia-2.8b")


def test_a_file_here_goes_before_a_shipped_one(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pythia-12b.yaml").write_text("title: mine\n")
    assert find_study_file(Path("pythia-12b.yaml")) == Path("pythia-12b.yaml")
    elsewhere = tmp_path / "nowhere" / "pythia-12b.yaml"
    assert find_study_file(elsewhere) == elsewhere


def test_an_unknown_name_is_refused_with_the_nearest_and_the_list(
    tmp_path, monkeypatch, refused
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused("run", "pythia-12", "--dry-run")
    assert "Did you mean 'pythia-12b'?" in line
    assert all(name in line for name in shipped_names())
    line = refused("init", "--from", "pythia-13b", "study.yaml")
    assert "Did you mean" in line
    assert list(tmp_path.iterdir()) == []


def test_init_copies_a_shipped_study_to_edit(tmp_path, monkeypatch, call, refused) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("init", "--from", "pythia-12b", "study.yaml").status == 0
    assert load_settings("study.yaml") == load_settings(shipped_path("pythia-12b"))
    assert "exists" in refused("init", "--from", "pythia-12b", "study.yaml")


def test_dry_runs_of_the_shipped_pythia_studies_need_nothing_on_disk(
    tmp_path, monkeypatch, call
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.which", lambda _name: None)
    for name in PYTHIA:
        result = call("run", name, "--dry-run")
        assert result.status == 0, result.err
        assert "not on disk" in result.out
        first = result.out.splitlines()[0]
        assert first.startswith("In short: attention of ")
        for words in (" CNNs and their controls", "on disk", "GPU's memory", "in all"):
            assert words in first
        assert first.endswith("(assumed for a GPU, cuda, of which none is here).")
        assert "CNNs for the figures | " in result.out  # plain: no terminal here
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_refuses_settings_that_a_finished_study_does_not_have(
    tiny, tiny_studies, refused
) -> None:
    folder = tiny_studies["report"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    line = refused("run", tiny.yaml, "-o", folder, "--dry-run", "--set", "train.seeds=[5]")
    assert "train.seeds: the study has [0, 1], you asked [5]" in line
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_dry_run_with_redo_says_what_is_made_anew(tiny, tiny_studies, call) -> None:
    arguments = ("--dry-run", "--redo", "--set", "benchmark.n_resamples=101")
    result = call("run", tiny.yaml, "-o", tiny_studies["report"], *arguments)
    assert result.status == 0
    stages = next(line for line in result.out.splitlines() if line.startswith("Stages to run"))
    assert "benchmark" in stages
    assert "capture" not in stages
