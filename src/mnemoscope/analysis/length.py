"""Verbatim memorization length: how much of a sequence comes out from its best prompt?

Source: Huang, Yang, Potts 2024, "Demystifying Verbatim Memorization in Large Language Models",
arXiv 2407.17817; section 3.1 of the related work: the longest exact continuation over prompt
lengths and starts, without what is copied from the prompt.
Run it: mnemoscope analyze length STUDY
"""

from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from mnemoscope.analysis.decoding import draw_rows, hash_ids, model_basis
from mnemoscope.analysis.figures import Chart, Series, plain, series_of
from mnemoscope.analysis.groups import groups_of, members
from mnemoscope.analysis.inputs import AnalysisInputs
from mnemoscope.analysis.length_prompts import Prompt, by_tokens, by_words, prompts_of
from mnemoscope.analysis.result import AnalysisResult
from mnemoscope.analysis.settings import AnalysisSettings
from mnemoscope.analysis.shares import Share, share_of
from mnemoscope.errors import UserError
from mnemoscope.progress import Progress, track
from mnemoscope.sequences.schema import token_matrix

__all__ = ["HIT", "Settings", "analyse", "best_of"]

HIT = 16
"""Tokens from which on the published script prints a sequence as memorized."""

_BLOCK = 64
_ANSWERS = {
    "sequence_id": pl.Int64,
    "prompt": pl.Int32,
    "start": pl.Int32,
    "n_tokens": pl.Int32,
    "is_copied": pl.Boolean,
}


class Settings(AnalysisSettings):
    """Settings of `length`."""

    n_sequences: int | None = Field(
        default=200, ge=10, description="Sequences drawn by the seed; null: all."
    )
    prompt_lengths: tuple[int, ...] = Field(
        default=(8, 16, 32, 64),
        min_length=1,
        description="Tokens of the prompts; those that a sequence has no room for are left out.",
    )
    least: int = Field(
        default=HIT,
        ge=1,
        description="Tokens of the sequence that must follow a prompt. Published: 64, which a "
        "sequence of 64 tokens cannot give.",
    )
    n_decoded: int = Field(default=64, ge=1, description="Tokens asked for after a prompt.")
    compare: Literal["tokens", "words"] = Field(
        default="tokens",
        description="Exact tokens, or the words of letters and digits in the decoded text.",
    )


