"""Switch a model to attention code of ours and back: the ways into it, and no trace afterwards.

Families that use transformers' attention interface take a function of ours by its name (route
``interface``); the others run their own eager code, reached at their attention modules (``hooks``).
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from mnemoscope.errors import UserError

if TYPE_CHECKING:
    from mnemoscope.lm.language_model import LanguageModel

__all__ = [
    "attention_modules",
    "attention_route",
    "claimed",
    "eager_attention",
    "implementation",
    "rerouted",
]


@contextmanager
def rerouted(
    lm: "LanguageModel",
    name: str,
    function: Callable[..., Any],
    *,
    claim: AbstractContextManager[None],
    hooks: AbstractContextManager[None],
) -> Iterator[None]:
    """Run a model without dropout and with attention of ours; as before afterwards.

    Args:
        lm: the model.
        name: of the function, for transformers; must not contain "sdpa", "flash",
            "flex_attention" or a slash: transformers reads names.
        function: on route ``interface``, called as transformers' `AttentionInterface` calls its
            functions.
        claim: entered on route ``interface``: tells the function whose module it serves.
        hooks: entered on route ``hooks``, around the family's own eager code.

    Raises:
        UserError: the model keeps its own attention.
    """
    with ExitStack() as stack:
        stack.enter_context(_evaluation_mode(lm.model))
        if lm.attention_route == "interface":
            _register(name, function)
            stack.enter_context(implementation(lm, name))
            stack.enter_context(claim)
        else:
            stack.enter_context(implementation(lm, "eager"))
            stack.enter_context(hooks)
        yield


def _register(name: str, function: Callable[..., Any]) -> None:
    """Make an attention function known to transformers, with the mask that eager code takes."""
    AttentionInterface.register(name, function)
    # Without it transformers passes no mask and every token sees the later ones.
    AttentionMaskInterface.register(name, eager_mask)


def attention_route(model: PreTrainedModel) -> str:
    """Say how a model's attention is captured: ``interface``, or ``hooks`` on its eager code."""
    upcasts = getattr(model.config, "reorder_and_upcast_attn", False)  # GPT-2: only its eager code
    return "interface" if model._can_set_attn_implementation() and not upcasts else "hooks"


@cache
def eager_attention(attention_class: type) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Find `eager_attention_forward` beside an attention class or one of its bases."""
    for base in attention_class.__mro__:
        found = getattr(sys.modules.get(base.__module__), "eager_attention_forward", None)
        if found is not None:
            return found  # type: ignore[no-any-return]
    raise UserError(
        f"{attention_class.__name__}: no eager attention to be found beside it, so this family's "
        "attention cannot be captured. Choose another model."
    )


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """Modules named as attention that hold no other such module (GPT-Neo nests two)."""
    named = [module for module in model.modules() if "Attention" in type(module).__name__]
    return [
        module
        for module in named
        if not any(other in named for other in module.modules() if other is not module)
    ]


@contextmanager
def claimed(
    model: nn.Module, owners: dict[nn.Module, Any], owner: Any, doing: str
) -> Iterator[None]:
    """Enter every module of a model in a registry for this block: one owner at a time.

    Raises:
        RuntimeError: the model has an owner already; says what is being done to it.
    """
    modules = list(model.modules())
    if any(module in owners for module in modules):
        raise RuntimeError(f"the attention of this model is already being {doing}")
    owners.update(dict.fromkeys(modules, owner))
    try:
        yield
    finally:
        for module in modules:
            owners.pop(module, None)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout inside this block; every module is as before afterwards."""
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True


@contextmanager
def implementation(lm: "LanguageModel", name: str) -> Iterator[None]:
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
