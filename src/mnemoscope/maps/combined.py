"""Maps made of two others while they are read: both poolings, or a model's less its reference's.

A convolution sees more channels; nothing further is stored.
"""

import torch

from mnemoscope.maps.dataset import MapSource

__all__ = ["DifferenceMaps", "StackedMaps"]


class _Combined:
    """Two sources of the same sequences, in the same order."""

    def __init__(self, first: MapSource, second: MapSource) -> None:
        """Hold two sources.

        Raises:
            ValueError: they differ in their number of maps or in length.
        """
        if (len(first), first.length) != (len(second), second.length):
            raise ValueError(
                f"{len(first)} maps of {first.length} tokens, {len(second)} of {second.length}"
            )
        self._first, self._second = first, second
        self.n_layers = first.n_layers + second.n_layers
        self.length = first.length

    def __len__(self) -> int:
        return len(self._first)


class StackedMaps(_Combined):
    """The channels of one source, then those of another: (b, layers + layers, triangle)."""

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Packed maps at these positions; see `MapSource.read`."""
        return torch.cat([self._first.read(rows), self._second.read(rows)], dim=1)


class DifferenceMaps(_Combined):
    """Where one source attends more than another, then where it attends less.

    Two channels a layer, both ≥ 0 as attention is (and as the scaling of the CNN's input needs):
    the positive and the negative part of the difference. Nothing of it is lost: the first less
    the second is the difference.
    """

    def __init__(self, first: MapSource, second: MapSource) -> None:
        """Hold two sources.

        Raises:
            ValueError: they differ in their number of maps, layers or in length.
        """
        super().__init__(first, second)
        if first.n_layers != second.n_layers:
            raise ValueError(f"maps of {first.n_layers} layers less maps of {second.n_layers}")

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Packed maps at these positions; see `MapSource.read`."""
        difference = self._first.read(rows).float() - self._second.read(rows).float()
        parts = torch.cat([difference.clamp_min(0.0), (-difference).clamp_min(0.0)], dim=1)
        return parts.to(torch.float16)
