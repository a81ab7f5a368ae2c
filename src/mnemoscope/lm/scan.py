"""Which sequences a model has memorized, by teacher forcing instead of decoding.

A sequence is memorized exactly when each of its suffix tokens is the argmax after the tokens
before it: as long as that holds, teacher forcing shows the model what decoding would. Up to ties
of rounding it is the verdict of greedy decoding at the price of about one forward.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import best_two, check_finite, last_logits, new_cache, prepend_bos
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.lm.padding import check_padded, run_padded

__all__ = ["Scan", "compare", "scan_memorized"]

# Suffix tokens asked of every sequence before the rest is asked of those still right. Most texts
# fail on the first few; each more costs every sequence one position of about 36.
_FIRST_TOKENS = 4


class Scan(NamedTuple):
    """The verdict for one batch.

    Attributes:
        is_memorized: (batch,), bool: the whole suffix is what greedy decoding would say.
        smallest_gap: (batch,), float32: the smallest difference between the two best logits, up
            to and including the first wrong token; for memorized sequences over the whole suffix,
            as `Continuations.smallest_gap`.
    """

    is_memorized: npt.NDArray[np.bool_]
    smallest_gap: npt.NDArray[np.float32]


def scan_memorized(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    *,
    batch_size: int,
    prefix: int = 32,
    attention_mask: npt.ArrayLike | None = None,
) -> Iterator[Scan]:
    """Say of every sequence whether the model continues its prefix with its suffix.

    Two steps: the prefix and the first suffix tokens of all, then the rest for the sequences
    right so far, on top of their key-value cache.

    Args:
        lm: the model; its native attention backend is used.
        tokens: sequences, shape (n, T), integers.
        batch_size: sequences at once; halved, and said so, when memory runs out.
        prefix: tokens of the prefix; the other T - prefix are judged.
        attention_mask: of a padded table, as `continue_sequences` takes it.

    Returns:
        An iterator of batches in the order of the rows.

    Raises:
        UserError: tokens that do not fit the model (at once), non-finite logits (on the way).
        NoRoomError: not even one sequence fits into memory.
    """
    if attention_mask is not None:
        padded = check_padded(lm, tokens, attention_mask, prefix=prefix)
        return run_padded(
            lm,
            padded,
            batch_size,
            lambda batch, span: _scan_batch(lm, batch, prefix - span.first),
        )
    table = check_tokens(lm, tokens, prefix=prefix)
    return run_batches(lm, table, batch_size, lambda batch: _scan_batch(lm, batch, prefix))


def _scan_batch(lm: LanguageModel, batch: torch.Tensor, prefix: int) -> Scan:
    first = prefix + min(_FIRST_TOKENS, batch.shape[1] - prefix)
    with torch.inference_mode():
        cache = new_cache(lm)
        is_right, gap = _judge(lm, batch[:, :first], first - prefix, cache)
        alive = is_right.nonzero().squeeze(1)
        if first < batch.shape[1] and len(alive):
            right_after, gap_after = _judge_rest(lm, batch[alive], first, cache, alive)
            is_right[alive] = right_after
            gap[alive] = torch.minimum(gap[alive], gap_after)
    check_finite(lm, gap)
    return Scan(is_right.cpu().numpy(), gap.cpu().numpy())


def _judge_rest(
    lm: LanguageModel, tokens: torch.Tensor, first: int, cache: Any | None, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Judge the tokens from `first` on, of the rows of the batch that are kept in the cache."""
    n_asked = tokens.shape[1] - first
    if cache is None:
        return _judge(lm, tokens, n_asked, None)
    cache.batch_select_indices(rows)
    logits = last_logits(lm, tokens[:, first - 1 : -1], n_asked, cache)
    return compare(logits, tokens[:, first:])


def _judge(
    lm: LanguageModel, tokens: torch.Tensor, n_asked: int, cache: Any | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Judge the last `n_asked` of (batch, length) tokens from the beginning."""
    logits = last_logits(lm, prepend_bos(lm, tokens[:, :-1]), n_asked, cache)
    return compare(logits, tokens[:, -n_asked:])


def compare(logits: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give (batch,) all right, and (batch,) the smallest gap up to the first wrong token."""
    best, gap = best_two(logits)
    agrees = best == wanted
    right_before = torch.ones_like(agrees)
    right_before[:, 1:] = agrees[:, :-1].cumprod(dim=1).bool()
    return agrees.all(dim=1), gap.masked_fill(~right_before, torch.inf).amin(dim=1)
