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
from mnemoscope.lm.probe import suffix_logprobs
from mnemoscope.maps.store import MapStore
from mnemoscope.maps.views import PaintedMaps, TensorMaps
from mnemoscope.pipeline import capture, map_statistics
from mnemoscope.pipeline import train as jobs
from mnemoscope.pipeline.capture import shown_tokens
from mnemoscope.pipeline.train import SampleRows, asked_labels, job_maps, jobs_of, sample_rows
from mnemoscope.pipeline.trainings import FOLDS, n_trainings
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import LabelSettings, variants
from mnemoscope.taxonomy.sample import N_FOLDS
from study_files import settings_with

BRIEFLY = {"attributions": ["gradient"], "sanity": False}
"""Of `localize`; what it checks of Δ is tested where it is made."""


@pytest.fixture(scope="module")
def study(tiny_studies, tmp_path_factory) -> Study:
    """The labelled tiny study, gone on with five inputs up to the report."""
    folder = tmp_path_factory.mktemp("inputs") / "study"
    shutil.copytree(tiny_studies["label"], folder)
    chosen = settings_with(
        Study(folder),
        capture={"per_head": True},
        train={"poolings": list(INPUTS), "seeds": [0]},
        benchmark={"control_settings": 0},
        localize=BRIEFLY,
    )
    return run(chosen, folder)


@pytest.fixture(scope="module")
def rows_study(tiny_studies, tmp_path_factory) -> Iterator[Study]:
    """The same with CNNs over the rows of both poolings, quickly trained."""
    folder = tmp_path_factory.mktemp("rows") / "study"
    shutil.copytree(tiny_studies["label"], folder)
    train = {"preset": "rows", "poolings": ["both"], "seeds": [0]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "rows", replace(PRESETS["rows"], epochs=1, min_steps=60))
        yield run(settings_with(Study(folder), train=train, localize=BRIEFLY), folder)


def test_a_cnn_over_rows_has_every_control_of_its_own(rows_study: Study) -> None:
    runs = rows_study.read("runs.parquet").filter(pl.col("setting") != "-")
    assert set(runs["source"]) == set(CNNS)
    cnns = {job.source: load_cnn(job.cnn_path) for job in jobs_of(rows_study) if job.setting}
    assert all(one.preset.name == "rows" and one.scaling.over_rows for one in cnns.values())
    n_layers = rows_study.record["models"]["model"]["n_layers"]
    poolings = {name: one.network.n_layers / n_layers for name, one in cnns.items()}
    assert poolings.pop("blind") * n_layers == 2
    assert set(poolings.values()) == {2}
    table = rows_study.read("benchmark.parquet")
    assert table.filter(source="model")["choice_min_f1"].item() is not None


def test_a_cnn_over_rows_says_of_a_reloaded_study_what_it_said(rows_study: Study) -> None:
    """Predictions again by the stored weights, and stored again byte for byte where they lack."""
    job = next(job for job in jobs_of(rows_study) if job.source == "model")
    rows = sample_rows(rows_study, job.sample).evaluation
    again = predict_logits(load_cnn(job.cnn_path), job_maps(rows_study, job, rows)).softmax(dim=1)
    np.testing.assert_array_equal(jobs.load_outcome(job).probabilities, again.numpy())
    weights, outcome = job.cnn_path.read_bytes(), job.outcome_path.read_bytes()
    job.outcome_path.unlink()
    assert not jobs.is_finished(job)
    jobs.run_job(job)
    assert (job.cnn_path.read_bytes(), job.outcome_path.read_bytes()) == (weights, outcome)


def test_rows_of_both_poolings_are_localized_by_layer(rows_study: Study) -> None:
    from mnemoscope.pipeline.localize import load_deltas

    trained = rows_study.read("runs.parquet").filter(source="model", did_train=True).height
    n_layers = rows_study.record["models"]["model"]["n_layers"]
    for one in load_deltas(rows_study):
        assert one.delta.shape[1] == n_layers
        assert np.isfinite(one.delta).all()
        assert one.n_cnns in (0, trained)  # 0 of a ranking


