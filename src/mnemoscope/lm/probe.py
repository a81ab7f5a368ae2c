"""How right and how likely a model finds each token of a suffix after the true ones before it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mnemoscope.errors import UserError
from mnemoscope.lm.model import (
    LanguageModel,
    RowSpan,
    attention_modules,
    brought,
    check_finite,
    check_tokens,
    last_logits,
    prepend_bos,
    run_batches,
    run_sequences,
)

# What families call the matrix that leads from an MLP's neurons back to the hidden state.
_NAMES = {"dense_4h_to_h", "down_proj", "fc_out", "fc2", "c_proj"}


_NEVER = -1e4  # ln of a chance that float64 holds as 0

Match = Literal["even", "last"]
"""How layers of two models are paired, see `matched_layers`."""

_OnState = Callable[[torch.Tensor], torch.Tensor]
_OfLogits = Callable[[torch.Tensor, torch.Tensor], Iterable[torch.Tensor]]


class _States(NamedTuple):
    """States of one batch, (batch, layers, positions, width) float32."""

    states: npt.NDArray[np.float32]


class TeacherForced(NamedTuple):
    """One forward's answer for every suffix token, (n, suffix length), after the true ones before.

    `is_right`: the token is the argmax. A sequence right throughout is memorized (up to ties); a
    share below 1 is no memorization score, since decoding would go on from the wrong token.
    `logprobs` are float32 natural logarithms, at most 0.
    """

    is_right: npt.NDArray[np.bool_]
    logprobs: npt.NDArray[np.float32]


class NextTokens(NamedTuple):
    """What each place foretells, (n, T - 1) float32 natural logarithms, at most 0.

    Column i follows the tokens up to and with i: `logprobs` of the token that stands there, `best`
    of the likeliest one.
    """

    logprobs: npt.NDArray[np.float32]
    best: npt.NDArray[np.float32]


class TokenChances(NamedTuple):
    """What a model says of each token from the second on, (n, T - 1) float64, nats.

    `logprobs` is of the token that stands there; `mean` and `deviation` are of ln p over all tokens
    as the model would draw them there: minus the entropy, and how far ln p scatters about that. A
    token that cannot be drawn has -10,000.
    """

    logprobs: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]


def suffix_logprobs(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int, prefix: int = 32
) -> npt.NDArray[np.float32]:
    """Give the log-probability of every suffix token; arguments and errors as `teacher_forced`."""
    (found,) = of_logits(lm, tokens, lambda *one: (logprobs_of(*one),), batch_size, prefix)
    return found


def of_logits(
    lm: LanguageModel, tokens: npt.ArrayLike, of: _OfLogits, batch_size: int, prefix: int = 1
) -> list[npt.NDArray[Any]]:
    """What a function gives of the logits of every token from `prefix` on, one forward a sequence.

    It is told the logits (batch, T - prefix, vocabulary) and the tokens, and gives tensors of which
    each becomes an array (n, T - prefix), on the CPU. Errors as `teacher_forced`, and UserError
    where they are not numbers, since the logits were not.
    """
    table = check_tokens(lm, tokens, prefix=prefix)

    def step(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            found = brought(*of(*_suffix_logits(lm, batch, prefix)))  # the batch's one wait
        for one in found:
            check_finite(lm, one)
        return found

    places = table.shape[1] - prefix
    parts = [*run_batches(lm, table, batch_size, step, places=max(places, 1))]
    if not parts:  # of no sequences there are no logits either
        nothing = torch.empty(0, places, lm.vocab_size), torch.empty(0, places, dtype=torch.int64)
        parts = [tuple(of(*nothing))]
    return [torch.cat(one).numpy() for one in zip(*parts, strict=True)]


def teacher_forced(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int, prefix: int = 32
) -> TeacherForced:
    """Judge every suffix token of sequences (n, T) after the true tokens before it.

    Gives `is_right`, bool, whether it is the model's best one, and `logprobs`, float32, nats, both
    (n, T - prefix), from one forward a sequence. Raises UserError: tokens that do not fit the
    model. NoRoomError: not even one sequence fits into memory.
    """
    table = check_tokens(lm, tokens, prefix=prefix)
    shape = 0, table.shape[1] - prefix
    none = TeacherForced(np.empty(shape, dtype=bool), np.empty(shape, dtype=np.float32))
    step = partial(judge, lm, prefix=prefix)
    parts = [none, *run_batches(lm, table, batch_size, step, places=max(shape[1], 1))]
    return TeacherForced(*map(np.concatenate, zip(*parts, strict=True)))


def judge(lm: LanguageModel, batch: torch.Tensor, *, prefix: int) -> TeacherForced:
    """Judge the suffixes of one batch (batch, T) int64 on the model's device, as above."""
    # Not inference mode: what a module keeps from this forward must still serve training.
    with torch.no_grad():
        logits, suffixes = _suffix_logits(lm, batch, prefix)
        logprobs = logprobs_of(logits, suffixes)
        is_right = logits.argmax(dim=-1) == suffixes
    return TeacherForced(*(one.numpy() for one in brought(is_right, logprobs)))


