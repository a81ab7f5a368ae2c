"""Chosen edges are as many as asked, causal, and what their names say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.benchmark.baselines import blind_maps
from mnemoscope.errors import UserError
from mnemoscope.localize.cut import (
    copy_edges,
    count_edges,
    equal_mass_edges,
    largest_edges,
    random_edges,
    random_keys,
    same_layer_edges,
)
from mnemoscope.maps.format import unpack_triangle

L, T = 3, 16
N_EDGES = L * T * (T - 1) // 2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def values(seed=0):
    return torch.rand(L, T, T, generator=generator(seed)).tril()


def is_possible(edges):
    return not edges.triu(diagonal=1).any() and not edges[..., -1, :].any()


@given(st.floats(0.01, 100))
@settings(max_examples=50)
def test_a_strength_is_that_share_of_the_edges(percent):
    n = count_edges(percent, L, T)
    assert n == max(1, round(percent / 100 * N_EDGES)) or abs(n - percent / 100 * N_EDGES) < 1
    for edges in (largest_edges(values(), n), random_edges(values(), n, generator())):
        assert int(edges.sum()) == n
        assert is_possible(edges)


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan")])
def test_a_strength_that_is_no_share_is_refused(percent):
    with pytest.raises(UserError, match="at most 100 per cent"):
        count_edges(percent, L, T)


def test_the_largest_edges_are_the_largest():
    edges, held = largest_edges(values(), 40), values()
    held[:, -1] = 0
    assert held[edges].min() > held[~edges].max()


def test_same_layers_have_as_many_edges_each():
    edges = largest_edges(values() * torch.tensor([1.0, 3.0, 2.0])[:, None, None], 60)
    others = same_layer_edges(edges, generator())
    assert torch.equal(others.sum(dim=(1, 2)), edges.sum(dim=(1, 2)))
    assert is_possible(others)
    assert not torch.equal(others, edges)


def test_equal_mass_is_reached_by_other_edges():
    mass = values(3) ** 4  # most edges hold little, as attention does
    edges = random_edges(mass, 60, generator(1))
    found = [equal_mass_edges(edges, mass, generator(seed)) for seed in range(8)]
    for others in found:
        assert int(others.sum()) == 60
        assert not (others & edges).any()
        assert is_possible(others)
    # Draws differ, and their masses lie around the wanted one, within the spread of near edges.
    assert len({tuple(others.flatten().tolist()) for others in found}) == 8
    reached = np.mean([float(mass[others].sum()) for others in found])
    assert reached == pytest.approx(float(mass[edges].sum()), rel=0.1)


def test_where_the_edges_hold_all_the_mass_the_rest_is_the_nearest_reachable():
    mass = values()
    edges = largest_edges(mass, 100)
    others = equal_mass_edges(edges, mass, generator())
    assert int(others.sum()) == 100
    assert float(mass[others].sum()) < float(mass[edges].sum())


def test_copy_edges_are_the_induction_channel_of_the_blind_baseline():
    tokens = np.random.default_rng(0).integers(0, 6, (4, 64)).astype(np.int32)
    channel = unpack_triangle(blind_maps(tokens).read(torch.arange(4)))[:, 1] > 0
    edges = copy_edges(torch.from_numpy(tokens), 2)
    assert edges.shape == (4, 2, 64, 64)
    assert torch.equal(edges[:, 0, :-1], channel[:, :-1])
    assert is_possible(edges)
    assert torch.equal(edges[:, 0], edges[:, 1])


def test_random_keys_keep_every_querys_number():
    tokens = torch.randint(0, 9, (3, 32), generator=generator())
    edges = copy_edges(tokens, 1)
    others = random_keys(edges, generator())
    room = torch.arange(1, 33) - edges.sum(-1)
    assert torch.equal(others.sum(-1), torch.minimum(edges.sum(-1), room))
    assert not (others & edges).any()
    assert not others.triu(diagonal=1).any()
