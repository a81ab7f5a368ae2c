"""How far each feature goes with memorization: three coefficients, and perplexity by duplicates.

Source: Prashanth et al. 2024, "Recite, Reconstruct, Recollect", arXiv 2406.17746; sections 1.14
and 1.15 of the related work. Coefficients over all sequences, text and code, and over the
categories; the divergence of perplexity between memorized and not at each band of duplicates.
Run it: mnemoscope analyze dependencies STUDY
"""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.figures import Chart, HeatMap, Series, plain
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.analysis.predictors import FEATURES, add_predictors, frequency_source, libraries_of
from mnemoscope.analysis.rows import categories_of, draw_rows, kinds_of, refuse_one_sided
from mnemoscope.errors import UserError
from mnemoscope.stats import share_of
from mnemoscope.taxonomy.catalogue import PRASHANTH

# Pearson, Spearman and Chatterjee's ξ of a feature with a label, each with its interval.

_Floats = npt.NDArray[np.float64]


class Coefficient(NamedTuple):
    """A coefficient and its 95 % interval."""

    value: float
    low: float
    high: float


def chatterjee_xi(x: npt.ArrayLike, y: npt.ArrayLike, *, seed: int = 0) -> float:
    """Give ξ(x → y): how far y is a function of x, from about 0 (independent) to 1.

    The rows are sorted by x, equal x in an order drawn by the seed. With r_i the number of y up
    to y_i and l_i the number from y_i on, ξ = 1 − n Σ|r_{i+1} − r_i| / (2 Σ l_i (n − l_i)).
    It is not symmetric, and of two values of y only.

    Args:
        x: shape (n,).
        y: shape (n,); may have ties.
        seed: of the order of equal x.

    Returns:
        ξ; NaN where y has one value only.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n = len(first)
    drawn = np.random.default_rng(seed).random(n)
    ordered = second[np.lexsort((drawn, first))]
    ranked = np.sort(ordered)
    r = np.searchsorted(ranked, ordered, side="right")
    low = n - np.searchsorted(ranked, ordered, side="left")
    spread = 2 * float((low.astype(np.float64) * (n - low)).sum())
    return 1 - n * float(np.abs(np.diff(r)).sum()) / spread if spread else float("nan")


def coefficients(
    x: npt.ArrayLike, y: npt.ArrayLike, *, seed: int = 0, n_resamples: int = 200
) -> dict[str, Coefficient]:
    """Give all three coefficients.

    Args:
        x: the feature, finite, shape (n,), not constant.
        y: the label, not constant.
        seed: of ties and resamples.
        n_resamples: bootstrap resamples, and subsamples of ξ.

    Returns:
        `pearson`, `spearman`, `xi`.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    generator = np.random.default_rng(seed)
    n = len(first)
    draws = generator.integers(0, n, (n_resamples, n))
    ranks_x, ranks_y = _ranks(first), _ranks(second)
    found = {
        "pearson": _booted(first, second, draws),
        "spearman": _booted(ranks_x, ranks_y, draws),
    }
    found["xi"] = _subsampled(first, second, generator, n_resamples, seed)
    return found


def _ranks(values: _Floats) -> _Floats:
    from scipy.stats import rankdata

    ranked: _Floats = rankdata(values).astype(np.float64)
    return ranked


def _booted(first: _Floats, second: _Floats, draws: npt.NDArray[np.int64]) -> Coefficient:
    """Correlation with a percentile interval; ranks keep their places in the whole sample."""
    every = [_correlation(first[rows], second[rows]) for rows in draws]
    return Coefficient(_correlation(first, second), *_ends(np.array(every)))


def _correlation(first: _Floats, second: _Floats) -> float:
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float("nan")


def _subsampled(
    first: _Floats, second: _Floats, generator: np.random.Generator, n_draws: int, seed: int
) -> Coefficient:
    """ξ with the interval of m-out-of-n subsampling, m = n^(3/4)."""
    n, value = len(first), chatterjee_xi(first, second, seed=seed)
    m = max(8, round(n**0.75))
    if m >= n:
        return Coefficient(value, float("nan"), float("nan"))
    roots = []
    for draw in range(n_draws):
        rows = generator.choice(n, m, replace=False)
        part = chatterjee_xi(first[rows], second[rows], seed=seed + draw)
        roots.append(np.sqrt(m / (1 - m / n)) * (part - value) / np.sqrt(n))
    low, high = _ends(np.array(roots))
    return Coefficient(value, value - high, value - low)


def _ends(values: _Floats) -> tuple[float, float]:
    kept = values[np.isfinite(values)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [0.025, 0.975])
    return float(low), float(high)


# How far two samples of a number lie apart: Kullback-Leibler over shared bins, with its null.

_SMOOTHING = 0.5


