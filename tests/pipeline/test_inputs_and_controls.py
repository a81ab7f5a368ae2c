"""A study with every input of the CNNs: each sees what it is named for, beside its own controls."""

import shutil
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from mnemoscope.benchmark.baselines import all_statistics, blind_maps
from mnemoscope.benchmark.sources import CNNS, TABLE
from mnemoscope.cnn.presets import INPUTS, PRESETS
from mnemoscope.cnn.training import load_cnn, predict_logits
from mnemoscope.errors import UserError
from mnemoscope.flow.run import run, run_stage
from mnemoscope.maps.store import MapStore
from mnemoscope.maps.views import TensorMaps
from mnemoscope.pipeline import capture, localize, map_statistics
from mnemoscope.pipeline import train as jobs
from mnemoscope.pipeline.capture import shown_tokens
from mnemoscope.pipeline.deltas import load_deltas
from mnemoscope.pipeline.train import (
    SampleRows,
    choice_jobs,
    job_labels,
    job_maps,
    jobs_of,
    sample_rows,
)
from mnemoscope.pipeline.trainings import FOLDS, n_trainings
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import LabelSettings, variants
from mnemoscope.taxonomy.sample import N_FOLDS
from study_files import put_in_place, settings_with

FEW = {"n_train": 12, "n_eval": 8, "minimum": 6}
BRIEFLY = {"attributions": ["gradient"], "sanity": False}
"""Of `localize`; what it checks of Δ is tested where it is made."""


@pytest.fixture(scope="module")
def make(tiny_studies, tmp_path_factory) -> Iterator:
    """`make("label", **sections)`: the tiny study gone on to its report, trained in no time.

    Its CNNs have not left chance; Δ counts them all the same.
    """

    def make(stage: str, **sections) -> Study:
        folder = tmp_path_factory.mktemp("inputs") / "study"
        study = Study(shutil.copytree(tiny_studies[stage], folder))
        sections["label"] = FEW | sections.get("label", {})
        sections["train"] |= {"seeds": [0]}
        return run(settings_with(study, localize=BRIEFLY, **sections), folder, redo=True)

    def outcome(job: jobs.Job) -> jobs.Outcome:
        found = load_outcome(job)
        return replace(found, facts=replace(found.facts, did_train=True))

    load_outcome = localize.load_outcome
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "small", replace(PRESETS["as_run"], name="small", epochs=1))
        patch.setitem(PRESETS, "rows", replace(PRESETS["rows"], epochs=1, min_steps=20))
        patch.setattr(localize, "load_outcome", outcome)
        yield make


@pytest.fixture(scope="module")
def made(make) -> Study:
    return make(
        "label",
        capture={"per_head": True},
        train={"preset": "small", "poolings": list(INPUTS)},
        benchmark={"control_settings": 0},
    )


@pytest.fixture
def study(made) -> Study:
    """The study with five inputs, whose settings a test may change."""
    return Study(made.folder)


@pytest.fixture(scope="module")
def rows_study(make) -> Study:
    """One with CNNs over the rows of both poolings."""
    return make("label", train={"preset": "rows", "poolings": ["both"]})


@pytest.fixture(scope="module")
def folded(make) -> Study:
    """One with every sequence of its sample asked out of fold."""
    return make(
        "features",
        label={"split": "folds"},
        capture={"reference": None},
        train={"preset": "small"},
    )


@pytest.fixture
def tiny_study(tiny_studies) -> Study:
    return Study(tiny_studies["report"])


def job_of(study: Study, source: str, pooling: str = "mean") -> jobs.Job:
    def fits(job: jobs.Job) -> bool:
        return job.source == source and (not job.setting or job.setting.pooling == pooling)

    return next(filter(fits, jobs_of(study)))


def evaluated_by(study: Study, job: jobs.Job) -> pl.DataFrame:
    return sample_rows(study, job.sample).evaluation


def maps_of(study: Study, source: str, pooling: str = "mean") -> torch.Tensor:
    job = job_of(study, source, pooling)
    rows = evaluated_by(study, job)
    return job_maps(study, job, rows).read(torch.arange(rows.height)).float()


# -- what is shown, and what each source sees ---------------------------------------------------


def test_models_see_their_stored_maps_and_a_control_the_models(study) -> None:
    seen = {name: maps_of(study, name) for name in ("model", "reference", "control", "blind")}
    rows = evaluated_by(study, job_of(study, "model"))
    for role in ("model", "reference"):
        store = MapStore(study.folder / "maps" / role)
        ids, suffixes = rows["sequence_id"].to_numpy(), rows["suffix"].to_list()
        stored = store.dataset(ids, suffixes, "mean").read(torch.arange(rows.height))
        assert torch.equal(seen[role], stored.float())
    assert torch.equal(seen["control"], seen["model"])
    assert not torch.equal(seen["reference"], seen["model"])
    assert set(seen["blind"].unique().tolist()) == {0.0, 1.0}


