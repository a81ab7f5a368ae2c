"""Maps as the CNNs read them: from the store's files, or from a tensor.

Both are map-style torch data sets too, so a `DataLoader` with any number of workers takes them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch

from mnemoscope.maps.row_files import RowFiles
from mnemoscope.maps.triangle import triangle_length, triangle_size

__all__ = ["MapSource", "Pooling", "StoredMaps", "TensorMaps", "rows_at_once"]

Pooling = Literal["mean", "max", "heads"]
"""A tensor of the store: pooled over heads, or every head's maps where these were stored."""

_MOST_ROWS = 256
_MOST_WEIGHTS = _MOST_ROWS * 4 * 64 * 64


class MapSource(Protocol):
    """Anything that hands out packed maps by position."""

    @property
    def n_layers(self) -> int:
        """Layers (channels) of each map."""

    @property
    def length(self) -> int:
        """Tokens of each sequence."""

    def __len__(self) -> int:
        """Number of maps."""

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Packed maps at these positions, in this order.

        Args:
            rows: positions, integer, shape (b,).

        Returns:
            float16 on the CPU, shape (b, layers, length·(length+1)/2).
        """


def rows_at_once(maps: MapSource) -> int:
    """Count the maps to work on together where it does not matter: 17 MB of float32, or 256 maps.

    256 maps of 4 layers and 64 tokens, 28 of 36 layers.
    """
    return max(1, min(_MOST_ROWS, _MOST_WEIGHTS // (maps.n_layers * maps.length**2)))


class TensorMaps:
    """Maps held in memory, for what is made and not captured (the blind baseline, tests)."""

    def __init__(self, packed: torch.Tensor) -> None:
        """Hold packed maps.

        Args:
            packed: shape (n, layers, length·(length+1)/2); kept as float16.

        Raises:
            ValueError: another number of axes, or a last axis that is no triangle.
        """
        if packed.ndim != 3:
            raise ValueError(f"packed maps of shape {tuple(packed.shape)}: 3 axes are needed")
        self.n_layers = packed.shape[1]
        self.length = triangle_length(packed.shape[2])
        self._packed = packed.detach().to("cpu", torch.float16)

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, position: int) -> torch.Tensor:
        return self._packed[position]

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Packed maps at these positions; see `MapSource.read`."""
        return self._packed[torch.as_tensor(rows, dtype=torch.long)]


class StoredMaps:
    """One pooling of chosen sequences of a store, read row by row from its shards.

    A shard is opened when a row of it is first asked for; each worker process opens its own.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        *,
        shard_of: torch.Tensor,
        row_of: torch.Tensor,
        n_layers: int,
        length: int,
        pooling: Pooling,
    ) -> None:
        """Point at rows of shards; `MapStore.dataset` is the usual way here.

        Args:
            shards: paths of the shards.
            shard_of: for each map the position of its shard in `shards`, int64, shape (n,).
            row_of: for each map its row in that shard, int64, shape (n,).
            n_layers: layers of each map.
            length: tokens of each sequence.
            pooling: which tensor of the shards to read.
        """
        self.n_layers, self.length, self.pooling = n_layers, length, pooling
        self._files = RowFiles(shards, pooling)
        self._places = torch.stack([shard_of, row_of]).numpy()
        self._shape = (n_layers, triangle_size(length))

    def __len__(self) -> int:
        return int(self._places.shape[1])

    def __getitem__(self, position: int) -> torch.Tensor:
        maps = np.empty(self._shape, dtype=np.float16)
        self._files.read_row(maps, self._places.item(0, position), self._places.item(1, position))
        return torch.from_numpy(maps)

    def __getitems__(self, positions: list[int]) -> list[torch.Tensor]:
        return list(self.read(torch.tensor(positions, dtype=torch.long)))

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Packed maps at these positions; see `MapSource.read`.

        Raises:
            IndexError: a position outside the data set.
            DamagedDataError: a shard has vanished or been cut since the store was opened.
        """
        chosen = torch.as_tensor(rows, dtype=torch.long).numpy()
        maps = np.empty((len(rows), *self._shape), dtype=np.float16)
        self._files.read(maps, self._places[:, chosen])
        return torch.from_numpy(maps)
