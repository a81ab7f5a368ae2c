"""The store of maps under one name: `MapWriter` appends to a folder, `MapStore` opens it."""

import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl

from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.files import atomic_path, made_folder, write_bytes
from mnemoscope.maps.format import (
    INDEX_NAME,
    INDEX_SCHEMA,
    META_NAME,
    StoreMeta,
    check_checksum,
    check_shape,
    find_rows,
    free_shard_name,
    key_frame,
    list_shards,
    read_index,
    read_meta,
    write_index,
    write_meta,
)
from mnemoscope.maps.views import StoredMaps

_MAX_THREADS = 8
# File systems keep the time of a change to within so many seconds (FAT: 2). A file changed again
# in the same tick looks the same, so one that has just been written is not remembered.
_TICK_SECONDS = 2.0

# Path, sha256, device, inode, size, times of the last change of content and of entry.
_Identity = tuple[str, str, int, int, int, int, int]
_whole: set[_Identity] = set()


def require_whole(folder: Path, shards: Sequence[tuple[str, int, str]]) -> None:
    """Compare shards (name, rows, sha256) not compared before; DamagedDataError of the first."""
    unknown = [one for one in shards if _identity(folder / one[0], one[2]) not in _whole]
    for error in damaged_shards(folder, unknown).values():
        raise error


def damaged_shards(
    folder: Path, shards: Sequence[tuple[str, int, str]], meta: StoreMeta | None = None
) -> dict[str, DamagedDataError]:
    """Read whole shards in parallel (about 1.5 GB/s a core); say by name what is wrong with each.

    With `meta` a shard of another shape is damaged too.
    """
    if not shards:
        return {}
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1, len(shards))) as pool:
        found = pool.map(lambda one: _damage(folder / one[0], one[1], one[2], meta), shards)
        return {name: error for (name, *_), error in zip(shards, found, strict=True) if error}


def _damage(path: Path, rows: int, sha256: str, meta: StoreMeta | None) -> DamagedDataError | None:
    """What is wrong with a shard; remembers one that is whole."""
    before = _identity(path, sha256)
    try:
        if meta is not None:
            check_shape(path, rows=rows, meta=meta)
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
    times = found.st_mtime_ns, found.st_ctime_ns
    return str(path.absolute()), sha256, found.st_dev, found.st_ino, found.st_size, *times


class MapStore:
    """An existing folder of maps, opened for reading."""

    def __init__(self, folder: Path | str, *, verify: bool = True) -> None:
        """Open a folder, look at the header of every shard and compare its content.

        `verify` reads every shard now and compares it with its sha256 (about 1.5 GB/s a core, once
        a process while the file stays the same). Without it `dataset` does so with the shards
        whose maps it gives. Raises UserError: no maps there. DamagedDataError: a shard is missing,
        cut short, another file's or has changed.
        """
        self.folder = Path(folder)
        self.meta = read_meta(self.folder)
        try:
            self.index = read_index(self.folder)
        except FileNotFoundError:
            raise UserError(
                f"{self.folder}: no maps here yet. Run 'mnemoscope capture' first."
            ) from None
        for name, rows, _ in list_shards(self.index):
            check_shape(self.folder / name, rows=rows, meta=self.meta)
        if verify:
            require_whole(self.folder, list_shards(self.index))

    def __len__(self) -> int:
        return len(self.index)

    def check(self) -> None:
        """Read every shard, also one seen before; raise the first of `damaged`."""
        if found := self.damaged():
            raise found[0]

    def damaged(self) -> list[DamagedDataError]:
        """Read every shard; say what is wrong with each whose content is not what was written."""
        return list(damaged_shards(self.folder, list_shards(self.index)).values())

    def rows(
        self, sequence_ids: Sequence[int] | np.ndarray, suffixes: Sequence[str] | str
    ) -> np.ndarray:
        """Positions of these maps in `index`, int64, in order; UserError names one not stored."""
        keys = key_frame(sequence_ids, suffixes)
        found = find_rows(self.index, keys)
        if n_absent := found.null_count():
            sequence_id, suffix = keys.row(int(found.is_null().arg_max() or 0))
            raise UserError(
                f"{self.folder}: {n_absent} of {len(keys)} maps are not stored, the first is "
                f"sequence {sequence_id} with suffix '{suffix}'. Run 'mnemoscope capture'."
            )
        return found.to_numpy()

    def dataset(
        self,
        sequence_ids: Sequence[int] | np.ndarray,
        suffixes: Sequence[str] | str,
        pooling: str,
    ) -> StoredMaps:
        """These maps as the CNNs read them, in the order given; their shards are whole.

        Raises UserError: a map is not stored. DamagedDataError: one of their shards has changed
        since it was written.
        """
        chosen = self.index[self.rows(sequence_ids, suffixes)]
        names = sorted(chosen["shard"].unique())
        number = {name: position for position, name in enumerate(names)}
        require_whole(self.folder, [one for one in list_shards(self.index) if one[0] in number])
        shards = [self.folder / name for name in names]
        places = np.stack([[number[name] for name in chosen["shard"]], chosen["row"]])
        return StoredMaps(shards, places, self.meta, pooling)


