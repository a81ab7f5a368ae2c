"""Reading: by several workers, row by row, never the whole file."""

import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from map_folders import add_shard, capture, maps_of
from mnemoscope.errors import DamagedDataError
from mnemoscope.maps.format import StoreMeta, pack_triangle, unpack_triangle
from mnemoscope.maps.store import MapStore, MapWriter
from mnemoscope.maps.views import StoredMaps, TensorMaps, rows_at_once


def stored(folder: Path, n: int, *, shard_rows: int = 4) -> StoredMaps:
    """The pooled means of so many maps, captured just now."""
    capture(folder, range(n), shard_rows=shard_rows)
    return MapStore(folder).dataset(range(n), "own", "mean")


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_what_one_process_reads(tmp_path, start):
    if start not in torch.multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    capture(tmp_path, range(23))
    maps = MapStore(tmp_path).dataset(range(22, -1, -1), "own", "max")
    maps.read(torch.tensor([0]))  # the parent's own mapping must not get in the way
    loader = DataLoader(maps, batch_size=5, num_workers=2, multiprocessing_context=start)
    read = torch.cat(list(loader))
    assert torch.equal(unpack_triangle(read), maps_of(range(22, -1, -1), "max").half())


def test_a_pickled_data_set_carries_no_maps(tmp_path):
    maps = stored(tmp_path, 8)
    before = len(pickle.dumps(maps))
    maps.read(torch.arange(8))
    assert len(pickle.dumps(maps)) == before
    sent = pickle.loads(pickle.dumps(maps))  # noqa: S301 - our own bytes
    assert torch.equal(sent.read(torch.arange(8)), maps.read(torch.arange(8)))


def test_reading_a_row_does_not_read_the_file(tmp_path):
    """128 maps of 24 layers are 26 MB of weights; a few rows must cost far less memory."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("memory is read from /proc")

    def resident_bytes() -> int:
        return int(statm.read_text().split()[1]) * 4096

    maps = torch.full((128, 24, 64, 64), 0.5, dtype=torch.float16).tril()
    writer = MapWriter(tmp_path, StoreMeta(24, 64))
    add_shard(writer, range(128), "own", mean=maps, max=maps)
    del maps
    large = MapStore(tmp_path).dataset(np.arange(128), "own", "mean")
    stored(tmp_path / "small", 2).read(torch.arange(2))  # imports
    before = resident_bytes()
    large.read(torch.tensor([3, 100]))
    assert resident_bytes() - before < 5e6


def test_rows_come_in_the_order_asked_for_and_count_from_the_end(tmp_path, monkeypatch):
    maps = stored(tmp_path, 30)
    rows = torch.tensor([17, 3, 29, 3, 0, 16, 28, -1, -30])
    wanted = pack_triangle(maps_of([*rows[:-2], 29, 0], "mean").half())
    for one in (maps, TensorMaps(pack_triangle(maps_of(range(30), "mean")))):
        assert torch.equal(one.read(rows), wanted)
        assert torch.equal(one[-1], one[29])
        assert (len(one), one.n_layers, one.length) == (30, 3, 8)
        assert one.read(torch.tensor([], dtype=torch.long)).shape == (0, 3, 36)
        for outside in (30, -31):
            with pytest.raises(IndexError):
                one[outside]
    monkeypatch.delattr(os, "preadv", raising=False)  # a system without reads from a place
    assert torch.equal(maps.read(rows), wanted)
    with pytest.raises(ValueError, match="3 axes"):
        TensorMaps(torch.zeros(2, 36))


def test_threads_that_share_a_data_set_get_their_own_rows(tmp_path):
    """More shards than may be open: while one reads, another closes files and opens others."""
    maps = stored(tmp_path, 40, shard_rows=1)
    whole = pack_triangle(maps_of(range(40), "mean").half())

    def read(seed: int) -> bool:
        rows = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        one = int(rows[0])
        return torch.equal(maps.read(rows), whole[rows]) and torch.equal(maps[one], whole[one])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(20)))


def test_what_cannot_be_read_names_the_shard_and_kills_nobody(tmp_path, monkeypatch):
    """A memory map of a file that shrinks ends the process; a plain read says so."""
    maps = stored(tmp_path, 8)

    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("mnemoscope.maps.views._read_into", refuse)
        with pytest.raises(DamagedDataError, match="shard-00001"):
            maps[5]
    maps[0]
    for shard in tmp_path.glob("*.safetensors"):
        os.truncate(shard, 200)
    with pytest.raises(DamagedDataError, match="missing, or no whole shard"):
        maps.read(torch.arange(8))


def test_large_maps_are_taken_a_few_at_a_time():
    small = TensorMaps(torch.zeros(1, 4, 2080))
    large = TensorMaps(torch.zeros(1, 36, 2080))
    huge = TensorMaps(torch.zeros(1, 400, 131_328))
    assert [rows_at_once(maps) for maps in (small, large, huge)] == [256, 28, 1]


def test_many_shards_need_no_open_file_each(tmp_path):
    """A store of 1,000 shards must not run into the limit of open files."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("open files are counted in /proc")
    maps = stored(tmp_path, 40, shard_rows=1)
    before = len(list(descriptors.iterdir()))
    maps.read(torch.arange(40))
    assert len(list(descriptors.iterdir())) - before <= 32
    del maps
    assert len(list(descriptors.iterdir())) <= before
