"""The reference of a study is another model, by name, folder or revision."""

import shutil

import pytest

from mnemoscope.errors import UserError
from mnemoscope.lm.hub import is_of_same_run
from mnemoscope.study.models import Models
from mnemoscope.study.settings import StudySettings


def settings_of(tiny, reference) -> StudySettings:
    values = {**tiny.values, "capture": {"reference": str(reference)}}
    return StudySettings.model_validate(values)


def test_the_model_itself_under_another_name_is_no_reference(tiny, tmp_path) -> None:
    shutil.copytree(tiny.model, tmp_path / "copy")
    said = "cannot serve as a reference. Name the model that it was tuned from"
    with pytest.raises(UserError, match=said):
        Models(settings_of(tiny, tmp_path / "copy")).reference(None)


def test_a_revision_is_named_behind_the_reference(tiny, tmp_path, monkeypatch) -> None:
    asked = {}

    def load(name, **options):
        asked[name] = options["revision"]
        return models_loaded[name]

    first = Models(settings_of(tiny, tiny.reference))
    models_loaded = {str(tiny.model): first.model(), "org/model": first.reference(None)}
    monkeypatch.setattr("mnemoscope.lm.load.load_model", load)
    Models(settings_of(tiny, "org/model@step1000")).reference(None)
    assert asked == {"org/model": "step1000", str(tiny.model): None}


def test_a_folder_with_an_at_sign_is_a_folder(tiny, tmp_path) -> None:
    shutil.copytree(tiny.reference, tmp_path / "run@2")
    assert Models(settings_of(tiny, tmp_path / "run@2")).reference(None).name.endswith("run@2")


def test_checkpoints_of_one_training_are_known_by_their_folders() -> None:
    assert is_of_same_run("out/checkpoint-60", "out/checkpoint-119")
    for name in ("other/checkpoint-60", "out/base", "checkpoint-60"):
        assert not is_of_same_run(name, "out/checkpoint-119")
