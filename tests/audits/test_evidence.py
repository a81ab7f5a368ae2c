"""Evidence against the model's own probabilities and closed forms; two of three grounds decide."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.audits.chance import tries_needed
from mnemoscope.audits.needs import MOST_COPIED
from mnemoscope.audits.passages import with_verdicts
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.rule import GUESS, RECALL
from mnemoscope.audits.sampling import score_rows
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
    rows = np.concatenate([windows, windows[:, ::-1]])  # read backwards no text is likely
    settings = audit_settings(temperature=temperature, top_k=top_k)
    found = score_rows(lm, rows, settings)
    for row, logprob in zip(rows, found.sampling, strict=True):
        # 1e-4: the model computes in float32, in batches of another shape
        wanted = by_hand(lm, row, temperature, top_k)
        assert math.exp(logprob) == pytest.approx(wanted, rel=1e-3)
        assert (logprob == -math.inf) == (wanted == 0)
    assert np.isfinite(found.sampling).any()
    assert (found.sampling == -math.inf).any() == (top_k < 2048)  # never among the likeliest
    every = score_rows(lm, rows, audit_settings(top_k=0))
    assert np.isfinite(every.sampling).all()


def test_token_logprobs_and_alternatives_are_the_model_s(lm, windows):
    found = score_rows(lm, windows, audit_settings())
    assert found.logprobs == pytest.approx(suffix_logprobs(lm, windows, batch_size=2), abs=1e-4)
    for row, window in enumerate(windows):
        places = found.choices(row)
        wanted = lm.tokenizer.batch_decode([[one] for one in window[32:]])
        is_best = [place[0]["text"] == text for place, text in zip(places, wanted, strict=True)]
        assert all(is_best) == found.is_whole[row]
        assert np.array([place[0]["logprob"] for place in places])[is_best] == pytest.approx(
            found.logprobs[row][is_best]
        )
        assert (np.diff([[one["logprob"] for one in place] for place in places]) <= 0).all()


def test_without_a_prefix_only_the_suffix_is_read(lm, windows):
    made = score_rows(lm, windows[:, 32:], audit_settings()).logprobs
    assert np.isnan(made[:, 0]).all()  # this model begins with no token of its own
    with torch.inference_mode():
        logits = lm.model(torch.tensor(windows[:, 32:-1].astype(np.int64))).logits
    known = torch.tensor(windows[:, 33:].astype(np.int64))[..., None]
    again = logits.float().log_softmax(dim=-1).gather(-1, known).squeeze(-1).numpy()
    assert made[:, 1:] == pytest.approx(again, abs=1e-4)


@given(st.floats(1e-9, 1.0), st.floats(0.01, 0.99))
def test_tries_are_the_fewest_that_reach_the_probability(chance, wanted):
    n = tries_needed(math.log(chance), wanted)
    miss = math.log1p(-chance) if chance < 1 else -math.inf
    assert -math.expm1(n * miss) >= wanted - 1e-6  # rounding of the logarithm
    assert n == 1 or -math.expm1((n - 1) * miss) < wanted + 1e-6
    assert tries_needed(-math.inf, wanted) is None  # what never comes out needs no number
    assert tries_needed(-1000.0, wanted) is None


def row_of(rule, *, probability=None, reference=None, copied=None):
    """A passage's row; `reference` is the share of tokens that the reference gets right."""
    recalls = {
        "reference": reference and reference < 0.9,
        "cnn": probability and probability >= 0.5,
    }
    recalls["needs"] = copied and copied < MOST_COPIED
    says = {name: one if one is None else RECALL if one else GUESS for name, one in recalls.items()}
    row = {"rule_says": rule, "reason": "because", "grafts_say": None, "needs_say": says["needs"]}
    row |= {"reference_says": says["reference"], "cnn_says": says["cnn"]}
    return with_verdicts(pl.DataFrame([row], schema_overrides=dict.fromkeys(row, pl.String))).row(
        0, named=True
    )


@pytest.mark.parametrize("rule", ["guess", "recall"])
@pytest.mark.parametrize("probability", [None, 0.2, 0.5])
@pytest.mark.parametrize("reference", [None, 0.3, 0.9])
@pytest.mark.parametrize("copied", [None, 0.09, 0.1])
def test_of_rule_reference_and_cnn_or_need_two_decide_and_else_the_rule(
    rule, probability, reference, copied
):
    row = row_of(rule, probability=probability, reference=reference, copied=copied)
    said = {
        "rule_says": rule,
        "reference_says": reference and ("recall" if reference < 0.9 else "guess"),
        "cnn_says": probability and ("recall" if probability >= 0.5 else "guess"),
        "needs_say": copied and ("recall" if copied < 0.1 else "guess"),
    }
    assert {name: row[name] for name in said} == said
    third = said["cnn_says"] or said["needs_say"]  # what it needs, where no CNN was asked
    votes = [rule, said["reference_says"], third] if said["reference_says"] and third else [rule]
    assert row["verdict"] == max(set(votes), key=votes.count)
    assert ("against the rule: because" in row["reason"]) == (row["verdict"] != rule)
    assert row["evidence_conflict"] == (len({one for one in said.values() if one}) > 1)
    if len(votes) == 1:
        assert row["reason"] == "because"
