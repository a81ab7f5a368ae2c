"""Encoder-decoders (T5, BART): load one, let it answer greedily, and sum up where it looks.

One is a `LanguageModel` whose `model` is one of transformers' classes for text to text, and whose
tokenizer alone puts anything before or after a text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.errors import UserError
from mnemoscope.lm.load import Family
from mnemoscope.lm.model import (
    CACHE_NAMES,
    LanguageModel,
    RowSpan,
    best_two,
    brought,
    check_finite,
    evaluation_mode,
    find_argument,
    implementation,
    run_sequences,
    wrap_model,
)

SHAPES = ("entropy", "largest weight")
"""What `concentration` gives, in order."""

_HOW = "Give one of transformers (AutoModelForSeq2SeqLM: T5, BART)."


class Answered(NamedTuple):
    """Of each text what the model answers, and the shape of its attention.

    Tokens, int64 (n, most), are 0 after the end, where the mask is 0; encoder and cross-attention
    are float64 (n, layers, 2), as `concentration`, means over heads and places.
    """

    tokens: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]
    encoder: npt.NDArray[np.float64]
    cross: npt.NDArray[np.float64]


def load_seq2seq(
    name: str | Path, *, revision: str | None = None, device: str = "auto"
) -> LanguageModel:
    """Load an encoder-decoder and its tokenizer from a folder or the hub, in float32.

    Raises UserError: not there, weights missing, or as `as_seq2seq`; DamagedDataError: the weights
    cannot be read.
    """
    read = _FAMILY.read(name, revision=revision, device=device)
    return as_seq2seq(read.model, read.tokenizer, name=str(name))


def as_seq2seq(model: Any, tokenizer: Any, *, name: str = "in memory") -> LanguageModel:
    """Describe a loaded encoder-decoder. Raises UserError: another kind of model."""
    _FAMILY.refuse_other(model, name)
    return wrap_model(model, tokenizer, name=name, bos="never", fingerprint="")


def _check_config(name: str, config: Any) -> None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as KNOWN,
    )

    if not config.is_encoder_decoder or config.model_type not in KNOWN:
        raise UserError(
            f"{name}: model type '{config.model_type}' is no encoder-decoder from text to text. "
            f"{_HOW}"
        )


_FAMILY = Family("AutoModelForSeq2SeqLM", "encoder-decoder", _HOW, _check_config)


def concentration(weights: torch.Tensor) -> torch.Tensor:
    """How concentrated rows of attention are, (..., keys) to float64 (..., 2), as `SHAPES`.

    Both are free of the number of keys k: entropy over ln k, 1 where all draw alike and 0 where one
    draws all; the largest weight as (largest − 1/k) / (1 − 1/k), which is 0 and 1 there. Of a
    single key they are 0 and 1.
    """
    rows, n_keys = weights.double(), weights.shape[-1]
    if n_keys == 1:
        return torch.tensor([0.0, 1.0], dtype=torch.float64).expand(*rows.shape[:-1], 2)
    entropy = torch.special.entr(rows).sum(-1) / np.log(n_keys)
    largest = (rows.amax(-1) - 1 / n_keys) / (1 - 1 / n_keys)
    return torch.stack([entropy, largest], dim=-1)


def answer(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    mask: npt.ArrayLike | None,
    *,
    most: int,
    batch_size: int,
) -> Answered:
    """What a model answers to texts (n, T), greedily, at most so many tokens, its end among them.

    Only texts of one length go together, so that none is padded. Nothing of the model's generation
    settings applies but where to start and what ends. Raises UserError: tokens that do not fit, no
    start, logits that are not finite. NoRoomError: not even one text fits.
    """
    start, ends = _start_and_ends(lm)
    name = find_argument(lm.model.__class__, *CACHE_NAMES) or "past_key_values"

    def step(batch: torch.Tensor, _span: RowSpan) -> Answered:
        encoded = lm.model.get_encoder()(input_ids=batch, output_attentions=True, return_dict=True)
        last, cache = batch.new_full((len(batch), 1), start), None
        is_open = torch.ones_like(last[:, 0], dtype=torch.bool)
        said, shown, crossed, gaps = [], [], [], []
        for _ in range(most):
            out = lm.model(
                encoder_outputs=encoded,
                decoder_input_ids=last,
                use_cache=True,
                **{name: cache},
                output_attentions=True,
                return_dict=True,
            )
            cache = out[name]
            best, gap = best_two(out.logits[:, -1:])
            gaps.append(gap[:, 0])
            crossed.append(_of_layers(out.cross_attentions) * is_open[:, None, None])
            said.append(torch.where(is_open, best[:, 0], 0))
            shown.append(is_open)
            is_open, last = is_open & ~torch.isin(best[:, 0], best.new_tensor(ends)), best
            if not is_open.any():  # the step's one wait
                break
        left = [torch.zeros_like(said[0])] * (most - len(said))
        written = torch.stack([*said, *left], 1)
        places = torch.stack([*(one.long() for one in shown), *left], 1)
        cross = torch.stack(crossed).sum(0) / places.sum(1)[:, None, None]
        parts = (written, places, _of_layers(encoded.attentions), cross)
        *found, gap = brought(*parts, torch.stack(gaps))
        check_finite(lm, gap)
        return Answered(*(one.numpy() for one in found))

    with torch.inference_mode(), evaluation_mode(lm.model), implementation(lm, "eager"):
        found = [*run_sequences(lm, tokens, batch_size, step, attention_mask=mask)]
    return Answered(*(np.concatenate(one) for one in zip(*found, strict=True)))


def _of_layers(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concentration by layer, (batch, layers, 2): of (batch, heads, query, key) the mean."""
    return torch.stack([concentration(one).mean((1, 2)) for one in weights], dim=1)


def end_tokens(lm: LanguageModel) -> list[int]:
    """The tokens that end an answer, the usual one first."""
    ends = _generating(lm, "eos_token_id")
    return [] if ends is None else [ends] if isinstance(ends, int) else [*ends]


def _generating(lm: LanguageModel, name: str) -> Any:
    found = getattr(lm.model.generation_config, name, None)
    return getattr(lm.model.config, name, None) if found is None else found


def _start_and_ends(lm: LanguageModel) -> tuple[int, list[int]]:
    """The token that the decoder reads first, and those that end an answer."""
    start = _generating(lm, "decoder_start_token_id")
    if start is None:
        raise UserError(
            f"{lm.name}: its configuration names no decoder_start_token_id, so no answer can "
            "begin. Set the one that it was trained with in config.json."
        )
    return int(start), end_tokens(lm)
