"""Controlled injection: what does the model learn of a text put into its training every N steps?

Source: Huang, Yang, Potts 2024, "Demystifying Verbatim Memorization in Large Language Models",
arXiv 2407.17817; section 3.2 of the related work: a treated run reads the rows of a control run,
some replaced by the text; the verbatim length of the text over the steps of both. Beside the
texts stand others whose tokens are shuffled, to be learnt without being language.
Run it: mnemoscope analyze inject STUDY
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope import UserError
from mnemoscope.plugin import (
    FEWEST_GROUPS,
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    FineTuning,
    LanguageModel,
    Prompt,
    StepSettings,
    ask_exactly,
    frame_of,
    hash_arrays,
    n_groups,
    ranged,
    resampled_mean,
    rows_of,
    run_arm,
    series_of,
    stream_rows,
    token_matrix,
    track,
    training_rows,
    unseen_note,
    unseen_rows,
)

_Insertions = Mapping[int, Mapping[int, npt.NDArray[np.int32]]]

ARMS = ("control", "treated")
PLAIN, SHUFFLED = "text", "shuffled text"
_LEAST = 8  # tokens that must be left after a prompt
_SHORTEST = 24
_PAD = -1  # the loss does not count it


class Settings(AnalysisSettings):
    """Settings of `inject`."""

    texts: tuple[str, ...] | None = Field(
        strict=False,
        default=None,
        description="Texts to put in; null: sequences that the model cannot know.",
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
        strict=False, default=(8, 16, 32), min_length=1, description="Tokens of the prompts."
    )
    stride: int = Field(
        default=8, ge=1, description="Tokens from one start of a prompt to the next."
    )

    @property
    def last(self) -> int:
        """Steps, as many as the last turn of insertions ends at."""
        return self.every * self.n_insertions


class Injected(NamedTuple):
    """One text that is put in: its name, `PLAIN` or `SHUFFLED`, and at most a row of tokens."""

    name: str
    kind: str
    ids: npt.NDArray[np.int32]
    near: int | None = None  # its group of near duplicates


def insertions_of(texts: Sequence[Injected], settings: Settings, *, length: int) -> _Insertions:
    """Say which text replaces which row: text j at every step s with s ≡ j (mod N).

    Padding stands before a text shorter than a row of `length` tokens. Texts of one step take the
    places of its batch from 0 on.
    """
    found: dict[int, dict[int, npt.NDArray[np.int32]]] = {}
    for number, text in enumerate(texts):
        row = np.full(length, _PAD, dtype=np.int32)
        row[length - len(text.ids) :] = text.ids
        for turn in range(settings.n_insertions):
            step = found.setdefault(turn * settings.every + number % settings.every, {})
            step[len(step)] = row
    return found


def verbatim_lengths(
    lm: LanguageModel,
    texts: Sequence[npt.NDArray[np.int32]],
    settings: Settings,
    *,
    batch_size: int,
) -> npt.NDArray[np.int64]:
    """Verbatim memorization length of each text: the most that a prompt brings out, copies apart.

    Texts of one length are asked together. Gives tokens, shape (texts,).
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
        for answer in ask_exactly(lm, table, prompts, n_decoded=n, batch_size=batch_size):
            place = members[answer.row]
            if not answer.is_copied:
                found[place] = max(found[place], answer.n_tokens)
    return found


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Two runs: the rows of every step, and each text from every start at every look."""
    n_texts = 2 * settings.n_texts if settings.texts is None else len(settings.texts)
    last_start = inputs.length - min(settings.prompts) - _LEAST
    n_steps = settings.last + settings.steps_after
    looks = 1 + -(-n_steps // settings.every)
    asked = looks * n_texts * len(range(0, last_start + 1, settings.stride))
    return len(ARMS) * (n_steps * settings.batch_size + asked)


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Train two copies of the model on the same rows, one with the texts put in.

    Raises UserError: texts too short for the prompts, or more of them than a batch holds.
    """
    own = settings.texts
    texts = _unseen_texts(inputs, settings) if own is None else _users_texts(inputs, own)
    shortest = min(len(text.ids) for text in texts)
    if not 1 <= min(settings.prompts) <= max(settings.prompts) <= shortest - _LEAST:
        raise UserError(
            f"analyze inject: prompts {list(settings.prompts)}: each must be from 1 to "
            f"{shortest - _LEAST}, so that {_LEAST} tokens of the shortest text are left."
        )
    n_steps = settings.last + settings.steps_after
    rows = training_rows(inputs, n_steps * settings.batch_size, where="analyze inject")
    stream = stream_rows(rows, n_steps, settings.batch_size, settings.seed)
    treated = insertions_of(texts, settings, length=inputs.length)
    if max(len(step) for step in treated.values()) > settings.batch_size:
        raise UserError(
            f"analyze inject: {len(texts)} texts every {settings.every} steps do not fit into "
            f"batches of {settings.batch_size}. Take fewer texts, a larger batch_size or every."
        )
    basis = {
        **inputs.model().basis,
        "settings": settings.model_dump(mode="json"),
        "rows": hash_arrays(stream, *(text.ids for text in texts)),
    }
    train = partial(_train, inputs, settings, texts, stream)
    looks = pl.concat(
        inputs.shelf("injected", {**basis, "arm": arm}, partial(train, arm, put))
        for arm, put in zip(ARMS, ({}, treated), strict=True)
    )
    frames = _frames(looks, texts, settings)
    return AnalysisResult(
        sentence=_sentence(frames, settings),
        frames=frames,
        figures=(_chart(frames["lengths"], settings),),
        further=(
            *_further(texts, settings),
            *(unseen_note(inputs.table) if own is None else ()),
        ),
    )


