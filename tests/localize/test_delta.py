"""Δ against slow definitions; averages over CNNs and models; agreement against SciPy."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn

from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import PRESETS, CnnSetting
from mnemoscope.cnn.training import Scaling, TrainedCnn, TrainingHistory, fit_scaling, scale_maps
from mnemoscope.localize.delta import (
    Decisiveness,
    agreement,
    average,
    average_models,
    class_means,
    decisiveness,
    layer_profile,
    mean_agreement,
    normalized_gradients,
    pooled,
    randomized,
)
from mnemoscope.maps.format import pack_triangle
from mnemoscope.maps.views import TensorMaps

RAW = Scaling(None, None, 0.0)
N_LAYERS, N_HEADS, N_CLASSES = 3, 4, 3
POOL = {"mean": lambda heads: heads.mean(2), "max": lambda heads: heads.max(2).values}


def some_heads(n: int, length: int = 64) -> torch.Tensor:
    """Weights (n, layers, heads, query, key) whose mean over heads is exact in float16, no ties.

    Multiples of 1/256, another remainder by 4 for each head: their mean over 4 heads is a
    multiple of 1/1024 below 1.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (n, N_LAYERS, N_HEADS, length, length)
    whole = 4 * torch.randint(0, 60, shape, generator=generator)
    return ((whole + torch.arange(N_HEADS).reshape(-1, 1, 1)) / 256).tril()


def trained_of(network: nn.Module, scaling: Scaling = RAW, pooling: str = "mean") -> TrainedCnn:
    return TrainedCnn(
        network=network,
        scaling=scaling,
        setting=CnnSetting(6, 10, pooling),
        preset=PRESETS["paper"],
        seed=0,
        history=TrainingHistory((), 0),
    )


def a_network(pooled: torch.Tensor) -> AttentionCnn:
    """A random CNN whose last bias is set so that it names every class now and then."""
    torch.manual_seed(3)
    network = AttentionCnn(N_LAYERS, N_CLASSES, kernel=6, filters=10).eval()
    with torch.no_grad():
        network.classifier[-1].bias -= network(pooled).mean(0)
    return network


def naive_delta(network, heads, labels, pooling):
    """The published procedure: gradient per head through the pooling, one sequence at a time."""
    delta = torch.zeros(N_CLASSES, *heads.shape[1:2], *heads.shape[3:])
    for wanted in range(N_CLASSES):
        found = []
        for weights, label in zip(heads, labels, strict=True):
            leaf = weights.clone().requires_grad_()
            logits = network(POOL[pooling](leaf[None]))[0]
            if label != wanted or logits.argmax() != wanted:
                continue
            others = [logits[c] for c in range(N_CLASSES) if c != wanted]
            (logits[wanted] - sum(others) / len(others)).backward()
            if leaf.grad.max() <= 0:
                continue
            decisive = (leaf.grad / leaf.grad.max()).clamp(min=0)
            found.append((decisive * weights).amax(dim=1))
        if found:
            delta[wanted] = torch.stack(found).mean(0)
    return delta


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_delta_equals_the_per_head_procedure(pooling):
    """To 1e-6: float32 rounding of one backward pass for all rows against one a row."""
    heads = some_heads(24)
    network = a_network(POOL[pooling](heads))
    predicted = network(POOL[pooling](heads)).argmax(1)
    labels = predicted.clone()
    labels[::5] = (labels[::5] + 1) % N_CLASSES
    maps = TensorMaps(pack_triangle(POOL[pooling](heads)))
    found = decisiveness(
        trained_of(network, pooling=pooling),
        maps,
        labels,
        max_maps=TensorMaps(pack_triangle(heads.amax(2))),
        batch_size=7,
    )
    wanted = naive_delta(network, heads, labels, pooling)
    assert wanted.amax() > 0.1
    assert (wanted.amax(dim=(1, 2, 3)) > 0).sum() >= 2
    assert (found.delta - wanted).abs().max() <= 1e-6
    is_right = predicted == labels
    for label in range(N_CLASSES):
        of_class = labels == label
        assert found.n_wrong[label] == (of_class & ~is_right).sum()
        assert found.n_used[label] + found.n_skipped[label] == (of_class & is_right).sum()


