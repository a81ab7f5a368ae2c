"""Controlled injection: what does the model learn of a text put into its training every N steps?

Source: Huang, Yang, Potts 2024, "Demystifying Verbatim Memorization in Large Language Models",
arXiv 2407.17817; section 3.2 of the related work: a treated run reads the rows of a control run,
some replaced by the text; the verbatim length of the text over the steps of both. Beside the
texts stand others whose tokens are shuffled, to be learnt without being language.
Run it: mnemoscope analyze inject STUDY
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.dynamics import interval
from mnemoscope.analysis.figures import Chart, series_of
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.analysis.length import Prompt, by_tokens
from mnemoscope.analysis.rows import (
    Insertions,
    model_basis,
    run_arm,
    stream_rows,
    training_rows,
    unseen_rows,
)
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError
from mnemoscope.progress import track
from mnemoscope.stats import resampled_difference, resampled_mean

if TYPE_CHECKING:
    from mnemoscope.lm.model import LanguageModel


ARMS = ("control", "treated")
PLAIN, SHUFFLED = "text", "shuffled text"
_LEAST = 8  # tokens that must be left after a prompt
_SHORTEST = 24
_PAD = -1


class Settings(AnalysisSettings):
    """Settings of `inject`."""

    texts: tuple[str, ...] | None = Field(
        default=None, description="Texts to put in; null: sequences that the model cannot know."
    )
    n_texts: int = Field(
        default=12, ge=2, description="How many sequences are put in, and as many shuffled ones."
    )
    every: int = Field(default=12, ge=1, description="N: each text is put in every N steps.")
    n_insertions: int = Field(default=4, ge=1, description="How often each text is put in.")
    steps_after: int = Field(default=12, ge=0, description="Steps after the last insertion.")
    batch_size: int = Field(default=16, ge=1, description="Rows a training step.")
    learning_rate: float = Field(default=2.79e-4, gt=0, description="Of AdamW, constant.")
    prompts: tuple[int, ...] = Field(
        default=(8, 16, 32), min_length=1, description="Tokens of the prompts."
    )
    stride: int = Field(
        default=8, ge=1, description="Tokens from one start of a prompt to the next."
    )


class Injected(NamedTuple):
    """One text that is put in.

    Attributes:
        name: of the text.
        kind: ``text`` or ``shuffled text``.
        ids: its tokens, at most as many as a row.
    """

    name: str
    kind: str
    ids: npt.NDArray[np.int32]


class _Unseen:
    """Progress of a look, which is none of the run's."""

    def advance(self, n: int = 1) -> None:
        """Say nothing."""


def insertions_of(
    texts: Sequence[Injected], settings: Settings, *, length: int, pad: int = _PAD
) -> Insertions:
    """Say which text replaces which row: text j at every step s with s ≡ j (mod N).

    Args:
        texts: what is put in.
        settings: N, and how often.
        length: tokens of a row; a shorter text has padding before it.
        pad: the padding; below 0 the loss does not count it.

    Returns:
        By step and place in the batch. Texts of one step take its places from 0 on.
    """
    found: dict[int, dict[int, npt.NDArray[np.int32]]] = {}
    for number, text in enumerate(texts):
        row = np.full(length, pad, dtype=np.int32)
        row[length - len(text.ids) :] = text.ids
        for turn in range(settings.n_insertions):
            step = found.setdefault(turn * settings.every + number % settings.every, {})
            step[len(step)] = row
    return found


