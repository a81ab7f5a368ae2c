"""Suffix log-probabilities are those of torch's cross-entropy on one plain forward."""

import numpy as np
import torch

from mnemoscope.lm.probe import suffix_logprobs


def test_logprobs_equal_cross_entropy(build, tokens, family):
    lm, table = build(family), tokens(5)
    found = suffix_logprobs(lm, table, batch_size=2)
    ids = torch.from_numpy(table).long()
    with torch.no_grad():
        logits = lm.model(input_ids=ids).logits[:, 31:-1]
    expected = -torch.nn.functional.cross_entropy(
        logits.double().transpose(1, 2), ids[:, 32:], reduction="none"
    )
    assert found.shape == (5, 32)
    assert found.dtype == np.float32
    # Logits up to about 20 in float32 against float64.
    np.testing.assert_allclose(found, expected.numpy(), atol=5e-5)


def test_bos_token_is_seen(build, tokens):
    with_bos, without = build("gpt_neox", adds_bos=True), build("gpt_neox")
    table = tokens(3)
    found = suffix_logprobs(with_bos, table, batch_size=3)
    ids = torch.from_numpy(np.concatenate([np.ones((3, 1), np.int32), table], axis=1)).long()
    with torch.no_grad():
        spread = with_bos.model(input_ids=ids).logits.log_softmax(dim=-1)[:, 32:-1]
    expected = spread.gather(2, ids[:, 33:, None]).squeeze(2)
    np.testing.assert_allclose(found, expected.numpy(), atol=5e-5)
    assert np.abs(found - suffix_logprobs(without, table, batch_size=3)).max() > 0.01


def test_memorized_suffixes_are_near_certain(memorizer, tokens):
    seen = suffix_logprobs(memorizer, tokens(24, seed=5), batch_size=24)
    new = suffix_logprobs(memorizer, tokens(24, seed=6), batch_size=24)
    assert np.median(seen) > -0.1
    assert np.median(new) < -3
