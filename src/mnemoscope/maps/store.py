"""The store of maps under one name: `MapWriter` appends to a folder, `MapStore` opens it."""

import errno
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from mnemoscope.errors import DamagedDataError, NoRoomError, UserError
from mnemoscope.files import atomic_path, write_bytes
from mnemoscope.maps.format import (
    INDEX_NAME,
    META_NAME,
    POOLED,
    StoreMeta,
    check_checksum,
    check_shape,
    count_rows,
    empty_index,
    find_rows,
    free_shard_name,
    key_frame,
    pack_triangle,
    read_index,
    read_meta,
    shard_bytes,
    write_index,
    write_meta,
)
from mnemoscope.maps.views import Pooling, StoredMaps

_MAX_THREADS = 8
# File systems keep the time of a change to within so many seconds (FAT: 2). A file changed again
# in the same tick looks the same, so one that has just been written is not remembered.
_TICK_SECONDS = 2.0

# Path, sha256, device, inode, size, times of the last change of content and of entry.
_Identity = tuple[str, str, int, int, int, int, int]
_whole: set[_Identity] = set()


def require_whole(folder: Path, shards: Sequence[tuple[str, int, str]]) -> None:
    """Compare shards (name, rows, sha256) not compared before, or changed since.

    Raises:
        DamagedDataError: naming the first whose content is not what was written.
    """
    unknown = [one for one in shards if _identity(folder / one[0], one[2]) not in _whole]
    if damaged := damaged_shards(folder, unknown):
        raise damaged[0]


def damaged_shards(folder: Path, shards: Sequence[tuple[str, int, str]]) -> list[DamagedDataError]:
    """Read whole shards in parallel (about 1.5 GB/s a core); say what is wrong, in their order."""
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


class MapStore:
    """An existing folder of maps, opened for reading."""

    def __init__(
        self,
        folder: Path | str,
        *,
        fingerprint: dict[str, Any] | None = None,
        verify: bool = True,
    ) -> None:
        """Open a folder, look at the header of every shard and compare its content.

        Args:
            folder: as a `MapWriter` left it.
            fingerprint: where given, the maps must be of this model and these settings.
            verify: read every shard now and compare it with its sha256 (about 1.5 GB/s a core,
                once a process while the file stays the same). False: only those shards, when a
                `dataset` is made, whose maps it gives; no map is given unseen.

        Raises:
            UserError: no maps there, or maps of another fingerprint.
            DamagedDataError: a shard is missing, cut short, another file's or has changed.
        """
        self.folder = Path(folder)
        self.meta = read_meta(self.folder)
        if fingerprint is not None:
            wanted = StoreMeta(self.meta.n_layers, self.meta.length, fingerprint)
            self.meta.require(wanted, self.folder)
        try:
            self.index = read_index(self.folder)
        except FileNotFoundError:
            raise UserError(
                f"{self.folder}: no maps here yet. Run 'mnemoscope capture' first."
            ) from None
        for name, rows, _ in count_rows(self.index):
            check_shape(self.folder / name, rows=rows, meta=self.meta)
        if verify:
            require_whole(self.folder, count_rows(self.index))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def n_layers(self) -> int:
        """Layers of each map."""
        return self.meta.n_layers

    @property
    def length(self) -> int:
        """Tokens of each sequence."""
        return self.meta.length

    def check(self) -> None:
        """Read every shard, also one seen before, and compare it with its sha256.

        Raises:
            DamagedDataError: naming the first shard whose content has changed.
        """
        if found := self.damaged():
            raise found[0]

    def damaged(self) -> list[DamagedDataError]:
        """What is wrong with each shard whose content is not what was written; as `check`."""
        return damaged_shards(self.folder, count_rows(self.index))

    def rows(
        self, sequence_ids: Sequence[int] | np.ndarray, suffixes: Sequence[str] | str
    ) -> np.ndarray:
        """Positions of these maps in `index`, int64, in the order given.

        Raises:
            UserError: a map is not stored; says how many and names the first.
        """
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
        pooling: Pooling,
    ) -> StoredMaps:
        """These maps as the CNNs read them, in the order given; their shards are whole.

        Args:
            sequence_ids: shape (n,).
            suffixes: "own" or "true" for each, or one for all.
            pooling: over the heads, "mean" or "max".

        Raises:
            UserError: a map is not stored.
            DamagedDataError: one of their shards has changed since it was written.
        """
        chosen = self.index[self.rows(sequence_ids, suffixes)]
        names = sorted(chosen["shard"].unique())
        number = {name: position for position, name in enumerate(names)}
        require_whole(self.folder, [one for one in count_rows(self.index) if one[0] in number])
        return StoredMaps(
            [self.folder / name for name in names],
            shard_of=torch.tensor([number[name] for name in chosen["shard"]], dtype=torch.long),
            row_of=torch.tensor(chosen["row"].to_list(), dtype=torch.long),
            n_layers=self.n_layers,
            length=self.length,
            pooling=pooling,
        )


