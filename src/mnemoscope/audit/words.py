"""Cut documents by a model's tokenizer, or by words where there is none (a model behind an API)."""

import re
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mnemoscope.audit.tokens import Tokens, tokenize

__all__ = ["NOTHING", "ModelTokens", "Splitter", "Words"]

NOTHING = -1
"""Stands where the model wrote no token, or one that has no id."""

# Blanks belong to what follows them, as in most models' tokens, so that no prompt ends in one.
# Scripts without blanks go by the character; what is longer than twelve letters is cut.
_CHARACTER = r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"
_PIECE = re.compile(rf"\s*(?:{_CHARACTER}|(?:(?!{_CHARACTER})\w){{1,12}}|[^\w\s])|\s+\Z")


class Splitter(Protocol):
    """Cuts texts into pieces with exact places.

    Attributes:
        tokenizer: gives the text of pieces, as a Hugging Face tokenizer does.
        is_model: the pieces are the audited model's own tokens.
        bos_id: to be put before token ids, None for none.
    """

    @property
    def tokenizer(self) -> Any: ...  # noqa: D102

    @property
    def is_model(self) -> bool: ...  # noqa: D102

    @property
    def bos_id(self) -> int | None: ...  # noqa: D102

    def split(self, text: str) -> Tokens:
        """Pieces of a text."""


class ModelTokens:
    """The tokens of the model itself.

    Args:
        tokenizer: a Hugging Face tokenizer that knows offsets.
        bos_id: what the tokenizer puts before a text by default.
    """

    is_model = True

    def __init__(self, tokenizer: Any, bos_id: int | None) -> None:
        self.tokenizer, self.bos_id = tokenizer, bos_id

    def split(self, text: str) -> Tokens:
        """Tokens of a text, without special ones."""
        return tokenize(text, self.tokenizer)


class Words:
    """Words with the blanks before them, punctuation, characters of scripts without blanks.

    Every character is in exactly one piece. Ids number the pieces in the order in which they were
    met; they mean nothing outside.
    """

    is_model, bos_id = False, None

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._texts: list[str] = []

    @property
    def tokenizer(self) -> "Words":
        """Itself: it gives the text of pieces."""
        return self

    def split(self, text: str) -> Tokens:
        """Pieces of a text."""
        matches = list(_PIECE.finditer(text))
        ids = np.array([self._id(match[0]) for match in matches], dtype=np.int32)
        places = np.array([match.span() for match in matches], dtype=np.int64).reshape(-1, 2)
        return Tokens(ids, places[:, 0], places[:, 1])

    def decode(self, ids: npt.ArrayLike, **_: Any) -> str:
        """Text of pieces."""
        return "".join(self._texts[int(one)] for one in np.asarray(ids).ravel())

    def batch_decode(self, rows: list[list[int]], **_: Any) -> list[str]:
        """Text of each row of pieces."""
        return [self.decode(row) for row in rows]

    def _id(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self._texts)
            self._texts.append(piece)
        return self._ids[piece]
