"""PSMI against numerical integration on Gaussian classes, shuffled labels, noise, the stop."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from mnemoscope.analysis.psmi import sliced_information
from mnemoscope.errors import UserError


def gaussian_classes(n: int, gap: float, width: int = 1, seed: int = 0):
    """Two classes of n rows each, unit spread, means 0 and (gap, 0, …)."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1], n)
    vectors = generator.standard_normal((2 * n, width))
    vectors[n:, 0] += gap
    return vectors, labels


def information(gap: float) -> float:
    """Mutual information of two equal unit normals `gap` apart and their label, integrated."""

    def mixed(z: float) -> float:
        return 0.5 * norm.pdf(z) + 0.5 * norm.pdf(z, gap)

    def part(z: float) -> float:
        return norm.pdf(z) * (norm.logpdf(z) - np.log(mixed(z)))

    return quad(part, -12, 12 + gap)[0]  # the other class is its mirror image


@pytest.mark.parametrize("gap", [0.0, 1.0, 3.0])
def test_on_one_axis_it_is_the_mutual_information(gap: float) -> None:
    """Standard error of 20,000 rows is below .005; plug-in bias is 2 / 20,000."""
    found = sliced_information(*gaussian_classes(10_000, gap), seed=0, n_directions=4)
    assert found.values.mean() == pytest.approx(information(gap), abs=0.01)
    assert found.spread.max() < 1e-9  # one axis has one direction and its mirror image


def test_in_the_plane_it_is_the_mean_over_angles() -> None:
    """A direction at angle a sees the gap times cos a."""
    wanted = quad(lambda a: information(2.5 * np.cos(a)), 0, np.pi / 2)[0] / (np.pi / 2)
    found = sliced_information(*gaussian_classes(2_000, 2.5, width=2), seed=1, n_directions=500)
    # 500 directions: standard error .009; 4,000 rows: .007
    assert found.values.mean() == pytest.approx(wanted, abs=0.03)


def test_each_row_is_its_own_logarithm_of_densities() -> None:
    """On one axis, row by row, from scipy's densities with the labels' own mean and spread."""
    vectors, labels = gaussian_classes(40, 1.5)
    labels[:7] = 1  # unequal classes
    z = vectors[:, 0]
    parts = [z[labels == one] for one in (0, 1)]
    density = np.stack([norm.pdf(z, part.mean(), part.std()) for part in parts])
    share = np.array([len(part) / 80 for part in parts])
    wanted = np.log(density[labels, np.arange(80)] / (share @ density))
    for published in (False, True):
        found = sliced_information(vectors, labels, seed=3, n_directions=3, published=published)
        np.testing.assert_allclose(found.values, wanted, atol=1e-5)  # the mixture is in float32


def test_shuffled_labels_give_about_nothing_and_noise_lowers() -> None:
    vectors, labels = gaussian_classes(1_000, 3.0, width=8)
    generator = np.random.default_rng(5)
    noisy = np.where(generator.random(2_000) < 0.2, 1 - labels, labels)
    clean, noised, shuffled = (
        sliced_information(vectors, one, seed=0, n_directions=300).values
        for one in (labels, noisy, generator.permutation(labels))
    )
    assert clean.mean() > 2 * noised.mean() > 0
    assert abs(shuffled.mean()) < 0.003  # plug-in bias: two parameters a label over 2,000 rows
    wrong = noisy != labels
    assert noised[wrong].mean() < 0 < noised[~wrong].mean()


def test_the_same_seed_gives_the_same_and_another_seed_not() -> None:
    vectors, labels = gaussian_classes(50, 1.0, width=5)
    first, again, other = (
        sliced_information(vectors, labels, seed=seed, n_directions=50).values for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_the_automatic_stop_is_near_many_directions() -> None:
    """The published bar: the mean error against 20,000 directions is below .01."""
    vectors, labels = gaussian_classes(60, 2.0, width=16)
    found = sliced_information(vectors, labels, seed=0)
    many = sliced_information(vectors, labels, seed=9, n_directions=20_000)
    assert found.settled
    assert 1_000 <= found.n_directions <= 6_000
    assert found.n_directions % 500 == 0
    assert np.abs(found.values - many.values).mean() < 0.01
    few = sliced_information(*gaussian_classes(60, 0.0, width=16), seed=0, max_directions=500)
    assert not few.settled
    assert few.n_directions == 500


def test_the_stop_comes_when_the_noise_of_directions_allows() -> None:
    """The change of a mean from half of K directions to all is .8 spread / sqrt(K) on average.

    One axis of 64 tells: the lowest values are small beside their spread, and more than 6,000
    directions are needed. The rule stops at the first block that looks settled, so somewhat
    before that number.
    """
    vectors, labels = gaussian_classes(60, 2.0, width=64)
    found = sliced_information(vectors, labels, seed=0)
    lowest = np.argsort(found.values)[:6]
    ratio = (found.spread[lowest] / np.abs(found.values[lowest])).mean()
    needed = (0.8 * ratio / 0.05) ** 2
    assert found.settled
    assert needed / 4 < found.n_directions < 2 * needed
    assert found.n_directions > 6_000
    assert not sliced_information(vectors, labels, seed=0, max_directions=6_000).settled


def test_what_underflows_as_published_is_finite_here() -> None:
    """A row 200 spreads off, and a label whose rows are all one point."""
    vectors, labels = gaussian_classes(2_000, 1.0)
    vectors[0] = 200.0
    ours = sliced_information(vectors, labels, seed=0, n_directions=2)
    theirs = sliced_information(vectors, labels, seed=0, n_directions=2, published=True)
    assert np.isfinite(ours.values).all()
    assert not np.isfinite(theirs.values[0])
    np.testing.assert_allclose(ours.values[1:], theirs.values[1:], atol=1e-5)
    vectors[labels == 1] = 2.0
    ours = sliced_information(vectors, labels, seed=0, n_directions=2)
    theirs = sliced_information(vectors, labels, seed=0, n_directions=2, published=True)
    assert np.isfinite(ours.values).all()
    assert np.isnan(theirs.values).any()


def test_what_has_no_answer_is_refused_in_one_line() -> None:
    vectors, labels = gaussian_classes(10, 1.0)
    with pytest.raises(UserError, match="1 labels"):
        sliced_information(vectors, np.zeros(20), seed=0)
    with pytest.raises(UserError, match="smallest of 1"):
        sliced_information(vectors, [*labels[:-1], 7], seed=0)
    with pytest.raises(UserError, match="do not fit"):
        sliced_information(vectors, labels[:-1], seed=0)
    vectors[3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        sliced_information(vectors, labels, seed=0)
