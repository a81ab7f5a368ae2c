"""Intervals against scipy's bootstrap, their coverage, and what pairing promises."""

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from mnemoscope.cnn.metrics import (
    bootstrap_difference,
    bootstrap_scores,
    confusion_matrix,
    draw_resamples,
    min_f1,
    min_f1_of_each,
    resample_confusions,
)


def predict(
    generator: np.random.Generator, true: np.ndarray, runs: int, right: float
) -> np.ndarray:
    """Predictions that are right with a given share; hard sequences are hard for every run."""
    n_classes = int(true.max()) + 1
    ease = generator.beta(8 * right, 8 * (1 - right), len(true))
    is_right = generator.random((runs, len(true))) < ease
    wrong = (true + generator.integers(1, n_classes, (runs, len(true)))) % n_classes
    return np.where(is_right, true, wrong)


def scipy_interval(predictions: np.ndarray, true: np.ndarray, figure) -> tuple[float, float]:
    """scipy resamples every class as a sample of its own: the same design, written elsewhere."""
    members = [np.flatnonzero(true == c) for c in range(int(true.max()) + 1)]

    def statistic(*chosen: np.ndarray) -> float:
        rows = np.concatenate(chosen).astype(int)
        return figure(confusion_matrix(true[rows], predictions[:, rows], len(members)))

    found = bootstrap(
        members, statistic, vectorized=False, method="percentile", n_resamples=2_000, rng=5
    ).confidence_interval
    return found.low, found.high


