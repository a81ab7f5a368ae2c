"""Read rows of shards straight from their files into an array, without a copy in between.

A plain read at a place costs what the disk or the page cache costs; through a memory map every page
costs a fault more, and a file that is cut while it is mapped kills the process.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnemoscope.maps.shard import gone, tensor_start

__all__ = ["RowFiles"]

_MOST_OPEN = 32


class RowFiles:
    """The shards of one tensor, opened when a row is asked for; some 32 are open at a time."""

    def __init__(self, shards: Sequence[Path], tensor: str) -> None:
        """Point at shards; nothing is opened yet.

        Args:
            shards: their paths.
            tensor: name of the tensor that is read, float16.
        """
        self._shards, self._tensor = list(shards), tensor
        self._starts: dict[int, int] = {}
        self._open: dict[int, int] = {}  # descriptors, the latest opened last

    def __getstate__(self) -> tuple[list[Path], str]:
        return self._shards, self._tensor

    def __setstate__(self, state: tuple[list[Path], str]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)

    def read_row(self, maps: npt.NDArray[np.float16], shard: int, row: int) -> None:
        """Fill one contiguous float16 array with a row.

        Raises:
            DamagedDataError: the shard has vanished or been cut.
        """
        descriptor = self._open.get(shard)
        if descriptor is None:
            descriptor = self._open_shard(shard)
        n_bytes = maps.nbytes
        if _fill(descriptor, maps, self._starts[shard] + row * n_bytes) != n_bytes:
            raise gone(self._shards[shard])

    def read(
        self,
        maps: npt.NDArray[np.float16],
        shard_of: npt.NDArray[np.int64],
        row_of: npt.NDArray[np.int64],
    ) -> None:
        """Fill an array row by row, in the order of files and of places in them.

        Args:
            maps: float16, contiguous, shape (n, ...).
            shard_of: for each row of it the position of the shard, shape (n,).
            row_of: for each the row in that shard, shape (n,).

        Raises:
            DamagedDataError: as `read_row`.
        """
        order = np.lexsort((row_of, shard_of))
        columns = (order, shard_of[order], row_of[order])
        n_bytes, current, descriptor, start = maps[:1].nbytes, -1, -1, 0
        for position, shard, row in zip(*(one.tolist() for one in columns), strict=True):
            if shard != current:
                self.read_row(maps[position], shard, row)  # opens what is not open
                current, descriptor, start = shard, self._open[shard], self._starts[shard]
            elif _fill(descriptor, maps[position], start + row * n_bytes) != n_bytes:
                raise gone(self._shards[shard])

    def _open_shard(self, shard: int) -> int:
        if shard not in self._starts:
            self._starts[shard] = tensor_start(self._shards[shard], self._tensor)
        if len(self._open) >= _MOST_OPEN:
            os.close(self._open.pop(next(iter(self._open))))
        try:
            self._open[shard] = os.open(self._shards[shard], os.O_RDONLY | _BINARY)
        except OSError as error:
            raise gone(self._shards[shard]) from error
        return self._open[shard]


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