class MapWriter:
    """Add shards of maps to a folder; what it already holds is not asked for again."""

    def __init__(self, folder: Path | str, meta: StoreMeta) -> None:
        """Open a folder, or plan a new one: nothing is written before the first shard.

        Every shard is read once and compared with its sha256 (about 1.5 GB/s a core). The rows of
        damaged ones count as missing; `damaged` says what is wrong with each. Raises UserError: the
        folder holds maps of another model, settings or shape. DamagedDataError: `meta.json` or
        `index.parquet` is damaged.
        """
        self.folder = Path(folder)
        self.meta = meta
        self.damaged: list[DamagedDataError] = []
        self._index = self._open()
        self._is_ready = False

    def missing(
        self, sequence_ids: Sequence[int] | np.ndarray, suffixes: Sequence[str] | str
    ) -> np.ndarray:
        """Positions, int64 ascending, of maps still to be captured; of a key given twice the first.

        Suffixes are "own" or "true", or one for all. Cut the answer at multiples of the rows of a
        shard before cutting batches: an unbroken run and a resumed one then round alike.
        """
        keys = key_frame(sequence_ids, suffixes)
        is_wanted = (
            find_rows(self._index, keys).is_null()
            & keys.select(pl.struct(pl.all()).is_first_distinct()).to_series()
        )
        return np.flatnonzero(is_wanted.to_numpy())

    def take(
        self,
        shard: Path | bytes,
        sequence_ids: Sequence[int] | np.ndarray,
        suffixes: Sequence[str] | str,
        *,
        sha256: str,
    ) -> None:
        """Add a whole shard (`pack_shard`), as a file or its content, and name it in the index.

        Raises DamagedDataError: it is no shard of this shape. NoRoomError: the disk is full; the
        shards written so far stay. ValueError: a map that is already there.
        """
        keys = key_frame(sequence_ids, suffixes)
        if len(self.missing(sequence_ids, suffixes)) != len(keys):
            raise ValueError("a map of this shard is already stored; ask missing() first")
        self._prepare()
        name = free_shard_name(self._index)
        if isinstance(shard, bytes):
            write_bytes(self.folder / name, shard)
        else:
            check_shape(shard, rows=len(keys), meta=self.meta)
            with atomic_path(self.folder / name) as temporary:
                temporary.unlink(missing_ok=True)
                try:
                    os.link(shard, temporary)  # a second name, where the file system can
                except OSError:
                    shutil.copyfile(shard, temporary)
        entries = keys.with_columns(
            pl.lit(name).alias("shard"),
            pl.int_range(len(keys), dtype=pl.Int64).alias("row"),
            pl.lit(sha256).alias("sha256"),
        )
        index = pl.concat([self._index, entries])
        write_index(self.folder, index)
        self._index = index

    def _open(self) -> pl.DataFrame:
        """The index of what is there and whole."""
        if not (self.folder / META_NAME).exists():
            if (self.folder / INDEX_NAME).exists():
                raise DamagedDataError(
                    f"{self.folder}: {META_NAME} is missing beside {INDEX_NAME}. Delete the "
                    "folder and run 'mnemoscope capture' again."
                )
            return pl.DataFrame(schema=INDEX_SCHEMA)
        read_meta(self.folder).require(self.meta, self.folder)
        try:
            index = read_index(self.folder)
        except FileNotFoundError:
            return pl.DataFrame(schema=INDEX_SCHEMA)
        damaged = damaged_shards(self.folder, list_shards(index), self.meta)
        self.damaged.extend(damaged.values())
        return index.filter(~pl.col("shard").is_in(list(damaged)))

    def _prepare(self) -> None:
        """Make the folder, sweep up after a killed writer, and drop damaged shards from the index.

        Otherwise a kill while a shard is rewritten would leave its new rows under the old names.
        """
        if self._is_ready:
            return
        made_folder(self.folder)
        for stale in self.folder.glob(".*.tmp"):
            stale.unlink()
        if not (self.folder / META_NAME).exists():
            write_meta(self.folder, self.meta)
        if self.damaged:
            write_index(self.folder, self._index)
        self._is_ready = True
