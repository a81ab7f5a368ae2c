"""What a model holds in mind: the hidden state of chosen layers at every token.

State 0 is what enters the first layer (the embedding), state l what enters layer l counted from
0, and state `n_layers` what enters the language-modelling head, after the last normalisation: the
numbering and the values of transformers' `output_hidden_states`, without holding the other layers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mnemoscope.errors import UserError
from mnemoscope.lm.backend import attention_modules
from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import prepend_bos
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["check_state", "collected_states", "decoder_layers", "entering", "hidden_states"]


def hidden_states(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    *,
    batch_size: int,
    layers: Sequence[int] | None = None,
    positions: slice = slice(None),
) -> Iterator[npt.NDArray[np.float32]]:
    """Give hidden states of whole sequences, teacher-forced.

    Args:
        lm: the model; its native attention backend is used.
        tokens: sequences, shape (n, T), integers.
        batch_size: sequences at once; halved, and said so, when memory runs out.
        layers: which states, 0 to `n_layers`; the last alone when None.
        positions: which of the T positions are kept; the BOS token is none of them.

    Returns:
        An iterator of batches (batch, layers, positions, width), float32, in the order of the
        rows; the state at a position has read its token and foretells the next.

    Raises:
        UserError: tokens that do not fit the model, or a state that it does not have.
        NoRoomError: not even one sequence fits into memory.
    """
    wanted = [lm.n_layers] if layers is None else [check_state(lm, one) for one in layers]
    table = check_tokens(lm, tokens)
    return run_batches(lm, table, batch_size, lambda batch: _batch(lm, batch, wanted, positions))


@contextmanager
def collected_states(lm: LanguageModel, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Collect what enters layers in the forwards of this block, the latest forward's only.

    Args:
        lm: the model; its hooks are removed afterwards, also after an error.
        layers: counted from 0, below `n_layers`.

    Yields:
        Filled during a forward: state (batch, before + T, width) of each layer.
    """
    found: dict[int, torch.Tensor] = {}
    modules = decoder_layers(lm)
    with entering({modules[layer]: _keep_in(found, layer) for layer in layers}):
        yield found


@contextmanager
def entering(hooks: "dict[nn.Module, Any]") -> Iterator[None]:
    """Call a function on the hidden state that enters each of these layers, inside this block.

    Args:
        hooks: for each layer what gets the state and returns the one to go on with.
    """
    handles = []
    try:
        for module, function in hooks.items():
            hook = _pre_hook(function)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def decoder_layers(lm: LanguageModel) -> list[nn.Module]:
    """Give the layers of a model in their order, whatever its family calls them.

    Raises:
        UserError: there is no list of as many modules with attention as the model has layers.
    """
    attention = set(attention_modules(lm.model))
    for module in lm.model.modules():
        is_list = isinstance(module, nn.ModuleList) and len(module) == lm.n_layers
        if is_list and all(attention & set(layer.modules()) for layer in module.children()):
            return list(module.children())
    raise UserError(f"{lm.name}: no list of its {lm.n_layers} layers to be found in it.")


def check_state(lm: LanguageModel, layer: int, *, last: bool = True) -> int:
    """Refuse a state that a model does not have; `last`: whether state `n_layers` is one."""
    n = lm.n_layers + 1 if last else lm.n_layers
    if not 0 <= layer < n:
        raise UserError(f"{lm.name}: no hidden state {layer}; it has 0 to {n - 1}.")
    return layer


def _batch(
    lm: LanguageModel, batch: torch.Tensor, layers: Sequence[int], positions: slice
) -> npt.NDArray[np.float32]:
    inner = [layer for layer in layers if layer < lm.n_layers]
    with torch.inference_mode(), collected_states(lm, inner) as found:
        output = lm.model.base_model(input_ids=prepend_bos(lm, batch), **_no_cache(lm))
    every = {**found, lm.n_layers: output.last_hidden_state}
    states = [every[layer][:, len(lm.before) :][:, positions].float().cpu() for layer in layers]
    return torch.stack(states, dim=1).numpy()


def _no_cache(lm: LanguageModel) -> dict[str, bool]:
    return {"use_cache": False} if hasattr(lm.model.config, "use_cache") else {}


def _keep_in(found: dict[int, torch.Tensor], layer: int) -> Any:
    def keep(state: torch.Tensor) -> torch.Tensor:
        found[layer] = state
        return state

    return keep


def _pre_hook(function: Any) -> Any:
    """A layer's pre-hook: families give the state as the first argument, or by its name."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (function(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": function(kwargs["hidden_states"])}

    return hook
