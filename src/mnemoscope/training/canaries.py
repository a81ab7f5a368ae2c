"""Texts that nobody could guess: words drawn at random from a tokenizer's own vocabulary.

Some are put into the training data, others of the same kind are kept out of it: what the model
reproduces of the first and not of the second, it has memorized.
"""

from typing import Any

import numpy as np

from mnemoscope.errors import UserError

__all__ = ["make_canaries"]


def make_canaries(tokenizer: Any, n: int, *, n_tokens: int = 64, seed: int = 0) -> list[str]:
    """Draw texts that the tokenizer cuts into at least so many tokens.

    Args:
        tokenizer: a Hugging Face tokenizer; words are its tokens of letters alone, two at least.
        n: how many texts.
        n_tokens: tokens that each text has at least.
        seed: the same seed gives the same texts; another seed gives the held-out twins.

    Returns:
        The texts, all different in practice: each holds `n_tokens` words drawn at random.

    Raises:
        UserError: a number below 1, or a vocabulary with fewer than 100 words of letters.
    """
    if n < 1 or n_tokens < 1:
        raise UserError(f"{n} canaries of {n_tokens} tokens: both numbers must be at least 1.")
    words = sorted(_words(tokenizer))
    if len(words) < 100:
        raise UserError(
            f"the tokenizer has {len(words)} tokens of letters alone, too few to draw canaries "
            "from. Write the canaries yourself."
        )
    drawn = np.random.default_rng(seed).integers(0, len(words), size=(n, n_tokens))
    return [" ".join(words[word] for word in row) for row in drawn]


def _words(tokenizer: Any) -> set[str]:
    """Tokens that are a word of ASCII letters when written out."""
    ids = [[index] for index in tokenizer.get_vocab().values()]
    texts = (text.strip() for text in tokenizer.batch_decode(ids))
    return {text for text in texts if len(text) > 1 and text.isascii() and text.isalpha()}
