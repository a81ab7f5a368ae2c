"""Batches, the key-value cache with room and chats: the model reads what it should."""

import logging
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from mnemoscope.errors import NoRoomError, UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import (
    HALVED,
    best_two,
    in_chat,
    last_logits,
    new_cache,
    note_halved,
    recording_batch_size,
    reorder_rows,
    run_batches,
    wrap_model,
)
from refusals import refusal


class Model:
    """What `run_batches` reads of a language model."""

    name, device, vocab_size = "tiny", "cpu", 10


def step_with_room_for(n_rows, error):
    def step(batch):
        if len(batch) > n_rows:
            raise error
        return batch[:, 0].tolist()

    return step


def test_the_smallest_batch_of_all_runs_is_on_record(tmp_path):
    """Also where a later batch, or a later run, did with a larger one."""
    file = tmp_path / "halved"
    for sizes in ([16, 4, 8], [8], []):
        counts = {}
        with recording_batch_size(counts, file):
            for size in sizes:
                note_halved(size)
        assert counts == {HALVED: 4}
        assert file.read_text() == "4\n"


@settings(max_examples=60)
@given(
    n_rows=st.integers(0, 40),
    batch_size=st.integers(1, 50),
    room=st.integers(1, 50),
)
def test_every_row_once_and_in_order_whatever_fits(n_rows, batch_size, room):
    rows = torch.arange(n_rows)[:, None]
    step = step_with_room_for(room, torch.OutOfMemoryError("CUDA out of memory"))
    batches = list(run_batches(Model, rows, batch_size, step))
    assert list(chain.from_iterable(batches)) == list(range(n_rows))
    assert all(len(batch) <= min(batch_size, room) for batch in batches)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    ],
)
def test_halving_is_said_once_and_lasts(error, caplog):
    rows = torch.arange(20)[:, None]
    with caplog.at_level(logging.WARNING):
        batches = list(run_batches(Model, rows, 8, step_with_room_for(4, error)))
    assert [len(batch) for batch in batches] == [4] * 5
    (said,) = caplog.records
    assert said.getMessage() == "out of memory on cpu: going on with batch size 4"


@pytest.mark.parametrize(
    ("error", "size", "raised", "words"),
    [
        (MemoryError(), 2, NoRoomError, "tiny: one sequence alone does not fit"),
        (RuntimeError("shapes differ"), 2, RuntimeError, "shapes differ"),
        (MemoryError(), 0, UserError, "batch size 0: must be at least 1"),
    ],
)
def test_what_no_smaller_batch_mends_is_raised(error, size, raised, words):
    with pytest.raises(raised, match=words):
        list(run_batches(Model, torch.zeros(3, 1), size, step_with_room_for(0, error)))


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
    for ours, theirs in zip(walk(lm, new_cache(lm, room), ids), expected, strict=True):
        # Strides differ, so products may sum in another order: float32, logits up to about 20.
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_nothing_is_copied_while_there_is_room(build, tokens):
    lm, ids = build("llama"), torch.from_numpy(tokens(4)).long()
    cache = new_cache(lm, 40)
    places = set()
    with torch.inference_mode():
        last_logits(lm, ids[:, :20], 1, cache)
        for position in range(20, 40):
            last_logits(lm, ids[:, position : position + 1], 1, cache)
            places.add(cache.layers[1].keys.data_ptr())
    assert len(places) == 1
    assert cache.get_seq_length() == 40


@pytest.mark.parametrize(
    ("change", "order"),
    [
        ("batch_select_indices", [2, 0, 3, 1]),
        ("reorder_cache", [2, 0, 3, 1]),  # nothing but the order says that rooms are out of date
        ("reorder_rows", [2, 0, 0, 1]),
        ("reorder_rows", [3, 1]),
    ],
)
def test_rows_in_another_order_go_on_as_themselves(build, tokens, change, order):
    lm, ids = build("llama"), torch.from_numpy(tokens(4)).long()
    ids[:, :12], order, found = ids[:1, :12], torch.tensor(order), []
    for cache in (new_cache(lm, 40), DynamicCache(config=lm.model.config)):
        with torch.inference_mode():
            last_logits(lm, ids[:, :20], 1, cache)
            if change != "reorder_rows":
                getattr(cache, change)(order)
            elif found:
                cache.batch_select_indices(order)
            else:
                reorder_rows(cache, order, shared=12)
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


TEMPLATE = (
    "{% for one in messages %}<{{ one.role }}>{{ one.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def plain(tiny):
    lm = load_model(str(tiny.model), device="cpu")
    lm.tokenizer.chat_template = TEMPLATE
    return lm


@pytest.fixture(scope="module")
def chat(plain):
    return in_chat(plain, "Continue.")


@pytest.fixture(scope="module")
def rows(plain):
    return np.random.default_rng(0).integers(1, 300, (5, 48))


def test_a_continuation_is_that_of_the_tokens_written_out(plain, chat, rows):
    assert chat.tokenizer.decode(chat.chat) == "<user>Continue.\n<assistant>"
    assert chat.before == chat.chat
    found = next(continue_sequences(chat, rows, batch_size=5)).tokens
    ids = torch.tensor([[*chat.chat, *row[:32]] for row in rows.tolist()])
    with torch.inference_mode():
        for _ in range(16):
            best = plain.model(input_ids=ids).logits[:, -1].argmax(dim=-1)
            ids = torch.cat([ids, best[:, None]], dim=1)
    assert (found == ids[:, -16:].numpy()).all()
    maps = next(iter(capture_pooled(chat, rows, batch_size=5))).mean
    assert maps.shape[-2:] == (48, 48)  # the text's own tokens only
    assert (maps.sum(dim=-1) < 1).all()  # some attention goes to the template


def test_what_cannot_be_a_chat_is_refused(plain, chat, rows, monkeypatch):
    with pytest.raises(UserError, match="no chat template"):
        in_chat(wrap_model(plain.model, None, name="bare", bos="never"), "x")
    long = np.tile(rows, (1, 2))[:, : chat.max_positions - 1]
    with pytest.raises(UserError, match=f"{len(chat.chat)} before them"):
        next(continue_sequences(chat, long, batch_size=5))
    refusing = "{{ raise_exception('only turns of two') }}"
    monkeypatch.setattr(plain.tokenizer, "chat_template", refusing)
    assert "only turns of two" in refusal(in_chat, plain, "x")
