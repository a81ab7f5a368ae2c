"""Change what happens inside the running model: cut attention edges, put other hidden states in.

A weight is scaled, by 0 where it is cut, after the softmax and before the values are summed. Only
the softmax's result changes, so soft-capping, sinks, grouped keys and windows stay as they are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mnemoscope.errors import UnsupportedModelError, UserError
from mnemoscope.lm.model import (
    LanguageModel,
    attention_modules,
    check_tokens,
    claimed,
    eager_attention,
    last_logits,
    prepend_bos,
    rerouted,
    run_batches,
)
from mnemoscope.lm.probe import check_state, decoder_layers, entering

_IMPLEMENTATION = "mnemoscope_changed"
SOFTMAX = {nn.functional.softmax, torch.softmax, torch.Tensor.softmax}


class Attend(Protocol):
    """What is done around one layer's attention; layers come in order in every forward."""

    def __call__(self, run: Callable[[], Any], n_keys: int | None) -> Any:
        """Give what `run` gives, changed or watched; `n_keys` None: no column is a sink."""


# What is done to a module's attention: two models at once stay apart.
_at_work: dict[nn.Module, Attend] = {}


@contextmanager
def around_attention(lm: LanguageModel, attend: Attend) -> Iterator[None]:
    """Pass every layer's attention through `attend` in this block, in the model's eager code.

    Raises UserError: the model keeps its own attention. RuntimeError: its attention is already
    being changed.
    """
    claim = claimed(lm.model, _at_work, attend, "changed")
    hooks = _around_modules(lm.model, attend)
    with rerouted(lm, _IMPLEMENTATION, _changed_attention, claim=claim, hooks=hooks):
        yield


@contextmanager
def cut_attention(
    lm: LanguageModel, edges: torch.Tensor, *, renormalize: bool = False
) -> Iterator[None]:
    """Cut attention edges in every forward of this block, decoding steps with a cache included.

    Edges are bool (layers, T, T) for all sequences alike, or (batch, layers, T, T) for batches of
    exactly these; axes query, key; True is cut. A BOS token is not among the T and is never cut.
    `renormalize` scales the remaining weights so that each row keeps its sum, as if the cut keys
    had been masked before the softmax; a row that loses every key becomes zero. Raises UserError:
    edges of another shape than the model's layers, an edge from a query to a later key, or a family
    whose attention is not one softmax a layer. RuntimeError: it is already being changed.
    """
    if edges.dtype != torch.bool:
        raise UserError(
            f"edges: {tuple(edges.shape)} of {edges.dtype}, wanted bool (layers, T, T)."
        )
    if edges.triu(diagonal=1).any():
        raise UserError("edges: a cut from a query to a later key, where no attention is.")
    with around_attention(lm, _Scaling(lm, ~edges, renormalize=renormalize).attend):
        yield


@contextmanager
def scaled_attention(lm: LanguageModel, factors: torch.Tensor) -> Iterator[None]:
    """Multiply attention weights, in all heads alike; gradients flow into the factors.

    Factors are shaped as the edges of `cut_attention`, errors as there; 1 changes nothing, bit for
    bit.
    """
    with around_attention(lm, _Scaling(lm, factors, renormalize=False).attend):
        yield


