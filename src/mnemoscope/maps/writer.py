"""Append pooled maps to a folder: safetensors shards, then the index that names them.

A map counts as stored when the index names it, and the index is written after the shard: what a
killed process leaves is either complete or not there. One writer a folder at a time.
"""

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from mnemoscope.atomic_write import atomic_path, write_bytes
from mnemoscope.errors import DamagedDataError, NoRoomError, UserError
from mnemoscope.maps.index import (
    INDEX_NAME,
    count_rows,
    empty_index,
    find_rows,
    free_shard_name,
    key_frame,
    read_index,
    write_index,
)
from mnemoscope.maps.meta import META_NAME, POOLED, StoreMeta, read_meta, write_meta
from mnemoscope.maps.reader import MapStore
from mnemoscope.maps.shard import check_checksum, check_shape, shard_bytes
from mnemoscope.maps.triangle import pack_triangle

__all__ = ["MapWriter"]

_STALE = ".*.tmp"


class MapWriter:
    """Append pooled maps to a folder; what it already holds is not asked for again.

    Use as a context manager: a block that ends well writes the last, shorter shard; one that
    fails leaves whole shards only, so that a resumed run cuts shards where an unbroken run does.
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
        """Take a batch of maps, whatever the folder holds of each; errors as `append`.

        Args:
            sequence_ids: shape (b,).
            suffix: "own" or "true" for each, or one for all.
            maps: one for each of the folder's tensors, shape (b, layers, query, key).
        """
        keys = key_frame(sequence_ids, suffix)
        if set(maps) != set(self.meta.tensors):
            raise ValueError(f"maps {sorted(maps)}, the folder holds {sorted(self.meta.tensors)}")
        if len(self.missing(sequence_ids, suffix)) != len(keys):
            raise ValueError("a map of this batch is already stored; ask missing() first")
        self._pending.append((keys, {name: self._pack(keys, each) for name, each in maps.items()}))
        self._n_pending += len(keys)
        while self._n_pending >= self.shard_rows:
            self._flush(self.shard_rows)

    def take_shard(self, store: MapStore, name: str) -> None:
        """Take over a whole shard of another folder; its rows get the next free name here.

        Rows that are stored already are left alone, so that a merge which was killed goes on.

        Args:
            store: of the same model, settings and shape; its content is taken as it is (`check`).
            name: one of its shards.

        Raises:
            UserError: maps of another model, settings or shape, or no permission to write.
            NoRoomError: the disk is full.
        """
        store.meta.require(self.meta, store.folder)
        rows = store.index.filter(pl.col("shard") == name)
        if not len(self.missing(rows["sequence_id"].to_numpy(), rows["suffix"].to_list())):
            return
        self._take(store.folder / name, rows)

    def take_file(
        self,
        path: Path,
        sequence_ids: Sequence[int] | np.ndarray,
        suffixes: Sequence[str] | str,
        *,
        sha256: str,
    ) -> None:
        """Take over a shard that another process wrote with the same model and settings.

        Args:
            path: the file; its content is taken as it is.
            sequence_ids: of its rows, in order.
            suffixes: "own" or "true" for each, or one for all.
            sha256: of the file.

        Raises:
            DamagedDataError: it is no shard of this shape.
            NoRoomError: the disk is full.
            ValueError: a map that is already there.
        """
        keys = key_frame(sequence_ids, suffixes)
        if len(self.missing(sequence_ids, suffixes)) != len(keys):
            raise ValueError("a map of this shard is already stored; ask missing() first")
        check_shape(path, rows=len(keys), meta=self.meta)
        entries = keys.with_columns(
            pl.lit("").alias("shard"),
            pl.int_range(len(keys), dtype=pl.Int64).alias("row"),
            pl.lit(sha256).alias("sha256"),
        )
        self._take(path, entries)

    def _take(self, path: Path, rows: pl.DataFrame) -> None:
        """Give a whole shard the next free name here, then name it in the index."""
        self._prepare()
        own_name = free_shard_name(self._index)
        with atomic_path(self.folder / own_name) as temporary:
            _link_or_copy(path, temporary)
        index = pl.concat([self._index, rows.with_columns(pl.lit(own_name).alias("shard"))])
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

    def _pack(self, keys: pl.DataFrame, maps: torch.Tensor) -> torch.Tensor:
        """Check a batch and keep its triangles as float16."""
        shape = (len(keys), self.meta.n_layers, self.meta.length, self.meta.length)
        if tuple(maps.shape) != shape:
            raise ValueError(f"maps of shape {tuple(maps.shape)}, wanted {shape}")
        packed = pack_triangle(maps.detach()).to("cpu", torch.float16)
        if not torch.isfinite(packed).all():
            row, layer, _ = torch.nonzero(~torch.isfinite(packed))[0].tolist()
            raise UserError(
                f"sequence {keys['sequence_id'][row]}, layer {layer}: attention is not finite. "
                "Capture with --dtype float32, or look at the model's weights."
            )
        return packed

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
        entries = keys[:n_rows].with_columns(
            pl.lit(name).alias("shard"),
            pl.int_range(n_rows, dtype=pl.Int64).alias("row"),
            pl.lit(sha256_of(data).hexdigest()).alias("sha256"),
        )
        index = pl.concat([self._index, entries])
        write_index(self.folder, index)
        self._index = index
        self._n_pending -= n_rows
        rest = {tensor: maps[n_rows:] for tensor, maps in waiting.items()}
        self._pending = [(keys[n_rows:], rest)] if self._n_pending else []

    def _prepare(self) -> None:
        """Make the folder, sweep up after a killed writer, forget damaged shards before reuse.

        The index must not name a damaged shard while its file is written anew: killed in between,
        the old index would give the new rows the old names.
        """
        if self._is_ready:
            return
        _make_folder(self.folder)
        for stale in self.folder.glob(_STALE):
            stale.unlink()
        if not (self.folder / META_NAME).exists():
            write_meta(self.folder, self.meta)
        if self.damaged:
            write_index(self.folder, self._index)
        self._is_ready = True


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
