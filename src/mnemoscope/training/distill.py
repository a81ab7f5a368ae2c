"""Train a smaller model on what a larger one says, with transformers' Trainer.

Source: LLAVADI, Xu et al. 2024, arXiv 2407.19409, which compares what to distil: logits, hidden
states, attention, affinity of tokens, beside the data itself. A batch is of texts, every token of
which is judged, or of pictures with prompts, where the answer is: then its masks `answer` and
`picture`, (batch, tokens), say which tokens are whose.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from mnemoscope.errors import UserError, check_installed, first_line, nearest
from mnemoscope.files import made_folder
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import Match, matched_layers
from mnemoscope.lm.tokenizer import quiet_transformers
from mnemoscope.progress import track

KINDS: dict[str, tuple[str, ...]] = {
    "data": ("next-token",),
    "logits": ("kl", "reverse-kl", "js", "mse"),
    "hidden": ("cosine", "mse"),
    "attention": ("mse",),
    "affinity": ("mse",),
    "contrast": ("kl",),
}
"""Losses and their kinds; `data` is the ordinary loss, which asks no teacher."""
OF_PICTURES = "contrast"
"""The loss that only a model of pictures can have."""

_WARM_UP = 0.05  # of the steps
_SAVES = 10  # checkpoints on the way, of which the last is kept
_LOGS = 50
_WEIGHTS = "student.safetensors"
# What configurations call the width of an MLP or, with more around it, of an expert.
_MLP = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
_KEYS = ("num_key_value_heads", "num_kv_heads")
# Lists that name layers, and lists that are not of layers whatever their length.
_INDICES = ("moe_layers", "mlp_only_layers", "full_attn_idxs")
_NOT_OF_LAYERS = ("eos_token_id", "mlp_multipliers", "ssm_multipliers", "time_step_limit")


# -- losses ---------------------------------------------------------------------------------


class Loss(NamedTuple):
    """One loss, with what it counts in the sum."""

    name: str
    kind: str
    weight: float = 1.0

    def __str__(self) -> str:
        """As the user writes it."""
        kind = f":{self.kind}" if len(KINDS[self.name]) > 1 else ""
        weight = f"={self.weight:g}" if self.weight != 1 else ""
        return f"{self.name}{kind}{weight}"


def parse_losses(text: str) -> tuple[Loss, ...]:
    """Read losses as `data,logits:kl,attention:mse=10`: NAME[:KIND][=WEIGHT].

    Raises UserError: an unknown name or kind, a weight that is no positive number, a loss named
    twice, or none that trains what the student says.

    >>> [str(one) for one in parse_losses("logits:kl, affinity=2")]
    ['logits:kl', 'affinity=2']
    """
    found = [_parse_loss(part.strip()) for part in text.split(",")]
    names = [(one.name, one.kind) for one in found]
    if len(set(names)) < len(names):
        raise UserError(f"--losses {text}: one of them is given twice. Name each once.")
    if not {"data", "logits"} & {one.name for one in found}:
        raise UserError(
            f"--losses {text}: none of them trains what the student says. Add data or logits:kl."
        )
    return tuple(found)


def _parse_loss(text: str) -> Loss:
    named, is_weighted, weight = text.partition("=")
    name, _, kind = named.partition(":")
    known = [f"{one}:{kind}" if len(kinds) > 1 else one for one, kinds in KINDS.items()
             for kind in kinds]  # fmt: skip
    if name not in KINDS or (kind or KINDS[name][0]) not in KINDS[name]:
        hint = nearest(named, known) or f" Known: {', '.join(known)}."
        raise UserError(f"--losses {text}: no such loss.{hint}")
    if not kind and len(KINDS[name]) > 1:
        raise UserError(f"--losses {text}: which one? {', '.join(KINDS[name])}, as {name}:kl.")
    try:
        value = float(weight) if is_weighted else 1.0
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"--losses {text}: its weight must be a number above 0.")
    return Loss(name, kind or KINDS[name][0], value)


def logits_loss(student: Tensor, teacher: Tensor, kind: str, temperature: float = 1.0) -> Tensor:
    """Mean over tokens of how far two predictions are apart, logits (..., vocabulary) each.

    In nats `kl`, Σ p log(p/q), p the teacher's; `reverse-kl`, Σ q log(q/p); `js`, the mean of
    the two against ½(p + q), at most log 2; logits are divided by the `temperature` before, and
    what comes out is times its square. `mse` is the mean squared difference of logits.
    """
    if kind == "mse":
        return functional.mse_loss(student, teacher)
    own, theirs = ((one / temperature).log_softmax(-1) for one in (student, teacher))
    if kind == "kl":
        apart = _divergence(theirs, own)
    elif kind == "reverse-kl":
        apart = _divergence(own, theirs)
    else:
        middle = torch.logaddexp(own, theirs) - math.log(2)
        apart = (_divergence(own, middle) + _divergence(theirs, middle)) / 2
    return apart * temperature**2


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """Mean over tokens of KL(first || second), log-probabilities (..., vocabulary)."""
    return (first.exp() * (first - second)).sum(-1).mean()


def hidden_loss(student: Tensor, teacher: Tensor, kind: str) -> Tensor:
    """Mean over tokens of 1 - cosine, or of the squared difference, states (..., width) each."""
    if kind == "mse":
        return functional.mse_loss(student, teacher)
    return (1 - functional.cosine_similarity(student, teacher, dim=-1)).mean()


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over queries of the squared difference of two rows of attention, summed over keys.

    Maps are averaged over heads, which differ in number: (..., query, key) each.
    """
    return (student - teacher).square().sum(-1).mean()


