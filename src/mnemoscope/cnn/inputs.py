"""Maps as a network sees them: scaled once and kept where they fit, else a batch at a time.

Both give the same bits.
"""

import torch
from torch import Tensor

from mnemoscope.cnn.scaling import Scaling, scale_maps
from mnemoscope.maps.dataset import MapSource, rows_at_once

__all__ = ["KEPT_BYTES", "NetworkInputs"]

KEPT_BYTES = 1 << 30
"""Scaled maps up to this size are kept while training: 16,384 maps of 4 layers, 1,820 of 36."""

_FLOAT_BYTES = 4


class NetworkInputs:
    """Scaled maps of one source, by position.

    Args:
        maps: what to read from.
        scaling: fitted on the training maps.
        device: where batches are needed.
        keep_bytes: keep all scaled maps if they take no more than this; 0 keeps none.
    """

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
        n_bytes = len(maps) * maps.n_layers * maps.length**2 * _FLOAT_BYTES
        self._kept = self._scale_all() if n_bytes <= keep_bytes else None

    def __len__(self) -> int:
        """Count the maps."""
        return len(self._maps)

    @property
    def rows_at_once(self) -> int:
        """Maps to score together: see `mnemoscope.maps.dataset.rows_at_once`."""
        return rows_at_once(self._maps)

    def batch(self, rows: Tensor) -> Tensor:
        """Give some maps.

        Args:
            rows: (batch,) int64.

        Returns:
            (batch, layers, query, key) float32 on the device, channels last.
        """
        if self._kept is not None:
            return self._kept[rows.to(self._device)]
        return self._scale(rows)

    def _scale(self, rows: Tensor) -> Tensor:
        """Read and scale some maps."""
        return scale_maps(self._scaling, self._maps.read(rows).to(self._device))

    def _scale_all(self) -> Tensor:
        """Scale every map, some hundred at a time."""
        shape = (len(self._maps), self._maps.n_layers, self._maps.length, self._maps.length)
        kept = torch.empty(shape, device=self._device, memory_format=torch.channels_last)
        for rows in torch.split(torch.arange(len(self._maps)), rows_at_once(self._maps)):
            kept[rows[0] : rows[-1] + 1] = self._scale(rows)
        return kept