def test_inputs_are_made_of_what_is_stored(study) -> None:
    facts = study.record["models"]["model"]
    n_layers, n_heads = facts["n_layers"], facts["n_heads"]
    seen = {name: maps_of(study, "model", name) for name in INPUTS}
    for name, one in INPUTS.items():
        each = n_layers * (n_heads if "heads" in one.reads else 1)
        assert seen[name].shape[1] == one.channels * each
    assert torch.equal(seen["both"], torch.cat([seen["mean"], seen["max"]], dim=1))
    more, less = seen["difference"].chunk(2, dim=1)
    wanted = seen["mean"] - maps_of(study, "reference")
    torch.testing.assert_close(more - less, wanted, atol=2**-11, rtol=0)  # rounded once more
    store = MapStore(study.folder / "maps" / "model-heads")
    assert store.meta.tensors == ("heads",)
    assert len(store) == len(MapStore(study.folder / "maps" / "model"))
    for source in ("model", "reference"):
        heads = maps_of(study, source, "heads")
        by_layer = heads.reshape(len(heads), n_layers, n_heads, -1)
        # Stored as float16: 2^-11 relative, of weights up to 1, on either side.
        close = {"atol": 2**-10, "rtol": 0}
        torch.testing.assert_close(by_layer.mean(2), maps_of(study, source), **close)
        torch.testing.assert_close(by_layer.amax(2), maps_of(study, source, "max"), **close)


def test_the_regressions_read_both_poolings_of_their_own_maps(study) -> None:
    found = {job.source: job for job in jobs_of(study) if "statistics" in job.source}
    rows = sample_rows(study, found["statistics"].sample)
    tokens = shown_tokens(study.sequences, rows.evaluation)
    roles = {
        "statistics": "model",
        "control_statistics": "model",
        "reference_statistics": "reference",
    }
    maps = {name: TensorMaps(maps_of(study, role, "both")) for name, role in roles.items()}
    for name, own in (maps | {"blind_statistics": blind_maps(tokens)}).items():
        wanted = all_statistics(own, tokens).astype(np.float32)
        np.testing.assert_array_equal(jobs._inputs(study, found[name], rows)[1], wanted)
    assert len({job.key for job in found.values()}) == len(found) == 5


def test_statistics_are_kept_once_and_computed_where_they_are_not(study_at, monkeypatch) -> None:
    study = Study(study_at("train"))
    rows = study.read("samples.parquet").sample(fraction=1, shuffle=True, seed=1)[:40]
    store = map_statistics.statistics_store(study)
    blocks = map_statistics.statistics_units(study, "model")
    assert all(store.has(unit.key) for unit in blocks)
    kept = map_statistics.statistics_of(study, "model", rows)
    with monkeypatch.context() as patch:
        patch.setattr(map_statistics, "_ROWS", 7)  # other blocks, none of which is kept
        missing = map_statistics.statistics_units(study, "model")
        assert not any(store.has(unit.key) for unit in missing)
        np.testing.assert_array_equal(map_statistics.statistics_of(study, "model", rows), kept)
    sampled = study.read("samples.parquet").select("sequence_id", "suffix").n_unique()
    assert sum(unit.size for unit in missing) == sampled
    for path in (study.folder / "cnn" / "statistics").glob("*.npy"):  # torn
        path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(map_statistics.statistics_of(study, "model", rows), kept)


def test_classes_are_dealt_anew_for_the_controls_alone(study) -> None:
    """In the control task Non-Memo keeps its own class; of planted marks all are exchanged."""
    samples = study.read("samples.parquet").filter(split="eval")
    truth = dict(samples.select("sequence_id", "class_index").rows())
    found = study.read("predictions.parquet")
    for source in found["source"].unique():
        rows = found.filter(source=source).select("sequence_id", "true").unique()
        own = np.array([truth[number] for number in rows["sequence_id"]])
        true = rows["true"].to_numpy()
        assert (np.sort(true) == np.sort(own)).all()
        assert ((true == 0) == (own == 0)).all() == (TABLE[source].mark == 0)
        assert (true != own).any() == TABLE[source].is_permuted
    job = job_of(study, "control")
    rows = sample_rows(study, job.sample)
    without = replace(rows, classes=("Guess", *rows.classes[1:]))  # no Non-Memo to keep apart
    first = rows.evaluation["class_index"].to_numpy() == 0
    assert (job_labels(job, without)[1][first] != 0).any()


# -- what is trained, and kept ------------------------------------------------------------------


