"""Change what happens inside the running model: cut attention edges, put other hidden states in.

A cut weight becomes zero after the softmax, before the values are summed. Only the softmax's
result changes, so soft-capping, sinks, grouped keys and windows stay as they are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mnemoscope.errors import UserError
from mnemoscope.lm.model import LanguageModel, attention_modules, claimed, eager_attention, rerouted
from mnemoscope.lm.probe import check_state, decoder_layers, entering

_IMPLEMENTATION = "mnemoscope_cut"
SOFTMAX = {nn.functional.softmax, torch.softmax, torch.Tensor.softmax}

# Which scissors are at work on a module: two models at once stay apart.
_at_work: dict[nn.Module, "_Scissors"] = {}


@contextmanager
def cut_attention(
    lm: "LanguageModel", edges: torch.Tensor, *, renormalize: bool = False
) -> Iterator[None]:
    """Cut attention edges in every forward of this block, decoding steps with a cache included.

    Args:
        lm: the model; restored afterwards, also after an error.
        edges: bool, shape (layers, T, T) for all sequences alike, or (batch, layers, T, T) for
            batches of exactly these sequences; axes query, key. True is cut. A BOS token is not
            among the T and is never cut.
        renormalize: scale the remaining weights so that each row keeps its sum, as if the cut
            keys had been masked before the softmax. A row that loses every key becomes zero.

    Raises:
        UserError: edges of another shape than the model's layers, an edge from a query to a later
            key, or a family whose attention is not one softmax a layer.
        RuntimeError: the model is already being cut.
    """
    scissors = _Scissors(lm, edges, renormalize=renormalize)
    claim = claimed(lm.model, _at_work, scissors, "cut")
    hooks = _around_modules(lm.model, scissors)
    with rerouted(lm, _IMPLEMENTATION, _cutting_attention, claim=claim, hooks=hooks):
        yield


class _Scissors:
    """Edges to cut, and where in the sequence and in the layers the model is just now."""

    def __init__(self, lm: "LanguageModel", edges: torch.Tensor, *, renormalize: bool) -> None:
        self._name, self._n_layers = lm.name, lm.n_layers
        self._renormalize = renormalize
        n_bos = 0 if lm.bos_id is None else 1
        keep = nn.functional.pad(~_checked(lm, edges), (n_bos, 0, n_bos, 0), value=True)
        self._keep = keep.to(lm.device)
        self._layer = 0  # the next call is of this layer: layers come in order in every forward
        self._seen = 0  # tokens that this and earlier forwards have fed

    def attend(self, run: Callable[[], Any], n_keys: int | None = None) -> Any:
        """Run one layer's attention with its softmax changed.

        `n_keys` is None where each column of the softmax is a key; a sink adds one, never cut.
        """
        with _CutSoftmax(self, n_keys) as mode:
            output = run()
        if mode.n_seen != 1:
            raise UserError(
                f"{self._name}: its attention calls {mode.n_seen} softmaxes a layer, so its edges "
                "cannot be cut. Choose another model."
            )
        self._layer = (self._layer + 1) % self._n_layers
        return output

    def cut(self, weights: torch.Tensor, n_keys: int | None) -> torch.Tensor:
        """Zero one layer's cut edges: (batch, heads, query, column), older code (batch · heads, …).

        With a cache there are fewer queries than keys; a window may have dropped the first keys.
        """
        n_queries, n_columns = weights.shape[-2:]
        keep = self._keep_now(n_queries, n_keys or n_columns).to(weights.device)
        if keep.all():
            return weights
        keep = nn.functional.pad(keep, (0, n_columns - keep.shape[-1]), value=True)[:, None]
        by_head = weights.reshape(len(keep), -1, n_queries, n_columns)
        kept = by_head * keep
        if self._renormalize:
            left = kept.sum(dim=-1, keepdim=True)
            scale = by_head.sum(dim=-1, keepdim=True) / left
            kept = torch.where(left > 0, kept * scale, kept)
        return kept.reshape(weights.shape)

    def _keep_now(self, n_queries: int, n_keys: int) -> torch.Tensor:
        """What stays of this layer for the queries of this forward: (batch or 1, query, key)."""
        if self._layer == 0:
            self._seen = n_queries + (0 if n_queries == n_keys else self._seen)
        if self._seen > self._keep.shape[-1]:
            raise UserError(
                f"{self._name}: reads {self._seen} tokens, but edges are given for "
                f"{self._keep.shape[-1]}. Give edges for the whole sequence."
            )
        rows = slice(self._seen - n_queries, self._seen)
        return self._keep[:, self._layer, rows, self._seen - n_keys : self._seen]


class _CutSoftmax(TorchFunctionMode):
    """While active, hand what a softmax gives to the scissors."""

    def __init__(self, scissors: _Scissors, n_keys: int | None) -> None:
        super().__init__()
        self._scissors, self._n_keys = scissors, n_keys
        self.n_seen = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in SOFTMAX:
            return result
        self.n_seen += 1
        return self._scissors.cut(result, self._n_keys)


def _checked(lm: "LanguageModel", edges: torch.Tensor) -> torch.Tensor:
    """Edges as (batch or 1, layers, T, T)."""
    edges = edges if edges.ndim == 4 else edges[None]
    if edges.dtype != torch.bool or edges.ndim != 4 or edges.shape[2] != edges.shape[3]:
        raise UserError(
            f"edges: {tuple(edges.shape)} of {edges.dtype}, wanted bool (layers, T, T)."
        )
    if edges.shape[1] != lm.n_layers:
        raise UserError(
            f"edges: {edges.shape[1]} layers, but {lm.name} has {lm.n_layers}. "
            "Were they found on another model?"
        )
    if edges.triu(diagonal=1).any():
        raise UserError("edges: a cut from a query to a later key, where no attention is.")
    return edges


def _cutting_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention as the model's eager code does, with its softmax changed."""
    eager = eager_attention(module.__class__)

    def run() -> torch.Tensor:
        return eager(module, query, key, value, attention_mask, **kwargs)[0]

    if module not in _at_work:
        return run(), None
    return _at_work[module].attend(run, n_keys=key.shape[2]), None


