"""Read rows of shards straight from their files into an array, without a copy in between.

A plain read at a place costs what the disk or the page cache costs; through a memory map every page
costs a fault more, and a file that is cut while it is mapped kills the process.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnemoscope.maps.row_reads import read_rows
from mnemoscope.maps.shard import gone, tensor_start

__all__ = ["RowFiles"]

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
