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

# Suffix tokens after which those sequences are asked on that are still right. Half of all texts
# fail on the first one, most on the first four; a step costs a forward of few rows.
_STEPS = (1, 4)
# A family without a key-value cache reads the prefix again in every step.
_STEPS_WITHOUT_CACHE = (4,)


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

    In steps: the prefix and the first suffix token of all, then three more and then the rest for
    the sequences right so far, on top of their key-value cache.

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
    length = batch.shape[1]
    gap = torch.full((len(batch),), torch.inf, device=batch.device)
    alive = torch.arange(len(batch), device=batch.device)
    with torch.inference_mode():
        cache = new_cache(lm, length - 1)
        begin = prefix
        for end in _ends(length, prefix, has_cache=cache is not None):
            is_right, gap_here = _step(lm, batch[alive, :end], begin, prefix, cache)
            gap[alive] = torch.minimum(gap[alive], gap_here)
            if not is_right.all():
                alive = alive[is_right]
                if cache is not None and end < length:
                    rows = is_right.nonzero().squeeze(1)
                    # On several devices each layer's cache is its own; indices on the CPU fit all.
                    cache.batch_select_indices(rows if lm.device_map is None else rows.cpu())
            if not len(alive):
                break
            begin = end
    check_finite(lm, gap)
    is_memorized = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
    is_memorized[alive] = True
    return Scan(is_memorized.cpu().numpy(), gap.cpu().numpy())


def _ends(length: int, prefix: int, *, has_cache: bool) -> list[int]:
    """The columns before which each step ends."""
    steps = _STEPS if has_cache else _STEPS_WITHOUT_CACHE
    return [*(prefix + step for step in steps if prefix + step < length), length]


def _step(
    lm: LanguageModel, tokens: torch.Tensor, begin: int, prefix: int, cache: Any | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Judge the tokens (batch, length) from `begin` on, which follow those in the cache."""
    fed = tokens[:, begin - 1 : -1]
    if cache is None or begin == prefix:
        fed = prepend_bos(lm, tokens[:, :-1])
    logits = last_logits(lm, fed, tokens.shape[1] - begin, cache)
    return compare(logits, tokens[:, begin:])


def compare(logits: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give (batch,) all right, and (batch,) the smallest gap up to the first wrong token."""
    best, gap = best_two(logits)
    agrees = best == wanted
    right_before = torch.ones_like(agrees)
    right_before[:, 1:] = agrees[:, :-1].cumprod(dim=1).bool()
    return agrees.all(dim=1), gap.masked_fill(~right_before, torch.inf).amin(dim=1)