@contextmanager
def _around_modules(model: nn.Module, scissors: _Scissors) -> Iterator[None]:
    """Wrap the forward of every attention module of a family outside the interface."""
    modules = attention_modules(model)

    def wrapped(forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: scissors.attend(lambda: forward(*args, **kwargs))

    own = {module: module.__dict__.get("forward") for module in modules}  # accelerate sets one
    for module in modules:
        module.forward = wrapped(module.forward)
    try:
        yield
    finally:
        for module, forward in own.items():
            del module.forward
            if forward is not None:
                module.forward = forward


@contextmanager
def patched_states(
    lm: LanguageModel, layer: int, positions: torch.Tensor, states: torch.Tensor
) -> Iterator[None]:
    """Replace states in every forward of this block; each forward must be of whole sequences.

    Positions (batch, k) int64 do not count the BOS token; states are (batch, k, width). State
    `n_layers` cannot be replaced: only the head of its own position reads it.

    Raises:
        UserError: a state that the model does not have, or shapes that do not fit.
    """
    check_state(lm, layer, last=False)
    if positions.ndim != 2 or states.shape[:2] != positions.shape:
        raise UserError(
            f"patch: positions {tuple(positions.shape)} and states {tuple(states.shape)}, wanted "
            "(batch, k) and (batch, k, width)."
        )
    places = positions + len(lm.before)

    def replace(state: torch.Tensor) -> torch.Tensor:
        if len(state) != len(places) or int(places.max()) >= state.shape[1]:
            raise UserError(
                f"patch: {len(places)} sequences up to position {int(positions.max())}, but the "
                f"forward is of {tuple(state.shape[:2])}."
            )
        rows = torch.arange(len(state), device=state.device)[:, None]
        changed = state.clone()
        changed[rows, places.to(state.device)] = states.to(state.device, state.dtype)
        return changed

    with entering({decoder_layers(lm)[layer]: replace}):
        yield
