"""The trainings that are counted are those the settings mean; what cannot be is refused at once."""

import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import mnemoscope as ms
from mnemoscope.benchmark.sources import TABLE
from mnemoscope.cnn.inputs import Scaling, fit_scaling
from mnemoscope.cnn.presets import PRESETS
from mnemoscope.errors import UserError
from mnemoscope.flow.run import run_stage
from mnemoscope.lm.placement import find_cnn_device
from mnemoscope.pipeline import train
from mnemoscope.pipeline.train import Job, jobs_of
from mnemoscope.pipeline.trainings import (
    check_inputs,
    controlled_taxonomies,
    n_trainings,
    seeds_of,
    settings_of,
)
from mnemoscope.progress import SILENT
from mnemoscope.report.content import _benchmarks
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import StudySettings, parse_settings
from study_files import settings_with

FOUR = "Non-Memo, Recite[5], Reconstruct, Recollect"
THREE = "Non-Memo, Guess, Recall"


def settings(**sections) -> StudySettings:
    return parse_settings({"label": {"taxonomies": [FOUR, THREE]}, **sections}, where="test")


AS_WRITTEN = {"kernels": [6, 8], "filters": [10, 16], "poolings": ["mean", "max"]}


def slugs(chosen: StudySettings, source: str) -> list[str]:
    return [one.slug if one else "-" for one in settings_of(chosen, source)]


EACH = {
    "train": {"poolings": ["heads", "difference", "both", "mean"]},
    "capture": {"per_head": True},
}


@pytest.mark.parametrize(
    ("sections", "n_controls", "expected"),
    [
        ({"train": AS_WRITTEN}, 1, {"model": 8, "control": ["k6-f10-mean"], "blind": 1}),
        # Tokens alone have no heads to pool.
        (
            {"train": AS_WRITTEN},
            2,
            {"reference": ["k6-f10-mean", "k6-f10-max"], "blind": ["k6-f10-mean"]},
        ),
        ({"train": AS_WRITTEN}, 0, {"control": 8, "blind": 4, "ngram": ["-"]}),
        # A reference has no difference from itself: its means stand in, trained once.
        (
            EACH,
            0,
            {
                "model": [f"k6-f10-{n}" for n in EACH["train"]["poolings"]],
                "reference": ["k6-f10-heads", "k6-f10-mean", "k6-f10-both"],
                "blind": ["k6-f10-mean"],
            },
        ),
    ],
)
def test_controls_take_the_first_settings_of_the_grid_that_they_can(
    sections, n_controls, expected
) -> None:
    chosen = settings(**sections, benchmark={"control_settings": n_controls})
    for source, wanted in expected.items():
        found = slugs(chosen, source)
        assert (len(found) if isinstance(wanted, int) else found) == wanted, source


def test_the_count_is_the_product_written_out() -> None:
    chosen = settings(train=AS_WRITTEN | {"seeds": [0, 1, 2]}, benchmark={"control_seeds": 2})
    assert n_trainings(chosen, 5, has_reference=True, n_controlled=5) == {
        "model": 5 * 8 * 3,
        "statistics": 5,
        "control": 5 * 1 * 2,
        "planted": 5 * 1 * 2,
        "control_statistics": 5,
        "planted_statistics": 5,
        "blind": 5 * 1 * 3,
        "blind_statistics": 5,
        "ngram": 5,
        "logits": 5,
        "prefix_logits": 5,
        "reference": 5 * 1 * 3,
        "reference_statistics": 5,
        "total": 120 + 10 + 10 + 15 + 15 + 8 * 5,
    }
    counted = n_trainings(settings(), 6, has_reference=False, n_controlled=2)
    assert (counted["model"], counted["blind"]) == (6 * 3, 2 * 3)
    bare = n_trainings(settings(benchmark={"controls": False}), 5, False, 5)
    assert bare == {"model": 15, "statistics": 5, "total": 20}


def test_seeds_of_baselines_and_of_the_control_task() -> None:
    chosen = settings(train={"seeds": [4, 5, 6]})
    assert seeds_of(chosen, "model") == seeds_of(chosen, "blind") == [4, 5, 6]
    assert seeds_of(chosen, "control") == seeds_of(chosen, "ngram") == [4]
    assert seeds_of(chosen, "control_statistics") == [4]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        (THREE, THREE),
        ("Non-Memo, Guess, Others", THREE),  # as the published tables spell it
        ("Non-Memo, Guess[0.5-0.5], Recall", THREE),
        ("Non-Memo, Recite[5], Reconstruct, Others", FOUR),
        (f" {FOUR} ", FOUR),
    ],
)
def test_a_taxonomy_is_found_under_each_of_its_names(name: str, meant: str) -> None:
    chosen = settings(benchmark={"control_taxonomies": [name]})
    assert controlled_taxonomies(chosen) == {meant}
    names = ["Non-Memo, Recite[5], Others", "Non-Memo, Recollect[5], Others"]  # of one partition
    chosen = settings(label={"taxonomies": names}, benchmark={"control_taxonomies": [names[1]]})
    assert controlled_taxonomies(chosen) == {names[0]}