def affinity_loss(student: Tensor, teacher: Tensor, pairs: Tensor | None = None) -> Tensor:
    """Mean squared difference of all cosines between tokens; states (batch, tokens, width).

    Of some `pairs` alone where given, bool (batch, tokens, tokens).
    """
    own, theirs = (functional.normalize(one, dim=-1) for one in (student, teacher))
    here, there = own @ own.mT, theirs @ theirs.mT
    if pairs is not None:
        here, there = here[pairs], there[pairs]
    return functional.mse_loss(here, there)


def contrast_loss(student: Tensor, teacher: Tensor, picture: Tensor, answer: Tensor) -> Tensor:
    """How far two models differ in what they find alike among pictures and answers of a batch.

    The cosines of a picture's token with the tokens of each answer, its own and others', are a
    distribution over these by softmax, and the other way round. Given is the mean over tokens and
    rows, both ways, of the KL of the student's from the teacher's, nats. States are (batch, tokens,
    width), masks bool (batch, tokens). LLAVADI's code has the cross-entropy with the teacher's
    cosines themselves, which sum to anything, so that a student equal to its teacher has not the
    least.
    """
    normal = [functional.normalize(one, dim=-1) for one in (student, teacher)]
    own, theirs = (one[picture] @ one[answer].T for one in normal)
    n_pictures, n_answers = (one.sum(1).tolist() for one in (picture, answer))
    parts = [
        _divergence(there.log_softmax(-1), here.log_softmax(-1))
        for flip, sizes in ((False, n_answers), (True, n_pictures))
        for here, there in zip(
            *(torch.split(one.T if flip else one, sizes, 1) for one in (own, theirs)), strict=True
        )
    ]
    return torch.stack(parts).mean()


# -- what a model shows ---------------------------------------------------------------------


class Seen(NamedTuple):
    """What of a forward is compared, float32; empty where nobody asks.

    Logits (batch, tokens, vocabulary), states after each matched layer (batch, tokens, width), and
    its maps, averaged over heads (batch, tokens, tokens).
    """

    logits: Tensor
    states: tuple[Tensor, ...] = ()
    maps: tuple[Tensor, ...] = ()


Batch = Mapping[str, Tensor]
"""`input_ids` (batch, tokens) and whatever else a model reads, beside `MASKS` of pictures."""
MASKS = ("answer", "picture")
Teacher = Callable[[Batch], Seen]
"""What a teacher shows of a batch, without gradients."""


def look(model: Any, batch: Batch, layers: Sequence[int], losses: Sequence[Loss]) -> Seen:
    """Run a model and keep what these losses compare; UserError where it hides its attention."""
    names = {one.name for one in losses}
    needs_states = bool(names & {"hidden", "affinity", OF_PICTURES})
    needs_maps = "attention" in names
    found = model(
        **{name: one for name, one in batch.items() if name not in MASKS},
        use_cache=False,
        output_hidden_states=needs_states,
        output_attentions=needs_maps,
    )
    states, maps = found.get("hidden_states") or (), found.get("attentions") or ()
    if needs_maps and len(maps) <= max(layers):
        raise UserError(
            f"{type(model).__name__}: does not hand out its attention, so that it cannot be "
            "distilled. Leave attention out of --losses."
        )
    return Seen(
        found.logits.float(),
        tuple(states[one + 1].float() for one in layers) if needs_states else (),
        tuple(maps[one].float().mean(1) for one in layers) if needs_maps else (),
    )


