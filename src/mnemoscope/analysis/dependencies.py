"""How far each feature goes with memorization: three coefficients, and perplexity by duplicates.

Source: Prashanth et al. 2024, "Recite, Reconstruct, Recollect", arXiv 2406.17746; sections 1.14
and 1.15 of the related work. Coefficients over all sequences, text and code, and over the
categories; the divergence of perplexity between memorized and not at each band of duplicates.
Run it: mnemoscope analyze dependencies STUDY
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.classes import PRASHANTH, categories_of, kinds_of, refuse_one_sided
from mnemoscope.analysis.coefficients import Coefficient, coefficients
from mnemoscope.analysis.decoding import draw_rows
from mnemoscope.analysis.divergence import kl_interval, published_kl
from mnemoscope.analysis.figures import Chart, HeatMap, Series, plain
from mnemoscope.analysis.inputs import AnalysisInputs
from mnemoscope.analysis.predictors import (
    FEATURES,
    add_predictors,
    frequency_source,
    libraries_of,
)
from mnemoscope.analysis.proportions import (
    PUBLISHED_LAST_ROW,
    own_proportions,
    published_row,
    published_shares,
)
from mnemoscope.analysis.result import AnalysisResult
from mnemoscope.analysis.settings import AnalysisSettings
from mnemoscope.errors import UserError

__all__ = ["BANDS", "Settings", "analyse", "coefficient_table", "divergence_table"]

BANDS = ((0, 0), (1, 1), (2, 2), (3, 5), (6, 10), (11, 50), (51, 999), (1000, None))
"""Bands of duplicates, both ends within."""

_ARTEFACT = (
    "Table published_shares has the published shares of the categories by size and, for 12b, by "
    "share of training. The row published for 12b at its end ("
    f"{' / '.join(f'{one:.2f}' for one in PUBLISHED_LAST_ROW)} %) pools every size and is left out."
)
_KINDS = ("all", "text", "code")
_NAMES = {"pearson": "Pearson", "spearman": "Spearman", "xi": "Chatterjee's ξ"}


class Settings(AnalysisSettings):
    """Settings of `dependencies`."""

    n_sequences: int | None = Field(
        default=None, ge=10, description="Sequences looked at, drawn by the seed; null: all."
    )
    taxonomy: str = Field(default=PRASHANTH, description="Whose categories part the sequences.")
    minimum: int = Field(
        default=20, ge=5, description="Memorized and other sequences that a group needs of each."
    )
    n_resamples: int = Field(default=200, ge=50, description="Resamples of every interval.")
    n_bins: int = Field(default=12, ge=2, description="Bins of the divergence of perplexity.")


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Relate every feature to memorization, by category and kind of text.

    Args:
        inputs: a study with features and its model.
        settings: which sequences, categories and resamples.

    Raises:
        UserError: too few sequences are memorized, or too few are not; no feature varies.
    """
    known = inputs.table.filter(pl.col("is_memorized").is_not_null())
    rows = draw_rows(known, settings.n_sequences, settings.seed)
    features = add_predictors(inputs, rows, published=settings.published)
    memorized = rows["is_memorized"].to_numpy()
    refuse_one_sided(memorized, settings.minimum, where="analyze dependencies")
    category, kind = categories_of(rows, settings.taxonomy), kinds_of(rows)
    table = coefficient_table(features, memorized, kind, category, settings)
    if table.filter(kind="all", category="all").is_empty():
        raise UserError(
            "analyze dependencies: no feature differs between two sequences that are known of "
            f"{settings.minimum} memorized and as many others, so nothing can go with it. Give a "
            "table of other texts, or with more features."
        )
    perplexity = divergence_table(features, memorized, settings)
    proportions = own_proportions(category, rows["is_memorized"])
    is_theirs = settings.taxonomy == PRASHANTH
    published = published_row(inputs.split) if is_theirs else None
    left_out = [name for name in FEATURES if table.filter(feature=name).is_empty()]
    return AnalysisResult(
        sentence=_sentence(table),
        frames={
            "coefficients": table,
            "perplexity_by_duplicates": perplexity,
            "proportions": _beside(proportions, published),
            "features": features.with_columns(category, kind, rows["is_memorized"]),
        }
        | ({} if published is None else {"published_shares": published_shares()}),
        figures=tuple(_figures(table, perplexity)),
        further=(
            *_further(inputs, rows, left_out, perplexity, settings),
            *([] if published is None else [_ARTEFACT]),
        ),
        libraries=libraries_of(rows),
    )


