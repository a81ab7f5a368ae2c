"""Pool a model's attention weights over heads while it computes them, and leave no trace.

Families that use transformers' attention interface run an attention function of ours that calls
the model's own eager one (route ``interface``); the others run their eager code with hooks on the
attention modules (route ``hooks``). Nothing per head outlives its layer.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from mnemoscope.errors import UserError

if TYPE_CHECKING:
    from mnemoscope.lm.language_model import LanguageModel

__all__ = ["HeadPool", "PooledMaps", "attention_route", "pooled_attention"]

# Must not contain "sdpa", "flash", "flex_attention" or a slash: transformers reads names.
_IMPLEMENTATION = "mnemoscope_pooled"

# Which pool collects for a module: two models at once stay apart.
_pools: dict[nn.Module, "HeadPool"] = {}


class PooledMaps(NamedTuple):
    """Attention pooled over heads, one batch.

    Attributes:
        mean: (batch, layers, query, key), float32, on the CPU.
        max: the same shape; both are 0 where the key comes after the query.
    """

    mean: torch.Tensor
    max: torch.Tensor


class HeadPool:
    """The maps of one forward, collected layer by layer."""

    def __init__(self, lm: "LanguageModel") -> None:
        self._lm = lm
        self._skipped = 0 if lm.bos_id is None else 1
        self._means: list[torch.Tensor] = []
        self._maxima: list[torch.Tensor] = []

    def add(self, weights: torch.Tensor) -> None:
        """Pool one layer's weights (batch, heads, query, key) in float32, without the BOS token.

        Half-precision weights are never copied to float32: the sum accumulates in it, the
        maximum is exact in any dtype.
        """
        kept = weights[:, :, self._skipped :, self._skipped :]
        self._means.append(kept.mean(dim=1, dtype=torch.float32))
        self._maxima.append(kept.amax(dim=1).float())

    def maps(self) -> PooledMaps:
        """Check and give what the forward left, shapes as `PooledMaps`.

        Raises:
            UserError: layers are missing, or weights are non-finite or look ahead; says where.
        """
        if len(self._means) < self._lm.n_layers:
            raise UserError(
                f"{self._lm.name}: gave the attention of {len(self._means)} of its "
                f"{self._lm.n_layers} layers. Only models with attention in every layer are read."
            )
        if len(self._means) > self._lm.n_layers:
            raise UserError(
                f"{self._lm.name}: gave {len(self._means)} maps of its {self._lm.n_layers} layers. "
                "Only models with one attention a layer are read."
            )
        maps = PooledMaps(torch.stack(self._means, dim=1), torch.stack(self._maxima, dim=1))
        self._check(maps)
        return PooledMaps(maps.mean.cpu(), maps.max.cpu())

    def _check(self, maps: PooledMaps) -> None:
        # A non-finite weight makes its mean non-finite; a weight above 0 its maximum above 0.
        layer = _first(~maps.mean.isfinite())
        if layer is not None:
            raise UserError(
                f"{self._lm.name}: non-finite attention in layer {layer} (counted from 0) in "
                f"{self._lm.dtype}. Use --dtype float32, or check that the weights are whole."
            )
        layer = _first(maps.max.triu(diagonal=1) != 0)
        if layer is not None:
            raise UserError(
                f"{self._lm.name}: attention in layer {layer} (counted from 0) looks at later "
                "tokens, so this is no causal language model. Choose another."
            )


def attention_route(model: PreTrainedModel) -> str:
    """Say how a model's attention is captured: ``interface``, or ``hooks`` on its eager code."""
    upcasts = getattr(model.config, "reorder_and_upcast_attn", False)  # GPT-2: only its eager code
    return "interface" if model._can_set_attn_implementation() and not upcasts else "hooks"


