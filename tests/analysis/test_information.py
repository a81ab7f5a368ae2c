"""Entropy and mutual information against tables, sklearn, scipy and the bivariate normal."""

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score

from mnemoscope.analysis.neurons import (
    bin_edges,
    binned,
    entropies,
    mean_information,
    shuffled_columns,
)


def test_entropy_of_tables_of_known_value() -> None:
    """Constant 0, a fair coin ln 2, four even bins ln 4, thirds and two thirds."""
    codes = np.array([[0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 2, 1], [0, 1, 3, 0]] * 3)
    codes = np.concatenate([codes, codes[:0]])
    codes[:, 3] = [0] * 4 + [1] * 8
    thirds = np.log(3) - (2 / 3) * np.log(2)
    np.testing.assert_allclose(entropies(codes, 4), [0, np.log(2), np.log(4), thirds])
    # the printed first equation: sum of p squared times ln 1/p
    printed = [0, np.log(2) / 2, np.log(4) / 4, np.log(3) / 9 + 4 / 9 * np.log(1.5)]
    np.testing.assert_allclose(entropies(codes, 4, published=True), printed, atol=1e-12)


def test_entropy_and_information_are_scipys_and_sklearns() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 5, (300, 6))
    codes[:, 1] = (codes[:, 0] + generator.integers(0, 2, 300)) % 5
    wanted = [entropy(np.bincount(column)) for column in codes.T]
    np.testing.assert_allclose(entropies(codes, 5), wanted)
    pairs = [mutual_info_score(codes[:, i], codes[:, j]) for i in range(6) for j in range(i)]
    assert mean_information(codes, 5) == pytest.approx(np.mean(pairs), rel=1e-9)


def test_information_of_tables_of_known_value() -> None:
    """Equal: ln 2; independent by design: 0; a channel that errs a quarter of the time."""
    equal = np.array([[0, 0], [1, 1]] * 8)
    apart = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 4)
    noisy = np.array([[0, 0]] * 6 + [[0, 1]] * 2 + [[1, 1]] * 6 + [[1, 0]] * 2)
    assert mean_information(equal, 2) == pytest.approx(np.log(2))
    assert mean_information(apart, 2) == pytest.approx(0, abs=1e-12)
    wanted = np.log(2) - entropy([0.25, 0.75])
    assert mean_information(noisy, 2) == pytest.approx(wanted)


@pytest.mark.parametrize("kind", ["quantile", "width"])
def test_the_bivariate_normal_has_its_closed_form(kind) -> None:
    """−½ ln(1 − ρ²) = .511 at ρ = .8; binning can only lose (about 2 % with 30 bins)."""
    generator, rho = np.random.default_rng(1), 0.8
    first, noise = generator.standard_normal((2, 200_000))
    values = np.stack([first, rho * first + np.sqrt(1 - rho**2) * noise], axis=1)
    codes = binned(values, bin_edges(values, 30, kind))
    assert mean_information(codes, 30) == pytest.approx(-0.5 * np.log(1 - rho**2), rel=0.03)


def test_the_shuffled_null_is_the_bias() -> None:
    """(bins − 1)² / 2n for independent neurons; columns keep what they hold."""
    generator = np.random.default_rng(2)
    values = generator.standard_normal((400, 40)) + generator.standard_normal((400, 1))
    codes = binned(values, bin_edges(values, 6, "quantile"))
    shuffled = shuffled_columns(codes, generator)
    assert (np.sort(shuffled, axis=0) == np.sort(codes, axis=0)).all()
    assert mean_information(shuffled, 6) == pytest.approx(25 / 800, rel=0.1)
    assert mean_information(codes, 6) > 3 * 25 / 800


def test_bins_are_even_or_of_even_width_and_hold_every_value() -> None:
    values = np.random.default_rng(3).exponential(size=(800, 3))
    even = binned(values, bin_edges(values, 8, "quantile"))
    assert (np.stack([np.bincount(column) for column in even.T]) == 100).all()
    wide = binned(values, bin_edges(values, 8, "width"))
    theirs = np.histogram(values[:, 1], bins=8)[0]  # its last bin takes the greatest value
    mine = np.bincount(wide[:, 1], minlength=8)
    assert mine.tolist() == theirs.tolist()
    constant = np.ones((10, 1))
    assert entropies(binned(constant, bin_edges(constant, 4, "quantile")), 4).tolist() == [0.0]
