"""Δ against slow definitions; averages over CNNs and models; agreement against SciPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn

from copy_counts import DEVICE, count_waits
from mnemoscope.cnn.inputs import Scaling, fit_scaling, scale_maps
from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import PRESETS, CnnSetting
from mnemoscope.cnn.training import TrainedCnn, TrainingHistory, Wanted, train_cnns
from mnemoscope.localize.delta import (
    Decisiveness,
    average,
    class_means,
    decisiveness,
    decisiveness_of_each,
    normalized_gradients,
    pooled,
    randomized,
)
from mnemoscope.localize.regions import (
    agreement,
    average_models,
    find_regions,
    layer_profile,
    mean_agreement,
    region_sentence,
)
from mnemoscope.maps import device as maps_device
from mnemoscope.maps.triangle import pack_triangle
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
        preset=PRESETS["as_run"],
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


class Gated(nn.Module):
    """Class 0 is told by how far the sum of a map exceeds one half; below that nothing speaks."""

    n_layers, length, n_classes = 1, 2, 2

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([9.0, 0.0]))

    def forward(self, maps):
        excess = nn.functional.relu(maps.sum(dim=(1, 2, 3)) - 0.5)
        return torch.stack([excess, torch.zeros_like(excess)], dim=1) + self.bias


def test_a_mean_is_over_the_sequences_used_and_the_others_are_counted():
    """Sums of .75 and .375: the second is skipped. The third is of the class that never wins."""
    weights = torch.tensor([0.25, 0.125, 0.25])[:, None, None, None]
    maps, trained = (
        TensorMaps(pack_triangle(weights.expand(3, 1, 2, 2).tril())),
        trained_of(Gated()),
    )
    found = decisiveness(trained, maps, torch.tensor([0, 0, 1]), max_maps=maps)
    counts = (found.n_used.tolist(), found.n_skipped.tolist(), found.n_wrong.tolist())
    assert counts == ([1, 0], [1, 0], [0, 1])
    assert found.delta[:, 0].tolist() == [[[0.25, 0.0], [0.25, 0.25]], [[0.0, 0.0], [0.0, 0.0]]]
    gradients = torch.stack([torch.full((1, 2, 2), -1.0), torch.ones(1, 2, 2)])
    assert normalized_gradients(gradients).amax(dim=(1, 2, 3)).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="3 maps, 2 labels, 3 maxima"):
        decisiveness(trained, maps, torch.zeros(2), max_maps=maps)


@pytest.mark.parametrize(
    ("pooling", "preset", "within"),
    [
        ("mean", "small", 1e-6),
        ("both", "as_run", 1e-5),
        ("mean", "rows", 1e-5),
        ("both", "rows", 1e-5),
    ],
)
def test_a_gradient_is_that_of_what_moves_an_edge(pooling, preset, within):
    """An edge of a scaled map where the network sees it, a stored one in every head alike.

    Of rows by a factor, and of two poolings by an offset, that all heads share.
    """
    heads = some_heads(12)
    poolings = {"mean": [POOL["mean"]], "both": [POOL["mean"], POOL["max"]]}[pooling]

    def pooled(weights):
        return torch.cat([pool(weights) for pool in poolings], dim=1)

    maps, largest = (TensorMaps(pack_triangle(one)) for one in (pooled(heads), heads.amax(2)))
    scaling = RAW if preset == "as_run" else fit_scaling(maps, PRESETS[preset])
    torch.manual_seed(3)
    network = AttentionCnn(
        maps.n_layers, N_CLASSES, kernel=6, filters=10, over_rows=preset == "rows"
    ).eval()

    def seen(own, leaf):
        if preset == "small":
            return scale_maps(scaling, pack_triangle(pooled(own))) + leaf[:, :, 0]
        return scaling.of_rows(pooled(own * (1 + leaf))) if preset == "rows" else pooled(own + leaf)

    trained, labels = trained_of(network, scaling, pooling), torch.arange(12) % N_CLASSES
    wanted = torch.zeros(N_CLASSES, N_LAYERS, 64, 64)
    for row, label in enumerate(labels):
        own = heads[row : row + 1]
        leaf = torch.zeros(1, N_LAYERS, 1, 64, 64, requires_grad=True)
        logits = network(seen(own, leaf))
        (logits[0, label] * 1.5 - logits.sum() / 2).backward()
        decisive = (leaf.grad / leaf.grad.max()).clamp(min=0)
        wanted[label] += decisive[0, :, 0] * own[0].amax(1) / 4
    found = decisiveness(trained, maps, labels, max_maps=largest, correct_only=False)
    means = class_means(trained, maps, labels, max_maps=largest, attribution="gradient")
    assert wanted.amax() > 0.1
    assert found.n_used.tolist() == [4, 4, 4]
    assert (found.delta - wanted).abs().max() <= within
    assert (means.delta - wanted).abs().max() <= within
    ones = TensorMaps(torch.ones(12, N_LAYERS, 64 * 65 // 2))
    alone = decisiveness(trained, maps, labels, max_maps=ones, correct_only=False)
    torch.testing.assert_close(means.weights.tril(), alone.delta, rtol=2**-23, atol=1e-7)


@pytest.mark.parametrize(
    ("pooling", "preset", "attribution"),
    [
        ("mean", "as_run", "gradient"),
        ("mean", "small", "guided"),
        ("both", "small", "gradient"),
        ("mean", "rows", "gradient"),  # one by one
        ("mean", "as_run", "occlusion"),  # one by one
    ],
)
def test_cnns_asked_as_one_give_the_delta_of_each_alone(pooling, preset, attribution):
    """To 1e-6, rounding; filters may differ, and so may what each gets right."""
    heads = some_heads(12)
    poolings = [POOL["mean"], POOL["max"]][: 2 if pooling == "both" else 1]
    maps = TensorMaps(pack_triangle(torch.cat([pool(heads) for pool in poolings], dim=1)))
    largest = TensorMaps(pack_triangle(heads.amax(2)))
    scaling = RAW if preset == "as_run" else fit_scaling(maps, PRESETS[preset])
    cnns, over_rows = [], preset == "rows"
    for seed, filters in enumerate((10, 6, 10)):
        torch.manual_seed(seed)
        network = AttentionCnn(
            maps.n_layers, N_CLASSES, kernel=6, filters=filters, over_rows=over_rows
        )
        cnns.append(trained_of(network.eval(), scaling, pooling))
    labels = torch.arange(12) % N_CLASSES
    asked = {"max_maps": largest, "attribution": attribution}
    together = decisiveness_of_each(cnns, maps, labels, **asked)
    for found, cnn in zip(together, cnns, strict=True):
        alone = decisiveness(cnn, maps, labels, **asked)
        assert alone.n_used.sum() > 0
        torch.testing.assert_close(found.delta, alone.delta, rtol=0, atol=1e-6)
        for name in ("n_used", "n_skipped", "n_wrong"):
            assert torch.equal(getattr(found, name), getattr(alone, name))
    assert len({tuple(one.n_wrong.tolist()) for one in together}) > 1


SHAPE = (4, 2, 8, 8)  # classes, layers, query, key


def of_cnn(seed: int, used: tuple[int, ...]) -> Decisiveness:
    """Random Δ of one CNN; zero of a class that it used no sequence of."""
    delta = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))
    counts = torch.tensor(used)
    delta *= (counts > 0)[:, None, None, None]
    return Decisiveness(delta, counts, counts + 1, counts + 2)


def test_the_mean_of_models_is_the_mean_of_all_cnns_that_know_the_class() -> None:
    """The first model knows nothing of the third class, and no CNN of the last."""
    first, second = (
        [of_cnn(10 * number + seed, used) for seed, used in enumerate(of_model)]
        for number, of_model in enumerate(
            [[(5, 5, 0, 0), (5, 4, 0, 0)], [(5, 5, 5, 0), (5, 0, 2, 0), (5, 5, 0, 0)]]
        )
    )
    whole = average([*first, *second])
    says = [5, 4, 2, 1]  # CNNs; of the last class none, and zeros stand there
    for place, n in enumerate(says):
        wanted = sum(one.delta[place] for one in (*first, *second)) / n
        torch.testing.assert_close(whole.delta[place], wanted, atol=1e-6, rtol=0)
    assert whole.n_used.tolist() == [25, 19, 7, 0]
    assert whole.n_skipped.tolist() == [30, 24, 12, 5]
    assert whole.n_wrong.tolist() == [35, 29, 17, 10]
    means = [average(parts).delta.numpy() for parts in (first, second)]
    delta, n_says = average_models(means, [(2, 2, 0, 0), (3, 2, 2, 0)])
    assert n_says == (5, 4, 2, 0)
    np.testing.assert_allclose(delta, whole.delta.numpy(), atol=1e-6)  # float32 means in between
    with pytest.raises(ValueError, match="no decisiveness"):
        average([])
    with pytest.raises(ValueError, match="cannot be averaged"):
        average_models([np.zeros(SHAPE), np.zeros((4, 3, 8, 8))], [(1, 1, 1, 1)] * 2)


def test_layer_profile_is_the_share_of_the_largest_layer():
    delta = torch.zeros(2, 2, 3, 3)
    delta[0, 1, 2, 0], delta[0, 1, 1, 1], delta[1, 0, 0, 0] = 0.5, 0.25, 0.375
    assert layer_profile(delta.numpy()).tolist() == [[0.0, 1.0], [0.5, 0.0]]
    assert layer_profile(np.zeros((2, 2, 3, 3))).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("correct_only", [False, True])
def test_halves_make_the_whole_and_all_sequences_count_where_that_is_asked(correct_only):
    """To 1e-7: the halves' float32 means against one float64 sum."""
    heads = some_heads(12)
    maps, largest = (TensorMaps(pack_triangle(one)) for one in (heads.mean(2), heads.amax(2)))
    network = a_network(heads.mean(2))
    labels = (network(heads.mean(2)).argmax(1) + torch.arange(12) % 2) % N_CLASSES
    whole, *halves = (
        decisiveness(
            trained_of(network),
            TensorMaps(maps.read(rows)),
            labels[rows],
            max_maps=TensorMaps(largest.read(rows)),
            correct_only=correct_only,
        )
        for rows in (torch.arange(12), torch.arange(7), torch.arange(7, 12))
    )
    assert (whole.n_used + whole.n_skipped).sum() == (6 if correct_only else 12)
    assert whole.n_wrong.sum() == 6
    together = pooled(halves)
    assert (together.delta - whole.delta).abs().max() <= 1e-7
    assert torch.equal(together.n_used, whole.n_used)
    assert torch.equal(together.n_wrong, whole.n_wrong)


