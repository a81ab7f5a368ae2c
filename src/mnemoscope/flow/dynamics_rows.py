"""How fast a masked language model learns texts, beside the network with fresh weights.

Source: Tirumala et al. 2022, "Memorization Without Overfitting", arXiv 2205.10770, of masked models
too: M(f) is the share of masked tokens whose argmax is the truth, T(N, τ) the fewest epochs with
M ≥ τ; a unique identifier before each text. Here every token is judged, masked in its turn.
Run it: mnemoscope analyze dynamics MASKED_LM --rows TABLE
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.dynamics import (
    IDENTIFIERS,
    LearningLook,
    Teaching,
    learning_chart,
    learning_curve,
    learning_curves,
    learnt_words,
)
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult
from mnemoscope.data.table import token_matrix, whole_mask
from mnemoscope.errors import UserError
from mnemoscope.lm.classifier import positions
from mnemoscope.lm.masked import judge_masked, train_masked
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import TeacherForced
from mnemoscope.stats import Estimate, frame_of, n_groups, resampled_ratio, rows_of
from mnemoscope.words import ranged


class RowSettings(Teaching):
    """Settings of `dynamics` on a masked language model's texts."""

    epochs: int = Field(default=100, ge=1, description="Epochs of the learning curve, at most.")
    every: int = Field(default=5, ge=1, description="Epochs from one look to the next.")
    n_sets: int = Field(
        default=7,
        ge=2,
        le=100,
        description="One token in so many is masked at a time (7: 14 %, as BERT's 15 %).",
    )


class Texts(NamedTuple):
    """Texts as (n, T): tokens, 1 where there is one, what is judged, and groups of near ones."""

    tokens: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]
    text: npt.NDArray[np.bool_]
    near: npt.NDArray[np.int64]

    def after(self, before: npt.NDArray[np.int32]) -> "Texts":
        """The same with an identifier (n, k) before each, behind what the tokenizer puts first."""
        first = int(self.text.argmax(axis=1).min())

        def joined(own: npt.NDArray[Any], new: npt.NDArray[Any]) -> npt.NDArray[Any]:
            parts = own[:, :first], new.astype(own.dtype), own[:, first:]
            return np.concatenate(parts, axis=1)

        return Texts(
            joined(self.tokens, before),
            joined(self.mask, np.ones_like(before)),
            joined(self.text, np.zeros_like(before)),
            self.near,
        )

    def at(self, rows: npt.NDArray[np.int64]) -> "Texts":
        """Some of them, by number, without columns that are padding in all."""
        columns = slice(0, int(self.mask[rows].sum(axis=1).max()))
        tokens, mask, text = self.tokens[rows], self.mask[rows], self.text[rows]
        return Texts(tokens[:, columns], mask[:, columns], text[:, columns], self.near[rows])


