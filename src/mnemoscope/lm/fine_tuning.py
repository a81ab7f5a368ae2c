"""Train a copy of a model a few steps further, up or down the gradient: same rows, same bytes.

One thread fixes the order of sums, and each step has its own random generator. The given model
stays as it is.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mnemoscope.errors import NoRoomError, UserError
from mnemoscope.lm.model import LanguageModel, check_tokens, last_logits, prepend_bos
from mnemoscope.lm.placement import fingerprint_model


@dataclass(frozen=True)
class StepSettings:
    """How `FineTuning` steps: AdamW at a constant rate, gradients clipped.

    `ascent` goes up the loss, which unlearns; `seed` is of the dropout. `way` says which weights a
    step changes: all; `sparse`, the share `part` with the largest gradient in the first step,
    without weight decay; or `pruning`: in place of AdamW's step the share `part` is set to zero
    without which, to the first order (−g·w), the loss goes furthest the wanted way. Both are of the
    layers' matrices alone, neither embeddings nor biases and norms.
    """

    learning_rate: float
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    ascent: bool = False
    seed: int = 0
    way: Literal["all", "sparse", "pruning"] = "all"
    part: float = 0.001


class FineTuning:
    """A float32 copy of a model and the optimizer that trains it.

    `lm` is the copy after `step` steps, in evaluation mode. Its `fingerprint` is that of the start;
    `digest` gives the current one.
    """

    step: int

    def __init__(self, lm: LanguageModel, settings: StepSettings) -> None:
        """Copy the model. Raises UserError: quantized or spread. NoRoomError: no room for it."""
        if lm.quantization is not None or lm.device_map is not None:
            how = "quantized" if lm.quantization is not None else "spread over devices"
            raise UserError(
                f"{lm.name}: its weights are {how}, and cannot be trained here. Load it plain, on "
                "one device."
            )
        with _room_for(lm):
            # `model.float()` refuses what was read from GGUF, whose weights are plain by now.
            model = nn.Module.float(copy.deepcopy(lm.model))
        for weight in model.parameters():
            weight.requires_grad_(True)
        self.lm: LanguageModel = replace(lm, model=model.eval(), dtype="float32")
        self.step = 0
        self._settings = settings
        self._optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=0.0 if settings.way == "sparse" else settings.weight_decay,
        )
        self._kept: list[torch.Tensor] | None = None  # of `sparse`: where gradients stay

    def train(self, tokens: npt.ArrayLike, counted: npt.ArrayLike | None = None) -> float:
        """Make one step on a batch (batch, T); return the loss before it, cross-entropy in nats.

        `counted`, bool of the same shape, marks tokens that the loss counts; the first token of a
        row counts only if something stands before it. Raises UserError: tokens that do not fit the
        model, none counted, or a loss that is not finite. NoRoomError: no room for the gradients.
        """
        batch = check_tokens(self.lm, tokens).to(self.lm.device)
        mask = np.ones(batch.shape, dtype=bool) if counted is None else np.asarray(counted, bool)
        marks = torch.from_numpy(mask).to(batch.device)
        return self.step_on(lambda: self._loss(batch, marks))

    def step_on(self, loss_of: Callable[[], torch.Tensor]) -> float:
        """Make one step on a loss of the copy; errors and what is returned as `train`."""
        with one_thread(), _seeded(self._settings.seed, self.step), _room_for(self.lm):
            self.lm.model.train()
            try:
                loss = loss_of()
                (-loss if self._settings.ascent else loss).backward()  # type: ignore[no-untyped-call]
                if self._settings.way == "sparse":
                    self._keep_few()
                if self._settings.way == "pruning":
                    self._prune()
                else:
                    torch.nn.utils.clip_grad_norm_(
                        self.lm.model.parameters(), self._settings.clip_norm
                    )
                    self._optimizer.step()
                self._optimizer.zero_grad()
            finally:
                self.lm.model.eval()
        self.step += 1
        if not loss.isfinite():
            raise UserError(
                f"{self.lm.name}: the loss of step {self.step} is not finite. "
                "Take a smaller learning_rate."
            )
        return loss.item()

    def _keep_few(self) -> None:
        """Leave the gradient of the chosen weights alone, which the first step chooses."""
        weights = [*self.lm.model.parameters()]
        if self._kept is None:
            inside = {id(one) for one in _matrices(self.lm)}
            chosen = _largest([one.grad.abs() for one in _matrices(self.lm)], self._settings.part)
            masks = iter(chosen)
            self._kept = [
                next(masks) if id(one) in inside else torch.zeros_like(one, dtype=torch.bool)
                for one in weights
            ]
        for weight, kept in zip(weights, self._kept, strict=True):
            if weight.grad is not None:
                weight.grad.mul_(kept)

    def _prune(self) -> None:
        """Set to zero the weights without which the loss goes furthest the way that is wanted."""
        weights = _matrices(self.lm)  # the gradient is that of what goes down
        gains = [(one.grad * one.detach()).clamp(min=0) for one in weights]
        with torch.no_grad():
            for weight, gone in zip(weights, _largest(gains, self._settings.part), strict=True):
                weight.masked_fill_(gone, 0.0)

    def digest(self) -> str:
        """SHA-256 of the copy's weights as they are now (`fingerprint_model`)."""
        return fingerprint_model(self.lm.model)

    def _loss(self, batch: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        fed = prepend_bos(self.lm, batch[:, :-1])
        n_judged = min(batch.shape[1], fed.shape[1])  # the first token may have none before it
        wanted = batch[:, -n_judged:].masked_fill(~mask[:, -n_judged:], -100)
        if not bool((wanted >= 0).any()):
            raise UserError("a batch of which no token is counted cannot be trained on.")
        logits = last_logits(self.lm, fed, n_judged)
        return torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), wanted.flatten(), ignore_index=-100
        )


def _matrices(lm: LanguageModel) -> list[Any]:
    """Matrices of the layers that have a gradient."""
    outside = {
        id(one.weight)
        for one in (lm.model.get_input_embeddings(), lm.model.get_output_embeddings())
        if one is not None
    }
    return [
        one
        for one in lm.model.parameters()
        if one.ndim > 1 and id(one) not in outside and one.grad is not None
    ]


def _largest(values: Sequence[torch.Tensor], part: float) -> list[torch.Tensor]:
    """The share `part` of all values, rounded up, that is the largest, and above 0; as masks."""
    flat = torch.cat([one.flatten() for one in values])
    least = flat.topk(math.ceil(part * len(flat))).values[-1]
    return [(one >= least) & (one > 0) for one in values]


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute in one thread, so that sums have one order; put back what was set."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _seeded(seed: int, step: int) -> Iterator[None]:
    """Give a step random numbers that depend on nothing but its number."""
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
        yield


@contextmanager
def _room_for(lm: LanguageModel) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise NoRoomError(
            f"{lm.name}: too large to be trained on {lm.device}: weights, gradients and optimizer "
            "take 16 bytes a parameter. Take a smaller batch_size or model."
        ) from error
