"""Score levels and how they change from one model to the next: what stays memorized?

Source: Chen, Han, Miyao 2024, "A Multi-Perspective Analysis of Memorization in Large Language
Models", arXiv 2405.11577; section 4 of the related work: levels of the memorization score and the
row-normalised transition matrix between sizes.
Run it: mnemoscope analyze levels STUDY --second MODEL
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.figures import Chart, HeatMap, plain, series_of
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.analysis.rows import complete_rows, decode_rows, draw_rows
from mnemoscope.stats import Estimate, share_of

if TYPE_CHECKING:
    from mnemoscope.lm.model import LanguageModel


LEVELS = ("very low", "low", "medium", "high", "very high")
"""Up to .2, .4, .6, .8 and 1 of the positions right; the upper end belongs to the level."""

_ENDS = np.array([0.2, 0.4, 0.6, 0.8])
_ROUNDING = 1e-6


class Settings(AnalysisSettings):
    """Settings of `levels`."""

    n_sequences: int | None = Field(
        default=2000, ge=10, description="Sequences that every model continues; null: all."
    )


def level_of(scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Give the number of the level of each score.

    Args:
        scores: shape (n,), fractions in [0, 1].

    Returns:
        Shape (n,), 0 (very low) to 4 (very high).

    >>> level_of([0.2, 0.21875, 1.0]).tolist()
    [0, 1, 4]
    """
    values = np.asarray(scores, dtype=np.float64) - _ROUNDING
    found: npt.NDArray[np.int64] = np.searchsorted(_ENDS, values).astype(np.int64)
    return found


