"""Verbatim memorization length: how much of a sequence comes out from its best prompt?

Source: Huang, Yang, Potts 2024, "Demystifying Verbatim Memorization in Large Language Models",
arXiv 2407.17817; section 3.1 of the related work: the longest exact continuation over prompt
lengths and starts, without what is copied from the prompt.
Run it: mnemoscope analyze length STUDY
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import polars as pl
from pydantic import Field

from mnemoscope import Estimate, UserError
from mnemoscope.plugin import (
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    Progress,
    Prompt,
    ask_by_words,
    ask_exactly,
    bars_by,
    draw_rows,
    frame_of,
    groups_of,
    keep_blocks,
    members,
    n_groups,
    series_of,
    share_true,
    token_matrix,
)

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
        strict=False,
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


def prompts_of(n_tokens: int, lengths: Sequence[int], *, least: int) -> list[Prompt]:
    """Give every prompt of a sequence after which `least` of its tokens are left.

    >>> prompts_of(12, [8], least=3)
    [Prompt(length=8, start=0), Prompt(length=8, start=1)]
    """
    return [
        Prompt(length, start)
        for length in sorted(lengths)
        for start in range(n_tokens - length - least + 1)
    ]


def best_of(answers: pl.DataFrame) -> pl.DataFrame:
    """Give each sequence's length: the most that any prompt of its brings out, copies apart.

    From columns `sequence_id`, `prompt`, `start`, `n_tokens`, `is_copied`: gives `sequence_id`,
    `length` (0 where all is copied), `prompt` and `start` of the first best (null at 0),
    `with_copies` (the same without the guard), `n_copied` prompts; in order.
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


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Each sequence from every start, or after every prompt."""
    prompts = prompts_of(inputs.length, settings.prompt_lengths, least=settings.least)
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    return rows.height * _n_asked(prompts, settings)


def _n_asked(prompts: list[Prompt], settings: Settings) -> int:
    """How often a sequence is asked for: one forward serves prompts of all lengths of a start."""
    is_exact = settings.compare == "tokens"
    return len({one.start for one in prompts} if is_exact else prompts)


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Ask for every sequence from each of its prompts and take the longest answer.

    Raises UserError: no prompt leaves enough of a sequence.
    """
    if min(settings.prompt_lengths) < 1:
        raise UserError(
            f"analyze length: a prompt of {min(settings.prompt_lengths)} tokens. Ask from 1 on."
        )
    prompts = prompts_of(inputs.length, sorted({*settings.prompt_lengths}), least=settings.least)
    if not prompts:
        raise UserError(
            f"analyze length: sequences of {inputs.length} tokens leave no {settings.least} tokens "
            f"after a prompt of {min(settings.prompt_lengths)}. Lower --set prompt_lengths=[N] or "
            "least=N."
        )
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    answers = _answers(inputs, rows, prompts, settings)
    near = pl.Series("near_duplicates", inputs.near_duplicates(rows["sequence_id"]))
    groups = rows.select("sequence_id", "is_memorized").with_columns(near, groups_of(rows))
    lengths = groups.join(best_of(answers), on="sequence_id", maintain_order="left")
    by_prompt = _by_prompt(answers, groups)
    frames = {"shares": _shares(lengths), "by_prompt": by_prompt}
    return AnalysisResult(
        sentence=_sentence(lengths, prompts),
        frames=frames | {"lengths": lengths.drop("near_duplicates"), "answers": answers},
        figures=(
            _survival_chart(lengths),
            bars_by(
                f"Sequences of which {HIT} tokens or more come out, by length of prompt, per cent",
                by_prompt.with_columns(pl.format("{} tokens", "prompt").alias("prompt")),
                "group",
                "share",
                at="prompt",
                percent=True,
            ),
        ),
        further=tuple(_further(inputs, lengths, prompts, settings)),
    )


