"""Seeded dropout is torch's dropout with another source of chance."""

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from mnemoscope.cnn.network import SeededDropout


def seeded(p: float, seed: int = 0) -> SeededDropout:
    dropout = SeededDropout(p)
    dropout.seed(seed)
    return dropout.train()


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_a_unit_is_dropped_with_the_share_asked_for_and_the_rest_scaled(p: float) -> None:
    units = torch.ones(64, 10, 59, 29)
    after = seeded(p)(units)
    n_dropped = int((after == 0).sum())
    # 1.1 million units: a share off by 0.2 points would fail; 1e-6 makes a false alarm rare
    assert binomtest(n_dropped, units.numel(), p).pvalue > 1e-6
    kept = after[after != 0].unique()
    assert kept.numel() == 1
    assert float(kept) == pytest.approx(1 / (1 - p), rel=1e-4)  # p is rounded to 1/65,536


def test_neighbours_and_draws_are_independent() -> None:
    dropout = seeded(0.5)
    first, second = (dropout(torch.ones(1 << 16)) == 0 for _ in range(2))
    for a, b in ((first[:-1], first[1:]), (first[::4], first[1::4]), (first, second)):
        assert binomtest(int((a & b).sum()), a.numel(), 0.25).pvalue > 1e-6


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_none_and_all_can_be_dropped(p: float) -> None:
    units = torch.randn(4, 7)
    assert torch.equal(seeded(p)(units), units * (1 - p))


def test_equal_seeds_give_equal_masks_whatever_the_global_state() -> None:
    units = torch.randn(3, 10, 9, 9).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(1)
    first = seeded(0.5, 7)(units)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(seeded(0.5, 7)(units), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(seeded(0.5, 8)(units), first)


def test_gradient_flows_through_kept_units_only() -> None:
    units = torch.ones(1000, requires_grad=True)
    after = seeded(0.2)(units)
    after.sum().backward()
    assert torch.equal(units.grad, after.detach())


def test_without_a_seed_and_in_evaluation_mode_it_is_torchs_own() -> None:
    units = torch.randn(100)
    torch.manual_seed(3)
    expected = nn.Dropout(0.5)(units)
    torch.manual_seed(3)
    assert torch.equal(SeededDropout(0.5)(units), expected)
    assert torch.equal(seeded(0.5).eval()(units), units)
