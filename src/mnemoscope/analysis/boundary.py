"""Frequency of tokens and 2-grams, and entropy, by position around prefix and continuation.

Source: Chen, Han, Miyao 2024, "A Multi-Perspective Analysis of Memorization in Large Language
Models", arXiv 2405.11577; section 4 of the related work: the frequency boundary effect (of 1-grams
or 2-grams) and the inverse effect in entropy, for sequences memorized whole, in half, in a quarter
and not at all.
Run it: mnemoscope analyze boundary STUDY --corpus TEXTS
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.figures import Chart, series_of
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.analysis.predictors import count_tokens, frequency_source
from mnemoscope.analysis.rows import complete_rows, draw_rows, hash_ids, model_basis
from mnemoscope.data.duplicates import SuffixIndex
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError
from mnemoscope.progress import track
from mnemoscope.stats import normal_mean

# How often two tokens stand side by side: counts of 2-grams in the corpus or in the study itself.


class PairCounts(NamedTuple):
    """Counts of the 2-grams of some sequences.

    Attributes:
        each: of the 2-gram that ends at every token but the first, int64, shape (n, T - 1).
        total: 2-grams in all that was counted.
    """

    each: npt.NDArray[np.int64]
    total: int


def count_pairs(inputs: AnalysisInputs, tokens: npt.NDArray[np.int32]) -> PairCounts:
    """Count the 2-grams of sequences in the corpus, or in the study's sequences without one.

    No 2-gram spans two documents, or two sequences.

    Args:
        inputs: whose corpus is read; its counts are kept.
        tokens: sequences, shape (n, T).
    """
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
    from mnemoscope.data.corpus import Place

    with track("Counting 2-grams", total=inputs.corpus.n_tokens, unit="tokens") as progress:
        for chunk, _ in inputs.corpus.chunks(Place(), 2):
            ends = np.array([len(chunk.tokens)]) if chunk.ends is None else chunk.ends
            yield chunk.tokens, ends
            progress.advance(chunk.n_new)


# Frequency of tokens and 2-grams, and entropy, by position around prefix and continuation.

GROUPS = {"memorized": 1.0, "half": 0.5, "quarter": 0.25, "not memorized": 0.0}
"""Groups and the score in their middle."""
UNITS = {
    "frequency": "per cent of all tokens",
    "2-gram frequency": "per mille of all 2-grams",
    "entropy": "nats",
}
"""What is followed, and its unit."""

_ROUNDING = 1e-6


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


def group_of(scores: npt.ArrayLike, *, tolerance: float) -> list[str | None]:
    """Give each score its group: memorized is exactly 1, the others within a tolerance.

    Args:
        scores: shape (n,), fractions in [0, 1].
        tolerance: below .125, so that no two groups touch.

    Returns:
        A name of `GROUPS`, or None for a score between them.
    """
    found: list[str | None] = []
    for score in np.asarray(scores, dtype=np.float64):
        near = [
            name
            for name, middle in GROUPS.items()
            if abs(score - middle) <= (_ROUNDING if middle == 1 else tolerance + _ROUNDING)
        ]
        found.append(near[0] if near else None)
    return found


def boundary_differences(values: npt.ArrayLike, *, prefix: int) -> npt.NDArray[np.float64]:
    """Give what the first continued token has beyond the last of the prefix.

    Args:
        values: of every position, shape (n, T).
        prefix: tokens of the prefix.

    Returns:
        Shape (n,).
    """
    table = np.asarray(values, dtype=np.float64)
    found: npt.NDArray[np.float64] = table[:, prefix] - table[:, prefix - 1]
    return found


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Follow frequency and entropy over the positions of prefix and continuation.

    A sequence is shown as prefix and the model's own continuation, which for a memorized one is
    its suffix.

    Args:
        inputs: a study and its model; the corpus where there is one.
        settings: how many sequences, which groups.

    Raises:
        UserError: memorized or not memorized sequences are too few.
    """
    drawn = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    rows = complete_rows(inputs, drawn, "continuation", "memorization_score")
    groups = group_of(rows["memorization_score"].to_numpy(), tolerance=settings.tolerance)
    rows = rows.with_columns(pl.Series("group", groups, dtype=pl.String))
    kept = [name for name in GROUPS if (rows["group"] == name).sum() >= settings.minimum]
    _refuse_small(rows, kept, settings)
    rows = rows.filter(pl.col("group").is_in(kept))
    tokens = np.concatenate(
        [token_matrix(rows)[:, : inputs.prefix], token_matrix(rows, "continuation")], axis=1
    )
    measured = {
        "frequency": _frequency(inputs, tokens),
        "2-gram frequency": _pair_frequency(inputs, tokens),
        "entropy": _entropy(inputs, rows, tokens),
    }
    curves = pl.concat(
        _curves(name, values, rows["group"], kept) for name, values in measured.items()
    )
    differences = pl.concat(
        _differences(name, values, rows["group"], kept, inputs.prefix)
        for name, values in measured.items()
    )
    return AnalysisResult(
        sentence=_sentence(differences),
        frames={"differences": differences, "curves": curves},
        figures=(
            *(_curve_chart(curves, what, kept, inputs.prefix) for what in UNITS),
            *(_difference_chart(differences, what, kept) for what in UNITS),
        ),
        further=tuple(_further(inputs, rows, kept, settings)),
    )


