"""Score levels and how they change from one model to the next: what stays memorized?

Source: Chen, Han, Miyao 2024, "A Multi-Perspective Analysis of Memorization in Large Language
Models", arXiv 2405.11577; section 4 of the related work: levels of the memorization score and the
row-normalised transition matrix between sizes.
Run it: mnemoscope analyze levels STUDY --second MODEL
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope import Estimate
from mnemoscope.plugin import (
    FIGURE,
    OWN,
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    HeatMap,
    bars_by,
    complete_rows,
    count_lacking,
    decode_rows,
    draw_rows,
    frame_of,
    n_groups,
    plain,
    resampled_mean,
    series_by,
    share_true,
    token_matrix,
)

LEVELS = ("very low", "low", "medium", "high", "very high")
"""Up to .2, .4, .6, .8 and 1 of the positions right; the upper end belongs to the level."""

_ENDS = np.array([0.2, 0.4, 0.6, 0.8])
_ROUNDING = 1e-6

_Scores = Mapping[str, npt.NDArray[np.float64]]
"""By model: the score of every sequence."""
_Groups = npt.NDArray[np.int64]


class Settings(AnalysisSettings):
    """Settings of `levels`."""

    n_sequences: int | None = Field(
        default=2000, ge=10, description="Sequences that every model continues; null: all."
    )
    lengths: tuple[int, ...] = Field(
        default=(16, 32, 48, 64, 80, 96),
        min_length=1,
        description="Tokens of a continuation at which the score is given too, up to the suffix.",
    )


def level_of(scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Give the number of the level of each score, 0 (very low) to 4 (very high).

    >>> level_of([0.2, 0.21875, 1.0]).tolist()
    [0, 1, 4]
    """
    values = np.asarray(scores, dtype=np.float64) - _ROUNDING
    return np.asarray(np.searchsorted(_ENDS, values).astype(np.int64))


