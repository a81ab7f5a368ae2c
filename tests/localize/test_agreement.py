"""Agreement of two maps, against SciPy's correlations."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from mnemoscope.localize.delta import agreement, mean_agreement


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


def test_a_map_agrees_wholly_with_itself_scaled_and_a_reversed_one_not():
    first = np.random.default_rng(0).permutation(3 * 400).reshape(3, 20, 20).astype(float)
    assert agreement(first, 3 * first + 1) == pytest.approx((1, 1, 1))
    assert agreement(first, -first) == pytest.approx((-1, -1, 0))


def test_overlap_counts_the_top_hundredth():
    first, second = np.zeros((1, 20, 20)), np.zeros((1, 20, 20))  # 210 edges, 2 of them the top
    first[0, 5, 1], first[0, 6, 1] = 2.0, 1.0
    second[0, 6, 1], second[0, 7, 1] = 2.0, 1.0
    assert agreement(first, second).overlap == 0.5


def test_a_map_without_structure_has_no_agreement():
    assert agreement(a_map(0), np.ones((3, 20, 20))) == (None, None, None)
    assert mean_agreement([]) == mean_agreement([a_map(0)]) == (None, None, None)
    with pytest.raises(ValueError, match="shape"):
        agreement(a_map(0), a_map(0)[:2])


def test_the_mean_is_over_all_pairs():
    maps = [a_map(seed) for seed in range(3)]
    pairs = [agreement(maps[i], maps[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert mean_agreement(maps) == pytest.approx(np.mean(pairs, axis=0))
