"""What a study will cost: forward passes, bytes, memory, CNNs, time; arithmetic on settings alone.

Nothing is loaded and nothing measured here. Every formula is said in the docstring of its function
and shown to the reader of `mnemoscope run --dry-run`.
"""

from dataclasses import dataclass

from mnemoscope.cnn.presets import CnnSetting, get_preset
from mnemoscope.config import StudySettings
from mnemoscope.stages.model_shape import ModelShape

__all__ = [
    "ASSUMED_CNN_FLOPS",
    "ASSUMED_FLOPS",
    "BYTES",
    "Memory",
    "Passes",
    "cnn_flops",
    "count_passes",
    "map_bytes",
    "memory_bytes",
    "training_flops",
]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes a weight; `auto` is counted as 2."""
ASSUMED_FLOPS = {"cuda": 1e14, "mps": 5e12, "cpu": 1e11}
"""Floating-point operations a second of a forward pass, assumed: a third of the 312e12 that an
A100's data sheet gives for half precision; a laptop's graphics processor; a few processor cores."""
ASSUMED_CNN_FLOPS = {"cpu": 5e10, "cuda": 1e12, "mps": 5e11}
"""The same of the training of CNNs: on one processor core, about half of what
`benchmarks/bench_plan.py` measures for a step alone; on an accelerator in all, assumed."""
_SCANNED_AT_ONCE = 4  # suffix tokens that the scan asks of every sequence first


@dataclass(frozen=True)
class Passes:
    """Forward passes of one kind.

    Attributes:
        name: what they are for.
        n_sequences: sequences.
        n_passes: passes a sequence.
        n_tokens: tokens a sequence that go through the model, over all its passes.
        is_control: asked for by the controls.
    """

    name: str
    n_sequences: int
    n_passes: int
    n_tokens: int
    is_control: bool = False

    @property
    def tokens(self) -> int:
        """Tokens through the model in all."""
        return self.n_sequences * self.n_tokens


@dataclass(frozen=True)
class Memory:
    """Bytes on the device: the weights, and the most that a batch needs beside them."""

    weights: int
    activations: int


def count_passes(
    settings: StudySettings,
    *,
    n_sequences: int,
    n_memorized: int,
    n_maps: int,
    n_own: int,
    has_reference: bool,
) -> list[Passes]:
    """List the forward passes of a study in their order.

    Args:
        settings: of the study.
        n_sequences: rows of the table.
        n_memorized: of these, those that the scan's first step leaves, at most.
        n_maps: maps captured.
        n_own: of these, Non-Memo sequences shown with their continuation.
        has_reference: whether a reference model is captured too.

    Returns:
        One entry a kind; a scan's two steps are two entries.
    """
    length = settings.sequences.length
    half = length // 2
    first = half + min(_SCANNED_AT_ONCE, half)
    found = []
    if settings.continue_.scan:
        found.append(Passes("scan, first step", n_sequences, 1, first - 1))
        found.append(Passes("scan, the rest", n_memorized, 1, length - first))
        found.append(Passes("continuation of Non-Memo", n_own, half, length - 1))
    else:
        found.append(Passes("continuation", n_sequences, half, length - 1))
    n_checked = min(settings.continue_.check_rows, n_sequences)
    found.append(Passes("scan against decoding, a draw", n_checked, half, length - 1))
    found.append(Passes("capture", n_maps, 1, length))
    if settings.benchmark.controls:
        found.append(Passes("log-probabilities", n_maps, 1, length, is_control=True))
        if has_reference:
            found.append(Passes("capture of the reference", n_maps, 1, length, is_control=True))
    return [one for one in found if one.n_sequences and one.n_tokens]


def map_bytes(n_layers: int, length: int, *, n_tensors: int = 2) -> int:
    """Bytes stored a sequence: mean and max, layers × length · (length + 1) / 2 weights, float16.

    Args:
        n_layers: of the model.
        length: tokens a sequence.
        n_tensors: mean and max, and one more a head where every head is stored.

    >>> map_bytes(36, 64)
    299520
    """
    return n_tensors * n_layers * (length * (length + 1) // 2) * 2


def memory_bytes(shape: ModelShape, *, dtype: str, batch_size: int, length: int) -> Memory:
    """Memory on the device, for the larger of capture and scan.

    Weights: parameters × bytes. Capture: pooled maps of all layers (mean and max, float32, twice
    while they are stacked), one layer's weights of all heads (dtype and float32) and its hidden
    states (about 14 × hidden a token). Scan: keys and values of all layers, the logits of the
    suffix (dtype and float32), and the hidden states.

    Args:
        shape: of the model.
        dtype: of its weights.
        batch_size: sequences a forward pass.
        length: tokens a sequence.
    """
    size = BYTES.get(dtype, 2)
    rows = batch_size * length
    states = 14 * rows * shape.hidden * size
    maps = 2 * 2 * 4 * batch_size * shape.n_layers * length * length
    weights = batch_size * shape.n_heads * length * length * (size + 4)
    kept = 2 * shape.n_layers * rows * shape.hidden * size
    logits = (rows // 2) * shape.vocabulary * (size + 4)
    return Memory(shape.n_parameters * size, states + max(maps + weights, kept + logits))


def cnn_flops(n_layers: int, length: int, *, kernel: int, filters: int) -> int:
    """Operations of one map's forward pass through the CNN's two convolutions.

    2 · side² · channels · kernel² · filters for each; the linear layers are left out (below 1 %).
    """
    first = length - kernel + 1
    second = first // 2 - kernel + 1
    area = kernel * kernel * filters
    return 2 * first * first * n_layers * area + 2 * second * second * filters * area


def training_flops(
    settings: StudySettings, setting: CnnSetting, n_classes: float, *, channels: int, preset: str
) -> float:
    """Operations of one CNN: 3 forward passes a training map and epoch, and those that judge it.

    Args:
        settings: sizes a class and length.
        setting: kernel and filters.
        n_classes: of the taxonomy, or their mean over taxonomies.
        channels: of a map: layers, or 2 for the tokens alone.
        preset: of the training.
    """
    chosen, label = get_preset(preset), settings.label
    n_train, n_eval = round(label.n_train * n_classes), round(label.n_eval * n_classes)
    epochs = chosen.n_epochs(n_train)
    scored = epochs if chosen.scores_every_epoch else 1
    n_forward = 3 * n_train * epochs + n_eval * scored + n_train
    length = settings.sequences.length
    return n_forward * cnn_flops(channels, length, kernel=setting.kernel, filters=setting.filters)