def _suffix_logits(
    lm: LanguageModel, batch: torch.Tensor, prefix: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the suffixes' places, and the suffixes."""
    suffixes = batch[:, prefix:]
    return last_logits(lm, prepend_bos(lm, batch[:, :-1]), suffixes.shape[1]), suffixes


def beside_attention(lm: LanguageModel, layer: int) -> list[nn.Module]:
    """Children of a layer with matrices and without attention, such as its MLP."""
    module = decoder_layers(lm)[layer]
    attention = set(attention_modules(module))
    return [
        one
        for one in module.children()
        if not attention & set(one.modules())
        and any(weight.ndim > 1 for weight in one.parameters())
    ]


def logprobs_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability of tokens (batch, n) under logits (batch, n, vocabulary), float32.

    Several tokens of each place, (batch, n, k), are asked of one normalization.
    """
    # Position by position: float32 logits of all would be the largest tensor by far.
    columns, wanted = [], tokens[..., None] if tokens.ndim == 2 else tokens
    for at in range(tokens.shape[1]):
        here = logits[:, at].float()
        columns.append(here.gather(1, wanted[:, at]) - here.logsumexp(dim=1, keepdim=True))
    return torch.stack(columns, dim=1).view_as(tokens)


def next_tokens(lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int) -> NextTokens:
    """Say how likely each token of sequences (n, T) is, and how likely the likeliest, in one pass.

    Arguments and errors as `teacher_forced`.
    """

    def both(logits: torch.Tensor, own: torch.Tensor) -> Iterable[torch.Tensor]:
        return logprobs_of(logits, torch.stack((own, logits.argmax(dim=-1)), dim=-1)).unbind(-1)

    return NextTokens(*of_logits(lm, tokens, both, batch_size))


def token_chances(lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int) -> TokenChances:
    """Say how likely each token of sequences (n, T) is, and what was to be expected there.

    One forward a sequence. Raises UserError: tokens that do not fit the model, or logits that are
    not finite. NoRoomError: not even one sequence fits into memory.
    """

    def chances(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []
        for at in range(tokens.shape[1]):
            here = logits[:, at].double().log_softmax(dim=1)
            shares = here.exp()
            here.clamp_(min=_NEVER)  # what cannot be drawn counts nothing below
            own = here.gather(1, tokens[:, at, None])[:, 0]
            mean = torch.linalg.vecdot(shares, here)
            variance = here.sub_(mean[:, None]).square_().mul_(shares).sum(dim=1)
            found.append(torch.stack([own, mean, variance.sqrt()]))
        return torch.stack(found, dim=2)

    return TokenChances(*of_logits(lm, tokens, chances, batch_size))


def next_token_entropy(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int
) -> npt.NDArray[np.float32]:
    """Entropy of every prediction in nats, (n, T - 1) float32: column i is of token i + 1.

    Raises UserError: logits that are not finite.
    """

    def entropy(logits: torch.Tensor, _: torch.Tensor) -> Iterable[torch.Tensor]:
        columns = []
        for at in range(logits.shape[1]):
            logprobs = logits[:, at].float().log_softmax(dim=1)
            shares = logprobs.exp()
            columns.append(-(shares * logprobs.clamp_(min=_NEVER)).sum(dim=1))
        return (torch.stack(columns, dim=1),)

    (found,) = of_logits(lm, tokens, entropy, batch_size)
    return found


def hidden_states(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    *,
    batch_size: int,
    layers: Sequence[int] | None = None,
    positions: slice = slice(None),
    attention_mask: npt.ArrayLike | None = None,
) -> Iterator[npt.NDArray[np.float32]]:
    """Give teacher-forced hidden states, batches (batch, layers, positions, width) in row order.

    Float32, of sequences (n, T). States are numbered 0 to `n_layers`; None gives the last. A
    position's state has read its token and predicts the next; the BOS token is no position.
    `attention_mask` is that of a padded table, (n, T): a row's states are those it has alone,
    and 0 where it is padded. Raises UserError: tokens or a mask that do not fit, or a state
    that the model does not have. NoRoomError: not even one sequence fits into memory.
    """
    wanted = [lm.n_layers] if layers is None else [check_state(lm, one) for one in layers]
    inner = [layer for layer in wanted if layer < lm.n_layers]

    def step(batch: torch.Tensor, span: RowSpan) -> _States:
        with torch.inference_mode(), collected_states(lm, inner) as found:
            every = {lm.n_layers: _read(lm, batch), **found}
        whole = (every[one][:, len(lm.before) :] for one in wanted)
        placed = (nn.functional.pad(one, (0, 0, *span.padding)) for one in whole)
        states = [one[:, positions].float().cpu() for one in placed]
        return _States(torch.stack(states, dim=1).numpy())

    found = run_sequences(lm, tokens, batch_size, step, attention_mask=attention_mask)
    return (batch.states for batch in found)


@contextmanager
def collected_states(lm: LanguageModel, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Collect what enters layers (from 0) in the latest forward: (batch, before + T, width)."""
    found: dict[int, torch.Tensor] = {}
    modules = decoder_layers(lm)

    def keep(layer: int, state: torch.Tensor) -> torch.Tensor:
        found[layer] = state
        return state

    with entering({modules[layer]: partial(keep, layer) for layer in layers}):
        yield found


@contextmanager
def entering(hooks: dict[nn.Module, _OnState]) -> Iterator[None]:
    """Pass the hidden state entering each layer through its function, inside this block."""
    with ExitStack() as stack:
        for module, function in hooks.items():
            hook = partial(_entered, function)
            stack.enter_context(module.register_forward_pre_hook(hook, with_kwargs=True))
        yield


def _entered(function: _OnState, _module: nn.Module, args: Any, kwargs: Any) -> Any:
    """A layer's pre-hook: families give the state as the first argument, or by its name."""
    if args:
        return (function(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": function(kwargs["hidden_states"])}


def decoder_layers(lm: LanguageModel) -> list[nn.Module]:
    """Find a model's layers in order, whatever its family calls them, or UserError."""
    attention = set(attention_modules(lm.model))
    for module in lm.model.modules():
        is_list = isinstance(module, nn.ModuleList) and len(module) == lm.n_layers
        if is_list and all(attention & set(layer.modules()) for layer in module.children()):
            return list(module.children())
    raise UserError(f"{lm.name}: no list of its {lm.n_layers} layers to be found in it.")


def matched_layers(student: int, teacher: int, rule: Match) -> list[tuple[int, int]]:
    """Pairs of layers, from 0, that are compared where models differ in depth.

    `even`: every layer of the student with the one that ends the same share of the teacher;
    `last`: the last with the last, which LLAVADI finds to matter most (arXiv 2407.19409).

    >>> matched_layers(2, 4, "even")
    [(0, 1), (1, 3)]
    """
    if rule == "last":
        return [(student - 1, teacher - 1)]
    return [(own, max((own + 1) * teacher // student, 1) - 1) for own in range(student)]


def check_state(lm: LanguageModel, layer: int, *, last: bool = True) -> int:
    """Refuse a state that a model does not have; `last`: whether state `n_layers` is one."""
    n = lm.n_layers + 1 if last else lm.n_layers
    if not 0 <= layer < n:
        raise UserError(f"{lm.name}: no hidden state {layer}; it has 0 to {n - 1}.")
    return layer


def neuron_activations(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Activations of all neurons at each sequence's last token, of sequences (n, T).

    Float32 (batch, layers, neurons), in row order. Hooks are removed after every batch, also after
    an error. Raises UserError: tokens that do not fit the model, or layers without exactly one
    MLP (experts). NoRoomError: not even one sequence fits into memory.
    """
    matrices = output_matrices(lm)

    def step(batch: torch.Tensor) -> npt.NDArray[np.float32]:
        with torch.inference_mode(), _last_inputs(matrices, len(batch)) as found:
            _read(lm, batch)
            return torch.stack([found[matrix] for matrix in matrices], dim=1).numpy()

    return run_batches(lm, check_tokens(lm, tokens), batch_size, step)


def _read(lm: LanguageModel, batch: torch.Tensor) -> torch.Tensor:
    """One forward without the head; the last hidden state, (batch, before + T, width)."""
    no_cache = {"use_cache": False} if hasattr(lm.model.config, "use_cache") else {}
    ids = prepend_bos(lm, batch)
    return lm.model.base_model(input_ids=ids, **no_cache).last_hidden_state  # type: ignore[no-any-return]


def output_matrices(lm: LanguageModel) -> list[nn.Module]:
    """Find the matrix that reads each layer's neurons, in order; UserError for none or several."""
    matrices = []
    for number, layer in enumerate(decoder_layers(lm)):
        of_attention = {inner for module in attention_modules(layer) for inner in module.modules()}
        found = [
            module
            for name, module in layer.named_modules()
            if name.rsplit(".", 1)[-1] in _NAMES and module not in of_attention
        ]
        if len(found) != 1:
            raise UserError(
                f"{lm.name}: layer {number} has {len(found)} MLP output matrices where one is "
                "looked for, so its neurons cannot be read. Choose a model without experts."
            )
        matrices += found
    return matrices


@contextmanager
def _last_inputs(matrices: list[nn.Module], n_rows: int) -> Iterator[dict[nn.Module, torch.Tensor]]:
    """Collect what each matrix reads at the last token, (rows, neurons) float32 on the CPU."""
    found: dict[nn.Module, torch.Tensor] = {}

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        read = args[0]  # some families lay all tokens of a batch in one row
        last = read.reshape(n_rows, -1, read.shape[-1])[:, -1]
        found[module] = last.float().cpu().clone()

    with ExitStack() as stack:
        for matrix in matrices:
            stack.enter_context(matrix.register_forward_pre_hook(keep))
        yield found