class Linear(nn.Module):
    """Logits are weighted sums of the map, so every gradient can be read off."""

    def __init__(self, weight: torch.Tensor, bias: list[float]) -> None:
        super().__init__()
        self.n_layers, self.length, self.n_classes = weight.shape[1], weight.shape[2], len(weight)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.tensor(bias))

    def forward(self, maps):
        return torch.einsum("blqk,clqk->bc", maps, self.weight) + self.bias


def test_delta_worked_out_by_hand():
    """C of class 0 is w0 − w1 = (4, −2, 1) on the triangle; D = (1, 0, 1/4); class 1 opposite."""
    weight = torch.zeros(2, 1, 2, 2)
    weight[0, 0] = torch.tensor([[4.0, 0.0], [-2.0, 1.0]])
    mean = torch.tensor([[[[0.5, 0.0], [0.25, 0.25]]], [[[0.25, 0.0], [1.0, 0.0]]]])
    maximum = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]], [[[0.5, 0.0], [1.0, 0.25]]]])
    both = [TensorMaps(pack_triangle(maps)) for maps in (mean, maximum)]
    trained = trained_of(Linear(weight, [0.0, 0.0]))
    found = decisiveness(trained, both[0], torch.tensor([0, 1]), max_maps=both[1])
    assert found.delta[0, 0].tolist() == [[1.0, 0.0], [0.0, 0.125]]
    assert found.delta[1, 0].tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert (found.n_used.tolist(), found.n_wrong.tolist()) == ([1, 1], [0, 0])


def test_sequences_without_evidence_and_wrong_ones_are_counted_and_left_out():
    """Class 0 wins by its bias alone: every cell speaks against it."""
    weight = torch.zeros(2, 1, 2, 2)
    weight[0] = -1.0
    maps = TensorMaps(pack_triangle(torch.full((3, 1, 2, 2), 0.25).tril()))
    trained = trained_of(Linear(weight, [9.0, 0.0]))
    found = decisiveness(trained, maps, torch.tensor([0, 0, 1]), max_maps=maps)
    assert found.n_skipped.tolist() == [2, 0]
    assert found.n_wrong.tolist() == [0, 1]
    assert found.n_used.tolist() == [0, 0]
    assert torch.equal(found.delta, torch.zeros(2, 1, 2, 2))
    gradients = torch.stack([torch.full((1, 2, 2), -1.0), torch.ones(1, 2, 2)])
    assert normalized_gradients(gradients).amax(dim=(1, 2, 3)).tolist() == [0.0, 1.0]