def test_every_training_that_was_counted_was_made_and_no_other(study) -> None:
    runs = study.read("runs.parquet")
    # One of two taxonomies can be trained.
    counted = n_trainings(study.settings, 1, has_reference=True, n_controlled=1)
    assert counted.pop("total") == runs.height
    assert dict(runs.group_by("source").len().iter_rows()) == counted
    table = study.read("inputs.parquet")
    sources = {"model", "blind", "ngram", "reference", "control", "planted"}
    found = table.group_by("input", maintain_order=True).agg("source")
    assert found["input"].to_list() == list(INPUTS)
    assert all(set(each) == sources for each in found["source"])
    trainable, impossible = study.settings.label.taxonomies
    for name, wanted in ((impossible, {"model", "statistics"}), (trainable, {*TABLE})):
        study.settings = settings_with(study, benchmark={"control_taxonomies": [name]})
        assert {job.source for job in jobs_of(study)} == wanted


def test_further_inputs_and_new_settings_leave_the_present_trainings_valid(tiny_study) -> None:
    def keys(**changes) -> dict[str, str]:
        tiny_study.settings = settings_with(tiny_study, **changes)
        return {name: tiny_study.key(name) for name in ("capture", "train", "benchmark")}

    before, trained = keys(), {job.key for job in jobs_of(tiny_study)}
    more = keys(benchmark={"control_settings": 2})
    assert more["capture"] == before["capture"]
    assert more["train"] != before["train"]
    assert keys(benchmark={"control_settings": 1}) == before
    keys(train={"poolings": list(INPUTS)}, capture={"per_head": True})
    assert trained < {job.key for job in jobs_of(tiny_study)}


def test_readers_are_compared_within_the_training_rows_where_that_decides(study, tmp_path) -> None:
    study = Study(shutil.copytree(study.folder, tmp_path / "study"))
    assert not list(
        choice_jobs(study)
    )  # one seed: whatever it says, the regression is the headline
    assert study.read("choice.parquet").is_empty()
    study.settings = settings_with(study, train={"seeds": [0, 1, 2]})
    asked = list(choice_jobs(study))
    assert len(asked) == 2 * FOLDS
    jobs.run_jobs(study, asked, "")
    chosen = jobs._chosen(study, asked)
    assert set(chosen["source"]) == {"model", "statistics"}
    assert chosen["min_f1"].is_between(0, 1).all()


