"""Exact token memorization: how much of a text is right, how fast it is learnt, what is forgotten.

Source: Tirumala, Markosyan, Zettlemoyer, Aghajanyan 2022, "Memorization Without Overfitting",
arXiv 2205.10770; section 7 of the related work: M(f) = share of contexts whose teacher-forced
argmax is the truth, T(τ) = fewest epochs with M ≥ τ, M of a batch seen once while training goes on,
repeated and spaced, mean run of right tokens. Their parts of speech are kinds of token here
(digits, letters, signs, white space): no tagger.
Run it: mnemoscope analyze dynamics STUDY
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.figures import Chart, Figure, Series, series_of
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.analysis.rows import (
    Insertions,
    Rows,
    draw_rows,
    hash_ids,
    model_basis,
    run_arm,
    stream_rows,
    training_rows,
    unseen_rows,
)
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError
from mnemoscope.progress import track
from mnemoscope.stats import Estimate, resampled_difference, resampled_mean, resampled_ratio

if TYPE_CHECKING:
    from mnemoscope.lm.fine_tuning import FineTuning
    from mnemoscope.lm.model import LanguageModel


# Exact token memorization in numbers: shares of right tokens, mean runs, kinds of token.

KINDS = ("letters", "digits", "signs", "white space", "mixed")
"""What a token is written with, white space around it aside."""


@dataclass(frozen=True)
class RightTokens:
    """True tokens and the model's own, at every place.

    Attributes:
        wanted: shape (n, T), int64.
        best: the argmax after the true tokens before it, the same shape.
    """

    wanted: npt.NDArray[np.int64]
    best: npt.NDArray[np.int64]

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        """Where both are one."""
        found: npt.NDArray[np.bool_] = self.wanted == self.best
        return found

    def __getitem__(self, rows: npt.NDArray[Any]) -> "RightTokens":
        """The same of some rows."""
        return RightTokens(self.wanted[rows], self.best[rows])

    def by_kind(self, kinds: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """R and R_mem of each kind of token.

        Args:
            kinds: number of the kind of each token id.

        Returns:
            A row a kind that occurs: `kind`, `n`, `right_kind` (R: share of its tokens for which
            the model says a token of that kind) and `right_token` (R_mem: for which it says the
            token), with intervals over sequences.
        """
        truth, said = kinds[self.wanted], kinds[self.best]
        rows = []
        for number, name in enumerate(KINDS):
            here = truth == number
            if here.any():
                kind = resampled_ratio((here & (said == number)).sum(axis=1), here.sum(axis=1))
                token = resampled_ratio((here & self.is_right).sum(axis=1), here.sum(axis=1))
                rows.append(
                    {"kind": name, "n": int(here.sum())}
                    | kind.columns("right_kind")
                    | token.columns("right_token")
                )
        return rows


def mean_run(is_right: npt.ArrayLike) -> Estimate:
    """Memory-unit length: the mean run of right tokens; a run ends with its sequence.

    Args:
        is_right: shape (n, T), bool.

    >>> mean_run([[True, True, False, True], [False] * 4]).value
    1.5
    """
    right = np.asarray(is_right, dtype=bool)
    before = np.pad(right[:, :-1], ((0, 0), (1, 0)))
    return resampled_ratio(right.sum(axis=1), (right & ~before).sum(axis=1))


def kind_of(text: str) -> str:
    """Kind of a token by what it is written with.

    >>> [kind_of(one) for one in (" the", "12", "();", "  ", "x1")]
    ['letters', 'digits', 'signs', 'white space', 'mixed']
    """
    bare = text.strip()
    if not bare:
        return "white space"
    if bare.isalpha():
        return "letters"
    if bare.isdecimal():
        return "digits"
    return "mixed" if any(one.isalnum() for one in bare) else "signs"


def kinds_of(tokenizer: Any, vocab_size: int) -> npt.NDArray[np.int64]:
    """Number of the kind of every token id; what the tokenizer does not know is mixed.

    Args:
        tokenizer: a Hugging Face tokenizer.
        vocab_size: ids that the model knows.
    """
    known = min(len(tokenizer), vocab_size)
    texts = tokenizer.batch_decode([[index] for index in range(known)])
    found = np.full(vocab_size, KINDS.index("mixed"), dtype=np.int64)
    found[:known] = [KINDS.index(kind_of(text)) for text in texts]
    return found


# The result of `dynamics` in a sentence and in pictures.


def interval(row: dict[str, Any], name: str, *, scale: float = 100, unit: str = "") -> str:
    """`91.2 % [88.0, 94.1]` from three columns of a row."""
    value, low, high = (scale * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.1f}{unit} [{low:.1f}, {high:.1f}]"


def sentence(frames: dict[str, pl.DataFrame], settings: Any) -> str:
    """The result: M, T(τ), and what is left after one reading.

    Args:
        frames: of `dynamics`.
        settings: its settings.
    """
    whole = frames["tokens"].row(0, named=True)
    learnt = frames["thresholds"].row(0, named=True)
    floors = {row["arm"]: row for row in frames["floors"].iter_rows(named=True)}
    time = (
        f"does not reach M = {settings.threshold:g} on unseen sequences in {settings.epochs} epochs"
        if learnt["epochs"] is None
        else f"reaches M = {settings.threshold:g} on unseen sequences in {learnt['epochs']} epochs "
        f"({learnt['steps']} steps)"
    )
    return (
        f"Teacher-forced, the model has {interval(whole, 'm', unit=' %')} of all tokens right, in "
        f"runs of {interval(whole, 'mean_run', scale=1)} tokens; it {time}; of a batch read once, "
        f"the lowest M from its peak on is {interval(floors['once'], 'above_never')} points above "
        f"that of a run that never read it, and {settings.n_repeats} readings in a row or spaced "
        f"keep {interval(floors['repeated'], 'above_once')} and "
        f"{interval(floors['spaced'], 'above_once')} points more than one."
    )


def charts(frames: dict[str, pl.DataFrame], *, last_reading: int) -> tuple[Figure, ...]:
    """Forgetting, learning, right tokens by position and by kind.

    Args:
        frames: of `dynamics`.
        last_reading: steps made when the special batch has been read for the last time.
    """
    return (
        Chart(
            title="M of the special batch while training goes on, per cent (95 % interval)",
            series=_curves(frames["forgetting"], "arm", "step", "m"),
            x_label="steps",
            percent=True,
            marks=((float(last_reading), "read for the last time"),),
        ),
        Chart(
            title="M of unseen sequences while they are taught, and of others that are not, "
            "per cent (95 % interval)",
            series=(
                *_curves(frames["learning"], "model", "epoch", "m", "{}, taught"),
                *_curves(frames["learning"], "model", "epoch", "other_m", "{}, others"),
            ),
            x_label="epochs",
            percent=True,
        ),
        Chart(
            title="Right tokens by position, per cent",
            series=_curves(frames["positions"], "group", "position", "m", bare=True),
            x_label="position of the token",
            percent=True,
        ),
        _kinds_chart(frames["kinds"]),
    )


def _curves(
    frame: pl.DataFrame, by: str, x: str, y: str, name: str = "{}", *, bare: bool = False
) -> tuple[Series, ...]:
    """A curve a group."""
    parts = [
        (key, frame.filter(pl.col(by) == key)) for key in frame[by].unique(maintain_order=True)
    ]
    return tuple(
        series_of(name.format(key), part, y, x=x, ends=None if bare else (f"{y}_low", f"{y}_high"))
        for key, part in parts
    )


def _kinds_chart(frame: pl.DataFrame) -> Chart:
    """Right kind and right token of each kind, in all sequences."""
    part = frame.filter(pl.col("group") == "all")
    return Chart(
        title="Tokens of each kind: the kind right, and the token itself, per cent (95 % interval)",
        form="bars",
        percent=True,
        x_names=tuple(part["kind"]),
        series=tuple(
            series_of(name, part, column, ends=(f"{column}_low", f"{column}_high"))
            for name, column in (
                ("a token of this kind (R)", "right_kind"),
                ("this token (R mem)", "right_token"),
            )
        ),
    )


# Exact token memorization: how much of a text is right, how fast it is learnt, what is forgotten.

ARMS = ("never", "once", "repeated", "spaced")
"""How often the special batch is read, and how: the last time is the same step in all."""


class Settings(AnalysisSettings):
    """Settings of `dynamics`."""

    n_sequences: int | None = Field(
        default=2000, ge=10, description="Sequences of which M is told; null: all."
    )
    n_special: int = Field(
        default=32, ge=8, description="Unseen sequences that are learnt, and those beside them."
    )
    batch_size: int = Field(default=16, ge=1, description="Rows a training step.")
    learning_rate: float = Field(default=3e-4, gt=0, description="Of AdamW, constant.")
    threshold: float = Field(default=0.9, gt=0, le=1, description="τ: the M that counts as learnt.")
    epochs: int = Field(default=20, ge=1, description="Epochs of the learning curve, at most.")
    n_repeats: int = Field(default=4, ge=2, description="Times that a repeated batch is read.")
    gap: int = Field(default=5, ge=2, description="Steps between two readings when spaced.")
    steps_before: int = Field(
        default=10,
        ge=0,
        description="Steps before the first reading: a fresh optimizer's first ones are larger.",
    )
    steps_after: int = Field(default=30, ge=5, description="Steps after the last reading.")
    every: int = Field(default=5, ge=1, description="Steps from one look to the next.")


def epochs_to(curve: npt.ArrayLike, threshold: float) -> int | None:
    """T(τ): the fewest epochs after which M is at least τ.

    Args:
        curve: M after 0, 1, 2, … epochs.
        threshold: τ.

    Returns:
        The epochs, None where M never gets there.

    >>> epochs_to([0.1, 0.5, 0.95, 0.8], 0.9)
    2
    """
    reached = np.flatnonzero(np.asarray(curve) >= threshold)
    return int(reached[0]) if len(reached) else None


def insertions_of(arm: str, special: Rows, settings: Settings) -> Insertions:
    """When an arm reads the special batch: whole batches, the last reading at the same step.

    Args:
        arm: one of `ARMS`.
        special: one batch, shape (batch, length).
        settings: repeats and gap.
    """
    last = _last_reading(settings)
    steps = {
        "never": [],
        "once": [last],
        "repeated": [last - k for k in range(settings.n_repeats)],
        "spaced": [last - k * settings.gap for k in range(settings.n_repeats)],
    }[arm]
    return {step: dict(enumerate(special)) for step in steps}


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Tell M of the study's sequences, then teach copies of the model unseen ones.

    Args:
        inputs: with features; with other models their learning curves stand beside the model's.
        settings: how many sequences, and how they are taught.
    """
    if settings.batch_size > settings.n_special:
        raise UserError(
            f"analyze dynamics: batch_size {settings.batch_size} is above n_special "
            f"{settings.n_special}. Take a smaller batch, or more special sequences."
        )
    unseen = unseen_rows(inputs, 2 * settings.n_special, settings.seed, where="analyze dynamics")
    special, others = np.split(token_matrix(unseen).astype(np.int32), 2)
    frames = _memorized_tokens(inputs, settings)
    frames["learning"], frames["thresholds"] = _learning(inputs, settings, special, others)
    curves = _forgetting(inputs, settings, special[: settings.batch_size])
    frames["forgetting"], frames["floors"] = _forgetting_frames(curves, settings)
    return AnalysisResult(
        sentence=sentence(frames, settings),
        frames=frames,
        figures=charts(frames, last_reading=_last_reading(settings) + 1),
        further=_further(frames, settings),
    )


