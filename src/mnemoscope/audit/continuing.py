"""Continue windows greedily, and leave a window as soon as it cannot become a hit.

The verdict is that of decoding every window to its end: what was decoded is the same, and a
window is left only when it already has more wrong tokens than a hit may have.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import best_two, check_finite, last_logits, new_cache, prepend_bos
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["LEFT", "Continued", "continue_windows"]

LEFT = -1
"""Stands in place of tokens that were not decoded."""

# Windows right up to here, few of most texts, are asked whether they are right to the end.
_ASKED_WHOLE = 4


class Continued(NamedTuple):
    """One batch of windows.

    Attributes:
        tokens: what the model wrote, shape (batch, suffix), int32; `LEFT` after a window was left.
        common: tokens of the longest common prefix of suffix and continuation, (batch,), int32.
        score: share of matching tokens (batch,), float64; NaN for a window that was left.
    """

    tokens: npt.NDArray[np.int32]
    common: npt.NDArray[np.int32]
    score: npt.NDArray[np.float64]


def continue_windows(
    lm: LanguageModel, windows: npt.ArrayLike, *, prefix: int, n_allowed: int, batch_size: int
) -> Iterator[Continued]:
    """Continue each window's prefix until it is done or cannot become a hit.

    Args:
        lm: the model.
        windows: token ids, shape (n, length), integers.
        prefix: tokens that the model is shown.
        n_allowed: wrong tokens that a hit may have; the suffix's length decodes all to the end.
        batch_size: windows a forward; halved, and said so, when memory runs out.

    Returns:
        An iterator of batches in the order of the rows.

    Raises:
        UserError: tokens that do not fit the model (at once), non-finite logits (on the way).
        NoRoomError: not even one window fits into memory.
    """
    table = check_tokens(lm, windows, prefix=prefix)
    return run_batches(
        lm, table, batch_size, lambda batch: _continue_batch(lm, batch, prefix, n_allowed)
    )


def _continue_batch(
    lm: LanguageModel, batch: torch.Tensor, prefix: int, n_allowed: int
) -> Continued:
    wanted = batch[:, prefix:]
    chosen = torch.full_like(wanted, LEFT)
    alive = torch.arange(len(batch), device=batch.device)
    cache, fed = new_cache(lm, batch.shape[1] - 1), prepend_bos(lm, batch[:, :prefix])
    with torch.inference_mode():
        for step in range(wanted.shape[1]):
            best, gap = best_two(last_logits(lm, fed, 1, cache))
            check_finite(lm, gap)
            chosen[alive, step] = best[:, 0]
            n_wrong = (chosen[alive, : step + 1] != wanted[alive, : step + 1]).sum(dim=1)
            is_kept = n_wrong <= n_allowed
            if step + 1 == _ASKED_WHOLE:
                is_kept &= ~_finish_whole(lm, batch, chosen, alive, n_wrong == 0)
            # Families without a cache read everything again.
            fed = best if cache is not None else torch.cat([fed, best], dim=1)
            kept = is_kept.nonzero().squeeze(1)
            if len(kept) == 0:
                break
            if len(kept) < len(alive):
                alive, fed = alive[kept], fed[kept]
                if cache is not None:
                    cache.batch_select_indices(kept)
    return _judge(chosen.cpu().numpy(), wanted.cpu().numpy())


def _finish_whole(
    lm: LanguageModel,
    batch: torch.Tensor,
    chosen: torch.Tensor,
    alive: torch.Tensor,
    is_right: torch.Tensor,
) -> torch.Tensor:
    """Finish, in `chosen`, the windows that the model reproduces whole; (alive,) bool: which.

    One teacher-forced forward instead of a step a token: while every token is the likeliest,
    decoding would have read the same (see `mnemoscope.lm.scan`).
    """
    rows = alive[is_right]
    is_whole = torch.zeros_like(is_right)
    if len(rows):
        wanted = batch[rows, -chosen.shape[1] :]
        best, _ = best_two(last_logits(lm, prepend_bos(lm, batch[rows, :-1]), chosen.shape[1]))
        found = (best == wanted).all(dim=1)
        chosen[rows[found]] = wanted[found]
        is_whole[is_right.nonzero().squeeze(1)[found]] = True
    return is_whole


def _judge(chosen: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> Continued:
    is_right = chosen == wanted
    common = np.cumprod(is_right, axis=1).sum(axis=1)
    score = np.where(chosen[:, -1] == LEFT, np.nan, is_right.mean(axis=1))
    return Continued(chosen.astype(np.int32), common.astype(np.int32), score)
