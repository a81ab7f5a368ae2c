"""Pool a model's attention weights over heads while it computes them, and leave no trace.

Route `interface`: our attention function calls the model's own eager one through transformers'
attention interface. Route `hooks`: other families run their eager code with hooks on the
attention modules. Per-head weights never outlive their layer.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy.typing as npt
import torch
from torch import nn

from mnemoscope.errors import UserError
from mnemoscope.lm.model import (
    LanguageModel,
    Span,
    attention_modules,
    claimed,
    eager_attention,
    prepend_bos,
    rerouted,
    run_sequences,
)

_IMPLEMENTATION = "mnemoscope_pooled"

# Which pool collects for a module: two models at once stay apart.
_pools: dict[nn.Module, "HeadPool"] = {}


class StopForward(Exception):  # noqa: N818 - no error: it ends a forward whose rest nobody reads
    """The attention of the last layer has been pooled."""


class PooledMaps(NamedTuple):
    """Attention of one batch pooled over heads, float32 on the CPU, (batch, layers, query, key).

    `heads`, if asked for, holds every head's weights, (batch, layers · heads, query, key).
    """

    mean: torch.Tensor
    max: torch.Tensor
    heads: torch.Tensor | None = None


class HeadPool:
    """The maps of one forward, collected layer by layer."""

    def __init__(
        self, lm: "LanguageModel", *, keep_heads: bool = False, ends_forward: bool = False
    ) -> None:
        self._lm = lm
        self._ends_forward = ends_forward
        self._heads: list[torch.Tensor] | None = [] if keep_heads else None
        self._skipped = len(lm.before)
        self._n_pooled = 0
        self._maps: PooledMaps | None = None

    def add(self, weights: torch.Tensor) -> None:
        """Pool one layer's weights (batch, heads, query, key) in float32, without the BOS token.

        Half-precision weights are never copied to float32: the sum accumulates in it, the
        maximum is exact in any dtype.
        """
        kept = weights[:, :, self._skipped :, self._skipped :]
        if self._maps is None:
            shape = (len(kept), self._lm.n_layers, *kept.shape[2:])
            # No inference tensors, whatever the mode, so that they may take part in a gradient.
            with torch.inference_mode(False):
                mean, largest = (torch.empty(shape, device=kept.device) for _ in range(2))
            self._maps = PooledMaps(mean, largest)
        if self._n_pooled < self._lm.n_layers:
            _pool_into(self._maps.mean[:, self._n_pooled], self._maps.max[:, self._n_pooled], kept)
        self._n_pooled += 1
        if self._heads is not None:
            self._heads.append(kept.float().cpu())

    def attend(self, module: Any, query: Any, key: Any, value: Any, *args: Any, **kw: Any) -> Any:
        """Pool what a layer's eager code attends to; end the forward with the last where asked."""
        is_end = self._ends_forward and self._n_pooled == self._lm.n_layers - 1
        if is_end:
            value = value[..., :0]  # nobody will read what this attention makes of it
        eager = eager_attention(module.__class__)
        output, weights = eager(module, query, key, value, *args, **kw)
        self.add(weights)
        if is_end:
            raise StopForward
        return output

    def maps(self) -> PooledMaps:
        """What the forward left; UserError where it is missing, not finite or looks ahead."""
        n, wanted, name = self._n_pooled, self._lm.n_layers, self._lm.name
        if self._maps is None or n < wanted:
            raise UserError(
                f"{name}: gave the attention of {n} of its {wanted} layers. Only models with "
                "attention in every layer are read."
            )
        if n > wanted:
            raise UserError(
                f"{name}: gave {n} maps of its {wanted} layers. Only models with one attention a "
                "layer are read."
            )
        self._check(self._maps)
        heads = None if self._heads is None else torch.cat(self._heads, dim=1)
        return PooledMaps(self._maps.mean.cpu(), self._maps.max.cpu(), heads)

    def _check(self, maps: PooledMaps) -> None:
        # A non-finite weight makes its mean non-finite; a weight above 0 its maximum above 0.
        # A sum and extremes of everything take a fraction of a look at each weight.
        ahead = maps.max.triu(diagonal=1)
        lowest, highest = ahead.aminmax()
        if maps.mean.sum().isfinite() and lowest == 0 and highest == 0:
            return
        if (layer := _first(~maps.mean.isfinite())) is not None:
            raise UserError(
                f"{self._lm.name}: non-finite attention in layer {layer} (counted from 0) in "
                f"{self._lm.dtype}. Use --dtype float32, or check that the weights are whole."
            )
        if (layer := _first(ahead != 0)) is not None:
            raise UserError(
                f"{self._lm.name}: attention in layer {layer} (counted from 0) looks at later "
                "tokens, so this is no causal language model. Choose another."
            )