# -- what is memorized now ------------------------------------------------------------------


def _memorized_tokens(inputs: AnalysisInputs, settings: Settings) -> dict[str, pl.DataFrame]:
    """M, run lengths, agreement with the scan, kinds of token."""
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    right = _right_tokens(inputs, inputs.model(), token_matrix(rows), hash_ids(rows))
    groups = _groups(rows)
    found, places, kinds = [], [], []
    names = kinds_of(inputs.model().tokenizer, inputs.model().vocab_size)
    for name, mask in groups.items():
        part = right[mask]
        share, run = resampled_mean(part.is_right.mean(axis=1)), mean_run(part.is_right)
        suffix = part.is_right[:, inputs.prefix - 1 :]
        in_suffix = resampled_mean(suffix.mean(axis=1))
        found.append(
            {"group": name, "n": int(mask.sum()), "contexts": part.is_right.size}
            | share.columns("m")
            | in_suffix.columns("m_suffix")
            | run.columns("mean_run")
        )
        places += [
            {"group": name, "position": place + 1, "m": float(value)}
            for place, value in enumerate(part.is_right.mean(axis=0))
        ]
        kinds += [{"group": name} | row for row in part.by_kind(names)]
    suffix_right = right.is_right[:, inputs.prefix - 1 :].all(axis=1)
    disagree = suffix_right != rows["is_memorized"].to_numpy()
    return {
        "tokens": pl.DataFrame(found),
        "kinds": pl.DataFrame(kinds),
        "positions": pl.DataFrame(places),
        "agreement": pl.DataFrame({"n": [rows.height], "disagree": [int(disagree.sum())]}),
    }


