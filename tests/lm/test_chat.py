"""A text in a chat: the model reads the template's tokens and then the text's own, no others."""

import numpy as np
import pytest
import torch

from mnemoscope.embedded import model_path
from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import in_chat, wrap_model

TEMPLATE = (
    "{% for one in messages %}<{{ one.role }}>{{ one.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def plain():
    return load_model(str(model_path()), device="cpu")


@pytest.fixture(scope="module")
def chat(plain):
    plain.tokenizer.chat_template = TEMPLATE
    return in_chat(plain, "Continue this text.")


@pytest.fixture(scope="module")
def rows(plain):
    return np.random.default_rng(0).integers(0, plain.vocab_size, (5, 64))


def test_what_stands_before_is_the_filled_in_template(chat):
    assert chat.tokenizer.decode(chat.chat) == "<user>Continue this text.\n<assistant>"
    assert chat.before == chat.chat


def test_a_continuation_is_that_of_the_tokens_written_out(plain, chat, rows):
    found = next(continue_sequences(chat, rows, batch_size=5)).tokens
    ids = torch.tensor([[*chat.chat, *row[:32]] for row in rows.tolist()])
    with torch.inference_mode():
        for _ in range(32):
            best = plain.model(input_ids=ids).logits[:, -1].argmax(dim=-1)
            ids = torch.cat([ids, best[:, None]], dim=1)
    assert (found == ids[:, -32:].numpy()).all()


def test_maps_hold_the_texts_own_tokens_only(chat, rows):
    maps = next(iter(capture_pooled(chat, rows, batch_size=5))).mean
    assert maps.shape[-2:] == (64, 64)
    assert (maps.sum(dim=-1) < 1).all()  # some attention goes to the template


def test_a_model_without_template_is_refused(plain):
    bare = wrap_model(plain.model, None, name="bare", bos="never")
    with pytest.raises(UserError, match="no chat template"):
        in_chat(bare, "x")


def test_a_template_that_refuses_is_named(plain):
    plain.tokenizer.chat_template = "{{ raise_exception('only turns of two') }}"
    try:
        with pytest.raises(UserError, match="only turns of two"):
            in_chat(plain, "x")
    finally:
        plain.tokenizer.chat_template = TEMPLATE


def test_positions_that_do_not_suffice_are_counted_with_the_template(chat, rows):
    long = np.tile(rows, (1, 1 + chat.max_positions // 64))[:, : chat.max_positions - 1]
    with pytest.raises(UserError, match=f"{len(chat.chat)} before them"):
        next(continue_sequences(chat, long, batch_size=5))