def coefficient_table(
    features: pl.DataFrame,
    memorized: npt.NDArray[np.bool_],
    kind: pl.Series,
    category: pl.Series,
    settings: Settings,
) -> pl.DataFrame:
    """Give the three coefficients of every feature in every group that is large enough.

    A feature without variance in a group has no coefficient there and is left out.

    Args:
        features: columns `FEATURES`.
        memorized: the label of every row.
        kind: `text`, `code` or null of every row.
        category: of every row, or null.
        settings: minimum, resamples, seed.

    Returns:
        A row a feature, kind, category and coefficient: `value`, `low`, `high`, `n`, `n_memorized`.
    """
    found = []
    groups = ["all", *category.drop_nulls().unique().sort().to_list()]
    for kind_name in _KINDS:
        for group in groups:
            inside = np.ones(len(memorized), dtype=bool)
            if kind_name != "all":
                inside &= (kind == kind_name).fill_null(False).to_numpy()
            if group != "all":
                inside &= (category == group).fill_null(False).to_numpy()
            for feature in FEATURES:
                values = features[feature].cast(pl.Float64).fill_null(float("nan")).to_numpy()
                rows = inside & np.isfinite(values)
                found += [
                    {"feature": feature, "kind": kind_name, "category": group, **entry}
                    for entry in _of_group(values[rows], memorized[rows], settings)
                ]
    words = dict.fromkeys(("feature", "kind", "category", "coefficient"), pl.String)
    numbers = dict.fromkeys(("value", "low", "high"), pl.Float64)
    counts = dict.fromkeys(("n", "n_memorized"), pl.Int64)
    return pl.DataFrame(found, schema={**words, **numbers, **counts})


def _of_group(
    values: npt.NDArray[np.float64], memorized: npt.NDArray[np.bool_], settings: Settings
) -> Iterator[dict[str, object]]:
    """The coefficients of one feature in one group; none where it is too small or constant."""
    n, n_yes = len(values), int(memorized.sum())
    if min(n_yes, n - n_yes) < settings.minimum or values.min() == values.max():
        return
    found = coefficients(values, memorized, seed=settings.seed, n_resamples=settings.n_resamples)
    for name, one in found.items():
        yield {"coefficient": name, **one._asdict(), "n": n, "n_memorized": n_yes}


def divergence_table(
    features: pl.DataFrame, memorized: npt.NDArray[np.bool_], settings: Settings
) -> pl.DataFrame:
    """Compare the perplexity of memorized and other sequences at each band of duplicates.

    Args:
        features: columns `duplicates` and `generation_perplexity`.
        memorized: the label of every row.
        settings: minimum, bins, resamples, seed; `published` takes the published figure.

    Returns:
        A row a band that has enough of both: `kl` memorized‖other with its interval and what
        shuffled labels give, and the median perplexity of both.
    """
    values = np.log(features["generation_perplexity"].to_numpy())
    duplicates = features["duplicates"]
    found = []
    for low, high in BANDS:
        inside = (duplicates >= low) & (duplicates <= high if high is not None else duplicates >= 0)
        rows = inside.fill_null(False).to_numpy() & np.isfinite(values)
        first, second = values[rows & memorized], values[rows & ~memorized]
        if min(len(first), len(second)) < settings.minimum:
            continue
        name = f"{low}" if low == high else f"{low}–{high}" if high else f"{low} and more"
        figures: Mapping[str, float | None]
        if settings.published:
            figure = published_kl(np.exp(first), np.exp(second), seed=settings.seed)
            figures = {"kl": figure, "low": None, "high": None, "shuffled": None}
        else:
            figures = kl_interval(
                first,
                second,
                n_bins=settings.n_bins,
                n_resamples=settings.n_resamples,
                seed=settings.seed,
            )
        medians = {"memorized_median": float(np.exp(np.median(first)))}
        medians["other_median"] = float(np.exp(np.median(second)))
        counts = {"n_memorized": len(first), "n_other": len(second)}
        found.append({"duplicates": name, **counts, **figures, **medians})
    schema = dict.fromkeys(("kl", "low", "high", "shuffled", *("memorized_median",)), pl.Float64)
    types = {"duplicates": pl.String, "n_memorized": pl.Int64, "n_other": pl.Int64}
    return pl.DataFrame(found, schema={**types, **schema, "other_median": pl.Float64})


def _beside(own: pl.DataFrame, published: dict[str, float] | None) -> pl.DataFrame:
    """The study's shares with the published ones of the same split, where it reads one."""
    shares = [None if published is None else published[name] for name in own["category"]]
    return own.with_columns(pl.Series("published", shares, dtype=pl.Float64))