def test_scaled_input_is_differentiated_where_the_network_sees_it():
    """D from the network's own input, A as stored: the promise of the docstring, row by row."""
    heads = some_heads(12)
    maps = TensorMaps(pack_triangle(heads.mean(2)))
    scaling = fit_scaling(maps, PRESETS["small"])
    scaled = scale_maps(scaling, pack_triangle(heads.mean(2)))
    network = a_network(scaled)
    labels = network(scaled).argmax(1)
    found = decisiveness(
        trained_of(network, scaling),
        maps,
        labels,
        max_maps=TensorMaps(pack_triangle(heads.amax(2))),
    )
    wanted = torch.zeros_like(found.delta)
    for row, label in enumerate(labels):
        leaf = scaled[row : row + 1].clone().requires_grad_()
        logits = network(leaf)[0]
        (logits[label] * 1.5 - logits.sum() / 2).backward()
        decisive = (leaf.grad[0] / leaf.grad.max()).clamp(min=0)
        wanted[label] += decisive * heads[row].amax(1) / (labels == label).sum()
    assert (found.delta - wanted).abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("pooling", "over_rows"), [("both", False), ("mean", True), ("both", True)]
)
def test_an_edge_is_moved_in_every_head_alike(pooling, over_rows):
    """What Δ asks of two poolings, by an offset that all heads share, and of rows, by a factor."""
    heads = some_heads(12)
    poolings = {"mean": [POOL["mean"]], "both": [POOL["mean"], POOL["max"]]}[pooling]

    def pooled(weights):
        return torch.cat([pool(weights) for pool in poolings], dim=1)

    maps, largest = (TensorMaps(pack_triangle(one)) for one in (pooled(heads), heads.amax(2)))
    scaling = fit_scaling(maps, PRESETS["rows"]) if over_rows else RAW
    torch.manual_seed(3)
    network = AttentionCnn(
        maps.n_layers, N_CLASSES, kernel=6, filters=10, over_rows=over_rows
    ).eval()
    trained, labels = trained_of(network, scaling, pooling), torch.arange(12) % N_CLASSES
    wanted = torch.zeros(N_CLASSES, N_LAYERS, 64, 64)
    for row, label in enumerate(labels):
        own = heads[row : row + 1]
        leaf = torch.zeros(1, N_LAYERS, 1, 64, 64, requires_grad=True)
        logits = network(
            scaling.of_rows(pooled(own * (1 + leaf))) if over_rows else pooled(own + leaf)
        )
        (logits[0, label] * 1.5 - logits.sum() / 2).backward()
        decisive = (leaf.grad / leaf.grad.max()).clamp(min=0)
        wanted[label] += decisive[0, :, 0] * own[0].amax(1) / 4
    found = decisiveness(trained, maps, labels, max_maps=largest, correct_only=False)
    means = class_means(trained, maps, labels, max_maps=largest, attribution="gradient")
    assert wanted.amax() > 0.1
    assert (found.delta - wanted).abs().max() <= 1e-5
    assert (means.delta - wanted).abs().max() <= 1e-5


def part(values, n_used):
    """Δ that is one value a class, and its counts."""
    delta = torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 2, 2, 2).clone()
    counts = torch.tensor(n_used)
    return Decisiveness(delta, counts, counts + 1, counts + 2)


def test_a_cnn_that_never_saw_a_class_does_not_pull_its_average_down():
    found = average([part([0.2, 0.0, 0.0], [4, 0, 0]), part([0.4, 0.6, 0.0], [2, 1, 0])])
    assert found.delta[:, 0, 0, 0].tolist() == pytest.approx([0.3, 0.6, 0.0], abs=1e-7)
    assert found.n_used.tolist() == [6, 1, 0]
    assert found.n_skipped.tolist() == [8, 3, 2]
    assert found.n_wrong.tolist() == [10, 5, 4]
    with pytest.raises(ValueError, match="no decisiveness"):
        average([])


def test_layer_profile_is_the_share_of_the_largest_layer():
    delta = torch.zeros(2, 2, 3, 3)
    delta[0, 1, 2, 0], delta[0, 1, 1, 1], delta[1, 0, 0, 0] = 0.5, 0.25, 0.375
    assert layer_profile(delta.numpy()).tolist() == [[0.0, 1.0], [0.5, 0.0]]
    assert layer_profile(np.zeros((2, 2, 3, 3))).tolist() == [[0.0, 0.0], [0.0, 0.0]]


class Gated(Linear):
    """Class 0 is told by how far the sum of a map exceeds one half; below that nothing speaks."""

    def forward(self, maps):
        excess = nn.functional.relu(torch.einsum("blqk,clqk->bc", maps, self.weight) - 0.5)
        return excess + self.bias