def binned_kl(first: npt.ArrayLike, second: npt.ArrayLike, *, n_bins: int = 20) -> float:
    """Give KL(first‖second) of two samples over bins that both share, in nats.

    The bins hold equal numbers of the two samples together; half a count is added to each, so
    that an empty bin does not make it infinite. A plug-in estimate: too large for small samples,
    which is what the shuffled null shows.

    Args:
        first: shape (n,).
        second: shape (m,).
        n_bins: bins, fewer where values are tied.

    Returns:
        Nats, at least 0.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    weights = np.concatenate([np.full(len(a), 1 / len(a)), np.full(len(b), 1 / len(b))])
    both = np.concatenate([a, b])
    order = np.argsort(both, kind="stable")
    mass = np.cumsum(weights[order]) / 2
    places = np.searchsorted(mass, np.arange(1, n_bins) / n_bins)
    inner = np.unique(both[order][np.minimum(places, len(both) - 1)])
    counts = [
        np.bincount(np.searchsorted(inner, part, side="right"), minlength=len(inner) + 1)
        for part in (a, b)
    ]
    p, q = ((one + _SMOOTHING) / (one + _SMOOTHING).sum() for one in counts)
    return float((p * np.log(p / q)).sum())


def published_kl(first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int = 0) -> float:
    """Give the published figure: two equally many sampled values, each normalised to sum 1.

    Args:
        first: shape (n,), positive.
        second: shape (m,), positive.
        seed: of the sample.

    Returns:
        Nats; it depends on the order in which the values were drawn.
    """
    from scipy.stats import entropy

    generator = np.random.default_rng(seed)
    n = min(len(np.asarray(first)), len(np.asarray(second)))
    a, b = (generator.choice(np.asarray(one), n) for one in (first, second))
    return float(entropy(a, b))


def kl_interval(
    first: _Floats, second: _Floats, *, n_bins: int, n_resamples: int, seed: int
) -> dict[str, float]:
    """Give the divergence with its bootstrap interval, and its mean where labels are shuffled.

    Args:
        first: shape (n,).
        second: shape (m,).
        n_bins: as `binned_kl`.
        n_resamples: of both.
        seed: of the resamples.

    Returns:
        `kl`, `low`, `high`, `shuffled`; nats.
    """
    generator = np.random.default_rng(seed)
    both, n = np.concatenate([first, second]), len(first)
    draws, shuffled = [], []
    for _ in range(n_resamples):
        parts = (generator.choice(one, len(one)) for one in (first, second))
        draws.append(binned_kl(*parts, n_bins=n_bins))
        mixed = generator.permutation(both)
        shuffled.append(binned_kl(mixed[:n], mixed[n:], n_bins=n_bins))
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "kl": binned_kl(first, second, n_bins=n_bins),
        "low": float(low),
        "high": float(high),
        "shuffled": float(np.mean(shuffled)),
    }


# How the memorized sequences share out among the categories, beside the published shares.

CATEGORIES = {
    "Recite[5]": "recitation",
    "Reconstruct": "reconstruction",
    "Recollect": "recollection",
}
"""Our classes and the published names."""

PUBLISHED_LAST_ROW = (84.56, 4.10, 11.34)
"""What was published for 12b at the end of training, per cent: it pools every size."""


def _table() -> pl.DataFrame:
    return pl.read_csv(
        files("mnemoscope.analysis").joinpath("data", "proportions.csv").read_bytes()
    )


def by_size() -> pl.DataFrame:
    """Give counts and per cent of each category by size, all at the end of training.

    160m is left out by the paper.
    """
    return _table().filter(pl.col("step_share") == 1.0)


def by_step() -> pl.DataFrame:
    """Give per cent of each category through the training of 12b; the last row is 12b's own."""
    return (
        _table()
        .filter(pl.col("size") == "12b")
        .sort("step_share")
        .select("size", "step_share", *(f"{name}_percent" for name in CATEGORIES.values()))
    )


def published_shares() -> pl.DataFrame:
    """Give both published tables under one another.

    Returns:
        `over` (`size` or `training`), `size`, `step_share` and the per cent of each category; of
        the rows over size all are at the end, of those over training all are 12b's.
    """
    names = ("size", "step_share", *(f"{name}_percent" for name in CATEGORIES.values()))
    parts = {"size": by_size(), "training": by_step()}
    return pl.concat(
        part.select(pl.lit(over).alias("over"), *names) for over, part in parts.items()
    )


def pooled_last_row() -> tuple[float, ...]:
    """Pool every size at the last step, as was published for 12b: per cent of each category."""
    totals = by_size().select(pl.col(list(CATEGORIES.values())).sum()).row(0)
    return tuple(100 * total / sum(totals) for total in totals)


def own_proportions(category: pl.Series, memorized: pl.Series) -> pl.DataFrame:
    """Count the categories of the memorized sequences, the published ones or a taxonomy's own.

    Args:
        category: of every row, null where unknown.
        memorized: of every row.

    Returns:
        `category`, `n`, `share` with `low` and `high`.
    """
    chosen = category.filter(memorized.fill_null(False)).drop_nulls()
    rows = []
    is_theirs = set(chosen) <= set(CATEGORIES)
    for name in CATEGORIES if is_theirs else chosen.unique().sort():
        n = int((chosen == name).sum())
        share = share_of(n, len(chosen))
        rows.append(
            {"category": name, "n": n, "share": share.value}
            | {"low": share.low, "high": share.high}
        )
    return pl.DataFrame(rows, schema_overrides={"n": pl.Int64})


def published_row(split: str | None) -> dict[str, float] | None:
    """Give the published shares of the split that a study reads, None where it is another.

    Args:
        split: as `sequences.split`, for example `deduped_12b` or `memories_deduped_12b`.

    Returns:
        Share of each of our classes, a fraction.
    """
    if split is None or not split.removeprefix("memories_").startswith("deduped_"):
        return None
    row = by_size().filter(pl.col("size") == split.rpartition("_")[2])
    if row.is_empty():
        return None
    counts = {ours: row[name].item() for ours, name in CATEGORIES.items()}
    return {name: count / sum(counts.values()) for name, count in counts.items()}


# How far each feature goes with memorization: three coefficients, and perplexity by duplicates.

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
