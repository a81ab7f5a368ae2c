"""Train one CNN on maps and labels: same seed, same bits, whatever ran before.

Bit for bit on the same machine, torch version and number of threads; with one thread a process
(`torch.set_num_threads(1)`) the number of processes does not matter.
A trained CNN is one file: safetensors, with all that is not a tensor as JSON in its header. Equal
runs give equal bytes: no time, place or version is inside.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mnemoscope.cnn.metrics import confusion_matrix, min_f1, precision_recall
from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import CnnSetting, TrainingPreset
from mnemoscope.errors import DamagedDataError, UserError, first_line
from mnemoscope.maps.shape import ROW_STATISTICS, row_statistics
from mnemoscope.maps.triangle import unpack_channels_last, unpack_triangle
from mnemoscope.maps.views import MapSource, rows_at_once
from mnemoscope.parse import parse_json

CHANCE_LEVEL = 0.01
"""A CNN has left chance on its training maps when the test gives a p-value below this."""

KEPT_BYTES = 1 << 30
"""Scaled maps up to this size are kept while training: 16,384 maps of 4 layers, 1,820 of 36."""

_POOL_BYTES = 31 << 20
_SMALLEST_DEVIATION = 1e-3
"""Roots that vary less are divided by this: rounding to float16 alone varies by up to 2e-4."""


@dataclass(frozen=True)
class Scaling:
    """A fitted scaling: square root or row statistics, standardised per position; or raw.

    `mean` root of each weight over the training maps and one over the standard deviation, float32
    (layers, triangle), or of the statistics of each row, (layers · 6, query), with the `prefix` in
    tokens; None: maps stay as they are. Scaled values are kept within ± `clamp`.
    """

    mean: Tensor | None
    inverse_deviation: Tensor | None
    clamp: float
    prefix: int | None = None

    def to(self, device: torch.device | str) -> "Scaling":
        """Copy to a device."""
        if self.mean is None or self.inverse_deviation is None:
            return self
        return replace(
            self, mean=self.mean.to(device), inverse_deviation=self.inverse_deviation.to(device)
        )

    @property
    def over_rows(self) -> bool:
        """Whether row statistics are scaled, not weights."""
        return self.prefix is not None

    def of_rows(self, maps: Tensor) -> Tensor:
        """Scaled row statistics (b, layers · 6, query) of maps (b, layers, query, key)."""
        assert self.mean is not None
        assert self.inverse_deviation is not None
        statistics = row_statistics(maps, self.prefix).flatten(1, 2)
        scaled = (statistics - self.mean) * self.inverse_deviation
        return scaled.clamp(-self.clamp, self.clamp)


def fit_scaling(maps: MapSource, preset: TrainingPreset, prefix: int | None = None) -> Scaling:
    """Fit a preset's scaling on the training maps alone; the prefix is half of a map unless given.

    Raises ValueError: no maps. DamagedDataError: a weight is negative or not finite.
    """
    if len(maps) == 0:
        raise ValueError("no training maps")
    if preset.scaling == "raw":
        return Scaling(None, None, 0.0)
    total = squares = torch.zeros((), dtype=torch.float64)
    prefix = maps.length // 2 if prefix is None else prefix
    for rows in torch.split(torch.arange(len(maps)), rows_at_once(maps)):
        weights = maps.read(rows).to(torch.float64)
        _refuse_what_is_no_attention(weights)
        if preset.scaling == "rows":
            values = row_statistics(unpack_triangle(weights), prefix).flatten(1, 2)
            total, squares = total + values.sum(0), squares + values.square().sum(0)
        else:
            total, squares = total + weights.sqrt().sum(0), squares + weights.sum(0)
    mean = total / len(maps)
    deviation = (squares / len(maps) - mean.square()).clamp_min(0.0).sqrt()
    inverse = 1.0 / deviation.clamp_min(_SMALLEST_DEVIATION)
    return Scaling(
        mean.to(torch.float32),
        inverse.to(torch.float32),
        preset.clamp,
        prefix if preset.scaling == "rows" else None,
    )


def scale_maps(scaling: Scaling, packed: Tensor) -> Tensor:
    """Scale stored maps (batch, layers, triangle) for a network, on the scaling's device.

    Gives float32 (batch, layers, query, key), zeros above the diagonal, channels last; of the rows
    (batch, layers · 6, query). Raises DamagedDataError: a weight is negative or not finite.
    """
    weights = packed.to(torch.float32)
    _refuse_what_is_no_attention(weights)
    if scaling.over_rows:
        return scaling.of_rows(unpack_triangle(weights))
    if scaling.mean is not None and scaling.inverse_deviation is not None:
        weights = weights.sqrt().sub_(scaling.mean).mul_(scaling.inverse_deviation)
        weights = weights.clamp_(-scaling.clamp, scaling.clamp)
    return unpack_channels_last(weights)


def _refuse_what_is_no_attention(weights: Tensor) -> None:
    """Name the first layer of (batch, layers, triangle) that holds a negative or no number."""
    lowest, highest = weights.aminmax()
    if lowest >= 0 and highest < math.inf:  # false for NaN
        return
    is_bad = ~(torch.isfinite(weights) & (weights >= 0))
    layer = int(torch.nonzero(is_bad.any(dim=0).any(dim=1))[0, 0])
    raise DamagedDataError(
        f"maps, layer {layer}: weights that are negative or not finite. "
        "Delete the maps and capture them again."
    )


class NetworkInputs:
    """Maps of a source as a network sees them, scaled once and kept if within `keep_bytes`."""

    def __init__(
        self,
        maps: MapSource,
        scaling: Scaling,
        *,
        device: torch.device | str = "cpu",
        keep_bytes: int = 0,
    ) -> None:
        self._maps, self._device = maps, torch.device(device)
        self._scaling = scaling.to(self._device)
        self._kept: Tensor | None = None
        shape: tuple[int, ...] = (len(maps), maps.n_layers, maps.length, maps.length)
        if scaling.over_rows:
            shape = (len(maps), maps.n_layers * len(ROW_STATISTICS), maps.length)
        if math.prod(shape) * torch.float32.itemsize <= keep_bytes:
            order = torch.contiguous_format if scaling.over_rows else torch.channels_last
            kept = torch.empty(shape, device=device, memory_format=order)
            for rows in torch.split(torch.arange(len(maps)), self.rows_at_once):
                kept[rows[0] : rows[-1] + 1] = self.batch(rows)
            self._kept = kept

    def __len__(self) -> int:
        return len(self._maps)

    @property
    def rows_at_once(self) -> int:
        """Maps to score together."""
        return rows_at_once(self._maps)

    def batch(self, rows: Tensor) -> Tensor:
        """Maps at positions (batch,) int64, as `scale_maps` gives them."""
        if self._kept is not None:
            return self._kept[rows.to(self._device)]
        return scale_maps(self._scaling, self._maps.read(rows).to(self._device))


@dataclass(frozen=True)
class TrainingHistory:
    """How training went; `loss` is the mean cross-entropy per map (nats) of every epoch.

    Balanced accuracy (mean recall over the classes, with a one-sided binomial test against
    1 / classes) and min-F1 are of the training maps, final weights, evaluation mode; None while
    training goes on.
    """

    loss: tuple[float, ...]
    n_steps: int
    train_balanced_accuracy: float | None = None
    p_value: float | None = None
    train_min_f1: float | None = None

    @property
    def did_train(self) -> bool:
        """Whether the CNN is above chance on the very maps it was trained on."""
        return self.p_value is not None and self.p_value < CHANCE_LEVEL


@dataclass(frozen=True)
class TrainedCnn:
    """A network in evaluation mode, its inputs' scaling and its origin; loaded, no `seconds`."""

    network: AttentionCnn
    scaling: Scaling
    setting: CnnSetting
    preset: TrainingPreset
    seed: int
    history: TrainingHistory
    seconds: float | None = None

    @property
    def did_train(self) -> bool:
        """Whether it is above chance on its training maps; if not, its figures mean nothing."""
        return self.history.did_train


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout off inside the block and restore the former mode."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def predict_logits(
    trained: TrainedCnn, maps: MapSource, *, batch_size: int | None = None
) -> Tensor:
    """Score maps as captured, not scaled: (maps, classes) float32 on the CPU.

    `batch_size` None is `rows_at_once`; another size may change the last bits. Raises ValueError:
    maps of another number of layers or another length.
    """
    network = trained.network
    if (maps.n_layers, maps.length) != (network.n_layers, network.length):
        raise ValueError(
            f"maps have {maps.n_layers} layers of side {maps.length}, the CNN was trained on "
            f"{network.n_layers} of side {network.length}"
        )
    device = next(network.parameters()).device
    return score_inputs(
        network, NetworkInputs(maps, trained.scaling, device=device), batch_size=batch_size
    )