def test_a_mean_is_over_the_sequences_used_not_over_the_skipped_ones():
    """Sums of .75 and .375: the second sequence is skipped, so Δ is the first one's attention."""
    weight = torch.zeros(2, 1, 2, 2)
    weight[0] = 1.0
    whole = torch.tensor([0.25, 0.125])[:, None, None, None] * torch.ones(2, 1, 2, 2).tril()
    maps = TensorMaps(pack_triangle(whole))
    found = decisiveness(
        trained_of(Gated(weight, [9.0, 0.0])), maps, torch.tensor([0, 0]), max_maps=maps
    )
    assert (found.n_used.tolist(), found.n_skipped.tolist()) == ([1, 0], [1, 0])
    assert found.delta[0, 0].tolist() == [[0.25, 0.0], [0.25, 0.25]]
    with pytest.raises(ValueError, match="2 maps, 3 labels, 2 maxima"):
        decisiveness(trained_of(Gated(weight, [9.0, 0.0])), maps, torch.zeros(3), max_maps=maps)


def test_all_sequences_count_where_that_is_asked_and_halves_make_the_whole():
    """To 1e-7: the halves' float32 means against one float64 sum."""
    heads = some_heads(12)
    pooled_maps = heads.mean(2)
    network = a_network(pooled_maps)
    predicted = network(pooled_maps).argmax(1)
    labels = (predicted + (torch.arange(12) % 2)) % N_CLASSES
    maps = TensorMaps(pack_triangle(pooled_maps))
    largest = TensorMaps(pack_triangle(heads.amax(2)))
    trained = trained_of(network)
    every = decisiveness(trained, maps, labels, max_maps=largest, correct_only=False)
    assert (every.n_used + every.n_skipped).sum() == 12
    assert every.n_wrong.sum() == 6
    for correct_only, whole in ((False, every), (True, None)):
        halves = [
            decisiveness(
                trained,
                TensorMaps(maps.read(rows)),
                labels[rows],
                max_maps=TensorMaps(largest.read(rows)),
                correct_only=correct_only,
            )
            for rows in (torch.arange(0, 7), torch.arange(7, 12))
        ]
        whole = whole or decisiveness(trained, maps, labels, max_maps=largest)
        together = pooled(halves)
        assert (together.delta - whole.delta).abs().max() <= 1e-7
        assert torch.equal(together.n_used, whole.n_used)
        assert torch.equal(together.n_wrong, whole.n_wrong)


def a_map(seed: int) -> np.ndarray:
    """Rounded, so that there are ties."""
    return np.tril(np.random.default_rng(seed).random((3, 20, 20))).round(2)


def test_correlations_are_scipys_over_the_causal_edges():
    first, second = a_map(0), a_map(0) + 0.5 * a_map(1)
    causal = np.tri(20, dtype=bool)
    left, right = first[:, causal].ravel(), second[:, causal].ravel()
    found = agreement(first, second)
    assert found.pearson == pytest.approx(pearsonr(left, right).statistic)
    assert found.spearman == pytest.approx(spearmanr(left, right).statistic)


def test_agreement_in_closed_form():
    first = np.random.default_rng(0).permutation(3 * 400).reshape(3, 20, 20).astype(float)
    assert agreement(first, 3 * first + 1) == pytest.approx((1, 1, 1))
    assert agreement(first, -first) == pytest.approx((-1, -1, 0))
    first, second = np.zeros((1, 20, 20)), np.zeros((1, 20, 20))  # 210 edges, 2 of them the top
    first[0, 5, 1], first[0, 6, 1] = 2.0, 1.0
    second[0, 6, 1], second[0, 7, 1] = 2.0, 1.0
    assert agreement(first, second).overlap == 0.5
    assert agreement(a_map(0), np.ones((3, 20, 20))) == (None, None, None)
    assert mean_agreement([]) == mean_agreement([a_map(0)]) == (None, None, None)
    with pytest.raises(ValueError, match="shape"):
        agreement(a_map(0), a_map(0)[:2])


