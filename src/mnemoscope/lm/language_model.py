"""A causal language model ready for use, with what the other rooms must know of it."""

from dataclasses import dataclass, field
from typing import Any

from mnemoscope.errors import UserError
from mnemoscope.lm.backend import attention_route
from mnemoscope.lm.bos import find_bos
from mnemoscope.lm.fingerprint import fingerprint_model
from mnemoscope.lm.placement import (
    describe_device_map,
    describe_quantization,
    input_device,
    is_spread,
)

__all__ = ["LanguageModel", "check_fits", "wrap_model"]

# What configurations call the number of positions; families without (ALiBi) have no limit.
_POSITION_KEYS = ("max_position_embeddings", "max_seq_len")


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model in evaluation mode.

    Attributes:
        model: the `PreTrainedModel` with its language-modelling head.
        tokenizer: its tokenizer (None only for a model wrapped in memory).
        name: the name or path it was asked for by.
        revision: the hub revision asked for, or None.
        dtype: ``float32``, ``float16``, ``bfloat16``: the dtype of the weights.
        device: where it is, as torch spells it (``cpu``, ``cuda:0``, ``mps``); of a model on
            several devices where its token ids go.
        n_layers: number of layers, each with one attention map.
        n_heads: query heads a layer.
        vocab_size: rows of the input embedding; token ids are below it.
        max_positions: how many positions it has, None where there is no limit.
        bos_id: token prepended to every sequence, or None.
        fingerprint: SHA-256 of weights and configuration (see `fingerprint_model`).
        attention_route: ``interface`` or ``hooks``, how attention is captured.
        device_map: how many modules are on which device, None where one holds all.
        quantization: how the weights in memory are quantized, or None.
        chat: tokens of a chat's beginning (see `mnemoscope.lm.chat`) that stand before every
            sequence in place of `bos_id`; none in plain text.
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
    """Describe a model that is already in memory, and set it to evaluation mode.

    Args:
        model: a causal `PreTrainedModel`, on its device and in its dtype.
        tokenizer: its tokenizer, or None.
        name: what messages and records call it.
        revision: recorded as it is.
        bos: ``auto``, ``always`` or ``never``, see `mnemoscope.lm.bos`.
        fingerprint: what to record in place of the weights' own, which costs a pass over them.

    Returns:
        The model with its figures; the weights are not copied.

    Raises:
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
    return LanguageModel(
        model=model.eval(),
        tokenizer=tokenizer,
        name=name,
        revision=revision,
        dtype=str(weights.dtype).removeprefix("torch."),
        device=str(input_device(model)),
        n_layers=int(text.num_hidden_layers),
        n_heads=int(text.num_attention_heads),
        vocab_size=int(model.get_input_embeddings().num_embeddings),
        max_positions=_max_positions(text),
        bos_id=find_bos(tokenizer, bos),
        fingerprint=fingerprint_model(model) if fingerprint is None else fingerprint,
        attention_route=attention_route(model),
        device_map=describe_device_map(model),
        quantization=describe_quantization(model),
    )


def check_fits(lm: LanguageModel, length: int) -> None:
    """Refuse sequences longer than the model's positions.

    Args:
        lm: the model.
        length: tokens of a sequence, without those that are prepended.

    Raises:
        UserError: `length` and what is prepended exceed `max_positions`.
    """
    n_before = len(lm.before)
    if lm.max_positions is not None and length + n_before > lm.max_positions:
        words = "one for the prepended token" if n_before == 1 else f"{n_before} before them"
        with_bos = f" and {words}" if n_before else ""
        raise UserError(
            f"{lm.name}: has {lm.max_positions} positions, sequences of {length} tokens need "
            f"{length}{with_bos}. Choose a model with more, or shorter sequences."
        )


def _max_positions(config: Any) -> int | None:
    for key in _POSITION_KEYS:
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return None
