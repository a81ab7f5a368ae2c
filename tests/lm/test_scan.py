"""The scan gives greedy decoding's verdict without decoding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.lm.continue_ import compare, continue_sequences, scan_memorized
from mnemoscope.lm.model import wrap_model


def scan(lm, tokens, batch_size=16):
    batches = list(scan_memorized(lm, tokens, batch_size=batch_size))
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))


def decode(lm, tokens, batch_size=16):
    batches = list(continue_sequences(lm, tokens, batch_size=batch_size))
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))


@pytest.fixture(scope="module")
def mixed(memorizer, tokens):
    """The 24 sequences the model was trained on, 24 new ones, 8 seen but for one suffix token."""
    seen, new = tokens(24, seed=5), tokens(24, seed=6)
    changed = seen[:8].copy()
    for row, position in enumerate((32, 33, 35, 36, 37, 48, 62, 63)):
        changed[row, position] = 3 + (changed[row, position] + 1) % 90
    return np.random.default_rng(0).permutation(np.concatenate([seen, new, changed]))


def test_scan_is_the_verdict_of_decoding(memorizer, mixed):
    is_memorized, _ = scan(memorizer, mixed)
    _, score, _ = decode(memorizer, mixed)
    assert is_memorized.dtype == np.bool_
    np.testing.assert_array_equal(is_memorized, score == 1.0)
    assert 12 <= is_memorized.sum() <= 40  # both verdicts are there


def test_gap_of_memorized_sequences_is_that_of_decoding(memorizer, mixed):
    is_memorized, gap = scan(memorizer, mixed)
    _, _, decoded_gap = decode(memorizer, mixed)
    # Logits up to about 20 in float32, summed in another order.
    np.testing.assert_allclose(gap[is_memorized], decoded_gap[is_memorized], atol=1e-4)


def test_gap_of_others_is_over_what_decoding_shares_with_the_text(memorizer, mixed):
    is_memorized, gap = scan(memorizer, mixed)
    with torch.no_grad():
        logits = memorizer.model(input_ids=torch.from_numpy(mixed).long()).logits[:, 31:-1]
    best, second = logits.sort(dim=-1, descending=True).values[..., :2].unbind(dim=-1)
    wrong = logits.argmax(dim=-1).numpy() != mixed[:, 32:]
    for row in np.flatnonzero(~is_memorized):
        until = int(wrong[row].argmax()) + 1
        expected = (best - second)[row, :until].min().item()
        assert gap[row] == pytest.approx(expected, abs=1e-4)


def test_every_batch_size_gives_the_same_verdict_in_order(memorizer, mixed):
    expected = scan(memorizer, mixed, batch_size=len(mixed))[0]
    for batch_size in (1, 5):
        np.testing.assert_array_equal(scan(memorizer, mixed, batch_size)[0], expected)


def test_scan_agrees_on_every_family(build, tokens, family):
    lm, table = build(family), tokens(6)
    table[::2, 32:] = decode(lm, table)[0][::2]
    assert scan(lm, table)[0].tolist() == [True, False] * 3


def test_scan_sees_the_bos_token(build, tokens):
    lm, table = build("gpt_neox", adds_bos=True), tokens(4)
    table[:, 32:] = decode(lm, table)[0]
    assert scan(lm, table)[0].all()
    assert not scan(wrap_model(lm.model, lm.tokenizer, bos="never"), table)[0].any()


@given(position=st.integers(32, 63), step=st.integers(1, 89))
@settings(max_examples=25)
def test_one_wrong_token_anywhere_is_not_memorized(memorizer, tokens, position, step):
    seen = tokens(24, seed=5)
    is_memorized, _ = scan(memorizer, seen, batch_size=24)
    row = int(np.flatnonzero(is_memorized)[0])
    seen[row, position] = 3 + (seen[row, position] - 3 + step) % 93
    after, _ = scan(memorizer, seen, batch_size=24)
    assert not after[row]
    np.testing.assert_array_equal(np.delete(after, row), np.delete(is_memorized, row))


def test_suffix_shorter_than_the_first_step_is_judged(build, tokens):
    lm, table = build("llama"), tokens(3)
    decoded = next(continue_sequences(lm, table, batch_size=3, prefix=62)).tokens
    table[:2, 62:] = decoded[:2]
    table[2, 63] = (decoded[2, 1] + 1) % 96
    verdict = next(scan_memorized(lm, table, batch_size=3, prefix=62)).is_memorized
    assert verdict.tolist() == [True, True, False]


def test_the_smallest_gap_is_of_the_tokens_up_to_the_first_wrong_one():
    """Counted by hand: what comes after a wrong token was not asked of the model that decodes."""
    gaps_if_right = torch.tensor([[2.0, -1.0, 0.1], [-3.0, 0.5, 0.2], [2.0, 0.5, 1.0]])
    logits = torch.stack([gaps_if_right, torch.zeros(3, 3)], dim=-1)  # negative: token 1 leads
    is_right, gap = compare(logits, torch.zeros(3, 3, dtype=torch.long))
    assert is_right.tolist() == [False, False, True]
    assert gap.tolist() == [1.0, 3.0, 0.5]
