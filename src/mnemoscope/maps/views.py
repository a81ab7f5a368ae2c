"""Maps as the CNNs read them, from the store's files or from a tensor.

`StoredMaps` and `TensorMaps` are map-style torch data sets too: a `DataLoader` takes them.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.maps.format import StoreMeta, shard_vanished, tensor_start
from mnemoscope.maps.shape import triangle_length, triangle_size

_MOST_ROWS = 256
_MOST_WEIGHTS = _MOST_ROWS * 4 * 64 * 64
_MOST_OPEN = 32


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
        """Packed maps at positions (b,), in order: float16 (b, layers, triangle).

        On the CPU, or on the device that holds them (`maps.device.HeldMaps`).
        """


def rows_at_once(maps: MapSource) -> int:
    """Maps to work on together where it does not matter: 17 MB of float32, or 256 maps."""
    return max(1, min(_MOST_ROWS, _MOST_WEIGHTS // (maps.n_layers * maps.length**2)))


class TensorMaps:
    """Maps held in memory, for what is made and not captured (the blind baseline, tests)."""

    def __init__(self, packed: torch.Tensor) -> None:
        """Hold packed maps (n, layers, triangle) as float16; `ValueError` for other shapes."""
        if packed.ndim != 3:
            raise ValueError(f"packed maps of shape {tuple(packed.shape)}: 3 axes are needed")
        self.n_layers: int = packed.shape[1]
        self.length: int = triangle_length(packed.shape[2])
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

    Some 32 shards are open at a time, and each worker process opens its own. Plain reads, not a
    memory map: a mapped file that is cut short ends the process. Threads take turns, since opening
    one shard may close another.
    """

    n_layers: int
    length: int
    pooling: str

    def __init__(
        self,
        shards: Sequence[Path],
        places: npt.NDArray[np.int64],
        meta: StoreMeta,
        pooling: str,
    ) -> None:
        """Point at rows of shards; places (2, n) are each map's shard in `shards` and row there."""
        self.n_layers, self.length, self.pooling = meta.n_layers, meta.length, pooling
        self._meta = meta
        self._shards = list(shards)
        self._places = places
        self._open: dict[int, tuple[BinaryIO, int]] = {}  # file and start, the latest opened last
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:  # a copy opens files of its own
        return type(self), (self._shards, self._places, self._meta, self.pooling)

    def __del__(self) -> None:
        for file, _ in getattr(self, "_open", {}).values():
            file.close()

    def __len__(self) -> int:
        return int(self._places.shape[1])

    def __getitem__(self, position: int) -> torch.Tensor:
        return self.read(torch.tensor([position]))[0]

    def __getitems__(self, positions: list[int]) -> list[torch.Tensor]:
        return list(self.read(torch.tensor(positions, dtype=torch.long)))

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Packed maps at these positions; see `MapSource.read`.

        Raises IndexError: a position outside the data set. DamagedDataError: a shard has vanished
        or been cut since the store was opened.
        """
        shards, places = self._places[:, torch.as_tensor(rows, dtype=torch.long).numpy()].tolist()
        maps = np.empty((len(shards), self.n_layers, triangle_size(self.length)), dtype=np.float16)
        n_bytes = self.n_layers * triangle_size(self.length) * maps.itemsize
        memory = maps.reshape(-1).view(np.uint8).data
        order = list(range(len(shards)))
        if len(self._shards) > _MOST_OPEN:
            order.sort(key=shards.__getitem__)
        with self._lock:
            for at in order:
                file, start = self._open.get(shards[at]) or self._open_shard(shards[at])
                target = memory[at * n_bytes : (at + 1) * n_bytes]
                try:
                    n_read = _read_into(file, target, start + places[at] * n_bytes)
                except OSError as error:
                    raise shard_vanished(self._shards[shards[at]]) from error
                if n_read != n_bytes:
                    raise shard_vanished(self._shards[shards[at]])
        return torch.from_numpy(maps)

    def _open_shard(self, shard: int) -> tuple[BinaryIO, int]:
        """Open one, and close the oldest where too many are; the file and its first byte."""
        if len(self._open) >= _MOST_OPEN:
            self._open.pop(next(iter(self._open)))[0].close()
        path = self._shards[shard]
        start = tensor_start(path, self.pooling)
        try:
            file = open(path, "rb", buffering=0)  # noqa: SIM115 - stays open
        except OSError as error:
            raise shard_vanished(path) from error
        self._open[shard] = file, start
        return file, start


def _read_into(file: BinaryIO, target: memoryview, start: int) -> int:
    """Read from a place of a file, wherever a forked process has left it; gives bytes read."""
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), (target,), start)
    file.seek(start)  # Windows, where no process is forked
    return file.readinto(target)  # type: ignore[attr-defined, no-any-return]


class ChosenMaps:
    """Some maps of a source, at these positions, int64 (n,), in their order."""

    def __init__(self, source: MapSource, rows: npt.NDArray[np.int64]) -> None:
        self._source, self._rows = source, torch.from_numpy(rows)
        self.n_layers: int = source.n_layers
        self.length: int = source.length

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Packed maps at these positions; see `MapSource.read`."""
        return self._source.read(self._rows[torch.as_tensor(rows, dtype=torch.long)])


