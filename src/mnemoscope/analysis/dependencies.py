"""How far each feature goes with memorization: three coefficients, and perplexity by duplicates.

Source: Prashanth et al. 2024, "Recite, Reconstruct, Recollect", arXiv 2406.17746; sections 1.14
and 1.15 of the related work: over all sequences, text and code, and over the categories; the
divergence of perplexity between memorized and not at each band of duplicates.
Run it: mnemoscope analyze dependencies STUDY
"""

from collections.abc import Iterator
from importlib.resources import files
from itertools import product

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field
from scipy.stats import rankdata

from mnemoscope import Estimate, UserError
from mnemoscope.plugin import (
    FEATURES,
    FEWEST_GROUPS,
    FIGURE,
    PRASHANTH,
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    HeatMap,
    add_predictors,
    categories_of,
    count_perplexed,
    counted_names,
    draw_rows,
    draw_within,
    estimate_of,
    fewest_groups,
    frame_of,
    frequency_source,
    libraries_of,
    n_groups,
    ranged,
    refuse_one_sided,
    rows_of,
    separation,
    series_beside,
    series_of,
    share_true,
)

_Floats = npt.NDArray[np.float64]

BANDS = ((0, 0), (1, 1), (2, 2), (3, 5), (6, 10), (11, 50), (51, 999), (1000, None))
"""Bands of duplicates, both ends within."""
CATEGORIES = {
    "Recite[5]": "recitation",
    "Reconstruct": "reconstruction",
    "Recollect": "recollection",
}
"""Our classes and the published names."""
PUBLISHED_LAST_ROW = (84.56, 4.10, 11.34)
"""What was published for 12b at the end of training, per cent: it pools every size."""

_SMOOTHING = 0.5
_RANGE_OF_XI = (-0.5, 1.0)
_ARTEFACT = (
    "Table published_shares has the published shares of the categories by size and, for 12b, by "
    "share of training. The row published for 12b at its end ("
    f"{' / '.join(f'{one:.2f}' for one in PUBLISHED_LAST_ROW)} %) pools every size and is left out."
)
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


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Perplexities."""
    return count_perplexed(inputs, settings.n_sequences)


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Relate every feature to memorization, by category and kind of text.

    Raises UserError: too few sequences are memorized, or too few are not; no feature varies.
    """
    known = inputs.table.filter(pl.col("is_memorized").is_not_null())
    rows = draw_rows(known, settings.n_sequences, settings.seed)
    features = add_predictors(inputs, rows)
    memorized = rows["is_memorized"].to_numpy()
    refuse_one_sided(memorized, settings.minimum, where="analyze dependencies")
    category, kind = categories_of(rows, settings.taxonomy), _kinds_of(rows)
    near = inputs.near_duplicates(rows["sequence_id"])
    table = coefficient_table(features, memorized, kind, category, settings, near)
    if table.filter(kind="all", category="all").is_empty():
        raise UserError(
            "analyze dependencies: no feature differs between two sequences that are known of "
            f"{settings.minimum} memorized and as many others, so nothing can go with it. Give a "
            "table of other texts, or with more features."
        )
    perplexity = divergence_table(features, memorized, settings, near)
    published = published_row(inputs.split) if settings.taxonomy == PRASHANTH else None
    frames = {
        "coefficients": table,
        "perplexity_by_duplicates": perplexity,
        "proportions": own_proportions(category, rows["is_memorized"], published, near),
        "features": features.with_columns(category, kind, rows["is_memorized"]),
    }
    further = [*_further(inputs, rows, table, perplexity, settings)]
    if published is not None:
        frames["published_shares"] = published_shares()
        further.append(_ARTEFACT)
    return AnalysisResult(
        sentence=_sentence(table),
        frames=frames,
        figures=tuple(_figures(table, perplexity)),
        further=tuple(further),
        libraries=libraries_of(rows),
    )


def _kinds_of(rows: pl.DataFrame) -> pl.Series:
    """Say of each row whether it is `code` or `text`; null where that is unknown."""
    if "is_code" not in rows.columns:
        return pl.Series("kind", [None] * rows.height, dtype=pl.String)
    names = {True: "code", False: "text"}
    return rows["is_code"].replace_strict(names, return_dtype=pl.String).alias("kind")


