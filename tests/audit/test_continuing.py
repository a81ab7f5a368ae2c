"""Continuing windows: leaving early changes no verdict."""

import numpy as np
import pytest

from mnemoscope.audit.scan import LEFT, continue_windows
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.lm.continue_ import continue_sequences


@pytest.fixture(scope="module")
def windows(sequences):
    """Memorized, nearly memorized and strange ones; a few shifted by some tokens."""
    rows = np.array(sequences["tokens"].head(40).to_list(), dtype=np.int32)
    return np.concatenate([rows, np.roll(rows[:12], -3, axis=1)])


def run(lm, windows, n_allowed):
    batches = list(
        continue_windows(lm, windows, prefix=32, n_allowed=n_allowed, batch_size=len(windows))
    )
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


def test_decoding_to_the_end_equals_the_study_s_continuation(lm, windows):
    tokens, _, score = run(lm, windows, 32)
    other = next(continue_sequences(lm, windows, batch_size=len(windows)))
    assert (tokens == other.tokens).all()
    assert score == pytest.approx(other.score)


def test_leaving_early_changes_no_verdict(lm, windows):
    n_allowed = AuditSettings().n_allowed
    assert n_allowed == 3  # 29 of 32 tokens are 0.906, 28 are 0.875
    tokens, common, score = run(lm, windows, 32)
    early_tokens, early_common, early_score = run(lm, windows, n_allowed)
    is_hit = score >= 0.9
    assert 5 < is_hit.sum() < len(windows) - 5  # both kinds are there
    assert (is_hit == (early_score >= 0.9)).all()  # NaN is no hit
    assert (early_common == common).all()
    assert (early_tokens[is_hit] == tokens[is_hit]).all()
    decoded = early_tokens != LEFT
    assert (early_tokens[decoded] == tokens[decoded]).all()
    assert decoded.mean() < 0.9
