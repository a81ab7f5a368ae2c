"""Pieces of a corpus of about a million tokens, with the borders of its documents."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

__all__ = ["Chunk", "group_documents"]

_CHUNK_TOKENS = 1 << 20


class Chunk(NamedTuple):
    """A piece of the corpus.

    Attributes:
        tokens: token ids, one axis, any integer type; may begin the next chunk too (overlap).
        ends: position after the last token of each document, the last is ``len(tokens)``; None
            for a piece of one document.
        n_new: tokens that the next chunk does not repeat; their sum is the corpus.
        position: where its source goes on after this chunk.
    """

    tokens: np.ndarray
    ends: np.ndarray | None
    n_new: int
    position: int


def group_documents(documents: Iterable[tuple[np.ndarray, int]]) -> Iterator[Chunk]:
    """Join small documents, so that each chunk has a million tokens or is one document.

    Args:
        documents: token ids of each, and where its source goes on after it.
    """
    pieces: list[np.ndarray] = []
    n_tokens = position = 0
    for tokens, position in documents:
        pieces.append(tokens)
        n_tokens += len(tokens)
        if n_tokens >= _CHUNK_TOKENS:
            yield _join(pieces, position)
            pieces, n_tokens = [], 0
    if pieces:
        yield _join(pieces, position)


def _join(pieces: list[np.ndarray], position: int) -> Chunk:
    """One chunk; a document alone is not copied."""
    pieces = [tokens for tokens in pieces if len(tokens)]
    if not pieces:
        return Chunk(np.empty(0, dtype=np.int32), None, 0, position)
    if len(pieces) == 1:
        return Chunk(pieces[0], None, len(pieces[0]), position)
    if len({tokens.dtype for tokens in pieces}) > 1:
        pieces = [tokens.astype(np.int64) for tokens in pieces]
    tokens = np.concatenate(pieces)
    ends = np.cumsum([len(piece) for piece in pieces])
    return Chunk(tokens, ends, len(tokens), position)
