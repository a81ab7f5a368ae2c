"""Maps made by hand: causal rows that sum to one, and class evidence at a known region."""

from dataclasses import replace
from typing import NamedTuple

import torch

from mnemoscope.cnn.presets import PRESETS, CnnSetting
from mnemoscope.maps.triangle import pack_triangle
from mnemoscope.maps.views import TensorMaps

SETTING = CnnSetting(6, 10, "mean")
QUICK = replace(PRESETS["small"], epochs=1, min_steps=12)


class Problem(NamedTuple):
    maps: TensorMaps
    labels: torch.Tensor


def attention(n: int, n_layers: int, length: int, seed: int) -> torch.Tensor:
    """Random causal attention, (n, layers, length, length), rows summing to one."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, n_layers, length, length, generator=generator)
    above = torch.ones(length, length).triu(1).bool()
    return scores.masked_fill(above, -torch.inf).softmax(-1)


def planted(n: int, *, seed: int, n_classes: int = 3, length: int = 32) -> Problem:
    """Class c > 0 attends more to three keys at four queries of layer c - 1; class 0 nowhere."""
    maps = attention(n, 2, length, seed)
    labels = torch.arange(n) % n_classes
    for c in range(1, n_classes):
        rows = labels == c
        maps[rows, c - 1, 20:24, 8 * c : 8 * c + 3] += 0.15
    return Problem(TensorMaps(pack_triangle(maps / maps.sum(-1, keepdim=True))), labels)
