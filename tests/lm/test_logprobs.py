"""Suffix log-probabilities are those of torch's cross-entropy on one plain forward."""

import numpy as np
import torch

from mnemoscope.lm.model import prepend_bos
from mnemoscope.lm.probe import best_logprobs, suffix_logprobs


def test_logprobs_equal_cross_entropy(build, tokens, family):
    lm, table = build(family, adds_bos=family in ("llama", "bloom")), tokens(5)
    found = suffix_logprobs(lm, table, batch_size=2)
    ids = prepend_bos(lm, torch.from_numpy(table).long())
    with torch.no_grad():
        logits = lm.model(input_ids=ids).logits[:, -33:-1]
    expected = -torch.nn.functional.cross_entropy(
        logits.double().transpose(1, 2), ids[:, -32:], reduction="none"
    )
    assert found.shape == (5, 32)
    assert found.dtype == np.float32
    # Logits up to about 20 in float32 against float64.
    np.testing.assert_allclose(found, expected.numpy(), atol=5e-5)


def test_the_best_token_at_each_place_is_that_of_a_plain_forward(build, tokens, family):
    lm, table = build(family, adds_bos=family in ("llama", "bloom")), tokens(5)[:, :32]
    found = best_logprobs(lm, table, batch_size=2)
    with torch.no_grad():
        logits = lm.model(input_ids=prepend_bos(lm, torch.from_numpy(table).long())).logits
    expected = logits[:, -32:].double().log_softmax(dim=-1).amax(dim=-1)
    assert found.shape == (5, 32)
    np.testing.assert_allclose(found, expected.numpy(), atol=5e-5)
