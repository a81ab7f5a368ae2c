"""Masked language models (BERT, RoBERTa): load one, judge every token behind a mask, teach a copy.

One is a `LanguageModel` whose `model` is one of transformers' classes `...ForMaskedLM`, and whose
tokenizer alone puts anything before or after a text.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.errors import UserError
from mnemoscope.lm.fine_tuning import FineTuning
from mnemoscope.lm.load import Family
from mnemoscope.lm.model import LanguageModel, brought, evaluation_mode, wrap_model
from mnemoscope.lm.probe import TeacherForced

_HOW = "Give one of transformers (AutoModelForMaskedLM: BERT, RoBERTa)."


def load_masked(
    name: str | Path, *, revision: str | None = None, device: str = "auto"
) -> LanguageModel:
    """Load a masked language model and its tokenizer from a folder or the hub, in float32.

    Raises UserError: not there, weights missing, or as `as_masked`; DamagedDataError: the weights
    cannot be read.
    """
    read = _FAMILY.read(name, revision=revision, device=device)
    return as_masked(read.model, read.tokenizer, name=str(name))


def as_masked(model: Any, tokenizer: Any, *, name: str = "in memory") -> LanguageModel:
    """Describe a loaded masked language model. Raises UserError: another kind, or no mask token."""
    _FAMILY.refuse_other(model, name)
    if tokenizer.mask_token_id is None:
        raise UserError(f"{name}: its tokenizer has no mask token, so nothing can be masked.")
    return wrap_model(model, tokenizer, name=name, bos="never", fingerprint="")


def _check_config(name: str, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as KNOWN

    if config.is_encoder_decoder or config.model_type not in KNOWN:
        raise UserError(
            f"{name}: model type '{config.model_type}' is no encoder that fills masks. {_HOW}"
        )


_FAMILY = Family("AutoModelForMaskedLM", "masked language model", _HOW, _check_config)


def judge_masked(
    lm: LanguageModel,
    tokens: npt.NDArray[np.int64],
    mask: npt.NDArray[np.int64],
    text: npt.NDArray[np.bool_],
    *,
    n_sets: int,
    batch_size: int,
    seed: int,
) -> TeacherForced:
    """Judge every token of texts (n, T) while it is masked, with one in `n_sets` of the others.

    `mask` is 1 for tokens, 0 for padding; `text` marks what is masked in its turn and judged. The
    tokens of a text are drawn into `n_sets` sets by the seed, each masked in one forward. Gives
    `is_right` and `logprobs`, (n, T), which say nothing (False, 0) outside `text`.
    """
    is_right, logprobs = np.zeros(text.shape, bool), np.zeros(text.shape, np.float32)
    turns = _turns(text, n_sets, np.random.default_rng(seed))
    with torch.inference_mode(), evaluation_mode(lm.model):
        for start in range(0, len(tokens), batch_size):
            rows = slice(start, start + batch_size)
            for turn in range(n_sets):
                hidden = turns[rows] == turn
                logits = _logits(lm, tokens[rows], mask[rows], hidden)
                wanted = torch.from_numpy(tokens[rows]).to(lm.device)
                own = logits.log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
                best, chosen = brought(logits.argmax(-1) == wanted, own)
                is_right[rows] |= best.numpy() & hidden
                logprobs[rows] += np.where(hidden, chosen.numpy(), 0)
    return TeacherForced(is_right, logprobs)


def train_masked(
    tuning: FineTuning,
    tokens: npt.NDArray[np.int64],
    mask: npt.NDArray[np.int64],
    text: npt.NDArray[np.bool_],
    *,
    n_sets: int,
    seed: int,
) -> float:
    """Make one step on a batch (n, T) of which one token in `n_sets` is masked; give its loss.

    What is masked is drawn anew at each step, by the seed and the step's number. Every one is the
    mask token (the original recipe of BERT leaves a tenth and draws a tenth). Arguments as
    `judge_masked`, errors as `FineTuning.step_on`.
    """
    generator = np.random.default_rng([seed, tuning.step])
    hidden = _turns(text, n_sets, generator) == 0
    wanted = torch.from_numpy(np.where(hidden, tokens, -100)).to(tuning.lm.device)
    return tuning.step_on(
        lambda: torch.nn.functional.cross_entropy(
            _logits(tuning.lm, tokens, mask, hidden).flatten(0, 1), wanted.flatten()
        )
    )


def _turns(
    text: npt.NDArray[np.bool_], n_sets: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """The set of every token of a text, drawn so that sizes differ by at most one; −1 elsewhere."""
    order = np.where(text, generator.random(text.shape), np.inf).argsort(axis=1).argsort(axis=1)
    return np.where(text, order % n_sets, -1)


def _logits(
    lm: LanguageModel,
    tokens: npt.NDArray[np.int64],
    mask: npt.NDArray[np.int64],
    hidden: npt.NDArray[np.bool_],
) -> torch.Tensor:
    given = np.where(hidden, lm.tokenizer.mask_token_id, tokens)
    batch, marks = (torch.from_numpy(one).to(lm.device) for one in (given, mask))
    return lm.model(input_ids=batch, attention_mask=marks).logits.float()  # type: ignore[no-any-return]