# -- coefficients ---------------------------------------------------------------------------


def coefficient_table(
    features: pl.DataFrame,
    memorized: npt.NDArray[np.bool_],
    kind: pl.Series,
    category: pl.Series,
    settings: Settings,
    near: npt.NDArray[np.int64],
) -> pl.DataFrame:
    """Give the three coefficients of every feature in every group that is large enough.

    From columns `FEATURES`, and of every row its label, `text`, `code` or null, its category or
    null, and its group of near duplicates. A feature without variance in a group has no
    coefficient there. Gives a row a feature, kind, category and coefficient: `value`, `n`,
    `n_memorized`, `n_groups`.
    """
    found = []
    names = ("feature", "kind", "category", "coefficient")
    counts = dict.fromkeys(("n", "n_memorized", "n_groups"), pl.Int64())
    schema = {**dict.fromkeys(names, pl.String()), "value": FIGURE, **counts}
    everywhere = pl.repeat(True, len(memorized), eager=True)
    kinds = {"all": everywhere} | {name: kind == name for name in ("text", "code")}
    categories = {name: category == name for name in category.drop_nulls().unique().sort()}
    groups = product(kinds.items(), ({"all": everywhere} | categories).items(), FEATURES)
    for (kind_name, is_kind), (category_name, is_category), feature in groups:
        values = features[feature].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        rows = (is_kind & is_category).fill_null(False).to_numpy() & np.isfinite(values)
        x, y = values[rows], memorized[rows]
        n, n_yes = len(x), int(y.sum())
        if min(n_yes, n - n_yes) < settings.minimum or x.min() == x.max():
            continue
        owners = near[rows]
        given = coefficients(
            x, y, seed=settings.seed, n_resamples=settings.n_resamples, groups=owners
        )
        about, counted = (feature, kind_name, category_name), (n, n_yes, n_groups(owners))
        found += [(*about, name, one, *counted) for name, one in given.items()]
    return frame_of((dict(zip(schema, row, strict=True)) for row in found), schema)


