"""The BOS token is prepended exactly where the tokenizer does so by default."""

import pytest

from mnemoscope.errors import UserError
from mnemoscope.lm.hub import find_bos


@pytest.mark.parametrize(
    ("adds_bos", "mode", "expected"),
    [
        (True, "auto", 1),
        (False, "auto", None),
        (False, "always", 1),
        (True, "never", None),
    ],
)
def test_mode_decides(tokenizer, adds_bos, mode, expected):
    assert find_bos(tokenizer(adds_bos), mode) == expected


def test_another_token_in_front_is_no_bos(tokenizer):
    changed = tokenizer(adds_bos=True)
    changed.bos_token = "</s>"  # what it puts in front is now an ordinary "<s>"
    assert changed("a").input_ids[0] == 1
    assert find_bos(changed) is None


def test_bos_written_in_the_text_is_not_taken_for_an_added_one():
    class Echo:
        """Gives the text's own tokens, which begin with what it calls its BOS."""

        bos_token_id = 7

        def __call__(self, text, add_special_tokens=True):
            return type("Encoding", (), {"input_ids": [7]})

    assert find_bos(Echo()) is None


def test_tokenizer_without_the_token(tokenizer):
    bare = tokenizer()
    bare.bos_token = None
    assert find_bos(bare) is None
    with pytest.raises(UserError, match="no beginning-of-sequence token"):
        find_bos(bare, "always")


def test_model_without_tokenizer_gets_none():
    assert find_bos(None) is None


def test_unknown_mode_names_the_nearest(tokenizer):
    with pytest.raises(UserError, match=r"'awto'.*Did you mean 'auto'\?"):
        find_bos(tokenizer(), "awto")
