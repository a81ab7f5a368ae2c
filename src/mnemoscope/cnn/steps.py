"""The training loop: one CNN, or several as one; a step on CUDA is replayed from a graph.

A step waits for nothing: what the device needs lies in its memory or is on its way, and losses are
read once an epoch. On CUDA launching a step's kernels one by one takes longer than running them, so
after `_WARM_UP` steps they are captured and launched together.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mnemoscope.cnn.group import CnnGroup
from mnemoscope.cnn.inputs import NetworkInputs
from mnemoscope.cnn.network import AttentionCnn, make_generator
from mnemoscope.cnn.presets import Precision, TrainingPreset
from mnemoscope.progress import say

_WARM_UP = 3
"""Steps of a size before it is captured, in which kernels are chosen and optimizer states made."""


class Seeds(NamedTuple):
    """One seed for each kind of chance, so that changing one does not shift another."""

    weights: int
    order: int
    dropout: int


def seeds_of(seed: int) -> Seeds:
    """The seeds of a CNN's."""
    return Seeds(*np.random.SeedSequence(seed).generate_state(3).tolist())


def train_epochs(
    networks: Sequence[AttentionCnn],
    whole: AttentionCnn | CnnGroup,
    inputs: NetworkInputs,
    labels: Tensor,
    seeds: Sequence[Seeds],
    preset: TrainingPreset,
    precision: Precision = "float32",
) -> Iterator[list[float]]:
    """Train networks epoch after epoch; yields each one's mean loss per map, `whole` at rest.

    `whole` is the networks as one; labels (networks, maps) are on the device, networks of one seed
    beside each other.
    """
    device, n_maps = inputs.device, len(inputs)
    streams = _streams([one.order for one in seeds])
    orders = [make_generator(seeds[streams.index(at)].order, device) for at in set(streams)]
    n_epochs, n_steps = preset.n_epochs(n_maps), math.ceil(n_maps / preset.batch_size)
    rates = list(learning_rates(preset, n_epochs * n_steps))
    steps = _Steps(whole, inputs, labels, streams, preset, precision, rates)
    for network, own in zip(networks, seeds, strict=True):
        network.seed_dropout(own.dropout)
    for _ in range(n_epochs):
        whole.train()
        shuffled = [torch.randperm(n_maps, generator=one, device=device) for one in orders]
        losses, sizes = [], []
        with steps.stream():
            for rows, fetched in inputs.batches(torch.stack(shuffled), preset.batch_size):
                losses.append(steps(rows, fetched))
                sizes.append(rows.shape[1])
            read = torch.stack(losses).tolist()  # the epoch's one wait
        whole.eval()
        # As Python adds them, in float64.
        yield [
            sum(loss * size for loss, size in zip(own, sizes, strict=True)) / n_maps
            for own in zip(*read, strict=True)
        ]
    for network in networks:
        network.seed_dropout(None)


def _streams(orders: Sequence[int]) -> list[int]:
    """Which stream of batches each CNN sees: one an order, if equally many CNNs share each.

    Otherwise each has its own, some of them equal: a grouped convolution takes as many filters of
    every stream.
    """
    names = list(dict.fromkeys(orders))
    if len(set(Counter(orders).values())) > 1:
        return list(range(len(orders)))
    return [names.index(one) for one in orders]


def learning_rates(preset: TrainingPreset, n_steps: int) -> Iterator[float]:
    """The rate of every step."""
    n_rising = round(preset.warmup * n_steps)
    for step in range(n_steps):
        if preset.schedule == "constant":
            yield preset.learning_rate
        elif step < n_rising:
            yield preset.learning_rate * (step + 1) / n_rising
        else:
            share = (step - n_rising) / max(n_steps - n_rising, 1)
            yield preset.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


def _can_capture(device: torch.device) -> bool:
    return device.type == "cuda"


class _Captured(NamedTuple):
    """A step in a graph: what it reads, how it runs, and the losses that it leaves."""

    rows: Tensor
    fetched: Tensor
    replay: Callable[[], None]
    losses: Tensor


