"""Logistic models of memorized or not: a baseline, one a category, and the optimal partition.

Source: Prashanth et al. 2024, "Recite, Reconstruct, Recollect", arXiv 2406.17746; sections 1.11
to 1.13 and 1.16 of the related work.
Run it: mnemoscope analyze predict STUDY --corpus TEXTS
"""

import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.figures import Chart, Series, plain
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.analysis.predictors import FEATURES, add_predictors, frequency_source, libraries_of
from mnemoscope.analysis.rows import categories_of, draw_rows, refuse_one_sided
from mnemoscope.errors import UserError
from mnemoscope.progress import track
from mnemoscope.taxonomy.catalogue import PRASHANTH
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.names import parse_taxonomy

# Logistic models of memorized or not: one for all, or one a part; and likelihood-ratio tests.

_Floats = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]
_Parts = npt.NDArray[np.int64]
_NO_PLANE = 1e-6  # the solver's own tolerance is 1e-7


@dataclass(frozen=True)
class PartModels:
    """One pipeline a part; a part whose training rows have one label only predicts that label.

    Attributes:
        models: pipeline, or the constant probability, of each part.
        fallback: share of memorized training rows, for a part that training did not hold.
    """

    models: dict[int, Any]
    fallback: float

    def predict(self, values: _Floats, parts: _Parts) -> _Floats:
        """Give the probability of being memorized, shape (n,).

        Args:
            values: features, shape (n, features).
            parts: of every row.
        """
        found = np.full(len(values), self.fallback)
        for part, model in self.models.items():
            rows = parts == part
            if rows.any():
                is_constant = isinstance(model, float)
                found[rows] = model if is_constant else model.predict_proba(values[rows])[:, 1]
        return found

    def weights(self, n_features: int) -> dict[int, _Floats]:
        """Give the weight of each standardised feature in each part; NaN of a constant part.

        Args:
            n_features: how many.
        """
        return {
            part: np.full(n_features, np.nan)
            if isinstance(model, float)
            else np.asarray(model[-1].coef_[0], dtype=np.float64)
            for part, model in self.models.items()
        }


def fit_parts(
    values: _Floats,
    label: _Flags,
    parts: _Parts,
    *,
    unscaled: tuple[int, ...] = (),
    leaky: _Floats | None = None,
    leaky_parts: _Parts | None = None,
) -> PartModels:
    """Fit one logistic model a part.

    Args:
        values: features of the training rows, shape (n, features).
        label: memorized, shape (n,).
        parts: of every row, whole numbers; all 0 is one model for all.
        unscaled: columns that are left as they are (0 or 1 already).
        leaky: rows that the scaler is fitted on instead, test rows included, as published.
        leaky_parts: parts of these rows.
    """
    models: dict[int, Any] = {}
    for part in np.unique(parts).tolist():
        rows = parts == part
        share = float(label[rows].mean())
        if share in (0.0, 1.0):
            models[part] = share
            continue
        seen = values[rows]
        if leaky is not None and leaky_parts is not None:
            seen = leaky[leaky_parts == part]
        models[part] = _fit(values[rows], label[rows], seen, unscaled)
    return PartModels(models, float(label.mean()))