def maps_of(study: Study, source: str, name: str) -> torch.Tensor:
    job = next(
        job
        for job in jobs_of(study)
        if job.source == source and job.setting is not None and job.setting.pooling == name
    )
    rows = sample_rows(study, job.sample).evaluation
    return job_maps(study, job, rows).read(torch.arange(rows.height)).float()


def test_every_training_that_was_counted_was_made_and_no_other(study: Study) -> None:
    runs = study.read("runs.parquet")
    counted = n_trainings(
        study.settings, 1, has_reference=True, n_controlled=1
    )  # one of two can be trained
    assert counted.pop("total") == runs.height
    assert dict(runs.group_by("source").len().iter_rows()) == counted


def test_the_heads_of_a_layer_average_to_the_mean_and_peak_at_the_maximum(study: Study) -> None:
    store = MapStore(study.folder / "maps" / "model-heads")
    assert store.meta.tensors == ("heads",)
    assert len(store) == len(MapStore(study.folder / "maps" / "model"))
    n_layers, n_heads = (study.record["models"]["model"][n] for n in ("n_layers", "n_heads"))
    for source in ("model", "reference"):
        heads = maps_of(study, source, "heads")
        by_layer = heads.reshape(len(heads), n_layers, n_heads, -1)
        # Stored as float16: 2^-11 relative, of weights up to 1, on either side.
        close = {"atol": 2**-10, "rtol": 0}
        torch.testing.assert_close(by_layer.mean(2), maps_of(study, source, "mean"), **close)
        torch.testing.assert_close(by_layer.amax(2), maps_of(study, source, "max"), **close)


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_has_the_channels_that_it_names(study: Study, name: str) -> None:
    facts = study.record["models"]["model"]
    each = facts["n_layers"] * (facts["n_heads"] if "heads" in INPUTS[name].reads else 1)
    assert maps_of(study, "model", name).shape[1] == INPUTS[name].channels * each


def test_both_and_difference_are_made_of_what_is_stored(study: Study) -> None:
    mean, largest = (maps_of(study, "model", name) for name in ("mean", "max"))
    assert torch.equal(maps_of(study, "model", "both"), torch.cat([mean, largest], dim=1))
    more, less = maps_of(study, "model", "difference").chunk(2, dim=1)
    wanted = mean - maps_of(study, "reference", "mean")
    torch.testing.assert_close(more - less, wanted, atol=2**-11, rtol=0)  # rounded once more


def test_the_table_and_the_report_set_each_input_beside_its_controls(study: Study) -> None:
    table = study.read("inputs.parquet")
    assert table["input"].unique(maintain_order=True).to_list() == list(INPUTS)
    sources = {"model", "blind", "ngram", "reference", "control", "planted", "painted"}
    for _, part in table.group_by("input"):
        assert set(part["source"]) == sources
    page = (study.folder / "report.html").read_text(encoding="utf-8")
    shown = page.split('aria-label="Which input carries memory"')[1].split("</table>")[0]
    assert all(f'<th scope="row">{name} ' in shown for name in INPUTS)


def test_layers_that_are_no_layers_are_not_localized(study, tmp_path, monkeypatch) -> None:
    from mnemoscope.pipeline import localize

    copied = Study(shutil.copytree(study.folder, tmp_path / "study"))
    copied.forget("localize")
    of_cnn, asked = localize._of_cnn, []

    def watched(study: Study, job: jobs.Job) -> list[localize.LocalizedCnn]:
        asked.append(job.setting.pooling)
        return of_cnn(study, job)

    monkeypatch.setattr(localize, "_of_cnn", watched)
    run_stage(copied, "localize")
    assert set(asked) == {name for name, one in INPUTS.items() if one.is_by_layer}


def test_further_inputs_leave_the_present_trainings_valid(study: Study, tiny_studies) -> None:
    """Same keys: what a study has trained is not trained again for another input."""
    before = {job.key for job in jobs_of(Study(tiny_studies["report"])) if job.seed == 0}
    assert before <= {job.key for job in jobs_of(study)}