class MapWriter:
    """Append pooled maps to a folder; what it already holds is not asked for again.

    Use it as a context manager: a successful block writes the last, shorter shard; a failing one
    leaves whole shards only, so that a resumed run cuts shards where an unbroken run does.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        n_layers: int,
        length: int = 64,
        fingerprint: dict[str, Any],
        shard_rows: int = 256,
        tensors: Sequence[str] = POOLED,
    ) -> None:
        """Open a folder, or plan a new one: nothing is written before the first shard.

        Every shard is read once and compared with its sha256 (about 1 GB/s). The rows of damaged
        ones count as missing; `damaged` says what is wrong with each.

        Args:
            folder: made, with its parents, when the first shard is written.
            n_layers: layers of the model; channels of each map where that is not the same.
            length: tokens of each sequence.
            fingerprint: model and capture settings, JSON values; a folder holds one fingerprint.
            shard_rows: sequences a shard; at 36 layers 256 are 77 MB.
            tensors: names of what is stored of each sequence.

        Raises:
            UserError: the folder holds maps of another model, settings or shape.
            DamagedDataError: `meta.json` or `index.parquet` is damaged.
        """
        if shard_rows < 1:
            raise ValueError(f"shard_rows is {shard_rows}; at least 1 is needed")
        self.folder = Path(folder)
        self.meta = StoreMeta(n_layers, length, fingerprint, tensors=tuple(tensors))
        self.shard_rows = shard_rows
        self.damaged: list[DamagedDataError] = []
        self._index = self._open()
        self._is_ready = False
        self._pending: list[tuple[pl.DataFrame, dict[str, torch.Tensor]]] = []
        self._n_pending = 0

    def __enter__(self) -> "MapWriter":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self.close()

    def missing(
        self, sequence_ids: Sequence[int] | np.ndarray, suffixes: Sequence[str] | str
    ) -> np.ndarray:
        """Which of these maps are still to be captured.

        Cut the answer at multiples of `shard_rows` before cutting batches: an unbroken run and a
        resumed one then make the same batches, and so the same rounding, whatever the batch size.

        Args:
            sequence_ids: shape (n,).
            suffixes: "own" or "true" for each, or one for all.

        Returns:
            Positions in the arguments, ascending, int64; of a key given twice the first.
        """
        keys = key_frame(sequence_ids, suffixes)
        is_wanted = (
            find_rows(self._known(), keys).is_null()
            & keys.select(pl.struct(pl.all()).is_first_distinct()).to_series()
        )
        return np.flatnonzero(is_wanted.to_numpy())

    def append(
        self,
        sequence_ids: Sequence[int] | np.ndarray,
        suffix: Sequence[str] | str,
        mean: torch.Tensor,
        max: torch.Tensor,
    ) -> None:
        """Take a batch of maps; a shard is written whenever enough rows have come.

        Args:
            sequence_ids: shape (b,).
            suffix: "own" or "true" for each, or one for all.
            mean: attention weights averaged over heads, shape (b, layers, query, key).
            max: their maximum over heads, same shape.

        Raises:
            UserError: a weight that is not finite (says which layer) or above the diagonal.
            NoRoomError: the disk is full; the shards written so far stay.
            ValueError: a wrong shape, or a map that is already there.
        """
        self.append_tensors(sequence_ids, suffix, {"mean": mean, "max": max})

    def append_tensors(
        self,
        sequence_ids: Sequence[int] | np.ndarray,
        suffix: Sequence[str] | str,
        maps: Mapping[str, torch.Tensor],
    ) -> None:
        """Take a batch of maps, one for each of the folder's tensors, as `append` does."""
        keys = key_frame(sequence_ids, suffix)
        packed = pack_maps(keys["sequence_id"].to_numpy(), maps, self.meta)
        if len(self.missing(sequence_ids, suffix)) != len(keys):
            raise ValueError("a map of this batch is already stored; ask missing() first")
        self._pending.append((keys, packed))
        self._n_pending += len(keys)
        while self._n_pending >= self.shard_rows:
            self._flush(self.shard_rows)

    def take(
        self,
        shard: Path | bytes,
        sequence_ids: Sequence[int] | np.ndarray,
        suffixes: Sequence[str] | str,
        *,
        sha256: str,
    ) -> None:
        """Take over a whole shard, a file or its content, made with the same model and settings.

        Raises:
            DamagedDataError: it is no shard of this shape.
            NoRoomError: the disk is full.
            ValueError: a map that is already there.
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
                _link_or_copy(shard, temporary)
        self._name_in_index(name, keys, sha256)

    def _name_in_index(self, shard: str, keys: pl.DataFrame, sha256: str) -> None:
        """Add a shard's rows to the index, once it is there."""
        entries = keys.with_columns(
            pl.lit(shard).alias("shard"),
            pl.int_range(len(keys), dtype=pl.Int64).alias("row"),
            pl.lit(sha256).alias("sha256"),
        )
        index = pl.concat([self._index, entries])
        write_index(self.folder, index)
        self._index = index

    def close(self) -> None:
        """Write what has come since the last full shard; errors as `append`."""
        if self._n_pending:
            self._flush(self._n_pending)

    def _open(self) -> pl.DataFrame:
        """The index of what is there and whole."""
        if not (self.folder / META_NAME).exists():
            if (self.folder / INDEX_NAME).exists():
                raise DamagedDataError(
                    f"{self.folder}: {META_NAME} is missing beside {INDEX_NAME}. Delete the "
                    "folder and run 'mnemoscope capture' again."
                )
            return empty_index()
        read_meta(self.folder).require(self.meta, self.folder)
        try:
            index = read_index(self.folder)
        except FileNotFoundError:
            return empty_index()
        bad = []
        for name, rows, sha256 in count_rows(index):
            try:
                check_shape(self.folder / name, rows=rows, meta=self.meta)
                check_checksum(self.folder / name, rows=rows, sha256=sha256)
            except DamagedDataError as error:
                self.damaged.append(error)
                bad.append(name)
        return index.filter(~pl.col("shard").is_in(bad))

    def _known(self) -> pl.DataFrame:
        """Keys stored or waiting."""
        keys = [
            self._index.select("sequence_id", "suffix"),
            *(keys for keys, _ in self._pending),
        ]
        return pl.concat(keys)

    def _flush(self, n_rows: int) -> None:
        """Write the first waiting rows as a shard, then the index that names it."""
        self._prepare()
        keys = pl.concat([keys for keys, _ in self._pending])
        waiting = {
            tensor: torch.cat([maps[tensor] for _, maps in self._pending])
            for tensor in self.meta.tensors
        }
        name = free_shard_name(self._index)
        data = shard_bytes({tensor: maps[:n_rows] for tensor, maps in waiting.items()})
        write_bytes(self.folder / name, data)
        self._name_in_index(name, keys[:n_rows], sha256_of(data).hexdigest())
        self._n_pending -= n_rows
        rest = {tensor: maps[n_rows:] for tensor, maps in waiting.items()}
        self._pending = [(keys[n_rows:], rest)] if self._n_pending else []

    def _prepare(self) -> None:
        """Make the folder, sweep up after a killed writer, and drop damaged shards from the index.

        Otherwise a kill while a shard is rewritten would leave its new rows under the old names.
        """
        if self._is_ready:
            return
        _make_folder(self.folder)
        for stale in self.folder.glob(".*.tmp"):
            stale.unlink()
        if not (self.folder / META_NAME).exists():
            write_meta(self.folder, self.meta)
        if self.damaged:
            write_index(self.folder, self._index)
        self._is_ready = True


