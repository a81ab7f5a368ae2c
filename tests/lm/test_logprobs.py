"""Suffix log-probabilities are those of torch's cross-entropy on one plain forward."""

import numpy as np
import torch

from mnemoscope.lm.model import prepend_bos
from mnemoscope.lm.probe import next_tokens, suffix_logprobs


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


def test_next_tokens_and_the_best_at_each_place_are_those_of_a_plain_forward(build, tokens, family):
    lm, table = build(family, adds_bos=family in ("llama", "bloom")), tokens(5)[:, :33]
    found, ids = next_tokens(lm, table, batch_size=2), torch.from_numpy(table).long()
    with torch.no_grad():
        logits = lm.model(input_ids=prepend_bos(lm, ids)).logits[:, -33:-1]
    logprobs = logits.double().log_softmax(dim=-1)
    expected = logprobs.gather(2, ids[:, 1:, None]).squeeze(2), logprobs.amax(dim=-1)
    for values, wanted in zip(found, expected, strict=True):
        assert values.shape == (5, 32)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, wanted.numpy(), atol=5e-5)
