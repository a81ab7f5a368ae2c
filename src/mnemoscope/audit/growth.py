"""How long a model goes on reproducing a document: the verbatim memorization length.

One teacher-forced forward: as long as every token is the model's own choice, it is what greedy
decoding would have written. After Huang, Yang, Potts (arXiv 2407.17817), on tokens, with their
guard: what the prompt already holds is copied, not remembered.
"""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.tokens import Tokens
from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import last_logits, prepend_bos
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["Growth", "grow", "is_copied"]

_SHORTEST_COPY = 5  # tokens; a shorter match proves nothing either way (their script)
_SHOWN_CHARACTERS = 32
_WORD = re.compile(r"[A-Za-z0-9]+")


class Growth(NamedTuple):
    """What one prefix gives.

    Attributes:
        n_tokens: tokens of the document that the model writes on from it, without a mistake.
        is_copied: they, or how they begin, stand in the prefix already.
    """

    n_tokens: int
    is_copied: bool


def grow(
    lm: LanguageModel,
    documents: Sequence[Tokens],
    places: Sequence[tuple[int, int]],
    settings: AuditSettings,
) -> list[Growth]:
    """Ask how far the model goes on from the prefix of each window.

    Args:
        lm: the model; its positions limit how far can be asked.
        documents: tokens of every document.
        places: number of the document and first token of each window.
        settings: prefix, suffix and `max_growth`.

    Returns:
        One answer a place; at most suffix + `max_growth` tokens are asked for.
    """
    lengths = [_reach(lm, len(documents[number].ids) - first, settings) for number, first in places]
    found: list[Growth] = [Growth(0, False)] * len(places)
    order = sorted(range(len(places)), key=lambda one: lengths[one])
    for length, group in groupby(order, key=lambda one: lengths[one]):
        members = list(group)
        rows = np.stack([_row(documents, places[one], length) for one in members])
        table = check_tokens(lm, rows, prefix=settings.prefix)
        batches = run_batches(
            lm, table, settings.batch_size, lambda batch: _count(lm, batch, settings.prefix)
        )
        for one, row, n in zip(members, rows, np.concatenate(list(batches)), strict=True):
            prompt, written = row[: settings.prefix], row[settings.prefix : settings.prefix + n]
            found[one] = Growth(int(n), is_copied(lm.tokenizer, prompt, written))
    return found


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
    shown, text = _words(tokenizer, prompt), _words(tokenizer, written)
    return bool(text) and (text in shown or text[:_SHOWN_CHARACTERS] in shown)


def _reach(lm: LanguageModel, n_left: int, settings: AuditSettings) -> int:
    """Tokens of prefix and what may follow, within the document and the model's positions."""
    reach = min(n_left, settings.length + settings.max_growth)
    if lm.max_positions is not None:
        reach = min(reach, lm.max_positions - len(lm.before))
    return max(reach, settings.length)


def _row(documents: Sequence[Tokens], place: tuple[int, int], length: int) -> npt.NDArray[np.int32]:
    number, first = place
    return documents[number].ids[first : first + length]


def _count(lm: LanguageModel, batch: torch.Tensor, prefix: int) -> npt.NDArray[np.int64]:
    """Right tokens in a row from the first after the prefix, (batch,)."""
    wanted = batch[:, prefix:]
    with torch.inference_mode():
        best = last_logits(lm, prepend_bos(lm, batch[:, :-1]), wanted.shape[1]).argmax(dim=-1)
    counted: npt.NDArray[np.int64] = (best == wanted).cumprod(dim=1).sum(dim=1).cpu().numpy()
    return counted


def _words(tokenizer: Any, ids: npt.ArrayLike) -> str:
    text = tokenizer.decode([int(one) for one in np.asarray(ids)], skip_special_tokens=False)
    return " ".join(_WORD.findall(text))
