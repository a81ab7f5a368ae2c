"""Which rows a model cannot know and which it was trained on, counted, half counted and not."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mnemoscope.analysis import perturb
from mnemoscope.analysis.inputs import OtherModel
from mnemoscope.analysis.registry import entry_named, run_analysis
from mnemoscope.analysis.rows import UNCOUNTED, classes_of, training_rows, unseen_rows
from mnemoscope.errors import UserError
from mnemoscope.lm.load import load_model
from tests.analysis.test_groups import PERTURB
from tests.tiny_models import save_model


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


def test_an_analysis_runs_without_counts_and_says_so(taught) -> None:
    result = perturb.analyse(of_counts(taught, [None] * 90), PERTURB)
    assert UNCOUNTED in result.further
    for frame in result.frames.values():
        if "group" in frame.columns:
            assert not frame["group"].str.contains("trained on").any()


def test_the_default_taxonomy_is_the_first_with_two_large_classes(taught) -> None:
    columns = {
        "one": ["A"] * 85 + ["B"] * 5,
        "two": ["C"] * 45 + ["D"] * 45,
        "three": ["E", "F"] * 45,
    }
    labels = taught.table.select("sequence_id").with_columns(
        pl.Series(name, values) for name, values in columns.items()
    )
    inputs = replace(taught, labels=labels)
    for minimum, first in ((1, "A"), (20, "C"), (80, "A")):
        found = classes_of(inputs, None, where="x", minimum=minimum)
        assert found["class"][0] == first


def test_what_asks_of_one_model_is_made_of_each_that_is_given(taught, tmp_path) -> None:
    """`length` of the taught model and of an untaught one: each with what it memorized itself."""
    untaught = load_model(save_model(tmp_path / "untaught", seed=9))
    inputs = replace(taught, others=(OtherModel("untaught", lambda: untaught),))
    settings = {"n_sequences": None, "prompt_lengths": [32]}
    entry = entry_named("length")
    result = run_analysis(entry, inputs, entry.settings(settings))
    alone = run_analysis(entry, taught, entry.settings(settings))
    for table, frame in result.frames.items():
        assert frame.filter(model="this model").drop("model").equals(alone.frames[table])
    lengths = result.frames["lengths"].group_by("model").agg(pl.col("is_memorized").sum())
    assert dict(lengths.rows()) == {"this model": 60, "untaught": 0}
    shares = result.frames["shares"].filter(group="all")
    assert dict(shares.select("model", "share").rows()) == {"this model": 60 / 90, "untaught": 0}
    assert any(line.startswith("untaught: From some prompt") for line in result.further)
    assert result.figures[-1].title.startswith("untaught: ")
