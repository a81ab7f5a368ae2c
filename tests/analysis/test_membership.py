"""The analysis says what `ms.membership` says, with its figures, and refuses what it cannot ask."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import mnemoscope as ms
from mnemoscope.analysis.inputs import OtherModel
from mnemoscope.analysis.membership import Settings, analyse
from mnemoscope.errors import UserError
from mnemoscope.lm.load import load_model
from tests.tiny_models import save_model

FAST = Settings(n_resamples=50)


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    return load_model(save_model(tmp_path_factory.mktemp("twin") / "tiny", seed=1))


def test_it_is_that_of_the_library_with_its_figures(taught, twin):
    inputs = replace(taught, others=(OtherModel("the twin", lambda: twin),))
    found = analyse(inputs, FAST)
    own = ms.membership(taught.load_model(), taught.table, reference=twin, n_resamples=50)
    assert found.sentence == own.sentence
    assert found.frames["told"].equals(own.told)
    assert {*found.frames} == {"sequences", "told", "levels", "bits"}
    assert [one.y_label for one in found.figures] == ["AUC", "AUC"]
    assert any("bits each that the model needs fewer than the twin" in one for one in found.further)


def test_without_a_twin_it_says_what_is_lost(taught):
    labelled = np.random.default_rng(0).permutation(taught.table.height) % 2 == 0
    table = taught.table.drop("duplicates").with_columns(read=pl.Series(labelled))
    found = analyse(replace(taught, table=table), Settings(read="read", n_resamples=50))
    assert "cannot be told" in found.sentence
    assert "No twin was given" in found.further[-1]
    assert "levels" not in found.frames
    with pytest.raises(UserError, match="no column duplicates or held_out"):
        analyse(replace(taught, table=table), FAST)