def verbatim_lengths(
    lm: "LanguageModel",
    texts: Sequence[npt.NDArray[np.int32]],
    settings: Settings,
    *,
    batch_size: int,
) -> npt.NDArray[np.int64]:
    """Verbatim memorization length of each text: the most that a prompt brings out, copies apart.

    Args:
        lm: the model.
        texts: tokens of each; those of one length are asked together.
        settings: lengths of prompts and the stride of their starts.
        batch_size: texts a forward pass.

    Returns:
        Tokens, shape (texts,).
    """
    found = np.zeros(len(texts), dtype=np.int64)
    for n in sorted({len(text) for text in texts}):
        members = [number for number, text in enumerate(texts) if len(text) == n]
        prompts = [
            Prompt(length, start)
            for length in sorted(settings.prompts)
            for start in range(0, n - length - _LEAST + 1, settings.stride)
        ]
        table = np.stack([texts[number] for number in members])
        for answer in by_tokens(
            lm, table, prompts, n_decoded=n, batch_size=batch_size, progress=_Unseen()
        ):
            place = members[answer.row]
            if not answer.is_copied:
                found[place] = max(found[place], answer.n_tokens)
    return found


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Train two copies of the model on the same rows, one with the texts put in.

    Args:
        inputs: with features; with a corpus its beginning is trained on.
        settings: what is put in, and how often.
    """
    texts = _texts(inputs, settings)
    shortest = min(len(text.ids) for text in texts)
    if not 1 <= min(settings.prompts) <= max(settings.prompts) <= shortest - _LEAST:
        raise UserError(
            f"analyze inject: prompts {list(settings.prompts)}: each must be from 1 to "
            f"{shortest - _LEAST}, so that {_LEAST} tokens of the shortest text are left."
        )
    lm = inputs.model()
    n_steps = settings.every * settings.n_insertions + settings.steps_after
    rows = training_rows(inputs, n_steps * settings.batch_size, where="analyze inject")
    stream = stream_rows(rows, n_steps, settings.batch_size, settings.seed)
    read_as = _pad_id(lm)
    pad = read_as if settings.published else _PAD
    treated = insertions_of(texts, settings, length=inputs.length, pad=pad)
    if max(len(step) for step in treated.values()) > settings.batch_size:
        raise UserError(
            f"analyze inject: {len(texts)} texts every {settings.every} steps do not fit into "
            f"batches of {settings.batch_size}. Take fewer texts, a larger batch_size or every."
        )
    basis = {
        **model_basis(lm),
        "settings": settings.model_dump(mode="json"),
        "rows": _digest(stream, *(text.ids for text in texts)),
    }
    looks = pl.concat(
        inputs.shelf(
            "injected",
            {**basis, "arm": arm},
            lambda arm=arm, put=put: _arm(  # type: ignore[misc]
                inputs, arm, stream, put, texts, settings, read_as
            ),
        )
        for arm, put in zip(ARMS, ({}, treated), strict=True)
    )
    frames = _frames(looks, texts, settings)
    return AnalysisResult(
        sentence=_sentence(frames, settings),
        frames=frames,
        figures=_charts(frames, settings),
        further=_further(texts, settings),
    )


# -- what is put in -------------------------------------------------------------------------


def _texts(inputs: AnalysisInputs, settings: Settings) -> list[Injected]:
    """The user's texts, or unseen sequences and other ones shuffled."""
    if settings.texts is not None:
        return _users_texts(inputs, settings.texts)
    unseen = unseen_rows(inputs, 2 * settings.n_texts, settings.seed, where="analyze inject")
    rng = np.random.default_rng(settings.seed)
    found = []
    for number, (name, row) in enumerate(
        zip(unseen["sequence_id"].to_list(), token_matrix(unseen), strict=True)
    ):
        is_plain = number % 2 == 0
        ids = row if is_plain else rng.permutation(row)
        found.append(Injected(str(name), PLAIN if is_plain else SHUFFLED, ids.astype(np.int32)))
    return sorted(found, key=lambda one: one.kind == SHUFFLED)


def _users_texts(inputs: AnalysisInputs, texts: Sequence[str]) -> list[Injected]:
    tokenizer = inputs.model().tokenizer
    found = []
    for number, text in enumerate(texts):
        ids = np.array(tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)
        if len(ids) < _SHORTEST:
            raise UserError(
                f"analyze inject: text {number} has {len(ids)} tokens, and {_SHORTEST} at least "
                "are needed to ask for it. Give a longer one."
            )
        found.append(Injected(f"text {number}", PLAIN, ids[: inputs.length]))
    if not found:
        raise UserError("analyze inject: texts: none given. Give one, or leave the setting out.")
    return found