def forwards(inputs: AnalysisInputs, settings: RowSettings) -> int:
    """Every epoch of each model, with a look at taught and other texts, masked in turns."""
    curves = 1 + len(inputs.others) + len(IDENTIFIERS) - 1
    looks = 2 * settings.n_sets * (settings.epochs // settings.every + 2)
    return 2 * settings.n_sets * inputs.table.height + curves * settings.n_special * (
        settings.epochs + looks
    )


def analyse(inputs: AnalysisInputs, settings: RowSettings) -> AnalysisResult:
    """Tell M of the texts, then teach copies of each model some of them, beside others.

    Raises UserError: fewer groups of near duplicates than `n_special` texts twice, or a batch above
    them.
    """
    if settings.batch_size > settings.n_special:
        raise UserError(
            f"analyze dynamics: batch_size {settings.batch_size} is above n_special "
            f"{settings.n_special}. Take a smaller batch, or more special texts."
        )
    whole = _texts(inputs)
    taught, others = _drawn(whole, settings)
    about = {"n": len(whole.near), "n_groups": n_groups(whole.near)}
    known = [
        {"model": name, **about, "m": _m(_judged(lm, whole, settings).is_right, whole)}
        for name, lm in inputs.models()
    ]

    def learn(lm: LanguageModel, name: str, before: npt.NDArray[np.int32]) -> pl.DataFrame | None:
        if before.shape[1] + taught.tokens.shape[1] > positions(lm):
            return None
        return _learn(lm, name, settings, taught.after(before), others)

    curves, thresholds = learning_curves(inputs, settings, learn)
    frames = {"tokens": frame_of(known), "learning": curves, "thresholds": thresholds}
    own = next(rows_of(frames["tokens"]))
    return AnalysisResult(
        sentence=(
            f"Of tokens that are masked, one in {settings.n_sets} at a time, the model has "
            f"{ranged(own['m'], scale=100, unit=' %')} right in {own['n']:,} texts. "
            f"{settings.n_special} of them are learnt in "
            f"{learnt_words(frames['thresholds'], settings)}."
        ),
        frames=frames,
        figures=(learning_chart(frames["learning"], settings),),
        further=(
            f"T is looked for every {settings.every} epochs, and counts readings that are taught "
            "here: whether the model read the texts before is not known, and shows in M before the "
            "first epoch. The loss is of masked tokens alone, drawn anew at each step.",
            f"Every run is of one seed: intervals are over the {settings.n_special} texts, not "
            "over runs.",
        ),
    )


def _texts(inputs: AnalysisInputs) -> Texts:
    """The texts of all rows; what the tokenizer puts around them is not judged."""
    table = inputs.table
    tokens = token_matrix(table).astype(np.int64)
    given = whole_mask(table)
    mask = np.ones_like(tokens) if given is None else given.astype(np.int64)
    special = np.isin(tokens, inputs.model().tokenizer.all_special_ids)
    text = (mask == 1) & ~special
    empty = np.flatnonzero(~text.any(axis=1))
    if len(empty):
        raise UserError(f"rows, row {empty[0]}: its text gives no token. Drop the row.")
    return Texts(tokens, mask, text, inputs.near_duplicates(table["sequence_id"]))


def _drawn(whole: Texts, settings: RowSettings) -> tuple[Texts, Texts]:
    """Texts that are taught and others beside them, one of each group of near duplicates."""
    order = np.random.default_rng(settings.seed).permutation(len(whole.near))
    _, first = np.unique(whole.near[order], return_index=True)
    chosen, n = order[np.sort(first)], settings.n_special
    if len(chosen) < 2 * n:
        raise UserError(
            f"analyze dynamics: {len(chosen)} texts that are no near duplicates of one another, "
            f"and {2 * n} are needed. Give more rows, or ask for fewer with --set n_special=N."
        )
    return whole.at(chosen[:n]), whole.at(chosen[n : 2 * n])


def _judged(lm: LanguageModel, texts: Texts, settings: RowSettings) -> TeacherForced:
    return judge_masked(
        lm,
        *texts[:3],
        n_sets=settings.n_sets,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )


def _m(is_right: npt.NDArray[np.bool_], texts: Texts) -> Estimate:
    return resampled_ratio(is_right.sum(axis=1), texts.text.sum(axis=1), texts.near)


def _learn(
    lm: LanguageModel, name: str, settings: RowSettings, taught: Texts, others: Texts
) -> pl.DataFrame:
    """The learning curve of some texts, beside that of others."""
    tuning = settings.tuning(lm)
    train = partial(train_masked, tuning, n_sets=settings.n_sets, seed=settings.seed)

    def look() -> LearningLook:
        own, other = (_judged(tuning.lm, texts, settings) for texts in (taught, others))
        return LearningLook(
            steps=tuning.step,
            n_groups=n_groups(taught.near),
            m=_m(own.is_right, taught),
            other_m=_m(other.is_right, others),
            mean_run=None,
            loss=float(-own.logprobs.sum(dtype=np.float64) / taught.text.sum()),
            other_loss=float(-other.logprobs.sum(dtype=np.float64) / others.text.sum()),
        )

    return learning_curve(
        name, settings, look, lambda rows: train(*taught.at(rows)[:3]), settings.every
    )
