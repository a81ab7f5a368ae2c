"""Scores against their papers' definitions in plain numpy, ranks and shares, verdicts on chance."""

import zlib
from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from mnemoscope.benchmark.membership import (
    TEXT_CONTROLS,
    TOLD,
    UNTOLD,
    PassageChances,
    bits_beyond,
    lowest_mean,
    rank_p,
    resampled_tpr,
    score_passages,
    sum_of,
    text_columns,
    text_controls,
    told_apart,
)
from mnemoscope.lm.model import wrap_model
from mnemoscope.lm.probe import token_chances
from mnemoscope.stats import draw_within

TEXTS = ["a text that repeats, repeats, repeats", "1984 é", "!?"]


def random_model(seed: int) -> GPTNeoXForCausalLM:
    torch.manual_seed(seed)
    return (
        GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=40,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                initializer_range=0.8,
            )
        )
        .double()
        .eval()
    )  # of float32 the last bits depend on the batch


@pytest.fixture(scope="module")
def models():
    return random_model(0), random_model(1)


@pytest.mark.parametrize("length", [2, 7, 33])
def test_scores_are_those_of_the_papers(models, length):
    tokens = np.random.default_rng(0).integers(0, 40, (3, length))
    own, beside = (
        token_chances(wrap_model(one, fingerprint=""), tokens, batch_size=2) for one in models
    )
    rows = [PassageChances(*one) for one in zip(*own, strict=True)]
    found = score_passages(rows, TEXTS, list(beside.logprobs))
    for at, text in enumerate(TEXTS):
        logs, chances = [], []
        for model in models:
            with torch.inference_mode():
                logits = model(torch.from_numpy(tokens[at : at + 1, :-1])).logits[0].numpy()
            shares = np.exp(logits.astype(np.float64))
            shares /= shares.sum(axis=1, keepdims=True)
            chances.append(shares)
            logs.append(np.log(shares[np.arange(length - 1), tokens[at, 1:]]))
        shares = chances[0]
        expected = (shares * np.log(shares)).sum(axis=1)
        spread = np.sqrt((shares * np.log(shares) ** 2).sum(axis=1) - expected**2)
        n = max(1, int(0.2 * (length - 1)))
        wanted = {
            "logprob": logs[0].mean(),
            "zlib": logs[0].mean() / len(zlib.compress(text.encode())),
            "min_k": np.sort(logs[0])[:n].mean(),
            "min_k_plus": np.sort((logs[0] - expected) / spread)[:n].mean(),
            "ratio": logs[0].mean() - logs[1].mean(),
        }
        assert {name: one[at] for name, one in found.items()} == pytest.approx(wanted, abs=1e-6)
        length_of = [-np.log2(np.exp(one)).sum() for one in logs]
        bits = bits_beyond(own.logprobs[at], beside.logprobs[at])
        assert bits == pytest.approx(length_of[1] - length_of[0], abs=1e-6)
        assert bits_beyond(beside.logprobs[at], own.logprobs[at]) == -bits


def test_a_token_that_cannot_scatter_counts_as_expected():
    even = PassageChances(np.log([0.5, 0.25]), np.log([0.5, 0.25]), np.zeros(2))
    assert even.standardized().tolist() == [0, 0]
    assert lowest_mean([-3.0]) == -3.0


def test_a_token_that_is_never_written_spoils_nothing():
    """A logit of -inf, as masked heads give."""
    model, never = random_model(0), torch.tensor([3])
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda *args: args[-1].index_fill(-1, never, -torch.inf))
    found = token_chances(wrap_model(model, fingerprint=""), [[1, 2, 5], [1, 2, 3]], batch_size=2)
    assert np.isfinite([found.mean, found.deviation]).all()
    assert (found.logprobs == -1e4).tolist() == [[False, False], [False, True]]


def test_the_rank_is_exact_where_texts_are_exchangeable():
    p = [rank_p(one[0], one[1:]) for one in permutations([1.0, 2.0, 3.0, 4.0])]
    assert sorted(p) == [k / 4 for k in (1, 2, 3, 4) for _ in range(6)]
    assert rank_p(1.0, [1.0, 1.0, 1.0]) == 1.0  # ties speak for no one


@pytest.mark.parametrize("n_values", [7, 1000])
def test_tpr_is_that_of_the_roc_curve(n_values):
    draw = np.random.default_rng(1)
    own = np.arange(700) < 300
    values = draw.integers(0, n_values, 700) + 0.4 * n_values * own  # with ties
    drawn = draw_within(own, draw, 3)
    found = resampled_tpr(values, own, drawn)
    for counts, share in zip([np.ones(700, dtype=int), *drawn], found, strict=True):
        fpr, tpr, _ = roc_curve(own, values, sample_weight=counts, drop_intermediate=False)
        assert share == pytest.approx(tpr[fpr <= 0.01 + 1e-9].max())


@pytest.mark.parametrize(
    ("memory", "text", "verdict", "said"),
    [
        (2.0, 0.0, TOLD, "better than"),
        (0.0, 0.0, UNTOLD, "no better than chance"),
        (1.0, 2.0, UNTOLD, "no better than text"),
        (1.5, 1.5, UNTOLD, "no better than text"),  # as well: the difference includes 0
    ],
)
def test_a_score_must_beat_chance_and_the_text(memory, text, verdict, said):
    draw, read = np.random.default_rng(2), np.arange(400) % 2 == 0
    scores = {"score": draw.standard_normal(400) + memory * read}
    controls = {"text": draw.standard_normal(400) + text * read}
    own, control = told_apart(scores, controls, read, np.arange(400) // 4, n_resamples=200)
    assert (own.verdict, said in own.reason) == (verdict, True)
    assert own.auc.value == pytest.approx(roc_auc_score(read, scores["score"]))
    assert (control.is_control, control.verdict) == (True, TOLD if text else UNTOLD)
    assert own.beyond.value == pytest.approx(own.auc.value - control.auc.value)


def test_nine_documents_tell_nothing():
    read = np.arange(90) % 2 == 0
    (own,) = told_apart({"score": read * 1.0}, {}, read, np.arange(90) // 10)
    assert (own.verdict, own.auc.low) == (UNTOLD, None)
    assert "9 documents" in own.reason
    assert sum_of(np.ones(9)).low is None
    assert sum_of(np.ones(20)) == (20, 20, 20)


def test_the_text_alone_is_asked_of_other_documents():
    """A marker that every row of a document bears tells nothing of other documents; a kind does."""
    draw, read = np.random.default_rng(3), np.arange(240) // 120 == 0
    documents = np.arange(240) // 6
    tokens = draw.integers(0, 30, (240, 12))
    tokens[:, 0] = 100 + documents
    plain = ["a word or two"] * 240
    blind = text_controls(tokens, plain, read, documents)
    assert set(blind) == {*TEXT_CONTROLS}
    assert max(roc_auc_score(read, one) for one in blind.values()) < 0.6
    dated = [f"in {2019 if one else 2024} it was so" for one in read]
    assert roc_auc_score(read, text_controls(tokens, dated, read, documents)[TEXT_CONTROLS[1]]) == 1
    tokens[read, 1] = 50
    assert (
        roc_auc_score(read, text_controls(tokens, plain, read, documents)[TEXT_CONTROLS[0]]) > 0.9
    )


def test_what_is_to_be_seen_of_an_empty_text_is_a_number():
    assert np.isfinite(text_columns(["", "\ud800", "In 1999 and 2021"])).all()
    assert text_columns(["In 1999 and 2021"])[0, -2:].tolist() == [2, 2021]
