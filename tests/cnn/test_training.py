"""Training: the paper's loop, the same bits for a seed, a planted truth found; files, scaling."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cnn_problems import QUICK, SETTING, Problem, attention, planted
from safetensors.torch import save_file
from scipy.stats import binom

from mnemoscope.cnn.inputs import NetworkInputs, fit_scaling, scale_maps
from mnemoscope.cnn.metrics import confusion_matrix, min_f1
from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import PRESETS, TrainingPreset
from mnemoscope.cnn.steps import learning_rates
from mnemoscope.cnn.training import (
    TrainedCnn,
    Wanted,
    chance_test,
    evaluation_mode,
    load_cnn,
    pack_cnn,
    predict_logits,
    train_cnns,
)
from mnemoscope.errors import DamagedDataError
from mnemoscope.maps.shape import row_statistics
from mnemoscope.maps.triangle import pack_triangle, unpack_triangle
from mnemoscope.maps.views import TensorMaps
from refusals import refusal

SMALL, PAPER, ROWS = PRESETS["small"], PRESETS["as_run"], PRESETS["rows"]
SOONER = replace(SMALL, epochs=1, min_steps=300)


def train(problem: Problem, preset: TrainingPreset = QUICK, **options) -> TrainedCnn:
    wanted = Wanted(problem.labels, options.pop("setting", SETTING), options.pop("seed", 0))
    return train_cnns(problem.maps, [wanted], **{"n_classes": 3, "preset": preset} | options)[0]


def weights(trained: TrainedCnn) -> torch.Tensor:
    return torch.cat([value.flatten() for value in trained.network.state_dict().values()])


@pytest.mark.parametrize("preset", [PAPER, QUICK], ids=lambda preset: preset.name)
def test_a_seed_gives_the_same_bits_watched_or_not_whatever_state_and_memory(
    preset, monkeypatch
) -> None:
    """Also where others are trained on the same maps in its midst."""
    problem, seen = planted(40, seed=0, length=20), []
    torch.manual_seed(1)
    np.random.seed(1)
    first = train(problem, preset)

    def watch(epoch: int, group: list[TrainedCnn]) -> None:
        (trained,) = group
        torch.rand(7)
        predict_logits(trained, problem.maps)
        for sizes in ({"filters": 3}, {"kernel": 5}):
            turned = Problem(problem.maps, problem.labels.flip(0))
            train(turned, preset, setting=replace(SETTING, **sizes), seed=1)
        seen.append((epoch, trained.history, trained.network.training))

    torch.manual_seed(2)
    watched = train(problem, preset, on_epoch=watch)
    assert [epoch for epoch, _, _ in seen] == list(range(len(first.history.loss)))
    assert seen[-1][1].loss == first.history.loss
    assert preset is PAPER or seen[0][1].train_balanced_accuracy is None
    assert not any(training for _, _, training in seen)
    monkeypatch.setattr("mnemoscope.cnn.training.KEPT_BYTES", 0)
    state = torch.get_rng_state()
    second = train(problem, preset)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights(first), weights(second))
    assert torch.equal(weights(first), weights(watched))
    assert first.history == second.history
    assert not torch.equal(weights(train(problem, preset, seed=1)), weights(first))


def test_without_dropout_training_is_the_plain_loop_written_here() -> None:
    problem = planted(40, seed=0, length=24)
    preset = replace(PAPER, dropout=0.0)
    epochs_seen = []
    trained = train(problem, preset, on_epoch=lambda _, cnns: epochs_seen.append(weights(*cnns)))
    state_seed, order_seed, _ = np.random.SeedSequence(0).generate_state(3).tolist()
    torch.manual_seed(state_seed)
    network = AttentionCnn(2, 3, kernel=6, filters=10, length=24, dropout=0.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.1, foreach=False)
    order = torch.Generator().manual_seed(order_seed)
    maps = unpack_triangle(problem.maps.read(torch.arange(40))).float()
    for epoch in range(3):
        losses = []
        shuffled = torch.randperm(40, generator=order)
        for start in range(0, 40, 16):
            rows = shuffled[start : start + 16]
            loss = F.cross_entropy(network(maps[rows]), problem.labels[rows], reduction="none")
            losses += loss.tolist()
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        # Adam divides by the gradient's size, so rounding of small gradients is amplified
        expected = torch.cat([value.flatten() for value in network.state_dict().values()])
        torch.testing.assert_close(epochs_seen[epoch], expected, rtol=0, atol=2e-5)
        # the loss is per map, the short last batch counting by its size
        assert trained.history.loss[epoch] == pytest.approx(np.mean(losses), rel=1e-4)
    assert trained.history.n_steps == 9


def test_small_learns_on_a_cosine() -> None:
    rates = list(learning_rates(SMALL, 800))
    n_rising = round(SMALL.warmup * 800)
    assert max(rates) == pytest.approx(SMALL.learning_rate)
    assert rates[:n_rising] == sorted(rates[:n_rising])
    assert rates[n_rising:] == sorted(rates[n_rising:], reverse=True)
    assert rates[-1] < 1e-3 * SMALL.learning_rate
    middle = rates[n_rising + (800 - n_rising) // 2]
    assert middle == pytest.approx(SMALL.learning_rate / 2, rel=1e-6)
    assert set(learning_rates(PAPER, 10)) == {1e-3}


def test_a_planted_truth_is_found() -> None:
    trained = train(planted(240, seed=0), SOONER)
    evaluation = planted(300, seed=1)
    predicted = predict_logits(trained, evaluation.maps).argmax(1)
    found = min_f1(confusion_matrix(evaluation.labels.numpy(), predicted.numpy(), 3))
    assert found > 0.95
    assert trained.did_train
    assert trained.history.loss[-1] < 0.1 < trained.history.loss[0]


def test_with_shuffled_labels_it_stays_at_chance() -> None:
    generator = torch.Generator().manual_seed(4)
    maps, labels = planted(240, seed=0)
    trained = train(Problem(maps, labels[torch.randperm(240, generator=generator)]), SOONER)
    maps, labels = planted(600, seed=1)
    true = labels[torch.randperm(600, generator=generator)].numpy()
    predicted = predict_logits(trained, maps).argmax(1).numpy()
    # Labels know nothing of the maps, so each of 600 is right with probability 1/3: the number
    # right lies in the binomial bounds at p = 1e-3, .272 to .397 of them.
    low, high = binom.ppf([5e-4, 1 - 5e-4], 600, 1 / 3)
    assert low <= (true == predicted).sum() <= high
    # Accuracy is the mean of the F1s weighted by (true + predicted), so min-F1 is never above it.
    assert min_f1(confusion_matrix(true, predicted, 3)) <= high / 600


def test_the_check_is_made_on_the_training_maps_and_calls_chance_so() -> None:
    problem = planted(90, seed=0)
    untouched = train(problem, replace(QUICK, learning_rate=0.0))
    assert not untouched.did_train
    assert untouched.history.p_value >= 0.01
    trained = train(problem, replace(QUICK, min_steps=60))
    predicted = predict_logits(trained, problem.maps).argmax(1)
    recalls = [float((predicted[problem.labels == c] == c).float().mean()) for c in range(3)]
    assert trained.history.train_balanced_accuracy == pytest.approx(np.mean(recalls), abs=1e-6)
    confusion = confusion_matrix(problem.labels.numpy(), predicted.numpy(), 3)
    assert trained.history.train_min_f1 == min_f1(confusion)


def test_chance_test_equals_the_binomial_tail_for_equal_classes() -> None:
    true = np.repeat(np.arange(3), 40)
    predicted = true.copy()
    predicted[:60] = (predicted[:60] + 1) % 3  # 60 of 120 right
    accuracy, p_value = chance_test(confusion_matrix(true, predicted, 3))
    assert accuracy == pytest.approx(0.5)
    assert p_value == pytest.approx(binom.sf(59, 120, 1 / 3), rel=1e-9)
    true = np.repeat(np.arange(3), (500, 20, 20))  # one class always, however large it is
    accuracy, p_value = chance_test(confusion_matrix(true, np.zeros_like(true), 3))
    assert accuracy == pytest.approx(1 / 3)
    assert p_value > 0.4


@pytest.mark.parametrize("sizes", [(40, 40, 40), (150, 20, 20)])
def test_predictions_made_blindly_pass_as_training_at_most_as_often_as_said(sizes) -> None:
    generator = np.random.default_rng(0)
    true = np.repeat(np.arange(3), sizes)
    for shares in ([1 / 3] * 3, [0.8, 0.1, 0.1]):
        blind = generator.choice(3, p=shares, size=(1_000, len(true)))
        n_passed = sum(
            chance_test(confusion_matrix(true, predicted, 3)).p_value < 0.01 for predicted in blind
        )
        assert n_passed <= binom.ppf(0.999, 1_000, 0.01)


def test_labels_and_maps_that_do_not_fit_are_refused() -> None:
    maps, labels = planted(12, seed=0, length=20)
    for wrong, said in (([0, 1], "labels for"), ([0, 1, 2, 3] * 3, "class"), ([0, 1] * 6, "class")):
        with pytest.raises(ValueError, match=said):
            train(Problem(maps, torch.tensor(wrong)))
    packed = maps.read(torch.arange(12)).clone()
    packed[3, 0, 5] = math.nan
    for preset in (QUICK, PAPER):
        with pytest.raises(DamagedDataError, match="layer 0"):
            train(Problem(TensorMaps(packed), labels), preset)
    other = TensorMaps(torch.zeros(2, 5, 20 * 21 // 2))
    with pytest.raises(ValueError, match="5 layers"):
        predict_logits(train(Problem(maps, labels)), other)


def test_predictions_keep_the_order_of_the_maps_and_leave_the_mode_alone() -> None:
    problem = planted(30, seed=0)
    trained = train(problem)
    whole = predict_logits(trained, problem.maps, batch_size=30)
    by_seven = predict_logits(trained, problem.maps, batch_size=7)
    assert whole.shape == (30, 3)
    assert whole.dtype == torch.float32
    torch.testing.assert_close(by_seven, whole, rtol=1e-5, atol=1e-5)  # other batches, other sums
    trained.network.train()
    assert torch.equal(predict_logits(trained, problem.maps, batch_size=30), whole)
    assert trained.network.training
    with pytest.raises(RuntimeError), evaluation_mode(trained.network):
        raise RuntimeError
    assert trained.network.training


@pytest.mark.gpu
def test_an_accelerator_finds_what_the_cpu_finds() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    problem, evaluation = planted(240, seed=0), planted(300, seed=1)
    trained = train(problem, SOONER, device="cuda")
    predicted = predict_logits(trained, evaluation.maps).argmax(1)
    found = min_f1(confusion_matrix(evaluation.labels.numpy(), predicted.numpy(), 3))
    assert found > 0.95
    assert trained.did_train


@pytest.fixture(scope="module")
def problem() -> Problem:
    return planted(48, seed=0)


@pytest.fixture
def file(problem: Problem, tmp_path: Path) -> Path:
    path = tmp_path / "cnn.safetensors"
    path.write_bytes(pack_cnn(train(problem)))
    return path


@pytest.mark.parametrize(
    "preset", [QUICK, PRESETS["as_run"], PRESETS["rows"]], ids=lambda preset: preset.name
)
def test_a_loaded_cnn_gives_identical_logits_and_facts(
    preset, problem: Problem, tmp_path: Path
) -> None:
    trained = train(problem, preset)
    path = tmp_path / "cnn.safetensors"
    path.write_bytes(pack_cnn(trained))
    state = torch.get_rng_state()
    loaded = load_cnn(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(predict_logits(loaded, problem.maps), predict_logits(trained, problem.maps))
    for fact in ("setting", "preset", "seed", "history"):
        assert getattr(loaded, fact) == getattr(trained, fact)
    assert loaded.seconds is None
    assert not loaded.network.training


def test_equal_runs_and_a_loaded_cnn_give_equal_bytes(file: Path, problem: Problem) -> None:
    again, loaded, other = map(pack_cnn, (train(problem), load_cnn(file), train(problem, seed=1)))
    assert again == loaded == file.read_bytes() != other


def test_a_file_cut_short_or_no_cnn_of_this_format_is_refused(file: Path) -> None:
    """A changed byte is found by the store (`tests/test_store.py`)."""
    whole = file.read_bytes()
    for share in (0.0, 0.001, 0.01, 0.5, 0.9999):
        file.write_bytes(whole[: int(share * len(whole))])
        assert "cnn.safetensors" in refusal(load_cnn, file, error=DamagedDataError)
    file.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"format\\": 2'))
    assert "format 2" in refusal(load_cnn, file)
    save_file({"weights": torch.zeros(3)}, file)
    assert "not a whole CNN" in refusal(load_cnn, file, error=DamagedDataError)


def test_a_missing_file_is_the_users_mistake(tmp_path) -> None:
    assert "no such file" in refusal(load_cnn, tmp_path / "nothing")


def source(n: int = 300, seed: int = 0) -> TensorMaps:
    return TensorMaps(pack_triangle(attention(n, 2, 16, seed)))


def all_of(maps: TensorMaps) -> torch.Tensor:
    return maps.read(torch.arange(len(maps)))


def test_small_is_square_root_then_standardised_per_position() -> None:
    train, other = source(), source(50, 1)
    roots = np.sqrt(all_of(train).numpy().astype(np.float64))
    mean, deviation = roots.mean(0), np.maximum(roots.std(0), 1e-3)
    expected = (np.sqrt(all_of(other).numpy().astype(np.float64)) - mean) / deviation
    got = pack_triangle(scale_maps(fit_scaling(train, SMALL), all_of(other)))
    # float32: a root below 1 is off by 6e-8, divided by the smallest deviation here (about 0.05)
    np.testing.assert_allclose(got.numpy(), np.clip(expected, -8, 8), atol=1e-4)


def test_nothing_stands_above_the_diagonal_constants_become_0_and_extremes_are_clamped() -> None:
    maps = source()
    scaling = fit_scaling(maps, SMALL)
    scaled = scale_maps(scaling, all_of(maps))
    assert not torch.triu(scaled, 1).any()
    assert not scaled[:, :, 0, 0].any()  # the first token attends to itself with weight 1
    assert scaled.shape == (300, 2, 16, 16)
    extreme = torch.zeros(2, 2, 136)
    extreme[0] = 4.0
    scaled = scale_maps(scaling, extreme)
    assert (float(scaled.min()), float(scaled.max())) == (-SMALL.clamp, SMALL.clamp)


def test_paper_leaves_maps_raw() -> None:
    maps = source()
    scaled = scale_maps(fit_scaling(maps, PAPER), all_of(maps))
    assert torch.equal(pack_triangle(scaled), all_of(maps).float())


def test_rows_are_standardised_statistics_of_rows() -> None:
    train, other = source(), source(50, 1)
    of = [row_statistics(unpack_triangle(all_of(maps).double())).numpy() for maps in (train, other)]
    mean, deviation = of[0].mean(0), np.maximum(of[0].std(0), 1e-3)
    expected = ((of[1] - mean) / deviation).reshape(50, 12, 16)
    got = scale_maps(fit_scaling(train, ROWS), all_of(other))
    # float32: a share of 1 is off by 1.2e-7, divided by the smallest deviation there is (1e-3)
    np.testing.assert_allclose(got.numpy(), np.clip(expected, -8, 8), atol=2e-4)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -0.1])
def test_what_cannot_be_attention_is_refused_with_its_layer(value: float) -> None:
    packed = all_of(source()).clone()
    packed[7, 1, 40] = value
    assert "layer 1" in refusal(fit_scaling, TensorMaps(packed), SMALL, error=DamagedDataError)


@pytest.mark.parametrize("preset", [SMALL, PAPER, ROWS], ids=lambda preset: preset.name)
def test_kept_inputs_equal_inputs_made_a_batch_at_a_time(preset) -> None:
    maps = source(600)
    scaling = fit_scaling(maps, preset)
    kept = NetworkInputs(maps, scaling, keep_bytes=1 << 30)
    made = NetworkInputs(maps, scaling, keep_bytes=0)
    rows = torch.tensor([5, 599, 0, 256, 255, 5])
    assert torch.equal(kept.batch(rows), made.batch(rows))
    assert torch.equal(made.batch(rows), scale_maps(scaling, maps.read(rows)))
    is_map = kept.batch(rows).ndim == 4
    assert not is_map or kept.batch(rows).is_contiguous(memory_format=torch.channels_last)
