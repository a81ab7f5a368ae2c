"""Maps and verdict of one forward are those of a capture and of a scan."""

import numpy as np
import pytest
import torch

from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import capture_and_scan, continue_sequences, scan_memorized


def both(lm, tokens, batch_size=4):
    batches = list(capture_and_scan(lm, tokens, batch_size=batch_size))
    maps = [torch.cat([getattr(one, name) for one, _ in batches]) for name in ("mean", "max")]
    verdicts = [np.concatenate([one[field] for _, one in batches]) for field in (0, 1)]
    return *maps, *verdicts


def half_memorized(lm, tokens):
    """Every second row goes on as the model itself does."""
    decoded = next(continue_sequences(lm, tokens, batch_size=len(tokens))).tokens
    tokens[::2, 32:] = decoded[::2]
    return tokens


def test_maps_are_those_of_capture_and_verdicts_those_of_decoding(build, tokens, family):
    lm = build(family)
    table = half_memorized(lm, tokens(6))
    mean, largest, is_memorized, _ = both(lm, table)
    alone = list(capture_pooled(lm, table, batch_size=4))
    assert torch.equal(mean, torch.cat([one.mean for one in alone]))
    assert torch.equal(largest, torch.cat([one.max for one in alone]))
    assert is_memorized.tolist() == [True, False] * 3
    assert not lm.model.base_model.config._attn_implementation.startswith("mnemoscope")


def test_gaps_are_those_of_the_scan(memorizer, tokens):
    table = np.concatenate([tokens(24, seed=5), tokens(24, seed=6)])
    _, _, is_memorized, gap = both(memorizer, table, batch_size=16)
    scan = next(scan_memorized(memorizer, table, batch_size=48))
    assert 12 <= is_memorized.sum() <= 36
    np.testing.assert_array_equal(is_memorized, scan.is_memorized)
    # Logits up to about 20 in float32, by another attention code.
    np.testing.assert_allclose(gap, scan.smallest_gap, atol=1e-4)


@pytest.mark.parametrize("family_name", ["gpt_neox", "bloom"])
def test_the_bos_token_is_read_and_not_judged(build, tokens, family_name):
    lm = build(family_name, adds_bos=True)
    table = half_memorized(lm, tokens(4))
    mean, _, is_memorized, _ = both(lm, table)
    assert mean.shape == (4, 3, 64, 64)
    assert is_memorized.tolist() == [True, False] * 2
    assert not both(build(family_name), table)[2].any()


def test_non_finite_logits_are_refused(build, tokens):
    lm = build("gpt_neox")
    with torch.no_grad():
        lm.model.get_output_embeddings().weight[5] = float("nan")
    with pytest.raises(UserError, match="gpt_neox: non-finite logits"):
        both(lm, tokens(2))


def test_a_prefix_without_suffix_is_refused_at_once(build, tokens):
    with pytest.raises(UserError, match="leave no suffix"):
        capture_and_scan(build("gpt_neox"), tokens(2), batch_size=2, prefix=64)
