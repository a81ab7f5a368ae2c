"""Evidence: against the model's own probabilities, closed forms and repeated sampling."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.audit.documents import Tokens
from mnemoscope.audit.evidence import (
    alone_logprobs,
    compare_prefixes,
    find_priors,
    gather_evidence,
    other_prefixes,
    tries_needed,
)
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.lm.probe import suffix_logprobs


@pytest.fixture(scope="module")
def windows(sequences):
    return np.array(sequences["tokens"].head(6).to_list(), dtype=np.int32)


def by_hand(lm, row, temperature, top_k):
    """Chance of sampling the suffix: transformers' usual order, temperature, top k, softmax."""
    with torch.inference_mode():
        logits = lm.model(torch.tensor(row[None].astype(np.int64))).logits[0, 31:-1].double()
    logits = logits / temperature
    kept = logits >= logits.topk(top_k, dim=-1).values[:, -1:]
    probs = logits.masked_fill(~kept, -torch.inf).softmax(dim=-1)
    chosen = probs[torch.arange(32), torch.tensor(row[32:].astype(np.int64))]
    return math.prod(chosen.tolist())


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 40), (0.7, 5), (1.5, 2048)])
def test_extraction_probability_is_the_product_of_sampling_chances(lm, windows, temperature, top_k):
    settings = AuditSettings(temperature=temperature, top_k=top_k)
    found = gather_evidence(lm, windows, settings)
    for row, logprob in zip(windows, found.sampling_logprob, strict=True):
        # 1e-4: the model computes in float32, in batches of another shape
        assert math.exp(logprob) == pytest.approx(by_hand(lm, row, temperature, top_k), rel=1e-3)


def test_what_is_not_among_the_top_k_is_never_drawn(lm, windows):
    rows = windows[:, ::-1].copy()  # read backwards no text is likely
    found = gather_evidence(lm, rows, AuditSettings(top_k=3))
    chances = [by_hand(lm, row, 1.0, 3) for row in rows]
    assert chances == [0.0] * len(rows)
    assert (found.sampling_logprob == -math.inf).all()
    assert np.isfinite(gather_evidence(lm, rows, AuditSettings(top_k=0)).sampling_logprob).all()


def test_token_logprobs_and_alternatives_are_the_model_s(lm, windows):
    found = gather_evidence(lm, windows, AuditSettings())
    assert found.logprobs == pytest.approx(suffix_logprobs(lm, windows, batch_size=2), abs=1e-4)
    best = found.alternatives[..., 0] == windows[:, 32:]
    assert (best == found.is_right).all()
    assert (np.diff(found.alternative_logprobs, axis=-1) <= 0).all()


def test_without_a_prefix_only_the_suffix_is_read(lm, windows):
    other = np.roll(windows, 1, axis=0)[:, :32]
    made = alone_logprobs(lm, windows[:, 32:], batch_size=4)
    assert np.isnan(made[:, 0]).all()  # this model begins with no token of its own
    again = alone_logprobs(lm, np.hstack([other, windows[:, 32:]])[:, 32:], batch_size=2)
    assert made[:, 1:] == pytest.approx(again[:, 1:], abs=1e-4)


@given(st.floats(1e-9, 1.0), st.floats(0.01, 0.99))
def test_tries_are_the_fewest_that_reach_the_probability(chance, wanted):
    n = tries_needed(math.log(chance), wanted)
    miss = math.log1p(-chance) if chance < 1 else -math.inf
    assert -math.expm1(n * miss) >= wanted - 1e-6  # rounding of the logarithm
    assert n == 1 or -math.expm1((n - 1) * miss) < wanted + 1e-6


def test_what_never_comes_out_needs_no_number():
    assert tries_needed(-math.inf, 0.9) is None
    assert tries_needed(-1000.0, 0.9) is None
    assert tries_needed(0.0, 0.9) == 1


def tokens_of(ids):
    ids = np.array(ids, dtype=np.int32)
    places = np.arange(len(ids))
    return Tokens(ids, places, places + 1)


def test_prior_is_zero_where_the_others_are_the_own_prefix(lm, windows):
    own = gather_evidence(lm, windows, AuditSettings()).logprobs.sum(axis=1)
    others = [(np.tile(row[:32], (3, 1)), "the same") for row in windows]
    for prior in find_priors(lm, windows, own, others, AuditSettings()):
        assert prior.gain == pytest.approx(0.0, abs=1e-3)  # float32, another batch
        assert prior.n_prefixes == 3


def test_the_prior_averages_probabilities_and_not_their_logarithms():
    others = np.log([0.5, 0.25, 0.0001])
    prior = compare_prefixes(math.log(0.75), others, np.array([True, False, False]), "others")
    assert prior.gain == pytest.approx(math.log(0.75 / ((0.5 + 0.25 + 0.0001) / 3)))
    assert (prior.n_reproduced, prior.n_prefixes) == (1, 3)
    assert compare_prefixes(-1.0, np.array([]), np.array([], dtype=bool), "others") is None


def test_other_prefixes_come_from_other_documents_and_stay_the_same():
    settings = AuditSettings()
    documents = [tokens_of(range(100)), tokens_of(range(1000, 1200)), tokens_of([5])]
    prefixes, source = other_prefixes(documents, (0, 10), settings)
    assert prefixes.shape == (8, 32)
    assert (prefixes >= 1000).all()
    assert source == "other documents"
    assert (prefixes == other_prefixes(documents, (0, 10), settings)[0]).all()
    alone, source = other_prefixes(documents[:1], (0, 0), settings)
    assert source == "other places of the document"
    assert (alone >= 64).all()
    assert len(other_prefixes([tokens_of(range(64))], (0, 0), settings)[0]) == 0
