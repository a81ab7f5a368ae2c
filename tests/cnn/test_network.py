"""The network is the paper's; its seeded dropout is torch's with another source of chance."""

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import nn

from mnemoscope.cnn.network import AttentionCnn, SeededDropout, feature_side
from mnemoscope.cnn.presets import GRIDS, PRESETS, CnnSetting
from mnemoscope.errors import UserError
from mnemoscope.maps.shape import POOLED

AS_WRITTEN = GRIDS["as_written"].settings


def closed_form(n_layers: int, n_classes: int, kernel: int, filters: int) -> int:
    side = {6: 12, 8: 10}[kernel]  # 64-59-29-24-12 and 64-57-28-21-10, by hand
    first = filters * (n_layers * kernel**2 + 1)
    second = filters * (filters * kernel**2 + 1)
    return first + second + 64 * (filters * side**2 + 1) + n_classes * (64 + 1)


def test_parameters_are_counted_by_the_closed_form_and_as_published() -> None:
    for setting, n_layers, n_classes in product(AS_WRITTEN, (32, 36), (2, 3, 4)):
        sizes = {"kernel": setting.kernel, "filters": setting.filters}
        network = AttentionCnn(n_layers, n_classes, **sizes, length=64)
        assert network.n_parameters() == closed_form(n_layers, n_classes, **sizes)
        assert feature_side(64, setting.kernel) == {6: 12, 8: 10}[setting.kernel]
    # Pythia 12b with four classes
    assert AttentionCnn(36, 4, kernel=6, filters=10).n_parameters() == 109_064


def test_modules_stand_in_the_papers_order_and_are_used_once() -> None:
    network = AttentionCnn(4, 3, kernel=6, filters=10)
    block = [nn.Conv2d, nn.ReLU, SeededDropout, nn.MaxPool2d]
    assert [type(module) for module in network.features] == block * 2
    head = [nn.Flatten, nn.Linear, nn.ReLU, SeededDropout, nn.Linear]
    assert [type(module) for module in network.classifier] == head
    every = [*network.features, *network.classifier]
    assert len({id(module) for module in every}) == len(every)
    assert {module.p for module in every if isinstance(module, nn.Dropout)} == {0.5}


@pytest.mark.parametrize("setting", AS_WRITTEN[::3], ids=lambda setting: setting.slug)
def test_logits_equal_the_formula_written_out(setting: CnnSetting) -> None:
    torch.manual_seed(0)
    network = AttentionCnn(5, 3, kernel=setting.kernel, filters=setting.filters).double().eval()
    maps = torch.rand(3, 5, 64, 64, dtype=torch.float64).tril()
    first, second = network.features[0], network.features[4]
    x = F.max_pool2d(F.conv2d(maps, first.weight, first.bias).relu(), 2)
    x = F.max_pool2d(F.conv2d(x, second.weight, second.bias).relu(), 2)
    wide, last = network.classifier[1], network.classifier[4]
    expected = F.linear(
        F.linear(x.flatten(1), wide.weight, wide.bias).relu(), last.weight, last.bias
    )
    # float64, another order of the same sums
    torch.testing.assert_close(network(maps), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "shortest"), [(6, 19), (8, 25)])
def test_sizes_that_cannot_be_are_refused(kernel: int, shortest: int) -> None:
    network = AttentionCnn(1, 2, kernel=kernel, filters=1, length=shortest)
    assert network(torch.zeros(1, 1, shortest, shortest)).shape == (1, 2)
    with pytest.raises(UserError, match=f"take {shortest} tokens"):
        AttentionCnn(1, 2, kernel=kernel, filters=1, length=shortest - 1)
    with pytest.raises(ValueError, match="at least 1"):
        AttentionCnn(0, 2, kernel=kernel, filters=1)


@pytest.mark.parametrize(
    ("kernel", "length", "n_layers"), [(6, 64, 4), (8, 64, 36), (3, 11, 36), (5, 16, 4)]
)
def test_knowing_that_maps_are_causal_changes_neither_logits_nor_gradients(
    kernel: int, length: int, n_layers: int
) -> None:
    torch.manual_seed(0)
    network = AttentionCnn(n_layers, 3, kernel=kernel, filters=5, length=length).double().eval()
    maps = torch.rand(3, n_layers, length, length, dtype=torch.float64).tril()
    maps = maps.contiguous(memory_format=torch.channels_last)
    found = []
    for causal in (False, True):
        logits = network(maps, causal=causal)
        gradients = torch.autograd.grad(logits.logsumexp(1).sum(), list(network.parameters()))
        found.append([logits, *gradients])
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)  # float64, other sums