@contextmanager
def pooled_attention(
    lm: "LanguageModel", *, keep_heads: bool = False, ends_forward: bool = False
) -> Iterator[HeadPool]:
    """Pool the attention of one forward of the base model inside this block.

    Call the forward with `use_cache=False` and, on route `hooks`, with `output_attentions=True`;
    then call `maps()` on the pool. `ends_forward` (route `interface`) raises `StopForward` once the
    last layer is pooled: only for models that have shown one attention a layer in a whole forward.
    Raises UserError: the family cannot be captured. RuntimeError: the model is already being
    captured.
    """
    pool = HeadPool(lm, keep_heads=keep_heads, ends_forward=ends_forward)
    claim, hooks = claimed(lm.model, _pools, pool, "captured"), _hooks(lm.model, pool)
    with rerouted(lm, _IMPLEMENTATION, _pooling_attention, claim=claim, hooks=hooks):
        yield pool


def _pooling_attention(module: Any, *args: Any, **kw: Any) -> tuple[torch.Tensor, None]:
    """Compute attention as the model's eager code does and hand its weights to the pool."""
    if module in _pools:
        return _pools[module].attend(module, *args, **kw), None
    return eager_attention(module.__class__)(module, *args, **kw)[0], None


@contextmanager
def _hooks(model: nn.Module, pool: HeadPool) -> Iterator[None]:
    """Pool what the innermost attention modules return, and let go of the weights themselves."""

    def take(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, tuple | list):
            return output
        for item in filter(_looks_like_weights, output):
            pool.add(item)
        return type(output)(None if _looks_like_weights(item) else item for item in output)

    with ExitStack() as stack:
        for module in attention_modules(model):
            stack.enter_context(module.register_forward_hook(take))
        yield


def _looks_like_weights(item: Any) -> bool:
    """True for (batch, heads, query, key) with as many queries as keys."""
    return isinstance(item, torch.Tensor) and item.ndim == 4 and item.shape[2] == item.shape[3]


def _first(is_bad: torch.Tensor) -> int | None:
    """The first layer of (batch, layers, query, key) with anything true."""
    layers = is_bad.any(dim=3).any(dim=2).any(dim=0).nonzero()
    return int(layers[0]) if len(layers) else None


def _pool_into(mean: torch.Tensor, largest: torch.Tensor, weights: torch.Tensor) -> None:
    """Pool (batch, heads, query, key) into two maps, straight where they can be written so."""
    is_alike = weights.dtype == mean.dtype and weights.device == mean.device
    if is_alike and not weights.requires_grad:
        torch.mean(weights, dim=1, out=mean)
        torch.amax(weights, dim=1, out=largest)
    else:
        mean.copy_(weights.mean(dim=1, dtype=torch.float32))
        largest.copy_(weights.amax(dim=1))


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
    """Capture the attention of whole sequences (n, T), pooled over heads, in row order.

    Gives batches with `mean` and `max`, float32 (batch, layers, query, key), on the CPU. Between
    two batches the model is as before. Batches are halved, with a log message, when memory runs
    out. `attention_mask` (n, T) is 1 for a token, 0 for padding on either side: maps are 0 in
    padded rows and columns and otherwise those of the sequence alone (bit for bit at equal batch
    size). `keep_heads` returns every head's maps too. A BOS token's row and column are left out, so
    rows do not sum to one there. Raises UserError: tokens that do not fit the model (at once); a
    layer without attention, non-finite attention or attention to later tokens (on the way), with
    the layer. NoRoomError: not even one sequence fits into memory.
    """
    return run_sequences(
        lm,
        tokens,
        batch_size,
        lambda batch, span: _in_place(capture_batch(lm, batch, keep_heads=keep_heads), span),
        attention_mask=attention_mask,
    )


def capture_batch(
    lm: LanguageModel, batch: torch.Tensor, *, keep_heads: bool = False
) -> PooledMaps:
    """The maps of one batch (batch, T) int64 on the model's device, whose logits nobody needs."""
    # What accelerate brought for the moment must go back when its module ends.
    is_known = lm.model in _one_map_a_layer and lm.device_map is None
    with pooled_attention(lm, keep_heads=keep_heads, ends_forward=is_known) as pool:
        with torch.inference_mode(), suppress(StopForward):
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
    if not any(span.padding):
        return maps
    around = (*span.padding, *span.padding)
    return PooledMaps(*(None if one is None else nn.functional.pad(one, around) for one in maps))  # type: ignore[arg-type]
