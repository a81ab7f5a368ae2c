"""Maps as the CNNs read them: from the store's files, or from a tensor.

Both are map-style torch data sets too, so a `DataLoader` with any number of workers takes them.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.maps.format import gone, tensor_start, triangle_length, triangle_size

# Rows of open files into memory, in one compiled loop over the system's `pread`.


def read_rows(
    maps: np.ndarray, order: np.ndarray, first: int, places: np.ndarray, files: np.ndarray
) -> int:
    """Fill an array row by row; stops at the first row that does not come whole.

    Args:
        maps: contiguous, shape (n, ...); written.
        order: in which order its rows are read, int64, shape (n,).
        first: where in `order` to begin.
        places: for each row of `maps` its file and its row there, int64, shape (2, n).
        files: for each file its descriptor and the byte at which its rows begin, int64, shape
            (2, files); a negative descriptor stops too.

    Returns:
        Where in `order` it stopped; n when all came, `first` where the system has no `pread`.
    """
    loop = _compiled()
    if loop is None:
        return first
    return loop(maps.ctypes.data, maps[:1].nbytes, order, first, places, files)


@cache
def _compiled() -> Callable[[int, int, np.ndarray, int, np.ndarray, np.ndarray], int] | None:
    try:
        pread = ctypes.CDLL(None).pread
    except (AttributeError, TypeError, OSError):  # Windows
        return None
    pread.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)
    pread.restype = ctypes.c_ssize_t

    from numba import njit

    @njit(nogil=True)
    def loop(
        address: int,
        n_bytes: int,
        order: np.ndarray,
        first: int,
        places: np.ndarray,
        files: np.ndarray,
    ) -> int:
        for at in range(first, len(order)):
            row = order[at]
            file = places[0, row]
            start = files[1, file] + places[1, row] * n_bytes
            if pread(files[0, file], address + row * n_bytes, n_bytes, start) != n_bytes:
                return at
        return len(order)

    return loop


# Read rows of shards straight from their files into an array, without a copy in between.

_MOST_OPEN = 32
_CLOSED = -1


class RowFiles:
    """The shards of one tensor, opened when a row is asked for; some 32 are open at a time.

    Threads read one after another: one that opens a shard may close what another reads from, and
    the number of a closed file goes to the next that is opened.
    """

    def __init__(self, shards: Sequence[Path], tensor: str) -> None:
        """Point at shards; nothing is opened yet.

        Args:
            shards: their paths.
            tensor: name of the tensor that is read, float16.
        """
        self._shards, self._tensor = list(shards), tensor
        self._open: dict[int, tuple[int, int]] = {}  # descriptor and start, the latest opened last
        self._files = np.full((2, len(self._shards)), _CLOSED)  # the same, by shard
        self._lock = threading.RLock()

    def __getstate__(self) -> tuple[list[Path], str]:
        return self._shards, self._tensor

    def __setstate__(self, state: tuple[list[Path], str]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __del__(self) -> None:
        for descriptor, _ in getattr(self, "_open", {}).values():
            os.close(descriptor)

    def read_row(self, maps: npt.NDArray[np.float16], shard: int, row: int) -> None:
        """Fill one contiguous float16 array with a row.

        Raises:
            DamagedDataError: the shard has vanished, been cut or cannot be read.
        """
        with self._lock:
            descriptor, start = self._open.get(shard) or self._open_shard(shard)
            try:
                n_read = _fill(descriptor, maps, start + row * maps.nbytes)
            except OSError as error:
                raise gone(self._shards[shard]) from error
        if n_read != maps.nbytes:
            raise gone(self._shards[shard])

    def read(self, maps: npt.NDArray[np.float16], places: npt.NDArray[np.int64]) -> None:
        """Fill an array row by row; shard by shard where not all may be open.

        Args:
            maps: float16, contiguous, shape (n, ...).
            places: for each row of it the position of its shard and its row there, shape (2, n).

        Raises:
            DamagedDataError: as `read_row`.
        """
        few = len(self._shards) <= _MOST_OPEN
        order = np.arange(len(maps)) if few else np.argsort(places[0], kind="stable")
        done = 0
        with self._lock:
            while (done := read_rows(maps, order, done, places, self._files)) < len(maps):
                row = order.item(done)  # its shard is not open or not whole, or no such call here
                self.read_row(maps[row], *places[:, row].tolist())
                done += 1

    def _open_shard(self, shard: int) -> tuple[int, int]:
        """Open one, and close the oldest where too many are; gives descriptor and first byte."""
        if len(self._open) >= _MOST_OPEN:
            oldest = next(iter(self._open))
            os.close(self._open.pop(oldest)[0])
            self._files[:, oldest] = _CLOSED
        start = tensor_start(self._shards[shard], self._tensor)
        try:
            descriptor = os.open(self._shards[shard], os.O_RDONLY | _BINARY)
        except OSError as error:
            raise gone(self._shards[shard]) from error
        self._open[shard] = descriptor, start
        self._files[:, shard] = descriptor, start
        return descriptor, start


_BINARY = getattr(os, "O_BINARY", 0)


def _fill_by_two_calls(descriptor: int, target: npt.NDArray[np.float16], start: int) -> int:
    """As `_fill` where the system has no `preadv`; these fork no workers, so the place is ours."""
    os.lseek(descriptor, start, os.SEEK_SET)
    data = os.read(descriptor, target.nbytes)
    target.reshape(-1).view(np.uint8)[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    return len(data)


def _fill_by_preadv(descriptor: int, target: npt.NDArray[np.float16], start: int) -> int:
    """Read into an array from a place of a file; gives how many bytes came."""
    return os.preadv(descriptor, (target.data,), start)


_fill = _fill_by_preadv if hasattr(os, "preadv") else _fill_by_two_calls


# Maps as the CNNs read them: from the store's files, or from a tensor.

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


# Maps made of two others while they are read: both poolings, or a model's less its reference's.


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