def _sentence(table: pl.DataFrame) -> str:
    """Which feature goes with memorization most, by each coefficient."""
    whole = table.filter(kind="all", category="all")
    said = []
    for name, words in _NAMES.items():
        rows = whole.filter(coefficient=name).sort(pl.col("value").abs(), descending=True)
        row = rows.row(0, named=True)
        figure = Coefficient(row["value"], row["low"], row["high"])
        said.append(f"{row['feature'].replace('_', ' ')} by {words} ({_shown(figure)})")
    return f"Over all sequences, what goes most with being memorized: {', '.join(said)}."


def _shown(figure: Coefficient) -> str:
    text = f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"
    return text.replace("-", "\N{MINUS SIGN}")


def _figures(table: pl.DataFrame, perplexity: pl.DataFrame) -> Iterator[Chart | HeatMap]:
    """Coefficients over all sequences; Pearson by group; divergence by band."""
    whole = table.filter(kind="all", category="all")
    names = [name for name in FEATURES if not whole.filter(feature=name).is_empty()]
    yield Chart(
        title="Each feature with memorized or not, over all sequences (95 % interval)",
        form="points",
        x_names=tuple(name.replace("_", " ") for name in names),
        series=tuple(
            _coefficient_series(whole.filter(coefficient=one), names, words, shift)
            for (one, words), shift in zip(_NAMES.items(), (-0.18, 0.0, 0.18), strict=True)
        ),
    )
    yield _group_map(table, names)
    if perplexity.height:
        series = [_band_series(perplexity, "kl", "memorized‖other")]
        if perplexity["shuffled"].null_count() == 0:
            series.append(_band_series(perplexity, "shuffled", "labels shuffled"))
        yield Chart(
            title="Divergence of the second half's perplexity, memorized from other, by duplicates",
            y_label="nats",
            x_label="duplicates",
            form="bars",
            x_names=tuple(perplexity["duplicates"]),
            series=tuple(series),
        )


def _coefficient_series(rows: pl.DataFrame, names: list[str], words: str, shift: float) -> Series:
    found = {row["feature"]: row for row in rows.iter_rows(named=True)}
    chosen = [(place + shift, found[name]) for place, name in enumerate(names) if name in found]
    return Series(
        name=words,
        x=plain([place for place, _ in chosen]),
        y=plain([row["value"] for _, row in chosen]),
        low=plain([row["low"] for _, row in chosen]),
        high=plain([row["high"] for _, row in chosen]),
    )


def _band_series(perplexity: pl.DataFrame, column: str, words: str) -> Series:
    has_ends = column == "kl" and perplexity["low"].null_count() == 0
    return Series(
        name=words,
        x=plain(range(perplexity.height)),
        y=plain(perplexity[column]),
        low=plain(perplexity["low"]) if has_ends else (),
        high=plain(perplexity["high"]) if has_ends else (),
    )


def _group_map(table: pl.DataFrame, names: list[str]) -> HeatMap:
    """Pearson of each feature in each group."""
    pearson = table.filter(coefficient="pearson")
    groups = pearson.select("kind", "category").unique(maintain_order=True).rows()
    found = {
        (row["feature"], row["kind"], row["category"]): row["value"]
        for row in pearson.iter_rows(named=True)
    }
    return HeatMap(
        title="Pearson by kind of text and category (a blank: too few, or no variance)",
        values=tuple(
            tuple(found.get((name, kind, category)) for kind, category in groups) for name in names
        ),
        row_names=tuple(name.replace("_", " ") for name in names),
        column_names=tuple(
            kind if category == "all" else category if kind == "all" else f"{kind}, {category}"
            for kind, category in groups
        ),
        diverging=True,
    )


def _further(
    inputs: AnalysisInputs,
    rows: pl.DataFrame,
    left_out: list[str],
    perplexity: pl.DataFrame,
    settings: Settings,
) -> Iterator[str]:
    """What the reader must know."""
    yield f"{rows.height:,} sequences; token frequencies are those of {frequency_source(inputs)}."
    if left_out:
        names = ", ".join(left_out)
        yield f"Left out, being unknown or the same for every sequence: {names}."
    if not perplexity.height:
        yield (
            f"No band of duplicates holds {settings.minimum} memorized sequences and as many "
            "others, so perplexities were not compared."
        )
    elif not settings.published:
        yield (
            "The divergence is Kullback-Leibler's over bins that both groups share; with few "
            "sequences it is above 0 by chance, which is what shuffled labels show."
        )
    yield (
        "A coefficient is no cause: low perplexity of the second half is close to being memorized "
        "itself. The interval of ξ comes from subsamples, those of the others from resamples."
    )
