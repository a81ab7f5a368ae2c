"""Compare shards with their sha256, each once a process for as long as its file stays the same.

What was seen to be whole is remembered in memory and nowhere else: bits that rot on a disk change
no size and no time, so the next process looks again.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mnemoscope.errors import DamagedDataError
from mnemoscope.maps.shard import check_checksum

__all__ = ["damaged_shards", "require_whole"]

_MAX_THREADS = 8
# File systems keep the time of a change to within so many seconds (FAT: 2). A file changed again
# in the same tick looks the same, so one that has just been written is not remembered.
_TICK_SECONDS = 2.0

# Path, sha256, device, inode, size, times of the last change of content and of entry.
_Identity = tuple[str, str, int, int, int, int, int]
_whole: set[_Identity] = set()


def require_whole(folder: Path, shards: Sequence[tuple[str, int, str]]) -> None:
    """Compare shards that were not compared before, or have changed since.

    Args:
        folder: where they are.
        shards: name, number of rows and sha256 of each, as `count_rows` gives them.

    Raises:
        DamagedDataError: naming the first whose content is not what was written.
    """
    unknown = [one for one in shards if _identity(folder / one[0], one[2]) not in _whole]
    if damaged := damaged_shards(folder, unknown):
        raise damaged[0]


def damaged_shards(folder: Path, shards: Sequence[tuple[str, int, str]]) -> list[DamagedDataError]:
    """Read whole shards, some at a time (about 1.5 GB/s a core), and say what is wrong with which.

    Arguments as `require_whole`; the order of what is found is that of the shards.
    """
    if not shards:
        return []
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1, len(shards))) as pool:
        found = list(pool.map(lambda one: _damage(folder / one[0], one[1], one[2]), shards))
    return [error for error in found if error is not None]


def _damage(path: Path, rows: int, sha256: str) -> DamagedDataError | None:
    """What is wrong with a shard; remembers one that is whole."""
    before = _identity(path, sha256)
    try:
        check_checksum(path, rows=rows, sha256=sha256)
    except DamagedDataError as error:
        return error
    if before is not None and time.time() - max(before[-2:]) / 1e9 > _TICK_SECONDS:
        _whole.add(before)
    return None


def _identity(path: Path, sha256: str) -> _Identity | None:
    """What changes when a file's content does; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (
        str(path.absolute()),
        sha256,
        found.st_dev,
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )
