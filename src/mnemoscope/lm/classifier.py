"""Classifiers of texts: load one, ask it what it says and which states its head reads, fit a copy.

A classifier is a `LanguageModel` whose `model` is one of transformers' classes
`...ForSequenceClassification`, encoder or decoder, and whose tokenizer alone puts anything before a
text.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.errors import UserError, a_kind
from mnemoscope.lm.fine_tuning import FineTuning, StepSettings
from mnemoscope.lm.load import Family
from mnemoscope.lm.model import (
    LanguageModel,
    RowSpan,
    brought,
    evaluation_mode,
    run_sequences,
    wrap_model,
)
from mnemoscope.lm.probe import check_state
from mnemoscope.store import Facts

Place = Literal["first", "last", "mean"]
"""Whose state a head reads: that of the first token, of the last, or the mean of all."""

_PROBED = 6  # tokens of the text that shows what a head reads
_HOW = "Give one of transformers (AutoModelForSequenceClassification)."


class Classified(NamedTuple):
    """Of each text its logits, (n, classes) float64, and the states that the head reads.

    States are (n, layers, width) float32.
    """

    logits: npt.NDArray[np.float64]
    states: npt.NDArray[np.float32]


class Encoded(NamedTuple):
    """Tokens of texts, (n, T), 0 on the right where the mask is 0; and how many texts are cut."""

    tokens: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]
    n_cut: int


def load_classifier(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    is_fitted: bool = True,
    n_labels: int | None = None,
) -> LanguageModel:
    """Load a classifier and its tokenizer from a folder or the hub, in float32.

    One that is not `is_fitted` may lack its head, as a pretrained model does before it is
    fine-tuned: it gets one of `n_labels` classes, drawn by the seed 0. Raises UserError: not there,
    weights missing, or as `as_classifier`; DamagedDataError: the weights cannot be read.
    """
    asked: Facts = {} if is_fitted or n_labels is None else {"num_labels": n_labels}
    read = _FAMILY.read(name, revision=revision, device=device, is_fitted=is_fitted, **asked)
    return as_classifier(read.model, read.tokenizer, name=str(name))


def as_classifier(model: Any, tokenizer: Any, *, name: str = "in memory") -> LanguageModel:
    """Describe a loaded classifier. Raises UserError: another kind of model, or one of a number."""
    if "ForSequenceClassification" not in type(model).__name__:
        raise UserError(f"{name}: {a_kind(model)}, no classifier of texts. {_HOW}")
    _FAMILY.refuse_other(model, name)
    return wrap_model(model, tokenizer, name=name, bos="never", fingerprint="")


def _check_config(name: str, config: Any) -> None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN,
    )

    if config.is_encoder_decoder or config.model_type not in KNOWN:
        raise UserError(
            f"{name}: model type '{config.model_type}' is no encoder or decoder with a head that "
            f"classifies. {_HOW}"
        )
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        what = "a number" if config.num_labels < 2 else "several labels of one text"
        raise UserError(f"{name}: gives {what}, where one of several classes is needed.")


_FAMILY = Family("AutoModelForSequenceClassification", "classifier", _HOW, _check_config)


def class_names(lm: LanguageModel) -> list[str]:
    """What a classifier calls its classes, in the order of its logits."""
    config = lm.model.config
    return [str(config.id2label[one]) for one in range(config.num_labels)]


def encode(lm: LanguageModel, texts: Sequence[str]) -> Encoded:
    """Tokens of texts as the classifier's tokenizer makes them, cut where its positions end."""
    limit = min(lm.tokenizer.model_max_length, positions(lm))
    whole = lm.tokenizer(list(texts), verbose=False)["input_ids"]
    n_cut = sum(len(one) > limit for one in whole)
    if n_cut:
        whole = lm.tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
    empty = [row for row, one in enumerate(whole) if not one]
    if empty:
        raise UserError(f"rows, row {empty[0]}: its text gives no token. Drop the row.")
    mask = np.arange(max(map(len, whole), default=0)) < np.array([[len(one)] for one in whole])
    tokens = np.zeros(mask.shape, dtype=np.int64)
    tokens[mask] = np.concatenate(whole)
    return Encoded(tokens, mask.astype(np.int64), n_cut)


