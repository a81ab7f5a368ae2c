"""Frequency of tokens and 2-grams, and entropy, by position around prefix and continuation.

Source: Chen, Han, Miyao 2024, arXiv 2405.11577; section 4 of the related work: the frequency
boundary effect (of 1-grams or 2-grams) and the inverse effect in entropy, for sequences memorized
whole, in half, in a quarter and not at all.
Run it: mnemoscope analyze boundary STUDY --corpus TEXTS
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope import UserError
from mnemoscope.plugin import (
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    complete_rows,
    count_lacking,
    count_ngrams,
    counted_names,
    draw_rows,
    entropy_of,
    frame_of,
    frequency_source,
    n_groups,
    ranged,
    resampled_mean,
    resampled_means,
    rows_of,
    series_by,
    series_of,
    token_matrix,
)

_Floats = npt.NDArray[np.float64]

GROUPS = {"memorized": 1.0, "half": 0.5, "quarter": 0.25, "not memorized": 0.0}
"""Groups and the score in their middle."""
UNITS = {
    "frequency": "per cent of all tokens",
    "2-gram frequency": "per mille of all 2-grams",
    "entropy": "nats",
}
"""What is followed, and its unit."""

_ROUNDING = 1e-6
_TITLES = {
    "frequency": "Mean frequency of the token at each position, per cent of all tokens",
    "2-gram frequency": "Mean frequency of the 2-gram that ends at each position, per mille of "
    "all 2-grams",
    "entropy": "Mean entropy of the prediction of each token, nats",
}


class Settings(AnalysisSettings):
    """Settings of `boundary`."""

    n_sequences: int | None = Field(
        default=2000, ge=10, description="Sequences drawn by the seed; null: all."
    )
    tolerance: float = Field(
        default=0.1,
        ge=0,
        lt=0.125,
        description="How far a score may lie from .5, .25 or 0 to belong to that group.",
    )
    minimum: int = Field(default=10, ge=2, description="Sequences that a group needs.")


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Continuations that are not known, and the entropy of all."""
    drawn = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    lacking = count_lacking(inputs, drawn, "continuation", "memorization_score")
    return lacking + drawn.height


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Follow frequency and entropy over the positions of prefix and the model's own continuation.

    Raises UserError: memorized or not memorized sequences are too few.
    """
    drawn = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    rows = complete_rows(inputs, drawn, "continuation", "memorization_score")
    groups = group_of(rows["memorization_score"].to_numpy(), tolerance=settings.tolerance)
    sizes = {name: groups.count(name) for name in GROUPS}
    kept = {name: n for name, n in sizes.items() if n >= settings.minimum}
    for name in ("memorized", "not memorized"):
        if name not in kept:
            raise UserError(
                f"analyze boundary: {sizes[name]} sequences of the group '{name}', "
                f"{settings.minimum} are needed. Take more (--set n_sequences=null), or lower "
                "--set minimum=N."
            )
    rows = rows.with_columns(pl.Series("group", groups)).filter(pl.col("group").is_in(list(kept)))
    half = inputs.prefix
    tokens = np.concatenate(
        [token_matrix(rows)[:, :half], token_matrix(rows, "continuation")], axis=1
    )
    single, pairs = count_ngrams(inputs, tokens, 1), count_ngrams(inputs, tokens, 2)
    measured: dict[str, _Floats] = {
        "frequency": 100.0 * single.each / max(single.total, 1),
        "2-gram frequency": _later(1000.0 * pairs.each / max(pairs.total, 1)),
        "entropy": _later(entropy_of(inputs, "entropy", rows, tokens)),
    }
    curves, differences = [], []
    for what, values in measured.items():
        for name, n in kept.items():
            is_inside = (rows["group"] == name).to_numpy()
            inside = values[is_inside]
            near = inputs.near_duplicates(rows["sequence_id"].filter(is_inside))
            row: dict[str, object] = {"what": what, "group": name, "n": n}
            row["n_groups"] = n_groups(near)
            for position, found in enumerate(resampled_means(inside, near), 1):
                curves.append({**row, "position": position, "mean": found})
            found = resampled_mean(inside[:, half] - inside[:, half - 1], near)
            differences.append({**row, "difference": found})
    frames = {"differences": frame_of(differences), "curves": frame_of(curves)}
    return AnalysisResult(
        sentence=_sentence(frames["differences"]),
        frames=frames,
        figures=tuple(_figures(**frames, prefix=half)),
        further=tuple(_further(inputs, kept, settings)),
    )


def group_of(scores: npt.ArrayLike, *, tolerance: float) -> list[str | None]:
    """Give each score, a fraction, its group: exactly 1, the others within a tolerance.

    The tolerance is below .125, so that no two groups touch; a score between them has None.
    """
    reach = {name: _ROUNDING + (0 if middle == 1 else tolerance) for name, middle in GROUPS.items()}
    return [
        next((name for name, middle in GROUPS.items() if abs(score - middle) <= reach[name]), None)
        for score in np.asarray(scores, dtype=np.float64)
    ]


def _later(values: _Floats) -> _Floats:
    """Values of all tokens but the first, which has none (NaN)."""
    return np.pad(values, ((0, 0), (1, 0)), constant_values=np.nan)


def _sentence(differences: pl.DataFrame) -> str:
    said = []
    for what, unit in UNITS.items():
        shown = []
        for name in ("memorized", "not memorized"):
            row = next(rows_of(differences.filter(what=what, group=name)))["difference"]
            figure = ranged(row, digits=2, sign="+", minus="\N{MINUS SIGN}")
            shown.append(f"{figure} where {name}")
        said.append(f"{what} changes by {' and '.join(shown)} ({unit})")
    text = "; ".join(said)
    return f"From the last token of the prefix to the first of the continuation, {text}."


def _figures(differences: pl.DataFrame, curves: pl.DataFrame, prefix: int) -> Iterator[Chart]:
    for what, title in _TITLES.items():
        yield Chart(
            title=title,
            x_label="position",
            marks=((prefix + 0.5, "boundary"),),
            series=series_by(curves.filter(what=what), "group", "mean", x="position"),
        )
    for what, unit in UNITS.items():
        rows = differences.filter(what=what)
        words = "first continued token minus last of the prefix"
        yield Chart(
            title=f"Boundary difference in {what}, {unit} (95 % interval)",
            form="bars",
            x_names=counted_names(rows, "group"),
            series=(series_of(words, rows, "difference"),),
        )


def _further(inputs: AnalysisInputs, kept: dict[str, int], settings: Settings) -> Iterator[str]:
    said = ", ".join(f"{n:,} {name}" for name, n in kept.items())
    yield f"Sequences: {said}; half, quarter and none within {settings.tolerance:g} of the score."
    missing = [name for name in GROUPS if name not in kept]
    if missing:
        yield f"Fewer than {settings.minimum} sequences, left out: {', '.join(missing)}."
    yield f"Token frequencies are those of {frequency_source(inputs)}."
    if inputs.corpus is None:
        yield "2-grams are counted in the study's own sequences; give a corpus to count in that."
