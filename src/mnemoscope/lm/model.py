"""A causal language model ready for use, with what the other rooms must know of it.

Tables of tokens are read in batches. A padded row is read without its padding, beside rows padded
in the same way: nothing is masked, so no family's handling of masks, positions or
distances matters, and a padded sequence gives what the sequence alone gives.
"""

import gc
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mnemoscope.errors import NoRoomError, UnsupportedModelError, UserError, first_line
from mnemoscope.files import write_text
from mnemoscope.lm.hub import find_bos
from mnemoscope.lm.placement import (
    describe_device_map,
    describe_quantization,
    fingerprint_model,
    input_device,
    is_spread,
)

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
LOGIT_BYTES = 256 << 20
"""Most bytes of logits at once: with a vocabulary of 262,144 a row of 32 places takes 34 MB."""

# What configurations call the number of positions; families without (ALiBi) have no limit.
_POSITION_KEYS = ("max_position_embeddings", "max_seq_len")

# What models call the argument for a key-value cache.
CACHE_NAMES = ("cache", "past_key_values")

# How allocators other than CUDA's say that memory is out; they raise a plain RuntimeError.
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")

HALVED = "batch_size_halved_to"
"""What the manifest of a stage and the record of a part call the smallest batch size."""

_halved: ContextVar[Callable[[int], None] | None] = ContextVar("halved", default=None)


@contextmanager
def rerouted(
    lm: "LanguageModel",
    name: str,
    function: Callable[..., Any],
    *,
    claim: AbstractContextManager[None],
    hooks: AbstractContextManager[None],
) -> Iterator[None]:
    """Run a model without dropout and with our attention; restored afterwards.

    `name` must not contain "sdpa", "flash", "flex_attention" or a slash: transformers reads names.
    `claim` is entered on route `interface`, `hooks` on route `hooks`. Raises UserError: the model
    keeps its own attention.
    """
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(lm.model))
        if lm.attention_route == "interface":
            from transformers import AttentionInterface, AttentionMaskInterface
            from transformers.masking_utils import eager_mask

            AttentionInterface.register(name, function)
            # Without it transformers passes no mask and every token sees the later ones.
            AttentionMaskInterface.register(name, eager_mask)
            stack.enter_context(implementation(lm, name))
            stack.enter_context(claim)
        else:
            stack.enter_context(implementation(lm, "eager"))
            stack.enter_context(hooks)
        yield