def _unseen_texts(inputs: AnalysisInputs, settings: Settings) -> list[Injected]:
    """Unseen sequences, and other ones with their tokens shuffled."""
    unseen = unseen_rows(
        inputs, 2 * settings.n_texts, settings.seed, where="analyze inject", setting="n_texts"
    )
    rng = np.random.default_rng(settings.seed)
    rows, names = token_matrix(unseen).astype(np.int32), unseen["sequence_id"].to_list()
    owners = inputs.near_duplicates(unseen["sequence_id"]).tolist()
    texts = [
        Injected(str(name), PLAIN, row, owner)
        for name, row, owner in zip(names, rows, owners, strict=True)
    ]
    shuffled = [one._replace(kind=SHUFFLED, ids=rng.permutation(one.ids)) for one in texts[1::2]]
    return texts[::2] + shuffled


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


def _train(
    inputs: AnalysisInputs,
    settings: Settings,
    texts: Sequence[Injected],
    stream: npt.NDArray[np.int32],
    arm: str,
    insertions: _Insertions,
) -> pl.DataFrame:
    """One run: the length of every text each N steps, and the weights at its end."""
    names, kinds, ids, _ = (list(column) for column in zip(*texts, strict=True))

    def look(now: LanguageModel, step: int) -> pl.DataFrame:
        lengths = verbatim_lengths(now, ids, settings, batch_size=inputs.batch_size)
        same = {"arm": [arm] * len(texts), "step": [step] * len(texts)}
        return pl.DataFrame({**same, "text": names, "kind": kinds, "length": lengths})

    lm = inputs.model()
    tuning = FineTuning(lm, StepSettings(settings.learning_rate, seed=settings.seed))
    known = (getattr(lm.tokenizer, f"{name}_token_id", None) for name in ("pad", "eos"))
    pad = next((int(one) for one in known if one is not None), 0)  # what padding is read as
    with track(f"Training on, {arm}", total=len(stream), unit="steps") as progress:
        looks = run_arm(
            tuning, stream, insertions, look, every=settings.every, pad=pad, progress=progress
        )
    return pl.concat(looks).with_columns(pl.lit(tuning.digest()).alias("weights_at_end"))


