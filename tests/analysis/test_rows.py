"""Which rows a model cannot know and which it was trained on, counted, half counted and not."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mnemoscope.analysis import dynamics, inject, perturb
from mnemoscope.analysis.rows import UNCOUNTED, training_rows, unseen_rows
from mnemoscope.errors import UserError
from tests.analysis.test_groups import DYNAMICS, INJECT, PERTURB


def of_counts(inputs, counts):
    """The study with these duplicates; its last third is what the model does not reproduce."""
    column = pl.Series("duplicates", counts, dtype=pl.Int64)
    return replace(inputs, table=inputs.table.with_columns(column))


def test_rows_without_any_count_are_unseen_where_the_model_does_not_know_them(taught) -> None:
    """As `features` leaves them: a column of nulls."""
    inputs = of_counts(taught, [None] * 90)
    unseen = unseen_rows(inputs, 30, 0, where="analyze x")
    assert not unseen["is_memorized"].any()
    trained = training_rows(inputs, 90, where="analyze x")
    known = inputs.table.filter("is_memorized")["tokens"].to_list()
    assert trained.tolist() == known
    with pytest.raises(UserError, match=r"30 sequences .* no duplicates are counted\), and 31"):
        unseen_rows(inputs, 31, 0, where="analyze x")


def test_a_row_that_was_not_counted_is_neither_trained_on_nor_unseen(taught) -> None:
    counts = np.where(np.arange(90) % 3 == 2, 0, 4).astype(object)
    counts[:45] = None
    inputs = of_counts(taught, counts.tolist())
    ids = inputs.table["sequence_id"]
    unseen = unseen_rows(inputs, 15, 0, where="analyze x")
    assert set(unseen["sequence_id"]) == set(ids[47::3])
    trained = training_rows(inputs, 90, where="analyze x")
    rest = [
        row for place, row in enumerate(inputs.table["tokens"]) if place >= 45 and place % 3 < 2
    ]
    assert trained.tolist() == [row.to_list() for row in rest]
    with pytest.raises(UserError, match=r"15 sequences .*\(duplicates 0\), and 16 are needed"):
        unseen_rows(inputs, 16, 0, where="analyze x")


@pytest.mark.parametrize(
    ("module", "settings"), [(inject, INJECT), (dynamics, DYNAMICS), (perturb, PERTURB)]
)
def test_analyses_run_without_counts_and_say_so(taught, module, settings) -> None:
    result = module.analyse(of_counts(taught, [None] * 90), settings)
    assert UNCOUNTED in result.further
    assert "features.corpus" in UNCOUNTED
    for frame in result.frames.values():
        if "group" in frame.columns:
            assert not frame["group"].str.contains("trained on").any()