def test_a_map_that_is_not_causal_is_read_whole_by_default() -> None:
    """What the attributions and a map made by hand rely on."""
    network = AttentionCnn(36, 3, kernel=6, filters=4).eval()
    maps = torch.zeros(1, 36, 64, 64)
    maps[0, :, 5:9, 40:50] = 100.0
    assert not torch.equal(network(maps), network(torch.zeros_like(maps)))


def seeded(p: float, seed: int = 0) -> SeededDropout:
    dropout = SeededDropout(p)
    dropout.seed(seed)
    return dropout.train()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_units_are_dropped_independently_with_the_share_asked_for_and_the_rest_scaled(p) -> None:
    dropout = seeded(p)
    after, again = (dropout(torch.ones(64, 10, 59, 29)) for _ in range(2))
    dropped, other = (after == 0).flatten(), (again == 0).flatten()
    # 1.1 million units: a share off by 0.2 points would fail; 1e-6 makes a false alarm rare
    assert binomtest(int(dropped.sum()), dropped.numel(), p).pvalue > 1e-6
    kept = after[after != 0].unique()
    assert kept.numel() == 1
    assert float(kept) == pytest.approx(1 / (1 - p), rel=1e-4)  # p is rounded to 1/65,536
    neighbours = [(dropped[:-1], dropped[1:]), (dropped[::4], dropped[1::4])]
    for a, b in [*neighbours, (dropped, other)]:
        assert binomtest(int((a & b).sum()), a.numel(), p * p).pvalue > 1e-6


def test_equal_seeds_give_equal_masks_whatever_the_global_state() -> None:
    units = torch.randn(3, 10, 9, 9).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(1)
    first = seeded(0.5, 7)(units)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(seeded(0.5, 7)(units), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(seeded(0.5, 8)(units), first)


def test_gradient_flows_through_kept_units_only_and_unseeded_it_is_torchs_own() -> None:
    units = torch.ones(1000, requires_grad=True)
    after = seeded(0.2)(units)
    after.sum().backward()
    assert torch.equal(units.grad, after.detach())
    units = torch.randn(100)
    torch.manual_seed(3)
    expected = nn.Dropout(0.5)(units)
    torch.manual_seed(3)
    assert torch.equal(SeededDropout(0.5)(units), expected)
    assert torch.equal(seeded(0.5).eval()(units), units)
    for p in (0.0, 1.0):
        assert torch.equal(seeded(p)(units), units * (1 - p))


def test_grids_and_training_are_those_that_ran_and_that_are_described() -> None:
    """Eight trainings either way: four settings over the mean, each twice; or eight, each once."""
    for name, poolings, seeds in (("as_run", ["mean"], [0, 1]), ("as_written", POOLED, [0])):
        grid = GRIDS[name].settings
        wanted = product((6, 8), (10, 16), poolings)
        assert {(one.kernel, one.filters, one.pooling) for one in grid} == set(wanted)
        assert list(GRIDS[name].seeds) == seeds
        assert len({one.slug for one in grid}) * len(seeds) == 8
    paper = PRESETS["as_run"]
    assert replace(paper, name="as_written") == PRESETS["as_written"]
    assert (paper.epochs, paper.min_steps, paper.batch_size) == (3, 0, 16)
    assert (paper.learning_rate, paper.weight_decay, paper.dropout) == (1e-3, 0.1, 0.5)
    assert (paper.schedule, paper.scaling, paper.scores_every_epoch) == ("constant", "raw", True)
    for n_classes, n_steps in ((3, 2_250), (4, 3_000)):  # published
        assert paper.n_epochs(4_000 * n_classes) * 4_000 * n_classes / 16 == n_steps


def test_small_makes_at_least_800_steps() -> None:
    small = PRESETS["small"]
    for n_maps in (16, 100, 333, 1_000, 5_000):
        assert small.n_epochs(n_maps) * -(-n_maps // small.batch_size) >= 800
        assert small.n_epochs(n_maps) >= small.epochs