def _fit(values: _Floats, label: _Flags, seen: _Floats, unscaled: tuple[int, ...]) -> Any:
    """A pipeline of scaler and model; the scaler fitted on `seen`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(seen)
    for column in unscaled:
        scaler.mean_[column], scaler.scale_[column], scaler.var_[column] = 0.0, 1.0, 1.0
    model = LogisticRegression(C=1.0, max_iter=10_000, class_weight="balanced")
    model.fit(scaler.transform(values), label)
    return make_pipeline(scaler, model)


class RatioTest(NamedTuple):
    """A likelihood-ratio test of two nested, unpenalised fits.

    Attributes:
        statistic: twice the difference of the log-likelihoods; NaN where the test is not valid.
        dof: parameters that the larger model has beyond the smaller.
        p_value: of the chi-squared distribution; NaN where not valid.
        reason: why it is not valid, empty where it is.
    """

    statistic: float
    dof: int
    p_value: float
    reason: str = ""


def likelihood_ratio(smaller: _Floats, larger: _Floats, label: _Flags) -> RatioTest:
    """Test whether the columns that `larger` has beyond `smaller` add to the fit.

    Both are fitted without penalty and without class weights, with an intercept. The test is
    valid only where both fits converge at a finite maximum (no separation) and the columns of
    `smaller` lie in the span of those of `larger`; else the reason is given.

    Args:
        smaller: features, shape (n, k).
        larger: features, shape (n, m).
        label: memorized, shape (n,).

    Raises:
        UserError: statsmodels is not installed.
    """
    try:
        import statsmodels.api as sm
        from scipy.stats import chi2
    except ImportError:
        raise UserError(
            "analyze predict: tests need statsmodels. Install it: pip install "
            "'mnemoscope[analysis]', or leave them out with --set tests=false."
        ) from None
    designs = [sm.add_constant(one, has_constant="add") for one in (smaller, larger)]
    ranks = [int(np.linalg.matrix_rank(one)) for one in designs]
    dof = ranks[1] - ranks[0]
    both = int(np.linalg.matrix_rank(np.concatenate(designs, axis=1)))
    if both > ranks[1] or dof < 1:
        return RatioTest(float("nan"), dof, float("nan"), "the models are not nested")
    if is_separated(_independent(designs[1]), label):
        reason = "the features separate the labels, so there is no finite maximum"
        return RatioTest(float("nan"), dof, float("nan"), reason)
    fits = []
    for design in map(_independent, designs):
        fitted, reason = _unpenalised(sm, design, label)
        if reason:
            return RatioTest(float("nan"), dof, float("nan"), reason)
        fits.append(float(fitted))
    statistic = max(2 * (fits[1] - fits[0]), 0.0)
    return RatioTest(statistic, dof, float(chi2.sf(statistic, dof)))


def is_separated(design: _Floats, label: _Flags) -> bool:
    """Say whether a plane separates the labels, wholly or but for rows that lie on it.

    Exactly then a logistic model has no finite maximum-likelihood fit (Albert and Anderson 1984).

    Args:
        design: shape (n, k), of full rank, with the intercept.
        label: shape (n,).
    """
    return bool(_separating_plane(design, label).any())


def separating_features(values: _Floats, label: _Flags) -> list[int]:
    """Give columns without which nothing separates the labels.

    Args:
        values: features, shape (n, k); an intercept is added.
        label: shape (n,).
    """
    kept, found = list(range(values.shape[1])), []
    while kept:
        design = np.column_stack([np.ones(len(values)), values[:, kept]])
        weights = np.abs(_separating_plane(design, label)[1:])
        if not weights.any():
            break
        found.append(kept.pop(int(weights.argmax())))
    return sorted(found)


def _separating_plane(design: _Floats, label: _Flags) -> _Floats:
    """Weights of a separating plane, all 0 where there is none: a linear programme (Konis 2007)."""
    from scipy.optimize import linprog

    scale = np.abs(design).max(axis=0)
    signed = np.where(label, 1.0, -1.0)[:, None] * (design / np.where(scale > 0, scale, 1.0))
    found = linprog(-signed.mean(axis=0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=(-1, 1))
    if found.status != 0 or -found.fun <= _NO_PLANE:
        return np.zeros(design.shape[1])
    weights: _Floats = np.where(np.abs(found.x) > _NO_PLANE, found.x, 0.0)
    return weights


def _independent(design: _Floats) -> _Floats:
    """Columns that span what all of them span."""
    from scipy.linalg import qr

    _, r, order = qr(design, mode="economic", pivoting=True)
    size = np.abs(np.diag(r))
    rank = int((size > 1e-9 * size[0]).sum())
    kept: _Floats = design[:, np.sort(order[:rank])]
    return kept


def _unpenalised(sm: Any, design: _Floats, label: _Flags) -> tuple[float, str]:
    """Log-likelihood of a maximum-likelihood fit, or why there is none."""
    reason = ""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for method in ("newton", "bfgs"):  # long tails send Newton's first steps astray
            try:
                fit = sm.Logit(label.astype(float), design).fit(disp=0, maxiter=2000, method=method)
            except Exception as error:  # statsmodels has no common type for what can go wrong
                reason = f"no unpenalised fit ({type(error).__name__})"
                continue
            if fit.mle_retvals["converged"] and np.isfinite(fit.llf):
                return float(fit.llf), ""
            reason = "the unpenalised fit does not converge"
    return float("nan"), reason


# The optimal partition: three parts by two thresholds, out of 810, that predict best.

PARTITION_FEATURES = (
    "max_frequency",
    "avg_frequency",
    "min_frequency",
    "median_frequency",
    "n_similar",
    "n_near",
    "duplicates",
    "shannon_length",
    "is_templating",
    "generation_perplexity",
)
"""The ten features whose quartiles part the sequences."""

QUANTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Candidate:
    """A partition into part 0, part 1 and the rest.

    Part 0 is where the first feature reaches its threshold, part 1 where only the second does.

    Attributes:
        first: name of the first feature and its quantile.
        second: of the second.
        thresholds: of both.
    """

    first: tuple[str, float]
    second: tuple[str, float]
    thresholds: tuple[float, float]

    def __str__(self) -> str:
        """`duplicates@.25 then shannon length@.5`."""
        named = [f"{name.replace('_', ' ')}@{q:g}" for name, q in (self.first, self.second)]
        return " then ".join(named)


def candidates(
    memorized: Mapping[str, npt.NDArray[np.float64]],
    features: Sequence[str] = PARTITION_FEATURES,
) -> Iterator[Candidate]:
    """Give every ordered pair of two features at a quantile each: 810 of ten features.

    Args:
        memorized: values of each feature among the memorized training sequences; features that
            are not in it are left out.
        features: names in order.
    """
    known = [name for name in features if name in memorized]
    places = [
        (name, q, float(np.quantile(memorized[name], q))) for name in known for q in QUANTILES
    ]
    for first, first_q, first_at in places:
        for second, second_q, second_at in places:
            if first != second:
                yield Candidate((first, first_q), (second, second_q), (first_at, second_at))


def count_candidates(known: Container[str], features: Sequence[str] = PARTITION_FEATURES) -> int:
    """Give how many partitions there are of the features that are known.

    Args:
        known: names of features.
        features: those that part the sequences.

    >>> count_candidates(PARTITION_FEATURES)
    810
    """
    n = sum(name in known for name in features)
    return n * (n - 1) * len(QUANTILES) ** 2


def assign_parts(
    candidate: Candidate, values: Mapping[str, npt.NDArray[np.float64]]
) -> npt.NDArray[np.int64]:
    """Give every row its part.

    Args:
        candidate: the partition.
        values: of each feature, shape (n,).

    Returns:
        0, 1 or 2, shape (n,).
    """
    is_first = values[candidate.first[0]] >= candidate.thresholds[0]
    is_second = values[candidate.second[0]] >= candidate.thresholds[1]
    found: npt.NDArray[np.int64] = np.where(is_first, 0, np.where(is_second, 1, 2))
    return found


# How good predicted probabilities are: ROC AUC, PR AUC, precision, recall, F1, calibration.

FIGURES = ("roc_auc", "pr_auc", "precision", "recall", "f1", "ece")
"""The figures of a model, fractions."""


def expected_calibration_error(probabilities: _Floats, label: _Flags, *, n_bins: int = 5) -> float:
    """Give the mean distance of confidence and accuracy over equal-width bins.

    Confidence is the probability of the predicted side, from .5 to 1; the bins part 0 to 1.

    Args:
        probabilities: of being memorized, shape (n,).
        label: memorized, shape (n,).
        n_bins: equal-width bins of the confidence.

    Returns:
        A fraction.
    """
    predicted = probabilities >= 0.5
    confidence = np.where(predicted, probabilities, 1 - probabilities)
    right = predicted == label
    place = np.minimum((confidence * n_bins).astype(np.int64), n_bins - 1)
    counts = np.bincount(place, minlength=n_bins)
    gaps = np.bincount(place, weights=confidence - right, minlength=n_bins)
    return float(np.abs(gaps).sum() / max(counts.sum(), 1))


def figures_of(
    probabilities: _Floats, label: _Flags, *, hard: bool = False, n_bins: int = 5
) -> dict[str, float]:
    """Give every figure of one model.

    Args:
        probabilities: of being memorized, shape (n,).
        label: memorized, shape (n,); an AUC is NaN where it has one value only.
        hard: AUCs of the predictions at .5 instead of the probabilities, as published.
        n_bins: of the calibration error.

    Returns:
        `FIGURES` by name.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    predicted = probabilities >= 0.5
    scores = predicted.astype(np.float64) if hard else probabilities
    both = 0 < label.sum() < len(label)
    right = int((predicted & label).sum())
    precision = right / predicted.sum() if predicted.any() else 0.0
    recall = right / label.sum() if label.any() else 0.0
    return {
        "roc_auc": float(roc_auc_score(label, scores)) if both else float("nan"),
        "pr_auc": float(average_precision_score(label, scores)) if both else float("nan"),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(2 * right / (predicted.sum() + label.sum())) if right else 0.0,
        "ece": expected_calibration_error(probabilities, label, n_bins=n_bins),
    }