def a_map(seed: int) -> np.ndarray:
    """Rounded, so that there are ties."""
    return np.tril(np.random.default_rng(seed).random((3, 20, 20))).round(2)


def test_agreement_is_scipys_over_the_causal_edges_and_the_mean_is_over_all_pairs():
    maps, causal = [a_map(0), a_map(0) + 0.5 * a_map(1), a_map(2)], np.tri(20, dtype=bool)
    pairs = [agreement(maps[i], maps[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    left, right = (one[:, causal].ravel() for one in maps[:2])
    assert pairs[0].pearson == pytest.approx(pearsonr(left, right).statistic)
    assert pairs[0].spearman == pytest.approx(spearmanr(left, right).statistic)
    assert mean_agreement(maps) == pytest.approx(np.mean(pairs, axis=0))
    assert mean_agreement([]) == mean_agreement(maps[:1]) == (None, None, None)


def test_agreement_in_closed_form():
    first = np.random.default_rng(0).permutation(3 * 400).reshape(3, 20, 20).astype(float)
    assert agreement(first, 3 * first + 1) == pytest.approx((1, 1, 1))
    assert agreement(first, -first) == pytest.approx((-1, -1, 0))
    first, second = np.zeros((1, 20, 20)), np.zeros((1, 20, 20))  # 210 edges, 2 of them the top
    first[0, 5, 1], first[0, 6, 1] = 2.0, 1.0
    second[0, 6, 1], second[0, 7, 1] = 2.0, 1.0
    assert agreement(first, second).overlap == 0.5
    assert agreement(a_map(0), np.ones((3, 20, 20))) == (None, None, None)
    with pytest.raises(ValueError, match="shape"):
        agreement(a_map(0), a_map(0)[:2])


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


# -- regions in numbers and words, against counts made by hand ----------------------------------

LENGTH = 16
NOTHING = np.zeros((LENGTH, LENGTH))


def shares(delta, copies=NOTHING, **options):
    return {one.name: one for one in find_regions(delta, copies, **options)}


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ((0, 3, 0), ["first third of the layers", "prefix → prefix", "first token", "layer 0"]),
        ((2, 12, 2), ["middle third of the layers", "suffix → prefix", "layer 2"]),
        ((5, 15, 14), ["last third of the layers", "suffix → suffix", "layer 5"]),
    ],
)
def test_one_edge_lies_in_its_regions_alone(place, names):
    delta = np.zeros((6, LENGTH, LENGTH), np.float32)
    delta[place] = 0.4
    near = ["near the diagonal (|q−k| ≤ 4)"] if place[1] - place[2] <= 4 else []
    found = shares(delta)
    assert {name for name, one in found.items() if one.share == 1} == {*names, *near}
    assert {one.share for one in found.values()} == {0.0, 1.0}


def test_an_even_delta_has_every_region_at_its_even_share():
    delta = np.broadcast_to(np.tri(LENGTH), (6, LENGTH, LENGTH))
    copies = np.random.default_rng(0).random((LENGTH, LENGTH))
    found = shares(delta, copies)
    assert found == shares(np.ones_like(delta), copies)  # above the diagonal nothing counts
    for one in found.values():
        assert one.share == pytest.approx(one.even)
        assert one.ratio == pytest.approx(1)
    n = LENGTH * (LENGTH + 1) / 2
    assert found["first token"].even == pytest.approx(LENGTH / n)
    assert found["suffix → prefix"].even == pytest.approx(8 * 8 / n)
    assert found["near the diagonal (|q−k| ≤ 4)"].even == pytest.approx((5 * 16 - 10) / n)


def test_the_sentence_names_what_is_much_and_what_is_little():
    delta, even = np.zeros((6, LENGTH, LENGTH)), np.tri(LENGTH)[None].repeat(6, 0)
    nothing = region_sentence("Guess", find_regions(delta, NOTHING))
    delta[5, 12, 0] = 1.0
    said = region_sentence("Recall", find_regions(delta, NOTHING))
    assert "“last third of the layers” (100.0% where an even spread gives 33.3%)" in said
    for words, sentence in (
        ("much of Δ lies in “first token”", said),
        ("little in", said),
        ("about evenly", region_sentence("Guess", find_regions(even, np.tri(LENGTH)))),
        ("no Δ", nothing),
    ):
        assert words in sentence


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("preset", ["as_run", "rows"])
def test_a_batch_waits_once_for_the_device(monkeypatch, preset: str, fits: bool) -> None:
    """For which of its sequences count; the means of the checks for nothing until the end."""
    if not fits:
        monkeypatch.setattr(maps_device, "_OTHER_BYTES", 0)
    packed = torch.rand(48, 2, 210) / 20
    maps, labels = TensorMaps(packed), torch.arange(48) % 3
    (trained,) = train_cnns(
        maps,
        [Wanted(labels, CnnSetting(3, 2, "max"), 0)],
        n_classes=3,
        preset=replace(PRESETS[preset], epochs=1, min_steps=0),
    )
    trained = replace(
        trained, network=trained.network.to(DEVICE), scaling=trained.scaling.to(DEVICE)
    )
    found = {}

    def of_three(one, *arguments, **asked):
        return decisiveness_of_each([one] * 3, *arguments, **asked)

    for ask in (decisiveness, of_three, class_means):
        for n in (8, 16, 48):  # places of the triangle are sent once and kept
            some = TensorMaps(packed[:n])
            with count_waits(monkeypatch) as counted:
                ask(
                    trained,
                    some,
                    labels[:n],
                    max_maps=some,
                    attribution="gradient",
                    batch_size=8,
                )
            found[ask.__name__, n] = counted.n
    for name, n_waits in (("decisiveness", 1), ("of_three", 1), ("class_means", 0)):
        few, many = found[name, 16], found[name, 48]
        assert (many["from"] - few["from"]) / 4 == n_waits
        assert many["wait"] == few["wait"] == 0
