"""A CNN's file: equal runs equal bytes, identical logits, and damage is found."""

from pathlib import Path

import pytest
import torch
from cnn_problems import QUICK, SETTING, planted

from mnemoscope.cnn.presets import PRESETS
from mnemoscope.cnn.training import (
    TrainedCnn,
    load_cnn,
    predict_logits,
    read_tensors,
    save_cnn,
    sealed_tensors,
    train_cnn,
)
from mnemoscope.errors import DamagedDataError, UserError

PROBLEM = planted(48, seed=0)


def train(preset=QUICK, seed: int = 0) -> TrainedCnn:
    maps, labels = PROBLEM
    return train_cnn(maps, labels, n_classes=3, setting=SETTING, preset=preset, seed=seed)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cnn.safetensors"
    save_cnn(path, train())
    return path


def test_a_cnn_of_another_place_is_refused(tmp_path) -> None:
    save_cnn(tmp_path / "cnn", train(), place="mine")
    assert load_cnn(tmp_path / "cnn", place="mine").seed == load_cnn(tmp_path / "cnn").seed
    with pytest.raises(DamagedDataError, match="made as mine, for another place"):
        load_cnn(tmp_path / "cnn", place="other")


@pytest.mark.parametrize(
    "preset", [QUICK, PRESETS["paper"], PRESETS["rows"]], ids=lambda preset: preset.name
)
def test_a_loaded_cnn_gives_identical_logits_and_facts(preset, tmp_path: Path) -> None:
    trained = train(preset)
    path = tmp_path / "cnn.safetensors"
    save_cnn(path, trained)
    state = torch.get_rng_state()
    loaded = load_cnn(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(predict_logits(loaded, PROBLEM.maps), predict_logits(trained, PROBLEM.maps))
    for fact in ("setting", "preset", "seed", "history"):
        assert getattr(loaded, fact) == getattr(trained, fact)
    assert loaded.seconds is None
    assert not loaded.network.training


def test_equal_runs_give_equal_bytes_and_another_seed_does_not(file: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    save_cnn(again, train())
    save_cnn(other, train(seed=1))
    assert again.read_bytes() == file.read_bytes() != other.read_bytes()


def test_a_loaded_cnn_is_saved_with_the_same_bytes(file: Path, tmp_path: Path) -> None:
    save_cnn(tmp_path / "again", load_cnn(file))
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.9999])
def test_a_file_cut_short_is_damaged(file: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DamagedDataError, match=r"cnn\.safetensors"):
        load_cnn(file)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6, 0.95, 1.0])
def test_a_single_changed_byte_is_damaged(file: Path, share: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(share * (len(content) - 1))] ^= 0x10
    file.write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"cnn\.safetensors"):
        load_cnn(file)


def test_another_file_is_no_cnn(file: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weights": torch.zeros(3)}, file)
    with pytest.raises(DamagedDataError, match="no CNN"):
        load_cnn(file)


def test_a_later_format_is_refused(file: Path) -> None:
    tensors, facts = read_tensors(file, "mnemoscope_cnn", None)
    file.write_bytes(sealed_tensors(tensors, "mnemoscope_cnn", facts | {"format": 2}, None))
    with pytest.raises(UserError, match="format 2"):
        load_cnn(file)


def test_a_missing_file_and_a_missing_folder_are_the_users_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_cnn(tmp_path / "nothing")
    with pytest.raises(UserError, match="no such folder"):
        save_cnn(tmp_path / "nowhere" / "cnn", train())
    assert not list(tmp_path.iterdir())