class _Combined:
    """Two sources of the same sequences, in the same order."""

    def __init__(self, first: MapSource, second: MapSource) -> None:
        """Hold two sources; `ValueError` if their number of maps or length differs."""
        if (len(first), first.length) != (len(second), second.length):
            raise ValueError(
                f"{len(first)} maps of {first.length} tokens, {len(second)} of {second.length}"
            )
        self._first, self._second = first, second
        self.n_layers: int = first.n_layers + second.n_layers
        self.length: int = first.length

    def __len__(self) -> int:
        return len(self._first)


class StackedMaps(_Combined):
    """The channels of one source, then those of another: (b, layers + layers, triangle)."""

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Packed maps at these positions; see `MapSource.read`."""
        return torch.cat([self._first.read(rows), self._second.read(rows)], dim=1)


class DifferenceMaps(_Combined):
    """Where one source attends more than another, then where it attends less.

    Two channels a layer, the positive and the negative part of the difference, both ≥ 0 as the
    scaling of the CNN's input needs.
    """

    def __init__(self, first: MapSource, second: MapSource) -> None:
        """Hold two sources; `ValueError` if their number of maps, layers or length differs."""
        super().__init__(first, second)
        if first.n_layers != second.n_layers:
            raise ValueError(f"maps of {first.n_layers} layers less maps of {second.n_layers}")

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Packed maps at these positions; see `MapSource.read`."""
        difference = self._first.read(rows).float() - self._second.read(rows).float()
        parts = torch.cat([difference.clamp_min(0.0), (-difference).clamp_min(0.0)], dim=1)
        return parts.to(torch.float16)


class MarkedMaps:
    """Maps with a mark of each class: the positive control of whoever reads them.

    In every layer the suffix's queries give a share of their weight to one key: in class 1 to
    themselves, in class 2 to the token before, in class 3 to the one before that, and so on; class
    0 is left as it is. Maps of weights so marked, pooled by mean or maximum, are these, exactly.
    """

    n_layers: int
    length: int

    def __init__(
        self, maps: MapSource, classes: torch.Tensor, share: float, prefix: int | None = None
    ) -> None:
        """Mark maps (n,) by their classes (n,), int64, with a share in [0, 1].

        The suffix begins after `prefix` tokens, half of the map unless given.
        """
        if len(classes) != len(maps):
            raise ValueError(f"{len(maps)} maps, {len(classes)} classes to mark them by")
        self._maps, self._classes, self._share = maps, classes, share
        self._prefix = maps.length // 2 if prefix is None else prefix
        self.n_layers, self.length = maps.n_layers, maps.length

    def __len__(self) -> int:
        return len(self._maps)

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Packed maps at these positions; see `MapSource.read`."""
        found = self._maps.read(rows).float()
        queries = torch.arange(self._prefix, self.length)
        starts = queries * (queries + 1) // 2
        first, classes = int(starts[0]), self._classes[rows]
        found[classes > 0, :, first:] *= 1 - self._share
        for one in range(1, int(classes.max()) + 1 if len(classes) else 1):
            keys = starts + (queries - one + 1).clamp_min(0)
            own = (classes == one).nonzero()[:, :1]
            found[own, :, keys] += self._share
        return found.to(torch.float16)
