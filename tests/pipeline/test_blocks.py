"""Scan and decoding are both asked, and a verdict that differs is counted."""

import numpy as np
import polars as pl
import pytest

from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel
from mnemoscope.pipeline.blocks import disagreements, verdicts
from mnemoscope.pipeline.continue_ import draw_rows


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model(str(model_path()))


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return token_matrix(read_table(sequences_path()).sample(96, seed=3))


@pytest.fixture(scope="module")
def decoded(model: LanguageModel, tokens: np.ndarray) -> pl.DataFrame:
    return verdicts(model, tokens, scan=False, batch_size=32)


@pytest.mark.parametrize("scanned", [True, False])
def test_both_ways_agree_on_the_embedded_model(model, tokens, decoded, scanned) -> None:
    again = verdicts(model, tokens, scan=not scanned, batch_size=16)
    counts = disagreements(decoded, again)
    assert counts == {"checked": 96, "disagree": 0}


@pytest.mark.parametrize("scanned", [True, False])
def test_a_wrong_verdict_is_counted_with_its_gap(model, tokens, decoded, scanned) -> None:
    wrong = np.zeros(len(tokens), dtype=bool)
    wrong[[5, 40]] = True
    planted = decoded.with_columns(
        pl.Series("is_memorized", decoded["is_memorized"].to_numpy() ^ wrong)
    )
    again = verdicts(model, tokens, scan=not scanned, batch_size=16)
    counts = disagreements(planted, again)
    gaps = decoded["smallest_gap"].to_numpy()[wrong]
    assert (counts["checked"], counts["disagree"]) == (96, 2)
    assert counts["largest_gap_of_these"] == pytest.approx(max(gaps))


@pytest.mark.parametrize(
    ("n_memorized", "asked", "expected"), [(40, 20, (10, 10)), (3, 20, (3, 17)), (95, 20, (19, 1))]
)
def test_half_is_memorized_where_there_are_enough(
    n_memorized: int, asked: int, expected: tuple[int, int]
) -> None:
    truth = np.arange(96) < n_memorized
    rows = draw_rows(truth, asked)
    assert (int(truth[rows].sum()), int((~truth[rows]).sum())) == expected
    assert (np.diff(rows) > 0).all()
