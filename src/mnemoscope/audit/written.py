"""Lay what a service wrote beside the document, piece by piece.

In this order: by token ids where the answer has them, by the text of its tokens where that is
given, else by cutting its text in the place where it stands.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemoscope.audit.answers import Answer
from mnemoscope.audit.tokens import Tokens, token_texts
from mnemoscope.audit.words import NOTHING, Splitter

__all__ = ["Place", "Written", "lay_beside"]


class Place(NamedTuple):
    """Where a continuation was asked for: pieces `first` (of the prompt), `begin` up to `end`."""

    first: int
    begin: int
    end: int


class Written(NamedTuple):
    """A continuation against the document; n pieces were asked for.

    Attributes:
        ids: of the pieces, n of them; the document's where right, `NOTHING` where there is none.
        pieces: their text.
        is_right: which are the document's.
        logprobs: log-probability of each piece; None unless all are right and the service gave
            log-probabilities that fall on the same boundaries.
        alternatives: the likeliest tokens at each place, where the pieces are the model's tokens.
        is_cut: the answer ended by its length before it had n whole pieces.
    """

    ids: list[int]
    pieces: list[str]
    is_right: list[bool]
    logprobs: list[float] | None
    alternatives: list[list[dict[str, Any]]] | None
    is_cut: bool

    @property
    def common(self) -> int:
        """Right pieces before the first wrong one."""
        return int(np.cumprod(self.is_right).sum()) if self.is_right else 0


def lay_beside(
    answer: Answer, splitter: Splitter, text: str, tokens: Tokens, place: Place
) -> Written:
    """Compare an answer with what the document has there.

    Args:
        answer: of the service.
        splitter: that cut the document.
        text: the document.
        tokens: its pieces.
        place: of the prompt and of what was asked for.
    """
    wanted = tokens.ids[place.begin : place.end].tolist()
    n = len(wanted)
    slices = [
        text[start:end]
        for start, end in zip(
            tokens.starts[place.begin : place.end],
            tokens.ends[place.begin : place.end],
            strict=True,
        )
    ]
    ids = _by_ids(answer, splitter)
    if ids is not None:
        pieces = token_texts(splitter.tokenizer, ids) if ids else []
    elif _has_strings(answer, splitter):
        pieces = list(answer.tokens or [])
        right = [piece == one for piece, one in zip(pieces, slices, strict=False)]
        ids = [
            one if is_right else NOTHING for one, is_right in zip(wanted, right, strict=False)
        ] + [NOTHING] * max(len(pieces) - n, 0)
    else:
        ids, pieces = _by_text(answer, splitter, text, tokens, place)
    is_whole = splitter.is_model and answer.text.startswith("".join(_whole(slices, tokens, place)))
    if is_whole:  # the last token, cut out of its word, may be cut otherwise than in the document
        ids, pieces = [*wanted], [*slices]
    is_cut = answer.finish_reason == "length" and len(ids) < n
    ids, pieces = ids[:n], pieces[:n]
    ids, pieces = ids + [NOTHING] * (n - len(ids)), pieces + [""] * (n - len(pieces))
    is_right = [one == other for one, other in zip(ids, wanted, strict=True)]
    logprobs, alternatives = None, None
    if all(is_right):
        logprobs = _logprobs(answer, wanted, slices)
        if logprobs is not None and len(answer.alternatives or []) >= n and splitter.is_model:
            alternatives = (answer.alternatives or [])[:n]
    return Written(ids, pieces, is_right, logprobs, alternatives, is_cut)


def _by_ids(answer: Answer, splitter: Splitter) -> list[int] | None:
    """Token ids of the answer, if they mean the same to our tokenizer as to the service."""
    if not splitter.is_model or not answer.token_ids:
        return None
    try:
        said = splitter.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
    except (OverflowError, TypeError, ValueError, IndexError):
        return None
    is_same = said.rstrip("\ufffd").strip() == answer.text.rstrip("\ufffd").strip()
    return [int(one) for one in answer.token_ids] if is_same else None


def _has_strings(answer: Answer, splitter: Splitter) -> bool:
    return splitter.is_model and bool(answer.tokens) and "".join(answer.tokens or []) == answer.text


def _by_text(
    answer: Answer, splitter: Splitter, text: str, tokens: Tokens, place: Place
) -> tuple[list[int], list[str]]:
    """Pieces of the answer's text, cut behind its prompt so that they begin as they did there."""
    written = answer.text.rstrip("\ufffd")  # bytes of a character that was not finished
    before = text[int(tokens.starts[place.first]) : int(tokens.starts[place.begin])]
    found, shift = splitter.split(before + written), len(before)
    if shift not in found.starts.tolist():
        found, shift = splitter.split(written), 0
    after = found.starts >= shift
    ids, places = found.ids[after].tolist(), np.stack([found.starts, found.ends], 1)[after] - shift
    if not splitter.is_model and answer.finish_reason == "length":
        ids, places = ids[:-1], places[:-1]  # a word may have been going on
    return ids, [written[start:end] for start, end in places]


def _whole(slices: Sequence[str], tokens: Tokens, place: Place) -> list[str]:
    """Texts of the pieces without what a token shares with the one before it."""
    starts, ends = tokens.starts[place.begin : place.end], tokens.ends[place.begin : place.end]
    found, seen = [], int(starts[0])
    for one, start, end in zip(slices, starts, ends, strict=True):
        found.append(one[max(seen - int(start), 0) :])
        seen = max(seen, int(end))
    return found


def _logprobs(answer: Answer, wanted: list[int], slices: Sequence[str]) -> list[float] | None:
    """Log-probability of each piece, where every piece ends where a token of the service ends."""
    values, strings = answer.logprobs, answer.tokens
    if not values or not strings or None in values[: len(slices)]:
        return None
    has_ids = answer.token_ids is not None and answer.token_ids[: len(wanted)] == wanted
    if has_ids or strings[: len(slices)] == list(slices):
        return [float(one) for one in values[: len(slices)] if one is not None]
    found, rest = [], iter(zip(strings, values, strict=False))
    for piece in slices:
        got, total = "", 0.0
        while len(got) < len(piece):
            string, value = next(rest, ("", None))
            if value is None or not string:
                return None
            got, total = got + string, total + value
        if got != piece:
            return None
        found.append(total)
    return found