def _answers(
    inputs: AnalysisInputs, rows: pl.DataFrame, prompts: list[Prompt], settings: Settings
) -> pl.DataFrame:
    """What every prompt of every sequence gives, kept in blocks of sequences."""
    lm = inputs.model()
    basis = settings.model_dump(include={"least", "n_decoded", "compare"})
    basis |= {"prompts": sorted({one.length for one in prompts})}
    ask = ask_exactly if settings.compare == "tokens" else ask_by_words
    n_asked = _n_asked(prompts, settings)
    sizes = {"n_decoded": settings.n_decoded, "batch_size": inputs.batch_size}

    def make(block: pl.DataFrame, progress: Progress) -> pl.DataFrame:
        ids = block["sequence_id"].to_list()
        found = ask(lm, token_matrix(block), prompts, **sizes, progress=progress)
        made = [(ids[row], *prompt, n, is_copied) for row, prompt, n, is_copied in sorted(found)]
        return pl.DataFrame(made, schema=_ANSWERS, orient="row")

    basis |= {"label": "Asking from every prompt", "size": _BLOCK, "units": n_asked}
    return keep_blocks(inputs, lm, rows, "verbatim", make, **basis)


def _by_prompt(answers: pl.DataFrame, groups: pl.DataFrame) -> pl.DataFrame:
    """Share of the sequences that each length of prompt brings out, by group."""
    rows = []
    for (length,), part in answers.group_by(pl.col("prompt").alias("asked"), maintain_order=True):
        best = best_of(part).join(groups, on="sequence_id", maintain_order="right")
        rows += [
            {"prompt": length, "group": name, "n": inside.height}
            | {"n_groups": n_groups(inside["near_duplicates"]), "share": _hits(inside)}
            | {"mean": inside["length"].mean()}
            for name, inside in _parts(best, groups)
        ]
    return frame_of(rows).sort("prompt", maintain_order=True)


def _parts(rows: pl.DataFrame, groups: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """All rows, then those of each group that there is."""
    yield "all", rows
    for name in members(groups["group"]):
        yield name, rows.filter(group=name)


def _shares(lengths: pl.DataFrame) -> pl.DataFrame:
    """Hits, median and longest of each group, with and without what is copied."""
    return frame_of(
        [
            {"group": name, "n": inside.height, "n_groups": n_groups(inside["near_duplicates"])}
            | {"share": _hits(inside), "share_with_copies": _hits(inside, "with_copies").value}
            | {"median": inside["length"].median(), "longest": inside["length"].max()}
            for name, inside in _parts(lengths, lengths)
        ]
    )


def _hits(rows: pl.DataFrame, column: str = "length") -> Estimate:
    return share_true(rows[column] >= HIT, rows["near_duplicates"])


def _sentence(lengths: pl.DataFrame, prompts: list[Prompt]) -> str:
    shown = [str(one) for one in sorted({one.length for one in prompts})]
    said = f"{', '.join(shown[:-1])} or {shown[-1]}" if shown[1:] else shown[0]
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
    values, near = (lengths[one].to_numpy() for one in ("length", "near_duplicates"))
    longest = int(values.max(initial=1))

    def shares(places: list[int]) -> pl.DataFrame:
        return frame_of(
            {"tokens": n, "n": len(places), "share": share_true(values[places] >= n, near[places])}
            for n in range(1, longest + 1)
        )

    return Chart(
        title="Sequences of which at least so many tokens come out, per cent (95 % interval)",
        x_label="tokens in a row, from the best prompt",
        series=tuple(
            series_of(name, shares(places), "share", x="tokens")
            for name, places in members(lengths["group"]).items()
        ),
        percent=True,
        marks=((float(min(HIT, longest)), str(HIT)),),
    )


def _further(
    inputs: AnalysisInputs, lengths: pl.DataFrame, prompts: list[Prompt], settings: Settings
) -> Iterator[str]:
    yield (
        f"Every start was tried after which {settings.least} tokens of the sequence are left, so "
        f"at most {max(inputs.length - one.length - one.start for one in prompts)} can come out: "
        "a sequence that comes out to its end is longer than its figure."
    )
    yield (
        f"With what is copied from the prompt it would be {_hits(lengths, 'with_copies')}; at "
        f"{int((lengths['n_copied'] > 0).sum()):,} sequences a prompt was left out for that."
    )
    missing = sorted({*settings.prompt_lengths} - {one.length for one in prompts})
    if missing:
        yield (
            f"No room for prompts of {', '.join(map(str, missing))} tokens in sequences of "
            f"{inputs.length}."
        )