def test_readers_are_chosen_on_folds_of_the_training_rows_whole_groups_apart() -> None:
    ids = np.arange(120)  # 3 classes in groups of 4 alike, and evaluation rows apart
    train = pl.DataFrame({"sequence_id": ids, "class_index": ids // 4 % 3, "group": ids // 4})
    evaluation = pl.DataFrame({"sequence_id": [500], "class_index": [0], "group": [500]})
    rows = SampleRows(train, evaluation, ("a", "b", "c"))
    folds = jobs.fold_rows(rows)
    assert len(folds) == FOLDS
    assert pl.concat([one.evaluation for one in folds]).sort("sequence_id").equals(train)
    for one in folds:
        both = pl.concat([one.train, one.evaluation]).sort("sequence_id")
        assert both.equals(train)
        assert not set(one.train["group"]) & set(one.evaluation["group"])
        assert one.train["class_index"].n_unique() == one.evaluation["class_index"].n_unique() == 3
    for unfit in (train.with_columns(group=pl.lit(1)), train.filter(pl.col("class_index") < 2)):
        assert jobs.fold_rows(replace(rows, train=unfit)) is None


def test_every_head_of_too_much_is_refused_with_the_number(study_at, monkeypatch) -> None:
    study = Study(study_at("label"))
    monkeypatch.setattr(capture, "MOST_HEAD_BYTES", 1_000_000)
    with pytest.raises(UserError, match=r"takes \d+\.\d GB, the most is 0 GB"):
        run_stage(study, "capture", settings_with(study, capture={"per_head": True}))
    assert not (study.folder / "maps").exists()


# -- Δ of inputs --------------------------------------------------------------------------------


def test_delta_is_of_inputs_by_layer_weighed_by_the_maxima_over_heads(
    study, tmp_path, monkeypatch
) -> None:
    copied = Study(shutil.copytree(study.folder, tmp_path / "study"))
    copied.forget("localize")
    plain, asked = localize.decisiveness_of_each, []

    def watched(trained, *arguments, max_maps, **options):
        (one,) = trained
        asked.append((one.setting.pooling, getattr(max_maps, "pooling", "of the tokens")))
        return plain(trained, *arguments, max_maps=max_maps, **options)

    monkeypatch.setattr(localize, "decisiveness_of_each", watched)
    run_stage(copied, "localize")
    by_layer = {(name, "max") for name, one in INPUTS.items() if one.is_by_layer}
    assert set(asked) == by_layer | {("mean", "of the tokens")}


# -- CNNs over rows -----------------------------------------------------------------------------


@pytest.mark.whole
def test_a_cnn_over_rows_has_every_control_of_its_own_and_is_localized(rows_study) -> None:
    runs = rows_study.read("runs.parquet").drop_nulls("input")
    assert set(runs["source"]) == set(CNNS)
    cnns = {job.source: load_cnn(job.cnn_path) for job in jobs_of(rows_study) if job.setting}
    assert all(one.preset.name == "rows" and one.scaling.over_rows for one in cnns.values())
    n_layers = rows_study.record["models"]["model"]["n_layers"]
    poolings = {name: one.network.n_layers / n_layers for name, one in cnns.items()}
    assert poolings.pop("blind") * n_layers == 2
    assert set(poolings.values()) == {2}
    for one in load_deltas(rows_study):
        assert one.delta.shape[1] == n_layers
        assert np.isfinite(one.delta).all()
        assert one.n_cnns in (0, 1)  # 0 of a ranking


# -- folds --------------------------------------------------------------------------------------


@pytest.mark.whole
def test_every_sequence_is_asked_once_by_what_trained_on_no_relative_of_it(folded) -> None:
    said, samples = folded.read("predictions.parquet"), folded.read("samples.parquet")
    assert set(samples["split"]) == {"eval"}
    ids = samples["sequence_id"].sort()
    assert folded.read("logprobs.parquet")["sequence_id"].sort().equals(ids)
    for _, one in said.group_by("source", "kernel", "filters", "input", "seed", "epoch"):
        assert one["sequence_id"].sort().equals(ids)
    made = [job for job in jobs_of(folded) if job.source == "model"]
    assert len(made) == N_FOLDS
    last = said.filter(source="model").filter(pl.col("epoch") == pl.col("epoch").max())
    for job in made:
        rows = jobs.job_rows(folded, job)
        assert not set(rows.train["group"]) & set(rows.evaluation["group"])
        assert rows.train.height + rows.evaluation.height == samples.height
        logits = predict_logits(load_cnn(job.cnn_path), job_maps(folded, job, rows.evaluation))
        kept = rows.evaluation.join(last.filter(seed=job.seed), on="sequence_id", how="left")
        np.testing.assert_array_equal(
            np.stack(kept["probabilities"].to_list()), logits.softmax(dim=1).numpy()
        )
    dealt = said.filter(source="control")  # the same in every fold
    assert dealt.group_by("sequence_id").agg(pl.col("true").n_unique())["true"].max() == 1
    both = dealt.unique("sequence_id").join(samples, on="sequence_id")
    assert (both["true"] != both["class_index"]).any()
    assert both["true"].value_counts().sort("true")["count"].n_unique() == 1


@pytest.mark.whole
def test_folds_are_one_training_of_the_table_and_all_of_the_plan(folded) -> None:
    runs, n_rows = folded.read("runs.parquet"), folded.read("samples.parquet").height
    assert runs.select("source", "kernel", "filters", "input", "seed").is_unique().all()
    assert set(runs["n_train"]) == {round(n_rows * (N_FOLDS - 1) / N_FOLDS)}
    keys = [key for one in runs["key"] for key in one.split()]
    assert len(set(keys)) == N_FOLDS * runs.height
    counted = n_trainings(folded.settings, 1, has_reference=False, n_controlled=1)
    assert counted["total"] == len(keys)
    rows = folded.read("benchmark.parquet")
    assert set(rows["n_eval"].drop_nulls()) == {n_rows}
    again = Study(folded.folder)
    again.settings = settings_with(folded, train={"seeds": [0, 1, 2]})
    assert [one.source for one in choice_jobs(again)] == ["model", "statistics"] * FOLDS
    n_a_class = folded.read("samples.parquet")["class"].value_counts()["count"].min()
    of_cnns = [one for one in load_deltas(folded) if one.n_cnns]  # the others are rankings
    assert of_cnns
    for one in of_cnns:
        counts = np.array([one.n_used, one.n_skipped, one.n_wrong]).sum(axis=0)
        assert counts.tolist() == [n_a_class] * len(one.classes)


@pytest.mark.whole
def test_folds_that_groups_forbid_are_refused_in_a_line(folded, tmp_path) -> None:
    copy = Study(shutil.copytree(folded.folder, tmp_path / "study"))
    alike = copy.read("samples.parquet").with_columns(
        group=pl.when(pl.col("class_index") == 1).then(0).otherwise(pl.col("group"))
    )
    put_in_place(copy.folder, samples__parquet=alike)
    with pytest.raises(UserError, match="cannot be asked in 5 folds"):
        list(jobs_of(copy))
    with pytest.raises(UserError, match="both_splits"):
        variants(LabelSettings(split="folds", both_splits=True))
