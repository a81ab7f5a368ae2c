"""Exact token memorization: how much of a text is right, how fast it is learnt, what is forgotten.

Source: Tirumala, Markosyan, Zettlemoyer, Aghajanyan 2022, "Memorization Without Overfitting",
arXiv 2205.10770; section 7 of the related work: M(f) = share of contexts whose teacher-forced
argmax is the truth, T(τ) = fewest epochs with M ≥ τ, M of a batch seen once while training goes on,
repeated and spaced, mean run of right tokens; a unique identifier before each text. Kinds of token
stand for their parts of speech. The control of identifiers is ours: one that all texts share.
Run it: mnemoscope analyze dynamics STUDY --second MODEL
or: mnemoscope analyze dynamics MASKED_LM --rows TABLE (`flow.dynamics_rows`)
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope import Estimate, UserError
from mnemoscope.plugin import (
    OWN,
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    FineTuning,
    LanguageModel,
    StepSettings,
    best_tokens,
    counted_names,
    draw_rows,
    frame_of,
    hash_arrays,
    n_groups,
    ranged,
    resampled_mean,
    resampled_ratio,
    right_tokens,
    rows_of,
    run_arm,
    seen_in_training,
    series_by,
    series_of,
    stream_rows,
    teacher_forced,
    token_matrix,
    track,
    training_rows,
    unseen_note,
    unseen_rows,
)

_Rows = npt.NDArray[np.int32]
_Insertions = Mapping[int, Mapping[int, npt.NDArray[np.int32]]]

KINDS = ("letters", "digits", "signs", "white space", "mixed")
"""What a token is written with, white space around it aside."""

ARMS = ("never", "once", "repeated", "spaced")
"""How often the special batch is read, and how: the last time is the same step in all."""

IDENTIFIERS = ("none", "own", "shared")
"""What stands before each taught text: nothing, a number of its own, or one that all share."""

_TEACHING = {"batch_size", "learning_rate", "seed"}  # settings that decide what is kept
_LEARNING = _TEACHING | {"threshold", "epochs"}
_FORGETTING = _TEACHING | {"n_repeats", "gap", "steps_before", "steps_after", "every"}


class Teaching(AnalysisSettings):
    """How a copy of a model is taught."""

    n_special: int = Field(
        default=32, ge=8, description="Unseen sequences that are learnt, and those beside them."
    )
    batch_size: int = Field(default=16, ge=1, description="Rows a training step.")
    learning_rate: float = Field(default=3e-4, gt=0, description="Of AdamW, constant.")
    threshold: float = Field(default=0.9, gt=0, le=1, description="τ: the M that counts as learnt.")
    epochs: int = Field(default=20, ge=1, description="Epochs of the learning curve, at most.")

    def tuning(self, lm: LanguageModel) -> FineTuning:
        """A copy of a model, to be trained."""
        return FineTuning(lm, StepSettings(self.learning_rate, seed=self.seed))


class Settings(Teaching):
    """Settings of `dynamics`."""

    n_sequences: int | None = Field(
        default=2000, ge=10, description="Sequences of which M is told; null: all."
    )
    n_repeats: int = Field(default=4, ge=2, description="Times that a repeated batch is read.")
    gap: int = Field(default=5, ge=2, description="Steps between two readings when spaced.")
    steps_before: int = Field(
        default=10,
        ge=0,
        description="Steps before the first reading: a fresh optimizer's first ones are larger.",
    )
    steps_after: int = Field(default=30, ge=5, description="Steps after the last reading.")
    every: int = Field(default=5, ge=1, description="Steps from one look to the next.")

    @property
    def last_reading(self) -> int:
        """The step, from 0, at which every arm reads the special batch for the last time."""
        return self.steps_before + (self.n_repeats - 1) * self.gap


class KindRight(NamedTuple):
    """R and R_mem of one kind of token."""

    kind: str
    n: int
    right_kind: Estimate  # R: share of n for which the model says a token of that kind
    right_token: Estimate  # R_mem: for which it says the token


def right_by_kind(
    wanted: npt.NDArray[np.integer[Any]],
    best: npt.NDArray[np.integer[Any]],
    kinds: npt.NDArray[np.int64],
    groups: npt.ArrayLike | None = None,
) -> list[KindRight]:
    """R and R_mem of each kind of token, of true tokens, (n, T), and the model's argmax there.

    From the number of the kind of each token id, for each kind that occurs.
    """
    truth, said, rows = kinds[wanted], kinds[best], []
    for number, name in enumerate(KINDS):
        here = truth == number
        if here.any():
            kind, token = (
                resampled_ratio((here & so).sum(axis=1), here.sum(axis=1), groups)
                for so in (said == number, wanted == best)
            )
            rows.append(KindRight(name, int(here.sum()), kind, token))
    return rows


def mean_run(is_right: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Estimate:
    """Memory-unit length: the mean run of right tokens, (n, T); a run ends with its sequence.

    >>> mean_run([[True, True, False, True], [False] * 4]).value
    1.5
    """
    right = np.asarray(is_right, dtype=bool)
    before = np.pad(right[:, :-1], ((0, 0), (1, 0)))
    return resampled_ratio(right.sum(axis=1), (right & ~before).sum(axis=1), groups)


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


def epochs_to(curve: npt.ArrayLike, threshold: float) -> int | None:
    """T(τ): the fewest epochs after which M is at least τ; None where M never gets there.

    >>> epochs_to([0.1, 0.5, 0.95, 0.8], 0.9)
    2
    """
    reached = np.flatnonzero(np.asarray(curve) >= threshold)
    return int(reached[0]) if len(reached) else None


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Sequences, all epochs and every arm, with looks on the way, of each model.

    This model's epochs once more for every kind of identifier.
    """
    n, read = inputs.table.height, settings.batch_size
    told = min(n, settings.n_sequences or n)
    learnt = settings.n_special * (settings.epochs + 2 * (settings.epochs + 1))
    n_steps = settings.last_reading + 1 + settings.steps_after
    looks = {*range(0, n_steps + 1, settings.every), settings.last_reading + 1, n_steps}
    each = told + learnt + len(ARMS) * read * (n_steps + len(looks))
    return (1 + len(inputs.others)) * each + (len(IDENTIFIERS) - 1) * learnt


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Tell M of the study's sequences, then teach copies of the model unseen ones.

    Raises UserError: a batch above the special sequences, or too few that the model cannot know.
    """
    if settings.batch_size > settings.n_special:
        raise UserError(
            f"analyze dynamics: batch_size {settings.batch_size} is above n_special "
            f"{settings.n_special}. Take a smaller batch, or more special sequences."
        )
    unseen = unseen_rows(
        inputs, 2 * settings.n_special, settings.seed, where="analyze dynamics", setting="n_special"
    )
    taught, beside = unseen[: settings.n_special], unseen[settings.n_special :]
    special = token_matrix(taught).astype(np.int32)
    frames = _memorized_tokens(inputs, settings)
    frames["learning"], frames["thresholds"] = _learning(inputs, settings, taught, beside)
    near = inputs.near_duplicates(taught["sequence_id"][: settings.batch_size])
    forgetting = {
        name: _forgetting_frames(
            _forgetting(inputs, settings, lm, special[: settings.batch_size]), settings, near
        )
        for name, lm in inputs.models()
    }
    for place, which in enumerate(("forgetting", "floors")):
        frames[which] = pl.concat(
            each[place].select(pl.lit(name).alias("model"), pl.all())
            for name, each in forgetting.items()
        )
    return AnalysisResult(
        sentence=_sentence(frames, settings),
        frames=frames,
        figures=_charts(frames, settings),
        further=(
            *_further(frames, settings),
            *unseen_note(inputs.table),
        ),
    )


def _memorized_tokens(inputs: AnalysisInputs, settings: Settings) -> dict[str, pl.DataFrame]:
    """M and run lengths under each model; of this one agreement with the scan, kinds of token."""
    lm = inputs.model()
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    wanted = token_matrix(rows)[:, 1:]
    of_model = {name: _best_of(inputs, one, rows) for name, one in inputs.models()}
    best = of_model[OWN]
    n_known = min(len(lm.tokenizer), lm.vocab_size)
    kinds = np.full(lm.vocab_size, KINDS.index("mixed"), dtype=np.int64)  # also what is unknown
    texts = lm.tokenizer.batch_decode([[index] for index in range(n_known)])
    kinds[:n_known] = [KINDS.index(kind_of(text)) for text in texts]
    found, places, by_kind = [], [], []
    for name, mask in _groups(rows).items():
        near = inputs.near_duplicates(rows["sequence_id"].filter(mask))
        for model, said in of_model.items():
            right = wanted[mask] == said[mask]
            found.append(
                {"model": model, "group": name, "n": int(mask.sum()), "n_groups": n_groups(near)}
                | {"contexts": right.size, "m": resampled_mean(right.mean(axis=1), near)}
                | {"m_suffix": resampled_mean(right[:, inputs.prefix - 1 :].mean(axis=1), near)}
                | {"mean_run": mean_run(right, near)}
            )
        right = wanted[mask] == best[mask]
        places += [
            {"group": name, "position": place, "m": value}
            for place, value in enumerate(right.mean(axis=0).tolist(), start=1)
        ]
        by_kind += [
            {"group": name, **one._asdict()}
            for one in right_by_kind(wanted[mask], best[mask], kinds, near)
        ]
    suffix_right = (wanted == best)[:, inputs.prefix - 1 :].all(axis=1)
    disagree = suffix_right != rows["is_memorized"].to_numpy()
    return {
        "tokens": frame_of(found),
        "kinds": frame_of(by_kind),
        "positions": pl.DataFrame(places),
        "agreement": pl.DataFrame({"n": [rows.height], "disagree": [int(disagree.sum())]}),
    }


def _best_of(
    inputs: AnalysisInputs, lm: LanguageModel, rows: pl.DataFrame
) -> npt.NDArray[np.int32]:
    """The best token at every place of every row after the first, kept."""

    def make() -> pl.DataFrame:
        best = best_tokens(lm, token_matrix(rows), batch_size=inputs.batch_size)
        return pl.DataFrame({"best": pl.Series(best.tolist(), dtype=pl.List(pl.Int32))})

    basis = {**lm.basis, "length": inputs.length, "ids": hash_arrays(rows["sequence_id"])}
    return token_matrix(inputs.shelf("best", basis, make), "best").astype(np.int32)


def _groups(rows: pl.DataFrame) -> dict[str, npt.NDArray[np.bool_]]:
    """Memorized, and the rest, each by seen in training or not where duplicates are counted."""
    memorized = rows["is_memorized"].to_numpy().astype(bool)
    groups = {"all": np.ones(rows.height, dtype=bool), "memorized": memorized}
    seen = seen_in_training(rows)
    if seen.count():
        for kind, own in (("memorized", memorized), ("not memorized", ~memorized)):
            groups[f"{kind}, trained on"] = own & seen.fill_null(False).to_numpy()
            groups[f"{kind}, not trained on"] = own & ~seen.fill_null(True).to_numpy()
    else:
        groups["not memorized"] = ~memorized
    return {name: mask for name, mask in groups.items() if mask.any()}


def _learning(
    inputs: AnalysisInputs, settings: Settings, taught: pl.DataFrame, beside: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Teach each model some sequences, epoch by epoch, beside others it is not taught.

    This model once more for every kind of identifier, where its positions have room for one.
    """
    special, others = (token_matrix(rows).astype(np.int32) for rows in (taught, beside))
    near = [inputs.near_duplicates(rows["sequence_id"]) for rows in (taught, beside)]
    chosen = settings.model_dump(mode="json", include=_LEARNING)
    rows = hash_arrays(special, others, *near)

    def learn(lm: LanguageModel, name: str, before: _Rows) -> pl.DataFrame | None:
        length = len(lm.before) + before.shape[1] + inputs.length
        if lm.max_positions is not None and length > lm.max_positions:
            return None
        about = {**lm.basis, "settings": chosen, "rows": rows}
        about |= {"identifier": hash_arrays(before)} if before.shape[1] else {}
        make = partial(_learn, lm, name, settings, before, special, others, near)
        return inputs.shelf("learning", about, make)

    return learning_curves(inputs, settings, learn)