def test_the_mean_is_over_all_pairs():
    maps = [a_map(seed) for seed in range(3)]
    pairs = [agreement(maps[i], maps[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert mean_agreement(maps) == pytest.approx(np.mean(pairs, axis=0))


SHAPE = (3, 2, 8, 8)  # classes, layers, query, key


def of_cnn(seed: int, used: tuple[int, ...] = (5, 5, 5)) -> Decisiveness:
    """Random Δ of one CNN; zero of a class that it used no sequence of."""
    delta = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))
    counts = torch.tensor(used)
    none = torch.zeros(3, dtype=torch.int64)
    return Decisiveness(delta * (counts > 0)[:, None, None, None], counts, none, none)


def test_the_mean_of_models_is_the_mean_of_all_their_cnns() -> None:
    """One model has two CNNs and the other four, of which two know nothing of the last class."""
    first = [of_cnn(0), of_cnn(1)]
    second = [of_cnn(2), of_cnn(3, (5, 5, 0)), of_cnn(4), of_cnn(5, (5, 0, 0))]
    whole = average([*first, *second])
    means = [average(parts).delta.numpy() for parts in (first, second)]
    delta, n_says = average_models(means, [(2, 2, 2), (4, 3, 2)])
    assert n_says == (6, 5, 4)
    np.testing.assert_allclose(delta, whole.delta.numpy(), atol=1e-6)  # float32 means in between


def test_a_class_that_one_model_knows_nothing_of_is_the_others() -> None:
    ones, threes = np.full(SHAPE, 1.0, np.float32), np.full(SHAPE, 3.0, np.float32)
    delta, n_says = average_models([ones, threes], [(2, 2, 0), (2, 6, 1)])
    assert [float(one.max()) for one in delta] == [2.0, 2.5, 3.0]
    assert n_says == (4, 8, 1)
    nothing, _ = average_models([ones * 0, threes * 0], [(0, 0, 0), (0, 0, 0)])
    assert (nothing == 0).all()
    with pytest.raises(ValueError, match="cannot be averaged"):
        average_models([np.zeros(SHAPE), np.zeros((3, 4, 8, 8))], [(1, 1, 1)] * 2)


# -- the sanity checks: an attribution of the network, or of the input --------------------------


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.named_parameters()}


def test_layers_are_drawn_anew_from_the_top_by_a_seed_and_stay_so() -> None:
    trained, state = trained_of(AttentionCnn(2, 3, kernel=6, filters=10)), torch.get_rng_state()
    before = weights_of(trained.network)
    names = ["classifier.4", "classifier.1", "features.4", "features.0"]
    first, again = (
        [(name, weights_of(cnn.network)) for name, cnn in randomized(trained)] for _ in range(2)
    )
    assert [name for name, _ in first] == names
    for number, ((_, drawn), (_, same)) in enumerate(zip(first, again, strict=True), start=1):
        changed = {
            name.rpartition(".")[0]
            for name, value in drawn.items()
            if not torch.equal(value, before[name])
        }
        assert changed == set(names[:number])
        assert all(torch.equal(value, same[name]) for name, value in drawn.items())
    now = weights_of(trained.network)
    assert all(torch.equal(value, before[name]) for name, value in now.items())
    assert torch.equal(state, torch.get_rng_state())


def test_means_of_all_sequences_are_delta_of_all_sequences() -> None:
    """To the last bit: float64 sums of the same float32 numbers, in another order of rows."""
    heads, labels = some_heads(9), torch.arange(9) % N_CLASSES
    maps, trained = TensorMaps(pack_triangle(heads.mean(2))), trained_of(a_network(heads.mean(2)))
    found = class_means(trained, maps, labels, max_maps=maps, attribution="gradient", batch_size=4)
    same = decisiveness(trained, maps, labels, max_maps=maps, correct_only=False)
    assert same.n_used.tolist() == [3, 3, 3]
    assert (found.delta - same.delta).abs().max() <= 1e-7
    ones = TensorMaps(torch.ones(9, N_LAYERS, 64 * 65 // 2))
    alone = decisiveness(trained, maps, labels, max_maps=ones, correct_only=False)
    torch.testing.assert_close(found.weights.tril(), alone.delta, rtol=2**-23, atol=1e-7)