def resampled(
    figures: Callable[[npt.NDArray[np.int64]], Mapping[str, float]],
    n_rows: int,
    *,
    n_resamples: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Give the 95 % interval of every figure by resampling rows.

    Args:
        figures: figures of the rows it is given.
        n_rows: rows to draw from.
        n_resamples: how often.
        seed: of the draws; the same seed draws the same rows, which pairs two models.

    Returns:
        Ends of each figure; NaN where no resample gave one.
    """
    generator = np.random.default_rng(seed)
    every = [figures(generator.integers(0, n_rows, n_rows)) for _ in range(n_resamples)]
    found = {}
    for name in every[0]:
        values = np.array([one[name] for one in every])
        kept = values[np.isfinite(values)]
        ends = np.quantile(kept, [0.025, 0.975]) if len(kept) else (float("nan"),) * 2
        found[name] = (float(ends[0]), float(ends[1]))
    return found


# Logistic models of memorized or not: a baseline, one a category, and the optimal partition.

_PERPLEXITIES = ("generation_perplexity", "prompt_perplexity", "sequence_perplexity")
_PLAIN = ("shannon_length", "is_templating")
_FOLDS = 5
_WORDS = {
    "baseline": "baseline",
    "taxonomic": "one a category",
    "optimal": "optimal partition",
    "no perplexity": "baseline without perplexities",
}


class Settings(AnalysisSettings):
    """Settings of `predict`."""

    n_sequences: int | None = Field(
        default=None, ge=40, description="Sequences drawn by the seed; null: all."
    )
    taxonomy: str = Field(default=PRASHANTH, description="Whose categories have a model each.")
    logarithms: bool = Field(
        default=False,
        description="Perplexities, duplicates and frequencies as logarithms: their tails are "
        "long. The published models take them as they are.",
    )
    partition: bool = Field(default=True, description="Search the optimal partition.")
    partition_rows: int = Field(
        default=1500, ge=40, description="Training rows that the partition is searched on."
    )
    n_resamples: int = Field(default=500, ge=50, description="Resamples of the test rows.")
    minimum: int = Field(
        default=20, ge=5, description="Memorized and other sequences needed on either side."
    )
    tests: bool = Field(
        default=True, description="Likelihood-ratio tests of unpenalised fits (statsmodels)."
    )


@dataclass(frozen=True)
class Data:
    """What the models see.

    Attributes:
        features: values of each feature by name, shape (n,).
        label: memorized, shape (n,).
        category: number of the category of every row, and their names.
        names: of the categories.
        is_test: shape (n,).
    """

    features: Mapping[str, _Floats]
    label: npt.NDArray[np.bool_]
    category: npt.NDArray[np.int64]
    names: tuple[str, ...]
    is_test: npt.NDArray[np.bool_]

    def matrix(self, names: Sequence[str]) -> _Floats:
        """Columns of features, shape (n, features)."""
        return np.stack([self.features[name] for name in names], axis=1)


def split_rows(
    label: npt.NDArray[np.bool_],
    category: npt.NDArray[np.int64],
    groups: Sequence[str] | None,
    *,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Put a fifth of the rows aside for the test, stratified by label and category.

    Args:
        label: memorized.
        category: of every row.
        groups: near duplicates stay on one side; None splits by row, as published.
        seed: of the split.

    Returns:
        True for test rows.

    Raises:
        UserError: fewer than five groups of near duplicates.
    """
    from sklearn.model_selection import StratifiedGroupKFold, train_test_split

    strata = 2 * category + label
    if groups is None:
        rare = np.bincount(strata, minlength=strata.max() + 1)[strata] < 2
        strata = np.where(rare, -1 - label, strata)
        kept = strata if np.unique(strata, return_counts=True)[1].min() > 1 else label
        chosen = train_test_split(
            np.arange(len(label)), test_size=0.2, stratify=kept, random_state=seed
        )[1]
    else:
        import warnings

        if len(set(groups)) < _FOLDS:
            raise UserError(
                f"analyze predict: {len(set(groups))} groups of near duplicates, and {_FOLDS} are "
                "needed to put a fifth of the sequences aside. Give a table of other texts."
            )
        if np.unique(strata, return_counts=True)[1].max() < _FOLDS:
            strata = label.astype(np.int64)
        folds = StratifiedGroupKFold(n_splits=_FOLDS, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stratum of fewer than five rows
            chosen = next(folds.split(np.zeros(len(label)), strata, list(groups)))[1]
    found = np.zeros(len(label), dtype=bool)
    found[chosen] = True
    return found


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Fit the models on four fifths of the sequences and judge them on the last.

    Args:
        inputs: a study with features and its model; the corpus where there is one.
        settings: which sequences and models.

    Raises:
        UserError: too few sequences of either label, or no feature with variance.
    """
    data, left_out, n_unknown = _data(inputs, settings)
    scores, weights, tests, candidate, n_eligible = model_all(data, settings)
    frames = {"scores": scores, "weights": weights}
    if tests is not None:
        frames["tests"] = tests
    return AnalysisResult(
        sentence=_sentence(scores),
        frames=frames,
        figures=tuple(_figures(scores, weights)),
        further=tuple(_further(inputs, data, settings, left_out, n_unknown, candidate, n_eligible)),
        libraries=(
            *libraries_of(inputs.table),
            *(("statsmodels",) if tests is not None else ()),
        ),
    )


def _data(inputs: AnalysisInputs, settings: Settings) -> tuple[Data, list[str], int]:
    """Features, labels and split; features left out; rows without a category."""
    known = inputs.table.filter(pl.col("is_memorized").is_not_null())
    rows = draw_rows(known, settings.n_sequences, settings.seed)
    rows = rows.with_columns(categories_of(rows, settings.taxonomy))
    whole = rows.filter(pl.col("category").is_not_null())
    if whole.is_empty():
        columns = sorted(parse_taxonomy(settings.taxonomy).columns)
        missing = [name for name in columns if rows[name].null_count() == rows.height]
        raise UserError(
            f"analyze predict: no sequence has a category of '{settings.taxonomy}', since "
            f"{', '.join(missing)} is not known of any. Give the column, count duplicates (--set "
            "features.corpus=TEXTS in 'mnemoscope features'), or choose categories without it: "
            "--set taxonomy=NAMES."
        )
    refuse_one_sided(whole["is_memorized"].to_numpy(), settings.minimum, where="analyze predict")
    table = add_predictors(inputs, whole, published=settings.published)
    features = {
        name: table[name].fill_null(float("nan")).to_numpy().astype(np.float64) for name in FEATURES
    }
    if settings.logarithms:
        features = {
            name: values if name in _PLAIN else np.log1p(np.maximum(values, 0.0))
            for name, values in features.items()
        }
    kept = {
        name: values
        for name, values in features.items()
        if np.isfinite(values).all() and values.min() < values.max()
    }
    if not kept:
        raise UserError(
            "analyze predict: no feature is known of every sequence and differs between two, so "
            "there is nothing to predict from. Give a table of other texts, or with more features."
        )
    names = tuple(whole["category"].unique().sort().to_list())
    category = whole["category"].replace_strict(
        {name: number for number, name in enumerate(names)}, return_dtype=pl.Int64
    )
    label = whole["is_memorized"].to_numpy().astype(bool)
    groups = None if settings.published else find_groups(whole).to_list()
    seed = 1024 if settings.published and settings.seed == 0 else settings.seed
    is_test = split_rows(label, category.to_numpy(), groups, seed=seed)
    data = Data(kept, label, category.to_numpy(), names, is_test)
    for side, words in ((is_test, "put aside"), (~is_test, "left to fit")):
        least = max(2, settings.minimum // 5)
        refuse_one_sided(label[side], least, where=f"analyze predict, sequences {words}")
    return data, [name for name in FEATURES if name not in kept], rows.height - whole.height


def model_all(
    data: Data, settings: Settings
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame | None, Candidate | None, int]:
    """Fit every model and judge it.

    Args:
        data: features, labels and split.
        settings: which models.

    Returns:
        Scores (a row a model, category and figure), weights (a row a model, part and feature),
        tests (None without), the best partition (None without) and how many were eligible.
    """
    names = list(data.features)
    alone = np.zeros(len(data.label), dtype=np.int64)
    plans: dict[str, tuple[list[str], npt.NDArray[np.int64], list[str]]] = {
        "baseline": (names, alone, ["all"]),
        "taxonomic": (names, data.category, list(data.names)),
    }
    candidate, n_eligible = None, 0
    if settings.partition:
        candidate, n_eligible = best_partition(data, settings)
        if candidate is not None:
            parts = assign_parts(candidate, data.features)
            plans["optimal"] = (names, parts, ["first", "second", "rest"])
    without = [name for name in names if name not in _PERPLEXITIES]
    if without and len(without) < len(names):
        plans["no perplexity"] = (without, alone, ["all"])
    scores, weights = [], []
    for model, (used, parts, part_names) in plans.items():
        fitted = _fit_plan(data, used, parts, published=settings.published)
        test = data.is_test
        probabilities = fitted.predict(data.matrix(used)[test], parts[test])
        scores += list(_scores(model, probabilities, data, settings))
        for part, values in fitted.weights(len(used)).items():
            weights += [
                {"model": model, "part": part_names[part], "feature": name, "weight": float(value)}
                for name, value in zip(used, values, strict=True)
            ]
    tests = _tests(data, names) if settings.tests and not settings.published else None
    return pl.DataFrame(scores), pl.DataFrame(weights), tests, candidate, n_eligible


def _fit_plan(
    data: Data, names: list[str], parts: npt.NDArray[np.int64], *, published: bool
) -> PartModels:
    """Fit on the training rows; the scaler on all rows where published."""
    values, train = data.matrix(names), ~data.is_test
    return fit_parts(
        values[train],
        data.label[train],
        parts[train],
        unscaled=_unscaled(names),
        leaky=values if published else None,
        leaky_parts=parts if published else None,
    )


def _unscaled(names: Sequence[str]) -> tuple[int, ...]:
    """Columns that are 0 or 1 already."""
    return tuple(i for i, name in enumerate(names) if name == "is_templating")


def best_partition(data: Data, settings: Settings) -> tuple[Candidate | None, int]:
    """Find the partition whose models have the best F1 on rows put aside within training.

    A candidate is eligible when each of its parts holds both labels among the fitted rows.

    Args:
        data: features, labels and split; test rows are not looked at.
        settings: how many rows, which seed.

    Returns:
        The best candidate, None where none is eligible; and how many are.
    """
    train = np.flatnonzero(~data.is_test)
    generator = np.random.default_rng(settings.seed)
    chosen = generator.permutation(train)[: settings.partition_rows]
    n_fit = int(0.8 * len(chosen))
    fit, aside = chosen[:n_fit], chosen[n_fit:]
    memorized = {name: values[fit][data.label[fit]] for name, values in data.features.items()}
    values = data.matrix(list(data.features))
    best: tuple[float, Candidate | None] = (-1.0, None)
    n_eligible, known = 0, {}
    every, unscaled = list(candidates(memorized)), _unscaled(list(data.features))
    with track("Partitions", total=len(every), unit="partitions") as progress:
        for candidate in every:
            progress.advance()
            parts = assign_parts(candidate, data.features)
            if any(len(np.unique(data.label[fit][parts[fit] == k])) < 2 for k in range(3)):
                continue
            n_eligible += 1
            key = parts[chosen].tobytes()
            if key not in known:
                fitted = fit_parts(values[fit], data.label[fit], parts[fit], unscaled=unscaled)
                probabilities = fitted.predict(values[aside], parts[aside])
                known[key] = figures_of(probabilities, data.label[aside])["f1"]
            if known[key] > best[0]:
                best = known[key], candidate
    return best[1], n_eligible


def _scores(
    model: str, probabilities: _Floats, data: Data, settings: Settings
) -> Iterator[dict[str, object]]:
    """The figures of one model over all test rows and within each category."""
    label, category = data.label[data.is_test], data.category[data.is_test]
    parts = {"all": np.arange(len(label))}
    parts |= {name: np.flatnonzero(category == k) for k, name in enumerate(data.names)}
    for name, rows in parts.items():
        p, y = probabilities[rows], label[rows]
        if not len(rows):
            continue

        def figures(
            drawn: npt.NDArray[np.int64], p: _Floats = p, y: npt.NDArray[np.bool_] = y
        ) -> dict[str, float]:
            return figures_of(p[drawn], y[drawn], hard=settings.published)

        found = figures(np.arange(len(rows)))
        ends = resampled(figures, len(rows), n_resamples=settings.n_resamples, seed=settings.seed)
        for figure in FIGURES:
            yield {
                "model": model,
                "category": name,
                "figure": figure,
                "value": found[figure],
                "low": ends[figure][0],
                "high": ends[figure][1],
                "n": len(rows),
                "n_memorized": int(y.sum()),
            }


def _tests(data: Data, names: list[str]) -> pl.DataFrame:
    """Likelihood ratios on the training rows: each feature, and one model a category."""
    train = ~data.is_test
    values = data.matrix(names)[train]
    values = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-12)
    label, category = data.label[train], data.category[train]
    rows = []
    separating = separating_features(values, label)
    for column in separating:
        reason = "separates the labels by itself or with others, so it is left out of the tests"
        test = RatioTest(float("nan"), 1, float("nan"), reason)
        rows.append(_test_row(names[column].replace("_", " "), test))
    values = np.delete(values, separating, axis=1)
    for column, name in enumerate(np.delete(np.array(names), separating).tolist()):
        test = likelihood_ratio(np.delete(values, column, axis=1), values, label)
        rows.append(_test_row(f"{name.replace('_', ' ')}, given all others", test))
    indicators = (category[:, None] == np.arange(1, len(data.names))).astype(np.float64)
    crossed = [values, indicators, *(values * one[:, None] for one in indicators.T)]
    if indicators.shape[1]:
        test = likelihood_ratio(values, np.concatenate(crossed, axis=1), label)
        rows.append(_test_row("one model a category, against one for all", test))
    return pl.DataFrame(rows, schema_overrides={"reason": pl.String})


def _test_row(what: str, test: RatioTest) -> dict[str, object]:
    return {"test": what, **test._asdict()}


def _figure(scores: pl.DataFrame, model: str, figure: str, category: str = "all") -> str:
    """`71.2 % [68.0, 74.1]`."""
    row = scores.filter(model=model, figure=figure, category=category).row(0, named=True)
    return f"{100 * row['value']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _sentence(scores: pl.DataFrame) -> str:
    """The F1 of every model."""
    models = scores["model"].unique(maintain_order=True).to_list()
    said = ", ".join(f"{_WORDS[model]} {_figure(scores, model, 'f1')}" for model in models)
    return f"F1 of predicting memorized or not, on sequences put aside: {said}."


def _figures(scores: pl.DataFrame, weights: pl.DataFrame) -> Iterator[Chart]:
    """Figures of the models over all; F1 by category; weights."""
    models = scores["model"].unique(maintain_order=True).to_list()
    categories = scores["category"].unique(maintain_order=True).to_list()
    yield _score_chart(
        "Figures of each model on the sequences put aside, per cent (95 % interval)",
        scores.filter(category="all"),
        "figure",
        ("ROC AUC", "PR AUC", "precision", "recall", "F1", "ECE"),
        FIGURES,
        models,
    )
    yield _score_chart(
        "F1 within each category, per cent (95 % interval)",
        scores.filter(figure="f1"),
        "category",
        tuple(categories),
        categories,
        models,
    )
    alone = weights.filter(model="baseline")
    others = weights.filter(model="taxonomic")
    names = alone["feature"].to_list()
    parts = others["part"].unique(maintain_order=True).to_list()
    series = [Series(name="baseline", x=plain(range(len(names))), y=plain(alone["weight"]))]
    for part in parts:
        rows = others.filter(part=part)
        series.append(Series(name=part, x=plain(range(len(names))), y=plain(rows["weight"])))
    yield Chart(
        title="Weight of each feature, standardised: the baseline and one model a category",
        form="bars",
        x_names=tuple(name.replace("_", " ") for name in names),
        series=tuple(series),
    )


def _score_chart(
    title: str,
    rows: pl.DataFrame,
    column: str,
    words: tuple[str, ...],
    keys: Sequence[str],
    models: list[str],
) -> Chart:
    """A dot with its interval a model and key, side by side."""
    series = []
    for number, model in enumerate(models):
        found = {row[column]: row for row in rows.filter(model=model).iter_rows(named=True)}
        shift = 0.16 * (number - (len(models) - 1) / 2)
        places = [(place + shift, found[key]) for place, key in enumerate(keys) if key in found]
        series.append(
            Series(
                name=_WORDS[model],
                x=plain([place for place, _ in places]),
                y=plain([row["value"] for _, row in places]),
                low=plain([row["low"] for _, row in places]),
                high=plain([row["high"] for _, row in places]),
            )
        )
    return Chart(title=title, form="points", x_names=words, percent=True, series=tuple(series))


def _further(
    inputs: AnalysisInputs,
    data: Data,
    settings: Settings,
    left_out: list[str],
    n_unknown: int,
    candidate: Candidate | None,
    n_eligible: int,
) -> Iterator[str]:
    """What the reader must know."""
    n_test = int(data.is_test.sum())
    split = "by row" if settings.published else "near duplicates on one side"
    yield f"{len(data.label) - n_test:,} sequences to fit, {n_test:,} put aside ({split})."
    if candidate is not None:
        n_all = count_candidates(data.features)
        yield f"Optimal partition: {candidate}, the best of {n_eligible} eligible ones of {n_all}."
    elif settings.partition:
        yield "No partition has both labels in each of its parts, so there is no optimal one."
    if left_out:
        yield f"Left out, being unknown or the same for every sequence: {', '.join(left_out)}."
    if n_unknown:
        yield f"{n_unknown:,} sequences without a category (a feature is missing) were left out."
    yield f"Token frequencies are those of {frequency_source(inputs)}."
    yield (
        "Perplexity of the second half is close to the label itself: a memorized suffix is a "
        "likely one. The baseline without perplexities says what the rest can do."
    )
