"""The pooled attention maps of many sequences: one teacher-forced forward each, no LM head."""

from collections.abc import Iterator
from contextlib import suppress
from weakref import WeakSet

import numpy.typing as npt
import torch
from torch import nn

from mnemoscope.lm.attention import Enough, PooledMaps, pooled_attention
from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import prepend_bos
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.lm.padding import Span, check_padded, run_padded

__all__ = ["capture_pooled"]

# Models that gave one map a layer in a whole forward. What follows their last layer's attention
# (its value product, its MLP: a fifth of the work at 4 layers) need not be computed again.
_one_map_a_layer: WeakSet[nn.Module] = WeakSet()


def capture_pooled(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    *,
    batch_size: int,
    attention_mask: npt.ArrayLike | None = None,
    keep_heads: bool = False,
) -> Iterator[PooledMaps]:
    """Capture the attention of whole sequences, pooled over heads.

    Between two batches the model is as it was before: it may be used for anything else.

    Args:
        lm: the model.
        tokens: sequences as the model is to read them, shape (n, T), integers.
        batch_size: sequences at once; halved, and said so, when memory runs out.
        attention_mask: of a padded table, shape (n, T): 1 for a token, 0 for padding on the left
            or right. Maps are 0 in padded rows and columns, elsewhere those of the sequence alone
            (bit for bit, where as many sequences are in the batch); see `mnemoscope.lm.padding`.
        keep_heads: give every head's maps too (`PooledMaps.heads`).

    Returns:
        An iterator of `PooledMaps`, (batch, layers, T, T), in the order of the rows. Where the
        model needs a BOS token its row and column are left out, so rows do not sum to one.

    Raises:
        UserError: tokens that do not fit the model (at once); a layer without attention,
            non-finite attention, attention to later tokens (on the way), with the layer.
        NoRoomError: not even one sequence fits into memory.
    """
    if attention_mask is not None:
        padded = check_padded(lm, tokens, attention_mask)
        return run_padded(
            lm,
            padded,
            batch_size,
            lambda batch, span: _in_place(_capture_batch(lm, batch, keep_heads), span),
        )
    table = check_tokens(lm, tokens)
    return run_batches(lm, table, batch_size, lambda batch: _capture_batch(lm, batch, keep_heads))


def _capture_batch(lm: LanguageModel, batch: torch.Tensor, keep_heads: bool) -> PooledMaps:
    # What accelerate brought for the moment must go back when its module ends.
    is_known = lm.model in _one_map_a_layer and lm.device_map is None
    with pooled_attention(lm, keep_heads=keep_heads, ends_forward=is_known) as pool:
        with torch.inference_mode(), suppress(Enough):
            lm.model.base_model(
                input_ids=prepend_bos(lm, batch),
                use_cache=False,
                output_attentions=lm.attention_route == "hooks",
            )
        # Outside inference mode, so that the maps may take part in a gradient later.
        maps = pool.maps()
    _one_map_a_layer.add(lm.model)
    return maps


def _in_place(maps: PooledMaps, span: Span) -> PooledMaps:
    """Put the maps of sequences where these stand in a padded table, zeros around them."""
    around = (*span.padding, *span.padding)
    return PooledMaps(*(None if one is None else nn.functional.pad(one, around) for one in maps))  # type: ignore[arg-type]