def losses_of(
    student: Seen,
    teacher: Seen | None,
    batch: Batch,
    losses: Sequence[Loss],
    projections: Sequence[nn.Module] = (),
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Every loss by what the user calls it, without its weight.

    With the mask `answer` the predictions of its tokens are compared, and their states and rows of
    attention; `affinity` is between them and the picture's. `projections` lead from each matched
    state of the student to the teacher's width. The teacher is None where only `data` is asked.
    """
    tokens, answer, picture = batch["input_ids"], *(batch.get(one) for one in MASKS)
    found = {}

    def judged(whole: Tensor) -> Tensor:
        return whole if answer is None else whole[:, :-1][answer[:, 1:]]

    def of_answer(every: Sequence[Tensor]) -> Sequence[Tensor]:
        return every if answer is None else [one[answer] for one in every]

    for one in losses:
        if one.name == "data":
            logits, wanted = student.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
            if answer is not None:
                logits, wanted = judged(student.logits), tokens[:, 1:][answer[:, 1:]]
            found[str(one)] = functional.cross_entropy(logits, wanted)
            continue
        assert teacher is not None
        if one.name == "logits":
            # Families pad their vocabularies to different sizes; what is padding is never a token.
            n = min(student.logits.shape[-1], teacher.logits.shape[-1])
            own, theirs = (judged(seen.logits[..., :n]) for seen in (student, teacher))
            value = logits_loss(own, theirs, one.kind, temperature)
        elif one.name == "hidden":
            states = of_answer(student.states)
            led = [to(state) for to, state in zip(projections, states, strict=True)]
            value = _mean(hidden_loss, led, of_answer(teacher.states), one.kind)
        elif one.name == "attention":
            value = _mean(attention_loss, of_answer(student.maps), of_answer(teacher.maps))
        elif one.name == "affinity":
            pairs = None
            if answer is not None and picture is not None:
                pairs = picture[:, :, None] & answer[:, None]
            value = _mean(affinity_loss, student.states, teacher.states, pairs)
        else:
            value = _mean(contrast_loss, student.states, teacher.states, picture, answer)
        found[str(one)] = value
    return found


def _mean(
    loss: Callable[..., Tensor], own: Sequence[Tensor], theirs: Sequence[Tensor], *more: object
) -> Tensor:
    """Mean over the matched layers."""
    parts = [loss(*pair, *more) for pair in zip(own, theirs, strict=True)]
    return torch.stack(parts).mean()


# -- the student ----------------------------------------------------------------------------


def student_config(teacher: PreTrainedConfig, *, layers: float, width: float) -> PreTrainedConfig:
    """A teacher's configuration with fewer layers and a smaller width.

    A number below 1 is a share of the teacher's. Heads keep their size, so that there are fewer,
    and the MLP its share of the width; what is set layer by layer is that of the matched layers.
    Raises UserError: a number of layers or a width that cannot be, or that this family cannot have.
    """
    config = type(teacher).from_dict(teacher.to_dict())
    if (text := config.get_text_config()) is not config:  # what sees the pictures stays as it is
        config.text_config = student_config(text, layers=layers, width=width)
        return config
    n_layers, n_width = teacher.num_hidden_layers, teacher.hidden_size
    wanted = round(layers * n_layers) if layers < 1 else round(layers)
    size = round(width * n_width) if width < 1 else round(width)
    of_head = n_width // teacher.num_attention_heads
    if not 1 <= wanted <= n_layers:
        raise UserError(f"--layers {layers:g}: must be 1 to {n_layers}, or a share of these.")
    if size < of_head or size > n_width or size % of_head:
        raise UserError(
            f"--width {width:g}: makes {size}; must be a multiple of {of_head}, the size of a "
            f"head, up to {n_width}, or a share of that."
        )
    heads = size // of_head
    config.num_hidden_layers, config.hidden_size = wanted, size
    config.num_attention_heads = heads
    for name in _KEYS:
        if n_keys := getattr(teacher, name, None):
            share = heads * n_keys // teacher.num_attention_heads
            setattr(config, name, math.gcd(heads, max(share, 1)))
    pairs = matched_layers(wanted, n_layers, "even")
    for name, value in teacher.to_dict().items():
        if isinstance(value, list) and name in _INDICES:
            setattr(config, name, [own for own, to in pairs if to in value])
        elif isinstance(value, list) and len(value) == n_layers and name not in _NOT_OF_LAYERS:
            setattr(config, name, [value[to] for _, to in pairs])
    for name, value in config.to_dict().items():
        if any(part in name for part in _MLP):
            match value:
                case int():
                    setattr(config, name, value * size // n_width)
                case list():  # one for each layer
                    setattr(config, name, [one * size // n_width for one in value])
    if getattr(teacher, "attention_types", None):  # GPT-Neo's, of which it reads its layers anew
        config.attention_types = [[config.attention_layers, 1]]
    if hasattr(config, "quantization_config"):  # the student is plain, whatever its teacher is
        del config.quantization_config
    try:
        type(config).from_dict(config.to_dict())
    except Exception as error:  # whatever the family's own checks raise
        raise UserError(
            f"--layers {layers:g}, --width {width:g}: transformers cannot store a "
            f"{config.model_type} of this shape ({first_line(error.__cause__ or error)}). Choose "
            "another."
        ) from error
    return config


def new_student(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A model of random weights, float32; the same seed gives the same."""
    torch.manual_seed(seed)
    has_pictures = config.get_text_config() is not config
    kind = AutoModelForImageTextToText if has_pictures else AutoModelForCausalLM
    return kind.from_config(config, dtype=torch.float32)


# -- training -------------------------------------------------------------------------------


@dataclass(frozen=True)
class DistillSettings:
    """How a student is trained: AdamW, warm-up of a twentieth, a cosine to 0, gradients clipped.

    The weighted sum of `losses` is minimized; `match` says which layers are compared (see
    `matched_layers`); `seed` is of the projections, the order of rows and dropout; `temperature`
    is that of the logits.
    """

    losses: tuple[Loss, ...]
    match: Match = "even"
    epochs: float = 1.0
    steps: int | None = None
    batch_size: int = 16
    learning_rate: float = 5e-4
    seed: int = 0
    temperature: float = 1.0


@dataclass(frozen=True)
class Trained:
    """A student after training: steps made, and every loss at its beginning and end.

    `history` has a row for a fiftieth of the steps: `step`, and each loss's mean since the last.
    """

    steps: int
    history: tuple[dict[str, float], ...]


def view_of(teacher: LanguageModel, n_layers: int, settings: DistillSettings) -> Teacher:
    """What a teacher shows to a student of so many layers; None of its weights is trained."""
    model = teacher.model.eval()
    layers = [to for _, to in matched_layers(n_layers, teacher.n_layers, settings.match)]
    _hand_out_attention(model, settings.losses)

    def show(batch: Batch) -> Seen:
        there = {name: one.to(teacher.device) for name, one in batch.items()}
        with torch.no_grad():
            return look(model, there, layers, settings.losses)

    return show


def token_rows(rows: npt.NDArray[np.integer[Any]]) -> Sequence[Batch]:
    """Windows of texts (n, tokens), with what stands before them, as `train_student` takes them."""
    return [{"input_ids": row} for row in torch.from_numpy(rows.astype(np.int64))]


def steps_of(settings: DistillSettings, n_rows: int) -> int:
    """How many steps a training on so many rows takes."""
    batches = math.ceil(n_rows / settings.batch_size)
    return settings.steps or max(1, math.ceil(settings.epochs * batches))


def train_student(
    student: Any,
    rows: Sequence[Any],
    settings: DistillSettings,
    folder: Path,
    *,
    teacher: Teacher | None,
    widths: tuple[int, int],
    n_layers: int,
    device: str = "cpu",
    collate: Callable[[Sequence[Any]], dict[str, Tensor]] | None = None,
) -> Trained:
    """Train a student in place; a killed training goes on from its last checkpoint in `folder`.

    The student is a `PreTrainedModel` in float32, `rows` batches of one without their first axis
    (`token_rows`), or whatever `collate` makes a batch of; `teacher` is what it shows of a batch,
    None where `data` is the only loss. `widths` are the hidden sizes of both; a learnt linear map
    leads from one to the other where they differ, and is thrown away at the end. Raises UserError:
    accelerate is not installed, or a
    loss that is not finite.
    """
    check_installed("distill: transformers' Trainer needs", "accelerate", extra="distill")
    text = student.config.get_text_config()
    pairs = matched_layers(text.num_hidden_layers, n_layers, settings.match)
    _hand_out_attention(student, settings.losses)
    if any(one.name == "hidden" for one in settings.losses):
        torch.manual_seed(settings.seed)
        # A part of the student while it is trained, so that the Trainer saves and moves it too.
        student.distill_projections = nn.ModuleList(
            nn.Linear(*widths) if widths[0] != widths[1] else nn.Identity() for _ in pairs
        )
    n_steps = steps_of(settings, len(rows))
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=int(_WARM_UP * n_steps),
        max_steps=n_steps,
        seed=settings.seed,
        data_seed=settings.seed,
        save_steps=max(1, n_steps // _SAVES),
        save_total_limit=1,
        logging_steps=max(1, n_steps // _LOGS),
        use_cpu=device == "cpu",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # the teacher is on one device
    trainer = _Distiller(
        model=student,
        args=arguments,
        train_dataset=rows,
        data_collator=collate,
    )
    trainer.teacher, trainer.settings, trainer.layers = teacher, settings, [own for own, _ in pairs]
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ == "PrinterCallback":
            trainer.remove_callback(callback)
    begun = _last_whole(folder)
    with track("distilling", total=n_steps, unit="steps") as progress, quiet_transformers():
        trainer.add_callback(_Shown(progress))
        trainer.train(resume_from_checkpoint=None if begun is None else str(begun))
    if hasattr(student, "distill_projections"):
        del student.distill_projections
    names = [str(one) for one in settings.losses]
    kept = [one for one in trainer.state.log_history if names[0] in one]
    history = tuple({key: float(one[key]) for key in ("step", *names)} for one in kept)
    return Trained(trainer.state.global_step, history)


class _Distiller(Trainer):  # type: ignore[misc]
    """The Trainer with the weighted sum of losses; each is logged by its own name."""

    teacher: Teacher | None
    settings: DistillSettings
    layers: list[int]

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._since: list[Tensor] = []

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        """The loss of a batch; UserError where it is not finite."""
        losses = self.settings.losses
        shown = None if self.teacher is None else self.teacher(inputs)
        seen = look(model, inputs, self.layers, losses)
        projections = getattr(model, "distill_projections", ())
        found = losses_of(seen, shown, inputs, losses, projections, self.settings.temperature)
        parts = torch.stack([found[str(one)] for one in losses])
        total = (parts * parts.new_tensor([one.weight for one in losses])).sum()
        if not total.isfinite():
            raise UserError(
                f"distill: the loss of step {self.state.global_step + 1} is not finite. Take a "
                "smaller --learning-rate, or smaller weights in --losses."
            )
        self._since.append(parts.detach())
        return (total, seen) if return_outputs else total

    # The Trainer saves weights under the names of the hub and loads them, without a word, under
    # those in memory: of families whose names differ some would be as at the beginning.

    def save_model(self, output_dir: str | None = None, **_: Any) -> None:
        """Write the student and its projections, by their names in memory."""
        save_model(self.model, str(made_folder(output_dir or self.args.output_dir) / _WEIGHTS))

    def _load_from_checkpoint(self, folder: str, model: Any = None) -> None:
        load_model(model or self.model, Path(folder) / _WEIGHTS)

    def log(self, logs: dict[str, float], *more: Any) -> None:
        """Add each loss's mean since the last log."""
        if self._since and "loss" in logs:
            means = torch.stack(self._since).mean(0).tolist()
            logs |= dict(zip(map(str, self.settings.losses), means, strict=True))
            self._since.clear()
        super().log(logs, *more)


class _Shown(TrainerCallback):  # type: ignore[misc]
    """Progress of the Trainer, shown as that of everything else."""

    def __init__(self, progress: Any) -> None:
        self._progress, self._done = progress, 0

    def on_step_end(self, _: Any, state: Any, __: Any, **___: Any) -> None:
        """Say how far it is; a resumed run begins with the steps that were made."""
        self._progress.advance(state.global_step - self._done)
        self._done = state.global_step


def _hand_out_attention(model: Any, losses: Sequence[Loss]) -> None:
    """Only eager attention hands out its weights."""
    if any(one.name == "attention" for one in losses) and model._can_set_attn_implementation():
        model.set_attn_implementation("eager")


def _last_whole(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end: its state comes last."""
    whole = [one.parent for one in folder.glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda one: int(one.name.rpartition("-")[2]), default=None)
