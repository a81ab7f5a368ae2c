"""Figures of a knockout: closed forms, and intervals that hold what they should."""

import numpy as np
import pytest
import torch

from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.intervene import cut_attention
from mnemoscope.lm.load import load_model
from mnemoscope.localize.cut import cut_and_continue, mean_share, random_edges, specificity

ALL, NONE = np.ones(40, dtype=bool), np.zeros(40, dtype=bool)


@pytest.mark.parametrize(
    ("own", "others", "random", "expected"),
    [(ALL, NONE, NONE, 1.0), (ALL, ALL, NONE, 0.0), (NONE, ALL, NONE, -1.0), (ALL, NONE, ALL, 0.0)],
)
def test_specificity_is_one_where_only_the_own_class_breaks(own, others, random, expected) -> None:
    decisive = {"Recall": own, "Guess": others, "Recite": others}
    drawn = {"Recall": [random, random], "Guess": [NONE], "Recite": [NONE]}
    found = specificity(decisive, drawn, "Recall", n_resamples=50, seed=0)
    assert found == (expected, expected, expected)


def test_specificity_subtracts_what_random_edges_of_equal_mass_break() -> None:
    half = np.arange(40) % 2 == 0
    decisive = {"Recall": ALL, "Guess": half}
    drawn = {"Recall": [half], "Guess": [NONE, half]}
    found = specificity(decisive, drawn, "Recall", n_resamples=500, seed=0)
    assert found.value == pytest.approx((1 - 0.5) - (0.5 - 0.25))
    assert found.low < found.value < found.high


def test_an_interval_over_sequences_is_scipys(monkeypatch) -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).random(60) < 0.3
    found = mean_share([values], n_resamples=4000, seed=1)
    ours = np.array([found.low, found.high])
    theirs = bootstrap(
        (values.astype(float),), np.mean, method="percentile", n_resamples=4000, rng=2
    ).confidence_interval
    # Two sets of 4,000 resamples: percentiles differ by their own noise, about 0.01 here.
    np.testing.assert_allclose(ours, [theirs.low, theirs.high], atol=0.02)


def test_draws_are_averaged_before_sequences_are_resampled() -> None:
    found = mean_share([ALL, NONE], n_resamples=100, seed=0)
    assert found == (0.5, 0.5, 0.5)  # every sequence is a half: nothing varies between sequences


def test_cutting_nothing_breaks_nothing_and_cutting_everything_breaks_all() -> None:
    """On the embedded model and sequences that it is known to reproduce."""
    lm = load_model(model_path())
    table = read_table(sequences_path())
    often = table.filter(table["duplicates"] > 12).head(24)
    tokens = token_matrix(often)
    shape = (lm.n_layers, 64, 64)
    cut = {"renormalize": False, "batch_size": 10}
    whole = cut_and_continue(lm, tokens, torch.zeros(shape, dtype=torch.bool), **cut)
    broken = cut_and_continue(lm, tokens, torch.ones(shape).tril().bool(), **cut)
    assert whole.survives.mean() > 0.9
    assert (whole.score == 1).tolist() == whole.survives.tolist()
    assert broken.survives.sum() == 0
    assert broken.logprob.mean() < whole.logprob.mean() - 1
    each = torch.zeros(len(tokens), *shape, dtype=torch.bool)
    each[12:] = torch.ones(shape).tril().bool()
    own = cut_and_continue(lm, tokens, each, **cut)
    np.testing.assert_array_equal(own.score[:12], whole.score[:12])
    np.testing.assert_array_equal(own.score[12:], broken.score[12:])


def test_survivors_and_scores_are_those_of_decoding_every_sequence() -> None:
    """One forward says who survives; here all are decoded under the same cut."""
    lm = load_model(model_path())
    table = read_table(sequences_path())
    tokens = token_matrix(table.filter(table["duplicates"] > 12).head(24))
    edges = random_edges(torch.zeros(lm.n_layers, 64, 64), 400, torch.Generator().manual_seed(0))
    found = cut_and_continue(lm, tokens, edges, renormalize=False, batch_size=9)
    with cut_attention(lm, edges):
        decoded = [batch.score for batch in continue_sequences(lm, tokens, batch_size=24)]
    assert 0 < found.survives.sum() < len(tokens)
    np.testing.assert_array_equal(found.score, np.concatenate(decoded))
