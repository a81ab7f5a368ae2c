"""Pairwise AUC equals scikit-learn's, its bootstrap one by copying, its excess is paired."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from benchmark_cases import MEAN, predictions_of, runs_of
from sklearn.metrics import roc_auc_score

from mnemoscope.benchmark.excess import (
    Votes,
    auc_by_chance,
    auc_of_each,
    auc_pairs,
    collect_votes,
    estimate_auc,
)
from mnemoscope.benchmark.table import score_benchmark
from mnemoscope.cnn.presets import CnnSetting
from mnemoscope.stats import draw_within, rows_of

TRUE = np.arange(120) % 4
IDS = np.random.default_rng(5).permutation(120)
SEEDS = (0, 1, 2)


def shares(strength: float, salt: int, true: np.ndarray = TRUE, step: float = 0.0) -> np.ndarray:
    """Probabilities that lean to the class; with `step` they are rounded, so that many tie."""
    generator = np.random.default_rng(salt)
    logits = generator.normal(size=(len(true), true.max() + 1)) + strength * np.eye(4)[true]
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.round(found / step) * step if step else found


def table_of(source: str, strength: float, *, epochs: tuple[int, ...] = (-1,), step: float = 0.0):
    parts = []
    for setting in (MEAN, CnnSetting(8, 10, "mean")):
        for seed in SEEDS:
            found = shares(strength, 100 * len(source) + 10 * seed + len(setting.slug), step=step)
            parts += [
                predictions_of(
                    source,
                    TRUE,
                    {seed: found.argmax(axis=1)},
                    setting=setting,
                    epoch=epoch,
                    ids=IDS,
                    probabilities=found,
                )
                for epoch in epochs
            ]
    return pl.concat(parts)


def votes_of(source: str, strength: float, **options) -> Votes:
    return collect_votes(table_of(source, strength, **options), 4, where="x")


def values(estimates) -> list[float]:
    return [one.value for one in estimates]


def slow_auc(true: np.ndarray, scores: np.ndarray, pair: tuple[int, int]) -> float:
    """One training's AUC by scikit-learn on the probability ratio."""
    rows = np.isin(true, pair)
    first, second = (scores[rows, label].astype(np.float64) for label in pair)
    total = first + second
    ratio = np.divide(first, total, out=np.full_like(total, 0.5), where=total > 0)
    return float(roc_auc_score(true[rows] == pair[0], ratio))


@pytest.mark.parametrize(("step", "epochs"), [(0.0, (-1,)), (0.125, (0, 1, 2))])
def test_auc_equals_scikit_learn_averaged_over_trainings(step: float, epochs) -> None:
    votes = votes_of("model", 0.8, step=step, epochs=epochs)
    assert votes.scores.shape == (6, 120, 4)  # epochs of one training share their probabilities
    found = estimate_auc(votes, seed=0, n_resamples=20)
    for value, pair in zip(values(found), auc_pairs(4), strict=True):
        wanted = np.mean([slow_auc(votes.true, one, pair) for one in votes.scores])
        assert value == pytest.approx(wanted, abs=1e-12)  # both count pairs exactly


def test_every_resample_equals_scikit_learn_on_the_copied_sequences() -> None:
    votes = votes_of("model", 0.8, step=0.05)
    drawn = draw_within(votes.true, np.random.default_rng(3), 3)
    for pair in auc_pairs(4):
        found = auc_of_each(votes, pair, drawn)
        for resample, counts in enumerate(drawn):
            rows = np.repeat(np.arange(120), counts)
            wanted = [slow_auc(votes.true[rows], one[rows], pair) for one in votes.scores]
            np.testing.assert_allclose(found[:, resample], wanted, atol=1e-12)


def test_by_chance_is_scikit_learn_s_on_classes_dealt_anew_to_groups() -> None:
    votes = replace(votes_of("model", 0.8, step=0.05), groups=np.repeat(np.arange(40), 3))
    votes = replace(votes, true=np.repeat(np.arange(40) % 4, 3))
    generator = np.random.default_rng([7, 1])
    for found, pair in zip(auc_by_chance(votes, seed=7), auc_pairs(4), strict=True):
        of_groups = votes.true[::3][np.isin(votes.true[::3], pair)]
        rows, drawn = np.isin(votes.true, pair), []
        for _ in range(20):
            dealt = votes.true.copy()
            dealt[rows] = np.repeat(generator.permutation(of_groups), 3)
            drawn.append(np.mean([slow_auc(dealt, one, pair) for one in votes.scores]))
        assert tuple(found) == pytest.approx((min(drawn), max(drawn)), abs=1e-12)


def test_a_probability_of_zero_is_the_surest_and_two_of_them_tie() -> None:
    true = np.array([0, 0, 1, 1, 2, 2])
    sure = np.eye(3)[true]
    votes = collect_votes(
        predictions_of("model", true, {0: true}, probabilities=sure), 3, where="x"
    )
    assert values(estimate_auc(votes, seed=0, n_resamples=10)) == [1, 1, 1]
    lost = np.eye(3)[[2, 2, 2, 2, 2, 2]]  # neither of the first two classes is ever thought of
    table = predictions_of("model", true, {0: true}, probabilities=lost)
    found = estimate_auc(collect_votes(table, 3, where="x"), seed=0, n_resamples=10)
    assert values(found) == [0.5, 0.5, 0.5]


def test_the_table_holds_the_auc_of_every_source_and_the_excess_of_the_model() -> None:
    parts = pl.concat([table_of("model", 1.5), table_of("blind", 0.3)])
    names = ("Non-Memo", "A", "B", "C")
    model, blind = rows_of(score_benchmark(parts, runs_of(parts), names, n_resamples=50))
    for row in (model, blind):
        assert row["auc_pairs"][-1] == "B | C"
        assert all(one.low < one.value < one.high for one in row["auc"])
    gap = np.subtract(values(model["auc"]), values(blind["auc"]))
    np.testing.assert_allclose(values(model["auc_excess"]), gap)
    assert blind["auc_excess"] == []
    bare = parts.drop("probabilities")  # without them there is no AUC, and the rest stays
    model, _ = rows_of(score_benchmark(bare, runs_of(bare), names, n_resamples=50))
    assert model["auc"] == model["auc_excess"] == []
    assert model["excess"].value > 0