def coefficients(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    seed: int = 0,
    n_resamples: int = 200,
    groups: npt.ArrayLike | None = None,
) -> dict[str, Estimate]:
    """Give `pearson`, `spearman` and `xi` of a feature and a label, neither constant, (n,).

    The first two have percentile intervals over resamples, in which ranks keep their places in
    the whole sample; that of ξ is by m-out-of-n subsampling, m = n^(3/4), centred on the mean of
    the subsamples, whose ξ of few is lower than that of many. With `groups` of near duplicates (n,)
    both draw groups; no interval where a label has fewer than `FEWEST_GROUPS`.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n = len(first)
    owners = np.unique(np.arange(n) if groups is None else groups, return_inverse=True)[1]
    if groups is not None and fewest_groups(second, owners) < FEWEST_GROUPS:
        n_resamples = 0
    generator = np.random.default_rng(seed)
    drawn = draw_within(np.zeros(n), generator, n_resamples, groups=owners)
    draws = [np.repeat(np.arange(n), one) for one in drawn]
    found = {}
    for name, (a, b) in {
        "pearson": (first, second),
        "spearman": (rankdata(first), rankdata(second)),
    }.items():
        found[name] = estimate_of(
            _correlation(a, b), [_correlation(a[rows], b[rows]) for rows in draws], 0.025
        )
    value, units = chatterjee_xi(first, second), int(owners.max()) + 1
    m = max(8, round(units**0.75))
    parts = []
    for _ in range(n_resamples if m < units else 0):
        rows = np.isin(owners, generator.choice(units, m, replace=False))
        parts.append(chatterjee_xi(first[rows], second[rows]))
    if not parts:
        return {**found, "xi": Estimate(value)}
    roots = np.sqrt(m / (units - m)) * (np.array(parts) - np.nanmean(parts))
    ends = np.array(estimate_of(value, roots, 0.025)[1:], dtype=np.float64)
    low, high = np.clip(value - ends[::-1], *_RANGE_OF_XI).tolist()
    return {**found, "xi": Estimate(value, low, high)}


def _correlation(first: _Floats, second: _Floats) -> float:
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float("nan")


def chatterjee_xi(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Give ξ(x → y): how far y is a function of x, from about 0 (independent) to 1.

    The rows are sorted by x. With r_i the number of y up to y_i and l_i the number from y_i on,
    ξ = 1 − n Σ|r_{i+1} − r_i| / (2 Σ l_i (n − l_i)). Where x has ties the sum is its mean over all
    orders of equal x. It is not symmetric, and NaN where y has one value only; y may have ties.

    Source: Chatterjee 2021, "A New Coefficient of Correlation", arXiv 1909.10140, which draws one
        such order at random.

    >>> chatterjee_xi([0, 0, 1, 1], [0, 0, 1, 1])
    0.5
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n, ranked = len(first), np.sort(second)
    r = np.searchsorted(ranked, second, side="right").astype(np.float64)
    low = n - np.searchsorted(ranked, second, side="left").astype(np.float64)
    spread = 2 * float((low * (n - low)).sum())
    if not spread:
        return float("nan")
    tied, size = np.unique(first, return_inverse=True, return_counts=True)[1:]
    within = _pair_distances(r, tied)
    joined = _pair_distances(np.concatenate([r, r]), np.concatenate([tied, tied - 1]))[1:-1]
    # A tie of m rows has m - 1 neighbours of the m (m - 1) / 2 pairs; two ties have one of a b.
    steps = float((2 * within / size).sum())
    steps += float(((joined - within[:-1] - within[1:]) / (size[:-1] * size[1:])).sum())
    return 1 - n * steps / spread


def _pair_distances(values: _Floats, labels: npt.NDArray[np.int64]) -> _Floats:
    """Sum of |a - b| over the pairs of values (n,) of each label, from the lowest label on."""
    numbers = np.unique(labels, return_inverse=True)[1]
    ordered = np.lexsort((values, numbers))
    sizes = np.bincount(numbers)
    places = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    signs = 2 * places + 1 - np.repeat(sizes, sizes)
    sums = np.bincount(numbers[ordered], weights=signs * values[ordered])
    return np.asarray(sums, dtype=np.float64)


# -- perplexity by duplicates ---------------------------------------------------------------


def divergence_table(
    features: pl.DataFrame,
    memorized: npt.NDArray[np.bool_],
    settings: Settings,
    near: npt.NDArray[np.int64],
) -> pl.DataFrame:
    """Compare the perplexity of memorized and other sequences at each band of duplicates.

    Gives a row a band that has enough of both: `auc` (the chance that a memorized sequence has the
    lower perplexity, from .5 to its ceiling of 1) with its interval over `near` duplicates; `kl` of
    memorized‖other by `binned_kl` with what shuffled labels give and its `ceiling`, these three
    at the same numbers of sequences in every band; and the median perplexity of both.
    """
    values = np.log(features["generation_perplexity"].to_numpy())
    duplicates = features["duplicates"]
    bands = []
    for low, high in BANDS:
        inside = (duplicates >= low) & (duplicates <= high if high is not None else duplicates >= 0)
        rows = inside.fill_null(False).to_numpy() & np.isfinite(values)
        n_yes = int(memorized[rows].sum())
        if min(n_yes, int(rows.sum()) - n_yes) >= settings.minimum:
            name = f"{low}" if low == high else f"{low}–{high}" if high else f"{low} and more"
            bands.append((name, rows))
    sides = [[values[rows & side] for side in (memorized, ~memorized)] for _, rows in bands]
    equal = [min(map(len, every)) for every in zip(*sides, strict=True)]
    asked = settings.model_dump(include={"n_resamples", "seed"})
    found = []
    for (name, rows), (first, second) in zip(bands, sides, strict=True):
        owners = near[rows]
        auc = separation(values[rows], memorized[rows], groups=owners, **asked).auc
        kl = kl_at(first, second, (equal[0], equal[1]), n_bins=settings.n_bins, **asked)
        medians = (float(np.exp(np.median(one))) for one in (first, second))
        counted = (len(first), len(second), n_groups(owners))
        found.append((name, *counted, auc, *kl, *medians))
    numbers = ("kl", "shuffled", "ceiling", "memorized_median", "other_median")
    schema = {
        "duplicates": pl.String,
        **dict.fromkeys(("n_memorized", "n_other", "n_groups"), pl.Int64),
        "auc": FIGURE,
        **dict.fromkeys(numbers, pl.Float64),
    }
    return frame_of((dict(zip(schema, row, strict=True)) for row in found), schema)


def kl_at(
    first: _Floats,
    second: _Floats,
    sizes: tuple[int, int],
    *,
    n_bins: int,
    n_resamples: int,
    seed: int,
) -> tuple[float, float, float]:
    """Give `binned_kl` of so many of each, the same with labels shuffled, and the most it can be.

    The first two are means over draws without replacement; the last is that of as many that share
    no value. What depends on the size of a sample is so the same for all that are compared.
    """
    generator = np.random.default_rng(seed)
    both, (n, m) = np.concatenate([first, second]), sizes
    drawn, shuffled = [], []
    for _ in range(n_resamples):
        parts = [
            generator.choice(one, k, replace=False)
            for one, k in zip((first, second), sizes, strict=True)
        ]
        drawn.append(binned_kl(*parts, n_bins=n_bins))
        mixed = generator.choice(both, n + m, replace=False)
        shuffled.append(binned_kl(mixed[:n], mixed[n:], n_bins=n_bins))
    ceiling = binned_kl(np.arange(n), n + np.arange(m), n_bins=n_bins)
    return float(np.mean(drawn)), float(np.mean(shuffled)), ceiling


def binned_kl(first: npt.ArrayLike, second: npt.ArrayLike, *, n_bins: int = 20) -> float:
    """Give KL(first‖second) of two samples over bins that both share, in nats.

    The bins hold equal numbers of the two samples together (fewer where values are tied); half a
    count is added to each, so that an empty bin does not make it infinite. A plug-in estimate: too
    large for small samples, which is what the shuffled null shows.
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


