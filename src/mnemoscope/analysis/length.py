"""Verbatim memorization length: how much of a sequence comes out from its best prompt?

Source: Huang, Yang, Potts 2024, "Demystifying Verbatim Memorization in Large Language Models",
arXiv 2407.17817; section 3.1 of the related work: the longest exact continuation over prompt
lengths and starts, without what is copied from the prompt.
Run it: mnemoscope analyze length STUDY
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.figures import Chart, Series, plain, series_of
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.analysis.rows import draw_rows, groups_of, hash_ids, members, model_basis
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError
from mnemoscope.progress import Progress, track
from mnemoscope.stats import Estimate, share_of

if TYPE_CHECKING:
    from mnemoscope.lm.model import LanguageModel


# How much comes out from every prompt of a sequence: by tokens, by words, and as published.

_SHORTEST_COPY = 5
_SHOWN_CHARACTERS = 32


class Prompt(NamedTuple):
    """A place in a sequence to ask from.

    Attributes:
        length: tokens of the prompt.
        start: its first token.
    """

    length: int
    start: int


class Answer(NamedTuple):
    """What one prompt of one sequence gives.

    Attributes:
        row: of the sequence.
        prompt: which.
        n_tokens: tokens of the sequence that come out after it.
        is_copied: they stand in the prompt already.
    """

    row: int
    prompt: Prompt
    n_tokens: int
    is_copied: bool


def prompts_of(
    n_tokens: int, lengths: Sequence[int], *, least: int, misses_last: bool = False
) -> list[Prompt]:
    """Give every prompt of a sequence after which `least` of its tokens are left.

    Args:
        n_tokens: tokens of the sequence.
        lengths: of prompts.
        least: tokens that must follow.
        misses_last: leave out the last start of each length, as the published range does.

    >>> prompts_of(12, [8], least=3)
    [Prompt(length=8, start=0), Prompt(length=8, start=1)]
    """
    return [
        Prompt(length, start)
        for length in sorted(lengths)
        for start in range(n_tokens - length - least + (0 if misses_last else 1))
    ]


def by_tokens(
    lm: "LanguageModel",
    table: npt.NDArray[np.integer[Any]],
    prompts: Sequence[Prompt],
    *,
    n_decoded: int,
    batch_size: int,
    progress: Progress,
) -> Iterator[Answer]:
    """Count right tokens in a row after each prompt, exactly.

    One teacher-forced forward a start serves prompts of every length: as long as every token is
    the model's own choice, it is what greedy decoding writes.

    Args:
        lm: the model.
        table: sequences, shape (n, T).
        prompts: of `prompts_of`.
        n_decoded: tokens asked for at most.
        batch_size: sequences a forward.
        progress: advanced by the sequences of every start.
    """
    from mnemoscope.lm.continue_ import is_copied, right_tokens, run_lengths

    for start in sorted({one.start for one in prompts}):
        lengths = [one.length for one in prompts if one.start == start]
        shown = table[:, start:]
        is_right = right_tokens(lm, shown, batch_size=batch_size, prefix=min(lengths))
        for length in lengths:
            asked = is_right[:, length - min(lengths) :][:, :n_decoded]
            for row, n in enumerate(run_lengths(asked).tolist()):
                prompt, written = shown[row, :length], shown[row, length : length + n]
                copied = is_copied(lm.tokenizer, prompt, written)
                yield Answer(row, Prompt(length, start), n, copied)
        progress.advance(len(table))


def by_words(
    lm: "LanguageModel",
    table: npt.NDArray[np.integer[Any]],
    prompts: Sequence[Prompt],
    *,
    n_decoded: int,
    batch_size: int,
    progress: Progress,
    published: bool = False,
) -> Iterator[Answer]:
    """Compare what is decoded after each prompt as text; arguments as `by_tokens`.

    Args:
        lm: the model.
        table: sequences, shape (n, T).
        prompts: of `prompts_of`.
        n_decoded: tokens decoded, as many as the model's positions allow.
        batch_size: sequences a forward.
        progress: advanced by the sequences of every prompt.
        published: with the quirks of the published script; prompts of one text then share an
            answer, the last one's.
    """
    from mnemoscope.lm.continue_ import is_copied

    tokenizer = lm.tokenizer
    by_text: dict[str, list[int]] = {}
    asked: list[tuple[int, Prompt, str]] = []
    for prompt in prompts:
        shown = table[:, prompt.start : prompt.start + prompt.length]
        written = _decode(lm, shown, n_decoded, batch_size)
        progress.advance(len(table))
        for row, ids in enumerate(written.tolist()):
            if published:
                text = tokenizer.decode(shown[row].tolist())
                by_text[text] = ids
                asked.append((row, prompt, text))
                continue
            label = table[row, prompt.start + prompt.length :][:n_decoded]
            n = words_in_common(tokenizer, ids, label)
            yield Answer(row, prompt, n, is_copied(tokenizer, shown[row], label[:n]))
    for row, prompt, text in asked:
        label = table[row, prompt.start + prompt.length :][:n_decoded].tolist()
        n, copied = published_answer(tokenizer, text, by_text[text], label)
        yield Answer(row, prompt, n, copied)


def words_in_common(tokenizer: Any, written: npt.ArrayLike, label: npt.ArrayLike) -> int:
    """Count the tokens of the true text whose words begin the written one.

    Args:
        tokenizer: gives the texts.
        written: token ids that the model wrote.
        label: token ids of the true text.
    """
    from mnemoscope.lm.continue_ import as_words

    text, ids = as_words(tokenizer, written), np.asarray(label)
    low, high = 0, len(ids)
    while low < high:  # what fits, fits for fewer tokens too
        middle = (low + high + 1) // 2
        if text.startswith(as_words(tokenizer, ids[:middle])):
            low = middle
        else:
            high = middle - 1
    return low


def published_answer(
    tokenizer: Any, prompt: str, written: Sequence[int], label: Sequence[int]
) -> tuple[int, bool]:
    """Give length and copy verdict as the published script does.

    The match is as many characters of the raw text, and one more, as the words have in common:
    punctuation and blanks, which the words lost, make it shorter than what came out.

    Args:
        tokenizer: decodes and counts.
        prompt: text of the prompt.
        written: token ids that the model wrote.
        label: token ids of the true text.
    """
    from mnemoscope.lm.continue_ import as_words

    theirs, own = (as_words(tokenizer, ids, ascii_only=True) for ids in (written, label))
    pairs = zip(theirs, own, strict=False)
    n_common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    match = tokenizer.decode(list(label))[: n_common + 1]
    n = len(tokenizer.encode(match, add_special_tokens=False))
    begins = tokenizer.decode(list(written))[:_SHOWN_CHARACTERS]
    return n, n > _SHORTEST_COPY and (match in prompt or begins in prompt)


def _decode(
    lm: "LanguageModel", shown: npt.NDArray[np.integer[Any]], n_decoded: int, batch_size: int
) -> npt.NDArray[np.int64]:
    from mnemoscope.lm.continue_ import greedy_tokens
    from mnemoscope.lm.model import check_tokens, run_batches

    if lm.max_positions is not None:
        n_decoded = min(n_decoded, lm.max_positions - len(lm.before) - shown.shape[1])
    batches = run_batches(
        lm,
        check_tokens(lm, shown),
        batch_size,
        lambda batch: greedy_tokens(lm, batch, n_decoded)[0].cpu().numpy(),
    )
    return np.concatenate(list(batches))


# Verbatim memorization length: how much of a sequence comes out from its best prompt?

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


def _hits(rows: pl.DataFrame, column: str = "length") -> Estimate:
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
