"""The chance within edits: every text of a tiny vocabulary, and bounds on the shipped model."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from transformers import TemperatureLogitsWarper, TopKLogitsWarper

from mnemoscope.audits.edits import chance_within
from mnemoscope.audits.questions import EditSettings, audit_settings
from mnemoscope.audits.sampling import sampling_logprobs, score_rows
from mnemoscope.audits.tokens import tokenize
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import prepend_bos, wrap_model
from tests.lm.tiny_families import make_model
from tiny_models import save_model

VOCABULARY, PREFIX, SUFFIX = 5, 3, 5


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random model of five tokens, with much spread between their chances."""
    lm = load_model(save_model(tmp_path_factory.mktemp("tiny")), device="cpu")
    inputs, outputs = lm.model.get_input_embeddings(), lm.model.get_output_embeddings()
    with torch.no_grad():
        inputs.weight.data = inputs.weight[:VOCABULARY]
        outputs.weight.data = 3 * outputs.weight[:VOCABULARY]
    lm.model.config.vocab_size = VOCABULARY
    return replace(lm, vocab_size=VOCABULARY)


def every_text(lm, prefix, top_k):
    """All texts and their chances by plain logits, one forward over all of them."""
    texts = np.array(list(itertools.product(range(VOCABULARY), repeat=SUFFIX)))
    rows = torch.tensor(np.hstack([np.tile(prefix, (len(texts), 1)), texts]))
    with torch.inference_mode():
        logits = lm.model(prepend_bos(lm, rows[:, :-1])).logits[:, -SUFFIX:].double()
    if top_k:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    chances = logits.log_softmax(-1).gather(2, rows[:, PREFIX:, None])[..., 0].sum(1).exp()
    return texts, chances.numpy()


def settings(**values):
    return audit_settings(prefix=PREFIX, suffix=SUFFIX, **values)


@pytest.mark.parametrize(("edits", "top_k"), [(1, 3), (2, 0), (3, 3)])
def test_with_room_for_all_texts_it_is_the_sum_over_all_texts(tiny, edits, top_k):
    windows = np.random.default_rng(edits).integers(0, VOCABULARY, (6, PREFIX + SUFFIX))
    windows = windows.astype(np.int32)
    whole = chance_within(tiny, windows, settings(top_k=top_k, edits=edits, beams=4000))
    few = chance_within(tiny, windows, settings(top_k=top_k, edits=edits, beams=4))
    own = score_rows(tiny, windows, settings(top_k=top_k)).sampling
    n_looser = 0
    for row, window in enumerate(windows):
        texts, chances = every_text(tiny, window[:PREFIX], top_k)
        suffix = window[PREFIX:].tolist()
        is_near = np.array([Levenshtein.distance(suffix, one.tolist()) <= edits for one in texts])
        truth = chances[is_near].sum()
        assert math.exp(whole.logprob[row]) == pytest.approx(truth, rel=1e-4, abs=1e-12)
        assert whole.n_texts[row] == (chances[is_near] > 0).sum()
        assert few.n_texts[row] <= 4
        assert few.logprob[row] <= whole.logprob[row] + 1e-4
        assert few.logprob[row] >= own[row] - 1e-4
        n_looser += few.logprob[row] < whole.logprob[row] - 1e-3
    assert n_looser or edits == 1  # four beams are too few somewhere, so the bound is one


def test_a_search_goes_on_where_a_state_is_kept():
    lm = wrap_model(make_model("lfm2", vocab_size=VOCABULARY), fingerprint="")
    window = np.random.default_rng(0).integers(0, VOCABULARY, PREFIX + SUFFIX).astype(np.int32)
    found = chance_within(lm, window[None], settings(top_k=0, edits=1, beams=4000))
    texts, chances = every_text(lm, window[:PREFIX], 0)
    suffix = window[PREFIX:].tolist()
    is_near = np.array([Levenshtein.distance(suffix, one.tolist()) <= 1 for one in texts])
    assert math.exp(found.logprob[0]) == pytest.approx(chances[is_near].sum(), rel=1e-4)


def test_of_equal_chances_none_is_left_out(tiny, monkeypatch):
    """All five tokens are as likely: of any three likeliest each is one."""
    weight = tiny.model.get_output_embeddings().weight
    monkeypatch.setattr(weight, "data", torch.zeros_like(weight.data))
    window = np.arange(PREFIX + SUFFIX, dtype=np.int32) % VOCABULARY
    found = chance_within(tiny, window[None], settings(top_k=3, edits=1, beams=4000))
    texts = itertools.product(range(VOCABULARY), repeat=SUFFIX)
    n = sum(Levenshtein.distance(window[PREFIX:].tolist(), list(one)) <= 1 for one in texts)
    assert found.n_texts[0] == n
    assert np.isclose(np.exp(found.logprob[0]), n / VOCABULARY**SUFFIX)
    own = score_rows(tiny, window[None], settings(top_k=3)).sampling
    assert own[0] == pytest.approx(-SUFFIX * math.log(VOCABULARY))


@given(
    st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=4),
    st.integers(0, 7),
    st.sampled_from([0.5, 1.0, 3.0]),
)
def test_chances_of_drawing_are_those_of_transformers_however_many_tie(rows, top_k, temperature):
    logits, asked = torch.tensor(rows).float(), settings(top_k=top_k, temperature=temperature)
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    every = torch.arange(6).expand_as(logits)
    found = [sampling_logprobs(logits, token, asked).exp() for token in every.T]
    assert torch.stack(found, 1).float() == pytest.approx(scores.softmax(-1), abs=1e-6)


def test_no_edit_is_the_passage_and_more_edits_are_never_less(lm, trained, new_text, made):
    rows = [tokenize(one, lm.tokenizer).ids[:64] for one in (*trained[:2], new_text(1, 90))]
    windows = np.stack(rows)
    own = score_rows(lm, windows, audit_settings()).sampling
    bounds = [chance_within(lm, windows, EditSettings(edits=k, beams=6)).logprob for k in (0, 1, 3)]
    assert np.allclose(bounds[0], own, atol=1e-3)
    assert (bounds[1] >= bounds[0] - 1e-3).all()
    assert (bounds[2] > bounds[0] + 1e-3)[:2].all()
    assert (bounds[2] <= 0).all()
    assert bounds[2][-1] < math.log(1e-6)  # what nobody trained on stays out of reach
    spans = made.spans  # an audit writes it beside the chance
    assert (spans["within_edits"] == 2).all()
    assert (spans["within_logprob"] >= spans["extraction_logprob"] - 1e-3).all()
    assert "within 2 edits, at least" in made.page
