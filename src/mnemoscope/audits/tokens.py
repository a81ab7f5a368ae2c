"""Cut documents into tokens, or into words in their place, with exact places."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.audits.documents import Document
from mnemoscope.data.read import WindowCutter
from mnemoscope.errors import UserError
from mnemoscope.progress import track

NOTHING = -1
"""Stands where the model wrote no token, or one that has no id."""

# Blanks belong to what follows them, as in most models' tokens, so that no prompt ends in one.
# Scripts without blanks go by the character; what is longer than twelve letters is cut.
_CHARACTER = r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"
_PIECE = re.compile(rf"\s*(?:{_CHARACTER}|(?:(?!{_CHARACTER})\w){{1,12}}|[^\w\s])|\s+\Z")


class Tokens(NamedTuple):
    """Tokens of one document, or the words that stand for them."""

    ids: npt.NDArray[np.int32]  # shape (n,), int32
    starts: npt.NDArray[np.int64]  # first character of each token, shape (n,), int64
    # Position after its last character, (n,), int64. A token that ends inside a character covers it
    # whole, as the next one does too, and the combining marks of its last one.
    ends: npt.NDArray[np.int64]


def tokenize(text: str, tokenizer: Any) -> Tokens:
    """Cut a document into tokens, without special ones.

    For many documents `tokenizer` is one `WindowCutter`: to make it takes as long as to load it.
    Raises UserError: a tokenizer that cannot give offsets (no fast one).
    """
    cutter = tokenizer if isinstance(tokenizer, WindowCutter) else WindowCutter(tokenizer)
    ids, offsets = cutter.encode_with_offsets(text)
    if offsets is None:
        raise UserError(
            "the model's tokenizer cannot say which characters a token covers. Save its fast "
            "form (tokenizer.json) with the model."
        )
    places = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    _take_in_marks(text, places)
    return Tokens(np.array(ids, dtype=np.int32), places[:, 0], places[:, 1])


def _take_in_marks(text: str, places: npt.NDArray[np.int64]) -> None:
    """Give combining marks that no token covers (NFC makes é of two characters) to their letter."""
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


def runs_without(
    tokens: Tokens, first: int, last: int, is_written: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, int, int]]:
    """Runs of tokens `first` up to and without `last` that are not written, `is_written` of all.

    Of each its first token, and the characters, start and end, that no written one shares.
    """
    edges = np.flatnonzero(np.diff(~is_written[first:last], prepend=False, append=False)) + first
    for begin, end in edges.reshape(-1, 2).tolist():
        start, stop = character_range(tokens, begin, end)
        if begin > first:
            start = max(start, int(tokens.ends[begin - 1]))
        if end < last:
            stop = min(stop, int(tokens.starts[end]))
        if start < stop:
            yield begin, start, stop


def token_texts(tokenizer: Any, ids: npt.ArrayLike) -> list[str]:
    """Text of each token by itself; bytes that are no whole character show as U+FFFD."""
    rows = [[int(one)] for one in np.asarray(ids).ravel()]
    texts: list[str] = tokenizer.batch_decode(
        rows, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return texts


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of token ids together."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


class ModelTokens:
    """Cuts by the tokenizer of the model; `bos_id` goes before its token ids, None for none."""

    tokenizer: Any
    bos_id: int | None

    def __init__(self, tokenizer: Any, bos_id: int | None) -> None:
        self.tokenizer, self.bos_id = tokenizer, bos_id
        self._cutter = WindowCutter(tokenizer)

    def split(self, text: str) -> Tokens:
        """Tokens of a text, without special ones."""
        return tokenize(text, self._cutter)


class Words:
    """Cuts into words with the blanks before them, punctuation, characters without blanks.

    Every character is in exactly one piece. Ids number the pieces as they were met; they mean
    nothing outside.
    """

    bos_id = None

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._texts: list[str] = []
        self.tokenizer = self  # it gives the text of pieces

    def split(self, text: str) -> Tokens:
        """Pieces of a text."""
        matches = list(_PIECE.finditer(text))
        for match in matches:
            if match[0] not in self._ids:
                self._ids[match[0]] = len(self._texts)
                self._texts.append(match[0])
        ids = np.array([self._ids[match[0]] for match in matches], dtype=np.int32)
        places = np.array([match.span() for match in matches], dtype=np.int64).reshape(-1, 2)
        return Tokens(ids, places[:, 0], places[:, 1])

    def get_vocab(self) -> dict[str, int]:
        """The pieces that were met, with their numbers."""
        return self._ids

    def decode(self, ids: npt.ArrayLike, **_: Any) -> str:
        """Text of pieces, as a tokenizer gives it."""
        return "".join(self._texts[int(one)] for one in np.asarray(ids).ravel())

    def batch_decode(self, rows: list[list[int]], **_: Any) -> list[str]:
        """Text of each row of pieces."""
        return [self.decode(row) for row in rows]


Splitter = ModelTokens | Words
"""Cuts texts into pieces with exact places; its `tokenizer` gives the text of pieces."""


class Text(NamedTuple):
    """A document and its tokens."""

    document: Document
    tokens: Tokens

    @property
    def name(self) -> str:
        """The name of the document."""
        return self.document.name

    def characters(self, first: int, last: int) -> str:
        """The text that tokens `first` up to and without `last` cover."""
        start, end = character_range(self.tokens, first, last)
        return self.document.text[start:end]


def cut_texts(splitter: Splitter, documents: Sequence[Document]) -> list[Text]:
    """The documents with their tokens; errors as `tokenize`."""
    texts = []
    with track("Tokenizing", total=len(documents), unit="documents") as progress:
        for document in documents:
            texts.append(Text(document, splitter.split(document.text)))
            progress.advance()
    return texts


Place = tuple[int, int]
"""A window: the number of its document and its first token."""


def cut(texts: Sequence[Text], places: Iterable[Place], length: int) -> npt.NDArray[np.int32]:
    """Token ids of the windows at places, shape (windows, length), int32."""
    rows = [texts[number].tokens.ids[first : first + length] for number, first in places]
    return np.stack(rows) if rows else np.empty((0, length), dtype=np.int32)
