"""The store: what went in comes out, bytes depend on the maps alone; triangles are exact."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from map_folders import (
    FINGERPRINT,
    LENGTH,
    add_shard,
    capture,
    maps_of,
    writer_of,
)
from mnemoscope.errors import UserError
from mnemoscope.maps.shape import triangle_length, triangle_size
from mnemoscope.maps.store import MapStore
from mnemoscope.maps.triangle import (
    _edges,
    pack_layer,
    pack_triangle,
    unpack_channels_last,
    unpack_triangle,
)
from refusals import refusal
from study_files import content


def test_shards_are_plain_safetensors_and_their_records_say_what_is_where(tmp_path):
    """Read by hand from the two formats' definitions, without our reader."""
    capture(tmp_path, [5, 9, 2, 7, 1], shard_rows=4)
    data = (tmp_path / "shard-00000.safetensors").read_bytes()
    (n_header,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n_header])
    assert {name: (t["dtype"], t["shape"]) for name, t in header.items()} == {
        "mean": ("F16", [4, 3, 36]),
        "max": ("F16", [4, 3, 36]),
    }
    start, stop = header["mean"]["data_offsets"]
    mean = np.frombuffer(data[8 + n_header :][start:stop], np.float16).reshape(4, 3, 36)
    query, key = np.tril_indices(LENGTH)
    wanted = maps_of([5, 9, 2, 7], "mean").half().numpy()[:, :, query, key]
    assert np.array_equal(mean, wanted)
    for number, ids in enumerate(([5, 9, 2, 7], [1])):
        record = json.loads((tmp_path / f"shard-0000{number}.json").read_text())
        assert record["sequence_ids"] == ids
        assert set(record["suffixes"]) == {"own"}


def test_own_and_true_suffix_are_two_maps(tmp_path):
    capture(tmp_path, [1, 2], suffix="own")
    writer = writer_of(tmp_path)
    assert writer.missing([2, 1, 1, 1], ["true", "own", "true", "true"]).tolist() == [0, 2]
    add_shard(writer, [1], "true", mean=maps_of([8], "mean"), max=maps_of([8], "max"))
    store = MapStore(tmp_path)
    found = store.dataset([1, 1], ["own", "true"], "mean").read(torch.arange(2))
    assert torch.equal(unpack_triangle(found), maps_of([1, 8], "mean").half())
    with pytest.raises(UserError, match=r"1 of 2 maps are not stored.*sequence 2 with suffix"):
        store.rows([1, 2], "true")


def test_another_model_or_setting_is_refused_with_the_difference(tmp_path):
    capture(tmp_path, [1])
    before, half = content(tmp_path), {"capture": {"dtype": "bfloat16", "bos_id": None}}
    for change, shown in (
        ({"weights": "xyz"}, "model.weights is 'abc' there, 'xyz' here"),
        (half, "model.capture.dtype is 'float32' there, 'bfloat16' here"),
        ({"revision": "v2"}, "model.revision is 'absent' there, 'v2' here"),
    ):
        assert shown in refusal(writer_of, tmp_path, fingerprint=FINGERPRINT | change)
        assert content(tmp_path) == before


def test_planning_writes_nothing_and_a_folder_without_maps_is_the_users_mistake(tmp_path):
    writer = writer_of(tmp_path / "a" / "maps")
    assert writer.missing(range(3), "own").tolist() == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert "no maps here" in refusal(MapStore, folder)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_attention_that_is_not_finite_is_refused_by_layer(tmp_path, pooling):
    for value in (float("nan"), float("inf"), 1e6):
        maps = {name: maps_of([4, 5], name) for name in ("mean", "max")}
        maps[pooling][1, 2, 6, 3] = value
        with pytest.raises(UserError, match="sequence 5, layer 2: attention is not finite"):
            add_shard(writer_of(tmp_path / "maps"), [4, 5], "own", **maps)
        assert not (tmp_path / "maps").exists()


def test_wrong_shapes_and_keys_are_refused(tmp_path):
    writer = writer_of(tmp_path)
    one = {"mean": maps_of([1], "mean"), "max": maps_of([1], "max")}
    for ids, suffix, wrong in (([1, 2], "own", "wanted"), ([1], "mine", "suffix")):
        with pytest.raises(ValueError, match=wrong):
            add_shard(writer, ids, suffix, **one)
    add_shard(writer, [1], "own", **one)
    with pytest.raises(ValueError, match="already stored"):
        add_shard(writer, [1], "own", **one)


@settings(max_examples=40)
@given(
    length=st.integers(1, 20),
    lead=st.lists(st.integers(0, 3), max_size=2),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]),
    seed=st.integers(0, 2**20),
)
def test_unpack_undoes_pack(length, lead, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(*lead, length, length, generator=generator).tril().to(dtype)
    packed = pack_triangle(maps)
    assert packed.shape == (*lead, triangle_size(length))
    assert packed.dtype == dtype
    assert torch.equal(unpack_triangle(packed), maps)
    assert triangle_length(packed.shape[-1]) == length


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("n_maps", "n_layers", "length"), [(0, 2, 8), (1, 1, 5), (5, 36, 64)])
def test_channels_last_holds_the_same_maps_in_the_order_of_convolutions(
    n_maps, n_layers, length, dtype
):
    maps = torch.rand(n_maps, n_layers, length, length).tril().to(dtype)
    unpacked = unpack_channels_last(pack_triangle(maps))
    assert torch.equal(unpacked, maps)
    assert unpacked.is_contiguous(memory_format=torch.channels_last)


def test_order_is_numpys_lower_triangle_and_what_is_above_is_refused():
    maps = torch.rand(3, 64, 64).tril()
    query, key = np.tril_indices(64)
    assert np.array_equal(pack_triangle(maps).numpy(), maps.numpy()[:, query, key])
    on_an_accelerator = maps.flatten(-2)[:, _edges(64, maps.device)].half()
    assert torch.equal(pack_layer(maps), on_an_accelerator)
    assert torch.equal(pack_layer(maps), pack_triangle(maps).half())
    for value in (1e-30, -1.0, float("nan"), float("inf")):
        maps[1, 3, 4] = value
        assert "later tokens" in refusal(pack_triangle, maps)


def test_sizes_without_a_triangle_are_refused():
    for size in (0, 2, 4, 2079, 2081):
        with pytest.raises(ValueError, match="no triangle"):
            unpack_triangle(torch.zeros(2, size))
        with pytest.raises(ValueError, match="no triangle"):
            unpack_channels_last(torch.zeros(2, 3, size))
    for shape in ((8,), (8, 7)):
        with pytest.raises(ValueError, match="query and key"):
            pack_triangle(torch.zeros(shape))
