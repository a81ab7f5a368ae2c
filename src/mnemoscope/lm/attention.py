"""Pool a model's attention weights over heads while it computes them, and leave no trace.

Route `interface`: our attention function calls the model's own eager one through transformers'
attention interface. Route `hooks`: other families run their eager code with hooks on the
attention modules. Per-head weights never outlive their layer.
"""

from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from math import isqrt
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy.typing as npt
import torch
from torch import nn

from mnemoscope.errors import UserError
from mnemoscope.lm.model import (
    LanguageModel,
    RowSpan,
    attention_modules,
    brought,
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

    `heads`, if asked for, holds every head's weights, (batch, layers · heads, query, key). Where
    the capture packs each layer, all are what it packs them to: (batch, layers, ...).
    """

    mean: torch.Tensor
    max: torch.Tensor
    heads: torch.Tensor | None = None


Pack = Callable[[torch.Tensor], torch.Tensor]
"""What is kept of one layer's maps: of (batch, query, key), float32, on the model's device."""

WHOLE_QUERIES = 128
"""Most queries that a layer attends from at once.

Beyond, the per-head weights of a batch leave the processor's cache, and all but the diagonal's
share of the half above it need not be computed (`benchmarks/bench_windows.py`).
"""
BLOCK_BYTES = {"cpu": 2 << 20, "": 256 << 20}
"""About how many bytes of weights a block of queries has, by the device's type."""


class HeadPool:
    """The maps of one forward, collected layer by layer."""

    def __init__(
        self,
        lm: "LanguageModel",
        *,
        keep_heads: bool = False,
        ends_forward: bool = False,
        pack: Pack | None = None,
    ) -> None:
        self._lm = lm
        self._ends_forward = ends_forward
        self._heads: list[torch.Tensor] | None = [] if keep_heads else None
        self._skipped = len(lm.before)
        self._n_pooled = 0
        self._maps: PooledMaps | None = None
        self._pack = pack
        self._packed: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._seen: list[torch.Tensor] = []
        self._causal: list[torch.Tensor] = []

    def add(self, weights: torch.Tensor) -> None:
        """Pool one layer's weights (batch, heads, query, key) in float32, without the BOS token.

        Half-precision weights are never copied to float32: the sum accumulates in it, the
        maximum is exact in any dtype.
        """
        kept = weights[:, :, self._skipped :, self._skipped :]
        mean, largest = self._layer(len(kept), kept.shape[2], kept.device)
        _pool_into(mean, largest, kept)
        if self._heads is not None:
            heads = kept.float()
            self._heads.append((heads if self._pack is None else self._pack(heads)).cpu())
        self._pooled(mean, largest)

    def attend(self, module: Any, query: Any, key: Any, value: Any, *args: Any, **kw: Any) -> Any:
        """Pool what a layer's eager code attends to; end the forward with the last where asked."""
        is_end = self._ends_forward and self._n_pooled == self._lm.n_layers - 1
        if is_end:
            value = value[..., :0]  # nobody will read what this attention makes of it
        eager = partial(eager_attention(module.__class__), module)
        output = None
        if self._heads is None and query.shape[2] > WHOLE_QUERIES:
            output = self._attend_in_blocks(eager, query, key, value, args, kw)
        if output is None:
            output, weights = eager(query, key, value, *args, **kw)
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
        mean, largest = self._maps.mean, self._maps.max
        if self._pack is not None:
            mean, largest = (torch.stack(one, dim=1) for one in zip(*self._packed, strict=True))
        # The batch's one wait for the device, with what is known of every layer.
        seen = torch.stack([one.to(mean.device) for one in self._seen])
        mean, largest, seen = brought(mean, largest, seen)
        self._check(seen)
        heads = None if self._heads is None else torch.cat(self._heads, dim=1)
        return PooledMaps(mean, largest, heads)

    def _layer(self, n_rows: int, length: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the next layer's two maps go, (batch, query, key): one place for all if packed."""
        if self._maps is None:
            n_layers = self._lm.n_layers if self._pack is None else 1
            shape = (n_rows, n_layers, length, length)
            # No inference tensors, whatever the mode, so that they may take part in a gradient.
            with torch.inference_mode(False):
                mean, largest = (torch.empty(shape, device=device) for _ in range(2))
            self._maps = PooledMaps(mean, largest)
        at = min(self._n_pooled, self._maps.mean.shape[1] - 1)  # one too many is refused in the end
        return self._maps.mean[:, at], self._maps.max[:, at]

    def _pooled(self, mean: torch.Tensor, largest: torch.Tensor) -> None:
        """Look at a layer's maps and pack them where asked; nothing waits for the device."""
        # A non-finite weight makes its mean non-finite; a weight above 0 its maximum above 0.
        # A sum and extremes of everything take a fraction of a look at each weight.
        lowest, highest = largest.triu(diagonal=1).aminmax()
        self._seen.append(torch.stack([mean.sum(), lowest, highest]))
        if self._pack is not None:
            with torch.inference_mode(False):
                self._packed.append((self._pack(mean), self._pack(largest)))
        self._n_pooled += 1

    def _check(self, seen: torch.Tensor) -> None:
        if not (is_finite := seen[:, 0].isfinite()).all():
            raise UserError(
                f"{self._lm.name}: non-finite attention in layer {int(is_finite.int().argmin())} "
                f"(counted from 0) in {self._lm.dtype}. Use --dtype float32, or check that the "
                "weights are whole."
            )
        if (ahead := (seen[:, 1:] != 0).any(dim=1)).any():
            raise UserError(
                f"{self._lm.name}: attention in layer {int(ahead.int().argmax())} (counted from 0) "
                "looks at later tokens, so this is no causal language model. Choose another."
            )

    def _attend_in_blocks(
        self, eager: Any, query: Any, key: Any, value: Any, args: Any, kw: Any
    ) -> torch.Tensor | None:
        """Attend from a block of queries at a time, to the keys that these may look at.

        None, with nothing done, where the arguments are not understood.
        """
        n_rows, n_heads, length = query.shape[:3]
        squares = [one for one in (*args, *kw.values()) if _is_square(one, length)]
        known = {id(one) for one in squares}
        unknown = [one for one in (*args, *kw.values()) if id(one) not in known]
        if key.shape[2] != length or any(map(_may_weigh, unknown)):
            return None
        is_causal = any(map(self._is_causal, squares))
        budget = BLOCK_BYTES.get(query.device.type, BLOCK_BYTES[""]) // query.element_size()
        mean, largest = self._layer(n_rows, length - self._skipped, query.device)
        outputs = []
        for rows in _batches(n_rows, budget // (n_heads * WHOLE_QUERIES * WHOLE_QUERIES)):
            blocks = []
            for first, end in _blocks(length, budget // (n_heads * (rows.stop - rows.start))):
                seen = end if is_causal else length
                cut = partial(_cut, known, rows, slice(first, end), slice(seen))
                output, weights = eager(
                    query[rows, :, first:end], key[rows, :, :seen], value[rows, :, :seen],
                    *map(cut, args), **{name: cut(one) for name, one in kw.items()},
                )  # fmt: skip
                blocks.append(output)
                here = slice(max(first - self._skipped, 0), end - self._skipped)
                kept = weights[:, :, max(self._skipped - first, 0) :, self._skipped :]
                until = kept.shape[3]
                _pool_into(mean[rows, here, :until], largest[rows, here, :until], kept)
                mean[rows, here, until:] = largest[rows, here, until:] = 0
            outputs.append(torch.cat(blocks, dim=1))
        self._pooled(mean, largest)
        return torch.cat(outputs)

    def _is_causal(self, mask: torch.Tensor) -> bool:
        """Whether an additive mask hides every later token; asked once of each mask."""
        if any(one is mask for one in self._causal):
            return True
        lowest = torch.finfo(mask.dtype).min / 2
        is_hidden = torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device).tril()
        if not bool(((mask <= lowest) | is_hidden).all()):
            return False
        self._causal.append(mask)
        return True


def _is_square(one: Any, length: int) -> bool:
    """Whether an argument is a mask or bias of every query and key, (..., query, key)."""
    is_float = isinstance(one, torch.Tensor) and one.is_floating_point() and one.ndim == 4
    return is_float and one.shape[2:] == (length, length)


def _may_weigh(one: Any) -> bool:
    """Whether an argument may change weights query by query: no number a head, no position ids."""
    return isinstance(one, torch.Tensor) and one.is_floating_point() and one.ndim > 1


def _cut(known: Container[int], rows: slice, queries: slice, keys: slice, one: Any) -> Any:
    """The part of a square that a block of queries reads; anything else as it is."""
    if id(one) not in known:
        return one
    return one[rows if len(one) > 1 else slice(None), :, queries, keys]


def _batches(n_rows: int, size: int) -> Iterator[slice]:
    """Rows of a batch that are read together, at least one."""
    for first in range(0, n_rows, max(size, 1)):
        yield slice(first, min(first + max(size, 1), n_rows))


def _blocks(length: int, size: int) -> Iterator[tuple[int, int]]:
    """First query of a block and the one after its last: about `size` edges up to the last key."""
    first = 0
    while first < length:
        # n · (first + n) = size, in steps that suit a processor's vectors
        n = (isqrt(first * first + 4 * max(size, 0)) - first) // 2
        yield first, min(first + max(n // 16 * 16, 16), length)
        first = min(first + max(n // 16 * 16, 16), length)


@contextmanager
def pooled_attention(
    lm: "LanguageModel",
    *,
    keep_heads: bool = False,
    ends_forward: bool = False,
    pack: Pack | None = None,
) -> Iterator[HeadPool]:
    """Pool the attention of one forward of the base model inside this block.

    Call the forward with `use_cache=False` and, on route `hooks`, with `output_attentions=True`;
    then call `maps()` on the pool. `ends_forward` (route `interface`) raises `StopForward` once the
    last layer is pooled: only for models that have shown one attention a layer in a whole forward.
    Raises UserError: the family cannot be captured. RuntimeError: the model is already being
    captured.
    """
    pool = HeadPool(lm, keep_heads=keep_heads, ends_forward=ends_forward, pack=pack)
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
    pack: Pack | None = None,
) -> Iterator[PooledMaps]:
    """Capture the attention of whole sequences (n, T), pooled over heads, in row order.

    Gives batches with `mean` and `max`, float32 (batch, layers, query, key), on the CPU. Between
    two batches the model is as before. Batches are halved, with a log message, when memory runs
    out. `attention_mask` (n, T) is 1 for a token, 0 for padding on either side: maps are 0 in
    padded rows and columns and otherwise those of the sequence alone (bit for bit at equal batch
    size). `keep_heads` returns every head's maps too. A BOS token's row and column are left out, so
    rows do not sum to one there. Above 128 tokens weights are computed in blocks of queries, which
    moves maps by rounding (below 1e-6). `pack` is called with each layer's maps, (batch, query,
    key) float32 on the model's device, and what it gives is kept in their place, so that a long
    window needs no room for the squares of all layers. Raises UserError: tokens that do not fit the
    model (at once); a layer without attention, non-finite attention or attention to later tokens
    (on the way), with the layer. NoRoomError: not even one sequence fits into memory.
    """

    def step(batch: torch.Tensor, span: RowSpan) -> PooledMaps:
        return capture_batch(lm, batch, keep_heads=keep_heads, pack=pack, padding=span.padding)

    return run_sequences(lm, tokens, batch_size, step, attention_mask=attention_mask)


def capture_batch(
    lm: LanguageModel,
    batch: torch.Tensor,
    *,
    keep_heads: bool = False,
    pack: Pack | None = None,
    padding: tuple[int, int] = (0, 0),
) -> PooledMaps:
    """The maps of one batch (batch, T) int64 on the model's device, whose logits nobody needs.

    With `padding` they stand among so many rows and columns of zeros before and after.
    """
    # What accelerate brought for the moment must go back when its module ends.
    ends = lm.model in _one_map_a_layer and lm.device_map is None
    place = _placing(padding, pack)
    with pooled_attention(lm, keep_heads=keep_heads, ends_forward=ends, pack=place) as pool:
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


def _placing(padding: tuple[int, int], pack: Pack | None) -> Pack | None:
    """Put maps where they stand in a padded table, zeros around them, then pack them."""
    if not any(padding):
        return pack

    def place(maps: torch.Tensor) -> torch.Tensor:
        whole = nn.functional.pad(maps, (*padding, *padding))
        return whole if pack is None else pack(whole)

    return place
