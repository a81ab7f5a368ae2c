"""Log-probabilities are those of torch's softmax on one plain forward."""

import numpy as np
import torch

from mnemoscope.lm.model import prepend_bos
from mnemoscope.lm.probe import next_tokens, suffix_logprobs


def test_logprobs_are_those_of_a_plain_forward(build, tokens, family):
    lm, table = build(family, adds_bos=family in ("llama", "bloom")), tokens(5)[:, :33]
    ids = torch.from_numpy(table).long()
    with torch.no_grad():
        logits = lm.model(input_ids=prepend_bos(lm, ids)).logits[:, -33:-1]
    logprobs = logits.double().log_softmax(dim=-1)
    own, best = logprobs.gather(2, ids[:, 1:, None]).squeeze(2), logprobs.amax(dim=-1)
    suffix = suffix_logprobs(lm, table, batch_size=2, prefix=20)
    found = (*next_tokens(lm, table, batch_size=2), suffix)
    for values, wanted in zip(found, (own, best, own[:, 19:]), strict=True):
        assert values.dtype == np.float32
        # Logits up to about 20 in float32 against float64.
        np.testing.assert_allclose(values, wanted.numpy(), atol=5e-5)
