"""A CNN's file: equal runs equal bytes, identical logits, and what is no CNN is refused."""

from pathlib import Path

import pytest
import torch
from cnn_problems import QUICK, SETTING, planted
from safetensors.torch import save_file

from mnemoscope.cnn.presets import PRESETS
from mnemoscope.cnn.training import (
    TrainedCnn,
    load_cnn,
    pack_cnn,
    predict_logits,
    train_cnn,
)
from mnemoscope.errors import DamagedDataError, UserError

PROBLEM = planted(48, seed=0)


def train(preset=QUICK, seed: int = 0) -> TrainedCnn:
    maps, labels = PROBLEM
    return train_cnn(maps, labels, n_classes=3, setting=SETTING, preset=preset, seed=seed)


@pytest.fixture(scope="module")
def trained() -> TrainedCnn:
    return train()


@pytest.fixture
def file(trained, tmp_path: Path) -> Path:
    path = tmp_path / "cnn.safetensors"
    path.write_bytes(pack_cnn(trained))
    return path


@pytest.mark.parametrize(
    "preset", [QUICK, PRESETS["paper"], PRESETS["rows"]], ids=lambda preset: preset.name
)
def test_a_loaded_cnn_gives_identical_logits_and_facts(preset, tmp_path: Path) -> None:
    trained = train(preset)
    path = tmp_path / "cnn.safetensors"
    path.write_bytes(pack_cnn(trained))
    state = torch.get_rng_state()
    loaded = load_cnn(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(predict_logits(loaded, PROBLEM.maps), predict_logits(trained, PROBLEM.maps))
    for fact in ("setting", "preset", "seed", "history"):
        assert getattr(loaded, fact) == getattr(trained, fact)
    assert loaded.seconds is None
    assert not loaded.network.training


def test_equal_runs_and_a_loaded_cnn_give_equal_bytes(file: Path) -> None:
    again, loaded, other = map(pack_cnn, (train(), load_cnn(file), train(seed=1)))
    assert again == loaded == file.read_bytes() != other


def test_a_file_cut_short_or_no_cnn_of_this_format_is_refused(file: Path) -> None:
    """A changed byte is found by the store (`tests/test_store.py`)."""
    whole = file.read_bytes()
    for share in (0.0, 0.001, 0.01, 0.5, 0.9999):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DamagedDataError, match=r"cnn\.safetensors"):
            load_cnn(file)
    file.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"format\\": 2'))
    with pytest.raises(UserError, match="format 2"):
        load_cnn(file)
    save_file({"weights": torch.zeros(3)}, file)
    with pytest.raises(DamagedDataError, match="not a whole CNN"):
        load_cnn(file)


def test_a_missing_file_is_the_users_mistake(tmp_path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_cnn(tmp_path / "nothing")
