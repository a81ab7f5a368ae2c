"""The statistics equal a slow computation from their names; the regression finds a mark."""

import numpy as np
import pytest
import torch

from mnemoscope.benchmark.baselines import (
    ALL_STATISTICS,
    STATISTICS,
    all_statistics,
    classify_statistics,
    map_statistics,
)
from mnemoscope.maps.format import pack_triangle
from mnemoscope.maps.views import TensorMaps


def random_maps(n: int, n_layers: int, length: int, seed: int = 0) -> torch.Tensor:
    """Causal maps whose rows sum to one, in float16 as they are stored."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, n_layers, length, length, generator=generator)
    above = torch.ones(length, length).triu(1).bool()
    return scores.masked_fill(above, -torch.inf).softmax(-1).half()


def slow_statistics(layer: np.ndarray) -> list[float]:
    """The statistics of one layer, entry by entry."""
    length, half = len(layer), len(layer) // 2
    pairs = [(q, k) for q in range(length) for k in range(q + 1)]
    blocks = [
        [layer[q, k] for q, k in pairs if q < half],
        [layer[q, k] for q, k in pairs if q >= half and k < half],
        [layer[q, k] for q, k in pairs if k >= half],
    ]
    figures = [f(block) for block in blocks for f in (np.mean, np.std, np.max)]
    entropies = []
    for q in range(length):
        row = layer[q, : q + 1] / layer[q, : q + 1].sum()
        entropies.append(-sum(w * np.log(w) for w in row if w > 0))
    figures += [np.mean(entropies[:half]), np.mean(entropies[half:])]
    figures.append(np.mean([layer[q, q] for q in range(length)]))
    figures.append(np.mean([layer[q, q - 1] for q in range(1, length)]))
    figures.append(np.mean([layer[q, 0] for q in range(1, length)]))
    return figures


@pytest.mark.parametrize("length", [4, 16])
def test_statistics_equal_a_slow_computation(length: int) -> None:
    maps = random_maps(3, 2, length)
    fast = map_statistics(TensorMaps(pack_triangle(maps)))
    slow = [[slow_statistics(layer) for layer in one] for one in maps.double().numpy()]
    assert fast.shape == (3, 2, len(STATISTICS)) == (3, 2, 14)
    np.testing.assert_allclose(fast, slow, rtol=1e-9)  # both in float64, sums in another order


def slow_shape(layer: np.ndarray, tokens: np.ndarray) -> list[float]:
    """The shape of one layer, row by row and edge by edge, by the definitions."""
    length, half = len(layer), len(layer) // 2
    entropies, ginis = [], []
    for q in range(1, length):
        row = layer[q, : q + 1] / layer[q, : q + 1].sum()
        entropies.append(-sum(w * np.log(w) for w in row if w > 0))
        ginis.append(sum(abs(a - b) for a in row for b in row) / (2 * len(row) ** 2 * row.mean()))
    masses = dict.fromkeys(("first", "near", "copy", "pp", "sp", "ss"), 0.0)
    for q in range(length):
        for k in range(q + 1):
            masses["first"] += layer[q, k] * (k == 0)
            masses["near"] += layer[q, k] * (q - k <= 4)
            masses["copy"] += layer[q, k] * (k > 0 and tokens[k - 1] == tokens[q])
            block = "pp" if q < half else "sp" if k < half else "ss"
            masses[block] += layer[q, k]
    whole = layer.sum()
    return [np.mean(entropies), np.mean(ginis), *(mass / whole for mass in masses.values())]


@pytest.mark.parametrize("length", [8, 16])
def test_shapes_equal_a_slow_computation_on_tokens_that_repeat(length: int) -> None:
    maps = random_maps(3, 2, length)
    tokens = np.random.default_rng(0).integers(0, 4, (3, length))
    fast = all_statistics(TensorMaps(pack_triangle(maps)), tokens)
    slow = [
        [slow_shape(layer, tokens[n]) for layer in one]
        for n, one in enumerate(maps.double().numpy())
    ]
    assert fast.shape == (3, 2, len(ALL_STATISTICS)) == (3, 2, 22)
    np.testing.assert_allclose(fast[..., 14:], slow, rtol=1e-9)
    assert (fast[..., ALL_STATISTICS.index("mass on copy edges")] > 0).all()


def test_a_class_that_looks_along_the_copy_diagonals_is_found_by_their_mass() -> None:
    """Weight moves to the copy from the key beside it: blocks and bands hardly change."""
    generator = np.random.default_rng(0)
    tokens = np.stack([np.tile(generator.permutation(40)[:8], 3)[:16] for _ in range(300)])
    labels = np.arange(300) % 2
    maps = random_maps(300, 1, 16).float()
    for n in np.flatnonzero(labels):
        for q in range(8, 16):  # the copy of token q - 8 is key q - 7, its neighbour key q - 6
            give = 0.8 * maps[n, 0, q, q - 6]
            maps[n, 0, q, q - 6] -= give
            maps[n, 0, q, q - 7] += give
    packed = TensorMaps(pack_triangle(maps))
    right = []
    for statistics in (all_statistics(packed, tokens), map_statistics(packed)):
        fit = classify_statistics(statistics[:200], labels[:200], statistics[200:], 0)
        right.append((fit.predicted == labels[200:]).mean())
    assert right[0] > 0.8
    assert right[0] > right[1] + 0.15  # of 100, four standard deviations of a share near .8


def test_a_map_of_zeros_has_statistics_too() -> None:
    statistics = map_statistics(TensorMaps(torch.zeros(1, 1, 10)))
    assert (statistics == 0).all()


def test_more_maps_than_one_block_keep_their_order() -> None:
    maps = pack_triangle(random_maps(300, 1, 4))
    last = map_statistics(TensorMaps(maps[-2:]))
    np.testing.assert_array_equal(map_statistics(TensorMaps(maps))[-2:], last)


def test_a_class_that_looks_at_the_first_token_is_found() -> None:
    maps = random_maps(200, 2, 8).float()
    labels = np.arange(200) % 2
    maps[labels == 1, 1, 1:, 0] += 0.3
    statistics = map_statistics(TensorMaps(pack_triangle(maps)))
    fit = classify_statistics(statistics[:120], labels[:120], statistics[120:], 0)
    assert (fit.predicted == labels[120:]).mean() > 0.95
    assert fit.did_train


def test_shuffled_labels_are_read_at_chance() -> None:
    statistics = map_statistics(TensorMaps(pack_triangle(random_maps(800, 1, 8))))
    labels = np.random.default_rng(0).integers(0, 2, 800)
    fit = classify_statistics(statistics[:400], labels[:400], statistics[400:], 0)
    assert abs((fit.predicted == labels[400:]).mean() - 0.5) < 0.1  # 4 standard deviations
