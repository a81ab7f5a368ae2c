"""How long a model goes on reproducing a document: the verbatim memorization length.

What it means stands in `mnemoscope.lm.verbatim`; here it is asked of windows of documents.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.tokens import Tokens
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.lm.verbatim import is_copied, right_tokens, run_lengths

__all__ = ["Growth", "grow"]


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
        is_right = right_tokens(lm, rows, batch_size=settings.batch_size, prefix=settings.prefix)
        for one, row, n in zip(members, rows, run_lengths(is_right), strict=True):
            prompt, written = row[: settings.prefix], row[settings.prefix : settings.prefix + n]
            found[one] = Growth(int(n), is_copied(lm.tokenizer, prompt, written))
    return found


def _reach(lm: LanguageModel, n_left: int, settings: AuditSettings) -> int:
    """Tokens of prefix and what may follow, within the document and the model's positions."""
    reach = min(n_left, settings.length + settings.max_growth)
    if lm.max_positions is not None:
        reach = min(reach, lm.max_positions - len(lm.before))
    return max(reach, settings.length)


def _row(documents: Sequence[Tokens], place: tuple[int, int], length: int) -> npt.NDArray[np.int32]:
    number, first = place
    return documents[number].ids[first : first + length]