@torch.inference_mode()
def score_inputs(
    network: AttentionCnn, inputs: NetworkInputs, *, batch_size: int | None = None
) -> Tensor:
    """Score maps that are already scaled; result as `predict_logits`."""
    logits = torch.empty(len(inputs), network.n_classes)
    with evaluation_mode(network):
        for rows in torch.split(torch.arange(len(inputs)), batch_size or inputs.rows_at_once):
            scored = network(inputs.batch(rows), causal=True)
            logits[rows[0] : rows[-1] + 1] = scored.to("cpu", torch.float32)
    return logits


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
    prefix: int | None = None,
    scaling: Scaling | None = None,
    on_epoch: Callable[[int, TrainedCnn], None] | None = None,
    device: torch.device | str = "cpu",
) -> TrainedCnn:
    """Train one CNN on maps, pooled as the setting says and not scaled.

    Labels are (maps,) int64 in [0, n_classes), every class at least once; `seed` is of initial
    weights, order of maps and dropout, 0 or more. `prefix`, in tokens, is asked by the preset
    `rows`; half of a map unless given. `scaling` is `fit_scaling` of these maps where several
    trainings share it; None fits it. `on_epoch` is called after every epoch with its number from
    0 and the CNN as it stands (the same network object every time: predict or copy, do not keep
    it); it cannot change the result, unless it alters the network. Bits differ between kinds of
    device. `did_train` False says that the CNN is not above chance on its own training maps. Raises
    ValueError: labels that do not fit the maps or the classes. DamagedDataError: a map holds what
    cannot be attention.
    """
    if labels.shape != (len(maps),):
        raise ValueError(f"{tuple(labels.shape)} labels for {len(maps)} maps")
    present = sorted(set(labels.tolist()))
    if present != list(range(n_classes)):
        raise ValueError(f"classes {present} in the labels, wanted all of 0 to {n_classes - 1}")
    started = time.perf_counter()
    keep_freed_memory()
    seeds = _Seeds(*np.random.SeedSequence(seed).generate_state(3).tolist())
    scaling = fit_scaling(maps, preset, prefix) if scaling is None else scaling
    inputs = NetworkInputs(maps, scaling, device=device, keep_bytes=KEPT_BYTES)
    with torch.random.fork_rng(devices=[]):  # leaves the global generator as it was
        torch.default_generator.manual_seed(seeds.weights)
        network = AttentionCnn.of_setting(
            setting, preset, maps.n_layers, n_classes, length=maps.length
        ).to(device)
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
    """Test whether predictions (rows true, every class present) beat ones made without looking.

    Blind balanced accuracy is 1 / classes on average and varies at most as a binomial share of
    classes x (size of the smallest class) trials: exact for equal classes, careful for others.
    """
    from scipy.special import betainc

    counts = np.asarray(confusion)
    accuracy = float(precision_recall(counts).recall.mean())
    n_trials = len(counts) * int(counts.sum(axis=1).min())
    n_right = math.floor(accuracy * n_trials + 1e-9)  # a whole number for equal classes
    # The binomial chance of as many or more, as an incomplete beta integral.
    p_value = betainc(n_right, n_trials - n_right + 1, 1 / len(counts)) if n_right else 1.0
    return ChanceTest(accuracy, float(p_value))