def transitions(before: npt.ArrayLike, after: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Count how many sequences go from each level to each.

    Args:
        before: scores under the first model, shape (n,).
        after: scores of the same sequences under the second.

    Returns:
        Counts, shape (5, 5): rows from, columns to.
    """
    counts = np.zeros((len(LEVELS), len(LEVELS)), dtype=np.int64)
    np.add.at(counts, (level_of(before), level_of(after)), 1)
    return counts


def stays(before: npt.ArrayLike, after: npt.ArrayLike) -> dict[str, Estimate]:
    """Say how much of what was memorized stays so.

    Args:
        before: scores under the first model, shape (n,).
        after: scores of the same sequences under the second.

    Returns:
        `very high` (score over .8 in both) and `memorized` (score 1 in both), shares of those
        that were so before.
    """
    first, second = np.asarray(before), np.asarray(after)
    top, later = level_of(first) == 4, level_of(second) == 4
    whole, whole_later = first == 1, second == 1
    return {
        "very high": share_of(int((top & later).sum()), int(top.sum())),
        "memorized": share_of(int((whole & whole_later).sum()), int(whole.sum())),
    }


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Score the same sequences under every model and follow them from one to the next.

    The study's model comes last. Its own scores are used where the study has them.

    Args:
        inputs: with at least one other model.
        settings: how many sequences.
    """
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    others = inputs.other_models()
    names = [*(name for name, _ in others), "this model"]
    scores = [_scores(inputs, lm, rows, name) for name, lm in others]
    own = complete_rows(inputs, rows, "memorization_score", label="Continuing with this model")
    scores.append(own["memorization_score"].to_numpy().astype(np.float64))
    frames = {
        "scores": rows.select("sequence_id").with_columns(
            pl.Series(name, values) for name, values in zip(names, scores, strict=True)
        ),
        "levels": _level_frame(names, scores),
        "transitions": _transition_frame(names, scores),
        "stays": _stays_frame(names, scores),
    }
    return AnalysisResult(
        sentence=_sentence(names, scores, of=_drawn(rows.height, inputs.table.height)),
        frames=frames,
        figures=(*_heat_maps(names, scores), _level_chart(names, scores)),
        further=(
            f"{rows.height:,} sequences, each continued by {len(names)} models.",
            *_patterns(rows, names, scores),
            "A score counts the right tokens at their places in a free-running continuation: one "
            "token skipped spoils all that follow, so the middle levels are thinly filled.",
        ),
    )


def _scores(
    inputs: AnalysisInputs, lm: "LanguageModel", rows: pl.DataFrame, name: str
) -> npt.NDArray[np.float64]:
    decoded = decode_rows(inputs, lm, rows, label=f"Continuing with {name}")
    return decoded["memorization_score"].to_numpy().astype(np.float64)


def _level_frame(names: Sequence[str], scores: Sequence[npt.NDArray[np.float64]]) -> pl.DataFrame:
    """Sequences in each level under each model."""
    rows = []
    for name, values in zip(names, scores, strict=True):
        counts = np.bincount(level_of(values), minlength=len(LEVELS))
        for level, count in zip(LEVELS, counts.tolist(), strict=True):
            share = share_of(count, len(values))
            rows.append(
                {"model": name, "level": level, "n": count, "share": share.value}
                | {"low": share.low, "high": share.high}
            )
    return pl.DataFrame(rows)


def _transition_frame(
    names: Sequence[str], scores: Sequence[npt.NDArray[np.float64]]
) -> pl.DataFrame:
    """Every entry of every transition matrix."""
    rows = []
    for (first, before), (second, after) in pairwise(zip(names, scores, strict=True)):
        counts = transitions(before, after)
        for i, line in enumerate(counts):
            for j, count in enumerate(line.tolist()):
                share = share_of(count, int(line.sum()))
                rows.append(
                    {"from_model": first, "to_model": second}
                    | {"from": LEVELS[i], "to": LEVELS[j], "n": count}
                    | {"share": share.value, "low": share.low, "high": share.high}
                )
    return pl.DataFrame(rows)


def _stays_frame(names: Sequence[str], scores: Sequence[npt.NDArray[np.float64]]) -> pl.DataFrame:
    """What stays, for each pair of neighbours."""
    rows = []
    for (first, before), (second, after) in pairwise(zip(names, scores, strict=True)):
        for what, share in stays(before, after).items():
            n = int((np.asarray(before) == 1).sum()) if what == "memorized" else None
            n = int((level_of(before) == 4).sum()) if n is None else n
            rows.append(
                {"from_model": first, "to_model": second, "what": what, "n_before": n}
                | {"share": share.value, "low": share.low, "high": share.high}
            )
    return pl.DataFrame(rows)


def _drawn(n: int, n_all: int) -> str:
    """What a share is of: all sequences, or those that were drawn."""
    return f"all {n:,} sequences" if n == n_all else f"the {n:,} sequences drawn of {n_all:,}"


def _patterns(
    rows: pl.DataFrame, names: Sequence[str], scores: Sequence[npt.NDArray[np.float64]]
) -> list[str]:
    """How many of what the model before reproduces whole are patterns, which need no memory."""
    flags = ("is_incrementing", "is_repeating")
    if not set(flags) <= set(rows.columns):
        return []
    is_pattern = (rows["is_incrementing"] | rows["is_repeating"]).fill_null(False).to_numpy()
    whole = scores[-2] == 1
    n_whole, n_both = int(whole.sum()), int((whole & is_pattern).sum())
    if not n_whole:
        return []
    return [
        f"Of {n_whole:,} sequences that {names[-2]} reproduces whole, {n_both:,} are incrementing "
        f"or repeating ({share_of(n_both, n_whole)}): patterns are continued without memory."
    ]


def _sentence(names: Sequence[str], scores: Sequence[npt.NDArray[np.float64]], *, of: str) -> str:
    share = stays(scores[-2], scores[-1])["very high"]
    n = int((level_of(scores[-2]) == 4).sum())
    memorized = share_of(int((scores[-1] == 1).sum()), len(scores[-1]))
    if not n:
        return (
            f"{names[-2]} holds no sequence at the very high level (score over .8), so there is "
            f"nothing that could stay; {names[-1]} has memorized {memorized} of {of}."
        )
    return (
        f"Of {n:,} sequences very highly memorized by {names[-2]} (score over .8), {share} stay "
        f"so in {names[-1]}, which has memorized {memorized} of {of}."
    )


def _heat_maps(names: Sequence[str], scores: Sequence[npt.NDArray[np.float64]]) -> "list[HeatMap]":
    """A row-normalised transition matrix a pair of neighbours."""
    maps = []
    for (first, before), (second, after) in pairwise(zip(names, scores, strict=True)):
        counts = transitions(before, after)
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
        maps.append(
            HeatMap(
                title=f"Where the sequences of each level go, from {first} to {second} "
                "(per cent of a row)",
                values=tuple(plain(row) for row in shares),
                row_names=tuple(
                    f"{level} ({int(total):,})"
                    for level, total in zip(LEVELS, totals[:, 0], strict=True)
                ),
                column_names=LEVELS,
                row_label=first,
                column_label=second,
                percent=True,
            )
        )
    return maps


def _level_chart(names: Sequence[str], scores: Sequence[npt.NDArray[np.float64]]) -> Chart:
    """Share of the sequences in each level under each model."""
    frame = _level_frame(names, scores)
    return Chart(
        title="Sequences in each level, per cent (95 % interval)",
        form="bars",
        x_names=LEVELS,
        percent=True,
        series=tuple(
            series_of(name, part, "share")
            for name in names
            for part in [frame.filter(pl.col("model") == name)]
        ),
    )
