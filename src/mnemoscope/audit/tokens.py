"""A document as tokens, each with the characters of the document that it covers."""

import unicodedata
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.errors import UserError
from mnemoscope.sequences.windows import WindowCutter

__all__ = ["Tokens", "character_range", "token_texts", "tokenize"]


class Tokens(NamedTuple):
    """Tokens of one document.

    Attributes:
        ids: shape (n,), int32.
        starts: first character of each token, shape (n,), int64.
        ends: position after its last character, shape (n,), int64. A token that ends inside a
            character of several bytes covers the whole character, as the next token does too;
            the combining marks of its last character are covered with it.
    """

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


def tokenize(text: str, tokenizer: Any) -> Tokens:
    """Cut a document into tokens, without special ones.

    Args:
        text: the document.
        tokenizer: a Hugging Face tokenizer that knows offsets (a fast one).

    Raises:
        UserError: a tokenizer without offsets.
    """
    ids, offsets = WindowCutter(tokenizer).encode_with_offsets(text)
    if offsets is None:
        raise UserError(
            "the model's tokenizer cannot say which characters a token covers. Save its fast "
            "form (tokenizer.json) with the model."
        )
    places = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    _take_in_marks(text, places)
    return Tokens(np.array(ids, dtype=np.int32), places[:, 0], places[:, 1])


def _take_in_marks(text: str, places: npt.NDArray[np.int64]) -> None:
    """Give combining marks that no token covers to the tokens of their letter, in place.

    A tokenizer that composes characters first (NFC) says of é as two characters where e stands.
    """
    nexts = np.append(places[1:, 0], len(text))
    for row in np.flatnonzero(nexts > places[:, 1]).tolist():
        end = begun = int(places[row, 1])
        while end < nexts[row] and unicodedata.combining(text[end]):
            end += 1
        while end > begun and row >= 0 and places[row, 1] == begun:
            places[row, 1] = end
            row -= 1


def character_range(tokens: Tokens, first: int, last: int) -> tuple[int, int]:
    """Characters that tokens `first` up to and without `last` cover: start and end."""
    return int(tokens.starts[first:last].min()), int(tokens.ends[first:last].max())


def token_texts(tokenizer: Any, ids: npt.ArrayLike) -> list[str]:
    """Text of each token by itself; bytes that are no whole character show as U+FFFD."""
    rows = [[int(one)] for one in np.asarray(ids).ravel()]
    texts: list[str] = tokenizer.batch_decode(
        rows, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return texts