def best_of(answers: pl.DataFrame) -> pl.DataFrame:
    """Give each sequence's length: the most that any prompt of its brings out, copies apart.

    Args:
        answers: columns `sequence_id`, `prompt`, `start`, `n_tokens`, `is_copied`.

    Returns:
        `sequence_id`, `length` (0 where all is copied), `prompt` and `start` of the first best
        (null at 0), `with_copies` (the same without the guard), `n_copied` prompts; in the order
        of the sequences.
    """
    honest = answers.with_columns(
        pl.when("is_copied").then(0).otherwise("n_tokens").alias("honest")
    )
    best = honest.group_by("sequence_id", maintain_order=True).agg(
        pl.col("honest").max().alias("length"),
        pl.col("prompt").get(pl.col("honest").arg_max()),
        pl.col("start").get(pl.col("honest").arg_max()),
        pl.col("n_tokens").max().alias("with_copies"),
        pl.col("is_copied").sum().alias("n_copied"),
    )
    found = pl.col("length") > 0
    return best.with_columns(pl.when(found).then(name).alias(name) for name in ("prompt", "start"))


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Ask for every sequence from each of its prompts and take the longest answer.

    Args:
        inputs: a study and its model.
        settings: prompts and what counts as right.

    Raises:
        UserError: no prompt leaves enough of a sequence.
    """
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    prompts = _prompts(inputs, settings)
    answers = _answers(inputs, rows, prompts, settings)
    groups = rows.select("sequence_id", "is_memorized").with_columns(groups_of(rows))
    lengths = groups.join(best_of(answers), on="sequence_id", maintain_order="left")
    by_prompt = _by_prompt(answers, groups)
    shares = _shares(lengths)
    return AnalysisResult(
        sentence=_sentence(lengths, prompts),
        frames={"shares": shares, "by_prompt": by_prompt, "lengths": lengths, "answers": answers},
        figures=(_survival_chart(lengths), _prompt_chart(by_prompt)),
        further=tuple(_further(inputs, lengths, prompts, settings)),
    )


def _prompts(inputs: AnalysisInputs, settings: Settings) -> list[Prompt]:
    lengths = sorted(set(settings.prompt_lengths))
    if lengths[0] < 1:
        raise UserError(f"analyze length: a prompt of {lengths[0]} tokens. Ask from 1 on.")
    prompts = prompts_of(
        inputs.length, lengths, least=settings.least, misses_last=settings.published
    )
    if not prompts:
        raise UserError(
            f"analyze length: sequences of {inputs.length} tokens leave no {settings.least} tokens "
            f"after a prompt of {lengths[0]}. Lower --set prompt_lengths=[N] or least=N."
        )
    return prompts


def _answers(
    inputs: AnalysisInputs, rows: pl.DataFrame, prompts: list[Prompt], settings: Settings
) -> pl.DataFrame:
    """What every prompt of every sequence gives, kept in blocks of sequences."""
    lm = inputs.model()
    asked = settings.model_dump(include={"least", "n_decoded", "compare", "published"})
    asked["prompts"] = sorted({one.length for one in prompts})
    blocks = [rows[start : start + _BLOCK] for start in range(0, rows.height, _BLOCK)]
    by_start = settings.compare == "tokens" and not settings.published
    n_asked = len({one.start for one in prompts}) if by_start else len(prompts)
    with track("Asking from every prompt", total=rows.height * n_asked) as progress:
        parts = [
            inputs.shelf(
                "verbatim",
                {**model_basis(lm), **asked, "ids": hash_ids(block)},
                lambda block=block: _ask(inputs, block, prompts, settings, progress),  # type: ignore[misc]
            )
            for block in blocks
        ]
    return pl.concat(parts)


def _ask(
    inputs: AnalysisInputs,
    block: pl.DataFrame,
    prompts: list[Prompt],
    settings: Settings,
    progress: Progress,
) -> pl.DataFrame:
    lm, table = inputs.model(), token_matrix(block)
    n, batch_size = settings.n_decoded, inputs.batch_size
    if settings.published or settings.compare == "words":
        found = by_words(
            lm,
            table,
            prompts,
            n_decoded=n,
            batch_size=batch_size,
            progress=progress,
            published=settings.published,
        )
    else:
        found = by_tokens(lm, table, prompts, n_decoded=n, batch_size=batch_size, progress=progress)
    ids = block["sequence_id"].to_list()
    made = [
        (ids[one.row], one.prompt.length, one.prompt.start, one.n_tokens, one.is_copied)
        for one in sorted(found)
    ]
    return pl.DataFrame(made, schema=_ANSWERS, orient="row")


def _by_prompt(answers: pl.DataFrame, groups: pl.DataFrame) -> pl.DataFrame:
    """Share of the sequences that each length of prompt brings out, by group."""
    best = pl.concat(
        best_of(part).with_columns(asked=pl.lit(length))
        for (length,), part in answers.group_by("prompt", maintain_order=True)
    ).join(groups, on="sequence_id")
    rows = []
    for length in sorted(best["asked"].unique()):
        part = best.filter(asked=length)
        for name in ("all", *members(groups["group"])):
            inside = part if name == "all" else part.filter(group=name)
            share = _hits(inside)
            rows.append(
                {"prompt": length, "group": name, "n": inside.height, "share": share.value}
                | {"low": share.low, "high": share.high, "mean": inside["length"].mean()}
            )
    return pl.DataFrame(rows)


def _shares(lengths: pl.DataFrame) -> pl.DataFrame:
    """Hits, median and longest of each group, with and without what is copied."""
    rows = []
    for name in ("all", *members(lengths["group"])):
        inside = lengths if name == "all" else lengths.filter(group=name)
        share, loose = _hits(inside), _hits(inside, "with_copies")
        rows.append(
            {"group": name, "n": inside.height, "share": share.value, "low": share.low}
            | {"high": share.high, "share_with_copies": loose.value}
            | {"median": inside["length"].median(), "longest": inside["length"].max()}
        )
    return pl.DataFrame(rows)


def _hits(rows: pl.DataFrame, column: str = "length") -> Share:
    return share_of(int((rows[column] >= HIT).sum()), rows.height)


def _sentence(lengths: pl.DataFrame, prompts: list[Prompt]) -> str:
    shown = sorted({one.length for one in prompts})
    said = f"{', '.join(map(str, shown[:-1]))} or {shown[-1]}" if shown[1:] else str(shown[0])
    text = (
        f"From some prompt of {said} tokens, {_hits(lengths)} of {lengths.height:,} sequences come "
        f"out for {HIT} tokens or more without a mistake and not copied from the prompt"
    )
    known, other = (lengths.filter(pl.col("is_memorized") == one) for one in (True, False))
    if known.is_empty() or other.is_empty():
        return f"{text}."
    return f"{text}: {_hits(known)} of those memorized, {_hits(other)} of the others."


def _survival_chart(lengths: pl.DataFrame) -> Chart:
    """Share of each group that comes out for at least so many tokens."""
    longest = int(lengths["length"].to_numpy().max(initial=1))
    series = []
    for name, places in members(lengths["group"]).items():
        values = lengths["length"].to_numpy()[places]
        shares = [share_of(int((values >= n).sum()), len(values)) for n in range(1, longest + 1)]
        value, low, high = np.array(shares).T
        series.append(
            Series(
                name=f"{name} ({len(values):,})",
                x=plain(range(1, longest + 1)),
                y=plain(value),
                low=plain(low),
                high=plain(high),
            )
        )
    return Chart(
        title="Sequences of which at least so many tokens come out, per cent (95 % interval)",
        x_label="tokens in a row, from the best prompt",
        series=tuple(series),
        percent=True,
        marks=((float(min(HIT, longest)), str(HIT)),),
    )


def _prompt_chart(by_prompt: pl.DataFrame) -> Chart:
    lengths = by_prompt["prompt"].unique(maintain_order=True).to_list()
    names = by_prompt["group"].unique(maintain_order=True).to_list()
    return Chart(
        title=f"Sequences of which {HIT} tokens or more come out, by length of prompt, per cent",
        form="bars",
        x_names=tuple(f"{length} tokens" for length in lengths),
        percent=True,
        series=tuple(
            series_of(name, rows, "share")
            for name in names
            for rows in [by_prompt.filter(group=name)]
        ),
    )


def _further(
    inputs: AnalysisInputs, lengths: pl.DataFrame, prompts: list[Prompt], settings: Settings
) -> list[str]:
    said = [
        f"Every start was tried after which {settings.least} tokens of the sequence are left, so "
        f"at most {max(inputs.length - one.length - one.start for one in prompts)} can come out: "
        "a sequence that comes out to its end is longer than its figure.",
        f"With what is copied from the prompt it would be {_hits(lengths, 'with_copies')}; at "
        f"{int((lengths['n_copied'] > 0).sum()):,} sequences a prompt was left out for that.",
    ]
    missing = sorted({*settings.prompt_lengths} - {one.length for one in prompts})
    if missing:
        said.append(
            f"No room for prompts of {', '.join(map(str, missing))} tokens in sequences of "
            f"{inputs.length}."
        )
    return said
