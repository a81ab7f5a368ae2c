"""A tiny model of known truth, as an analysis is given it."""

import numpy as np
import polars as pl
import pytest

from mnemoscope.analysis.inputs import AnalysisInputs
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


@pytest.fixture(scope="session")
def taught(tmp_path_factory) -> AnalysisInputs:
    """Ninety sequences, sixty of which the model reproduces."""
    return give_inputs(save_model(tmp_path_factory.mktemp("model") / "tiny"), 90)