def _groups(rows: pl.DataFrame) -> dict[str, npt.NDArray[np.bool_]]:
    """Memorized, and the rest; where duplicates are counted, the rest by seen in training or not.

    What is memorized without having been trained on is told apart as well: it was guessed.
    """
    memorized = rows["is_memorized"].to_numpy().astype(bool)
    groups = {"all": np.ones(rows.height, dtype=bool), "memorized": memorized}
    if "duplicates" in rows.columns:
        seen = (rows["duplicates"].fill_null(0) > 0).to_numpy()
        groups |= {
            "memorized, trained on": memorized & seen,
            "memorized, not trained on": memorized & ~seen,
            "not memorized, trained on": ~memorized & seen,
            "not memorized, not trained on": ~memorized & ~seen,
        }
    else:
        groups["not memorized"] = ~memorized
    return {name: mask for name, mask in groups.items() if mask.any()}


def _right_tokens(
    inputs: AnalysisInputs, lm: "LanguageModel", tokens: npt.NDArray[Any], ids: str
) -> RightTokens:
    """Every token but the first, judged after the true ones before it."""
    from mnemoscope.lm.continue_ import best_tokens

    def make() -> pl.DataFrame:
        best = best_tokens(lm, tokens, batch_size=inputs.batch_size)
        return pl.DataFrame({"best": pl.Series(best.tolist(), dtype=pl.List(pl.Int32))})

    kept = inputs.shelf("best", {**model_basis(lm), "length": inputs.length, "ids": ids}, make)
    return RightTokens(tokens[:, 1:].astype(np.int64), token_matrix(kept, "best").astype(np.int64))


