"""Models that answer prompts about pictures (LLaVA, Idefics3, SmolVLM): load, judge, let answer.

One is a `LanguageModel` with the processor that turns a picture and a prompt into what it reads.
An answer is the tokens that follow, the end among them; all that is judged or trained is these.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.errors import UserError, a_kind, check_installed, first_line
from mnemoscope.lm.hub import find_source
from mnemoscope.lm.load import Family, loading_weights
from mnemoscope.lm.model import (
    LanguageModel,
    check_finite,
    evaluation_mode,
    run_batches,
    wrap_model,
)
from mnemoscope.lm.seq2seq import end_tokens

KINDS = ("llava", "idefics3", "smolvlm")
"""Model types that are known to read a picture where their picture tokens stand."""

_HOW = "Give a LLaVA, Idefics3 or SmolVLM of transformers (AutoModelForImageTextToText)."
_NOT_READ = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class VisionModel(LanguageModel):
    """A loaded model of pictures and prompts; `processor` is transformers' own of it."""

    processor: Any = field(default=None, repr=False)


class Pair(NamedTuple):
    """A picture (a file, or its bytes), a prompt, and the tokens of the answer with its end."""

    image: Path | bytes
    prompt: str
    answer: tuple[int, ...]


class PairScores(NamedTuple):
    """Whether a model gives each answer greedily, and nats of one of its tokens, (n,) each."""

    right: npt.NDArray[np.bool_]
    logprob: npt.NDArray[np.float64]


def load_vision(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
) -> VisionModel:
    """Load a model of pictures and prompts with its processor, from a folder or the hub.

    No code of the model's own is run. Raises UserError: not there, weights missing, a processor
    that lacks a package, or as `as_vision`; DamagedDataError: the weights cannot be read.
    """
    read = _FAMILY.read(name, revision=revision, device=device, dtype=dtype)
    source = find_source(name, revision)
    with loading_weights(source):
        from transformers import AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(source.location, **source.arguments())
        except ImportError as error:
            said = next(filter(None, str(error).splitlines()), "").rstrip(".")
            raise UserError(
                f"{name}: its processor cannot be read without a package ({said}). Install the one "
                "that is named."
            ) from error
    return as_vision(read.model, processor, name=str(name), revision=revision)


def as_vision(
    model: Any, processor: Any, *, name: str = "in memory", revision: str | None = None
) -> VisionModel:
    """Describe a loaded model of pictures and prompts.

    Raises UserError: another kind of model, a processor without pictures or text, no token that
    ends an answer, or Pillow is not installed.
    """
    check_installed(f"{name}: reading pictures needs", "PIL", extra="distill")
    _FAMILY.refuse_other(model, name)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or getattr(processor, "image_processor", None) is None:
        raise UserError(
            f"{name}: {a_kind(processor)}, no processor of pictures and text. Save the model's own "
            "beside it (processor.save_pretrained)."
        )
    lm = wrap_model(model, tokenizer, name=name, revision=revision, bos="never")
    found = VisionModel(**{one.name: getattr(lm, one.name) for one in fields(lm)},
                        processor=processor)  # fmt: skip
    if not end_tokens(found):
        raise UserError(
            f"{name}: its configuration names no eos_token_id, so no answer can end. Set the one "
            "that it was trained with in generation_config.json."
        )
    return found


def _check_config(name: str, config: Any) -> None:
    if config.model_type not in KINDS:
        raise UserError(
            f"{name}: model type '{config.model_type}' is none that reads pictures here "
            f"({', '.join(KINDS)}). {_HOW}"
        )


_FAMILY = Family(
    "AutoModelForImageTextToText", "model of pictures and prompts", _HOW, _check_config
)

# -- what is read -----------------------------------------------------------------------------


def read_picture(source: Path | bytes, where: str, mode: str = "RGB") -> Any:
    """A picture of Pillow in a colour mode; UserError: no picture, or one too large to be one."""
    from PIL import Image

    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        said = f"{where}: no picture ({first_line(error)}). Give PNG or JPEG."
        raise UserError(said) from None


def answer_tokens(lm: VisionModel, text: str) -> tuple[int, ...]:
    """The tokens of an answer, the end among them; UserError: it holds the place of a picture."""
    tokens = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    if lm.model.config.image_token_id in tokens:
        raise UserError(
            f"answer '{text[:40]}': holds {lm.processor.image_token}, the place of a picture. Take "
            "it out, or drop the row."
        )
    return (*tokens, end_tokens(lm)[0])