def pack_maps(
    sequence_ids: np.ndarray, maps: Mapping[str, torch.Tensor], meta: StoreMeta
) -> dict[str, torch.Tensor]:
    """Check maps (rows, layers, query, key) and pack them as float16 triangles for `shard_bytes`.

    Raises:
        UserError: a weight that is not finite (says which layer) or above the diagonal.
        ValueError: other tensors than the folder's, or a wrong shape.
    """
    if set(maps) != set(meta.tensors):
        raise ValueError(f"maps {sorted(maps)}, the folder holds {sorted(meta.tensors)}")
    shape = (len(sequence_ids), meta.n_layers, meta.length, meta.length)
    packed = {}
    for name, each in maps.items():
        if tuple(each.shape) != shape:
            raise ValueError(f"maps of shape {tuple(each.shape)}, wanted {shape}")
        packed[name] = pack_triangle(each.detach()).to("cpu", torch.float16)
        if not torch.isfinite(packed[name]).all():
            row, layer, _ = torch.nonzero(~torch.isfinite(packed[name]))[0].tolist()
            raise UserError(
                f"sequence {sequence_ids[row]}, layer {layer}: attention is not finite. "
                "Capture with --dtype float32, or look at the model's weights."
            )
    return packed


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name where the file system can, else copy it."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, in our words where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NoRoomError(f"{folder}: the disk is full. Make room and run again.") from error
        raise UserError(
            f"{folder}: cannot be made ({error.strerror}). Choose another place with -o."
        ) from error