def test_the_regressions_read_both_poolings_of_their_own_maps(study: Study) -> None:
    found = {job.source: job for job in jobs_of(study) if "statistics" in job.source}
    rows = sample_rows(study, found["statistics"].sample)
    tokens = shown_tokens(study.sequences, rows.evaluation)
    for name, role in {
        "statistics": "model",
        "control_statistics": "model",
        "reference_statistics": "reference",
    }.items():
        maps = TensorMaps(maps_of(study, role, "both"))
        wanted = all_statistics(maps, tokens).astype(np.float32)
        np.testing.assert_array_equal(jobs._inputs(study, found[name], rows)[1], wanted)
    wanted = all_statistics(blind_maps(tokens), tokens).astype(np.float32)
    seen = jobs._inputs(study, found["blind_statistics"], rows)[1]
    np.testing.assert_array_equal(seen, wanted)
    assert len({job.key for job in found.values()}) == len(found) == 5


def test_statistics_are_kept_once_and_computed_where_they_are_not(study, monkeypatch) -> None:
    rows = study.read("samples.parquet").sample(fraction=1, shuffle=True, seed=1)[:40]
    assert not list(map_statistics.statistics_tasks(study, "model"))
    kept = map_statistics.statistics_of(study, "model", rows)
    monkeypatch.setattr(map_statistics, "_ROWS", 7)  # other blocks, none of which is kept
    missing = list(map_statistics.statistics_tasks(study, "model"))
    assert sum(task.rows.height for task in missing) == rows_of_samples(study)
    np.testing.assert_array_equal(map_statistics.statistics_of(study, "model", rows), kept)


def test_a_torn_block_of_statistics_is_computed_again(study_at) -> None:
    study = Study(study_at("train"))
    rows = study.read("samples.parquet")[:10]
    kept = map_statistics.statistics_of(study, "model", rows)
    for path in (study.folder / "cnn" / "statistics").glob("*.npy"):
        path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(map_statistics.statistics_of(study, "model", rows), kept)


def rows_of_samples(study: Study) -> int:
    return study.read("samples.parquet").select("sequence_id", "suffix").n_unique()


def test_the_nested_regression_adds_the_models_statistics_to_all_that_is_free(study) -> None:
    found = {job.source: job for job in jobs_of(study) if job.setting is None}
    rows = sample_rows(study, found["rest"].sample)
    seen = {
        name: [one.reshape(len(one), -1) for one in jobs._inputs(study, found[name], rows)]
        for name in ("statistics", "reference_statistics", "rest", "rest_and_model")
    }
    for side, own in enumerate((rows.train, rows.evaluation)):
        wide, without, model, reference = (
            seen[name][side]
            for name in ("rest_and_model", "rest", "statistics", "reference_statistics")
        )
        assert wide.shape == (own.height, without.shape[1] + model.shape[1])
        for part, whole in ((model, wide), (reference, wide), (reference, without)):
            assert set(part[0]) <= set(whole[0])
        assert not set(model[0]) - {0.0, 1.0} <= set(without[0])


@pytest.fixture(scope="module")
def folded(tiny_studies, tmp_path_factory) -> Study:
    """The tiny study with every sequence of its sample asked out of fold."""
    folder = tmp_path_factory.mktemp("folds") / "study"
    shutil.copytree(tiny_studies["features"], folder)
    chosen = settings_with(
        Study(folder),
        label={"split": "folds", "n_train": 30, "n_eval": 10},
        capture={"reference": None},
        train={"seeds": [0]},
        localize=BRIEFLY,
    )
    return run(chosen, folder)


def test_every_sequence_is_asked_once_by_what_trained_on_no_relative_of_it(folded: Study) -> None:
    said = folded.read("predictions.parquet")
    samples = folded.read("samples.parquet")
    assert set(samples["split"]) == {"eval"}
    ids = samples["sequence_id"].sort()
    assert folded.read("logprobs.parquet")["sequence_id"].sort().equals(ids)
    for _, one in said.group_by("source", "setting", "seed", "epoch"):
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


