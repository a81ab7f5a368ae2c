"""Characters of tokens: exact, also inside characters of several bytes."""

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mnemoscope.audit.documents import character_range, tokenize
from mnemoscope.embedded import model_path
from mnemoscope.lm.load import load_tokenizer

TOKENIZER = load_tokenizer(str(model_path()))
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def test_a_token_inside_a_character_belongs_to_the_whole_character():
    text = "a😀b"
    tokens = tokenize(text, TOKENIZER)
    inside = [(s, e) for s, e in zip(tokens.starts, tokens.ends, strict=True) if 1 <= s < 2]
    assert len(inside) > 1  # this vocabulary splits the four bytes
    assert set(inside) == {(1, 2)}
    for first in range(1, 1 + len(inside)):
        assert text[slice(*character_range(tokens, first, first + 1))] == "😀"


def composing():
    """A tokenizer as Qwen's: characters composed (NFC), then bytes."""
    made = Tokenizer(models.BPE(vocab={one: n for n, one in enumerate(BYTES)}, merges=[]))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=made)


COMPOSING = composing()


@settings(max_examples=60)
@given(st.text("ae \u0301\u0327b漢😀", max_size=20))
def test_a_combining_mark_belongs_to_its_letter(text):
    # NFC writes e and its acute as one character, whose two bytes are a token each
    tokens = tokenize(text, COMPOSING)
    covered = {c for s, e in zip(tokens.starts, tokens.ends, strict=True) for c in range(s, e)}
    assert covered == set(range(len(text)))
    marks = {
        end for end in tokens.ends.tolist() if unicodedata.combining(text[end : end + 1] or "a")
    }
    assert marks <= set(tokens.starts.tolist())  # a mark that has tokens of its own


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_tokens_cover_every_character_in_order(text):
    tokens = tokenize(text, TOKENIZER)
    covered = {c for s, e in zip(tokens.starts, tokens.ends, strict=True) for c in range(s, e)}
    assert covered == set(range(len(text)))
    assert list(tokens.starts) == sorted(tokens.starts)


@settings(max_examples=40)
@given(st.text("abc déß漢😀\n", min_size=20, max_size=60), st.data())
def test_a_range_of_tokens_decodes_to_its_characters(text, data):
    tokens = tokenize(text, TOKENIZER)
    first = data.draw(st.integers(0, len(tokens.ids) - 1))
    last = data.draw(st.integers(first + 1, len(tokens.ids)))
    start, end = character_range(tokens, first, last)
    decoded = TOKENIZER.decode(tokens.ids[first:last].tolist()).strip("\ufffd")
    assert decoded in text[start:end]
    assert end - start - len(decoded) <= 2  # at most one torn character at each end
