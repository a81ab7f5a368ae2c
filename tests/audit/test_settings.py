"""Settings: what a hit may get wrong, and refusals in one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.audit.settings import AuditSettings, audit_settings
from mnemoscope.errors import UserError


@given(st.floats(1e-6, 1.0), st.integers(2, 100))
def test_a_hit_has_the_threshold_s_share_and_one_more_mistake_has_not(threshold, suffix):
    settings = AuditSettings(threshold=threshold, suffix=suffix)
    n_right = suffix - settings.n_allowed
    assert n_right >= 1
    assert n_right / suffix >= threshold - 1e-9  # rounding of the product
    assert (n_right - 1) / suffix < threshold


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"threshold": 0}, "threshold 0"),
        ({"stride": 0}, "stride 0"),
        ({"suffix": 1}, "suffix 1"),
        ({"strides": 4}, "Did you mean 'stride'"),
        ({"probability": 1.0}, "probability 1.0"),
        ({"temperature": 5e-324}, "temperature 5e-324"),  # by which no logit can be divided
    ],
)
def test_a_bad_value_is_named(values, words):
    with pytest.raises(UserError, match=words) as caught:
        audit_settings(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["prefix", "suffix", "max_growth", "n_prefixes", "beams", "batch_size", "answer_tokens"],
)
def test_more_than_any_run_could_do_is_refused(name):
    """4 billion beams took 9 GB before it was said that memory is short."""
    with pytest.raises(UserError, match=name):
        audit_settings(**{name: 2**32 - 1})
