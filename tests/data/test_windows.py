"""Windows: disjoint, whole, in the right place, and without special tokens."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.data.read import cut_windows
from mnemoscope.errors import UserError

ASCII = "def add(a, b):\n    return a + b\n\n\n  # the library of the works\n" * 12


def own_ids(tokenizer, text):
    """What the tokenizer itself says, through transformers."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def test_windows_are_the_tokens_in_order_and_the_tail_is_left_out(tokenizer):
    ids = own_ids(tokenizer, ASCII)
    windows = cut_windows(ASCII, tokenizer)
    assert len(windows) == len(ids) // 64 > 3
    assert [token for window in windows for token in window.tokens] == ids[: len(windows) * 64]


def test_text_is_the_decode_and_the_offsets_tile_the_document(tokenizer):
    windows = cut_windows(ASCII, tokenizer, length=5, stride=5)
    assert windows[0].start == 0
    for window, later in itertools.pairwise(windows):
        assert window.end == later.start
        assert ASCII[window.start : window.end] == window.text
        assert tokenizer.decode(window.tokens) == window.text


def test_stride_below_the_length_overlaps(tokenizer):
    ids = own_ids(tokenizer, ASCII)
    windows = cut_windows(ASCII, tokenizer, length=64, stride=10)
    assert len(windows) == (len(ids) - 64) // 10 + 1
    assert all(w.tokens == ids[10 * i : 10 * i + 64] for i, w in enumerate(windows))


@pytest.mark.parametrize("n_missing", [0, 1])
def test_a_text_shorter_than_one_window_gives_none(tokenizer, n_missing):
    text = "1" * (64 - n_missing)
    assert len(own_ids(tokenizer, text)) == 64 - n_missing
    assert len(cut_windows(text, tokenizer)) == 1 - n_missing
    assert cut_windows("", tokenizer) == []


def test_no_special_token_is_added_and_the_tokenizer_stays_as_it_was(tokenizer):
    before = tokenizer("a b", return_offsets_mapping=True)
    assert before["input_ids"][0] == tokenizer.bos_token_id
    windows = cut_windows(ASCII, tokenizer, length=4, stride=4)
    assert all(tokenizer.bos_token_id not in window.tokens for window in windows)
    assert tokenizer("a b", return_offsets_mapping=True) == before


def test_truncation_and_padding_of_the_tokenizer_do_not_cut_documents(tokenizer):
    whole = cut_windows(ASCII, tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(10)
    tokenizer.backend_tokenizer.enable_padding(length=100)
    try:
        assert cut_windows(ASCII, tokenizer) == whole
    finally:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()


def test_a_character_split_between_windows_belongs_to_both(tokenizer):
    text = "𓀀" * 8  # four bytes, none of them merged: four tokens
    windows = cut_windows(text, tokenizer, length=3, stride=3)
    assert [(window.start, window.end) for window in windows[:4]] == [
        (0, 1),
        (0, 2),
        (1, 3),
        (2, 3),
    ]
    assert windows[0].text.endswith("\ufffd")


@given(
    st.text(
        alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n日é🎉a")), max_size=60
    ),
    st.integers(1, 9),
)
@settings(max_examples=150)
def test_any_text_gives_ordered_offsets_around_its_windows(tokenizer, text, length):
    windows = cut_windows(text, tokenizer, length=length, stride=length)
    ids = own_ids(tokenizer, text)
    assert [w.tokens for w in windows] == [
        ids[i : i + length] for i in range(0, len(ids) - length + 1, length)
    ]
    previous_end = 0
    for window in windows:
        assert previous_end - 1 <= window.start <= previous_end
        assert window.start < window.end <= len(text)
        assert window.text.strip("\ufffd") in text[window.start : window.end]
        previous_end = window.end


def test_a_tokenizer_without_offsets_leaves_them_open():
    class Letters:
        def encode(self, text, add_special_tokens):
            return [ord(letter) for letter in text]

        def batch_decode(self, rows, skip_special_tokens, clean_up_tokenization_spaces):
            return ["".join(map(chr, row)) for row in rows]

    assert cut_windows("abcde", Letters(), length=2, stride=2) == [
        ([97, 98], "ab", None, None),
        ([99, 100], "cd", None, None),
    ]


@pytest.mark.parametrize(("length", "stride"), [(0, 1), (1, 0)])
def test_windows_of_nothing_are_refused(tokenizer, length, stride):
    with pytest.raises(UserError, match="at least 1"):
        cut_windows("a", tokenizer, length=length, stride=stride)
