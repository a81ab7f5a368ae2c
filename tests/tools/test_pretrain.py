"""Training of one phase: a killed run continues to the same bytes."""

import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from mnemoscope.errors import DamagedDataError
from tools.embedded import pretrain
from tools.embedded.corpus import Corpus
from tools.embedded.pretrain import Phase, learning_rate, train_phase
from tools.embedded.recipe import Build, first_phase, prepare, second_phase
from tools.embedded.settings import FULL, TINY


def _phase(folder: Path, seed: int = 1) -> Phase:
    rows = np.random.default_rng(0).integers(0, 512, (20 * TINY.batch_size, 64)).astype(np.uint16)
    return Phase(folder, rows, None, seed, bfloat16=False)


def _train(folder: Path, **changes) -> dict[str, torch.Tensor]:
    return train_phase(_phase(folder, **changes), TINY, report=lambda line: None)


@pytest.mark.whole
def test_interrupted_training_gives_the_same_weights_and_a_complete_phase_is_kept(
    tmp_path, monkeypatch
):
    whole = _train(tmp_path / "whole")
    step = pretrain._Run._one_step

    def stop_at_12(run):
        if run.step == 12:
            raise KeyboardInterrupt
        step(run)

    monkeypatch.setattr(pretrain._Run, "_one_step", stop_at_12)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoint.pt").exists()
    monkeypatch.undo()
    resumed = _train(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    lines: list[str] = []
    again = train_phase(_phase(tmp_path / "cut"), TINY, report=lines.append)
    assert not lines
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    with pytest.raises(DamagedDataError, match="other rows or settings"):
        _train(tmp_path / "cut", seed=2)


@pytest.mark.whole
def test_a_training_seed_decides_weights_and_order_and_not_the_corpus(tmp_path, tiny_out):
    other = replace(TINY, training_seed=1)
    build = prepare(tiny_out / "build", other)  # the same folder: nothing is drawn anew
    assert build.corpus.study.equals(prepare(tiny_out / "build", TINY).corpus.study)
    phases = [first_phase(replace(build, setting=one, folder=tmp_path)) for one in (TINY, other)]
    assert [phase.seed for phase in phases] == [0, 1]
    n = TINY.copy_rows
    first, second = (phase.rows for phase in phases)
    assert np.array_equal(first[:n], second[:n])
    assert not np.array_equal(first, second)
    assert Counter(map(bytes, first[n:])) == Counter(map(bytes, second[n:]))
    few = [_train(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    assert any(not torch.equal(few[0][name], few[1][name]) for name in few[0])


def test_model_and_reference_go_on_from_one_start_each_with_its_own_sequences(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 512, (40, 64)).astype(np.uint16)
    study = pl.DataFrame({"tokens": drawn[:6].tolist(), "inserted": [0, 1, 4, 1, 2, 0]})
    corpus = Corpus(study, *np.split(drawn[6:], [4, 14, 24]), n_text_windows=0)
    build, start = Build(tmp_path, TINY, False, None, corpus), {"weights": torch.zeros(1)}
    own = {"model": np.repeat(drawn[:6], [0, 1, 4, 1, 2, 0], axis=0), "reference": corpus.other}
    for name, rows in own.items():
        phase = second_phase(build, name, start)
        assert phase.start is start
        assert phase.folder.name == name
        wanted = np.concatenate([rows, corpus.second_new])
        assert Counter(map(bytes, phase.rows)) == Counter(map(bytes, wanted))


def test_learning_rate_warms_up_then_falls_to_three_percent():
    peak = FULL.peak_learning_rate
    n_steps = (FULL.copy_rows + sum(FULL.first_rows)) // FULL.batch_size
    assert learning_rate(0, n_steps, FULL) == pytest.approx(peak / 150)
    assert learning_rate(149, n_steps, FULL) == pytest.approx(peak)
    assert learning_rate(n_steps, n_steps, FULL) == pytest.approx(0.03 * peak)
    rates = [learning_rate(step, n_steps, FULL) for step in range(150, n_steps)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.slow
def test_a_killed_recipe_started_again_ships_the_same_bytes(tmp_path, tiny_out, run_recipe_command):
    for name in ("whole", "killed"):
        shutil.copytree(tiny_out, tmp_path / name)
    process = run_recipe_command(tmp_path / "killed")
    while not (tmp_path / "killed/build/model/checkpoint.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed/data").exists()
    for name in ("whole", "killed"):
        process = run_recipe_command(tmp_path / name)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert _shipped(tmp_path / "whole/data") == _shipped(tmp_path / "killed/data")


def _shipped(data: Path) -> dict[str, bytes]:
    files = {p.relative_to(data).as_posix(): p.read_bytes() for p in data.rglob("*") if p.is_file()}
    cards = {"CARD.md", "card.json"}
    assert cards < set(files)
    return {name: content for name, content in files.items() if name not in cards}
