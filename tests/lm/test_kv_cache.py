"""The cache with room gives what transformers' own gives; the two best logits are those of topk."""

import pytest
import torch
from transformers import DynamicCache

from mnemoscope.lm.model import best_two, last_logits, roomy_cache


def walk(lm, cache, tokens):
    """Logits of a prefix, of two rows of it going on, and of tokens one by one."""
    rows = torch.tensor([3, 1])
    with torch.inference_mode():
        found = [last_logits(lm, tokens[:, :20], 2, cache)]
        cache.batch_select_indices(rows)
        found.append(last_logits(lm, tokens[rows, 20:25], 5, cache))
        for position in range(25, 40):
            found.append(last_logits(lm, tokens[rows, position : position + 1], 1, cache))
    return found


@pytest.mark.parametrize("room", [40, 24, 0], ids=["enough", "too little", "none"])
@pytest.mark.parametrize(
    "family_name", ["gpt_neox", "llama", "gemma2", "bloom", "falcon", "gpt2", "gpt_neo"]
)
def test_logits_are_those_of_the_cache_that_copies(build, tokens, family_name, room):
    lm, ids = build(family_name), torch.from_numpy(tokens(4)).long()
    expected = walk(lm, DynamicCache(config=lm.model.config), ids)
    for ours, theirs in zip(
        walk(lm, roomy_cache(lm.model.config, room), ids), expected, strict=True
    ):
        # Strides differ, so products may sum in another order: float32, logits up to about 20.
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_nothing_is_copied_while_there_is_room(build, tokens):
    lm, ids = build("llama"), torch.from_numpy(tokens(4)).long()
    cache = roomy_cache(lm.model.config, 40)
    places = set()
    with torch.inference_mode():
        last_logits(lm, ids[:, :20], 1, cache)
        for position in range(20, 40):
            last_logits(lm, ids[:, position : position + 1], 1, cache)
            places.add(cache.layers[1].keys.data_ptr())
    assert len(places) == 1
    assert cache.get_seq_length() == 40


@pytest.mark.parametrize("change", ["batch_select_indices", "reorder_cache"])
def test_rows_in_another_order_go_on_as_themselves(build, tokens, change):
    """As many rows as before: nothing but the order says that the rooms are out of date."""
    lm, ids = build("llama"), torch.from_numpy(tokens(4)).long()
    order = torch.tensor([2, 0, 3, 1])
    found = []
    for cache in (roomy_cache(lm.model.config, 40), DynamicCache(config=lm.model.config)):
        with torch.inference_mode():
            last_logits(lm, ids[:, :20], 1, cache)
            getattr(cache, change)(order)
            found.append(last_logits(lm, ids[order, 20:25], 5, cache))
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_best_two_are_those_of_topk_and_logits_stay(dtype):
    logits = torch.randn(5, 3, 97, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[0, 0, [4, 50]] = 9.0  # a tie
    logits[1, 0, 7] = torch.inf
    logits[2, 0, 8] = torch.nan
    logits[3, 0, 5:] = -torch.inf
    before = logits.clone()
    best, gap = best_two(logits)
    values = before.float().topk(2, dim=-1).values
    expected = values[..., 0] - values[..., 1]
    expected[[1, 2], 0] = torch.nan  # the best is not finite
    assert torch.equal(best, before.float().argmax(dim=-1))
    torch.testing.assert_close(gap, expected, atol=0, rtol=0, equal_nan=True)
    assert gap[0, 0] == 0
    torch.testing.assert_close(logits, before, atol=0, rtol=0, equal_nan=True)
