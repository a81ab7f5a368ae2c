"""Ask a model's forward for what is needed and no more: the last logits, with or without cache.

Transformers' names have changed (`past_key_values` is becoming `cache`), and some families know
no cache or cannot leave out logits; the signature says which.
"""

import inspect
from functools import cache as remember
from typing import Any, NamedTuple

import torch

from mnemoscope.errors import UserError
from mnemoscope.lm.kv_cache import roomy_cache
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["best_two", "check_finite", "last_logits", "new_cache", "prepend_bos"]


class _Names(NamedTuple):
    """What one class of models calls two arguments of its forward; None: it has none."""

    cache: str | None
    keep: str | None


def new_cache(lm: LanguageModel, n_tokens: int = 0) -> Any | None:
    """Give an empty key-value cache, or None for a family that has none.

    Args:
        lm: the model.
        n_tokens: how many tokens will be read, where that is known: room is set aside for them
            and for the tokens put before them.
    """
    if not _names(lm.model.__class__).cache:
        return None
    return roomy_cache(lm.model.config, n_tokens + len(lm.before))


def last_logits(
    lm: LanguageModel,
    input_ids: torch.Tensor,
    n_last: int,
    cache: Any | None = None,
    *,
    output_attentions: bool = False,
) -> torch.Tensor:
    """Run one forward and give the logits of the last positions.

    Args:
        lm: the model.
        input_ids: shape (batch, length), int64, on the model's device; without padding.
        n_last: how many positions, counted from the end.
        cache: from `new_cache`; holds what came before and is extended in place.
        output_attentions: have the family's eager code give its weights, for hooks to take.

    Returns:
        Logits of shape (batch, n_last, vocabulary) in the model's dtype.
    """
    names = _names(lm.model.__class__)
    arguments: dict[str, Any] = {"use_cache": cache is not None}
    if cache is not None and names.cache:
        arguments[names.cache] = cache
    if names.keep:
        # The head is the largest matrix of a small model; most positions' logits are not needed.
        arguments[names.keep] = n_last
    if names.cache is None:
        del arguments["use_cache"]
    if output_attentions:
        arguments["output_attentions"] = True
    logits: torch.Tensor = lm.model(input_ids=input_ids, **arguments).logits
    return logits[:, -n_last:]


def best_two(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the best token and how far ahead of the second best it is.

    Args:
        logits: shape (..., vocabulary), any float dtype; written to and put back, so it must be
            no tensor that somebody else reads meanwhile.

    Returns:
        The argmax (...,) int64, first index on ties, and the gap (...,) float32, which is NaN
        where the best logit is not finite.
    """
    logits = logits.float()
    best = logits.argmax(dim=-1, keepdim=True)
    largest = logits.gather(-1, best)
    # The maximum of what is left is several times as fast as `topk`, and needs no copy.
    logits.scatter_(-1, best, -torch.inf)
    gap = largest.squeeze(-1) - logits.amax(dim=-1)
    logits.scatter_(-1, best, largest)
    return best.squeeze(-1), gap.masked_fill(~largest.squeeze(-1).isfinite(), torch.nan)


def check_finite(lm: LanguageModel, gap: torch.Tensor) -> None:
    """Refuse gaps from logits that were not finite; `gap` as `best_two` gives it."""
    if bool(gap.isnan().any()):
        raise UserError(
            f"{lm.name}: non-finite logits in {lm.dtype} on {lm.device}. "
            "Use --dtype float32, or check that the weights are whole."
        )


def prepend_bos(lm: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    """Put before (batch, length) what the model is to read first: a token, a chat, or nothing."""
    if not lm.before:
        return tokens
    before = tokens.new_tensor(lm.before).expand(len(tokens), -1)
    return torch.cat([before, tokens], dim=1)


@remember
def _names(model_class: type) -> _Names:
    known = inspect.signature(model_class.forward).parameters  # type: ignore[attr-defined]
    cache = next((name for name in ("cache", "past_key_values") if name in known), None)
    keep = next((name for name in ("logits_to_keep", "num_logits_to_keep") if name in known), None)
    return _Names(cache, keep)
