"""Frequency of tokens and 2-grams, and entropy, by position around prefix and continuation.

Source: Chen, Han, Miyao 2024, arXiv 2405.11577; section 4 of the related work: the frequency
boundary effect (of 1-grams or 2-grams) and the inverse effect in entropy, for sequences memorized
whole, in half, in a quarter and not at all.
Run it: mnemoscope analyze boundary STUDY --corpus TEXTS
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.figures import Chart, series_by, series_of
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.analysis.predictors import count_tokens, counts_of, frequency_source
from mnemoscope.analysis.rows import complete_rows, draw_rows, entropy_of
from mnemoscope.data.corpus import Place
from mnemoscope.data.duplicates import SuffixIndex
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError
from mnemoscope.progress import track
from mnemoscope.stats import Floats, frame_of, n_groups, resampled_mean, resampled_means, rows_of
from mnemoscope.words import MINUS, plain_figure

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
    counts, pairs = count_tokens(inputs), count_pairs(inputs, tokens)
    measured: dict[str, Floats] = {
        "frequency": 100.0 * counts_of(tokens, counts) / max(int(counts.sum()), 1),
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


def _later(values: Floats) -> Floats:
    """Values of all tokens but the first, which has none (NaN)."""
    return np.pad(values, ((0, 0), (1, 0)), constant_values=np.nan)


class PairCounts(NamedTuple):
    """Counts of the 2-grams of some sequences."""

    each: npt.NDArray[np.int64]  # of the 2-gram that ends at each token but the first, (n, T - 1)
    total: int  # 2-grams in all that was counted


def count_pairs(inputs: AnalysisInputs, tokens: npt.NDArray[np.int32]) -> PairCounts:
    """Count the 2-grams of sequences, (n, T), none across two, in the corpus or else the study."""
    pairs = np.stack([tokens[:, :-1], tokens[:, 1:]], axis=-1).reshape(-1, 2)
    different, which = np.unique(pairs, axis=0, return_inverse=True)

    def make() -> pl.DataFrame:
        index, total = SuffixIndex(different), 0
        for piece, ends in _pieces(inputs):
            index.count(piece, ends)
            total += int(np.maximum(np.diff(ends, prepend=0) - 1, 0).sum())
        found = pl.DataFrame({"count": index.counts_of_rows()})
        return found.with_columns(total=pl.lit(total, dtype=pl.Int64))

    if inputs.corpus is None:
        kept = make()
    else:
        basis = {
            "corpus": inputs.corpus.identity(),
            "pairs": hashlib.sha256(different.tobytes()).hexdigest(),
        }
        kept = inputs.shelf("pairs", basis, make)
    each = kept["count"].to_numpy()[which.ravel()].reshape(len(tokens), -1)
    return PairCounts(each, int(kept["total"][0]))


def _pieces(inputs: AnalysisInputs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens and the ends of their documents."""
    if inputs.corpus is None:
        table = token_matrix(inputs.table)
        yield table.ravel(), np.arange(1, len(table) + 1) * table.shape[1]
        return
    with track("Counting 2-grams", total=inputs.corpus.n_tokens, unit="tokens") as progress:
        for chunk, _ in inputs.corpus.chunks(Place(), 2):
            ends = np.array([len(chunk.tokens)]) if chunk.ends is None else chunk.ends
            yield chunk.tokens, ends
            progress.advance(chunk.n_new)


def _sentence(differences: pl.DataFrame) -> str:
    said = []
    for what, unit in UNITS.items():
        shown = []
        for name in ("memorized", "not memorized"):
            row = next(rows_of(differences.filter(what=what, group=name)))["difference"]
            figure = plain_figure(*row, scale=1, unit="", digits=2, sign="+", minus=MINUS)
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
            x_names=tuple(rows["group"]),
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
        yield "2-grams are counted in the study's own sequences; --corpus counts them in a corpus."
