"""CNNs that a GPU trains as one: which they are, and that each keeps a result of its own."""

import shutil

import numpy as np
import pytest
import torch

from copy_counts import DEVICE
from mnemoscope.cluster.units import Share, Together
from mnemoscope.cnn.training import TrainedCnn
from mnemoscope.maps.device import HeldMaps
from mnemoscope.pipeline import train
from mnemoscope.pipeline.train import (
    Job,
    choice_jobs,
    jobs_of,
    load_outcome,
    run_jobs,
    together,
    trained_cnn,
)
from mnemoscope.pipeline.trainings import group_sizes
from mnemoscope.study.folder import Study
from study_files import content, settings_with

GRID = {
    **{"preset": "as_run", "kernels": [3, 4], "filters": [2], "poolings": ["mean"]},
    **{"seeds": [0, 1], "workers": 1},
}


@pytest.fixture
def grid(tiny_studies, tmp_path):
    """Copies of a captured study with two settings and two seeds."""

    def copy(name: str) -> Study:
        study = Study(shutil.copytree(tiny_studies["capture"], tmp_path / name))
        study.adopt(settings_with(study, train=GRID), redo=True)
        return study

    return copy


@pytest.fixture
def on_gpu(monkeypatch) -> None:
    """Group on the processor what a GPU would train as one."""
    monkeypatch.setattr(train, "trains_together", lambda _: True)


def test_on_the_processor_every_training_is_a_unit(grid) -> None:
    study = grid("study")
    jobs = list(jobs_of(study))
    assert together(study, jobs) == jobs


def test_groups_have_sample_input_and_kernel_in_common(grid, on_gpu) -> None:
    study = grid("study")
    study.adopt(settings_with(study, train=GRID | {"filters": [2, 3]}), redo=True)
    jobs = [*jobs_of(study), *choice_jobs(study)]
    units = together(study, jobs)
    found = [unit.units if isinstance(unit, Together) else (unit,) for unit in units]
    assert sorted(job.key for own in found for job in own) == sorted({job.key for job in jobs})
    groups = [own for own in found if len(own) > 1]
    for own in groups:
        assert all(job.setting for job in own)
        assert len({(job.sample, job.fold, job.setting.kernel) for job in own}) == 1
    of_model = [own for own in groups if own[0].source == "model" and own[0].fold is None]
    # Two kernels; two filters and two seeds of each, the control task beside those of the first.
    assert [len(own) for own in of_model] == [5, 4]
    assert [job.source for job in of_model[0]].count("control") == 1
    sample = of_model[0][0].sample
    counted = group_sizes(study.settings, True, is_controlled=True)
    here = [own for own in found if own[0].setting and own[0].fold is None]
    assert sorted(counted.values()) == sorted(len(own) for own in here if own[0].sample == sample)
    sources = [{job.source for job in own} for own in found]
    assert {"planted"} in sources  # its maps are marked
    assert {"reference"} in sources


def weights(cnn: TrainedCnn) -> np.ndarray:
    return np.concatenate([one.numpy().ravel() for one in cnn.network.state_dict().values()])


def chosen(study: Study) -> list[Job]:
    """The model's CNNs and the control task's."""
    return [job for job in jobs_of(study) if job.source in ("model", "control")]


def results(study: Study) -> dict[str, bytes]:
    """Weights and predictions of all CNNs."""
    every = content(study.folder / "cnn").items()
    return {name: one for name, one in every if name.endswith(".safetensors")}


def test_cnns_trained_together_are_those_trained_one_by_one(grid, monkeypatch) -> None:
    """To float32 rounding; and in parts, or after a kill, the same files as in one run."""
    alone, whole, parts = grid("alone"), grid("whole"), grid("parts")
    run_jobs(alone, chosen(alone), "")
    monkeypatch.setattr(train, "trains_together", lambda _: True)
    run_jobs(whole, chosen(whole), "")
    for job, other in zip(chosen(alone), chosen(whole), strict=True):
        assert job.key == other.key
        expected, found = load_outcome(job), load_outcome(other)
        assert found.predicted.shape == expected.predicted.shape
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
        assert found.facts == expected.facts
        pair = [weights(trained_cnn(one)) for one in (job, other)]
        np.testing.assert_allclose(*pair, rtol=0, atol=1e-5)
    made = results(whole)
    for number in (2, 1):
        train._run(parts, Share(number, 2).of(together(parts, chosen(parts))), "")
    assert results(parts) == made
    first, *_ = together(whole, chosen(whole))
    for job in first.units[1:]:  # killed after the first of them was kept
        for path in (whole.folder / "cnn").glob(f"{job.key}*"):
            path.unlink()
    ran: list[list[str]] = []

    def seen(study: Study, jobs, rows):
        ran.append([job.key for job in jobs])
        return train_one(study, jobs, rows)

    train_one = train._train
    monkeypatch.setattr(train, "_train", seen)
    run_jobs(whole, chosen(whole), "")
    assert ran == [[job.key for job in first.units]]
    assert results(whole) == made


def test_number_format_of_the_steps_is_part_of_a_training(grid) -> None:
    study = grid("study")
    before = {job.key: job for job in jobs_of(study)}
    study.adopt(settings_with(study, train=GRID | {"precision": "bfloat16"}), redo=True)
    after: dict[str, Job] = {job.key: job for job in jobs_of(study)}
    assert after.keys() & before.keys() == {k for k, job in before.items() if job.setting is None}
    assert {job.precision for job in after.values() if job.setting} == {"bfloat16"}


def test_maps_of_the_latest_rows_stay_on_the_device(grid, monkeypatch) -> None:
    """For settings, seeds and the control task; the oldest make room."""
    monkeypatch.setattr(train, "_held", {})
    study = grid("study")
    of_model, of_control = (
        next(job for job in jobs_of(study) if job.source == source)
        for source in ("model", "control")
    )
    train_rows, asked, both = (of_model.found_rows(study).train[:n] for n in (4, 6, 8))

    def held(job: Job, rows, device=DEVICE):
        return train.held_maps(study, job, rows, train.job_maps(study, job, rows), device)

    first, second = held(of_model, train_rows), held(of_model, asked)
    assert isinstance(first, HeldMaps)
    assert (len(first), len(second)) == (4, 6)
    assert held(of_control, train_rows) is first
    assert len(held(of_model, both)) == 8
    assert held(of_control, asked) is second
    assert held(of_model, train_rows) is not first
    assert not isinstance(held(of_model, asked, torch.device("cpu")), HeldMaps)
