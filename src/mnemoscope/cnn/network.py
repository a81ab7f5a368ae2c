"""The paper's convolutional network, and one over the rows of a map: one logit per class out.

Every ReLU and dropout is a module of its own, used once: guided backpropagation replaces the
rule of single ReLU modules and would count a shared one twice.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from mnemoscope.cnn.presets import CnnSetting, TrainingPreset, check_kernel, feature_side
from mnemoscope.maps.shape import ROW_STATISTICS

HIDDEN_UNITS = 64
"""Width of the layer before the logits (arXiv 2508.02573)."""

_HALVES = 2
_MANY_LAYERS = 16  # from here on a convolution in bands saves more than cutting them costs
_BANDS = 3
_LEVELS = 1 << 16  # a share of dropout is rounded to 1/65,536, and the scale with it


def make_generator(seed: int, device: torch.device) -> torch.Generator:
    """A random stream of its own on a device."""
    return torch.Generator(device=device).manual_seed(seed)


class SeededDropout(nn.Dropout):
    """`torch.nn.Dropout`, drawing from its own generator once `seed` was called."""

    generator: torch.Generator | None = None

    def seed(self, seed: int | None, *, device: torch.device | str = "cpu") -> None:
        """Start a random stream of its own on a device; with None, torch's global one again."""
        self.generator = None
        if seed is not None:
            self.generator = make_generator(seed, torch.device(device))

    def forward(self, units: Tensor) -> Tensor:
        """Set a random share of the units to 0 and scale the others up, in training mode."""
        if self.generator is None or not self.training or self.p in (0.0, 1.0):
            return super().forward(units)
        return units * self.mask(units)

    def mask(self, units: Tensor) -> Tensor:
        """Draw what units of this shape, memory and device are multiplied by."""
        mask = torch.empty_like(units)
        if units.device.type != "cpu":  # there, drawing costs little and bits differ anyway
            return mask.bernoulli_(1.0 - self.p, generator=self.generator).div_(1.0 - self.p)
        n_dropped = round(self.p * _LEVELS)
        draws = torch.empty((units.numel() + 3) // 4, dtype=torch.int64, device=units.device)
        draws.random_(-(2**63), None, generator=self.generator)
        levels = draws.view(torch.int16)[: units.numel()]
        # In the order of memory, so that channels-last units need no copy.
        flat = mask.as_strided((units.numel(),), (1,))
        torch.ge(levels, n_dropped - _LEVELS // 2, out=flat)
        return mask.mul_(_LEVELS / (_LEVELS - n_dropped))


class AttentionCnn(nn.Module):
    """The network of arXiv 2508.02573, parameter for parameter, or the same along queries alone.

    Conv(layers → filters, kernel, valid, stride 1, bias) → ReLU → dropout → max-pool 2 →
    Conv(filters → filters, kernel) → ReLU → dropout → max-pool 2 → Linear(→ 64) → ReLU →
    dropout → Linear(→ classes). Heads are pooled before, when maps are captured; `length` is the
    side of a map, in tokens. Initial weights are torch's defaults from its global generator, which
    dropout uses too until `seed_dropout`: `train_cnns` sees to both.

    `over_rows` reads `row_statistics` in place of maps: it convolves along the queries, with the
    six figures of every layer as channels, and averages where maps are pooled by maximum, at last
    over either half of the queries. Raises ValueError: a count below one. UserError: maps too small
    for two convolutions.
    """

    n_layers: int
    n_classes: int
    length: int
    kernel: int
    filters: int
    dropout: float

    def __init__(
        self,
        n_layers: int,
        n_classes: int,
        *,
        kernel: int,
        filters: int,
        length: int = 64,
        dropout: float = 0.5,
        over_rows: bool = False,
    ) -> None:
        super().__init__()
        if min(n_layers, n_classes, kernel, filters) < 1:
            raise ValueError(
                f"n_layers {n_layers}, n_classes {n_classes}, kernel {kernel} and "
                f"filters {filters} must all be at least 1"
            )
        check_kernel(kernel, length)
        side = feature_side(length, kernel)
        self.n_layers, self.n_classes, self.length = n_layers, n_classes, length
        self.kernel, self.filters, self.dropout = kernel, filters, dropout
        convolve: type[nn.Conv1d | nn.Conv2d] = nn.Conv1d if over_rows else nn.Conv2d
        pools: list[nn.Module] = [nn.MaxPool2d(2), nn.MaxPool2d(2)]
        n_channels, n_places = n_layers, side * side
        if over_rows:
            pools = [nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(_HALVES)]
            n_channels, n_places = n_layers * len(ROW_STATISTICS), _HALVES
        self.features: nn.Sequential = nn.Sequential(
            convolve(n_channels, filters, kernel),
            nn.ReLU(),
            SeededDropout(dropout),
            pools[0],
            convolve(filters, filters, kernel),
            nn.ReLU(),
            SeededDropout(dropout),
            pools[1],
        )
        self.classifier: nn.Sequential = nn.Sequential(
            nn.Flatten(),
            nn.Linear(filters * n_places, HIDDEN_UNITS),
            nn.ReLU(),
            SeededDropout(dropout),
            nn.Linear(HIDDEN_UNITS, n_classes),
        )
        # Channels last: 26 ms a step where torch's order takes 31 (bench_cnn_speed.py).
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                weight = module.weight.data
                module.weight.data = weight.contiguous(memory_format=torch.channels_last)

    @classmethod
    def of_setting(
        cls,
        setting: CnnSetting,
        preset: TrainingPreset,
        n_layers: int,
        n_classes: int,
        *,
        length: int,
    ) -> "AttentionCnn":
        """Make the network that a setting and a preset name."""
        return cls(
            n_layers,
            n_classes,
            kernel=setting.kernel,
            filters=setting.filters,
            length=length,
            dropout=preset.dropout,
            over_rows=preset.scaling == "rows",
        )

    def forward(self, maps: Tensor, *, causal: bool = False) -> Tensor:
        """Logits (batch, classes) of float maps (batch, layers, query, key), scaled as in training.

        Over rows of (batch, layers · 6, query).

        `causal`: nothing stands above the diagonal and no gradient is wanted there, so the first
        convolution may leave out what sees zeros alone.
        """
        first = self.features[0]
        if causal and isinstance(first, nn.Conv2d) and in_bands(self.n_layers, maps.device):
            assert first.bias is not None
            features = self.features[1:](causal_convolution(maps, first.weight, first.bias))
        else:
            features = self.features(maps)
        logits: Tensor = self.classifier(features)
        return logits

    def n_parameters(self) -> int:
        """Count the trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def seed_dropout(self, seed: int | None) -> None:
        """Give every dropout its own random stream; with None, torch's global one again."""
        device, dropouts = next(self.parameters()).device, self.dropouts
        states = np.random.SeedSequence(seed or 0).generate_state(len(dropouts))
        for dropout, state in zip(dropouts, states, strict=True):
            dropout.seed(None if seed is None else int(state), device=device)

    @property
    def dropouts(self) -> list[SeededDropout]:
        """In the order in which units pass them."""
        return [module for module in self.modules() if isinstance(module, SeededDropout)]

    def generators(self) -> list[torch.Generator]:
        """The streams that dropout draws from, those that were seeded."""
        return [one.generator for one in self.dropouts if one.generator is not None]


def in_bands(n_layers: int, device: torch.device) -> bool:
    """Whether `causal_convolution` saves more than cutting bands costs; never on an accelerator."""
    return n_layers >= _MANY_LAYERS and device.type == "cpu"  # else three launches in place of one


def causal_convolution(maps: Tensor, weight: Tensor, bias: Tensor, groups: int = 1) -> Tensor:
    """Convolve each band of queries up to its last key only, without sums of zeros alone.

    A step on 36 layers takes a tenth less (`benchmarks/bench_cnn_speed.py`).
    """
    kernel = weight.shape[-1]
    side = maps.shape[2] - kernel + 1
    edges = [band * side // _BANDS for band in range(_BANDS + 1)]
    bands = []
    for start, end in pairwise(edges):
        width = min(side, end + kernel - 1)  # beyond, the kernel sees zeros alone
        seen = maps[:, :, start : end + kernel - 1, : width + kernel - 1]
        band = nn.functional.conv2d(seen, weight, groups=groups)
        bands.append(nn.functional.pad(band, (0, side - width)))
    return torch.cat(bands, dim=2) + bias[:, None, None]
