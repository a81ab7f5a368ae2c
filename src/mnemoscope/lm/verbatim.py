"""How far a model writes a text on without a mistake, and whether it merely copied its prompt.

One teacher-forced forward: as long as every token is the model's own choice, it is what greedy
decoding would have written. After Huang, Yang, Potts (arXiv 2407.17817), on tokens, with their
guard: what the prompt already holds is copied, not remembered.
"""

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from mnemoscope.lm.best_tokens import best_tokens
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["as_words", "is_copied", "right_tokens", "run_lengths"]

_SHORTEST_COPY = 5  # tokens; a shorter match proves nothing either way (their script)
_SHOWN_CHARACTERS = 32
_WORD = re.compile(r"[^\W_]+")
_ASCII_WORD = re.compile(r"[A-Za-z0-9]+")


def right_tokens(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int, prefix: int
) -> npt.NDArray[np.bool_]:
    """Say of every token after the prefix whether the true ones before it make it the best.

    Args:
        lm: the model; its native attention backend is used.
        tokens: shape (n, T), integers.
        batch_size: rows at once; halved, and said so, when memory runs out.
        prefix: tokens of the prefix, at least 1.

    Returns:
        Shape (n, T - prefix), bool.

    Raises:
        UserError: tokens that do not fit the model.
        NoRoomError: not even one row fits into memory.
    """
    best = best_tokens(lm, tokens, batch_size=batch_size, prefix=prefix)
    is_right: npt.NDArray[np.bool_] = best == np.asarray(tokens)[:, prefix:]
    return is_right


def run_lengths(is_right: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Count the right tokens in a row from the first on.

    Args:
        is_right: shape (..., n), bool.

    >>> run_lengths([[True, True, False, True]]).tolist()
    [2]
    """
    ones = np.asarray(is_right, dtype=np.int64)
    counted: npt.NDArray[np.int64] = np.cumprod(ones, axis=-1).sum(axis=-1)
    return counted


def is_copied(tokenizer: Any, prompt: npt.ArrayLike, written: npt.ArrayLike) -> bool:
    """True where the prompt already holds what was written, or its first 32 characters.

    Args:
        tokenizer: gives the texts; they are compared as words of letters and digits.
        prompt: token ids that the model was shown.
        written: token ids that it wrote; five or fewer are never called copied.
    """
    written = np.asarray(written)
    if len(written) <= _SHORTEST_COPY:
        return False
    shown, text = as_words(tokenizer, prompt), as_words(tokenizer, written)
    return bool(text) and (text in shown or text[:_SHOWN_CHARACTERS] in shown)


def as_words(tokenizer: Any, ids: npt.ArrayLike, *, ascii_only: bool = False) -> str:
    """Give tokens as their words of letters and digits, one space between them.

    Args:
        tokenizer: gives their text.
        ids: the tokens.
        ascii_only: as the published script, which sees nothing of other scripts.
    """
    text = tokenizer.decode([int(one) for one in np.asarray(ids)], skip_special_tokens=False)
    return " ".join((_ASCII_WORD if ascii_only else _WORD).findall(text))