def learning_curves(
    inputs: AnalysisInputs,
    settings: Teaching,
    learn: Callable[[LanguageModel, str, _Rows], pl.DataFrame | None],
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The curves of every model, of this one with every kind of identifier, and their thresholds.

    `learn` is told the model, its name and the identifiers; it gives None where they do not fit.
    """
    curves, thresholds = [], []
    for name, lm in inputs.models():
        for kind in IDENTIFIERS if name == OWN else IDENTIFIERS[:1]:
            before = identifiers(lm, settings.n_special, kind, settings.seed)
            curve = None if before is None else learn(lm, name, before)
            if curve is not None:
                about = {"model": name, "identifier": kind}
                curves.append(curve.with_columns(pl.lit(v).alias(k) for k, v in about.items()))
                thresholds.append({**about, **threshold_of(lm, curve, settings)})
    return pl.concat(curves), pl.DataFrame(thresholds, infer_schema_length=None)


def identifiers(lm: LanguageModel, n: int, kind: str, seed: int) -> npt.NDArray[np.int32] | None:
    """Tokens of "document ID NUMBER:" to stand before each of n texts, (n, k), one of IDENTIFIERS.

    Numbers have six digits and are drawn, each once, among those that take equally many tokens, so
    that rows stay of one length. None where the tokenizer gives no n of one length.
    """
    if kind == "none":
        return np.empty((n, 0), dtype=np.int32)
    drawn = np.random.default_rng(seed).choice(900_000, 20 * n, replace=False) + 100_000
    texts = [f"document ID {number}:" for number in drawn]
    tokens = lm.tokenizer(texts, add_special_tokens=False)["input_ids"]
    lengths = [len(one) for one in tokens]
    usual = max(sorted({*lengths}), key=lengths.count)
    chosen = [one for one in tokens if len(one) == usual][:n]
    if len(chosen) < n or len({*map(tuple, chosen)}) < n:
        return None
    return np.array(chosen if kind == "own" else [chosen[0]] * n, dtype=np.int32)


def threshold_of(lm: LanguageModel, curve: pl.DataFrame, settings: Teaching) -> dict[str, object]:
    """T(N, τ) of a learning curve: epochs and steps, and M when the loss of others is lowest."""
    m = curve["m"].struct.field("value")
    look = epochs_to(m, settings.threshold)
    best = int(curve["other_loss"].arg_min() or 0)
    return {
        "parameters": sum(one.numel() for one in lm.model.parameters()),
        "threshold": settings.threshold,
        "epochs": None if look is None else curve["epoch"][look],
        "steps": None if look is None else curve["steps"][look],
        "epoch_of_lowest_other_loss": curve["epoch"][best],
        "m_there": m[best],
    }


class LearningLook(NamedTuple):
    """What is right after some steps of what is taught, and of other sequences."""

    steps: int
    n_groups: int | None
    m: Estimate
    other_m: Estimate
    mean_run: float | None
    loss: float
    other_loss: float


def learning_curve(
    name: str,
    settings: Teaching,
    look: Callable[[], LearningLook],
    read: Callable[[npt.NDArray[np.int64]], object],
    every: int = 1,
) -> pl.DataFrame:
    """Read `n_special` texts in a drawn order, batch by batch, until M is at the threshold.

    It looks before, and after `every` epochs. `read` is given the numbers of a batch's texts.
    """
    rng, rows, looked = np.random.default_rng(settings.seed), [look()], [0]
    with track(f"Teaching {name}", total=settings.epochs, unit="epochs") as progress:
        for epoch in range(1, settings.epochs + 1):
            order = rng.permutation(settings.n_special)
            for start in range(0, len(order), settings.batch_size):
                read(order[start : start + settings.batch_size])
            progress.advance()
            if epoch % every and epoch < settings.epochs:
                continue
            rows.append(look())
            looked.append(epoch)
            if (rows[-1].m.value or 0.0) >= settings.threshold:
                break
    epochs = pl.Series("epoch", looked, dtype=pl.UInt32)
    return frame_of(row._asdict() for row in rows).select(epochs, pl.all())


def _learn(
    lm: LanguageModel,
    name: str,
    settings: Settings,
    before: _Rows,
    special: _Rows,
    others: _Rows,
    near: Sequence[npt.NDArray[np.int64]],
) -> pl.DataFrame:
    """The learning curve of sequences with something `before` each, which is read, not judged."""
    tuning = settings.tuning(lm)
    taught = np.concatenate([before, special], axis=1)

    def look() -> LearningLook:
        own, other = (
            teacher_forced(tuning.lm, rows, batch_size=settings.batch_size, prefix=prefix)
            for rows, prefix in ((taught, before.shape[1] + 1), (others, 1))
        )
        return LearningLook(
            steps=tuning.step,
            n_groups=n_groups(near[0]),
            m=resampled_mean(own.is_right.mean(axis=1), near[0]),
            other_m=resampled_mean(other.is_right.mean(axis=1), near[1]),
            mean_run=mean_run(own.is_right).value,
            loss=float(-own.logprobs.mean(dtype=np.float64)),
            other_loss=float(-other.logprobs.mean(dtype=np.float64)),
        )

    return learning_curve(name, settings, look, lambda rows: tuning.train(taught[rows]))


def insertions_of(arm: str, special: _Rows, settings: Settings) -> _Insertions:
    """When an arm reads the special batch, (batch, length): the last reading at the same step."""
    last = settings.last_reading
    steps = {
        "never": [],
        "once": [last],
        "repeated": [last - k for k in range(settings.n_repeats)],
        "spaced": [last - k * settings.gap for k in range(settings.n_repeats)],
    }[arm]
    return {step: dict(enumerate(special)) for step in steps}


def _forgetting(
    inputs: AnalysisInputs, settings: Settings, lm: LanguageModel, special: _Rows
) -> pl.DataFrame:
    """M of every special sequence at every look of every arm, of one model."""
    n_steps = settings.last_reading + 1 + settings.steps_after
    rows = training_rows(inputs, n_steps * settings.batch_size, where="analyze dynamics")
    stream = stream_rows(rows, n_steps, settings.batch_size, settings.seed)
    basis = {
        **lm.basis,
        "settings": settings.model_dump(mode="json", include=_FORGETTING),
        "rows": hash_arrays(special, rows),
    }
    train = partial(_train, lm, settings, special, stream)
    return pl.concat(
        inputs.shelf("forgetting", {**basis, "arm": arm}, partial(train, arm)) for arm in ARMS
    )


def _train(
    lm: LanguageModel, settings: Settings, special: _Rows, stream: npt.NDArray[np.int32], arm: str
) -> pl.DataFrame:
    """One arm: M of every special sequence on the way, and the weights at its end."""

    def look(now: LanguageModel, step: int) -> pl.DataFrame:
        if step % settings.every and step not in (settings.last_reading + 1, len(stream)):
            return pl.DataFrame()
        right = right_tokens(now, special, batch_size=settings.batch_size, prefix=1)
        return pl.DataFrame({"arm": [arm], "step": [step], "m": [right.mean(axis=1).tolist()]})

    tuning = settings.tuning(lm)
    with track(f"Training on, special batch {arm}", total=len(stream), unit="steps") as progress:
        insertions = insertions_of(arm, special, settings)
        found = run_arm(tuning, stream, insertions, look, every=1, progress=progress)
    return pl.concat(one for one in found if one.height).with_columns(
        pl.lit(tuning.digest()).alias("weights_at_end")
    )


def _forgetting_frames(
    curves: pl.DataFrame, settings: Settings, near: npt.NDArray[np.int64] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The curves with their intervals, each arm's peak, and its floor: its lowest M from there on.

    M goes on rising for a while after a reading, since the optimizer goes on in its direction. The
    floor is the M of one step: its interval is that of a mean; differences are paired.
    """
    rows, floors = [], []
    at_floor: dict[str, npt.NDArray[np.float64]] = {}
    for arm in ARMS:
        part = curves.filter(arm=arm)
        matrix = np.array(part["m"].to_list())
        rows += [
            {"arm": arm, "step": step} | {"m": resampled_mean(values, near)}
            for step, values in zip(part["step"].to_list(), matrix, strict=True)
        ]
        later = part["step"].to_numpy() > settings.last_reading
        means = matrix.mean(axis=1)
        peak = int(np.argmax(np.where(later, means, -np.inf)))
        lowest = peak + int(np.argmin(means[peak:]))
        at_floor[arm] = matrix[lowest]
        floors.append(
            {"arm": arm, "peak": float(means[peak]), "peak_at_step": int(part["step"][peak])}
            | {"floor_at_step": int(part["step"][lowest])}
            | {"n": matrix.shape[1], "n_groups": n_groups(near)}
            | {"floor": resampled_mean(matrix[lowest], near)}
            | {"weights_at_end": part["weights_at_end"][0]}
        )
    for arm, row in zip(ARMS, floors, strict=True):
        for other in ("never", "once"):
            above = resampled_mean(at_floor[arm] - at_floor[other], near)
            row[f"above_{other}"] = above
    return frame_of(rows), frame_of(floors)


def learnt_words(thresholds: pl.DataFrame, settings: Teaching) -> str:
    """T(N, τ) of every model, "T(4.0 million parameters, 0.9) = 9 epochs", and by identifier."""

    def epochs(row: Mapping[str, Any]) -> str:
        found = row["epochs"]
        return f"more than {settings.epochs}" if found is None else f"{found}"

    rows = [*rows_of(thresholds)]
    plain = [row for row in rows if row["identifier"] == "none"]
    said = "; ".join(
        f"{'' if row['model'] == OWN else row['model'] + ': '}T({row['parameters'] / 1e6:,.3g} "
        f"million parameters, {settings.threshold:g}) = {epochs(row)} epochs"
        for row in plain
    )
    by_kind = {row["identifier"]: epochs(row) for row in rows if row["model"] == OWN}
    if len(by_kind) < len(IDENTIFIERS):
        return said
    return (
        f"{said}; with a number of its own before each text {by_kind['own']}, with one that all "
        f"share {by_kind['shared']}"
    )


def _sentence(frames: dict[str, pl.DataFrame], settings: Settings) -> str:
    whole = next(rows_of(frames["tokens"].filter(model=OWN)))
    floors = {row["arm"]: row for row in rows_of(frames["floors"].filter(model=OWN))}
    return (
        f"Teacher-forced, the model has {ranged(whole['m'], scale=100, unit=' %')} of all tokens "
        f"right, in runs of {ranged(whole['mean_run'])} tokens. Unseen sequences are learnt in "
        f"{learnt_words(frames['thresholds'], settings)}. Of a batch read once, "
        f"the lowest M from its peak on is {ranged(floors['once']['above_never'], scale=100)} "
        f"points above that of a run that never read it, and {settings.n_repeats} readings in a "
        f"row or spaced keep {ranged(floors['repeated']['above_once'], scale=100)} and "
        f"{ranged(floors['spaced']['above_once'], scale=100)} points more than one."
    )


def _charts(frames: dict[str, pl.DataFrame], settings: Settings) -> tuple[Chart, ...]:
    kinds, forgetting = frames["kinds"].filter(group="all"), frames["forgetting"].filter(model=OWN)
    sizes = frames["tokens"].filter(model=OWN).select("group", "n")
    positions = frames["positions"].join(sizes, on="group", maintain_order="left")
    return (
        Chart(
            title="M of the special batch while training goes on, per cent (95 % interval)",
            series=series_by(forgetting.with_columns(n=settings.batch_size), "arm", "m", x="step"),
            x_label="steps",
            percent=True,
            marks=((float(settings.last_reading + 1), "read for the last time"),),
        ),
        learning_chart(frames["learning"], settings),
        Chart(
            title="Right tokens by position, per cent",
            series=series_by(positions, "group", "m", x="position"),
            x_label="position of the token",
            percent=True,
        ),
        Chart(
            title="Tokens of each kind: the kind right, and the token itself, per cent "
            "(95 % interval)",
            form="bars",
            percent=True,
            x_names=counted_names(kinds, "kind"),
            series=(
                series_of("a token of this kind (R)", kinds.drop("n"), "right_kind"),
                series_of("this token (R mem)", kinds.drop("n"), "right_token"),
            ),
        ),
    )


def learning_chart(learning: pl.DataFrame, settings: Teaching) -> Chart:
    """M by epoch, of each model; and with each kind of identifier."""
    name = (
        pl.when(identifier="none")
        .then("model")
        .otherwise("model" + pl.lit(", identifier ") + pl.col("identifier"))
    )
    named = learning.with_columns(name.alias("who"), n=settings.n_special)
    return Chart(
        title="M of unseen sequences while they are taught, and of others that are not, "
        "per cent (95 % interval)",
        series=tuple(
            series
            for y, name in (("m", "{}, taught"), ("other_m", "{}, others"))
            for series in series_by(named, "who", y, x="epoch", name=name)
        ),
        x_label="epochs",
        percent=True,
    )


def _further(frames: dict[str, pl.DataFrame], settings: Settings) -> tuple[str, ...]:
    n, disagree = frames["agreement"].row(0)
    beside = (
        ""
        if frames["thresholds"]["model"].n_unique() > 1
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
