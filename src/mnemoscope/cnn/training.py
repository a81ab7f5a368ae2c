"""Train one CNN on maps and labels, the same bits for the same seed whatever ran before.

Bit for bit on the same machine, torch version and number of threads; give each process one
thread (`torch.set_num_threads(1)`) and the number of processes does not matter.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import binomtest
from torch import Tensor, nn

from mnemoscope.cnn.inputs import KEPT_BYTES, NetworkInputs
from mnemoscope.cnn.metrics import confusion_matrix, min_f1, precision_recall
from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.prediction import score_inputs
from mnemoscope.cnn.presets import CnnSetting, TrainingPreset
from mnemoscope.cnn.scaling import fit_scaling
from mnemoscope.cnn.trained import TrainedCnn, TrainingHistory
from mnemoscope.maps.dataset import MapSource

__all__ = [
    "ChanceTest",
    "TrainedCnn",
    "TrainingHistory",
    "chance_test",
    "keep_freed_memory",
    "train_cnn",
]

_POOL_BYTES = 31 << 20


class ChanceTest(NamedTuple):
    """Balanced accuracy in [0, 1], and the p-value of a one-sided test against 1 / classes."""

    balanced_accuracy: float
    p_value: float


class _Seeds(NamedTuple):
    """One seed for each kind of chance, so that changing one does not shift another."""

    weights: int
    order: int
    dropout: int


def train_cnn(
    maps: MapSource,
    labels: Tensor,
    *,
    n_classes: int,
    setting: CnnSetting,
    preset: TrainingPreset,
    seed: int,
    on_epoch: Callable[[int, TrainedCnn], None] | None = None,
    device: torch.device | str = "cpu",
) -> TrainedCnn:
    """Train one CNN.

    Args:
        maps: training maps, pooled as the setting says, not scaled.
        labels: class of each map, (maps,) int64 in [0, n_classes), every class at least once.
        n_classes: classes of the taxonomy.
        setting: which network.
        preset: how to train it.
        seed: of initial weights, order of maps and dropout; 0 or more.
        on_epoch: called after every epoch with its number from 0 and the CNN as it stands (the
            same network object every time: predict or copy, do not keep it). What it does
            cannot change the result, unless it alters the network.
        device: where to compute; bits differ between kinds of device.

    Returns:
        The CNN with its history. `did_train` False says it is not above chance on its own
        training maps.

    Raises:
        ValueError: labels that do not fit the maps or the classes.
        DamagedDataError: a map holds what cannot be attention.
    """
    _check_labels(labels, n_maps=len(maps), n_classes=n_classes)
    started = time.perf_counter()
    keep_freed_memory()
    seeds = _Seeds(*np.random.SeedSequence(seed).generate_state(3).tolist())
    scaling = fit_scaling(maps, preset)
    inputs = NetworkInputs(maps, scaling, device=device, keep_bytes=KEPT_BYTES)
    network = _new_network(maps, n_classes, setting, preset, seeds.weights).to(device)
    losses: list[float] = []

    def snapshot(history: TrainingHistory) -> TrainedCnn:
        seconds = time.perf_counter() - started
        return TrainedCnn(network, scaling, setting, preset, seed, history, seconds)

    steps_an_epoch = math.ceil(len(maps) / preset.batch_size)
    for epoch, loss in enumerate(_epochs(network, inputs, labels.to(device), preset, seeds)):
        losses.append(loss)
        history = TrainingHistory(tuple(losses), steps_an_epoch * len(losses))
        if on_epoch is not None:
            on_epoch(epoch, snapshot(history))
    predicted = score_inputs(network, inputs).argmax(dim=1)
    confusion = confusion_matrix(labels.cpu().numpy(), predicted.numpy(), n_classes)
    test = chance_test(confusion)
    return snapshot(
        replace(
            history,
            train_balanced_accuracy=test.balanced_accuracy,
            p_value=test.p_value,
            train_min_f1=min_f1(confusion),
        )
    )


def chance_test(confusion: ArrayLike) -> ChanceTest:
    """Test whether predictions are better than ones made without looking.

    Without looking, balanced accuracy is 1 / classes on average, and varies at most as a
    binomial share of classes x (size of the smallest class) trials does: that many are assumed,
    which is exact for equal classes and careful for others.

    Args:
        confusion: counts, (classes, classes), every class at least once; rows true.
    """
    counts = np.asarray(confusion)
    accuracy = float(precision_recall(counts).recall.mean())
    n_trials = len(counts) * int(counts.sum(axis=1).min())
    n_right = math.floor(accuracy * n_trials + 1e-9)  # a whole number for equal classes
    test = binomtest(n_right, n_trials, 1 / len(counts), alternative="greater")
    return ChanceTest(accuracy, float(test.pvalue))


def _epochs(
    network: AttentionCnn,
    inputs: NetworkInputs,
    labels: Tensor,
    preset: TrainingPreset,
    seeds: _Seeds,
) -> Iterator[float]:
    """Train epoch after epoch; yields each epoch's mean loss per map, network at rest."""
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=preset.learning_rate,
        weight_decay=preset.weight_decay,
        fused=True,
    )
    order = torch.Generator().manual_seed(seeds.order)
    n_epochs = preset.n_epochs(len(inputs))
    rates = _learning_rates(preset, n_epochs * math.ceil(len(inputs) / preset.batch_size))
    network.seed_dropout(seeds.dropout)
    for _ in range(n_epochs):
        network.train()
        total = 0.0
        shuffled = torch.randperm(len(inputs), generator=order)
        for rows in torch.split(shuffled, preset.batch_size):
            optimizer.param_groups[0]["lr"] = next(rates)
            logits = network(inputs.batch(rows), causal=True)
            loss = nn.functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        network.eval()
        yield total / len(inputs)
    network.seed_dropout(None)


def _learning_rates(preset: TrainingPreset, n_steps: int) -> Iterator[float]:
    """Learning rate of every step."""
    n_rising = round(preset.warmup * n_steps)
    for step in range(n_steps):
        if preset.schedule == "constant":
            yield preset.learning_rate
        elif step < n_rising:
            yield preset.learning_rate * (step + 1) / n_rising
        else:
            share = (step - n_rising) / max(n_steps - n_rising, 1)
            yield preset.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


def _new_network(
    maps: MapSource, n_classes: int, setting: CnnSetting, preset: TrainingPreset, seed: int
) -> AttentionCnn:
    """Draw initial weights from a seed and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return AttentionCnn(
            maps.n_layers,
            n_classes,
            kernel=setting.kernel,
            filters=setting.filters,
            length=maps.length,
            dropout=preset.dropout,
        )


def _check_labels(labels: Tensor, *, n_maps: int, n_classes: int) -> None:
    """Refuse labels that cannot be trained on."""
    if labels.shape != (n_maps,):
        raise ValueError(f"{tuple(labels.shape)} labels for {n_maps} maps")
    present = sorted(set(labels.tolist()))
    if present != list(range(n_classes)):
        raise ValueError(f"classes {present} in the labels, wanted all of 0 to {n_classes - 1}")


def keep_freed_memory() -> None:
    """Make the C library keep freed activations for the next step.

    glibc hands blocks beyond a threshold back to the system and adapts that threshold to the
    largest block (up to 32 MB) that was freed; freeing one such block once saves the page faults
    of every step: 15 ms instead of 22 (`benchmarks/bench_cnn_speed.py`). Elsewhere it does nothing.
    """
    torch.empty(_POOL_BYTES, dtype=torch.uint8)