def attention_route(model: "PreTrainedModel") -> str:
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
    raise UnsupportedModelError(
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
    """Register every module of a model for this block; RuntimeError where it has an owner."""
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
def evaluation_mode(model: nn.Module) -> Iterator[None]:
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
    from transformers import PreTrainedModel

    configs = {
        id(module.config): module.config
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
    }
    return [(config, config._attn_implementation) for config in configs.values()]


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model in evaluation mode.

    Attributes:
        model: the `PreTrainedModel` with its language-modelling head.
        tokenizer: None only for a model wrapped in memory.
        name, revision: as it was asked for; None without a revision of the hub.
        dtype: of the weights: ``float32``, ``float16`` or ``bfloat16``.
        device: as torch spells it; for a model on several devices where its token ids go.
        n_layers, n_heads: layers, each with one attention map, and query heads of each.
        vocab_size: rows of the input embedding; token ids are below it.
        max_positions: None where there is no limit.
        bos_id: token prepended to every sequence, or None.
        fingerprint: SHA-256 of weights and configuration (see `fingerprint_model`).
        attention_route: ``interface`` or ``hooks``, how attention is captured.
        device_map: modules on each device, None where one device holds all.
        quantization: how the weights in memory are quantized, or None.
        chat: tokens before every sequence in place of `bos_id`, see `in_chat`; empty in plain text.
    """

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str
    revision: str | None
    dtype: str
    device: str
    n_layers: int
    n_heads: int
    vocab_size: int
    max_positions: int | None
    bos_id: int | None
    fingerprint: str
    attention_route: str
    device_map: str | None = None
    quantization: str | None = None
    chat: tuple[int, ...] = ()

    @property
    def basis(self) -> dict[str, object]:
        """What of the model decides its numbers, for the key of what is kept of it."""
        return {name: getattr(self, name) for name in ("fingerprint", "dtype", "device", "bos_id")}

    @property
    def before(self) -> tuple[int, ...]:
        """Tokens that stand before every sequence and are none of its own."""
        return self.chat or (() if self.bos_id is None else (self.bos_id,))


def wrap_model(
    model: Any,
    tokenizer: Any = None,
    *,
    name: str = "in memory",
    revision: str | None = None,
    bos: str = "auto",
    fingerprint: str | None = None,
) -> LanguageModel:
    """Describe a causal `PreTrainedModel` already in memory, without copying its weights.

    Sets it to evaluation mode. A given `fingerprint` saves the pass over the weights. Raises
    UserError: a model without attention, or `bos` that the tokenizer cannot follow.
    """
    text = model.config.get_text_config()
    if not getattr(text, "num_attention_heads", None):
        raise UserError(f"{name}: model type '{text.model_type}' has no attention to look at.")
    devices = sorted({str(one.device) for one in model.parameters()})
    if len(devices) > 1 and not is_spread(model):
        raise UserError(
            f"{name}: spread over several devices ({', '.join(devices)}) by something other than "
            "a device_map of transformers. Load it with one (model.device_map), or on one device."
        )
    weights = next(model.parameters())
    inside = model.get_input_embeddings().modules()  # an adapter wraps the table
    return LanguageModel(
        model=model.eval(),
        tokenizer=tokenizer,
        name=name,
        revision=revision,
        dtype=str(weights.dtype).removeprefix("torch."),
        device=str(input_device(model)),
        n_layers=int(text.num_hidden_layers),
        n_heads=int(text.num_attention_heads),
        vocab_size=int(
            next(one.num_embeddings for one in inside if hasattr(one, "num_embeddings"))
        ),
        max_positions=next(
            (n for key in _POSITION_KEYS if (n := getattr(text, key, None)) and n > 0), None
        ),
        bos_id=find_bos(tokenizer, bos),
        fingerprint=fingerprint_model(model) if fingerprint is None else fingerprint,
        attention_route=attention_route(model),
        device_map=describe_device_map(model),
        quantization=describe_quantization(model),
    )


def check_fits(lm: LanguageModel, length: int) -> None:
    """Raise a `UserError` if `length` tokens and what is put before them exceed the positions."""
    n_before = len(lm.before)
    if lm.max_positions is not None and length + n_before > lm.max_positions:
        words = "one for the prepended token" if n_before == 1 else f"{n_before} before them"
        with_bos = f" and {words}" if n_before else ""
        raise UserError(
            f"{lm.name}: has {lm.max_positions} positions, sequences of {length} tokens need "
            f"{length}{with_bos}. Choose a model with more, or shorter sequences."
        )


def check_tokens(
    lm: LanguageModel, tokens: npt.ArrayLike, *, prefix: int | None = None
) -> torch.Tensor:
    """Check a table of tokens (n, T) against a model; return it as int64 on the CPU.

    Raises UserError: not two axes, not integers, an id outside the vocabulary, T above the model's
    positions, or `prefix` outside (0, T).
    """
    table = np.asarray(tokens)
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise UserError(f"tokens: axes {table.shape} of {table.dtype}, wanted (n, T) of integers.")
    if prefix is not None and not 0 < prefix < table.shape[1]:
        raise UserError(f"prefix {prefix}: sequences of {table.shape[1]} tokens leave no suffix.")
    if table.size and (table.min() < 0 or table.max() >= lm.vocab_size):
        row, column = np.argwhere((table < 0) | (table >= lm.vocab_size))[0]
        raise UserError(
            f"tokens, row {row}: id {table[row, column]} is outside the vocabulary of {lm.name} "
            f"(0 to {lm.vocab_size - 1}). Were they made with another tokenizer?"
        )
    check_fits(lm, table.shape[1])
    return torch.from_numpy(table.astype(np.int64))


@contextmanager
def recording_batch_size(counts: dict[str, Any], file: Path | None = None) -> Iterator[None]:
    """Record the smallest batch size that memory forced, also on error; `file` survives a kill."""
    sizes = [] if file is None else read_halved(file)

    def note(size: int) -> None:
        sizes.append(size)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, f"{min(sizes)}\n")

    token = _halved.set(note)
    try:
        yield
    finally:
        _halved.reset(token)
        if sizes:
            counts[HALVED] = min(sizes)


def read_halved(file: Path) -> list[int]:
    """The size that `recording_batch_size` left in a file; none where all went well."""
    with suppress(OSError, ValueError):
        return [int(file.read_text(encoding="utf-8"))]
    return []


def note_halved(size: int) -> None:
    """Tell the block of `recording_batch_size` that runs now, if any, of a smaller batch size."""
    if (note := _halved.get()) is not None:
        note(size)


def run_batches(
    lm: LanguageModel,
    tokens: torch.Tensor,
    batch_size: int,
    step: Callable[[torch.Tensor], _Result],
    *,
    places: int = 1,
) -> Iterator[_Result]:
    """Apply `step` to batches (batch, T) int64 on the model's device; yield its results in order.

    `places` of each row have logits that the step holds at once. With a large vocabulary fewer rows
    go together, so that these logits take at most `LOGIT_BYTES`.

    When memory runs out the batch size is halved for good, with a log message, and the same rows
    are done again. Raises NoRoomError: not even one row fits. UserError: `batch_size` below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: must be at least 1.")
    start, batch_size = 0, min(batch_size, within_logits(lm, places))
    while start < len(tokens):
        batch = tokens[start : start + batch_size]
        result = _try(step, batch, lm.device)
        if result is not None:
            start += len(batch)
            yield result[0]
            continue
        batch_size = len(batch) // 2
        if batch_size == 0:
            raise NoRoomError(
                f"{lm.name}: one sequence alone does not fit into the memory of {lm.device}. "
                "Use --dtype bfloat16, another device or a smaller model."
            )
        _log.warning("out of memory on %s: going on with batch size %d", lm.device, batch_size)
        note_halved(batch_size)
        if lm.device.startswith("cuda"):
            gc.collect()
            torch.cuda.empty_cache()


def within_logits(lm: LanguageModel, each: int = 1) -> int:
    """Rows of so many places each, or places in so many rows, with at most `LOGIT_BYTES` of logits.

    Logits are float32; at least 1.
    """
    return max(1, LOGIT_BYTES // (4 * each * lm.vocab_size))


def _try(
    step: Callable[[torch.Tensor], _Result], batch: torch.Tensor, device: str
) -> tuple[_Result] | None:
    """Run the step; None when memory ran out. The error and its frames die here, with tensors."""
    try:
        return (step(batch.to(device)),)
    except (RuntimeError, MemoryError) as error:
        is_out = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if is_out or any(words in str(error).lower() for words in _NO_MEMORY):
            return None
        raise


@cache
def find_argument(module_class: Any, *names: str) -> str | None:
    """Which of these names a class of modules has for an argument of its forward, if any."""
    known = inspect.signature(module_class.forward).parameters
    return next((name for name in names if name in known), None)


def new_cache(
    lm: LanguageModel, n_tokens: int = 0, *, by_token: bool = False
) -> "DynamicCache | None":
    """Make an empty key-value cache, or None for a family that has none.

    Its plain layers have room for `n_tokens` and those put before them, more may still come; layers
    of other kinds (sliding windows) are transformers' own. Hybrid families keep states from which
    no rows can be taken, and some of them do not read several tokens on top of these: they have a
    cache only if all rows stay and go on token by token (`by_token`).
    """
    if not find_argument(lm.model.__class__, *CACHE_NAMES):
        return None
    from transformers.cache_utils import DynamicCache, DynamicLayer

    from mnemoscope.lm.cache import PreallocatedLayer

    cache, n_tokens = DynamicCache(config=lm.model.config), n_tokens + len(lm.before)
    if not (by_token or all(map(_holds_keys_alone, cache.layers))):
        return None
    cache.layers = [
        PreallocatedLayer(n_tokens) if type(layer) is DynamicLayer else layer
        for layer in cache.layers
    ]
    return cache


def _holds_keys_alone(layer: Any) -> bool:
    """Whether a cache's layer has nothing but keys and values: no state of a convolution or SSM."""
    is_of_family = type(layer).__module__ != "transformers.cache_utils"
    return not (is_of_family or hasattr(layer, "conv_states"))


def with_rows(lm: LanguageModel, cache: "DynamicCache", rows: torch.Tensor) -> "DynamicCache":
    """A cache of these rows alone, (n,) int64; the given one stays as it is."""
    found = copy(cache)
    found.layers = [copy(layer) for layer in cache.layers]
    # On several devices each layer's cache is its own; indices on the CPU fit all.
    found.batch_select_indices(rows if lm.device_map is None else rows.cpu())
    return found


def reorder_rows(cache: Any, rows: torch.Tensor, *, shared: int) -> None:
    """Put rows in another order, each in place of one that agrees in the first `shared` tokens.

    Where as many rows stay, only what follows those tokens is copied.
    """
    from mnemoscope.lm.cache import PreallocatedLayer

    for layer in cache.layers:
        if isinstance(layer, PreallocatedLayer) and len(layer.keys) == len(rows):
            for states in (layer.keys, layer.values):
                states[:, :, shared:] = states[:, :, shared:].index_select(0, rows)
        else:
            layer.batch_select_indices(rows)


def last_logits(
    lm: LanguageModel,
    input_ids: torch.Tensor,
    n_last: int,
    cache: "DynamicCache | None" = None,
    *,
    output_attentions: bool = False,
    shown: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run one forward; give the logits of the last positions, (batch, n_last, vocabulary).

    Input ids are (batch, length) int64 without padding; `cache` is extended in place. `shown`,
    int64 (batch, all tokens so far), is 0 for tokens that are hidden and take no position, as
    `generate` of transformers 4.46 has it of an attention mask.
    `output_attentions` has the family's eager code give its weights, for hooks to take.
    """
    arguments: dict[str, Any] = {"output_attentions": True} if output_attentions else {}
    if name := find_argument(lm.model.__class__, *CACHE_NAMES):
        arguments |= {"use_cache": False} if cache is None else {"use_cache": True, name: cache}
    # The head is the largest matrix of a small model; most positions' logits are not needed.
    if name := find_argument(lm.model.__class__, "logits_to_keep", "num_logits_to_keep"):
        arguments[name] = n_last
    if shown is not None:
        arguments["attention_mask"] = shown
        if find_argument(lm.model.__class__, "position_ids"):
            places = (shown.cumsum(-1) - 1).masked_fill(shown == 0, 1)
            arguments["position_ids"] = places[:, -input_ids.shape[1] :]
    logits: torch.Tensor = lm.model(input_ids=input_ids, **arguments).logits
    return logits[:, -n_last:]


def best_two(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Argmax (...,) int64, first index on ties, and its float32 lead over the second best logit.

    The lead is NaN where the best is not finite. Logits (..., vocabulary) are written to and put
    back, so nobody else may read them meanwhile.
    """
    logits = logits.float()
    best = logits.argmax(dim=-1, keepdim=True)
    largest = logits.gather(-1, best)
    # The maximum of what is left is several times as fast as `topk`, and needs no copy.
    logits.scatter_(-1, best, -torch.inf)
    gap = largest.squeeze(-1) - logits.amax(dim=-1)
    logits.scatter_(-1, best, largest)
    return best.squeeze(-1), gap.masked_fill(~largest.squeeze(-1).isfinite(), torch.nan)


def brought(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Tensors on the processor; from CUDA all of them with one wait, to pinned memory."""
    found = tuple(one.to("cpu", non_blocking=one.device.type == "cuda") for one in tensors)
    for device in {one.device for one in tensors if one.device.type == "cuda"}:
        torch.cuda.current_stream(device).synchronize()
    return found


def check_finite(lm: LanguageModel, gap: torch.Tensor) -> None:
    """Refuse gaps from logits that were not finite; `gap` as `best_two` gives it."""
    if bool(gap.isnan().any()):
        raise UserError(
            f"{lm.name}: non-finite logits in {lm.dtype} on {lm.device}. "
            "Use --dtype float32, or check that the weights are whole."
        )


def prepend_bos(lm: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    """Put before (batch, length) what the model is to read first: a token, a chat, or nothing."""
    if not lm.before:
        return tokens
    before = tokens.new_tensor(lm.before).expand(len(tokens), -1)
    return torch.cat([before, tokens], dim=1)


def in_chat(lm: LanguageModel, instruction: str) -> LanguageModel:
    """The same model in a chat: the template's tokens replace `bos_id`; UserError without one."""
    if not getattr(lm.tokenizer, "chat_template", None):
        raise UserError(f"{lm.name}: its tokenizer has no chat template. Leave --chat-template.")
    try:
        text = lm.tokenizer.apply_chat_template(
            [{"role": "user", "content": instruction}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # jinja2's and whatever a template raises itself
        reason = first_line(error)
        raise UserError(
            f"{lm.name}: its chat template cannot be filled in ({reason}). Mend the template, or "
            "leave out what asks in it (--chat-template, --ordinary)."
        ) from error
    return replace(lm, chat=tuple(lm.tokenizer(text, add_special_tokens=False).input_ids))


# Rows among which those padded alike are read together; results wait for the last of them.
_WINDOW = 256

_Rows = TypeVar("_Rows", bound=tuple[Any, ...])


class RowSpan(NamedTuple):
    """First column of a row's tokens, the column after the last, and how many there are."""

    first: int
    end: int
    length: int

    @property
    def padding(self) -> tuple[int, int]:
        """Padded columns before and after the tokens."""
        return self.first, self.length - self.end


class PaddedTable(NamedTuple):
    """Tokens (n, T), int64, 0 where padded; first column and the one after the last, (n, 2)."""

    tokens: torch.Tensor
    spans: npt.NDArray[np.int64]


def check_padded(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    attention_mask: npt.ArrayLike,
    *,
    prefix: int | None = None,
) -> PaddedTable:
    """Check a padded table against a model; return it on the CPU.

    Arguments as `run_sequences`; any integer may stand where padded. Raises UserError: as
    `check_tokens`; a mask of another shape or with other values; a row without tokens, with a hole
    between them, or with none before or after `prefix`.
    """
    given = np.asarray(attention_mask)
    if given.shape != np.shape(tokens):
        raise UserError(f"attention_mask: shape {given.shape}, the tokens have {np.shape(tokens)}.")
    if not np.isin(given, (0, 1)).all():
        raise UserError("attention_mask: values other than 1 (a token) and 0 (padding).")
    mask = given.astype(bool)
    table = check_tokens(lm, np.where(mask, np.asarray(tokens), 0), prefix=prefix)
    first, n_tokens = mask.argmax(axis=1), mask.sum(axis=1)
    end = mask.shape[1] - mask[:, ::-1].argmax(axis=1)
    _refuse_rows(n_tokens == 0, "no token at all, only padding. Drop the row.")
    _refuse_rows(end - first != n_tokens, "padding between its tokens. Pad on the sides only.")
    if prefix is not None:
        _refuse_rows(
            (first >= prefix) | (end <= prefix),
            f"no token before or none from column {prefix} on, where its suffix begins. "
            "Drop the row, or set another prefix.",
        )
    return PaddedTable(table, np.stack([first, end], axis=1))


def run_sequences(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    batch_size: int,
    step: Callable[[torch.Tensor, RowSpan], _Rows],
    *,
    attention_mask: npt.ArrayLike | None,
    prefix: int | None = None,
) -> Iterator[_Rows]:
    """Check a table (n, T) at once, then apply `step` to its batches; yield results in its order.

    `step` gets (batch, length) int64 on the model's device and the rows' span, and gives a named
    tuple of columns with one row a sequence, or None. `attention_mask`, None for whole rows, is 1
    for a token, 0 for padding on either side; each row needs a token on either side of `prefix`.
    Batches of a padded table fill up where many of 256 successive rows are padded alike (sort it by
    length). Errors as `check_tokens`, `check_padded` and `run_batches`.
    """
    if attention_mask is not None:
        padded = check_padded(lm, tokens, attention_mask, prefix=prefix)
        return _run_padded(lm, padded, batch_size, step)
    table = check_tokens(lm, tokens, prefix=prefix)
    whole = RowSpan(0, table.shape[1], table.shape[1])
    return run_batches(lm, table, batch_size, lambda batch: step(batch, whole))


def _run_padded(
    lm: LanguageModel,
    table: PaddedTable,
    batch_size: int,
    step: Callable[[torch.Tensor, RowSpan], _Rows],
) -> Iterator[_Rows]:
    window = max(1, _WINDOW // max(1, batch_size)) * max(1, batch_size)
    for start in range(0, len(table.tokens), window):
        rows = slice(start, start + window)
        tokens, spans = table.tokens[rows], table.spans[rows]
        order = np.lexsort((spans[:, 1], spans[:, 0]))
        changes = np.flatnonzero(np.diff(spans[order], axis=0).any(axis=1)) + 1
        done: list[_Rows] = []
        for begin, stop in pairwise([0, *changes.tolist(), len(order)]):
            group = order[begin:stop]
            first, end = spans[group[0]].tolist()
            span = RowSpan(first, end, tokens.shape[1])
            alike = tokens[torch.from_numpy(group), first:end]
            done += run_batches(lm, alike, batch_size, lambda batch, span=span: step(batch, span))  # type: ignore[misc]
        yield _joined(done, np.argsort(order))


def _joined(parts: list[_Rows], order: npt.NDArray[np.int64]) -> _Rows:
    """Join named tuples field by field and put their rows in order."""
    fields: list[Any] = []
    for columns in zip(*parts, strict=True):
        if columns[0] is None:
            fields.append(None)
        elif isinstance(columns[0], torch.Tensor):
            fields.append(torch.cat(columns)[torch.from_numpy(order)])
        else:
            fields.append(np.concatenate(columns)[order])
    return type(parts[0])(*fields)


def _refuse_rows(is_bad: npt.NDArray[np.bool_], what: str) -> None:
    if is_bad.any():
        raise UserError(f"tokens, row {int(is_bad.argmax())}: {what}")
