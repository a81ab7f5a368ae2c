"""Scan and decoding are both asked, and a verdict that differs is counted."""

import numpy as np
import polars as pl
import pytest

from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.lm.load import load_model
from mnemoscope.pipeline.blocks import disagreements, verdicts
from mnemoscope.pipeline.continue_ import draw_rows


def test_both_ways_agree_and_a_wrong_verdict_is_counted_with_its_gap(tiny) -> None:
    model, tokens = load_model(str(tiny.model)), token_matrix(read_table(tiny.table).head(96))
    decoded = verdicts(model, tokens, scan=False, batch_size=32)
    assert decoded["is_memorized"].sum() == 64
    wrong = np.isin(np.arange(96), [5, 40])
    planted = decoded.with_columns(
        pl.Series("is_memorized", decoded["is_memorized"].to_numpy() ^ wrong)
    )
    gap = decoded["smallest_gap"].to_numpy()[wrong].max()
    for scan in (True, False):
        again = verdicts(model, tokens, scan=scan, batch_size=16)
        assert disagreements(decoded, again) == {"checked": 96, "disagree": 0}
        counts = disagreements(planted, again)
        assert (counts["checked"], counts["disagree"]) == (96, 2)
        assert counts["largest_gap_of_these"] == pytest.approx(gap)


@pytest.mark.parametrize(
    ("n_memorized", "asked", "expected"), [(40, 20, (10, 10)), (3, 20, (3, 17)), (95, 20, (19, 1))]
)
def test_half_is_memorized_where_there_are_enough(n_memorized, asked, expected) -> None:
    truth = np.arange(96) < n_memorized
    rows = draw_rows(truth, asked)
    assert (int(truth[rows].sum()), int((~truth[rows]).sum())) == expected
    assert (np.diff(rows) > 0).all()