def test_folds_are_one_training_of_the_table_and_all_of_the_plan(folded: Study) -> None:
    runs, n_rows = folded.read("runs.parquet"), folded.read("samples.parquet").height
    assert runs.select("source", "setting", "seed").is_unique().all()
    assert set(runs["n_eval"]) == {n_rows}
    assert set(runs["n_train"]) == {round(n_rows * (N_FOLDS - 1) / N_FOLDS)}
    keys = [key for one in runs["key"] for key in one.split()]
    assert len(set(keys)) == N_FOLDS * runs.height
    counted = n_trainings(folded.settings, 1, has_reference=False, n_controlled=1)
    assert counted["total"] == len(keys)
    table = folded.read("benchmark.parquet")
    assert set(table["n_eval"].drop_nulls()) == {n_rows}
    assert table.filter(source="model")["choice_min_f1"].item() is not None


def test_permuted_labels_are_the_same_in_every_fold(folded: Study) -> None:
    said = folded.read("predictions.parquet").filter(source="control")
    assert said.group_by("sequence_id").agg(pl.col("true").n_unique())["true"].max() == 1
    own = folded.read("samples.parquet").select("sequence_id", "class_index")
    both = said.unique("sequence_id").join(own, on="sequence_id")
    assert (both["true"] != both["class_index"]).any()
    assert both["true"].value_counts().sort("true")["count"].n_unique() == 1


def test_delta_of_folds_counts_every_sequence_once(folded: Study) -> None:
    from mnemoscope.pipeline.localize import load_deltas

    runs = folded.read("runs.parquet").filter(source="model", did_train=True)
    n_a_class = folded.read("samples.parquet")["class"].value_counts()["count"].min()
    for one in load_deltas(folded):
        if not one.n_cnns or runs.is_empty():  # a ranking, or CNNs that are left out
            continue
        counts = np.array([one.n_used, one.n_skipped, one.n_wrong]).sum(axis=0)
        assert counts.tolist() == [n_a_class] * len(one.classes)


def test_folds_that_groups_forbid_are_refused_in_a_line(folded: Study, tmp_path) -> None:
    copy = Study(shutil.copytree(folded.folder, tmp_path / "study"))
    alike = copy.read("samples.parquet").with_columns(
        group=pl.when(pl.col("class_index") == 1).then(0).otherwise(pl.col("group"))
    )
    copy.write("samples.parquet", alike)
    with pytest.raises(UserError, match="cannot be asked in 5 folds"):
        list(jobs_of(copy))
    with pytest.raises(UserError, match="both_splits"):
        variants(LabelSettings(split="folds", both_splits=True))