# -- shares of the categories, beside the published ones ------------------------------------


def read_proportions() -> pl.DataFrame:
    """Read the published counts and per cent of each category by `size` and `step_share`.

    By size they are those at the end of training (`step_share` 1; the paper leaves out 160m), of
    12b those through its training too.
    """
    return pl.read_csv(
        files("mnemoscope.analysis").joinpath("data", "proportions.csv").read_bytes()
    )


def published_shares() -> pl.DataFrame:
    """Give both published tables under one another, as `over` says: `size` or `training`."""
    table = read_proportions()
    parts = {
        "size": table.filter(step_share=1.0),
        "training": table.filter(size="12b").sort("step_share"),
    }
    names = ("size", "step_share", *(f"{name}_percent" for name in CATEGORIES.values()))
    return pl.concat(
        part.select(pl.lit(over).alias("over"), *names) for over, part in parts.items()
    )


def published_row(split: str | None) -> dict[str, float] | None:
    """Give the published share of each of our classes, None where a study reads another split.

    The split is as in `sequences.split`: `deduped_12b` or `memories_deduped_12b`.
    """
    if split is None or not split.removeprefix("memories_").startswith("deduped_"):
        return None
    row = read_proportions().filter(step_share=1.0, size=split.rpartition("_")[2])
    if row.is_empty():
        return None
    counts = {ours: row[name].item() for ours, name in CATEGORIES.items()}
    return {name: count / sum(counts.values()) for name, count in counts.items()}


def own_proportions(
    category: pl.Series,
    memorized: pl.Series,
    published: dict[str, float] | None,
    groups: npt.NDArray[np.int64],
) -> pl.DataFrame:
    """Count the categories of the memorized sequences, the published ones or a taxonomy's own.

    Gives `category`, `n`, `share` (over `groups` of near duplicates, (n,)), how many groups all of
    them are, and the `published` share.
    """
    is_chosen = memorized.fill_null(False) & category.is_not_null()
    chosen = category.filter(is_chosen)
    owners = groups[is_chosen.to_numpy()]
    is_theirs = set(chosen) <= set(CATEGORIES)
    rows = [
        {"category": name, "n": n, "n_groups": n_groups(owners)}
        | {"share": share_true(chosen == name, owners)}
        | {"published": (published or {}).get(name)}
        for name in (CATEGORIES if is_theirs else chosen.unique().sort())
        for n in [int((chosen == name).sum())]
    ]
    schema = {"category": pl.String, "n": pl.Int64, "n_groups": pl.Int64, "share": FIGURE}
    return frame_of(rows, {**schema, "published": pl.Float64})


