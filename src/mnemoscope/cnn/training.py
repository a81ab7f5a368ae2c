"""Train CNNs on maps and labels: same seed, same bits, whatever ran before.

Bit for bit on the same machine, torch version and number of threads; with one thread a process
(`torch.set_num_threads(1)`) the number of processes does not matter.
A trained CNN is one file: safetensors, with all that is not a tensor as JSON in its header. Equal
runs give equal bytes: no time, place or version is inside.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mnemoscope.cnn.group import CnnGroup
from mnemoscope.cnn.inputs import NetworkInputs, Scaling, fit_scaling
from mnemoscope.cnn.metrics import confusion_matrix, min_f1, precision_recall
from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import CnnSetting, Precision, TrainingPreset
from mnemoscope.cnn.steps import seeds_of, train_epochs
from mnemoscope.errors import DamagedDataError, UserError, first_line
from mnemoscope.maps.views import MapSource
from mnemoscope.parse import parse_json

CHANCE_LEVEL = 0.01
"""A CNN has left chance on its training maps when the test gives a p-value below this."""

KEPT_BYTES = 1 << 30
"""Scaled maps up to this size are kept while training: 16,384 maps of 4 layers, 1,820 of 36."""

_POOL_BYTES = 31 << 20


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
    return predict_together([trained], maps, batch_size=batch_size)[0]


def predict_together(
    trained: Sequence[TrainedCnn], maps: MapSource, *, batch_size: int | None = None
) -> list[Tensor]:
    """`predict_logits` of CNNs that `train_cnns` made together, with one reading of the maps."""
    network = trained[0].network
    if (maps.n_layers, maps.length) != (network.n_layers, network.length):
        raise ValueError(
            f"maps have {maps.n_layers} layers of side {maps.length}, the CNN was trained on "
            f"{network.n_layers} of side {network.length}"
        )
    device = next(network.parameters()).device
    inputs = NetworkInputs(maps, trained[0].scaling, device=device)
    logits = score_inputs(_as_one([one.network for one in trained]), inputs, batch_size=batch_size)
    return list(logits) if len(trained) > 1 else [logits]


def _as_one(networks: Sequence[AttentionCnn]) -> AttentionCnn | CnnGroup:
    """Networks as one module; a single one is itself, and computes as it always does."""
    return networks[0] if len(networks) == 1 else CnnGroup(networks)


@torch.inference_mode()
def score_inputs(
    network: AttentionCnn | CnnGroup, inputs: NetworkInputs, *, batch_size: int | None = None
) -> Tensor:
    """Score maps that are already scaled; result as `predict_logits`, of a group one a network."""
    rows = torch.arange(len(inputs), device=inputs.device)[None]
    with evaluation_mode(network):
        logits = [
            network(inputs.scaled(fetched), causal=True).to(torch.float32)
            for _, fetched in inputs.batches(rows, batch_size or inputs.rows_at_once)
        ]
    return torch.cat(logits, dim=-2).cpu()  # the one wait, whatever the number of batches


class ChanceTest(NamedTuple):
    """Balanced accuracy in [0, 1], and the p-value of a one-sided test against 1 / classes."""

    balanced_accuracy: float
    p_value: float


class Wanted(NamedTuple):
    """One CNN to train: its labels (maps,) int64, its setting and seed."""

    labels: Tensor
    setting: CnnSetting
    seed: int


def trains_together(device: torch.device) -> bool:
    """Whether `train_cnns` should be given several CNNs at once on a device.

    A GPU is mostly idle with one. On the processor a group would be 1.03 to 1.18 times as fast
    (`benchmarks/bench_training.py --group`), but its sums round otherwise than those of every CNN
    trained before, and single trainings spread over more cores.
    """
    return device.type == "cuda"


def train_cnns(
    maps: MapSource,
    wanted: Sequence[Wanted],
    *,
    n_classes: int,
    preset: TrainingPreset,
    prefix: int | None = None,
    scaling: Scaling | None = None,
    on_epoch: Callable[[int, Sequence[TrainedCnn]], None] | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
) -> list[TrainedCnn]:
    """Train CNNs of one kernel on maps, pooled as the settings say and not scaled; as one network.

    Labels are (maps,) int64 in [0, n_classes), every class at least once; a seed, 0 or more, is of
    initial weights, order of maps and dropout, which each CNN has as it has them alone. CNNs of
    one seed see the same batches. Sums are rounded otherwise than alone. `prefix`, in tokens, is
    asked by the preset `rows`; half of a map unless given. `scaling` is `fit_scaling` of these
    maps where several trainings share it; None fits it. `on_epoch` is called after every epoch
    with its number from 0 and the CNNs as they stand (the same network objects every time: predict
    or copy, do not keep them); it cannot change the result, unless it alters a network. Bits
    differ between kinds of device. `precision` is of the steps; weights, and what is predicted,
    are float32. `did_train` False says that a CNN is not above chance on its own training maps.
    Raises ValueError: kernels that differ, or labels that do not fit the maps or the classes.
    DamagedDataError: a map holds what cannot be attention.
    """
    if len({one.setting.kernel for one in wanted}) != 1:
        raise ValueError("CNNs of several kernels, or none, cannot be trained together")
    for one in wanted:
        _check_labels(one.labels, len(maps), n_classes)
    started = time.perf_counter()
    keep_freed_memory()
    device = torch.device(device)
    scaling = fit_scaling(maps, preset, prefix) if scaling is None else scaling
    inputs = NetworkInputs(maps, scaling, device=device, keep_bytes=KEPT_BYTES)
    # CNNs that see the same batches stand side by side.
    places = sorted(range(len(wanted)), key=lambda at: (wanted[at].seed, at))
    ordered = [wanted[at] for at in places]
    seeds = [seeds_of(one.seed) for one in ordered]
    networks = [
        _new_network(one.setting, preset, maps, n_classes, own.weights).to(device).eval()
        for one, own in zip(ordered, seeds, strict=True)
    ]
    whole = _as_one(networks)
    losses: list[list[float]] = []
    steps_an_epoch = math.ceil(len(maps) / preset.batch_size)

    def snapshot(number: int, **figures: float) -> TrainedCnn:
        one, own = ordered[number], tuple(epoch[number] for epoch in losses)
        history = TrainingHistory(own, steps_an_epoch * len(losses), **figures)
        seconds = (time.perf_counter() - started) / len(ordered)
        return TrainedCnn(
            networks[number], scaling, one.setting, preset, one.seed, history, seconds
        )

    labels = torch.stack([one.labels.cpu() for one in ordered]).to(device)
    for epoch, loss in enumerate(
        train_epochs(networks, whole, inputs, labels, seeds, preset, precision)
    ):
        losses.append(loss)
        if on_epoch is not None:
            if isinstance(whole, CnnGroup):
                whole.write_back()
            found = [snapshot(number) for number in range(len(ordered))]
            on_epoch(epoch, [found[places.index(at)] for at in range(len(wanted))])
    if isinstance(whole, CnnGroup):
        whole.write_back()
    predicted = score_inputs(whole, inputs).argmax(dim=-1).reshape(len(ordered), -1)
    trained = [
        snapshot(number, **_figures(one.labels, own, n_classes))
        for number, (one, own) in enumerate(zip(ordered, predicted, strict=True))
    ]
    return [trained[places.index(at)] for at in range(len(wanted))]


def _new_network(
    setting: CnnSetting, preset: TrainingPreset, maps: MapSource, n_classes: int, seed: int
) -> AttentionCnn:
    with torch.random.fork_rng(devices=[]):  # leaves the global generator as it was
        torch.default_generator.manual_seed(seed)
        return AttentionCnn.of_setting(
            setting, preset, maps.n_layers, n_classes, length=maps.length
        )


def _figures(labels: Tensor, predicted: Tensor, n_classes: int) -> dict[str, float]:
    """What a history says of the training maps."""
    confusion = confusion_matrix(labels.cpu().numpy(), predicted.numpy(), n_classes)
    test = chance_test(confusion)
    return {
        "train_balanced_accuracy": test.balanced_accuracy,
        "p_value": test.p_value,
        "train_min_f1": min_f1(confusion),
    }


def _check_labels(labels: Tensor, n_maps: int, n_classes: int) -> None:
    if labels.shape != (n_maps,):
        raise ValueError(f"{tuple(labels.shape)} labels for {n_maps} maps")
    present = sorted(set(labels.tolist()))
    if present != list(range(n_classes)):
        raise ValueError(f"classes {present} in the labels, wanted all of 0 to {n_classes - 1}")


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


def _rebuild(facts: Mapping[str, Any], tensors: dict[str, Tensor]) -> TrainedCnn:
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
