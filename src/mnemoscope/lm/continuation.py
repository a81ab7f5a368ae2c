"""What a model says after a prefix: greedy tokens, with how close each choice was.

An own loop in place of `generate`: no sampling defaults, no repetition penalty and no stop at an
end-of-text token from a model's generation settings, and the gap between the two best logits.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import best_two, check_finite, last_logits, new_cache, prepend_bos
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.lm.padding import Span, check_padded, run_padded

__all__ = ["Continuations", "continue_sequences", "greedy_tokens"]


class Continuations(NamedTuple):
    """One batch of continuations.

    Attributes:
        tokens: shape (batch, T - prefix), int32; -1 where the suffix is padded.
        score: memorization score (batch,), float32: share of positions where the continuation is
            the suffix; 1.0 is memorized.
        smallest_gap: (batch,), float32: the smallest difference between the two best logits of
            any step; a label with a gap near 0 may flip with rounding.
    """

    tokens: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]
    smallest_gap: npt.NDArray[np.float32]


def continue_sequences(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    *,
    batch_size: int,
    prefix: int = 32,
    attention_mask: npt.ArrayLike | None = None,
) -> Iterator[Continuations]:
    """Continue the prefix of every sequence greedily and compare with its suffix.

    Args:
        lm: the model; its native attention backend is used.
        tokens: sequences, shape (n, T), integers.
        batch_size: sequences at once; halved, and said so, when memory runs out.
        prefix: tokens that the model is shown; it continues T - prefix.
        attention_mask: of a padded table, shape (n, T): 1 for a token, 0 for padding on the left
            or right. Prefix and suffix are then the tokens before and from column `prefix` on.

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
            lambda batch, span: _in_place(_continue_batch(lm, batch, prefix - span.first), span),
        )
    table = check_tokens(lm, tokens, prefix=prefix)
    return run_batches(lm, table, batch_size, lambda batch: _continue_batch(lm, batch, prefix))


def greedy_tokens(
    lm: LanguageModel, prefixes: torch.Tensor, n_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode greedily with a key-value cache; an end-of-text token is a token like any other.

    Args:
        lm: the model.
        prefixes: shape (batch, prefix), int64, on the model's device, without the BOS token.
        n_tokens: how many tokens to decode.

    Returns:
        Tokens (batch, n_tokens) int64 and smallest gaps (batch,) float32, on the device.
    """
    cache = new_cache(lm, prefixes.shape[1] + n_tokens - 1)
    fed = prepend_bos(lm, prefixes)
    chosen: list[torch.Tensor] = []
    gaps: list[torch.Tensor] = []
    with torch.inference_mode():
        for _ in range(n_tokens):
            best, gap = best_two(last_logits(lm, fed, 1, cache))
            chosen.append(best)
            gaps.append(gap)
            # Families without a cache read everything again.
            fed = best if cache is not None else torch.cat([fed, best], dim=1)
    return torch.cat(chosen, dim=1), torch.cat(gaps, dim=1).amin(dim=1)


def _continue_batch(lm: LanguageModel, batch: torch.Tensor, prefix: int) -> Continuations:
    suffixes = batch[:, prefix:]
    decoded, gap = greedy_tokens(lm, batch[:, :prefix], suffixes.shape[1])
    check_finite(lm, gap)
    score = (decoded == suffixes).float().mean(dim=1)
    return Continuations(
        decoded.to("cpu", torch.int32).numpy(), score.cpu().numpy(), gap.cpu().numpy()
    )


def _in_place(found: Continuations, span: Span) -> Continuations:
    """Make the tokens as many as the table's suffix has columns."""
    n_missing = span.padding[1]
    return found._replace(tokens=np.pad(found.tokens, ((0, 0), (0, n_missing)), constant_values=-1))
