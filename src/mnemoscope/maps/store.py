"""The store of maps under one name: `MapWriter` appends to a folder, `MapStore` opens it."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mnemoscope.errors import DamagedDataError, MnemoscopeError, UserError
from mnemoscope.files import made_folder, remove_torn
from mnemoscope.maps.format import (
    META_NAME,
    StoreMeta,
    find_rows,
    free_shard_name,
    is_torn,
    key_frame,
    read_index,
    read_meta,
    shard_file,
    shard_store,
    shard_vanished,
    write_meta,
)

if TYPE_CHECKING:
    from mnemoscope.maps.views import StoredMaps

_FACTS = ("sequence_ids", "suffixes")
_MAX_THREADS = 8


def damaged_shards(
    folder: Path, meta: StoreMeta, names: Iterable[str], *, again: bool = False
) -> dict[str, MnemoscopeError]:
    """Read whole shards in parallel (about 1.5 GB/s a core); say by name what is wrong with each.

    One that was found whole by this process is not read, unless `again`.
    """
    store, names = shard_store(folder), sorted(names)

    def wrong(name: str) -> MnemoscopeError | None:
        try:
            store.path(name, shard_file(name), key=meta.key, again=again)
        except (UserError, DamagedDataError) as error:
            return error
        return None

    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        return {
            name: error for name, error in zip(names, pool.map(wrong, names), strict=True) if error
        }


def find_damage(
    folder: Path, meta: StoreMeta, *, is_quick: bool = False
) -> tuple[pl.DataFrame, dict[str, MnemoscopeError]]:
    """The index of what is there and whole, and what is wrong with the other shards.

    Reads all; a quick look compares the length of each shard with that in its header.
    """
    index, damaged = read_index(folder, meta)
    if is_quick:
        paths = {name: folder / shard_file(name) for name in _shards(index)}
        damaged |= {name: shard_vanished(path) for name, path in paths.items() if is_torn(path)}
    else:
        damaged |= damaged_shards(folder, meta, _shards(index), again=True)
    torn = [shard_file(one) for one in damaged]
    return index.filter(~pl.col("shard").is_in(torn)), damaged


def _require_whole(found: Mapping[str, MnemoscopeError]) -> None:
    """Raise the first of what is wrong."""
    for error in found.values():
        raise error


def _shards(index: pl.DataFrame) -> list[str]:
    return [Path(one).stem for one in index["shard"].unique().sort()]


class MapStore:
    """An existing folder of maps, opened for reading."""

    index: pl.DataFrame

    def __init__(self, folder: Path | str, *, verify: bool = True) -> None:
        """Open a folder and compare the content of its shards with their records.

        `verify` reads every shard now and compares it with its sha256 (about 1.5 GB/s a core, once
        a process while the file stays the same). Without it `dataset` does so with the shards
        whose maps it gives. Raises UserError: no maps there, or a shard is missing or another
        model's. DamagedDataError: a shard has changed, or its record.
        """
        self.folder: Path = Path(folder)
        self.meta: StoreMeta = read_meta(self.folder)
        self.index, damaged = read_index(self.folder, self.meta)
        _require_whole(damaged)
        if self.index.is_empty():
            raise UserError(f"{self.folder}: no maps here yet. Run 'mnemoscope capture' first.")
        if verify:
            _require_whole(damaged_shards(self.folder, self.meta, _shards(self.index)))

    def __len__(self) -> int:
        return len(self.index)

    def check(self) -> None:
        """Read every shard, also one seen before; raise the first of `damaged`."""
        _require_whole(self.damaged())

    def damaged(self) -> dict[str, MnemoscopeError]:
        """Read every shard; say by name what is wrong with each that is not as it was written."""
        return damaged_shards(self.folder, self.meta, _shards(self.index), again=True)

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
    ) -> "StoredMaps":
        """These maps as the CNNs read them, in the order given; their shards are whole.

        Raises UserError: a map is not stored. DamagedDataError: one of their shards has changed
        since it was written.
        """
        from mnemoscope.maps.views import StoredMaps

        chosen = self.index[self.rows(sequence_ids, suffixes)]
        names = sorted(chosen["shard"].unique())
        number = {name: position for position, name in enumerate(names)}
        _require_whole(damaged_shards(self.folder, self.meta, (Path(one).stem for one in names)))
        shards = [self.folder / name for name in names]
        places = np.stack([[number[name] for name in chosen["shard"]], chosen["row"]])
        return StoredMaps(shards, places, self.meta, pooling)


class MapWriter:
    """Add shards of maps to a folder; what it already holds is not asked for again."""

    damaged: list[MnemoscopeError]

    def __init__(self, folder: Path | str, meta: StoreMeta) -> None:
        """Open a folder, or plan a new one: nothing is written before the first shard.

        Every shard is read once and compared with its sha256 (about 1.5 GB/s a core). The rows of
        damaged ones count as missing; `damaged` says what is wrong with each. Raises UserError: the
        folder holds maps of another model, settings or shape. DamagedDataError: `meta.json` is
        damaged.
        """
        self.folder: Path = Path(folder)
        self.meta = meta
        if (self.folder / META_NAME).exists():
            read_meta(self.folder).require(meta, self.folder)
        self._index, damaged = find_damage(self.folder, meta)
        if not (self._index.is_empty() or (self.folder / META_NAME).exists()):
            write_meta(self.folder, meta)  # it was lost: these shards are bound to it
        self.damaged, self._torn = list(damaged.values()), list(damaged)
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
        """Add a whole shard (`pack_shard`), as a file or its content, under a record of its own.

        Raises DamagedDataError: it has not this sha256. NoRoomError: the disk is full; the shards
        written so far stay. ValueError: a map that is already there.
        """
        keys = key_frame(sequence_ids, suffixes)
        if len(self.missing(sequence_ids, suffixes)) != len(keys):
            raise ValueError("a map of this shard is already stored; ask missing() first")
        data = shard if isinstance(shard, bytes) else shard.read_bytes()
        name, store = free_shard_name(self._index), shard_store(self.folder)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise store.damaged(Path(name), name, "its content has changed since it was written")
        self._prepare()
        said = {name: values.to_list() for name, values in zip(_FACTS, keys, strict=True)}
        store.put(name, {shard_file(name): data}, key=self.meta.key, **said)
        entries = keys.with_columns(
            pl.lit(shard_file(name)).alias("shard"),
            pl.int_range(len(keys), dtype=pl.Int64).alias("row"),
        )
        self._index = pl.concat([self._index, entries])

    def _prepare(self) -> None:
        """Make the folder, sweep up after a killed writer, and forget damaged shards."""
        if self._is_ready:
            return
        made_folder(self.folder)
        remove_torn(self.folder)
        if not (self.folder / META_NAME).exists():
            write_meta(self.folder, self.meta)
        for name in self._torn:
            shard_store(self.folder).forget(name)
        self._is_ready = True
