"""Where CNNs train: asked for by name, refused in one line, named in the table of trainings."""

import shutil

import pytest

from mnemoscope.errors import UserError
from mnemoscope.flow.run import run_stage
from mnemoscope.pipeline.train import jobs_of
from mnemoscope.study.folder import Study
from study_files import settings_with


@pytest.fixture
def study(tiny_studies, tmp_path) -> Study:
    return Study(shutil.copytree(tiny_studies["report"], tmp_path / "study"))


def on(study: Study, device: str) -> Study:
    """The study with another device, its finished training forgotten."""
    study.adopt(settings_with(study, train={"device": device}), redo=True)
    return study


def test_another_device_trains_cnns_anew_and_keeps_baselines(study) -> None:
    before = {job.key: job for job in jobs_of(study)}
    after = {job.key: job for job in jobs_of(on(study, "auto"))}
    assert not study.is_done("train")
    assert after.keys() & before.keys() == {k for k, job in before.items() if job.setting is None}
    assert {job.device for job in after.values() if job.setting} == {"auto"}
    assert {job.key for job in jobs_of(on(study, "cpu"))} == before.keys()


def test_a_name_that_is_no_device_is_no_setting(study) -> None:
    with pytest.raises(UserError, match="device 'gpu' is not one of"):
        on(study, "gpu")
    assert study.is_done("train")


def test_a_device_that_is_not_there_is_refused_before_anything_trains(study) -> None:
    shutil.rmtree(on(study, "cuda:99").folder / "cnn")
    with pytest.raises(UserError, match="cuda:99") as raised:
        run_stage(study, "train")
    assert "\n" not in str(raised.value)
    assert not any((study.folder / "cnn").glob("*"))
