"""Triangles: exact both ways, in the order other tools use, nothing above the diagonal dropped."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.errors import UserError
from mnemoscope.maps.format import (
    pack_triangle,
    triangle_length,
    unpack_channels_last,
    unpack_triangle,
)
from mnemoscope.maps.shape import triangle_size


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
    for value in (1e-30, -1.0, float("nan"), float("inf")):
        maps[1, 3, 4] = value
        with pytest.raises(UserError, match="later tokens"):
            pack_triangle(maps)


def test_sizes_without_a_triangle_are_refused():
    for size in (0, 2, 4, 2079, 2081):
        with pytest.raises(ValueError, match="no triangle"):
            unpack_triangle(torch.zeros(2, size))
        with pytest.raises(ValueError, match="no triangle"):
            unpack_channels_last(torch.zeros(2, 3, size))
    for shape in ((8,), (8, 7)):
        with pytest.raises(ValueError, match="query and key"):
            pack_triangle(torch.zeros(shape))