def positions(lm: LanguageModel) -> int:
    """Tokens that fit; RoBERTa's kin count positions from the one after their padding's."""
    if lm.max_positions is None:
        return 1 << 30
    table = getattr(getattr(lm.model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return lm.max_positions - (0 if padding is None else padding + 1)


def head_place(lm: LanguageModel) -> Place:
    """Find whose last state the head reads, by the gradient of a logit of one short text.

    Raises UserError: some other tokens', or none that can be found.
    """
    pad = lm.model.config.get_text_config().pad_token_id
    text = torch.full((1, _PROBED), lm.vocab_size - (2 if pad == lm.vocab_size - 1 else 1))
    kept: list[torch.Tensor] = []
    inner, table = lm.model.base_model, lm.model.get_input_embeddings()
    hooks = [
        table.register_forward_hook(lambda _module, _given, out: out.detach().requires_grad_()),
        inner.register_forward_hook(lambda _module, _given, out: kept.append(out[0])),
    ]
    try:
        with torch.enable_grad(), evaluation_mode(lm.model):
            logit = lm.model(input_ids=text.to(lm.device)).logits[0, 0]
            (slope,) = torch.autograd.grad(logit, kept[0], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    read = [] if slope is None else slope[0].abs().sum(-1).nonzero().flatten().tolist()
    places: dict[tuple[int, ...], Place] = {
        (0,): "first",
        (_PROBED - 1,): "last",
        tuple(range(_PROBED)): "mean",
    }
    if tuple(read) not in places:
        raise UserError(
            f"{lm.name}: its head reads states {read} of {_PROBED}, where the first, the last or "
            "the mean of all is known."
        )
    return places[tuple(read)]


def classified(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    mask: npt.ArrayLike | None,
    *,
    layers: Sequence[int] = (),
    batch_size: int,
) -> Classified:
    """What a classifier says of texts (n, T), and its states at the place that its head reads.

    Only texts of one length go together, so that none is padded. `layers` number the states, 0 to
    `n_layers`. Raises UserError: tokens that do not fit. NoRoomError: not even one text fits.
    """
    place, config = head_place(lm), lm.model.config
    pad = config.get_text_config().pad_token_id
    for one in layers:
        check_state(lm, one)

    def step(batch: torch.Tensor, _span: RowSpan) -> Classified:
        out = lm.model(input_ids=batch, output_hidden_states=True, return_dict=True)
        rows = torch.arange(len(batch), device=batch.device)
        at = torch.zeros_like(rows)
        if place == "last":  # the head takes the last that is no padding, also where a text ends so
            columns = torch.arange(batch.shape[1], device=batch.device)
            at = ((batch != (-1 if pad is None else pad)) * columns).argmax(-1)
        states = [out.hidden_states[one].float() for one in layers]
        read = [one.mean(1) if place == "mean" else one[rows, at] for one in states]
        width = out.hidden_states[-1].shape[-1]
        stacked = torch.stack(read, 1) if read else out.logits.new_zeros(len(batch), 0, width)
        return Classified(*(one.numpy() for one in brought(out.logits.double(), stacked.float())))

    with torch.inference_mode(), evaluation_mode(lm.model), _unpadded(config):
        found = [*run_sequences(lm, tokens, batch_size, step, attention_mask=mask)]
    return Classified(*(np.concatenate(one) for one in zip(*found, strict=True)))


@contextmanager
def _unpadded(config: Any) -> Iterator[None]:
    """Let a decoder without a token of padding take several texts of one length at once."""
    text = config.get_text_config()
    before = text.pad_token_id
    text.pad_token_id = -1 if before is None else before
    try:
        yield
    finally:
        text.pad_token_id = before


def fit_classifier(
    lm: LanguageModel,
    encoded: Encoded,
    labels: npt.ArrayLike,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> Iterator[LanguageModel]:
    """Train a copy of a classifier on texts and the numbers of their classes; give it each epoch.

    What is given is one copy, which is trained further when the next epoch is asked for. The seed
    is of order and dropout. Raises UserError: a loss that is not finite. NoRoomError: no room.
    """
    wanted = np.asarray(labels, dtype=np.int64)
    tuning = FineTuning(lm, StepSettings(learning_rate=learning_rate, seed=seed))
    text = tuning.lm.model.config.get_text_config()
    if text.pad_token_id is None:  # the copy's own
        known = (lm.tokenizer.pad_token_id, lm.tokenizer.eos_token_id, 0)
        text.pad_token_id = next(one for one in known if one is not None)
    tokens = np.where(encoded.mask, encoded.tokens, text.pad_token_id)
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        order = generator.permutation(len(wanted))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            longest = int(encoded.mask[rows].sum(axis=1).max())
            batch, mask = (
                torch.from_numpy(one[rows, :longest]).to(lm.device)
                for one in (tokens, encoded.mask)
            )
            classes = torch.from_numpy(wanted[rows]).to(lm.device)
            tuning.step_on(
                lambda batch=batch, mask=mask, classes=classes: torch.nn.functional.cross_entropy(  # type: ignore[misc]
                    tuning.lm.model(input_ids=batch, attention_mask=mask).logits.float(), classes
                )
            )
        yield tuning.lm