def transitions(before: npt.ArrayLike, after: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Count how many sequences, (n,), go from each level to each: (5, 5), rows from, columns to."""
    counts = np.zeros((len(LEVELS), len(LEVELS)), dtype=np.int64)
    np.add.at(counts, (level_of(before), level_of(after)), 1)
    return counts


def stays(
    before: npt.ArrayLike, after: npt.ArrayLike, groups: npt.ArrayLike | None = None
) -> dict[str, tuple[int, Estimate]]:
    """Say how much of what was memorized stays so, by the scores under both models, (n,).

    Gives of `very high` (score over .8) and `memorized` (score 1) how many were so before, and
    which share of them is so in both.
    """
    first, second = np.asarray(before), np.asarray(after)
    owners = None if groups is None else np.asarray(groups)
    both = {
        "very high": (level_of(first) == 4, level_of(second) == 4),
        "memorized": (first == 1, second == 1),
    }
    return {
        what: (int(was.sum()), share_true(is_now[was], None if owners is None else owners[was]))
        for what, (was, is_now) in both.items()
    }


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Every model continues the rows, the study's own those without a score."""
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    return len(inputs.others) * rows.height + count_lacking(inputs, rows, "memorization_score")


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Score the same sequences under every model, the study's last, and follow them along."""
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    found = {
        name: decode_rows(inputs, lm, rows, label=f"Continuing with {name}")
        for name, lm in inputs.other_models()
    }
    found[OWN] = complete_rows(inputs, rows, "memorization_score", label=f"Continuing with {OWN}")
    scores = {
        name: frame["memorization_score"].to_numpy().astype(np.float64)
        for name, frame in found.items()
    }
    n, n_all = rows.height, inputs.table.height
    of = f"all {n:,} sequences" if n == n_all else f"the {n:,} sequences drawn of {n_all:,}"
    groups = inputs.near_duplicates(rows["sequence_id"])
    levels = _level_frame(scores, groups)
    lengths = _length_frame(inputs, rows, found, settings, groups)
    return AnalysisResult(
        sentence=_sentence(scores, of, groups),
        frames={
            "scores": rows.select("sequence_id").with_columns(
                pl.Series(name, values) for name, values in scores.items()
            ),
            "levels": levels,
            "transitions": _transition_frame(scores, groups),
            "stays": frame_of(
                [
                    {"from_model": first, "to_model": second, "what": what, "n_before": n}
                    | {"share": share}
                    for (first, before), (second, after) in pairwise(scores.items())
                    for what, (n, share) in stays(before, after, groups).items()
                ]
            ),
            "lengths": lengths,
        },
        figures=(
            *_heat_maps(scores),
            bars_by(
                "Sequences in each level, per cent (95 % interval)",
                levels.with_columns(of=n),
                "model",
                "share",
                at="level",
                percent=True,
            ),
            *_length_chart(lengths),
        ),
        further=(
            f"{n:,} sequences, each continued by {len(scores)} models.",
            *_patterns(rows, scores, groups),
            "A score counts the right tokens at their places in a free-running continuation: one "
            "token skipped spoils all that follow, so the middle levels are thinly filled.",
            f"Scores of shorter continuations are in the table lengths; suffixes have "
            f"{inputs.length - inputs.prefix} tokens here (sequences.length makes longer ones).",
        ),
    )


def _length_frame(
    inputs: AnalysisInputs,
    rows: pl.DataFrame,
    found: Mapping[str, pl.DataFrame],
    settings: Settings,
    groups: _Groups,
) -> pl.DataFrame:
    """Mean score and share memorized of so many tokens, of models whose continuations are known."""
    suffixes, lines = token_matrix(rows)[:, inputs.prefix :], []
    for name, frame in found.items():
        if "continuation" not in frame.columns:
            continue
        suffix = pl.Series(suffixes.tolist(), dtype=pl.List(pl.Int32))
        is_whole = pl.col("memorization_score") == 1
        written = frame.select(pl.coalesce("continuation", pl.when(is_whole).then(suffix)))
        if written["continuation"].null_count():
            continue
        right = token_matrix(written, "continuation") == suffixes
        for n in (one for one in sorted({*settings.lengths}) if 0 < one <= suffixes.shape[1]):
            lines.append(
                {"model": name, "tokens": n, "n": rows.height, "n_groups": n_groups(groups)}
                | {"score": resampled_mean(right[:, :n].mean(axis=1), groups)}
                | {"memorized": share_true(right[:, :n].all(axis=1), groups)}
            )
    schema = {"model": pl.String, **dict.fromkeys(("tokens", "n", "n_groups"), pl.Int64)}
    return frame_of(lines, {**schema, "score": FIGURE, "memorized": FIGURE})


def _length_chart(lengths: pl.DataFrame) -> Iterator[Chart]:
    if lengths["tokens"].n_unique() > 1:
        yield Chart(
            title="Memorization score by tokens of the continuation, per cent (95 % interval)",
            x_label="tokens",
            series=series_by(lengths, "model", "score", x="tokens"),
            percent=True,
        )


def _level_frame(scores: _Scores, groups: _Groups) -> pl.DataFrame:
    rows = []
    for name, values in scores.items():
        for number, level in enumerate(LEVELS):
            is_here = level_of(values) == number
            share = share_true(is_here, groups)
            about = {"model": name, "level": level, "n": int(is_here.sum())}
            rows.append({**about, "n_groups": n_groups(groups), "share": share})
    return frame_of(rows)


def _transition_frame(scores: _Scores, groups: _Groups) -> pl.DataFrame:
    rows = []
    for (first, before), (second, after) in pairwise(scores.items()):
        was, is_now = level_of(before), level_of(after)
        for number, (level, line) in enumerate(
            zip(LEVELS, transitions(before, after), strict=True)
        ):
            here = was == number
            owners = groups[here]
            for to, (other, count) in enumerate(zip(LEVELS, line.tolist(), strict=True)):
                share = share_true(is_now[here] == to, owners)
                between = {"from_model": first, "to_model": second, "from": level, "to": other}
                rows.append({**between, "n": count, "n_groups": n_groups(owners), "share": share})
    return frame_of(rows)


def _patterns(rows: pl.DataFrame, scores: _Scores, groups: _Groups) -> Iterator[str]:
    """How many of what the model before reproduces whole are patterns, which need no memory."""
    if not {"is_incrementing", "is_repeating"} <= set(rows.columns):
        return
    is_pattern = (rows["is_incrementing"] | rows["is_repeating"]).fill_null(False).to_numpy()
    name, before = list(scores.items())[-2]
    whole = before == 1
    if whole.any():
        both, owners = is_pattern[whole], groups[whole]
        yield (
            f"Of {len(both):,} sequences that {name} reproduces whole, {both.sum():,} are "
            f"incrementing or repeating ({share_true(both, owners)}): patterns are continued "
            "without memory."
        )


def _sentence(scores: _Scores, of: str, groups: _Groups) -> str:
    (before, first), (after, second) = list(scores.items())[-2:]
    n, share = stays(first, second, groups)["very high"]
    memorized = share_true(second == 1, groups)
    if not n:
        return (
            f"There is no sequence that {before} reproduces at the very high level (score over "
            f".8), so none could stay; {after} has memorized {memorized} of {of}."
        )
    return (
        f"Of {n:,} sequences that {before} reproduces at the very high level (score over .8), from "
        f"memory or by guessing, {share} stay there in {after}, which has memorized {memorized} of "
        f"{of}."
    )


def _heat_maps(scores: _Scores) -> Iterator[HeatMap]:
    """A row-normalised transition matrix a pair of neighbours."""
    for (first, before), (second, after) in pairwise(scores.items()):
        counts = transitions(before, after)
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
        yield HeatMap(
            title=f"Where the sequences of each level go, from {first} to {second} "
            "(per cent of a row)",
            values=tuple(plain(row) for row in shares),
            row_names=tuple(
                f"{level} ({total:,})"
                for level, total in zip(LEVELS, totals[:, 0].tolist(), strict=True)
            ),
            column_names=LEVELS,
            row_label=first,
            column_label=second,
            percent=True,
        )
