"""Continuations are what transformers' own greedy search says, with nothing in between."""

import numpy as np
import pytest
import torch

from mnemoscope.errors import UserError
from mnemoscope.lm.continue_ import continue_sequences


def decode(lm, tokens, batch_size=4, prefix=32):
    batches = list(continue_sequences(lm, tokens, batch_size=batch_size, prefix=prefix))
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))


def generate(lm, tokens, prefix=32):
    """The oracle: `generate` without sampling, without a stop, in one batch."""
    ids = torch.from_numpy(tokens[:, :prefix]).long()
    if lm.bos_id is not None:
        ids = torch.cat([torch.full((len(ids), 1), lm.bos_id), ids], dim=1)
    out = lm.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=tokens.shape[1] - prefix,
        eos_token_id=None,
        pad_token_id=0,
        repetition_penalty=1.0,
    )
    return out[:, ids.shape[1] :].numpy()


def test_continuation_equals_generate(build, tokens, family):
    lm, table = build(family), tokens(6)
    decoded, _, _ = decode(lm, table)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, generate(lm, table))
    assert len(np.unique(decoded)) > 5  # no trivial agreement on one token


@pytest.mark.parametrize("family_name", ["gpt_neox", "gemma2"])
def test_continuation_equals_generate_after_a_bos_token(build, tokens, family_name):
    lm, table = build(family_name, adds_bos=True), tokens(4)
    decoded, _, _ = decode(lm, table)
    np.testing.assert_array_equal(decoded, generate(lm, table))
    assert (decoded != decode(build(family_name), table)[0]).any()


def test_end_of_text_does_not_stop_it(build, tokens):
    lm, table = build("gpt_neox"), tokens(4)
    end = int(decode(lm, table)[0][0, 3])
    lm.model.generation_config.eos_token_id = lm.model.config.eos_token_id = end
    decoded, _, _ = decode(lm, table)
    assert decoded.shape == (4, 32)
    assert decoded[0, 3] == end
    np.testing.assert_array_equal(decoded, generate(lm, table))


def test_settings_that_come_with_a_model_change_nothing(build, tokens):
    lm, table = build("gpt_neox"), tokens(4)
    before, _, _ = decode(lm, table)
    lm.model.generation_config.repetition_penalty = 5.0
    lm.model.generation_config.do_sample = True
    np.testing.assert_array_equal(decode(lm, table)[0], before)


def test_score_is_the_share_of_equal_positions(build, tokens):
    lm, table = build("llama"), tokens(4)
    decoded, _, _ = decode(lm, table)
    table[0, 32:] = decoded[0]
    table[1, 32:] = decoded[1]
    table[1, 40] = (table[1, 40] + 1) % 96
    table[2, 32:] = (decoded[2] + 1) % 96
    again, score, _ = decode(lm, table)
    np.testing.assert_array_equal(again, decoded)
    assert score.dtype == np.float32
    assert score[:3].tolist() == [1.0, 31 / 32, 0.0]


def test_smallest_gap_is_that_of_forwards_without_cache(build, tokens):
    lm, table = build("gpt_neox"), tokens(3)
    decoded, _, gap = decode(lm, table)
    whole = torch.from_numpy(np.concatenate([table[:, :32], decoded], axis=1)).long()
    with torch.no_grad():
        logits = lm.model(input_ids=whole).logits[:, 31:-1]
    best, second = logits.sort(dim=-1, descending=True).values[..., :2].unbind(dim=-1)
    # Logits near 10 in float32, summed in another order with a cache than without.
    np.testing.assert_allclose(gap, (best - second).amin(dim=1).numpy(), atol=1e-4)
    assert (gap > 0).all()


def test_every_batch_size_gives_the_same_tokens_in_order(build, tokens):
    lm, table = build("qwen2"), tokens(7)
    expected = decode(lm, table, batch_size=7)
    for batch_size in (1, 3, 100):
        for got, want in zip(decode(lm, table, batch_size), expected, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-4)  # gaps round as above


def test_prefix_may_have_any_length(build, tokens):
    lm, table = build("gpt_neox"), tokens(3)
    decoded, score, _ = decode(lm, table, prefix=50)
    assert decoded.shape == (3, 14)
    np.testing.assert_array_equal(decoded, generate(lm, table, prefix=50))
    np.testing.assert_array_equal(score, (decoded == table[:, 50:]).mean(axis=1, dtype=np.float32))


def test_native_attention_backend_is_used(build, tokens):
    lm = build("llama")
    assert lm.model.config._attn_implementation == "sdpa"
    seen = []
    handle = lm.model.register_forward_pre_hook(
        lambda module, _: seen.append(module.config._attn_implementation)
    )
    decode(lm, tokens(2))
    handle.remove()
    assert set(seen) == {"sdpa"}


def test_non_finite_logits_are_refused(build, tokens):
    lm = build("gpt_neox")
    with torch.no_grad():
        lm.model.get_output_embeddings().weight[5] = float("nan")
    with pytest.raises(UserError, match="gpt_neox: non-finite logits in float32"):
        decode(lm, tokens(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:, :32], "leave no suffix"),
        (lambda t: t.astype(np.float32), "of integers"),
        (lambda t: t[0], r"wanted \(n, T\)"),
        (lambda t: np.where(t == t[1, 2], 96, t), "row .*id 96 is outside the vocabulary"),
        (lambda t: np.concatenate([t, t], axis=1), "has 80 positions, sequences of 128 tokens"),
    ],
)
def test_tokens_that_do_not_fit_are_refused_at_once(build, tokens, change, message):
    with pytest.raises(UserError, match=message):
        continue_sequences(build("gpt_neox"), change(tokens(3)), batch_size=2)
