"""Bring maps to a scale a CNN can learn from: square root, then standardised per position.

Attention weights sit near 1/64 and differ between positions far more than between sequences, so
a CNN on raw maps spends its first thousands of steps finding the offset. With hundreds of
training maps that is all the steps there are; with the paper's 12,000 to 24,000 it is not, and
the paper's preset leaves maps raw.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemoscope.cnn.presets import TrainingPreset
from mnemoscope.errors import DamagedDataError
from mnemoscope.maps.dataset import MapSource, rows_at_once
from mnemoscope.maps.triangle import triangle_size, unpack_channels_last

__all__ = ["Scaling", "fit_scaling", "scale_maps"]

_SMALLEST_DEVIATION = 1e-3
"""Roots that vary less are divided by this: rounding to float16 alone varies by up to 2e-4."""


@dataclass(frozen=True)
class Scaling:
    """A fitted scaling; raw when `mean` is None.

    Attributes:
        mean: mean root of each weight over the training maps, float32, (layers, triangle), or
            None: maps stay as they are.
        inverse_deviation: one over the roots' standard deviation, same shape; None with `mean`.
        clamp: scaled values are kept within ± this.
    """

    mean: Tensor | None
    inverse_deviation: Tensor | None
    clamp: float

    def to(self, device: torch.device | str) -> "Scaling":
        """Copy to a device."""
        if self.mean is None or self.inverse_deviation is None:
            return self
        return Scaling(self.mean.to(device), self.inverse_deviation.to(device), self.clamp)


def fit_scaling(maps: MapSource, preset: TrainingPreset) -> Scaling:
    """Fit a preset's scaling.

    Args:
        maps: the training maps and no others.
        preset: names the scaling.

    Raises:
        ValueError: no maps.
        DamagedDataError: a weight is negative or not finite.
    """
    if len(maps) == 0:
        raise ValueError("no training maps")
    if preset.scaling == "raw":
        return Scaling(None, None, 0.0)
    total = torch.zeros(maps.n_layers, triangle_size(maps.length), dtype=torch.float64)
    squares = torch.zeros_like(total)
    for rows in torch.split(torch.arange(len(maps)), rows_at_once(maps)):
        weights = maps.read(rows).to(torch.float64)
        _refuse_what_is_no_attention(weights)
        total += weights.sqrt().sum(0)
        squares += weights.sum(0)  # the square of a root
    mean = total / len(maps)
    deviation = (squares / len(maps) - mean.square()).clamp_min(0.0).sqrt()
    inverse = 1.0 / deviation.clamp_min(_SMALLEST_DEVIATION)
    return Scaling(mean.to(torch.float32), inverse.to(torch.float32), preset.clamp)


def scale_maps(scaling: Scaling, packed: Tensor) -> Tensor:
    """Turn maps as stored into what a network sees.

    Args:
        scaling: fitted on the training maps, on the same device.
        packed: attention weights, (batch, layers, triangle), float16 as `MapSource.read` gives.

    Returns:
        float32, (batch, layers, query, key), zeros above the diagonal, channels last.

    Raises:
        DamagedDataError: a weight is negative or not finite.
    """
    weights = packed.to(torch.float32)
    _refuse_what_is_no_attention(weights)
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