def answer_text(lm: VisionModel, tokens: Sequence[int]) -> str:
    """What an answer says, without special tokens."""
    return str(lm.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def encode_pairs(lm: VisionModel, pairs: Sequence[Pair]) -> dict[str, torch.Tensor]:
    """What a model reads of pictures with prompts and answers, padded on the right.

    `input_ids` and `attention_mask`, int64 (batch, tokens), whatever its processor makes of the
    pictures, and the masks `answer` and `picture`, bool (batch, tokens), of what is judged and of
    the picture's places. Raises UserError: no picture, or more tokens than the model has positions.
    """
    given = _asked(lm, pairs)
    asked = zip(given["input_ids"], given["attention_mask"].bool(), strict=True)
    prompts = [tokens[mask] for tokens, mask in asked]
    sizes = [len(one) + len(pair.answer) for one, pair in zip(prompts, pairs, strict=True)]
    if lm.max_positions is not None and max(sizes) > lm.max_positions:
        raise UserError(
            f"{lm.name}: {max(sizes)} tokens of picture, prompt and answer (prompt "
            f"'{pairs[int(np.argmax(sizes))].prompt[:40]}'), and it has {lm.max_positions} "
            "positions. Shorten the text, or drop the row."
        )
    shape = len(pairs), max(sizes)
    tokens = torch.full(shape, _padding(lm))
    is_read, answer = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
    for row, (prompt, pair) in enumerate(zip(prompts, pairs, strict=True)):
        n = sizes[row]
        tokens[row, :n] = torch.cat([prompt, torch.tensor(pair.answer)])
        is_read[row, :n] = 1
        answer[row, len(prompt) : n] = True
    picture = (tokens == lm.model.config.image_token_id) & (is_read == 1) & ~answer
    rest = {name: one for name, one in given.items() if name not in _NOT_READ}
    return {"input_ids": tokens, "attention_mask": is_read, "answer": answer, "picture": picture,
            **rest}  # fmt: skip


def check_same_reading(lm: VisionModel, other: VisionModel, pair: Pair) -> None:
    """Raise UserError if another model reads a picture and prompt as something else."""
    first, second = (encode_pairs(one, [pair]) for one in (lm, other))
    if first.keys() != second.keys() or any(
        not torch.equal(one, second[name]) for name, one in first.items()
    ):
        raise UserError(
            f"{other.name}: makes other tokens of a picture or prompt than {lm.name}, so the two "
            "cannot be compared token by token. Choose models with the same processor."
        )


def _padding(lm: VisionModel) -> int:
    return int(lm.tokenizer.pad_token_id or 0)


def _asked(lm: VisionModel, pairs: Sequence[Pair]) -> dict[str, torch.Tensor]:
    """What the processor makes of pictures and prompts, padded on the left."""
    texts = [_prompt(lm, one.prompt) for one in pairs]
    start = lm.tokenizer.bos_token
    read = lm.processor(
        images=[[read_picture(one.image, _named(one))] for one in pairs],
        text=texts,
        add_special_tokens=not (start and texts[0].startswith(start)),
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    return {name: one for name, one in read.items() if isinstance(one, torch.Tensor)}


def _named(pair: Pair) -> str:
    return "a picture of the table" if isinstance(pair.image, bytes) else str(pair.image)


def _prompt(lm: VisionModel, prompt: str) -> str:
    """A prompt about one picture: in the chat the model was trained in, else behind the picture."""
    token = lm.processor.image_token
    prompt = prompt.replace(token, "").strip()
    if not getattr(lm.processor, "chat_template", None):
        return f"{token}\n{prompt}"
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    try:
        return str(
            lm.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        )
    except Exception as error:  # jinja2's and whatever a template raises itself
        raise UserError(
            f"{lm.name}: its chat template cannot be filled in ({first_line(error)}). Mend the "
            "template, or take it out of the folder."
        ) from error


# -- what is said -----------------------------------------------------------------------------


def judge_pairs(lm: VisionModel, pairs: Sequence[Pair], *, batch_size: int) -> PairScores:
    """Judge answers token by token, each after the true ones before it.

    Raises UserError: as `encode_pairs`, or logits that are not finite; NoRoomError: not even one
    row fits.
    """

    def step(rows: torch.Tensor) -> PairScores:
        batch = encode_pairs(lm, [pairs[one] for one in rows.tolist()])
        wanted, answer = batch["input_ids"][:, 1:], batch.pop("answer")[:, 1:]
        del batch["picture"]
        given = {name: one.to(lm.device) for name, one in batch.items()}
        logits = lm.model(**given, use_cache=False).logits[:, :-1].float().cpu()
        likely = logits.log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
        check_finite(lm, torch.where(answer, likely, 0.0))
        is_right = (logits.argmax(-1) == wanted) | ~answer
        mean = torch.where(answer, likely, 0.0).double().sum(1) / answer.sum(1)
        return PairScores(is_right.all(1).numpy(), mean.numpy())

    found = _in_batches(lm, pairs, batch_size, step)
    return PairScores(*(np.concatenate(one) for one in zip(*found, strict=True)))


def write_answers(
    lm: VisionModel, pairs: Sequence[Pair], *, most: int, batch_size: int
) -> list[tuple[int, ...]]:
    """What a model answers greedily, at most so many tokens of each row, its end among them.

    The answers of the pairs are not read; no answer holds the place of a picture. Errors as
    `judge_pairs`.
    """
    from transformers import GenerationConfig

    ends = end_tokens(lm)
    # Whatever the model's own settings say of sampling and repeats does not apply.
    how = GenerationConfig(do_sample=False, num_beams=1, max_new_tokens=most, eos_token_id=ends,
                           pad_token_id=_padding(lm), repetition_penalty=1.0,
                           no_repeat_ngram_size=0,
                           suppress_tokens=[lm.model.config.image_token_id])  # fmt: skip

    def step(rows: torch.Tensor) -> list[tuple[int, ...]]:
        given = _asked(lm, [pairs[one] for one in rows.tolist()])
        n_before = given["input_ids"].shape[1]
        batch = {
            name: one.to(lm.device) for name, one in given.items() if name not in _NOT_READ[2:]
        }
        said = lm.model.generate(**batch, generation_config=how)[:, n_before:].tolist()
        return [_to_end(one, ends) for one in said]

    return [one for part in _in_batches(lm, pairs, batch_size, step) for one in part]


def _in_batches(lm: VisionModel, pairs: Sequence[Pair], batch_size: int, step: Any) -> list[Any]:
    places = encode_pairs(lm, pairs[:1])["input_ids"].shape[1]
    rows = torch.arange(len(pairs))
    with torch.inference_mode(), evaluation_mode(lm.model):
        return [*run_batches(lm, rows, batch_size, step, places=places)]


def _to_end(tokens: Sequence[int], ends: Sequence[int]) -> tuple[int, ...]:
    """Tokens up to the first that ends an answer."""
    last = next((at for at, one in enumerate(tokens) if one in ends), len(tokens))
    return tuple(tokens[: last + 1])
