"""The long table becomes arrays whatever its row order, and is refused when it is not whole."""

import numpy as np
import polars as pl
import pytest
from benchmark_cases import MEAN, noisy, predictions_of

from mnemoscope.benchmark.excess import collect_votes
from mnemoscope.cnn.presets import CnnSetting
from mnemoscope.errors import DamagedDataError

TRUE = np.arange(12) % 3
IDS = np.array([5, 3, 9, 100, 7, 1, 2, 4, 6, 8, 10, 12])


@pytest.fixture
def table() -> pl.DataFrame:
    seeds = {seed: noisy(TRUE, 0.7, seed) for seed in (0, 4)}
    return pl.concat(
        predictions_of("model", TRUE, seeds, setting=setting, epoch=epoch, ids=IDS)
        for setting in (MEAN, CnnSetting(8, 10, "mean"))
        for epoch in (0, 1)
    )


def test_row_order_does_not_matter(table: pl.DataFrame) -> None:
    votes = collect_votes(table, 3, where="x")
    shuffled = collect_votes(table.sample(fraction=1, shuffle=True, seed=1), 3, where="x")
    assert votes.sequence_ids.tolist() == sorted(IDS)
    assert votes.true.tolist() == TRUE[np.argsort(IDS)].tolist()
    assert votes.predicted.shape == (8, 12)
    assert votes.seeds.tolist() == [0, 0, 4, 4] * 2
    np.testing.assert_array_equal(votes.predicted, shuffled.predicted)
    np.testing.assert_array_equal(votes.predicted[0], noisy(TRUE, 0.7, 0)[np.argsort(IDS)])
    part = votes.at(np.array([1, 4]))
    assert part.sequence_ids.tolist() == votes.sequence_ids[[1, 4]].tolist()
    np.testing.assert_array_equal(part.predicted, votes.predicted[:, [1, 4]])
    assert part.probabilities.shape == (2, 3)


def test_probabilities_are_vote_shares_where_none_were_kept_else_averaged(table) -> None:
    votes = collect_votes(table, 3, where="x")
    for row in range(12):
        shares = [(votes.predicted[:, row] == c).mean() for c in range(3)]
        assert votes.probabilities[row].tolist() == shares
    low, high = np.full((12, 3), [0.2, 0.3, 0.5]), np.full((12, 3), [0.6, 0.3, 0.1])
    table = pl.concat(
        predictions_of("blind", TRUE, {seed: TRUE}, ids=IDS, probabilities=shares)
        for seed, shares in ((0, low), (1, high))
    )
    votes = collect_votes(table, 3, where="x")
    # Kept as float32: 7 digits.
    np.testing.assert_allclose(votes.probabilities, np.full((12, 3), [0.4, 0.3, 0.3]), rtol=1e-6)


def first_is(value: int, name: str):
    changed = pl.when(pl.int_range(pl.len()) == 0).then(value).otherwise(name).alias(name)
    return lambda table: table.with_columns(changed)


TORN = [
    (lambda table: table[1:], 3, "x: 95 rows for 8 runs of 12 sequences"),
    (first_is(3, "sequence_id"), 3, "runs differ in their sequences"),
    (first_is(2, "true"), 3, "true classes"),
    (lambda table: table, 2, "class 0 to 2, wanted 0 to 1"),
]


@pytest.mark.parametrize(("tear", "n_classes", "said"), TORN)
def test_a_table_that_is_not_whole_is_refused(table, tear, n_classes: int, said: str) -> None:
    with pytest.raises(DamagedDataError, match=said):
        collect_votes(tear(table), n_classes, where="x")