# -- learning -------------------------------------------------------------------------------


def _learning(
    inputs: AnalysisInputs, settings: Settings, special: Rows, others: Rows
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Teach each model the special sequences, epoch by epoch, beside others it is not taught."""
    models = [("this model", inputs.model()), *inputs.other_models()]
    steps = -(-len(special) // settings.batch_size)
    curves, thresholds = [], []
    for name, lm in models:
        curve = inputs.shelf(
            "learning",
            {**model_basis(lm), "settings": _chosen(settings, _TEACHING, "threshold", "epochs")}
            | {"rows": _digest(special, others)},
            lambda lm=lm, name=name: _learn(lm, name, settings, special, others),  # type: ignore[misc]
        )
        curves.append(curve.with_columns(pl.lit(name).alias("model")))
        epochs = epochs_to(curve["m"], settings.threshold)
        best = int(curve["other_loss"].arg_min() or 0)
        thresholds.append(
            {"model": name, "parameters": sum(one.numel() for one in lm.model.parameters())}
            | {"threshold": settings.threshold, "epochs": epochs}
            | {"steps": None if epochs is None else epochs * steps}
            | {"epoch_of_lowest_other_loss": best, "m_there": curve["m"][best]}
        )
    return pl.concat(curves), pl.DataFrame(thresholds, infer_schema_length=None)


def _learn(
    lm: "LanguageModel", name: str, settings: Settings, special: Rows, others: Rows
) -> pl.DataFrame:
    """M of what is taught and of the others, after 0, 1, 2, … epochs, up to the threshold."""
    from mnemoscope.lm.fine_tuning import FineTuning

    tuning = FineTuning(lm, _step_settings(settings))
    rng = np.random.default_rng(settings.seed)
    rows = [_look(tuning, special, others, settings)]
    with track(f"Teaching {name}", total=settings.epochs, unit="epochs") as progress:
        for _ in range(settings.epochs):
            order = rng.permutation(len(special))
            for start in range(0, len(order), settings.batch_size):
                tuning.train(special[order[start : start + settings.batch_size]])
            rows.append(_look(tuning, special, others, settings))
            progress.advance()
            if rows[-1]["m"] >= settings.threshold:
                break
    return pl.DataFrame(rows).with_row_index("epoch")


def _look(tuning: "FineTuning", special: Rows, others: Rows, settings: Settings) -> dict[str, Any]:
    from mnemoscope.lm.probe import teacher_forced

    taught, other = (
        teacher_forced(tuning.lm, rows, batch_size=settings.batch_size, prefix=1)
        for rows in (special, others)
    )
    share, beside = (
        resampled_mean(taught.is_right.mean(axis=1)),
        resampled_mean(other.is_right.mean(axis=1)),
    )
    return {
        "steps": tuning.step,
        **share.columns("m"),
        **beside.columns("other_m"),
        "mean_run": mean_run(taught.is_right).value,
        "loss": float(-taught.logprobs.mean(dtype=np.float64)),
        "other_loss": float(-other.logprobs.mean(dtype=np.float64)),
    }


# -- forgetting -----------------------------------------------------------------------------


def _forgetting(inputs: AnalysisInputs, settings: Settings, special: Rows) -> pl.DataFrame:
    """M of every special sequence at every look of every arm."""
    n_steps = _last_reading(settings) + 1 + settings.steps_after
    rows = training_rows(inputs, n_steps * settings.batch_size, where="analyze dynamics")
    stream = stream_rows(rows, n_steps, settings.batch_size, settings.seed)
    lm = inputs.model()
    basis = {
        **model_basis(lm),
        "settings": _chosen(settings, _TEACHING, *_FORGETTING),
        "rows": _digest(special, rows),
    }
    arms = [
        inputs.shelf(
            "forgetting",
            {**basis, "arm": arm},
            lambda arm=arm: _arm(lm, arm, settings, special, stream),  # type: ignore[misc]
        )
        for arm in ARMS
    ]
    return pl.concat(arms)


def _arm(
    lm: "LanguageModel", arm: str, settings: Settings, special: Rows, stream: npt.NDArray[np.int32]
) -> pl.DataFrame:
    from mnemoscope.lm.continue_ import right_tokens
    from mnemoscope.lm.fine_tuning import FineTuning

    last = _last_reading(settings) + 1

    def look(now: "LanguageModel", step: int) -> dict[str, Any] | None:
        if step % settings.every and step not in (last, len(stream)):
            return None
        right = right_tokens(now, special, batch_size=settings.batch_size, prefix=1)
        return {"arm": arm, "step": step, "m": right.mean(axis=1).tolist()}

    tuning = FineTuning(lm, _step_settings(settings))
    with track(f"Training on, special batch {arm}", total=len(stream), unit="steps") as progress:
        insertions = insertions_of(arm, special, settings)
        found = run_arm(tuning, stream, insertions, look, every=1, progress=progress)
    frame = pl.DataFrame([row for row in found if row is not None])
    return frame.with_columns(pl.lit(tuning.digest()).alias("weights_at_end"))


def _forgetting_frames(
    curves: pl.DataFrame, settings: Settings
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The curves with their intervals, each arm's peak, and its floor: its lowest M from there on.

    M goes on rising for a while after a reading, since the optimizer goes on in its direction, so
    the floor is looked for from the peak on. It is the M of one step, the same for all sequences:
    its interval is that of a mean; differences are paired over sequences.
    """
    last = _last_reading(settings) + 1
    rows, floors = [], []
    at_floor: dict[str, npt.NDArray[np.float64]] = {}
    for arm in ARMS:
        part = curves.filter(pl.col("arm") == arm)
        matrix = np.array(part["m"].to_list())
        rows += [
            {"arm": arm, "step": step} | resampled_mean(values).columns("m")
            for step, values in zip(part["step"].to_list(), matrix, strict=True)
        ]
        later = part["step"].to_numpy() >= last
        means = matrix.mean(axis=1)
        peak = int(np.argmax(np.where(later, means, -np.inf)))
        lowest = peak + int(np.argmin(means[peak:]))
        at_floor[arm] = matrix[lowest]
        floors.append(
            {"arm": arm, "peak": float(means[peak]), "peak_at_step": int(part["step"][peak])}
            | {"floor_at_step": int(part["step"][lowest])}
            | resampled_mean(matrix[lowest]).columns("floor")
            | {"weights_at_end": part["weights_at_end"][0]}
        )
    for arm, row in zip(ARMS, floors, strict=True):
        for other in ("never", "once"):
            above = resampled_difference(at_floor[arm], at_floor[other])
            row |= above.columns(f"above_{other}")
    return pl.DataFrame(rows), pl.DataFrame(floors)


def _last_reading(settings: Settings) -> int:
    """The step, from 0, at which every arm reads the special batch for the last time."""
    return settings.steps_before + (settings.n_repeats - 1) * settings.gap


_TEACHING = ("batch_size", "learning_rate", "seed")
_FORGETTING = ("n_repeats", "gap", "steps_before", "steps_after", "every")


def _chosen(settings: Settings, names: tuple[str, ...], *more: str) -> dict[str, Any]:
    """The settings that decide something kept."""
    return settings.model_dump(mode="json", include={*names, *more})


def _step_settings(settings: Settings) -> Any:
    from mnemoscope.lm.fine_tuning import StepSettings

    return StepSettings(settings.learning_rate, seed=settings.seed)


def _digest(*tables: Rows) -> str:
    import hashlib

    digest = hashlib.sha256()
    for table in tables:
        digest.update(repr(table.shape).encode() + np.ascontiguousarray(table).tobytes())
    return digest.hexdigest()


def _further(frames: dict[str, pl.DataFrame], settings: Settings) -> tuple[str, ...]:
    n, disagree = frames["agreement"].row(0)
    beside = (
        ""
        if frames["thresholds"].height > 1
        else " No second model: whether a larger one learns in fewer epochs is not seen here."
    )
    return (
        f"Restricted to the suffix, M = 1 and a memorization score of 1 are one thing up to "
        f"numerical ties: they disagree on {disagree:,} of {n:,} sequences.",
        f"Every run is of one seed: intervals are over the {settings.n_special} special sequences "
        f"({settings.batch_size} where forgetting is followed), not over runs.",
        "After a reading M goes on rising, since AdamW goes on in its direction; the lowest M is "
        "looked for from the peak on. Sequences of the study on which the model is trained on "
        "are known to it, so little pushes what was read out again." + beside,
    )