def _frames(
    looks: pl.DataFrame, texts: Sequence[Injected], settings: Settings
) -> dict[str, pl.DataFrame]:
    """Lengths over steps by arm and kind, what each text came to, the two runs."""

    def put_in(step: object) -> int:
        return min(int(str(step)) // settings.every, settings.n_insertions)

    def near_of(kind: object) -> npt.NDArray[np.int64] | None:
        """Groups of the texts of a kind, in the order of the looks."""
        owners = [text.near for text in texts if text.kind == kind]
        return None if None in owners else np.array(owners)

    lengths = [
        {"arm": arm, "kind": kind, "step": step, "n": part.height}
        | {"n_groups": n_groups(near_of(kind))}
        | {"insertions": put_in(step) if arm == "treated" else 0}
        | {"length": resampled_mean(part["length"], near_of(kind))}
        for (arm, kind, step), part in looks.group_by("arm", "kind", "step", maintain_order=True)
    ]
    effects = []
    for (kind, step), part in looks.group_by("kind", "step", maintain_order=True):
        control, treated = (part.filter(arm=arm)["length"].to_numpy() for arm in ARMS)
        effects.append(
            {"kind": kind, "step": step, "n": len(treated), "n_groups": n_groups(near_of(kind))}
            | {"insertions": put_in(step)}
            | {"more": resampled_mean(treated - control, near_of(kind))}
        )
    end = int(looks["step"].to_numpy().max())
    wanted = {
        "before": ("control", 0),
        "after_one": ("treated", settings.every),
        "after_last": ("treated", settings.last),
        "at_end": ("treated", end),
        "control_at_end": ("control", end),
    }
    by_text = {
        "text": [text.name for text in texts],
        "kind": [text.kind for text in texts],
        "tokens": [len(text.ids) for text in texts],
        **{name: looks.filter(arm=arm, step=at)["length"] for name, (arm, at) in wanted.items()},
    }
    return {
        "lengths": frame_of(lengths),
        "effect": frame_of(effects),
        "texts": pl.DataFrame(by_text),
        "runs": looks.group_by("arm", maintain_order=True).agg(
            pl.col("step").max().alias("steps"), pl.col("weights_at_end").first()
        ),
    }


def _sentence(frames: dict[str, pl.DataFrame], settings: Settings) -> str:
    effect = frames["effect"].filter(kind=PLAIN)
    once, last = (
        ranged(next(rows_of(effect.filter(pl.col("step") == step)))["more"])
        for step in (settings.every, settings.last)
    )
    end = ranged(next(rows_of(effect[-1:]))["more"])
    shuffled = frames["effect"].filter(kind=SHUFFLED, step=settings.last)
    beside = (
        f" (shuffled texts {ranged(next(rows_of(shuffled))['more'])})" if shuffled.height else ""
    )
    return (
        f"Put in once, a text is reproduced {once} tokens further than "
        f"in the control run; put in {settings.n_insertions} times, {settings.every} steps "
        f"apart, {last} tokens{beside}, and {end} at the end, {settings.steps_after} steps later."
    )


def _chart(lengths: pl.DataFrame, settings: Settings) -> Chart:
    return Chart(
        title="Verbatim memorization length over training, tokens (95 % interval, from "
        f"{FEWEST_GROUPS} texts on)",
        x_label="steps",
        series=tuple(
            series_of(f"{kind}, {arm}", lengths.filter(kind=kind, arm=arm), "length", x="step")
            for kind in lengths["kind"].unique(maintain_order=True)
            for arm in ARMS
        ),
        marks=((float(settings.last), "put in for the last time"),),
    )


def _further(texts: Sequence[Injected], settings: Settings) -> tuple[str, ...]:
    n_short = sum(len(text.ids) < max(len(one.ids) for one in texts) for text in texts)
    pads = (
        f" {n_short} shorter texts have padding before them, which the loss does not count."
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
        f"run that nobody disturbed. One seed; {_intervals(texts)}.",
    )


def _intervals(texts: Sequence[Injected]) -> str:
    plain = [
        number if text.near is None else text.near
        for number, text in enumerate(texts)
        if text.kind == PLAIN
    ]
    n = len(set(plain))
    if n < FEWEST_GROUPS:
        few = f"{len(plain)} texts" if n == len(plain) else f"{n} texts, near duplicates as one"
        return f"no intervals: {few}, and {FEWEST_GROUPS} are needed (--set n_texts=N)"
    return "the intervals are over texts"
