"""Which rows a model cannot know and which it was trained on; what is made of them, by group."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from figure_columns import apart
from mnemoscope.analysis import dynamics, inject, perturb
from mnemoscope.analysis.inputs import OtherModel
from mnemoscope.analysis.registry import entry_named, run_analysis
from mnemoscope.analysis.rows import UNCOUNTED, classes_of, training_rows, unseen_rows
from mnemoscope.errors import UserError
from mnemoscope.lm.load import load_model
from tests.tiny_models import save_model

INJECT = inject.Settings(
    n_texts=12, every=3, n_insertions=1, steps_after=0, batch_size=16, prompts=(32,), stride=64
)
DYNAMICS = dynamics.Settings(
    n_special=12, batch_size=12, epochs=1, n_repeats=2, gap=2, steps_before=0, steps_after=5
)
PERTURB = perturb.Settings(
    n_sequences=12, n_unlearned=12, shifts=(1,), batch_size=12, max_steps=2, learning_rate=1e-3
)
INTERVALS = {
    "inject": {"lengths": "length", "effect": "more"},
    "dynamics": {"learning": "m", "forgetting": "m", "floors": "above_never"},
    "perturb": {"unlearning": "tokens", "beside": "right"},
}


def of_counts(inputs, counts):
    """The study with these duplicates; its last third is what the model does not reproduce."""
    column = pl.Series("duplicates", counts, dtype=pl.Int64)
    return replace(inputs, table=inputs.table.with_columns(column))


def test_what_was_not_counted_is_neither_trained_on_nor_unseen(taught) -> None:
    table = taught.table
    # as `features` leaves them, a column of nulls: unseen is what the model does not know
    inputs = of_counts(taught, [None] * 90)
    assert not unseen_rows(inputs, 30, 0, where="analyze x", setting="n")["is_memorized"].any()
    trained = training_rows(inputs, 90, where="analyze x")
    assert trained.tolist() == table.filter("is_memorized")["tokens"].to_list()
    with pytest.raises(UserError, match=r"30 sequences .* no duplicates are counted\), and 31"):
        unseen_rows(inputs, 31, 0, where="analyze x", setting="n")
    # counted for the second half alone
    counts = np.where(np.arange(90) % 3 == 2, 0, 4).astype(object)
    counts[:45] = None
    inputs = of_counts(taught, counts.tolist())
    unseen = unseen_rows(inputs, 15, 0, where="analyze x", setting="n")
    assert set(unseen["sequence_id"]) == set(table["sequence_id"][47::3])
    trained = training_rows(inputs, 90, where="analyze x")
    rest = table[45:].filter(pl.int_range(45) % 3 < 2)
    assert trained.tolist() == rest["tokens"].to_list()
    with pytest.raises(UserError, match=r"15 sequences .*\(duplicates 0\), and 16 are needed"):
        unseen_rows(inputs, 16, 0, where="analyze x", setting="n")


@pytest.mark.parametrize(
    ("module", "settings"), [(inject, INJECT), (dynamics, DYNAMICS), (perturb, PERTURB)]
)
def test_intervals_of_what_is_trained_draw_groups(taught, module, settings) -> None:
    def of_groups(n: int):
        table = taught.table.with_columns(near_duplicates=pl.int_range(pl.len()) // 3 % n)
        frames = module.analyse(replace(taught, table=table), settings).frames
        return {name: apart(frame) for name, frame in frames.items()}

    many, few = of_groups(1000), of_groups(9)
    for frame, column in INTERVALS[module.__name__.rsplit(".", 1)[-1]].items():
        assert many[frame][column].to_list() == few[frame][column].to_list()
        for end in (f"{column}_low", f"{column}_high"):
            assert many[frame][end].null_count() == 0
            assert few[frame][end].count() == 0
    counted = [frame["n_groups"].max() for frame in few.values() if "n_groups" in frame.columns]
    assert 0 < max(counted) <= 9


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
    result = run_analysis(entry, inputs, entry.settings(**settings))
    alone = run_analysis(entry, taught, entry.settings(**settings))
    for table, frame in result.frames.items():
        assert frame.filter(model="this model").drop("model").equals(alone.frames[table])
    lengths = result.frames["lengths"].group_by("model").agg(pl.col("is_memorized").sum())
    assert dict(lengths.rows()) == {"this model": 60, "untaught": 0}
    shares = apart(result.frames["shares"]).filter(group="all")
    assert dict(shares.select("model", "share").rows()) == {"this model": 60 / 90, "untaught": 0}
    assert any(line.startswith("untaught: From some prompt") for line in result.further)
    assert result.figures[-1].title.startswith("untaught: ")
