"""Ask a model for passages under stress: does what it does not say as it is come back?

Changed prompts as in `analysis/perturb` (Huang et al. 2024, arXiv 2407.17817). Many draws: a
passage that 1 of n draws would give with a chance of one half or more is out (Hayes et al. 2024,
2410.19482); the chance is exact, so nothing is drawn. Rounded weights (Zhang et al. 2024,
2410.16454). A few steps of training on other passages of the same works (Hu et al. 2024,
2406.13356). Guided decoding (`lm.continue_.continue_guided`). Parts of the model before, put in one
by one (`lm.graft`).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch

from mnemoscope.errors import UserError, first_line
from mnemoscope.forgetting.judge import AS_IT_IS
from mnemoscope.forgetting.texts import Passages, Settings
from mnemoscope.lm.continue_ import continue_guided, scan_memorized
from mnemoscope.lm.fine_tuning import FineTuning, StepSettings
from mnemoscope.lm.graft import ALL, Anatomy, Pair
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import teacher_forced
from mnemoscope.lm.prompts import AS_IT_IS as PLAIN_PROMPT
from mnemoscope.lm.prompts import ChangedPrompt, Vocabulary, make_prompts, suffix_runs
from mnemoscope.progress import Progress

BEFORE, AFTER, TWIN = "before", "after", "twin"
DRAWS, LONGER = "many draws", "longer prefix"
PROMPTS, INT8, INT4 = "changed prompts", "weights at int8", "weights at int4"
NEIGHBOURS, GUIDED = "trained on neighbours", "guided decoding"
STRESSES = (AS_IT_IS, PROMPTS, DRAWS, LONGER, INT8, INT4, NEIGHBOURS, GUIDED)
_PLAIN = (AS_IT_IS, DRAWS, LONGER)  # from one forward pass
_BITS = {INT8: 8, INT4: 4}
_SHIFTS = (2, 8)
_DRAWN_BY = 0.5  # chance of a passage among all draws, from which on it counts as out


def identity(lm: LanguageModel) -> list[Any]:
    """What of a model decides its answers."""
    return [lm.fingerprint, lm.dtype, lm.bos_id]


@dataclass
class Bench:
    """Models by subject, and the passages they are asked for."""

    lms: Mapping[str, LanguageModel]
    passages: Passages
    settings: Settings
    left_out: dict[str, str] = field(default_factory=dict)
    """Why a stress, or the depth, is not asked."""

    @cached_property
    def prompts(self) -> list[tuple[int, ChangedPrompt]]:
        """Changed prompts of every passage with its row, each for the whole suffix."""
        before, own = self.lms[BEFORE], self.passages
        weights = before.model.get_input_embeddings().weight.detach().float().cpu().numpy()
        vocabulary, n = Vocabulary(before.tokenizer, weights), own.tokens.shape[1] - own.prefix
        return [
            (row, one)
            for row, ids in enumerate(own.tokens.astype(np.int64))
            for one in make_prompts(
                ids,
                vocabulary,
                prefix=own.prefix,
                shifts=tuple(shift for shift in _SHIFTS if shift < own.prefix),
                n_words=1,
                rng=np.random.default_rng([self.settings.seed, row]),
            )
            if one.kind != PLAIN_PROMPT and len(one.wanted) - one.n_before == n
        ]

    @cached_property
    def pairs(self) -> dict[str, Pair]:
        """Each model, with the model before beside it, whose parts it is given."""
        before = self.lms[BEFORE].model
        return {name: Pair(lm.model, before) for name, lm in self.lms.items() if name != BEFORE}

    @cached_property
    def parts(self) -> dict[str, list[str]]:
        """What is put in: names of parts (`graft_parts`) by what they are called."""
        single = self.pairs[AFTER].anatomy.parts
        layers = range(self.pairs[AFTER].anatomy.n_layers)
        found = {}
        for name, kinds in (("attention", ("qk", "values", "output")), ("MLP", ("mlp",))):
            each = [[f"layers.{n}.{one}" for one in kinds] for n in layers]
            found[f"{name}, all layers"] = [part for own in each for part in own]
            found |= {f"{name} of layer {n}": own for n, own in zip(layers, each, strict=True)}
        found |= {one: [one] for one in ("embedding", "unembedding")}
        known = {name: [one for one in own if one in single] for name, own in found.items()}
        return {name: own for name, own in known.items() if own}

    def share_of_weights(self, parts: Sequence[str]) -> float:
        """The share of all weights that is in some parts."""
        anatomy: Anatomy = self.pairs[AFTER].anatomy

        def count(name: str) -> int:
            total = 0
            for one in anatomy.find(name):
                weight = anatomy.weights[one.name]
                part = 1.0 if one.places is None else len(one.places) / weight.shape[one.axis]
                total += round(weight.numel() * part)
            return total

        return sum(map(count, parts)) / count(ALL)

    def leave_out(self) -> None:
        """Find what cannot be asked of these models and texts, and why."""
        lms = [lm for name, lm in self.lms.items() if name != BEFORE]
        if not len(self.passages.neighbours):
            self.left_out[NEIGHBOURS] = "no other passages of the same works were given"
        if TWIN not in self.lms:
            self.left_out[GUIDED] = "it needs a retrained twin"
        for lm in lms:
            if lm.quantization is not None:
                said = f"the weights of {lm.name} are quantized already"
                self.left_out |= dict.fromkeys((INT8, INT4, NEIGHBOURS), said)
            elif lm.device_map is not None:
                self.left_out[NEIGHBOURS] = f"{lm.name} is spread over devices"
        if not self.settings.depth:
            self.left_out[DEPTH] = "it was switched off (depth)"
            return
        try:
            _ = self.parts
        except UserError as error:
            self.left_out[DEPTH] = first_line(error)

    def questions(self) -> list["Question"]:
        """All units of work, each named by what decides it: another model after is asked alone."""
        n, found = len(self.passages.tokens), [self._question(BEFORE, AS_IT_IS, 0)]
        for subject in (one for one in self.lms if one != BEFORE):
            sizes = {AS_IT_IS: n, PROMPTS: len(self.prompts), INT8: n, INT4: n, GUIDED: 2 * n}
            sizes[NEIGHBOURS] = n + 3 * self.settings.steps * self.settings.batch
            sizes = {one: size for one, size in sizes.items() if one not in self.left_out}
            if DEPTH not in self.left_out:
                sizes |= dict.fromkeys(self.parts, n)
            found += [self._question(subject, *one) for one in sizes.items()]
        return found

    def _question(self, subject: str, stress: str, size: int) -> "Question":
        other = {GUIDED: AFTER if subject == TWIN else TWIN}
        asked = [subject, other.get(stress, BEFORE)]  # whose parts or words the prompts have
        facts = [self._basis, stress, [identity(self.lms[one]) for one in asked], subject == BEFORE]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]
        return Question(key, size or len(self.passages.tokens), subject, stress)

    @cached_property
    def _basis(self) -> list[Any]:
        """What all answers depend on: passages, and settings."""
        own = self.passages
        settings = self.settings.model_dump(mode="json", exclude={"depth", "most"})
        texts = [
            hashlib.sha256(one.astype("<i4").tobytes()).hexdigest()
            for one in (own.tokens, own.neighbours)
        ]
        return [*texts, own.tokens.shape[1], own.prefix, settings]


DEPTH = "parts of the model before"


@dataclass(frozen=True)
class Question:
    """One model asked for all passages in one way: a unit of work."""

    key: str
    size: int
    subject: str
    stress: str  # or the part of the model before that it is given

    def run(self, context: Bench, progress: Progress) -> Mapping[str, Any]:
        """One row a passage, in their order: is it out; in nats what it costs."""
        found = pl.DataFrame(_asked(context, self.subject, self.stress))
        progress.advance(self.size)
        return {"parquet": found}


def _asked(bench: Bench, subject: str, stress: str) -> dict[str, np.ndarray]:
    lm, own, settings = bench.lms[subject], bench.passages, bench.settings
    if stress == AS_IT_IS:
        return plain_answers(lm, own, settings)
    if stress == PROMPTS:
        return {stress: _by_prompts(bench, lm)}
    if stress in _BITS:
        with rounded_weights(lm.model, _BITS[stress]):
            return {stress: written(lm, own, settings)}
    if stress == NEIGHBOURS:
        return {stress: written(trained_on(lm, own.neighbours, settings), own, settings)}
    if stress == GUIDED:
        beside = bench.lms[AFTER if subject == TWIN else TWIN]  # of the twin the roles are swapped
        made = continue_guided(
            lm,
            beside,
            own.tokens,
            strength=settings.strength,
            plausible=settings.plausible,
            batch_size=settings.batch_size,
            prefix=own.prefix,
        )
        return {stress: (made == own.tokens[:, own.prefix :]).all(axis=1)}
    with bench.pairs[subject].grafted(bench.parts[stress]):
        return {stress: written(lm, own, settings)}


def written(lm: LanguageModel, own: Passages, settings: Settings) -> np.ndarray:
    """Whether the model writes each passage from its prefix, greedily, bool (n,)."""
    scans = scan_memorized(lm, own.tokens, batch_size=settings.batch_size, prefix=own.prefix)
    return np.concatenate([one.is_memorized for one in scans])


def plain_answers(lm: LanguageModel, own: Passages, settings: Settings) -> dict[str, np.ndarray]:
    """What one forward pass says of each passage: `as it is`, `many draws`, `longer prefix`, nats.

    The longer prefix is half of the suffix more. `nats` is the code length of all tokens from the
    second on.
    """
    judged = teacher_forced(lm, own.tokens, batch_size=settings.batch_size, prefix=1)
    longer = own.prefix + (own.tokens.shape[1] - own.prefix) // 2
    logprobs = judged.logprobs.astype(np.float64)
    chance = np.exp(logprobs[:, own.prefix - 1 :].sum(axis=1))
    ever = -np.expm1(settings.draws * np.log1p(-np.minimum(chance, 1 - 1e-12)))
    return {
        AS_IT_IS: judged.is_right[:, own.prefix - 1 :].all(axis=1),
        DRAWS: ever >= _DRAWN_BY,
        LONGER: judged.is_right[:, longer - 1 :].all(axis=1),
        "nats": -logprobs.sum(axis=1),
    }


def _by_prompts(bench: Bench, lm: LanguageModel) -> np.ndarray:
    """Whether any changed prompt gives the whole suffix."""
    is_out = np.zeros(len(bench.passages.tokens), dtype=bool)
    asked = [one for _, one in bench.prompts]
    runs = suffix_runs(lm, asked, batch_size=bench.settings.batch_size)
    wanted = bench.passages.tokens.shape[1] - bench.passages.prefix
    for (row, _), run in zip(bench.prompts, runs, strict=True):
        is_out[row] |= run >= wanted
    return is_out


def trained_on(lm: LanguageModel, rows: np.ndarray, settings: Settings) -> LanguageModel:
    """A copy trained a few steps on rows (m, T), every epoch in another order."""
    tuning = FineTuning(lm, StepSettings(settings.learning_rate, seed=settings.seed))
    rng, order = np.random.default_rng(settings.seed), list[int]()
    for _ in range(settings.steps):
        while len(order) < min(settings.batch, len(rows)):
            order += rng.permutation(len(rows)).tolist()
        batch, order = order[: settings.batch], order[settings.batch :]
        tuning.train(rows[batch])
    return tuning.lm


def round_rows(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Round a matrix (rows, columns) to so many bits, each row on a scale of its own.

    The largest of a row is 2^(bits - 1) - 1 steps, 0 stays 0; back as numbers of the same dtype.

    >>> round_rows(torch.tensor([[7.0, -3.4, 0.4]]), 4).tolist()
    [[7.0, -3.0, 0.0]]
    """
    most, given = 2 ** (bits - 1) - 1, weight.float()
    step = given.abs().amax(dim=1, keepdim=True) / most
    step = step.where(step > 0, torch.ones_like(step))
    rounded: torch.Tensor = (given / step).round() * step
    return rounded.to(weight.dtype)


@contextmanager
def rounded_weights(model: Any, bits: int) -> Iterator[None]:
    """Round the matrices of a model's layers in this block; bit for bit as it was afterwards.

    Embeddings, norms and the matrix before the softmax stay, as in most quantized models.
    """
    head, kept = model.get_output_embeddings(), []
    try:
        for module in model.modules():
            name, weight = type(module).__name__, getattr(module, "weight", None)
            if module is head or name not in ("Linear", "Conv1D") or weight is None:
                continue
            own = weight.detach()
            kept.append((own, own.clone()))
            rows = own.T if name == "Conv1D" else own  # whose outputs are its columns
            rows.copy_(round_rows(rows, bits))
        yield
    finally:
        for own, former in kept:
            own.copy_(former)