# -- what is said and drawn -----------------------------------------------------------------


def _sentence(table: pl.DataFrame) -> str:
    whole = table.filter(kind="all", category="all")
    said = []
    for name, words in _NAMES.items():
        size = pl.col("value").struct.field("value").abs()
        row = next(rows_of(whole.filter(coefficient=name).sort(size, descending=True)))
        shown = ranged(row["value"], digits=2, minus="\N{MINUS SIGN}")
        said.append(f"{row['feature'].replace('_', ' ')} by {words} ({shown})")
    return f"Over all sequences, what goes most with being memorized: {', '.join(said)}."


def _figures(table: pl.DataFrame, perplexity: pl.DataFrame) -> Iterator[Chart | HeatMap]:
    whole = table.filter(kind="all", category="all")
    names = whole["feature"].unique(maintain_order=True).to_list()
    shown = tuple(name.replace("_", " ") for name in names)
    yield Chart(
        title="Each feature with memorized or not, over all sequences (95 % interval)",
        form="points",
        x_names=shown,
        series=tuple(
            series_beside(words, whole.filter(coefficient=one), "feature", names, shift)
            for (one, words), shift in zip(_NAMES.items(), (-0.18, 0.0, 0.18), strict=True)
        ),
    )
    pearson = table.filter(coefficient="pearson")
    groups = pearson.select("kind", "category").unique(maintain_order=True).rows()
    found = {
        (row["feature"], row["kind"], row["category"]): row["value"].value
        for row in rows_of(pearson)
    }
    yield HeatMap(
        title="Pearson by kind of text and category (a blank: too few, or no variance)",
        values=tuple(tuple(found.get((name, *group)) for group in groups) for name in names),
        row_names=shown,
        column_names=tuple(
            kind if category == "all" else category if kind == "all" else f"{kind}, {category}"
            for kind, category in groups
        ),
        diverging=True,
    )
    if perplexity.height:
        of_both = perplexity.with_columns(n=pl.col("n_memorized") + pl.col("n_other"))
        yield Chart(
            title="AUC of low perplexity, second half, for memorized (95 % interval; .5: none)",
            x_label="duplicates",
            form="points",
            x_names=counted_names(of_both, "duplicates"),
            series=(series_of("memorized from other", perplexity, "auc"),),
        )


def _further(
    inputs: AnalysisInputs,
    rows: pl.DataFrame,
    table: pl.DataFrame,
    perplexity: pl.DataFrame,
    settings: Settings,
) -> Iterator[str]:
    yield f"{rows.height:,} sequences; token frequencies are those of {frequency_source(inputs)}."
    known = set(table["feature"])
    left_out = [name for name in FEATURES if name not in known]
    if left_out:
        names = ", ".join(left_out)
        yield f"Left out, being unknown or the same for every sequence: {names}."
    if perplexity.height:
        yield (
            "How far perplexity parts memorized sequences from others is compared between bands by "
            "the AUC, which does not hang on how many there are. The published divergence (kl) "
            "does: every band is drawn down to the same numbers, at which it is at most "
            f"{perplexity['ceiling'][0]:.1f} nats however far apart they lie, and "
            f"{perplexity['shuffled'].to_numpy().mean():.2f} where labels are shuffled."
        )
    else:
        yield (
            f"No band of duplicates holds {settings.minimum} memorized sequences and as many "
            "others, so perplexities were not compared."
        )
    yield (
        "A coefficient is no cause: low perplexity of the second half is close to being memorized "
        "itself. The interval of ξ comes from subsamples, those of the others from resamples."
    )
