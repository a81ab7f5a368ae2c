"""CNNs trained as one: the weights of each alone; an accelerator that nothing waits for."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from cnn_problems import QUICK, SETTING, Problem, attention, planted

from copy_counts import DEVICE, count_waits
from mnemoscope.cnn import steps
from mnemoscope.cnn.group import CnnGroup
from mnemoscope.cnn.inputs import NetworkInputs, fit_scaling
from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import PRESETS, TrainingPreset
from mnemoscope.cnn.training import (
    TrainedCnn,
    Wanted,
    pack_cnn,
    predict_logits,
    predict_together,
    train_cnns,
)
from mnemoscope.errors import DamagedDataError
from mnemoscope.maps import device as maps_device
from mnemoscope.maps.device import HeldMaps, hold_maps, n_at_once, read_ahead
from mnemoscope.maps.triangle import pack_triangle
from mnemoscope.maps.views import TensorMaps
from mnemoscope.progress import show_progress
from refusals import refusal

PAPER = PRESETS["as_run"]
ROWS = replace(PRESETS["rows"], epochs=1, min_steps=12)
GROUPS = {  # seed, filters, and whether labels are turned round, as a control's are permuted
    "one seed": [(0, 10, False), (0, 10, True), (0, 16, False)],
    "other seeds": [(1, 10, False), (0, 10, False)],
    "two of each": [(0, 10, False), (1, 16, True), (0, 16, False), (1, 10, True)],
    "unequal": [(0, 5, False), (1, 3, False), (0, 3, True)],
}


def group_of(problem: Problem, name: str) -> list[Wanted]:
    labels = problem.labels, problem.labels.flip(0)
    return [
        Wanted(labels[turned], replace(SETTING, filters=filters), seed)
        for seed, filters, turned in GROUPS[name]
    ]


def alone(problem: Problem, wanted: Wanted, preset: TrainingPreset, **options) -> TrainedCnn:
    return train_cnns(problem.maps, [wanted], n_classes=3, preset=preset, **options)[0]


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("preset", [PAPER, QUICK], ids=lambda preset: preset.name)
def test_a_group_trains_each_cnn_as_it_is_trained_alone(preset, name: str) -> None:
    """Dropout on. float32 sums differ in their last bits; Adam makes these larger with time."""
    problem, seen = planted(48, seed=0), []
    wanted = group_of(problem, name)

    def watch(_: int, found: list[TrainedCnn]) -> None:
        seen.append([predict_logits(one, problem.maps) for one in found])

    found = train_cnns(problem.maps, wanted, n_classes=3, preset=preset, on_epoch=watch)
    for number, (one, asked) in enumerate(zip(found, wanted, strict=True)):
        by_epoch: list[torch.Tensor] = []
        single = alone(
            problem,
            asked,
            preset,
            on_epoch=lambda _, it, own=by_epoch: own.append(predict_logits(*it, problem.maps)),
        )
        assert (one.setting, one.seed) == (asked.setting, asked.seed)
        assert not one.network.training
        for (key, value), expected in zip(
            one.network.state_dict().items(), single.network.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-6, msg=key)
        assert one.history.loss == pytest.approx(single.history.loss, abs=1e-6)
        assert one.history.train_min_f1 == single.history.train_min_f1
        for logits, expected in zip(seen, by_epoch, strict=True):
            torch.testing.assert_close(logits[number], expected, rtol=0, atol=1e-5)
    together = predict_together(found, problem.maps)
    for logits, one in zip(together, found, strict=True):
        torch.testing.assert_close(logits, predict_logits(one, problem.maps), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("n_streams", "n_layers", "over_rows"),
    [(1, 4, False), (2, 4, False), (2, 18, False), (1, 2, True), (2, 2, True)],
)
def test_a_group_is_its_networks_side_by_side_also_in_gradients(
    n_streams: int, n_layers: int, over_rows: bool
) -> None:
    """In float64 to its rounding: what differs in float32 is rounding alone."""
    torch.manual_seed(0)
    sizes = {"kernel": 5, "length": 24, "over_rows": over_rows}
    networks = [
        AttentionCnn(n_layers, 3, filters=filters, **sizes).double().train() for filters in (3, 5)
    ]
    apart = copy.deepcopy(networks)
    for seed, (one, other) in enumerate(zip(networks, apart, strict=True)):
        one.seed_dropout(seed)
        other.seed_dropout(seed)
    group = CnnGroup(networks).train()
    shape = (6, 6 * n_layers, 24) if over_rows else (6, n_layers, 24, 24)
    streams = [torch.rand(shape).double() for _ in range(n_streams)]
    if not over_rows:
        order = torch.channels_last
        streams = [one.tril().contiguous(memory_format=order) for one in streams]
    optimizer = torch.optim.SGD(group.parameters(), lr=1.0)
    logits = group(torch.cat(streams, dim=1), causal=True)
    logits.logsumexp(dim=2).sum().backward()
    optimizer.step()
    group.write_back()
    for number, one in enumerate(apart):
        expected = one(streams[number % n_streams], causal=True)
        torch.testing.assert_close(logits[number], expected, rtol=1e-10, atol=1e-12)
        parameters = list(one.parameters())
        gradients = torch.autograd.grad(expected.logsumexp(1).sum(), parameters)
        for own, before, gradient in zip(
            networks[number].parameters(), parameters, gradients, strict=True
        ):
            torch.testing.assert_close(own, before - gradient, rtol=1e-10, atol=1e-12)
    spare = group.weights["features_0_weight"].unflatten(0, (2, 5))[0, 3:]
    assert not spare.any()  # the smaller network has no more filters than before


def test_what_cannot_be_one_group_is_refused() -> None:
    maps, labels = planted(12, seed=0, length=20)
    kernels = [Wanted(labels, replace(SETTING, kernel=kernel), 0) for kernel in (5, 6)]
    for wanted in (kernels, []):
        with pytest.raises(ValueError, match="kernel"):
            train_cnns(maps, wanted, n_classes=3, preset=QUICK)


def captured_as(replays):
    """In place of a CUDA graph: the step run again on the buffers that were captured."""

    def capture(self, rows, fetched):
        losses = torch.zeros(len(self._labels))

        def replay() -> None:
            replays.append(rows.shape[1])
            losses.copy_(self._step(rows, fetched))

        return steps._Captured(rows, fetched, replay, losses)

    return capture


@pytest.mark.parametrize("keep_bytes", [0, 1 << 30])
def test_replayed_steps_give_the_same_bits(monkeypatch, keep_bytes: int) -> None:
    """Batches of 8, the last of an epoch of 4: two sizes, each captured when it was seen often."""
    problem, replays = planted(28, seed=0, length=20), []
    monkeypatch.setattr("mnemoscope.cnn.training.KEPT_BYTES", keep_bytes)
    preset = replace(QUICK, epochs=6)
    wanted = Wanted(problem.labels, SETTING, 0)
    plain = alone(problem, wanted, preset)
    monkeypatch.setattr(steps, "_can_capture", lambda _: True)
    monkeypatch.setattr(steps._Steps, "_capture", captured_as(replays))
    again = alone(problem, wanted, preset)
    assert pack_cnn(again) == pack_cnn(plain)
    assert replays.count(8) == 6 * 3 - steps._WARM_UP
    assert replays.count(4) == 6 - steps._WARM_UP


def test_where_a_step_cannot_be_captured_it_is_said_and_steps_go_on(monkeypatch, capsys) -> None:
    problem = planted(24, seed=0, length=20)
    wanted = Wanted(problem.labels, SETTING, 0)
    plain = alone(problem, wanted, QUICK)

    def fail(*_) -> None:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(steps, "_can_capture", lambda _: True)
    monkeypatch.setattr(steps._Steps, "_capture", fail)
    with show_progress():
        assert pack_cnn(alone(problem, wanted, QUICK)) == pack_cnn(plain)
    said = capsys.readouterr().err
    assert said.count("cannot capture a training step (operation not permitted)") == 1


def counts(monkeypatch, problem: Problem, preset: TrainingPreset, name="two of each") -> dict:
    with count_waits(monkeypatch) as counted:
        train_cnns(problem.maps, group_of(problem, name), n_classes=3, preset=preset, device=DEVICE)
    return dict(counted.n)


@pytest.mark.parametrize("preset", [PAPER, QUICK, ROWS], ids=lambda preset: preset.name)
@pytest.mark.parametrize("fits", [True, False])
def test_no_training_step_waits_for_the_device(monkeypatch, preset, fits: bool) -> None:
    """Six steps an epoch or three; two epochs, or one."""
    if not fits:
        monkeypatch.setattr(maps_device, "_OTHER_BYTES", 0)
        monkeypatch.setattr("mnemoscope.cnn.training.KEPT_BYTES", 0)
    preset = replace(preset, batch_size=8, min_steps=0, epochs=1)
    few, many = planted(24, seed=0, length=20), planted(48, seed=0, length=20)
    counts(monkeypatch, few, preset)  # places of the triangle are sent once and kept
    one = counts(monkeypatch, few, preset)
    longer = counts(monkeypatch, many, preset)
    twice = counts(monkeypatch, few, replace(preset, epochs=2))
    assert one.get("wait", 0) == longer.get("wait", 0) == twice.get("wait", 0) == 0
    # An epoch reads its losses, and its order where maps are read ahead by it.
    assert longer["from"] == one["from"]
    assert twice["from"] - one["from"] == (1 if fits else 2)
    # Maps are sent a batch at a time only where the device has no room; both evaluations are one.
    assert longer["to"] - one["to"] == (0 if fits else 3)
    assert twice["to"] - one["to"] == (0 if fits else 3)


def test_held_maps_and_maps_read_ahead_are_those_of_the_source(monkeypatch) -> None:
    maps = TensorMaps(pack_triangle(attention(600, 2, 16, 0)))
    cpu = torch.device("cpu")
    held = hold_maps(maps, cpu)
    assert isinstance(held, HeldMaps)
    assert hold_maps(held, cpu) is held
    rows = torch.tensor([5, 599, 0, 256, 255, 5])
    assert torch.equal(held.read(rows), maps.read(rows))
    batches = torch.split(torch.randperm(600), 70)
    for own, packed in zip(batches, read_ahead(maps, batches, cpu), strict=True):
        assert torch.equal(packed, maps.read(own))
    monkeypatch.setattr(maps_device, "_OTHER_BYTES", 2 * 600 * 2 * 136 * 2 - 1)
    assert hold_maps(maps, cpu) is maps
    scaling = fit_scaling(maps, QUICK)
    inputs = [NetworkInputs(one, scaling) for one in (maps, held)]
    assert torch.equal(*(one.batch(rows) for one in inputs))
    packed = maps.read(torch.arange(600)).clone()
    packed[7, 1, 40] = -0.5
    assert "layer 1" in refusal(HeldMaps, TensorMaps(packed), cpu, error=DamagedDataError)


def test_an_accelerator_is_asked_about_more_maps_at_once() -> None:
    maps = TensorMaps(torch.zeros(1, 36, 2080))
    assert n_at_once(maps, torch.device("cpu"), least=28) == 28
    assert n_at_once(maps, DEVICE, least=28) == (4 << 30) // 64 // (36 * 64 * 64 * 4)
    assert n_at_once(maps, DEVICE, least=900) == 900


def test_bfloat16_rounds_steps_and_leaves_weights_in_float32() -> None:
    problem = planted(48, seed=0)
    wanted = Wanted(problem.labels, SETTING, 0)
    plain, rounded = (
        alone(problem, wanted, QUICK, precision=one) for one in ("float32", "bfloat16")
    )
    for (name, own), other in zip(
        plain.network.named_parameters(), rounded.network.parameters(), strict=True
    ):
        assert other.dtype == torch.float32
        assert not torch.equal(own, other), name
    first = F.cross_entropy(torch.zeros(1, 3), torch.tensor([0]))  # at chance
    assert rounded.history.loss[0] < 2 * first
    assert rounded.history.loss == pytest.approx(plain.history.loss, rel=0.05)
