"""Lay the answer of a service beside the document: which of its pieces are the document's."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from mnemoscope.audits.asking import Prompt, Written
from mnemoscope.audits.client import Completion
from mnemoscope.audits.tokens import NOTHING, ModelTokens, Splitter, Tokens, token_texts


class Aligned(NamedTuple):
    """What was written, beside the document; `is_cut`: the answer ended before all was there.

    Ids are the document's where right. Log-probabilities are known where all is right and the
    service gave them on the same boundaries, the likeliest tokens where the pieces are its tokens.
    """

    written: Written
    is_cut: bool

    @property
    def wants_more(self) -> bool:
        """All that was written is right, and it was cut before the end."""
        n_written = sum(piece != "" for piece in self.written.pieces or ())
        return self.is_cut and self.written.common == n_written < len(self.written.ids)


def align_answer(answer: Completion, splitter: Splitter, prompt: Prompt) -> Aligned:
    """Compare an answer with what the document has there."""
    wanted, slices = prompt.wanted, _slices(prompt)
    n, is_model = len(wanted), isinstance(splitter, ModelTokens)
    ids, pieces = _pieces(answer, splitter, prompt, wanted, slices)
    whole = _whole(slices, prompt)
    ends = {len(answer.text), *accumulate(map(len, pieces))}
    is_whole = is_model and answer.text.startswith(whole)
    # A token that only begins as the document's last one does, " name" for " ", is not that one.
    if is_whole and (
        len(whole) in ends or ends_inside(prompt.tokens, prompt.end)
    ):  # the last token, cut out of its word, may be cut otherwise than in the document
        ids, pieces = [*wanted], [*slices]
    is_cut = answer.finish_reason == "length" and len(ids) < n
    ids, pieces = ids[:n], pieces[:n]
    ids, pieces = ids + [NOTHING] * (n - len(ids)), pieces + [""] * (n - len(pieces))
    is_right = np.array(ids) == np.array(wanted)
    logprobs, choices = None, None
    if is_right.all():
        logprobs = _logprobs(answer, wanted, slices)
        if logprobs is not None and len(answer.alternatives or []) >= n and is_model:
            choices = (answer.alternatives or [])[:n]
    common, score = int(np.cumprod(is_right).sum()), float(is_right.sum() / max(n, 1))
    return Aligned(Written(ids, common, score, pieces, logprobs, choices), is_cut)


def _slices(prompt: Prompt) -> list[str]:
    """The text of each token that was asked for."""
    text, own = prompt.text.document.text, slice(prompt.begin, prompt.end)
    ends = zip(prompt.tokens.starts[own], prompt.tokens.ends[own], strict=True)
    return [text[start:end] for start, end in ends]


def _pieces(
    answer: Completion, splitter: Splitter, prompt: Prompt, wanted: list[int], slices: list[str]
) -> tuple[list[int], list[str]]:
    """Ids and texts of the pieces of an answer, by the best that it says of itself."""
    ids = _by_ids(answer, splitter)
    if ids is not None:
        return ids, token_texts(splitter.tokenizer, ids) if ids else []
    is_model = isinstance(splitter, ModelTokens)
    if is_model and answer.tokens and "".join(answer.tokens) == answer.text:
        pieces = list(answer.tokens)
        right = [piece == one for piece, one in zip(pieces, slices, strict=False)]
        ids = [one if ok else NOTHING for one, ok in zip(wanted, right, strict=False)]
        return ids + [NOTHING] * max(len(pieces) - len(wanted), 0), pieces
    return pieces_of_text(answer, splitter, prompt)


def _by_ids(answer: Completion, splitter: Splitter) -> list[int] | None:
    """Token ids of the answer, if they mean the same to our tokenizer as to the service."""
    if not isinstance(splitter, ModelTokens) or not answer.token_ids:
        return None
    try:
        said = splitter.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
    except (OverflowError, TypeError, ValueError, IndexError):
        return None
    is_same = said.rstrip("\ufffd").strip() == answer.text.rstrip("\ufffd").strip()
    return [int(one) for one in answer.token_ids] if is_same else None


def pieces_of_text(
    answer: Completion, splitter: Splitter, prompt: Prompt
) -> tuple[list[int], list[str]]:
    """Pieces of the answer's text, cut behind its prompt so that they begin as they did there."""
    written = answer.text.rstrip("\ufffd")  # bytes of a character that was not finished
    found, shift = splitter.split(prompt.shown + written), len(prompt.shown)
    if shift not in found.starts.tolist():
        found, shift = splitter.split(written), 0
    after = found.starts >= shift
    ids, places = found.ids[after].tolist(), np.stack([found.starts, found.ends], 1)[after] - shift
    if not isinstance(splitter, ModelTokens) and answer.finish_reason == "length":
        ids, places = ids[:-1], places[:-1]  # a word may have been going on
    return ids, [written[start:end] for start, end in places]


def ends_inside(tokens: Tokens, end: int) -> bool:
    """True where the pieces before `end` stop inside a character."""
    return end < len(tokens.ids) and bool(tokens.starts[end] < tokens.ends[end - 1])


def _whole(slices: Sequence[str], prompt: Prompt) -> str:
    """The text that was asked for; what a token shares with the one before it stands once."""
    own = slice(prompt.begin, prompt.end)
    starts, ends = prompt.tokens.starts[own], prompt.tokens.ends[own]
    found, seen = "", int(starts[0])
    for one, start, end in zip(slices, starts, ends, strict=True):
        found += one[max(seen - int(start), 0) :]
        seen = max(seen, int(end))
    return found


def _logprobs(answer: Completion, wanted: list[int], slices: Sequence[str]) -> list[float] | None:
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
