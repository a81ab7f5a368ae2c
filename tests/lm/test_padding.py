"""Padded tables give what their sequences give alone, in every family; the padding itself is zero.

Oracles: the same sequences without padding (bit for bit at one batch size), and transformers' own
padded forward with `attention_mask` (within float32 rounding).
"""

import numpy as np
import pytest
import torch
from tiny_families import joined, own_attention

from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import continue_sequences, scan_memorized

FAMILIES = (
    "llama", "gpt_neox", "gpt2", "gemma2", "mistral", "qwen3", "opt", "phi",
    "bloom", "falcon", "mpt", "gpt_neo",
)  # fmt: skip
SIDES = ("left", "right")


def padded(tokens, length: int, side: str, filler: int = 0):
    n_more = length - tokens.shape[1]
    around = ((0, 0), (n_more, 0) if side == "left" else (0, n_more))
    return (
        np.pad(tokens, around, constant_values=filler),
        np.pad(np.ones_like(tokens), around),
    )


def place(side: str, n_tokens: int, length: int) -> slice:
    return slice(length - n_tokens, length) if side == "left" else slice(n_tokens)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", FAMILIES)
def test_maps_are_those_of_the_sequence_alone_and_zero_around(build, tokens, name, side):
    lm, rows = build(name, adds_bos=name == "llama"), tokens(5, length=41)
    table, mask = padded(rows, 64, side)
    options = {"batch_size": 5, "keep_heads": True}
    here = joined(capture_pooled(lm, table, attention_mask=mask, **options))
    alone = joined(capture_pooled(lm, rows, **options))
    inside = place(side, 41, 64)
    for found, wanted in zip(here, alone, strict=True):
        assert torch.equal(found[:, :, inside, inside], wanted)
        assert found.shape == (*wanted.shape[:2], 64, 64)
        found[:, :, inside, inside] = 0
        assert not found.any()


@pytest.mark.parametrize(("name", "batch_size"), [("gemma2", 1), ("gpt2", 7), ("bloom", 100)])
def test_rows_of_many_lengths_come_back_in_the_order_of_the_table(build, tokens, name, batch_size):
    lm, length = build(name), 32
    lengths = np.random.default_rng(0).integers(1, length + 1, 280)
    lengths[::7] = length  # some have no padding
    table, mask = tokens(280, length=length), np.zeros((280, length), dtype=bool)
    for row, n_tokens in enumerate(lengths):
        mask[row, place(SIDES[row % 2], n_tokens, length)] = True
    _, found = joined(capture_pooled(lm, table, attention_mask=mask, batch_size=batch_size))
    near = 0 if batch_size == 1 else 1e-5  # larger products are summed in another order
    for row in (0, 1, 17, 255, 256, 279):
        alone = next(capture_pooled(lm, table[row][mask[row]][None], batch_size=1))
        inside = place(SIDES[row % 2], lengths[row], length)
        there = found[row, :, inside, inside]
        torch.testing.assert_close(there, alone.max[0], atol=near, rtol=0)
    assert torch.equal(found.sum(dim=1).diagonal(dim1=1, dim2=2) > 0, torch.from_numpy(mask))


@pytest.mark.parametrize("length", [8, 65, 80])
def test_every_length_gives_the_models_own_attention(build, tokens, length):
    lm, rows = build("gemma2"), tokens(4, length=length)
    found = next(capture_pooled(lm, rows, batch_size=4))
    assert torch.equal(found.mean, own_attention(lm, rows).mean(dim=2))


def test_continuations_and_scan_are_those_of_the_sequences_alone(memorizer, tokens):
    seen = tokens(24, seed=5)
    table, mask = seen.copy(), np.ones_like(seen)
    mask[8:16, :10] = 0  # shorter prefix
    mask[16:, 50:] = 0  # shorter suffix
    table[mask == 0] = -100
    arguments = {"attention_mask": mask, "batch_size": 8}
    found = next(continue_sequences(memorizer, table, **arguments))
    scanned = next(scan_memorized(memorizer, table, **arguments))
    groups = (
        (slice(0, 8), seen[:8], 32),
        (slice(8, 16), seen[8:16, 10:], 22),
        (slice(16, 24), seen[16:, :50], 32),
    )
    for rows, alone, prefix in groups:
        wanted = next(continue_sequences(memorizer, alone, batch_size=8, prefix=prefix))
        n_tokens = wanted.tokens.shape[1]
        assert np.array_equal(found.tokens[rows, :n_tokens], wanted.tokens)
        assert (found.tokens[rows, n_tokens:] == -1).all()
        assert np.array_equal(found.score[rows], wanted.score)
        assert np.array_equal(scanned.is_memorized[rows], wanted.score == 1)
    assert scanned.is_memorized.any()


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (1, 0, "row 1: no token at all"),
        ((2, 30), 0, "row 2: padding between"),
        ((0, slice(32, None)), 0, "row 0: no token before or none"),
        ((0, slice(0, 32)), 0, "row 0: no token before or none"),
        ((0, 0), 2, "values other than 1"),
    ],
)
def test_a_mask_that_cannot_be_read_is_refused(build, tokens, place, value, words):
    mask = np.ones((3, 64), dtype=int)
    mask[place] = value
    with pytest.raises(UserError, match=words):
        continue_sequences(build("gpt2"), tokens(3), attention_mask=mask, batch_size=3)
    with pytest.raises(UserError, match=r"shape \(3, 63\), the tokens have \(3, 64\)"):
        capture_pooled(build("gpt2"), tokens(3), attention_mask=mask[:, 1:], batch_size=3)