def _frequency(inputs: AnalysisInputs, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Share of every token among all that are counted, per cent, shape (n, T)."""
    counts = count_tokens(inputs)
    padded = np.pad(counts, (0, max(0, int(tokens.max()) + 1 - len(counts))))
    found: npt.NDArray[np.float64] = 100.0 * padded[tokens] / max(int(counts.sum()), 1)
    return found


def _pair_frequency(
    inputs: AnalysisInputs, tokens: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Share of the 2-gram that ends at every token, per mille; the first token ends none (NaN)."""
    counts = count_pairs(inputs, tokens)
    share = 1000.0 * counts.each / max(counts.total, 1)
    return np.concatenate([np.full((len(tokens), 1), np.nan), share], axis=1)


def _refuse_small(rows: pl.DataFrame, kept: list[str], settings: Settings) -> None:
    for name in ("memorized", "not memorized"):
        if name not in kept:
            n = int((rows["group"] == name).sum())
            raise UserError(
                f"analyze boundary: {n} sequences of the group '{name}', {settings.minimum} are "
                "needed. Take more (--set n_sequences=null), or lower --set minimum=N."
            )


def _entropy(
    inputs: AnalysisInputs, rows: pl.DataFrame, tokens: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Entropy of every token's prediction, shape (n, T); the first has none (NaN)."""
    from mnemoscope.lm.probe import next_token_entropy

    lm = inputs.model()

    def make() -> pl.DataFrame:
        values = next_token_entropy(lm, tokens, batch_size=inputs.batch_size)
        return rows.select(
            "sequence_id", pl.Series("entropy", values.tolist(), dtype=pl.List(pl.Float32))
        )

    basis = {**model_basis(lm), "ids": hash_ids(rows), "prefix": inputs.prefix}
    kept = inputs.shelf("entropy", basis, make)
    values = np.array(kept["entropy"].to_list(), dtype=np.float64)
    return np.concatenate([np.full((len(values), 1), np.nan), values], axis=1)


def _curves(
    what: str, values: npt.NDArray[np.float64], groups: pl.Series, kept: list[str]
) -> pl.DataFrame:
    """Mean by position, counted from 1, for every group."""
    rows = []
    for name in kept:
        inside = values[(groups == name).to_numpy()]
        for position in range(values.shape[1]):
            column = inside[:, position]
            middle, low, high = (
                normal_mean(column) if np.isfinite(column).all() else (float("nan"),) * 3
            )
            rows.append(
                {"what": what, "group": name, "position": position + 1, "n": len(column)}
                | {"mean": middle, "low": low, "high": high}
            )
    return pl.DataFrame(rows)


def _differences(
    what: str, values: npt.NDArray[np.float64], groups: pl.Series, kept: list[str], prefix: int
) -> pl.DataFrame:
    """Boundary difference of every group."""
    each = boundary_differences(values, prefix=prefix)
    rows = []
    for name in kept:
        inside = each[(groups == name).to_numpy()]
        middle, low, high = normal_mean(inside)
        rows.append(
            {"what": what, "group": name, "n": len(inside)}
            | {"difference": middle, "low": low, "high": high}
        )
    return pl.DataFrame(rows)


def _sentence(differences: pl.DataFrame) -> str:
    """Every boundary difference, of the memorized and of the others."""
    said = []
    for what, unit in UNITS.items():
        rows = {row["group"]: row for row in differences.filter(what=what).iter_rows(named=True)}
        shown = [f"{_signed(rows[name])} where {name}" for name in ("memorized", "not memorized")]
        said.append(f"{what} changes by {' and '.join(shown)} ({unit})")
    text = "; ".join(said)
    return f"From the last token of the prefix to the first of the continuation, {text}."


def _signed(row: dict[str, float]) -> str:
    text = f"{row['difference']:+.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    return text.replace("-", "\N{MINUS SIGN}")


def _curve_chart(curves: pl.DataFrame, what: str, kept: list[str], prefix: int) -> Chart:
    titles = {
        "frequency": "Mean frequency of the token at each position, per cent of all tokens",
        "2-gram frequency": "Mean frequency of the 2-gram that ends at each position, per mille of "
        "all 2-grams",
        "entropy": "Mean entropy of the prediction of each token, nats",
    }
    part = curves.filter(what=what)
    return Chart(
        title=titles[what],
        x_label="position",
        marks=((prefix + 0.5, "boundary"),),
        series=tuple(
            series_of(name, rows, "mean", x="position")
            for name in kept
            for rows in [part.filter(group=name)]
        ),
    )


def _difference_chart(differences: pl.DataFrame, what: str, kept: list[str]) -> Chart:
    rows = differences.filter(what=what)
    return Chart(
        title=f"Boundary difference in {what}, {UNITS[what]} (95 % interval)",
        form="bars",
        x_names=tuple(kept),
        series=(series_of("first continued token minus last of the prefix", rows, "difference"),),
    )


def _further(
    inputs: AnalysisInputs, rows: pl.DataFrame, kept: list[str], settings: Settings
) -> Iterator[str]:
    counts = {name: int((rows["group"] == name).sum()) for name in kept}
    said = ", ".join(f"{n:,} {name}" for name, n in counts.items())
    yield f"Sequences: {said}; half, quarter and none within {settings.tolerance:g} of the score."
    missing = [name for name in GROUPS if name not in kept]
    if missing:
        yield f"Fewer than {settings.minimum} sequences, left out: {', '.join(missing)}."
    yield f"Token frequencies are those of {frequency_source(inputs)}."
    if inputs.corpus is None:
        yield "2-grams are counted in the study's own sequences; --corpus counts them in a corpus."
