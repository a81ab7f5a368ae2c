"""Maps as a network sees them: scaled, unpacked, on its device, a batch at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mnemoscope.cnn.presets import TrainingPreset
from mnemoscope.maps.device import HeldMaps, hold_maps, n_at_once, read_ahead
from mnemoscope.maps.shape import ROW_STATISTICS, row_statistics
from mnemoscope.maps.triangle import check_weights, unpack_channels_last, unpack_triangle
from mnemoscope.maps.views import MapSource, rows_at_once

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
        check_weights(weights)
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
    check_weights(weights)
    return _scaled(scaling, weights)


def _scaled(scaling: Scaling, weights: Tensor) -> Tensor:
    """`scale_maps` of a float32 copy that was checked."""
    if scaling.over_rows:
        return scaling.of_rows(unpack_triangle(weights))
    if scaling.mean is not None and scaling.inverse_deviation is not None:
        weights = weights.sqrt().sub_(scaling.mean).mul_(scaling.inverse_deviation)
        weights = weights.clamp_(-scaling.clamp, scaling.clamp)
    return unpack_channels_last(weights)


class NetworkInputs:
    """Maps of a source as a network sees them.

    On the processor scaled once and kept if within `keep_bytes`, else read a batch at a time. An
    accelerator holds them packed where it has room, and scales a batch when it is asked for; where
    it has none, the next batches are read ahead. Nothing waits for it.
    """

    def __init__(
        self,
        maps: MapSource,
        scaling: Scaling,
        *,
        device: torch.device | str = "cpu",
        keep_bytes: int = 0,
    ) -> None:
        self.device = torch.device(device)
        is_far = self.device.type != "cpu"
        self._maps = hold_maps(maps, self.device) if is_far else maps
        self._scaling = scaling.to(self.device)
        self._kept: Tensor | None = None
        shape: tuple[int, ...] = (len(maps), maps.n_layers, maps.length, maps.length)
        if scaling.over_rows:
            shape = (len(maps), maps.n_layers * len(ROW_STATISTICS), maps.length)
        is_small = math.prod(shape) * torch.float32.itemsize <= keep_bytes
        if is_small and (scaling.over_rows or not is_far):
            order = torch.contiguous_format if scaling.over_rows else torch.channels_last
            kept = torch.empty(shape, device=self.device, memory_format=order)
            rows = torch.arange(len(maps))
            ends = torch.split(rows, self.rows_at_once)
            each = self.batches(rows[None].to(self.device), self.rows_at_once)
            for end, (_, fetched) in zip(ends, each, strict=True):
                kept[int(end[0]) : int(end[-1]) + 1] = self.scaled(fetched)
            self._kept = kept

    def __len__(self) -> int:
        return len(self._maps)

    @property
    def rows_at_once(self) -> int:
        """Maps to score together."""
        return n_at_once(self._maps, self.device, least=rows_at_once(self._maps))

    def batches(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Cut positions (streams, n) int64, on the device, into batches of `size` a stream.

        Gives each batch's positions and what `scaled` makes maps of, all streams in one.
        """
        parts = torch.split(rows, size, dim=1)
        if self._kept is not None or isinstance(self._maps, HeldMaps):
            yield from ((part, part.flatten()) for part in parts)
        elif self.device.type == "cpu":
            yield from ((part, self._maps.read(part.flatten())) for part in parts)
        else:  # the one wait: for the order of these rows
            wanted = [part.flatten() for part in torch.split(rows.cpu(), size, dim=1)]
            yield from zip(parts, read_ahead(self._maps, wanted, self.device), strict=True)

    def scaled(self, fetched: Tensor, n_streams: int = 1) -> Tensor:
        """Maps as `scale_maps` gives them, those of several streams side by side as channels."""
        if self._kept is not None:
            maps = self._kept[fetched]
        elif isinstance(self._maps, HeldMaps):
            maps = _scaled(self._scaling, self._maps.read(fetched).to(torch.float32))
        elif self.device.type == "cpu":
            maps = scale_maps(self._scaling, fetched)
        else:
            maps = _scaled(self._scaling, fetched.to(torch.float32))
        return maps if n_streams == 1 else torch.cat(maps.chunk(n_streams), dim=1)

    def batch(self, rows: Tensor) -> Tensor:
        """Maps at positions (batch,) int64, as `scale_maps` gives them."""
        ((_, fetched),) = self.batches(rows[None].to(self.device), max(1, len(rows)))
        return self.scaled(fetched)