def test_no_name_means_all_and_an_unknown_one_is_refused_with_the_nearest() -> None:
    assert controlled_taxonomies(settings()) is None
    assert controlled_taxonomies(settings(benchmark={"control_taxonomies": []})) == set()
    with pytest.raises(UserError, match=r"no taxonomy 'Non-Memo, Gues, Recall'.*Did you mean"):
        check_inputs(settings(benchmark={"control_taxonomies": ["Non-Memo, Gues, Recall"]}), True)
    with pytest.raises(UserError, match="There are: Non-Memo, Recite"):
        controlled_taxonomies(settings(benchmark={"control_taxonomies": ["x"]}))


@pytest.mark.parametrize(
    ("sections", "has_reference", "said"),
    [
        ({"train": {"poolings": ["heads"]}}, True, "heads needs every head's maps"),
        ({"train": {"poolings": ["difference"]}}, True, None),
        ({"train": {"poolings": ["difference"]}}, False, "needs the maps of a reference model"),
        (
            {"train": {"poolings": ["difference"]}, "benchmark": {"controls": False}},
            True,
            "difference needs",
        ),
        ({"benchmark": {"control_settings": -1}}, True, r"benchmark\.control_settings"),
        ({"benchmark": {"control_settings": "some"}}, True, r"benchmark\.control_settings"),
    ],
)
def test_inputs_that_were_not_captured_are_refused(sections, has_reference, said) -> None:
    with pytest.raises(UserError, match=said) if said else nullcontext():
        check_inputs(settings(**sections), has_reference)


def test_another_device_trains_cnns_anew_and_keeps_baselines_or_is_refused(study_at) -> None:
    study = Study(study_at("report"))

    def on(device: str) -> dict[str, Job]:
        """Trainings on another device, the finished ones forgotten."""
        study.adopt(settings_with(study, train={"device": device}), redo=True)
        return {job.key: job for job in jobs_of(study)}

    before = {job.key: job for job in jobs_of(study)}
    assert {job.device for job in before.values() if job.setting} == {"auto"}
    trained_on = set(study.read("runs.parquet").drop_nulls("kernel")["device"])
    assert trained_on == {find_cnn_device("auto").type}
    with pytest.raises(UserError, match="device 'gpu' is not one of"):
        on("gpu")
    assert study.is_done("train")
    after = on("cpu")
    assert not study.is_done("train")
    assert after.keys() & before.keys() == {k for k, job in before.items() if job.setting is None}
    assert {job.device for job in after.values() if job.setting} == {"cpu"}
    assert on("auto").keys() == before.keys()
    on("cuda:99")
    shutil.rmtree(study.folder / "cnn")
    with pytest.raises(UserError, match="cuda:99"):
        run_stage(study, "train")
    assert not any((study.folder / "cnn").glob("*"))


def test_trainings_at_chance_are_withheld_or_summed_as_is_asked(tiny_studies, tmp_path) -> None:
    """Against all predictions counted by hand: settings, seeds and epochs, as the paper sums."""
    study = ms.Study(shutil.copytree(tiny_studies["train"], tmp_path / "study"))
    runs = study.read("runs.parquet").filter(source="model")
    assert not runs["did_train"].any()
    run_stage(study, "benchmark")
    withheld = study.benchmark.filter(source="model")
    assert withheld["min_f1"].struct.field("value").to_list() == [None]
    run_stage(study, "benchmark", settings_with(study, benchmark={"untrained": "count"}), redo=True)
    (row,) = study.benchmark.filter(source="model").to_dicts()
    predicted = study.read("predictions.parquet").filter(source="model")
    expected = np.zeros((3, 3), dtype=int)
    np.add.at(expected, (predicted["true"].to_numpy(), predicted["predicted"].to_numpy()), 1)
    assert row["confusion"] == expected.tolist()
    assert row["n_runs"] == runs.height
    assert study.manifest("benchmark")["counts"]["trainings_at_chance"] >= runs.height
    benchmark = dict(_benchmarks(study))[row["taxonomy"]]
    assert {one["did_train"] for one in benchmark.runs} == {False}
    assert all(one["eval_min_f1"] is not None for one in benchmark.runs)


def test_one_scaling_serves_settings_seeds_and_the_control_task(study_at, monkeypatch) -> None:
    """Each as fitted on the job's own training maps; one a kind of maps, however many trainings."""
    study, fitted, given = Study(study_at("capture")), [], []

    class Seen(Exception):
        pass

    def fit(*arguments) -> Scaling:
        fitted.append(fit_scaling(*arguments))
        return fitted[-1]

    def see(maps, *_, scaling, preset, prefix, **__) -> None:
        own = fit_scaling(maps, PRESETS[preset], prefix)
        assert torch.equal(scaling.mean, own.mean)
        assert torch.equal(scaling.inverse_deviation, own.inverse_deviation)
        given.append(scaling)
        raise Seen

    monkeypatch.setattr(train, "_scalings", {})
    monkeypatch.setattr(train, "fit_scaling", fit)
    monkeypatch.setattr(train, "fit_cnns", see)
    study.adopt(settings_with(study, train={"preset": "small", "kernels": [3, 4]}), redo=True)
    jobs = [job for job in jobs_of(study) if job.setting and not TABLE[job.source].mark]
    for job in jobs:
        with pytest.raises(Seen):
            job.run(study, SILENT)
    assert {job.source for job in jobs} >= {"model", "control", "reference", "blind"}
    assert len(fitted) == len({TABLE[job.source].reads for job in jobs}) < len(given) / 2