def _epochs(
    network: AttentionCnn,
    inputs: NetworkInputs,
    labels: Tensor,
    preset: TrainingPreset,
    seeds: _Seeds,
) -> Iterator[float]:
    """Train epoch after epoch; yields each epoch's mean loss per map, network at rest."""
    optimizer = torch.optim.AdamW(
        network.parameters(), preset.learning_rate, weight_decay=preset.weight_decay, fused=True
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
    n_rising = round(preset.warmup * n_steps)
    for step in range(n_steps):
        if preset.schedule == "constant":
            yield preset.learning_rate
        elif step < n_rising:
            yield preset.learning_rate * (step + 1) / n_rising
        else:
            share = (step - n_rising) / max(n_steps - n_rising, 1)
            yield preset.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


def keep_freed_memory() -> None:
    """Make glibc keep freed activations for the next step; elsewhere it does nothing.

    glibc returns blocks beyond a threshold to the system, and adapts it to the largest block (up to
    32 MB) ever freed. Freeing one such block saves each step's page faults: 15 ms instead of 22
    (`benchmarks/bench_cnn_speed.py`).
    """
    torch.empty(_POOL_BYTES, dtype=torch.uint8)


FORMAT_VERSION = 1
_HEADER_KEY = "mnemoscope_cnn"  # a single key: the order of several is not fixed


def pack_cnn(trained: TrainedCnn) -> bytes:
    """A trained CNN, without its `seconds`, as safetensors with its facts in the header."""
    network, scaling = trained.network, trained.scaling
    numbers = {f"network.{name}": value for name, value in network.state_dict().items()}
    if scaling.mean is not None and scaling.inverse_deviation is not None:
        numbers["scaling.mean"] = scaling.mean
        numbers["scaling.inverse_deviation"] = scaling.inverse_deviation
    # In plain order of memory.
    tensors = {name: value.detach().cpu().contiguous() for name, value in numbers.items()}
    facts = {
        "format": FORMAT_VERSION,
        "n_layers": network.n_layers,
        "n_classes": network.n_classes,
        "length": network.length,
        "clamp": scaling.clamp,
        **({"prefix": scaling.prefix} if scaling.over_rows else {}),
        "setting": asdict(trained.setting),
        "preset": asdict(trained.preset),
        "seed": trained.seed,
        "history": asdict(trained.history),
    }
    data: bytes = save(tensors, metadata={_HEADER_KEY: json.dumps(facts, sort_keys=True)})
    return data


def load_cnn(path: Path | str) -> TrainedCnn:
    """Read a trained CNN onto the CPU; it gives the saved one's logits, bit for bit.

    Raises UserError: no such file, or one of another format. DamagedDataError: no CNN.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Train the CNN with 'mnemoscope train --redo'.")
    try:
        with safe_open(path, framework="pt") as file:
            facts = parse_json((file.metadata() or {})[_HEADER_KEY])
        if facts.get("format") == FORMAT_VERSION:
            return _rebuild(facts, load_file(path))
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedDataError(
            f"{path}: not a whole CNN ({first_line(error, 80)}). Restore it from a copy, or train "
            "it again."
        ) from error
    raise UserError(
        f"{path}: format {facts.get('format')}, this version reads {FORMAT_VERSION}. "
        "Use the version of mnemoscope that wrote it, or train again."
    )


def _rebuild(facts: dict[str, Any], tensors: dict[str, Tensor]) -> TrainedCnn:
    setting, preset = CnnSetting(**facts["setting"]), TrainingPreset(**facts["preset"])
    with torch.random.fork_rng(devices=[]):  # weights are drawn, then replaced
        network = AttentionCnn.of_setting(
            setting, preset, facts["n_layers"], facts["n_classes"], length=facts["length"]
        )
    own = {name.partition(".")[2]: one for name, one in tensors.items() if name[:8] == "network."}
    network.load_state_dict(own)
    scaling = Scaling(
        tensors.get("scaling.mean"),
        tensors.get("scaling.inverse_deviation"),
        facts["clamp"],
        facts.get("prefix"),
    )
    history = TrainingHistory(**facts["history"] | {"loss": tuple(facts["history"]["loss"])})
    return TrainedCnn(network.eval(), scaling, setting, preset, facts["seed"], history)