def training_rows() -> SampleRows:
    """120 rows of 3 classes in groups of 4 alike, and evaluation rows apart."""
    ids = np.arange(120)
    train = pl.DataFrame({"sequence_id": ids, "class_index": ids // 4 % 3, "group": ids // 4})
    evaluation = pl.DataFrame({"sequence_id": [500], "class_index": [0], "group": [500]})
    return SampleRows(train, evaluation, ("a", "b", "c"))


def test_readers_are_chosen_on_folds_of_the_training_rows_whole_groups_apart() -> None:
    rows = training_rows()
    folds = jobs.fold_rows(rows)
    assert folds is not None
    assert len(folds) == FOLDS
    assert pl.concat([one.evaluation for one in folds]).sort("sequence_id").equals(rows.train)
    for one in folds:
        both = pl.concat([one.train, one.evaluation]).sort("sequence_id")
        assert both.equals(rows.train)
        assert not set(one.train["group"]) & set(one.evaluation["group"])
        assert one.train["class_index"].n_unique() == one.evaluation["class_index"].n_unique() == 3


def test_rows_that_cannot_be_folded_give_no_choice() -> None:
    rows = training_rows()
    alike = replace(rows, train=rows.train.with_columns(group=pl.lit(1)))
    lacking = replace(rows, train=rows.train.filter(pl.col("class_index") < 2))
    assert jobs.fold_rows(alike) is None
    assert jobs.fold_rows(lacking) is None


def test_the_choice_is_kept_and_names_the_headline(study: Study) -> None:
    chosen = dict(study.read("choice.parquet").select("source", "min_f1").iter_rows())
    assert set(chosen) == {"model", "statistics"}
    rows = study.read("benchmark.parquet").filter(pl.col("source").is_in(list(chosen)))
    assert dict(rows.select("source", "choice_min_f1").iter_rows()) == chosen
    (headline,) = rows.filter("is_headline")["source"]
    assert chosen[headline] == max(chosen.values())


def test_controls_go_to_the_taxonomies_named(study: Study) -> None:
    trainable, impossible = study.settings.label.taxonomies
    for names, sources in (
        ([impossible], {"model", "statistics"}),
        ([trainable], {*TABLE}),
    ):
        study.settings = settings_with(study, benchmark={"control_taxonomies": names})
        assert {job.source for job in jobs_of(study)} == sources
    study.settings = settings_with(study, benchmark={"control_taxonomies": None})


def test_the_control_task_of_a_sample_without_non_memo_deals_out_every_class(tiny_studies) -> None:
    study = Study(tiny_studies["report"])
    job = next(job for job in jobs_of(study) if job.source == "control")
    rows = sample_rows(study, job.sample)
    own = rows.evaluation["class_index"].to_numpy()
    first = own == 0
    assert (asked_labels(job, rows)[first] == 0).all()  # Non-Memo keeps its own
    without = replace(rows, classes=("Guess", *rows.classes[1:]))
    assert (asked_labels(job, without)[first] != 0).any()


def test_what_is_painted_is_the_models_output_of_the_tokens_shown(study: Study) -> None:
    """Own suffixes too: the log-probabilities of what the CNNs see, not of the text."""
    job = next(job for job in jobs_of(study) if job.source == "painted")
    rows = sample_rows(study, job.sample).evaluation
    assert set(rows["suffix"]) == {"own", "true"}
    lm = Models(study.settings).alone("model")
    tokens = capture.shown_tokens(study.sequences, rows)
    logprobs = suffix_logprobs(lm, tokens, batch_size=8, prefix=1)
    reference = replace(job, source="reference")
    wanted = PaintedMaps(job_maps(study, reference, rows), torch.from_numpy(logprobs))
    every = torch.arange(rows.height)
    found = job_maps(study, job, rows).read(every).float()
    # Batches of other sizes round otherwise: 1e-4 nats of weights up to 1, stored as float16.
    torch.testing.assert_close(found, wanted.read(every).float(), atol=1e-2, rtol=2e-3)


def test_nothing_but_the_mark_tells_the_classes_of_the_planted_maps_apart(tiny_studies) -> None:
    study = Study(tiny_studies["report"])
    job = next(job for job in jobs_of(study) if job.source == "planted")
    rows = sample_rows(study, job.sample)
    own, dealt = rows.evaluation["class_index"].to_numpy(), asked_labels(job, rows)
    assert (dealt[own == 0] != 0).any()  # Non-Memo too is dealt out anew
    assert sorted(dealt) == sorted(own)


def test_every_head_of_too_much_is_refused_with_the_number(
    tiny_studies, tmp_path, monkeypatch
) -> None:
    shutil.copytree(tiny_studies["label"], tmp_path / "study")
    study = Study(tmp_path / "study")
    monkeypatch.setattr(capture, "MOST_HEAD_BYTES", 1_000_000)
    with pytest.raises(UserError, match=r"takes \d+\.\d GB, the most is 0 GB") as raised:
        run_stage(study, "capture", settings_with(study, capture={"per_head": True}))
    assert "\n" not in str(raised.value)
    assert not (study.folder / "maps").exists()


def test_stages_stay_valid_where_the_new_settings_are_left_alone(tiny_studies) -> None:
    study = Study(tiny_studies["report"])
    keys = {name: study.key(name) for name in ("capture", "train", "benchmark")}
    study.settings = settings_with(study, benchmark={"control_settings": 2})
    assert study.key("capture") == keys["capture"]
    assert study.key("train") != keys["train"]
    study.settings = settings_with(study, benchmark={"control_settings": 1})
    assert {name: study.key(name) for name in keys} == keys
