"""Reading: by several workers, row by row, never the whole file."""

import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from map_folders import capture, maps_of
from torch.utils.data import DataLoader

from mnemoscope.errors import DamagedDataError
from mnemoscope.maps.format import pack_triangle, unpack_triangle
from mnemoscope.maps.store import MapStore, MapWriter
from mnemoscope.maps.views import TensorMaps, rows_at_once


@pytest.mark.parametrize("start", ["fork", "spawn"])
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
    capture(tmp_path, range(8))
    maps = MapStore(tmp_path).dataset(range(8), "own", "mean")
    before = len(pickle.dumps(maps))
    maps.read(torch.arange(8))
    assert len(pickle.dumps(maps)) == before
    sent = pickle.loads(pickle.dumps(maps))  # noqa: S301 - our own bytes
    assert torch.equal(sent.read(torch.arange(8)), maps.read(torch.arange(8)))


def test_reading_a_row_does_not_read_the_file(tmp_path):
    """256 maps of 24 layers are 51 MB of weights; a few rows must cost far less memory."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("memory is read from /proc")

    def resident_bytes() -> int:
        return int(statm.read_text().split()[1]) * 4096

    maps = torch.full((64, 24, 64, 64), 0.5).tril()
    with MapWriter(tmp_path, n_layers=24, fingerprint={}) as writer:
        for start in range(0, 256, 64):
            writer.append(np.arange(start, start + 64), "own", maps, maps)
    del maps
    stored = MapStore(tmp_path).dataset(np.arange(256), "own", "mean")
    capture(tmp_path / "small", range(2))
    MapStore(tmp_path / "small").dataset(range(2), "own", "mean").read(torch.arange(2))  # imports
    before = resident_bytes()
    stored.read(torch.tensor([3, 200]))
    assert resident_bytes() - before < 10e6


def test_rows_of_many_shards_come_in_the_order_asked_for(tmp_path):
    capture(tmp_path, range(30), shard_rows=4)
    maps = MapStore(tmp_path).dataset(range(30), "own", "mean")
    rows = [17, 3, 29, 3, 0, 16, 28]
    assert torch.equal(maps.read(torch.tensor(rows)), pack_triangle(maps_of(rows, "mean").half()))
    assert maps.read(torch.tensor([], dtype=torch.long)).shape == (0, 3, 36)


def test_a_batch_over_more_shards_than_may_be_open_comes_whole_each_time(tmp_path):
    capture(tmp_path, range(90), shard_rows=1)
    maps = MapStore(tmp_path).dataset(range(90), "own", "mean")
    for seed in range(3):
        rows = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(maps.read(rows), pack_triangle(maps_of(rows, "mean").half()))
        assert torch.equal(maps[rows[0]], maps.read(rows[:1])[0])


def test_threads_that_share_a_data_set_get_their_own_rows(tmp_path):
    """More shards than may be open: while one reads, another closes files and opens others."""
    capture(tmp_path, range(90), shard_rows=1)
    maps = MapStore(tmp_path).dataset(range(90), "own", "mean")
    whole = pack_triangle(maps_of(range(90), "mean").half())

    def read(seed: int) -> bool:
        rows = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
        one = int(rows[0])
        return torch.equal(maps.read(rows), whole[rows]) and torch.equal(maps[one], whole[one])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(100)))


def test_what_the_disk_refuses_to_read_names_the_shard(tmp_path, monkeypatch):
    capture(tmp_path, range(8))
    maps = MapStore(tmp_path).dataset(range(8), "own", "mean")

    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("mnemoscope.maps.views._read_into", refuse)
    for read in (lambda: maps[5], lambda: maps.read(torch.tensor([5]))):
        with pytest.raises(DamagedDataError, match="shard-00001"):
            read()


def test_positions_count_from_the_end_as_in_a_list(tmp_path):
    capture(tmp_path, range(6))
    maps = MapStore(tmp_path).dataset(range(6), "own", "mean")
    assert torch.equal(maps.read(torch.tensor([-1, -6])), maps.read(torch.tensor([5, 0])))
    assert torch.equal(maps[-1], maps[5])
    for outside in (6, -7):
        with pytest.raises(IndexError):
            maps.read(torch.tensor([outside]))
        with pytest.raises(IndexError):
            maps[outside]


def test_a_system_without_reads_from_a_place_reads_the_same(tmp_path, monkeypatch):
    capture(tmp_path, range(30), shard_rows=4)
    maps = MapStore(tmp_path).dataset(range(30), "own", "mean")
    rows = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    wanted = maps.read(rows)
    monkeypatch.delattr(os, "preadv", raising=False)
    assert torch.equal(maps.read(rows), wanted)


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
    capture(tmp_path, range(60), shard_rows=1)
    maps = MapStore(tmp_path).dataset(range(60), "own", "mean")
    before = len(list(descriptors.iterdir()))
    maps.read(torch.arange(60))
    assert len(list(descriptors.iterdir())) - before <= 32
    del maps
    assert len(list(descriptors.iterdir())) <= before


def test_a_shard_cut_after_opening_is_named_and_kills_nobody(tmp_path):
    """A memory map of a file that shrinks ends the process; a plain read says so."""
    capture(tmp_path, range(8))
    maps = MapStore(tmp_path).dataset(range(8), "own", "mean")
    maps[0]
    for shard in tmp_path.glob("*.safetensors"):
        os.truncate(shard, 200)
    with pytest.raises(DamagedDataError, match="is missing or is no whole shard"):
        maps[1]
    with pytest.raises(DamagedDataError, match="is missing or is no whole shard"):
        maps.read(torch.arange(8))


def test_tensor_maps_answer_like_a_store(tmp_path):
    capture(tmp_path, range(6))
    stored = MapStore(tmp_path).dataset(range(6), "own", "mean")
    held = TensorMaps(pack_triangle(maps_of(range(6), "mean")))
    rows = torch.tensor([5, 5, 0])
    assert torch.equal(held.read(rows), stored.read(rows))
    assert (len(held), held.n_layers, held.length) == (6, stored.n_layers, stored.length)
    with pytest.raises(ValueError, match="3 axes"):
        TensorMaps(torch.zeros(2, 36))
    with pytest.raises(IndexError):
        stored.read(torch.tensor([6]))
