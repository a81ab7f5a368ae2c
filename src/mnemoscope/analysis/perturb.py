"""Stress tests of what is memorized: how much of it bears a changed prompt, or comes back by one?

Source: Huang, Yang, Potts 2024, "Demystifying Verbatim Memorization in Large Language Models",
arXiv 2407.17817; section 3.4 of the related work: the prompt window shifted, words swapped for
near-synonyms, after unlearning by gradient ascent, sparse fine-tuning or pruning. Case, typos and
random words are added, and texts never learnt as a control: the best of many prompts finds a few
more tokens of any text. Sparse and pruned are weights, chosen by their gradients: ours, since the
original's code has neither.
Run it: mnemoscope analyze perturb STUDY
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope import Estimate, UserError
from mnemoscope.plugin import (
    AS_IT_IS,
    WORD_KINDS,
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    ChangedPrompt,
    Chart,
    FineTuning,
    LanguageModel,
    StepSettings,
    Vocabulary,
    bars_by,
    frame_of,
    guessable,
    hash_arrays,
    make_prompts,
    n_groups,
    ranged,
    resampled_mean,
    right_tokens,
    rows_of,
    run_lengths,
    series_by,
    share_true,
    suffix_runs,
    token_matrix,
    track,
    unseen_note,
    unseen_rows,
)

_OTHERS = "Recall, not unlearned"

WAYS = {"ascent": "gradient ascent", "sparse": "sparse ascent", "pruning": "pruning"}
"""Ways to unlearn, in words: of all weights, of few, or few weights set to zero."""

Way = Literal["ascent", "sparse", "pruning"]


class Settings(AnalysisSettings):
    """Settings of `perturb`."""

    n_sequences: int = Field(
        default=100, ge=10, description="Memorized sequences of each of Guess and Recall, at most."
    )
    n_unlearned: int = Field(
        default=90, ge=5, description="Recalled sequences that are unlearned, and unseen controls."
    )
    n_words: int = Field(default=1, ge=1, description="Words changed in a prompt.")
    shifts: tuple[int, ...] = Field(
        strict=False,
        default=(1, 2, 4, 8),
        min_length=1,
        description="Tokens by which the prompt is shifted.",
    )
    ways: tuple[Way, ...] = Field(
        strict=False,
        default=("ascent", "sparse", "pruning"),
        min_length=1,
        description="Ways to unlearn: gradient ascent of all weights, of few, or few set to zero.",
    )
    learning_rate: float = Field(default=5e-5, gt=0, description="Of gradient ascent (AdamW).")
    sparse_part: float = Field(
        default=0.01, gt=0, le=1, description="Share of the layers' weights that sparse ascent has."
    )
    sparse_learning_rate: float = Field(default=1e-3, gt=0, description="Of sparse ascent.")
    pruned_part: float = Field(
        default=2e-4, gt=0, le=0.1, description="Share of the layers' weights pruned in a step."
    )
    batch_size: int = Field(default=16, ge=1, description="Sequences a step of unlearning.")
    forgotten: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="It stops when so small a share of the suffixes is reproduced.",
    )
    max_steps: int = Field(default=80, ge=1, description="Steps of unlearning, at most.")
    every: int = Field(
        default=2, ge=1, description="Steps from one look at what is left to the next."
    )

    def steps(self, way: Way) -> StepSettings:
        """How a copy unlearns in one of the ways."""
        if way == "ascent":
            return StepSettings(self.learning_rate, ascent=True, seed=self.seed)
        rate, part = self.sparse_learning_rate, self.sparse_part
        part = part if way == "sparse" else self.pruned_part
        return StepSettings(rate, ascent=True, seed=self.seed, way=way, part=part)


def recovery(runs: pl.DataFrame) -> pl.DataFrame:
    """Say of each sequence how many tokens its best changed prompt gives beyond the prompt itself.

    From columns `sequence_id`, `kind`, `tokens`: gives `sequence_id`, `as_it_is`, `best` (of the
    changed prompts), `best_kind`, `n_prompts` and `recovered` (best minus as it is, at least 0).
    """
    plain = runs.filter(kind=AS_IT_IS).select("sequence_id", pl.col("tokens").alias("as_it_is"))
    changed = (
        runs.filter(pl.col("kind") != AS_IT_IS)
        .group_by("sequence_id", maintain_order=True)
        .agg(
            pl.col("tokens").max().alias("best"),
            pl.col("kind").get(pl.col("tokens").arg_max()).alias("best_kind"),
            pl.len().alias("n_prompts"),
        )
    )
    return plain.join(changed, on="sequence_id", how="left", maintain_order="left").with_columns(
        recovered=(pl.col("best") - pl.col("as_it_is")).clip(lower_bound=0)
    )


_Asked = dict[str, list[tuple[int, ChangedPrompt]]]


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Prompts before and after, steps of ascent to the last one, and looks on the way."""
    sizes = {name: rows.height for name, rows in _groups(inputs, settings).items()}
    n, n_prompts = sizes["unlearned"], 1 + 2 * len(settings.shifts) + len(WORD_KINDS)
    asked = sum(sizes.get(name, 0) for name in ("Recall", "Guess", "unseen"))
    after = n + sizes["unseen"]
    beside = sum(
        min(sizes.get(name, 0), settings.n_unlearned) for name in (_OTHERS, "Guess", "unseen")
    )
    looks = 1 + -(-settings.max_steps // settings.every)
    steps = settings.max_steps * min(settings.batch_size, n)
    each = after * n_prompts + 2 * beside + looks * n + steps
    return asked * n_prompts + len(settings.ways) * each


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Ask for memorized sequences by changed prompts, before and after unlearning some of them.

    Raises UserError: shifts beyond the prefix, or too few recalled or unseen sequences.
    """
    if max(settings.shifts) >= inputs.prefix or min(settings.shifts) < 1:
        raise UserError(
            f"analyze perturb: shifts {list(settings.shifts)}: each must be from 1 to "
            f"{inputs.prefix - 1}, below the {inputs.prefix} tokens of the prefix."
        )
    groups = _groups(inputs, settings)
    lm = inputs.model()
    weights = lm.model.get_input_embeddings().weight.detach().float().cpu().numpy()
    vocabulary = Vocabulary(lm.tokenizer, weights)
    asked = {
        name: _prompts(inputs, rows, vocabulary, settings)
        for name, rows in groups.items()
        if name != _OTHERS
    }
    owners = [inputs.near_duplicates(rows["sequence_id"]) for rows in groups.values()]
    basis = {
        **lm.basis,
        "settings": settings.model_dump(mode="json"),
        "ids": [hash_arrays(rows["sequence_id"]) for rows in groups.values()],
        "groups": [hash_arrays(near) for near in owners],
    }
    first = {name: prompts for name, prompts in asked.items() if name != "unlearned"}
    before = inputs.shelf("prompted", basis, lambda: _ask(inputs, lm, first))

    def unlearned(way: Way) -> dict[str, pl.DataFrame]:
        """`_unlearn` of one way, each table kept, with the way in a column."""
        made = cache(lambda: _unlearn(inputs, settings, way, groups, asked))
        found = {}
        for what in ("steps", "after", "beside"):
            make = partial(lambda what: made()[what], what)
            kept = inputs.shelf(f"unlearned-{what}", {**basis, "way": way}, make)
            found[what] = kept.select(pl.lit(WAYS[way]).alias("way"), pl.all())
        return found

    made = [unlearned(way) for way in settings.ways]
    steps, after, beside = (
        pl.concat(each[what] for each in made) for what in ("steps", "after", "beside")
    )
    frames = {**_frames(before, after, inputs), "unlearning": steps, "beside": beside}
    return AnalysisResult(
        sentence=_sentence(frames, settings),
        frames=frames,
        figures=_charts(frames, groups["unlearned"].height),
        further=(
            *_further(frames, groups, settings),
            *unseen_note(inputs.table),
        ),
    )


def _groups(inputs: AnalysisInputs, settings: Settings) -> dict[str, pl.DataFrame]:
    """Memorized sequences, guessed and recalled, some of these unlearned; unseen as a control.

    What is unlearned is among the recalled ones; `_OTHERS` are as many others.
    """
    table = inputs.table.filter(pl.col("is_memorized"))
    is_guess = guessable()
    rng = np.random.default_rng(settings.seed)
    drawn = {
        name: part[rng.permutation(part.height)]
        for name, part in (("Recall", table.filter(~is_guess)), ("Guess", table.filter(is_guess)))
    }
    groups = {name: part[: settings.n_sequences] for name, part in drawn.items()}
    n = min(settings.n_unlearned, groups["Recall"].height)
    if n < 5:
        raise UserError(
            f"analyze perturb: {n} sequences are memorized and not guessable, and 5 at least are "
            "needed. Give a table with more."
        )
    groups["unlearned"] = groups["Recall"][:n]
    groups[_OTHERS] = drawn["Recall"][n : 2 * n]
    groups["unseen"] = unseen_rows(
        inputs, n, settings.seed, where="analyze perturb", setting="n_unlearned"
    )
    return {name: rows for name, rows in groups.items() if rows.height}


def _prompts(
    inputs: AnalysisInputs, rows: pl.DataFrame, vocabulary: Vocabulary, settings: Settings
) -> list[tuple[int, ChangedPrompt]]:
    """Every prompt of every sequence, with its id; a sequence's own seed decides its words."""
    return [
        (sequence, prompt)
        for sequence, row in zip(rows["sequence_id"].to_list(), token_matrix(rows), strict=True)
        for prompt in make_prompts(
            row.astype(np.int64),
            vocabulary,
            prefix=inputs.prefix,
            shifts=settings.shifts,
            n_words=settings.n_words,
            rng=np.random.default_rng([settings.seed, abs(int(sequence))]),
        )
    ]


def _ask(inputs: AnalysisInputs, lm: LanguageModel, asked: _Asked) -> pl.DataFrame:
    """Tokens of the suffix after every prompt of every group."""
    return pl.concat(
        pl.DataFrame(
            {
                "group": [name] * len(prompts),
                "sequence_id": [sequence for sequence, _ in prompts],
                "kind": [prompt.kind for _, prompt in prompts],
                "tokens": suffix_runs(
                    lm, [one for _, one in prompts], batch_size=inputs.batch_size
                ),
                "of": [len(one.wanted) - one.n_before for _, one in prompts],
            }
        )
        for name, prompts in asked.items()
    )


class Look(NamedTuple):
    """What is left on the way: share of the suffixes' tokens, and of suffixes that are whole."""

    step: int
    loss: float | None
    share: float
    memorized: float
    tokens: Estimate  # right in a row, from the beginning


def _unlearn(
    inputs: AnalysisInputs,
    settings: Settings,
    way: Way,
    groups: dict[str, pl.DataFrame],
    asked: _Asked,
) -> dict[str, pl.DataFrame]:
    """Let a copy of the model forget: the steps, other sequences beside it, prompts afterwards."""
    tuning, batch_size = FineTuning(inputs.model(), settings.steps(way)), inputs.batch_size

    def reproduced(rows: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Right tokens of each suffix."""
        tokens, prefix = token_matrix(rows), inputs.prefix
        return right_tokens(tuning.lm, tokens, batch_size=batch_size, prefix=prefix)

    def beside() -> pl.DataFrame:
        found = []
        for name in (_OTHERS, "Guess", "unseen"):
            if name in groups:
                rows = groups[name][: settings.n_unlearned]
                right, near = reproduced(rows), inputs.near_duplicates(rows["sequence_id"])
                found.append(
                    {"group": name, "n": len(right), "n_groups": n_groups(near)}
                    | {"tokens": resampled_mean(run_lengths(right), near)}
                    | {"right": resampled_mean(right.mean(axis=1), near)}
                )
        return frame_of(found)

    def look(loss: float | None) -> Look:
        right = reproduced(groups["unlearned"])
        near = inputs.near_duplicates(groups["unlearned"]["sequence_id"])
        tokens, memorized = resampled_mean(run_lengths(right), near), right.all(axis=1).mean()
        return Look(tuning.step, loss, tokens.value / right.shape[1], float(memorized), tokens)

    first = beside()
    rows = token_matrix(groups["unlearned"])
    looks = _climb(tuning, rows, inputs.prefix, settings, way, look)
    last = (
        beside()
        .drop("n", "n_groups")
        .rename(lambda name: name if name == "group" else f"after_{name}")
    )
    return {
        "steps": frame_of(look._asdict() for look in looks),
        "beside": first.join(last, on="group", maintain_order="left"),
        "after": _ask(inputs, tuning.lm, {name: asked[name] for name in ("unlearned", "unseen")}),
    }


def _climb(
    tuning: FineTuning,
    rows: npt.NDArray[np.int32],
    prefix: int,
    settings: Settings,
    way: Way,
    look: Callable[[float | None], Look],
) -> list[Look]:
    """Go up the loss of the suffixes until so little is left; look at it on the way."""
    counted = np.broadcast_to(np.arange(rows.shape[1]) >= prefix, rows.shape)
    rng, order, looks = np.random.default_rng(settings.seed), list[int](), [look(None)]
    with track(f"Unlearning, {WAYS[way]}", total=settings.max_steps, unit="steps") as progress:
        while tuning.step < settings.max_steps and looks[-1].share > settings.forgotten:
            order = order or rng.permutation(len(rows)).tolist()
            batch, order = order[: settings.batch_size], order[settings.batch_size :]
            loss = tuning.train(rows[batch], counted[batch])
            if tuning.step % settings.every == 0 or tuning.step == settings.max_steps:
                looks.append(look(loss))
            progress.advance()
    return looks


def _frames(
    before: pl.DataFrame, after: pl.DataFrame, inputs: AnalysisInputs
) -> dict[str, pl.DataFrame]:
    """Prompts by kind, recovery by sequence and in sum."""
    named = {"unlearned": "unlearned, ", "unseen": "unseen, after "}
    later = pl.col("group").replace(named) + pl.col("way")
    runs = pl.concat([before, after.with_columns(later.alias("group")).drop("way")])
    prompts = []
    for (group, kind), part in runs.group_by("group", "kind", maintain_order=True):
        near = inputs.near_duplicates(part["sequence_id"])
        whole = share_true(part["tokens"] == part["of"], near)
        prompts.append(
            {"group": group, "kind": kind, "n": part.height, "n_groups": n_groups(near)}
            | {"tokens": resampled_mean(part["tokens"], near), "whole": whole}
        )
    recovered = {
        str(name): recovery(part) for (name,), part in runs.group_by("group", maintain_order=True)
    }
    return {
        "prompts": frame_of(prompts),
        "recovery": frame_of(
            [
                {"group": name, "n": part.height, "n_groups": n_groups(near)}
                | {"suffix": inputs.length - inputs.prefix}
                | {"n_prompts": part["n_prompts"].cast(pl.Float64).to_numpy().mean()}
                | {"as_it_is": resampled_mean(part["as_it_is"], near)}
                | {"best": resampled_mean(part["best"], near)}
                | {"recovered": resampled_mean(part["recovered"], near)}
                for name, part in recovered.items()
                for near in [inputs.near_duplicates(part["sequence_id"])]
            ]
        ),
        "sequences": pl.concat(
            part.with_columns(pl.lit(name).alias("group")) for name, part in recovered.items()
        ),
    }


def _sentence(frames: dict[str, pl.DataFrame], settings: Settings) -> str:
    back = {row["group"]: row for row in rows_of(frames["recovery"])}
    typo = frames["prompts"].filter(kind="typo", group="Recall")
    word = "a typo" if settings.n_words == 1 else f"{settings.n_words} typos"
    bears = (
        f"{ranged(next(rows_of(typo))['whole'], scale=100, unit=' %')} of recalled sequences "
        f"come out whole after {word} in the prefix; "
        if typo.height
        else ""
    )

    def after(way: Way) -> str:
        gone = back[f"unlearned, {WAYS[way]}"]
        return (
            f"{ranged(gone['recovered'])} after {WAYS[way]}, where the prefix itself brings "
            f"{ranged(gone['as_it_is'])}"
        )

    one = back["unseen"]
    return (
        f"{bears}of {one['suffix']} tokens that are unlearned the best of {one['n_prompts']:.0f} "
        f"changed prompts brings back {'; '.join(after(way) for way in settings.ways)}; of text "
        f"never learnt it finds {ranged(one['recovered'])} more than the prefix."
    )


def _charts(frames: dict[str, pl.DataFrame], n_unlearned: int) -> tuple[Chart, ...]:
    prompts, memorized = frames["prompts"], ["Recall", "Guess"]
    unlearning = frames["unlearning"].with_columns(n=n_unlearned)
    return (
        bars_by(
            "Tokens of the suffix reproduced in a row, by what was done to the prompt "
            "(95 % interval)",
            prompts.filter(
                pl.col("group").is_in([*memorized, "unseen"])
                | pl.col("group").str.starts_with("unlearned")
            ),
            "group",
            "tokens",
            at="kind",
        ),
        bars_by(
            "Memorized sequences that come out whole, per cent (95 % interval)",
            prompts.filter(pl.col("group").is_in(memorized)),
            "group",
            "whole",
            at="kind",
            percent=True,
        ),
        Chart(
            title="Unlearning: tokens of the suffix reproduced in a row (95 % interval)",
            x_label="steps",
            series=series_by(unlearning, "way", "tokens", x="step"),
        ),
    )


def _further(
    frames: dict[str, pl.DataFrame], groups: dict[str, pl.DataFrame], settings: Settings
) -> tuple[str, ...]:
    words = frames["prompts"].filter(kind="case", group="Recall")
    n_words = int(words["n"][0]) if words.height else 0
    return (
        *_unlearning_words(frames, settings),
        f"Near-synonyms are the nearest words in the model's input embeddings. {n_words} of "
        f"{groups['Recall'].height} recalled prefixes have {settings.n_words} word(s) that are "
        "one token, and were changed.",
        "A shifted window moves prompt and question: of one shifted to the right fewer tokens "
        "are left to reproduce, one shifted to the left must say the end of the prefix first.",
    )


def _unlearning_words(frames: dict[str, pl.DataFrame], settings: Settings) -> Iterator[str]:
    """How far each way went, and what it does to the rest."""
    for way in settings.ways:
        last = frames["unlearning"].filter(way=WAYS[way]).row(-1, named=True)
        beside = {row["group"]: row for row in rows_of(frames["beside"].filter(way=WAYS[way]))}
        stopped = (
            "until so little was left"
            if last["share"] <= settings.forgotten
            else f"and stopped there, with {last['share']:.0%} of the suffixes left"
        )
        unseen, kept = beside["unseen"], beside.get(_OTHERS)
        right, after = (
            ranged(unseen[name], scale=100, unit=" %") for name in ("right", "after_right")
        )
        others = (
            ""
            if kept is None
            else f", other recalled sequences from {ranged(kept['tokens'])} to "
            f"{ranged(kept['after_tokens'])} tokens in a row"
        )
        yield (
            f"{WAYS[way].capitalize()} went {last['step']} steps, {stopped}. What it does to the "
            f"rest: right tokens of unseen text go from {right} to {after}{others}."
        )