@contextmanager
def pooled_attention(lm: "LanguageModel") -> Iterator[HeadPool]:
    """Pool the attention of one forward of the base model inside this block.

    Evaluation mode, attention implementation and hooks are as before afterwards, also after an
    error. The forward must be given ``use_cache=False`` and, on route ``hooks``,
    ``output_attentions=True``.

    Args:
        lm: the model.

    Yields:
        The pool; call `maps()` on it after the forward.

    Raises:
        UserError: the family cannot be captured.
        RuntimeError: the model is already being captured.
    """
    pool = HeadPool(lm)
    with ExitStack() as stack:
        stack.enter_context(_evaluation_mode(lm.model))
        if lm.attention_route == "interface":
            AttentionInterface.register(_IMPLEMENTATION, _pooling_attention)
            # Without it transformers passes no mask and every token sees the later ones.
            AttentionMaskInterface.register(_IMPLEMENTATION, eager_mask)
            stack.enter_context(_implementation(lm, _IMPLEMENTATION))
            stack.enter_context(_collecting(lm.model, pool))
        else:
            stack.enter_context(_implementation(lm, "eager"))
            stack.enter_context(_hooks(lm.model, pool))
        yield pool


def _pooling_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention as the model's eager code does and hand its weights to the pool."""
    eager = _eager_attention(module.__class__)
    output, weights = eager(module, query, key, value, attention_mask, **kwargs)
    if module in _pools:
        _pools[module].add(weights)
    return output, None


@cache
def _eager_attention(attention_class: type) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Find `eager_attention_forward` beside an attention class or one of its bases."""
    for base in attention_class.__mro__:
        found = getattr(sys.modules.get(base.__module__), "eager_attention_forward", None)
        if found is not None:
            return found  # type: ignore[no-any-return]
    raise UserError(
        f"{attention_class.__name__}: no eager attention to be found beside it, so this family's "
        "attention cannot be captured. Choose another model."
    )


@contextmanager
def _collecting(model: nn.Module, pool: HeadPool) -> Iterator[None]:
    modules = list(model.modules())
    if any(module in _pools for module in modules):
        raise RuntimeError("the attention of this model is already being captured")
    _pools.update(dict.fromkeys(modules, pool))
    try:
        yield
    finally:
        for module in modules:
            _pools.pop(module, None)


@contextmanager
def _hooks(model: nn.Module, pool: HeadPool) -> Iterator[None]:
    """Pool what the innermost attention modules return, and let go of the weights themselves."""

    def take(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, tuple | list):
            return output
        for item in filter(_looks_like_weights, output):
            pool.add(item)
        return type(output)(None if _looks_like_weights(item) else item for item in output)

    handles = [module.register_forward_hook(take) for module in _attention_modules(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _looks_like_weights(item: Any) -> bool:
    """True for (batch, heads, query, key) with as many queries as keys."""
    return isinstance(item, torch.Tensor) and item.ndim == 4 and item.shape[2] == item.shape[3]


def _attention_modules(model: nn.Module) -> list[nn.Module]:
    """Modules named as attention that hold no other such module (GPT-Neo nests two)."""
    named = [module for module in model.modules() if "Attention" in type(module).__name__]
    return [
        module
        for module in named
        if not any(other in named for other in module.modules() if other is not module)
    ]


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True


@contextmanager
def _implementation(lm: "LanguageModel", name: str) -> Iterator[None]:
    """Run the model with one attention implementation; check that it took; restore the former."""
    model = lm.model
    before = _implementations(model)
    try:
        if any(current != name for _, current in before):
            model.set_attn_implementation(name)
        if any(current != name for _, current in _implementations(model)):
            raise UserError(
                f"{lm.name}: keeps its own attention implementation, so its attention cannot be "
                "captured. Load it with attn_implementation='eager', or choose another model."
            )
        yield
    finally:
        for config, current in before:
            config._attn_implementation = current


def _implementations(model: nn.Module) -> list[tuple[Any, str | None]]:
    """Every configuration inside a model, outermost first, with its attention implementation."""
    configs = {
        id(module.config): module.config
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
    }
    return [(config, config._attn_implementation) for config in configs.values()]


def _first(is_bad: torch.Tensor) -> int | None:
    """The first layer of (batch, layers, query, key) with anything true."""
    layers = is_bad.any(dim=3).any(dim=2).any(dim=0).nonzero()
    return int(layers[0]) if len(layers) else None
