"""What each attention edge moves, and what the logits of the next tokens owe to it.

Every function gives batches (batch, layers, T, T), float32 on the CPU, axes query and key, in row
order; 0 above the diagonal and in the last query, whose next token is not among the T. Nothing is
stored: a batch's values are computed in the model's own eager attention and let go.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mnemoscope.errors import UserError
from mnemoscope.lm.intervene import SOFTMAX, around_attention, scaled_attention
from mnemoscope.lm.model import (
    LanguageModel,
    attention_modules,
    check_tokens,
    last_logits,
    prepend_bos,
    run_batches,
)
from mnemoscope.lm.probe import decoder_layers, entering

_PRODUCT = {torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.bmm, torch.Tensor.__matmul__}


def total_effects(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int, prefix: int = 32
) -> Iterator[torch.Tensor]:
    """Give α · ∂(sum of the suffix tokens' logits) / ∂α of every edge, summed over heads.

    Batches float32 (batch, layers, query, key), on the CPU, in row order. The suffix tokens of (n,
    T) are those from `prefix` on, each after the true ones before it. It is the first-order
    estimate of what these logits lose when the edge is cut in all heads, along every path through
    the later layers; with G the gradient at the attention's output before the output projection, of
    each head α · (G · v). Raises UserError: tokens that do not fit the model, or a family whose
    edges cannot be changed. NoRoomError: not even one sequence fits into memory.
    """
    return run_batches(
        lm,
        check_tokens(lm, tokens, prefix=prefix),
        batch_size,
        lambda batch: _effects(lm, batch, prefix),
    )


def contributions(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int, prefix: int = 32
) -> Iterator[torch.Tensor]:
    """Give what each edge adds to its query's next token's logit by itself, to first order.

    As `total_effects`, with the same errors, but along the residual stream alone: what later layers
    read is held fixed, so an edge moves no other logit than its own query's.
    """

    def step(batch: torch.Tensor) -> torch.Tensor:
        with entering(dict.fromkeys(_readers(lm), torch.Tensor.detach)):
            return _effects(lm, batch, prefix)

    table = check_tokens(lm, tokens, prefix=prefix)
    places = 2 * max(table.shape[1] - prefix, 1)  # the gradient of logits takes as much again
    return run_batches(lm, table, batch_size, step, places=places)


def value_norms(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int
) -> Iterator[torch.Tensor]:
    """Give the norm of what each edge moves, ‖Σ over heads of α · v · W_O‖.

    v and W_O are a head's value vector and its rows of the output projection, without its bias and
    before any norm that follows it. Source: Kobayashi et al. 2020, arXiv 2004.10102. Raises
    UserError: tokens that do not fit the model, or a family whose attention's output is not its
    weights times its values times one matrix. NoRoomError: not even one sequence fits into memory.
    """

    def step(batch: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), moved_values(lm) as moved:
            last_logits(lm, prepend_bos(lm, batch[:, :-1]), 1)
        maps = torch.stack([one.norms().cpu() for one in moved], dim=1)
        return nn.functional.pad(maps, (0, 1, 0, 1))

    return run_batches(lm, check_tokens(lm, tokens), batch_size, step)


def _effects(lm: LanguageModel, batch: torch.Tensor, prefix: int) -> torch.Tensor:
    """Scale every edge by a factor of 1; the gradient by the factors is the effect of the edges."""
    suffix, length = batch[:, prefix:], batch.shape[1] - 1
    with torch.enable_grad():
        factors = torch.ones(len(batch), lm.n_layers, length, length, requires_grad=True)
        with scaled_attention(lm, factors):
            logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), suffix.shape[1])
        of_next = logits.gather(2, suffix.to(logits.device)[..., None]).float()
        (effects,) = torch.autograd.grad(of_next.sum(), [factors])
    # Products with weights of 0 above the diagonal: exact zeros, of either sign.
    return nn.functional.pad(effects.tril(), (0, 1, 0, 1))


def _readers(lm: LanguageModel) -> Iterator[nn.Module]:
    """What reads the residual stream: attention, and what is no norm or dropout behind a block."""
    yield from (attention := attention_modules(lm.model))
    for layer in decoder_layers(lm):
        for module in layer.children():
            passes = any(word in type(module).__name__ for word in ("Norm", "Dropout"))
            if not passes and not any(inner in attention for inner in module.modules()):
                yield module


class ValueFlow(NamedTuple):
    """What one layer's attention moves; the matrix is the output projection."""

    weights: torch.Tensor  # (batch, heads, query, key)
    values: torch.Tensor  # (batch, heads, key, size)
    matrix: torch.Tensor  # (heads, size, width)

    def norms(self) -> torch.Tensor:
        """Norm of the sum over heads for every edge, (batch, query, key) float32."""
        rows = []
        for weights, values in zip(self.weights, self.values, strict=True):
            moved = torch.einsum("hkd,hdw->khw", values, self.matrix)
            products = moved @ moved.transpose(1, 2)  # of every two heads, for every key
            by_key = weights.permute(2, 1, 0).contiguous()  # else MKL's threads wait 9 ms a product
            rows.append(((by_key @ products) * by_key).sum(dim=-1).clamp(min=0).sqrt().T)
        return torch.stack(rows)

    def sums(self) -> torch.Tensor:
        """The sum over keys and heads for every query, (batch, query, width) float32."""
        return torch.einsum("bhqk,bhkd,hdw->bqw", self.weights, self.values, self.matrix)


@contextmanager
def moved_values(lm: LanguageModel) -> Iterator[list[ValueFlow]]:
    """Collect what every layer's attention moves in one forward inside this block, in order."""
    found: list[ValueFlow] = []
    watch = _Watch(lm, found)
    with ExitStack() as stack:
        for module in attention_modules(lm.model):
            for inner in list(module.modules())[1:]:
                if next(inner.parameters(), None) is not None:
                    stack.callback(inner.register_forward_hook(watch.project).remove)
                    stack.callback(inner.register_forward_pre_hook(watch.meet).remove)
        stack.enter_context(around_attention(lm, watch.attend))
        yield found
    if len(found) != lm.n_layers:
        raise UserError(
            f"{lm.name}: the values moved were seen in {len(found)} of its {lm.n_layers} layers. "
            "Choose another ranking of edges, or another model."
        )


_OWN_HOOKS = 2  # `_Watch.meet` and `_Watch.project`


class _Watch:
    """Weights and values where they are multiplied, and the projection that comes next."""

    def __init__(self, lm: LanguageModel, found: list[ValueFlow]) -> None:
        self._lm, self._found = lm, found
        self._product: tuple[torch.Tensor, torch.Tensor] | None = None
        self._next: nn.Module | None = None

    def attend(self, run: Callable[[], Any], n_keys: int | None) -> Any:
        """Run one layer's attention and keep the product after its softmax."""
        with _Product(self, n_keys):
            return run()

    def multiply(self, weights: torch.Tensor, values: torch.Tensor, n_keys: int | None) -> None:
        """Take weights (…, query, column) and values (…, key, size) of all heads."""
        n_queries, n_columns = weights.shape[-2:]
        n_keys = n_keys or n_columns
        heads = self._lm.n_heads
        weights = weights[..., :n_keys].reshape(-1, heads, n_queries, n_keys)
        values = values.reshape(len(weights), -1, *values.shape[-2:])
        values = values.repeat_interleave(heads // values.shape[1], dim=1)
        self._product, self._next = (weights.float(), values.float()), None

    def meet(self, module: nn.Module, _args: Any) -> None:
        """The first module entered after the product is the projection, adapters around it too."""
        if self._product is not None and self._next is None:
            self._next = module

    def project(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Find the matrix of the projection, and check that it makes its output of the values."""
        if self._product is None or module is not self._next:
            return
        (weights, values), self._product, self._next = self._product, None, None
        rows, constant = _affine(module, args[0])
        matrix = rows.reshape(self._lm.n_heads, -1, rows.shape[-1])
        moved = ValueFlow(weights, values, matrix)
        made = output.float().reshape(len(weights), -1, output.shape[-1])
        is_odd = matrix.shape[1] != values.shape[-1] or made.shape[1] != weights.shape[2]
        if is_odd or not _alike(moved.sums() + constant, made, args[0].dtype):
            raise UserError(
                f"{self._lm.name}: its attention's output is not weights times values times one "
                "matrix, so what an edge moves cannot be said. Choose another ranking of edges."
            )
        start = len(self._lm.before)
        self._found.append(ValueFlow(weights[:, :, start:, start:], values[:, :, start:], matrix))


def _affine(module: nn.Module, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrix (in, out) and constant (out,) of a projection, float32, on the device of its input.

    A plain linear layer has them; any other, such as one with an adapter or with hooks of others,
    is asked for them.
    """
    n_hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
    if type(module) is nn.Linear and n_hooks == _OWN_HOOKS and "forward" not in vars(module):
        weight = module.weight.detach()
        constant = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()
        return weight.T.float(), constant.float()
    width = given.shape[-1]
    asked = torch.cat([torch.eye(width), torch.zeros(1, width)])
    answers = module(asked.to(given.device, given.dtype)).float()
    return answers[:-1] - answers[-1], answers[-1]


class _Product(TorchFunctionMode):
    """While active, show the product that follows a softmax to the watch."""

    def __init__(self, watch: _Watch, n_keys: int | None) -> None:
        super().__init__()
        self._watch, self._n_keys = watch, n_keys
        self._weights: torch.Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in SOFTMAX:
            self._weights = result
        elif func in _PRODUCT and self._weights is not None:
            self._watch.multiply(self._weights, args[1], self._n_keys)
            self._weights = None
        return result


def _alike(first: torch.Tensor, second: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two sums differ by no more than rounding in `dtype`, against the largest entry."""
    far = (first - second).abs().max() / second.abs().max().clamp(min=1e-30)
    return bool(far < 32 * torch.finfo(dtype).eps)
