"""Reading: by several workers, row by row, never the whole file; maps made of other maps."""

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
from mnemoscope.maps.format import StoreMeta
from mnemoscope.maps.store import MapStore, MapWriter
from mnemoscope.maps.triangle import pack_triangle, unpack_triangle
from mnemoscope.maps.views import (
    DifferenceMaps,
    MarkedMaps,
    StackedMaps,
    StoredMaps,
    TensorMaps,
    rows_at_once,
)


def stored(folder: Path, n: int, *, shard_rows: int = 4) -> StoredMaps:
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


ROWS = torch.tensor([3, 0, 3])


def maps(seed: int, *, n: int = 5, layers: int = 2) -> TensorMaps:
    generator = torch.Generator().manual_seed(seed)
    return TensorMaps(torch.rand(n, layers, 36, generator=generator))  # 8 tokens


def test_stacked_maps_hold_the_channels_of_both_in_order() -> None:
    first, second = maps(0), maps(1, layers=3)
    both = StackedMaps(first, second)
    assert (len(both), both.n_layers, both.length) == (5, 5, 8)
    read = both.read(ROWS)
    assert read.dtype == torch.float16
    assert torch.equal(read[:, :2], first.read(ROWS))
    assert torch.equal(read[:, 2:], second.read(ROWS))


def test_a_difference_is_two_parts_that_are_no_weight_below_zero() -> None:
    first, second = maps(0), maps(1)
    parts = DifferenceMaps(first, second)
    assert (len(parts), parts.n_layers, parts.length) == (5, 4, 8)
    read = parts.read(ROWS).float()
    assert (read >= 0).all()
    assert ((read[:, :2] == 0) | (read[:, 2:] == 0)).all()
    wanted = first.read(ROWS).float() - second.read(ROWS).float()
    # Rounded to float16 once: 2^-11 relative, of differences below 1.
    torch.testing.assert_close(read[:, :2] - read[:, 2:], wanted, atol=2**-11, rtol=0)
    for other in ({"n": 4}, {"layers": 3}):
        with pytest.raises(ValueError, match="maps of"):
            DifferenceMaps(first, maps(1, **other))


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_marked_maps_are_the_pooled_maps_of_marked_heads(pooling: str) -> None:
    """Marks put into every head by hand, then pooled: the same as the mark put into the map."""
    generator = torch.Generator().manual_seed(0)
    above = torch.ones(8, 8).triu(1).bool()
    heads = torch.randn(5, 2, 3, 8, 8, generator=generator).masked_fill(above, -torch.inf)
    heads, classes = heads.softmax(-1), torch.tensor([0, 1, 2, 3, 1])

    def pooled(weights: torch.Tensor) -> torch.Tensor:
        return pack_triangle(weights.mean(2) if pooling == "mean" else weights.amax(2))

    marked = heads.clone()
    for row, one in enumerate(classes.tolist()):
        for query in range(4, 8) if one else ():
            marked[row, :, :, query] *= 0.75
            marked[row, :, :, query, query - one + 1] += 0.25
    found = MarkedMaps(TensorMaps(pooled(heads)), classes, 0.25)
    assert (len(found), found.n_layers, found.length) == (5, 2, 8)
    rows = torch.tensor([4, 0, 2, 3])
    # Stored as float16 before the mark and after it: twice 2^-11 of weights up to 1.
    torch.testing.assert_close(
        found.read(rows).float(), pooled(marked)[rows].float(), atol=2**-10, rtol=0
    )
    kept = unpack_triangle(found.read(torch.tensor([0])))
    assert torch.equal(kept, unpack_triangle(TensorMaps(pooled(heads)).read(torch.tensor([0]))))
    with pytest.raises(ValueError, match="5 maps, 4 classes"):
        MarkedMaps(TensorMaps(pooled(heads)), classes[:4], 0.25)


def test_a_folder_of_every_heads_maps_holds_one_tensor_and_reads_back(tmp_path) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(5, 6, 8, 8, generator=generator).tril()
    meta = StoreMeta(6, 8, {"weights": "x"}, tensors=("heads",))
    writer = MapWriter(tmp_path / "heads", meta)
    for at in (slice(0, 3), slice(3, 5)):
        add_shard(writer, range(5)[at], "true", heads=weights[at])
    with pytest.raises(ValueError, match=r"maps \['max', 'mean'\], the folder holds"):
        add_shard(writer, [9], "true", mean=weights[:1], max=weights[:1])
    store = MapStore(tmp_path / "heads")
    store.check()
    read = store.dataset([4, 1], "true", "heads").read(torch.arange(2))
    query, key = torch.tril_indices(8, 8)
    assert torch.equal(read, weights[[4, 1]][..., query, key].half())
    assert not len(MapWriter(tmp_path / "heads", meta).missing(range(5), "true"))
    capture(tmp_path / "pooled", [0])  # as folders were before this could be chosen
    assert "tensors" not in (tmp_path / "pooled" / "meta.json").read_text()
    assert MapStore(tmp_path / "pooled").meta.tensors == ("mean", "max")