@pytest.mark.parametrize("sizes", [(60, 60, 60), (30, 90, 60)])
def test_min_f1_interval_equals_scipys(sizes: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    true = np.repeat(np.arange(3), sizes)
    predictions = predict(generator, true, 4, 0.7)
    ours = bootstrap_scores(predictions, true, n_classes=3, seed=1, n_resamples=4_000)
    low, high = scipy_interval(predictions, true, min_f1)
    # the 2.5 % quantile of 2,000 draws of deviation .04 has a standard error of about .002
    assert ours.min_f1.low == pytest.approx(low, abs=0.008)
    assert ours.min_f1.high == pytest.approx(high, abs=0.008)


def test_intervals_cover_the_truth_as_often_as_they_claim() -> None:
    generator = np.random.default_rng(3)
    true = np.repeat(np.arange(3), 80)
    sure, n_studies, n_covered = 0.7, 400, 0
    for study in range(n_studies):
        predictions = predict(generator, true, 3, sure)
        found = bootstrap_scores(predictions, true, n_classes=3, seed=study, n_resamples=300)
        n_covered += found.recall[0].low <= sure <= found.recall[0].high
    # percentile intervals of 80 sequences cover a little less than .95
    assert binomtest(n_covered, n_studies, 0.90, alternative="less").pvalue > 1e-3
    assert binomtest(n_covered, n_studies, 0.98, alternative="greater").pvalue > 1e-3


def test_repeating_a_run_narrows_nothing() -> None:
    true = np.repeat(np.arange(3), 40)
    one = predict(np.random.default_rng(0), true, 1, 0.7)
    again = bootstrap_scores(np.repeat(one, 24, axis=0), true, n_classes=3, seed=0)
    assert again == bootstrap_scores(one, true, n_classes=3, seed=0)


def test_no_class_can_vanish_from_a_resample() -> None:
    true = np.array([0, 0, 1, 1, 1, 2])
    drawn = draw_resamples(true, seed=0, n_resamples=500, n_runs=4)
    for label, size in ((0, 2), (1, 3), (2, 1)):
        assert (drawn.sequences[:, true == label].sum(axis=1) == size).all()
    assert drawn.runs is not None
    assert (drawn.runs.sum(axis=1) == 4).all()


def test_resampled_matrices_equal_matrices_counted_one_by_one() -> None:
    generator = np.random.default_rng(0)
    true = generator.permutation(np.repeat(np.arange(3), (5, 9, 7)))
    predictions = generator.integers(0, 3, (4, len(true)))
    drawn = draw_resamples(true, seed=2, n_resamples=20, n_runs=4)
    found = resample_confusions(predictions, true, 3, drawn)
    for row, weights, runs in zip(found, drawn.sequences, drawn.runs, strict=True):
        rows = np.repeat(np.arange(len(true)), weights)
        chosen = np.repeat(np.arange(4), runs)
        expected = confusion_matrix(true[rows], predictions[chosen][:, rows], 3)
        np.testing.assert_array_equal(row, expected)


def test_blocks_of_runs_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    true = np.repeat(np.arange(3), 20)
    predictions = predict(np.random.default_rng(0), true, 9, 0.6)
    whole = bootstrap_scores(predictions, true, n_classes=3, seed=0)
    monkeypatch.setattr("mnemoscope.cnn.metrics._BLOCK_BYTES", 1)
    assert bootstrap_scores(predictions, true, n_classes=3, seed=0) == whole


def test_equal_predictions_differ_by_exactly_0() -> None:
    true = np.repeat(np.arange(3), 30)
    predictions = predict(np.random.default_rng(0), true, 3, 0.6)
    found = bootstrap_difference(predictions, predictions, true, n_classes=3, seed=0)
    assert (found.value, found.interval) == (0.0, (0.0, 0.0))


def test_difference_changes_sign_with_the_order_and_is_that_of_the_figures() -> None:
    generator = np.random.default_rng(0)
    true = np.repeat(np.arange(3), 50)
    first, second = predict(generator, true, 3, 0.8), predict(generator, true, 3, 0.6)
    there = bootstrap_difference(first, second, true, n_classes=3, seed=4)
    back = bootstrap_difference(second, first, true, n_classes=3, seed=4)
    matrices = [confusion_matrix(true, predictions, 3) for predictions in (first, second)]
    assert there.value == pytest.approx(min_f1(matrices[0]) - min_f1(matrices[1]), abs=1e-12)
    assert back.value == -there.value
    assert back.interval == pytest.approx((-there.interval.high, -there.interval.low), abs=1e-12)
    assert there.interval.low > 0


def test_pairing_makes_the_interval_of_a_shared_difficulty_narrower() -> None:
    generator = np.random.default_rng(0)
    true = np.repeat(np.arange(2), 100)
    first = predict(generator, true, 1, 0.7)
    second = np.where(generator.random(first.shape) < 0.05, 1 - first, first)
    paired = bootstrap_difference(first, second, true, n_classes=2, seed=0).interval
    alone = [
        bootstrap_scores(predictions, true, n_classes=2, seed=seed).min_f1
        for seed, predictions in enumerate((first, second))
    ]
    unpaired = np.hypot(*(one.high - one.low for one in alone))
    assert paired.high - paired.low < 0.7 * unpaired


def test_a_control_with_one_run_stands_beside_several_seeds() -> None:
    generator = np.random.default_rng(0)
    true = np.repeat(np.arange(3), 30)
    seeds, single = predict(generator, true, 3, 0.7), predict(generator, true, 1, 0.7)
    alone = bootstrap_difference(seeds, single[0], true, n_classes=3, seed=0)
    tripled = bootstrap_difference(seeds, np.repeat(single, 3, axis=0), true, n_classes=3, seed=0)
    assert alone.interval == pytest.approx(tripled.interval, abs=1e-12)
    assert alone.value == pytest.approx(tripled.value, abs=1e-12)


def test_another_figure_can_be_compared() -> None:
    true = np.repeat(np.arange(3), 30)
    predictions = predict(np.random.default_rng(0), true, 2, 0.7)
    found = bootstrap_difference(
        predictions,
        true,
        true,
        n_classes=3,
        seed=0,
        figure=lambda confusions: min_f1_of_each(confusions) * 0 + 1.5,
    )
    assert found.interval == (0.0, 0.0)


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    true = np.repeat(np.arange(3), 30)
    predictions = predict(np.random.default_rng(0), true, 2, 0.7)
    first, again, other = (
        bootstrap_scores(predictions, true, n_classes=3, seed=seed).min_f1 for seed in (1, 1, 2)
    )
    assert first == again != other


def test_shapes_that_do_not_fit_are_refused() -> None:
    true = np.array([0, 1])
    drawn = draw_resamples(true, seed=0, n_resamples=3, n_runs=2)
    with pytest.raises(ValueError, match="number of sequences"):
        resample_confusions([[0, 1, 1]], true, 2, drawn)
    with pytest.raises(ValueError, match="3 runs"):
        resample_confusions([[0, 1]] * 3, true, 2, drawn)
    with pytest.raises(ValueError, match="without sequences"):
        bootstrap_scores([[0, 0]], [0, 0], n_classes=2, seed=0)