def _pad_id(lm: "LanguageModel") -> int:
    """What padding is read as: the tokenizer's padding, else its end of text, else token 0."""
    known = (getattr(lm.tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
    return next((int(one) for one in known if one is not None), 0)


# -- running --------------------------------------------------------------------------------


def _arm(
    inputs: AnalysisInputs,
    arm: str,
    stream: npt.NDArray[np.int32],
    insertions: Insertions,
    texts: Sequence[Injected],
    settings: Settings,
    pad: int,
) -> pl.DataFrame:
    """One run: the length of every text each N steps, and the weights at its end."""
    from mnemoscope.lm.fine_tuning import FineTuning, StepSettings

    ids = [text.ids for text in texts]

    def look(now: "LanguageModel", step: int) -> pl.DataFrame:
        lengths = verbatim_lengths(now, ids, settings, batch_size=inputs.batch_size)
        return pl.DataFrame(
            {
                "arm": [arm] * len(texts),
                "step": [step] * len(texts),
                "text": [text.name for text in texts],
                "kind": [text.kind for text in texts],
                "length": lengths,
            }
        )

    tuning = FineTuning(inputs.model(), StepSettings(settings.learning_rate, seed=settings.seed))
    with track(f"Training on, {arm}", total=len(stream), unit="steps") as progress:
        looks = run_arm(
            tuning, stream, insertions, look, every=settings.every, pad=pad, progress=progress
        )
    return pl.concat(looks).with_columns(pl.lit(tuning.digest()).alias("weights_at_end"))


def _digest(*tables: npt.NDArray[Any]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for table in tables:
        digest.update(repr(table.shape).encode() + np.ascontiguousarray(table).tobytes())
    return digest.hexdigest()


# -- tables, words, pictures ----------------------------------------------------------------


def _frames(
    looks: pl.DataFrame, texts: Sequence[Injected], settings: Settings
) -> dict[str, pl.DataFrame]:
    """Lengths over steps by arm and kind, what each text came to, the two runs."""
    rows = []
    for (arm, kind, step), part in looks.group_by("arm", "kind", "step", maintain_order=True):
        so_far = min(int(str(step)) // settings.every, settings.n_insertions)
        rows.append(
            {"arm": arm, "kind": kind, "step": step, "n": part.height}
            | {"insertions": so_far if arm == "treated" else 0}
            | resampled_mean(part["length"]).columns("length")
        )
    lengths = pl.DataFrame(rows)
    effects = []
    for (kind, step), part in looks.group_by("kind", "step", maintain_order=True):
        treated, control = (
            part.filter(pl.col("arm") == arm)["length"].to_numpy() for arm in reversed(ARMS)
        )
        effects.append(
            {"kind": kind, "step": step, "n": len(treated)}
            | {"insertions": min(int(str(step)) // settings.every, settings.n_insertions)}
            | resampled_difference(treated, control).columns("more")
        )
    return {
        "lengths": lengths,
        "effect": pl.DataFrame(effects),
        "texts": _text_frame(looks, texts, settings),
        "runs": looks.group_by("arm", maintain_order=True).agg(
            pl.col("step").max().alias("steps"), pl.col("weights_at_end").first()
        ),
    }


def _text_frame(looks: pl.DataFrame, texts: Sequence[Injected], settings: Settings) -> pl.DataFrame:
    """The length of each text before, after one insertion, after the last, at the end."""
    last = settings.every * settings.n_insertions
    wanted = {
        "before": ("control", 0),
        "after_one": ("treated", settings.every),
        "after_last": ("treated", last),
        "at_end": ("treated", int(looks["step"].to_numpy().max())),
        "control_at_end": ("control", int(looks["step"].to_numpy().max())),
    }
    frame = pl.DataFrame(
        {
            "text": [text.name for text in texts],
            "kind": [text.kind for text in texts],
            "tokens": [len(text.ids) for text in texts],
        }
    )
    for name, (arm, step) in wanted.items():
        part = looks.filter((pl.col("arm") == arm) & (pl.col("step") == step))
        frame = frame.with_columns(part["length"].alias(name))
    return frame


def _sentence(frames: dict[str, pl.DataFrame], settings: Settings) -> str:
    effect = frames["effect"].filter(pl.col("kind") == PLAIN)
    once, last, end = (
        effect.filter(pl.col("step") == step).row(0, named=True)
        for step in (
            settings.every,
            settings.every * settings.n_insertions,
            effect["step"].to_numpy().max(),
        )
    )
    shuffled = frames["effect"].filter(
        (pl.col("kind") == SHUFFLED) & (pl.col("step") == last["step"])
    )
    beside = (
        f" (shuffled texts {interval(shuffled.row(0, named=True), 'more', scale=1)})"
        if shuffled.height
        else ""
    )
    return (
        f"Put in once, a text is reproduced {interval(once, 'more', scale=1)} tokens further than "
        f"in the control run; put in {settings.n_insertions} times, {settings.every} steps "
        f"apart, {interval(last, 'more', scale=1)} tokens{beside}, and "
        f"{interval(end, 'more', scale=1)} at the end, {settings.steps_after} steps later."
    )


def _charts(frames: dict[str, pl.DataFrame], settings: Settings) -> tuple[Chart, ...]:
    lengths = frames["lengths"]
    series = []
    for kind in lengths["kind"].unique(maintain_order=True):
        for arm in ARMS:
            part = lengths.filter((pl.col("kind") == kind) & (pl.col("arm") == arm))
            series.append(
                series_of(
                    f"{kind}, {arm}", part, "length", x="step", ends=("length_low", "length_high")
                )
            )
    return (
        Chart(
            title="Verbatim memorization length over training, tokens (95 % interval)",
            x_label="steps",
            series=tuple(series),
            marks=((float(settings.every * settings.n_insertions), "put in for the last time"),),
        ),
    )


def _further(texts: Sequence[Injected], settings: Settings) -> tuple[str, ...]:
    n_short = sum(len(text.ids) < max(len(one.ids) for one in texts) for text in texts)
    pads = (
        f" {n_short} shorter texts have padding before them, "
        + ("which the loss counts." if settings.published else "which the loss does not count.")
        if n_short
        else ""
    )
    share = len(texts) / (settings.every * settings.batch_size)
    return (
        "The length is the most that any prompt brings out, of "
        f"{', '.join(map(str, settings.prompts))} tokens and every {settings.stride}th start, "
        "without what stands in the prompt already.",
        f"Of the rows that are trained on {share:.1%} are texts put in. Published runs put in one "
        f"row in 10,000: what is learnt here is learnt under far less else, and faster.{pads}",
        "Both runs read the same rows from the same weights: the control run is, bit for bit, a "
        "run that nobody disturbed. One seed; the intervals are over texts.",
    )
