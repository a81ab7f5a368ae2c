"""Study files that ship: found by name, valid, copied, and part of what is built."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from mnemoscope.cnn.presets import GRIDS, CnnSetting
from mnemoscope.errors import UserError
from mnemoscope.pipeline.trainings import controlled_taxonomies, settings_of
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import find_study, load_settings, shipped_names, shipped_text
from mnemoscope.study.shapes import find_shape
from mnemoscope.taxonomy.catalogue import load_taxonomies

SIZES = ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
SUITES = ["hubble-1b", "hubble-8b", "lm-extraction", "comma", "tofu"]


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_study_is_valid_and_commented(name):
    settings, text = find_study(Path(name)), shipped_text(name)
    controlled_taxonomies(settings)  # refuses a name that the study does not have
    assert load_taxonomies(settings.label.taxonomies)
    assert "SIZE" not in text
    assert text.startswith("#")
    assert f"mnemoscope run {name} --dry-run" in text


def test_the_papers_code_to_the_letter():
    """What its scripts and modules set; docs/letter.md names them."""
    for size in SIZES:
        settings, model = find_study(Path(f"letter-{size}")), f"EleutherAI/pythia-{size}-deduped-v0"
        ours = find_study(Path(f"pythia-{size}"))
        assert (settings.model.name, settings.model.dtype) == (model, "float16")
        assert settings.sequences == ours.sequences
        assert (settings.continue_.labels, settings.continue_.decoding) == ("published",) * 2
        assert settings.features.patterns == "published"
        assert settings.label.non_memo_suffix == "own"
        assert settings.label.taxonomies == ["catalogue", "rho_as_run"]
        assert settings.train.preset == "as_run"
        assert (settings.localize.rankings, settings.localize.sanity) == ([], False)
        names = [one.published_name for one in load_taxonomies(settings.label.taxonomies)]
        assert names == [one.published_name for one in load_taxonomies(ours.label.taxonomies)]
        assert settings.label.model_copy(update={"taxonomies": ours.label.taxonomies}) == ours.label
        grid = settings_of(settings, "model")
        assert {(one.kernel, one.filters, one.pooling) for one in grid} == {
            (6, 10, "mean"), (6, 16, "mean"), (8, 10, "mean"), (8, 16, "mean")
        }  # fmt: skip
        assert len(settings.train.seeds) == 2
        assert (settings.benchmark.untrained, settings.benchmark.controls) == ("count", False)
        assert (settings.localize.rows, settings.localize.attributions) == ("as_run", ["gradient"])
        assert settings.reference is None
        assert find_shape(model) is not None


def test_the_papers_recipe_as_it_is_described():
    for size in SIZES:
        model = f"EleutherAI/pythia-{size}-deduped"
        settings = find_study(Path(f"pythia-{size}"))
        assert settings.model.name == model
        assert settings.sequences.source == "usvsnsp/semantic-filters"
        assert settings.sequences.split == f"deduped_{size}"
        assert (settings.label.n_train, settings.label.n_eval) == (4000, 2000)
        assert settings.label.split == "row"
        assert settings.capture.reference == f"{model}@step1000"
        assert settings.train.preset == "as_written"
        grid = [one for one in settings_of(settings, "model") if isinstance(one, CnnSetting)]
        assert set(grid) == set(GRIDS["as_written"].settings)
        assert len(settings.train.seeds) == 1
        assert len(load_taxonomies(settings.label.taxonomies)) == 54 + 27
        assert find_shape(model) is not None


def test_a_name_that_is_no_path_is_looked_up_and_a_file_here_goes_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in ("pythia-2.8b", "pythia-2.8b.yaml", "pythia-2.8b.yml"):
        assert find_study(Path(given)).model.name == "EleutherAI/pythia-2.8b-deduped"
    Path("pythia-12b.yaml").write_text("title: mine\n")
    assert find_study(Path("pythia-12b.yaml")).title == "mine"
    with pytest.raises(UserError, match="no such file"):
        find_study(tmp_path / "nowhere" / "pythia-12b.yaml")


def test_init_copies_a_shipped_study_and_an_unknown_name_is_refused_with_the_list(
    tmp_path, monkeypatch, succeed, refused
):
    monkeypatch.chdir(tmp_path)
    line = refused("run", "pythia-12", "--dry-run")
    assert all(name in line for name in shipped_names())
    succeed("init", "--from", "pythia-12b", "study.yaml")
    assert load_settings("study.yaml") == find_study(Path("pythia-12b"))
    assert "exists" in refused("init", "--from", "pythia-12b", "study.yaml")


def test_dry_runs_of_the_shipped_studies_need_nothing_on_disk(tmp_path, monkeypatch, succeed):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.which", lambda _name: None)
    for name in ("pythia-12b", "letter-12b", *SUITES):
        result = succeed("run", name, "--dry-run", "--verbose")
        assert "\nExpected: " in result.out
        assert "\nPower: " in result.out
        assert "not on disk" in result.out
        first = result.out.splitlines()[0]
        assert first.startswith("In short: attention of ")
        assert first.endswith("(assumed for a GPU, cuda, of which none is here).")
        assert "CNNs for the figures | " in result.out  # plain: no terminal here
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_finished_study_refuses_other_settings_or_says_what_is_made_anew(
    tiny, tiny_studies, tmp_path, call, succeed
):
    folder = shutil.copytree(tiny_studies["report"], tmp_path / "study")  # others read that one
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    asked = ("run", tiny.yaml, "-o", folder, "--dry-run")
    assert "Stages to run: none" in call(*asked).out
    brief = call("run", tiny.yaml, "-o", folder.parent / "new", "--dry-run").out
    assert len(brief.splitlines()) < 14
    assert " | " not in brief
    result = succeed(*asked, "--redo", "--set", "benchmark.n_resamples=101")
    stages = next(line for line in result.out.splitlines() if line.startswith("Stages to run"))
    assert ("benchmark" in stages, "capture" in stages) == (True, False)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_suite_is_what_its_repository_names():
    for size in ("1b", "8b"):
        settings = find_study(Path(f"hubble-{size}"))
        name = f"allegrolab/hubble-{size}-100b_toks"
        assert settings.model.name == f"{name}-perturbed-hf"
        assert settings.model.revision == "step48000"
        assert settings.capture.reference == f"{name}-standard-hf@step48000"
        assert settings.label.non_memo_suffix == "true"
        sources = [settings.sequences.source, *settings.sequences.also]
        sets = ("gutenberg_popular", "gutenberg_unpopular", "wikipedia")
        assert sources == [f"allegrolab/passages_{one}#passages_{one}_nodup" for one in sets]


def counted(hidden, n_kv, feed, n_layers, vocabulary) -> int:
    """Parameters of a Llama without tied embeddings and biases."""
    layer = 2 * hidden * hidden + 2 * hidden * n_kv + 3 * hidden * feed + 2 * hidden
    return n_layers * layer + 2 * vocabulary * hidden + hidden


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("allegrolab/hubble-1b-100b_toks-standard-hf", (2048, 512, 8192, 16, 50304)),
        ("allegrolab/hubble-8b-500b_toks-perturbed-hf", (4096, 1024, 14336, 36, 50304)),
        ("common-pile/comma-v0.1-1t", (4096, 4096, 11008, 32, 64256)),
    ],
)
def test_shapes_of_the_suites_are_those_of_a_llama_of_their_configuration(name, shape):
    found = find_shape(name)
    assert found is not None
    assert (found.hidden, found.n_layers, found.vocabulary) == (shape[0], shape[3], shape[4])
    assert found.n_parameters == counted(*shape)


def test_hubble_is_founded_from_data_laid_out_as_the_hub_has_them(
    tiny, tmp_path, monkeypatch, call
):
    """Its own file, another model: three data sets of the cache, counts out of `meta`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    levels = (0, 1, 4, 16, 64, 256)
    names = [f"passages_{one}" for one in ("gutenberg_popular", "gutenberg_unpopular", "wikipedia")]
    for name in names:
        metas = [json.dumps({"duplicates": n, "id": n}) for n in levels]
        rows = [{"text": f"{name} {n}. " * 40, "meta": metas[i]} for i, n in enumerate(levels)]
        folder = tmp_path / "hub" / f"datasets--allegrolab--{name}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        snapshot = folder / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        for kind in ("dup", "nodup"):
            data = "".join(json.dumps(row) + "\n" for row in rows).encode()
            (snapshot / f"{name}_{kind}.jsonl.gz").write_bytes(gzip.compress(data))
    given = ("--model", tiny.model, "--set", "model.revision=null", "--device", "cpu")
    given += ("--dtype", "float32", "--reference", tiny.reference, "--set", "label.n_train=4")
    result = call("run", "hubble-1b", *given, "--check-labels", "-o", tmp_path / "s", "-q")
    assert "no label to check" in result.err  # the study is there, and its source has no labels
    found = Study(tmp_path / "s").sequences
    assert sorted(found["duplicates"].unique()) == list(levels)
    assert found.filter(held_out=True)["duplicates"].unique().to_list() == [0]
    assert found["genre"].unique(maintain_order=True).to_list() == names
    assert found["group"].n_unique() == 18
    assert found.filter(group=found["group"][0])["duplicates"].n_unique() == 1