class _Scaling:
    """Factors of the weights, and where in the sequence and in the layers the model is just now."""

    def __init__(self, lm: LanguageModel, factors: torch.Tensor, *, renormalize: bool) -> None:
        self._name, self._n_layers = lm.name, lm.n_layers
        self._renormalize = renormalize
        before = len(lm.before)
        factors = nn.functional.pad(_checked(lm, factors), (before, 0, before, 0), value=1)
        self._factors = factors.to(lm.device)
        self._layer = 0  # the next call is of this layer: layers come in order in every forward
        self._seen = 0  # tokens that this and earlier forwards have fed

    def attend(self, run: Callable[[], Any], n_keys: int | None) -> Any:
        """Run one layer's attention with its softmax changed."""
        n_seen = 0

        def change(_: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            nonlocal n_seen
            n_seen += 1
            return self.change(weights, n_keys)

        with AtSoftmax(change):
            output = run()
        if n_seen != 1:
            raise UnsupportedModelError(
                f"{self._name}: its attention calls {n_seen} softmaxes a layer, so its edges "
                "cannot be cut. Choose another model."
            )
        self._layer = (self._layer + 1) % self._n_layers
        return output

    def change(self, weights: torch.Tensor, n_keys: int | None) -> torch.Tensor:
        """Scale one layer's edges: (batch, heads, query, column), older code (batch · heads, …).

        With a cache there are fewer queries than keys; a window may have dropped the first keys.
        """
        n_queries, n_columns = weights.shape[-2:]
        n_rows = len(weights)  # times heads in older code
        if n_rows % len(self._factors) or (
            weights.ndim == 4 and len(self._factors) not in (1, n_rows)
        ):
            raise UserError(
                f"edges: of {len(self._factors)} sequences, but {self._name} reads {n_rows} rows."
            )
        factors = self._factors_now(n_queries, n_keys or n_columns).to(weights.device)
        if not factors.requires_grad and bool((factors == 1).all()):
            return weights
        if factors.dtype != torch.bool:
            factors = factors.to(weights.dtype)
        factors = nn.functional.pad(factors, (0, n_columns - factors.shape[-1]), value=1)[:, None]
        by_head = weights.reshape(len(factors), -1, n_queries, n_columns)
        kept = by_head * factors
        if self._renormalize:
            left = kept.sum(dim=-1, keepdim=True)
            scale = by_head.sum(dim=-1, keepdim=True) / left
            kept = torch.where(left > 0, kept * scale, kept)
        return kept.reshape(weights.shape)

    def _factors_now(self, n_queries: int, n_keys: int) -> torch.Tensor:
        """This layer's factors for the queries of this forward: (batch or 1, query, key)."""
        if self._layer == 0:
            self._seen = n_queries + (0 if n_queries == n_keys else self._seen)
        if self._seen > self._factors.shape[-1]:
            raise UserError(
                f"{self._name}: reads {self._seen} tokens, but edges are given for "
                f"{self._factors.shape[-1]}. Give edges for the whole sequence."
            )
        rows = slice(self._seen - n_queries, self._seen)
        return self._factors[:, self._layer, rows, self._seen - n_keys : self._seen]


class AtSoftmax(TorchFunctionMode):
    """While active, a softmax gives what a function makes of what enters it and what leaves."""

    def __init__(self, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._change = change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        if func not in SOFTMAX:
            return result
        return self._change(args[0] if args else given["input"], result)


def _checked(lm: LanguageModel, edges: torch.Tensor) -> torch.Tensor:
    """Factors of edges as (batch or 1, layers, T, T)."""
    edges = edges if edges.ndim == 4 else edges[None]
    if edges.ndim != 4 or edges.shape[2] != edges.shape[3]:
        raise UserError(f"edges: {tuple(edges.shape)}, wanted (layers, T, T).")
    if edges.shape[1] != lm.n_layers:
        raise UserError(
            f"edges: {edges.shape[1]} layers, but {lm.name} has {lm.n_layers}. "
            "Were they found on another model?"
        )
    return edges


def _changed_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, *args: Any, **kw: Any
) -> tuple[torch.Tensor, None]:
    """Compute attention as the model's eager code does, passed through what is at work on it."""
    eager = eager_attention(module.__class__)

    def run() -> torch.Tensor:
        return eager(module, query, key, *args, **kw)[0]

    if module not in _at_work:
        return run(), None
    return _at_work[module](run, key.shape[2]), None


@contextmanager
def _around_modules(model: nn.Module, attend: Attend) -> Iterator[None]:
    """Wrap the forward of every attention module of a family outside the interface."""
    modules = attention_modules(model)

    def wrapped(forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: attend(lambda: forward(*args, **kwargs), None)

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
    `n_layers` cannot be replaced: only the head of its own position reads it. Raises UserError: a
    state that the model does not have, or shapes that do not fit.
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


def right_with_states(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    layer: int,
    positions: npt.ArrayLike,
    states: npt.ArrayLike,
    *,
    batch_size: int,
    prefix: int,
) -> Iterator[npt.NDArray[np.bool_]]:
    """Say of every token after the prefix whether it is the best one with other states put in.

    Args:
        lm: the model; it is left as it was.
        tokens: sequences, integers (n, T); each token is judged after the true ones before it.
        layer: which state is replaced: 0, the embedding, to `n_layers` - 1 (`hidden_states`).
        positions: where, int64 (n, k), counted without a BOS token.
        states: what is put there, float32 (n, k, width).
        batch_size: sequences a forward pass.
        prefix: tokens before the first that is judged.

    Yields:
        Bool (batch, T - prefix), in the order of the rows.

    Raises:
        UserError: tokens that do not fit the model, a state that it does not have, or shapes that
            do not fit. NoRoomError: not even one sequence fits into memory.
    """
    table = check_tokens(lm, tokens, prefix=prefix)
    places = torch.from_numpy(np.asarray(positions, dtype=np.int64))
    new = torch.from_numpy(np.asarray(states, dtype=np.float32))

    def step(numbers: torch.Tensor) -> npt.NDArray[np.bool_]:
        rows = numbers[:, 0].cpu()
        batch = table[rows].to(numbers.device)
        wanted = batch[:, prefix:]
        with torch.inference_mode(), patched_states(lm, layer, places[rows], new[rows]):
            logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), wanted.shape[1])
        return np.asarray((logits.argmax(dim=-1) == wanted).cpu().numpy())

    return run_batches(lm, torch.arange(len(table))[:, None], batch_size, step)
