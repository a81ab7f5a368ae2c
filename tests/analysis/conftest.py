"""Studies of known truth, as an analysis is given them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mnemoscope.analysis.inputs import AnalysisInputs, OtherModel
from mnemoscope.data.features import add_features
from mnemoscope.lm.load import load_model
from tests.tiny_models import make_sequences, save_model


def give_inputs(folder, n: int) -> AnalysisInputs:
    """Two thirds of the sequences are what the model says; of a third it knows nothing."""
    lm = load_model(folder)
    third = pl.int_range(pl.len()) % 3
    table = make_sequences(folder, n).with_columns(
        duplicates=pl.when(third == 2).then(0).otherwise("duplicates"),
        is_memorized=third < 2,
        text=pl.lit("none"),
    )
    table = add_features(table, length=64, code="off")
    return AnalysisInputs(where="", table=table, load_model=lambda: lm)


def inputs_of(lm, tokens, is_memorized=False, **more) -> AnalysisInputs:
    """A study of these sequences, numbered from 0."""
    n = len(tokens)
    table = pl.DataFrame({"sequence_id": np.arange(n)}).with_columns(
        pl.Series("tokens", np.asarray(tokens).tolist(), dtype=pl.List(pl.Int32)),
        pl.Series("is_memorized", np.broadcast_to(is_memorized, n)),
    )
    return AnalysisInputs(where="", table=table, load_model=lambda: lm, **more)


@pytest.fixture(scope="module", autouse=True)
def _every_legend(legends_carry_n) -> None:
    """Every chart that these tests draw."""


def assert_copies_tell_nothing_new(measure, n: int, *, rel: float = 1e-6) -> None:
    """Every row five times: figures stay, and so do their intervals, for groups are drawn.

    `measure(rows, groups)` gives estimates. Were copies drawn one by one their intervals would be
    narrower; of nine groups there is none.
    """
    rows, five = np.arange(n), np.tile(np.arange(n), 5)
    asked = ((rows, rows), (five, five), (five, np.arange(5 * n)), (five, five % 9))
    for once, grouped, alone, few in zip(*(measure(*one) for one in asked), strict=True):
        assert grouped.value == pytest.approx(once.value)
        width = grouped.high - grouped.low
        assert width == pytest.approx(once.high - once.low, rel=rel, abs=1e-9)
        assert width >= 1.7 * (alone.high - alone.low) - 1e-9
        assert few.low is None or np.isnan([few.low, few.high]).all()


@pytest.fixture
def inputs_with(monkeypatch):
    """A study of a table whose models only stand for themselves: nothing counts their forwards."""
    monkeypatch.setattr("mnemoscope.analysis.inputs.count_forwards", lambda lm, forwards: lm)

    def inputs_with(table, model=None, others=(), **more) -> AnalysisInputs:
        named = tuple(OtherModel(name, lambda one=one: one) for name, one in dict(others).items())
        return AnalysisInputs(
            where="s", table=table, load_model=lambda: model, others=named, **more
        )

    return inputs_with


@pytest.fixture(scope="session")
def taught(tmp_path_factory) -> AnalysisInputs:
    """Ninety sequences, sixty of which the model reproduces."""
    return give_inputs(save_model(tmp_path_factory.mktemp("model") / "tiny"), 90)


@pytest.fixture(scope="session")
def guessable(taught) -> AnalysisInputs:
    """The same, of which every other sequence can be guessed; what has no duplicates is unseen."""
    rouge_l = pl.when(pl.int_range(pl.len()) % 2 == 0).then(1.0).otherwise(0.0)
    table = taught.table.with_columns(
        rouge_l=rouge_l, rouge_3=0.0, is_incrementing=False, is_repeating=False
    )
    return replace(taught, table=table)


@pytest.fixture(scope="session")
def own_study(tiny, tmp_path_factory) -> Path:
    """A study of a synthetic split whose memorized rows the tiny model does reproduce."""
    from benchmarks import synthetic_semantic_filters as synthetic
    from mnemoscope.flow.run import run
    from mnemoscope.study.settings import parse_settings

    folder = tmp_path_factory.mktemp("own")
    truth = make_sequences(tiny.model)
    is_memorized = np.arange(truth.height) % 3 < 2
    frame = synthetic.make_rows(
        truth["sequence_id"].to_numpy(), is_memorized, seed=0, vocab_size=300
    )
    tokens = np.array(truth["tokens"].to_list(), dtype=np.int64)
    frame = frame.with_columns(
        pl.Series("tokens", tokens.tolist(), dtype=pl.List(pl.Int64)),
        pl.Series("frequencies", (10**10 // (1 + tokens)).tolist(), dtype=pl.List(pl.Int64)),
    )
    memories = frame.filter(pl.col("memorization_score") == 1)
    for name, rows in (("pile_deduped_70m", frame), ("memories_deduped_70m", memories)):
        synthetic.write_split(folder, name, iter([rows]), n_shards=1, n_rows=rows.height)
    values = {
        **tiny.values,
        "sequences": {"source": str(folder), "split": "deduped_70m"},
        "label": {**tiny.values["label"], "n_train": 80},  # 200 of each label are kept: all
    }
    run(parse_settings(values, where="test"), folder / "study", until="features")
    return folder / "study"