class _Steps:
    """The steps of a training, in order."""

    def __init__(
        self,
        network: AttentionCnn | CnnGroup,
        inputs: NetworkInputs,
        labels: Tensor,
        streams: Sequence[int],
        preset: TrainingPreset,
        precision: Precision,
        rates: Sequence[float],
    ) -> None:
        self._network, self._inputs, self._labels = network, inputs, labels
        self._device, self._n_streams = inputs.device, len(set(streams))
        self._streams = torch.tensor(streams, device=inputs.device)
        self._bfloat16 = precision == "bfloat16"
        is_cuda = self._device.type == "cuda"
        self._optimizer = torch.optim.AdamW(
            network.parameters(),
            preset.learning_rate,
            weight_decay=preset.weight_decay,
            fused=True,
            capturable=is_cuda,
        )
        self._rates: Sequence[float] | Tensor = rates
        if self._device.type != "cpu":  # a number that the device reads where it is
            self._rates = torch.tensor(rates, device=self._device)
            self._optimizer.param_groups[0]["lr"] = self._rates[0].clone()
        self._n_done, self._seen = 0, Counter[int]()
        self._captures = _can_capture(self._device)
        self._captured = dict[int, _Captured]()
        self._stream: torch.cuda.Stream | None = None
        if is_cuda:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def stream(self) -> AbstractContextManager[object]:
        """Where steps run: on CUDA a stream of their own, as a capture needs."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return torch.cuda.stream(self._stream)

    def __call__(self, rows: Tensor, fetched: Tensor) -> Tensor:
        """One step on positions (streams, batch) and what was fetched for them; losses (CNNs,)."""
        self._set_rate()
        size = rows.shape[1]
        self._seen[size] += 1
        if self._captures and self._seen[size] > _WARM_UP and size not in self._captured:
            self._try_capture(rows, fetched)
        if (captured := self._captured.get(size)) is None:
            return self._step(rows, fetched)
        captured.rows.copy_(rows)
        captured.fetched.copy_(fetched)
        captured.replay()
        return captured.losses.clone()  # the next replay writes there

    def _set_rate(self) -> None:
        group, rate = self._optimizer.param_groups[0], self._rates[self._n_done]
        if isinstance(rate, Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"] = rate
        self._n_done += 1

    def _step(self, rows: Tensor, fetched: Tensor) -> Tensor:
        maps = self._inputs.scaled(fetched, self._n_streams)
        with self._autocast():
            logits = self._network(maps, causal=True)
        logits = logits.to(torch.float32).reshape(len(self._labels), -1, logits.shape[-1])
        losses = _losses(logits, self._labels.gather(1, rows[self._streams]))
        self._optimizer.zero_grad()
        torch.autograd.backward(losses.sum())
        self._optimizer.step()
        return losses.detach()

    def _autocast(self) -> AbstractContextManager[object]:
        if not self._bfloat16:
            return nullcontext()
        # A capture must not keep casts made outside of it.
        return torch.autocast(self._device.type, torch.bfloat16, cache_enabled=False)

    def _try_capture(self, rows: Tensor, fetched: Tensor) -> None:
        """Capture a step without running it; where CUDA cannot, steps go on one by one."""
        try:
            self._captured[rows.shape[1]] = self._capture(rows.clone(), fetched.clone())
        except RuntimeError as error:
            self._captures = False
            reason = str(error).partition("\n")[0]
            say(f"CUDA cannot capture a training step ({reason}); kernels run one by one.")

    def _capture(self, rows: Tensor, fetched: Tensor) -> _Captured:
        graph = torch.cuda.CUDAGraph()
        for generator in self._network.generators():
            graph.register_generator_state(generator)
        self._optimizer.zero_grad()  # gradients are made anew, in the graph's memory
        # Of this thread alone: others pin memory for the batches that are read ahead.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            losses = self._step(rows, fetched)
        return _Captured(rows, fetched, graph.replay, losses)


def _losses(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean cross-entropy (CNNs,) of logits (CNNs, batch, classes)."""
    if len(logits) == 1:  # torch's own mean, whose last bits differ from those of a row of means
        return nn.functional.cross_entropy(logits[0], truth[0])[None]
    each = nn.functional.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none")
    return each.view(truth.shape).mean(dim=1)
