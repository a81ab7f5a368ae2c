"""Logistic models of memorized or not: a baseline, one a category, and the optimal partition.

Source: Prashanth et al. 2024, "Recite, Reconstruct, Recollect", arXiv 2406.17746; sections 1.11
to 1.13 and 1.16 of the related work.
Run it: mnemoscope analyze predict STUDY --corpus TEXTS
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field
from scipy.linalg import qr
from scipy.optimize import linprog
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mnemoscope import Estimate, UserError
from mnemoscope.plugin import (
    FEATURES,
    FEWEST_GROUPS,
    PRASHANTH,
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    Z,
    add_predictors,
    categories_of,
    count_perplexed,
    counted_names,
    draw_rows,
    draw_within,
    estimate_of,
    fewest_groups,
    find_groups,
    frame_of,
    frequency_source,
    libraries_of,
    n_groups,
    parse_taxonomy,
    pip_install,
    ranged,
    refuse_one_sided,
    resampled_auc,
    rows_of,
    series_beside,
    series_of,
    track,
)

_Floats = npt.NDArray[np.float64]

_Flags = npt.NDArray[np.bool_]
_Parts = npt.NDArray[np.int64]

FIGURES = {
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "ece": "ECE",
}
"""The figures of a model, fractions, and their names."""
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

_PERPLEXITIES = ("generation_perplexity", "prompt_perplexity", "sequence_perplexity")
_PLAIN = ("shannon_length", "is_templating")
_FOLDS = 5
_BINS = 5
_NO_PLANE = 1e-6  # the solver's own tolerance is 1e-7
_NAN = float("nan")
_WEIGHTS_AT_ONCE = 4_000_000
_WORDS = {
    "baseline": "one for all",
    "taxonomic": "one a category",
    "optimal": "one a part of the best partition",
    "no perplexity": "one for all, without perplexities",
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
    """What the models see: values of each feature by name, and what is known of each row, (n,)."""

    features: Mapping[str, _Floats]
    label: _Flags
    category: _Parts  # number of a name below
    names: tuple[str, ...]
    is_test: _Flags
    groups: npt.NDArray[np.int64]  # of near duplicates
    n_unknown: int = 0  # rows that were left out, having no category
    # sequence_id, is_memorized and category of each
    rows: pl.DataFrame = field(default_factory=pl.DataFrame)

    def matrix(self, names: Sequence[str]) -> _Floats:
        """Columns of features, shape (n, features)."""
        return np.stack([self.features[name] for name in names], axis=1)


class Limit(NamedTuple):
    """A value of a feature, and the quantile that it is."""

    feature: str
    quantile: float
    value: float


class Candidate(NamedTuple):
    """Part 0 is where the first reaches its limit, 1 where only the second does, 2 the rest."""

    first: Limit
    second: Limit

    def __str__(self) -> str:
        """`duplicates@.25 then shannon length@.5`."""
        return " then ".join(f"{one.feature.replace('_', ' ')}@{one.quantile:g}" for one in self)


class Partition(NamedTuple):
    """The best candidate, None where none is eligible; how many are, and how many there are."""

    best: Candidate | None
    n_eligible: int
    n_all: int


class FittedModels(NamedTuple):
    """What came of all models."""

    scores: pl.DataFrame  # a row a model, category and figure
    weights: pl.DataFrame  # a row a model, part and feature, with an interval over groups
    tests: pl.DataFrame | None  # likelihood ratios
    partition: Partition | None  # the optimal one, where it was asked for
    chances: dict[str, _Floats]  # by model, of each test row: the probability of being memorized


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Perplexities."""
    return count_perplexed(inputs, settings.n_sequences)


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Fit the models on four fifths of the sequences and judge them on the last.

    Raises UserError: too few sequences of either label, or no feature with variance.
    """
    data = _data(inputs, settings)
    found = model_all(data, settings)
    frames = {"scores": found.scores, "weights": found.weights}
    frames["predictions"] = data.rows.filter(pl.Series(data.is_test)).with_columns(
        pl.Series(name, values) for name, values in found.chances.items()
    )
    libraries = libraries_of(inputs.table)
    if found.tests is not None:
        frames["tests"] = found.tests
        libraries = (*libraries, "statsmodels")
    return AnalysisResult(
        sentence=_sentence(found.scores),
        frames=frames,
        figures=tuple(_figures(found.scores, found.weights)),
        further=tuple(_further(inputs, data, found.partition, found.scores)),
        libraries=libraries,
    )


def _data(inputs: AnalysisInputs, settings: Settings) -> Data:
    """Features, labels and split."""
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
    label = whole["is_memorized"].to_numpy().astype(bool)
    refuse_one_sided(label, settings.minimum, where="analyze predict")
    table = add_predictors(inputs, whole)
    features = {}
    for name in FEATURES:
        values = table[name].fill_null(_NAN).to_numpy().astype(np.float64)
        if settings.logarithms and name not in _PLAIN:
            values = np.log1p(np.maximum(values, 0.0))
        if np.isfinite(values).all() and values.min() < values.max():
            features[name] = values
    if not features:
        raise UserError(
            "analyze predict: no feature is known of every sequence and differs between two, so "
            "there is nothing to predict from. Give a table of other texts, or with more features."
        )
    names = tuple(whole["category"].unique().sort().to_list())
    numbers = {name: number for number, name in enumerate(names)}
    category = whole["category"].replace_strict(numbers, return_dtype=pl.Int64).to_numpy()
    groups = find_groups(whole)
    is_test = split_rows(label, category, groups.to_list(), seed=settings.seed)
    for side, words in ((is_test, "put aside"), (~is_test, "left to fit")):
        least = max(2, settings.minimum // 5)
        refuse_one_sided(label[side], least, where=f"analyze predict, sequences {words}")
    numbered = groups.cast(pl.Int64).to_numpy()
    n_unknown = rows.height - whole.height
    kept = whole.select("sequence_id", "is_memorized", "category")
    return Data(features, label, category, names, is_test, numbered, n_unknown, kept)


def split_rows(label: _Flags, category: _Parts, groups: Sequence[str], *, seed: int) -> _Flags:
    """Put a fifth of the rows aside for the test, stratified by label and category.

    Rows of one group, near duplicates, stay on one side. Raises UserError: fewer than five groups.
    """
    if len(set(groups)) < _FOLDS:
        raise UserError(
            f"analyze predict: {len(set(groups))} groups of near duplicates, and {_FOLDS} are "
            "needed to put a fifth of the sequences aside. Give a table of other texts."
        )
    strata = 2 * category + label
    if np.unique(strata, return_counts=True)[1].max() < _FOLDS:
        strata = label.astype(np.int64)
    folds = StratifiedGroupKFold(n_splits=_FOLDS, shuffle=True, random_state=seed)
    found = np.zeros(len(label), dtype=bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a stratum of fewer than five rows
        found[next(folds.split(found, strata, list(groups)))[1]] = True
    return found


def model_all(data: Data, settings: Settings) -> FittedModels:
    """Fit every model and judge it."""
    names = list(data.features)
    alone = np.zeros(len(data.label), dtype=np.int64)
    plans: dict[str, tuple[list[str], _Parts, Sequence[str]]] = {
        "baseline": (names, alone, ["all"]),
        "taxonomic": (names, data.category, data.names),
    }
    partition = best_partition(data, settings) if settings.partition else None
    if partition is not None and partition.best is not None:
        parts = assign_parts(partition.best, data.features)
        plans["optimal"] = (names, parts, ["first", "second", "rest"])
    without = [name for name in names if name not in _PERPLEXITIES]
    if without and len(without) < len(names):
        plans["no perplexity"] = (without, alone, ["all"])
    scores: list[dict[str, object]] = []
    weights: list[dict[str, object]] = []
    chances: dict[str, _Floats] = {}
    test, train = data.is_test, ~data.is_test
    for model, (used, parts, part_names) in plans.items():
        values = data.matrix(used)
        known = (values[train], data.label[train], parts[train])
        fitted = fit_parts(*known, unscaled=_unscaled(used))
        chances[model] = fitted.predict(values[test], parts[test])
        scores += scores_of(model, chances[model], data, settings)
        weights += [
            {"model": model, "part": part_names[part], "feature": name, "weight": weight}
            | {"n": int((parts[train] == part).sum())}
            for part, of_part in fitted.weights(*known, data.groups[train]).items()
            for name, weight in zip(used, of_part, strict=True)
        ]
    tests = _tests(data, names) if settings.tests else None
    return FittedModels(frame_of(scores), frame_of(weights), tests, partition, chances)


# -- logistic models ------------------------------------------------------------------------


class PartModels(NamedTuple):
    """One pipeline a part; a part whose training rows have one label only predicts that label."""

    models: dict[int, Any]  # pipeline, or the constant probability, of each part
    fallback: float  # share of memorized training rows, for a part that training did not hold

    def predict(self, values: _Floats, parts: _Parts) -> _Floats:
        """Probability of being memorized, (n,), of features (n, features) and parts (n,)."""
        found = np.full(len(values), self.fallback)
        for part, model in self.models.items():
            rows = parts == part
            if rows.any():
                is_constant = isinstance(model, float)
                found[rows] = model if is_constant else model.predict_proba(values[rows])[:, 1]
        return found

    def weights(
        self, values: _Floats, label: _Flags, parts: _Parts, groups: npt.NDArray[np.int64]
    ) -> dict[int, list[Estimate]]:
        """Weight of each standardised feature in each part; no value in a constant part.

        From the rows that were fitted, values (n, features), and their groups of near duplicates;
        no interval where a label has fewer than `FEWEST_GROUPS` of them.
        """
        found = {}
        for part, model in self.models.items():
            if isinstance(model, float):
                found[part] = [Estimate(None)] * values.shape[1]
                continue
            rows = parts == part
            scaled, here, owners = model[0].transform(values[rows]), label[rows], groups[rows]
            errors = np.full(values.shape[1], _NAN)
            if fewest_groups(here, owners) >= FEWEST_GROUPS:
                errors = weight_errors(model[-1], scaled, here, owners)
            pairs = zip(model[-1].coef_[0].tolist(), (Z * errors).tolist(), strict=True)
            found[part] = [
                Estimate(one, one - reach, one + reach) if np.isfinite(reach) else Estimate(one)
                for one, reach in pairs
            ]
        return found


def weight_errors(
    model: LogisticRegression, scaled: _Floats, label: _Flags, groups: npt.NDArray[np.int64]
) -> _Floats:
    """Standard errors of the weights of `fit_parts`, by group of near duplicates: (features,).

    The sandwich: the curvature of the penalised loss around the spread of its gradients, summed by
    group (Liang and Zeger 1986). The scale of the features is taken as known. NaN of a feature that
    has another than its commonest value in fewer than `FEWEST_GROUPS` groups. `scaled` is (n,
    features), label and groups (n,).
    """
    design = np.column_stack([scaled, np.ones(len(scaled))])
    balance = 0.5 / np.where(label, label.mean(), 1 - label.mean())
    chance = model.predict_proba(scaled)[:, 1]
    curvature = (design * (balance * chance * (1 - chance))[:, None]).T @ design
    curvature[np.diag_indices(scaled.shape[1])] += 1 / model.C
    owners = np.unique(groups, return_inverse=True)[1]
    sums = np.zeros((int(owners.max()) + 1, design.shape[1]))
    np.add.at(sums, owners, design * (balance * (label - chance))[:, None])
    half = np.linalg.solve(curvature, (sums - sums.mean(axis=0)).T)
    errors = np.sqrt((half**2).sum(axis=1))[:-1]
    for feature, values in enumerate(scaled.T):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        if len(np.unique(owners[place != counts.argmax()])) < FEWEST_GROUPS:
            errors[feature] = _NAN
    return np.asarray(errors)


def fit_parts(
    values: _Floats, label: _Flags, parts: _Parts, *, unscaled: tuple[int, ...] = ()
) -> PartModels:
    """Fit one logistic model a part on standardised features, (n, features).

    The columns `unscaled` are left as they are.
    """
    models: dict[int, Any] = {}
    for part in np.unique(parts).tolist():
        rows = parts == part
        share = float(label[rows].mean())
        if share in (0.0, 1.0):
            models[part] = share
            continue
        scaler = StandardScaler().fit(values[rows])
        for column in unscaled:
            scaler.mean_[column], scaler.scale_[column] = 0.0, 1.0
        model = LogisticRegression(C=1.0, max_iter=10_000, class_weight="balanced")
        model.fit(scaler.transform(values[rows]), label[rows])
        models[part] = make_pipeline(scaler, model)
    return PartModels(models, float(label.mean()))


def _unscaled(names: Sequence[str]) -> tuple[int, ...]:
    """Columns that are 0 or 1 already."""
    return tuple(i for i, name in enumerate(names) if name == "is_templating")


# -- the optimal partition: three parts by two thresholds, out of 810 ------------------------


def candidates(memorized: Mapping[str, _Floats]) -> Iterator[Candidate]:
    """Give every ordered pair of two features at a quantile each: 810 of ten features.

    `memorized` holds the values of each feature among the memorized training sequences.
    """
    limits = [
        Limit(name, q, float(np.quantile(memorized[name], q)))
        for name in PARTITION_FEATURES
        if name in memorized
        for q in QUANTILES
    ]
    for first, second in product(limits, repeat=2):
        if first.feature != second.feature:
            yield Candidate(first, second)


def assign_parts(candidate: Candidate, values: Mapping[str, _Floats]) -> _Parts:
    """Give every row its part: 0, 1 or 2, shape (n,)."""
    is_first, is_second = (values[one.feature] >= one.value for one in candidate)
    return np.asarray(np.where(is_first, 0, np.where(is_second, 1, 2)))


def best_partition(data: Data, settings: Settings) -> Partition:
    """Find the partition whose models have the best F1 on rows put aside within training.

    A candidate is eligible when each of its parts holds both labels among the fitted rows. Test
    rows are not looked at.
    """
    train = np.flatnonzero(~data.is_test)
    generator = np.random.default_rng(settings.seed)
    chosen = generator.permutation(train)[: settings.partition_rows]
    n_fit = int(0.8 * len(chosen))
    fit, aside = chosen[:n_fit], chosen[n_fit:]
    memorized = {name: values[fit][data.label[fit]] for name, values in data.features.items()}
    values, unscaled = data.matrix(list(data.features)), _unscaled(list(data.features))
    best, best_f1, n_eligible = None, -1.0, 0
    known: dict[bytes, float] = {}
    every = list(candidates(memorized))
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
                known[key] = float(figures_of(probabilities, data.label[aside])["f1"][0])
            if known[key] > best_f1:
                best, best_f1 = candidate, known[key]
    return Partition(best, n_eligible, len(every))


# -- how good a model is --------------------------------------------------------------------


def scores_of(
    model: str, probabilities: _Floats, data: Data, settings: Settings
) -> Iterator[dict[str, object]]:
    """One model's figures over all test rows and by category; the same seed pairs two models.

    Resamples draw groups, and there are none where a label has fewer than `FEWEST_GROUPS`. Where
    nothing is memorized, precision, recall and F1 are of nothing: no value.
    """
    label, category = data.label[data.is_test], data.category[data.is_test]
    parts = {"all": np.ones(len(label), dtype=bool)}
    parts |= {name: category == k for k, name in enumerate(data.names)}
    for name, rows in parts.items():
        p, y, n = probabilities[rows], label[rows], int(rows.sum())
        if not n:
            continue
        owners = data.groups[data.is_test][rows]
        is_few = fewest_groups(y, owners) < FEWEST_GROUPS
        generator, many = np.random.default_rng(settings.seed), settings.n_resamples * (not is_few)
        weights = draw_within(np.zeros(n), generator, many, groups=owners)
        pieces = np.array_split(weights, 1 + weights.size // _WEIGHTS_AT_ONCE)
        judged = [figures_of(p, y, one) for one in pieces]
        for figure in FIGURES:
            draws = np.concatenate([one[figure][1:] for one in judged])
            found = estimate_of(float(judged[0][figure][0]), draws, 0.025)
            if not y.any() and figure in ("precision", "recall", "f1"):
                found = Estimate(None)
            about = {"model": model, "category": name, "figure": figure}
            counts = {"n": n, "n_memorized": int(y.sum()), "n_groups": n_groups(owners)}
            yield {**about, "value": found, **counts}


def figures_of(
    probabilities: _Floats, label: _Flags, drawn: npt.ArrayLike = ()
) -> dict[str, _Floats]:
    """Give `FIGURES` of probabilities of being memorized, (n,), each (1 + resamples,).

    The first is of the sample; `drawn` (resamples, n) says how often each counts. An AUC of one
    label is NaN. ECE is the mean distance of confidence, the probability of the predicted side,
    and accuracy over five equal-width bins of [0, 1].
    """
    n = len(label)
    counts = np.concatenate([np.ones((1, n)), np.reshape(drawn, (-1, n))])
    predicted = probabilities >= 0.5
    so, said, right = (counts @ one for one in (label, predicted, predicted & label))
    confidence = np.where(predicted, probabilities, 1 - probabilities)
    gaps = np.zeros((n, _BINS))
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gaps[np.arange(n), bins] = confidence - (predicted == label)
    with np.errstate(invalid="ignore"):
        return {
            "roc_auc": resampled_auc(probabilities, label, counts[1:]),
            "pr_auc": _average_precision(probabilities, label, counts),
            "precision": np.divide(right, said, out=np.zeros_like(so), where=said > 0),
            "recall": np.divide(right, so, out=np.zeros_like(so), where=so > 0),
            "f1": np.divide(2 * right, said + so, out=np.zeros_like(so), where=said + so > 0),
            "ece": np.abs(counts @ gaps).sum(axis=1) / np.maximum(counts.sum(axis=1), 1),
        }


def _average_precision(probabilities: _Floats, label: _Flags, counts: _Floats) -> _Floats:
    """Precision averaged over the gains in recall, from the likeliest on; NaN for one label."""
    order = np.argsort(-probabilities, kind="stable")
    ends = np.flatnonzero(np.diff(probabilities[order], append=-1.0))  # equal ones come together
    every = counts[:, order].cumsum(axis=1)[:, ends]
    found = (counts[:, order] * label[order]).cumsum(axis=1)[:, ends]
    gained = np.diff(found, axis=1, prepend=0.0)
    whole, so = counts.sum(axis=1), counts @ label
    average = (gained * found / np.maximum(every, 1)).sum(axis=1) / so
    return np.asarray(np.where(so < whole, average, _NAN))


# -- likelihood-ratio tests -----------------------------------------------------------------


class RatioTest(NamedTuple):
    """A likelihood-ratio test of two nested, unpenalised fits; NaN where it is not valid."""

    statistic: float  # twice the difference of the log-likelihoods
    dof: int  # parameters that the larger model has beyond the smaller
    p_value: float  # of the chi-squared distribution
    reason: str = ""  # why it is not valid


def _tests(data: Data, names: list[str]) -> pl.DataFrame:
    """Likelihood ratios on the training rows: each feature, and one model a category."""
    train = ~data.is_test
    values = data.matrix(names)[train]
    values = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-12)
    label, category = data.label[train], data.category[train]
    words = [name.replace("_", " ") for name in names]
    separating = separating_features(values, label)
    reason = "separates the labels by itself or with others, so it is left out of the tests"
    tests = {words[column]: RatioTest(_NAN, 1, _NAN, reason) for column in separating}
    values = np.delete(values, separating, axis=1)
    for column, name in enumerate(np.delete(np.array(words), separating).tolist()):
        test = likelihood_ratio(np.delete(values, column, axis=1), values, label)
        tests[f"{name}, given all others"] = test
    indicators = (category[:, None] == np.arange(1, len(data.names))).astype(np.float64)
    crossed = [values, indicators, *(values * one[:, None] for one in indicators.T)]
    if indicators.shape[1]:
        test = likelihood_ratio(values, np.concatenate(crossed, axis=1), label)
        tests["one model a category, against one for all"] = test
    rows = [{"test": what, **test._asdict()} for what, test in tests.items()]
    return pl.DataFrame(rows, schema_overrides={"reason": pl.String})


def likelihood_ratio(smaller: _Floats, larger: _Floats, label: _Flags) -> RatioTest:
    """Test whether the columns that `larger`, (n, m), has beyond `smaller`, (n, k), add to the fit.

    Both are fitted without penalty and without class weights, with an intercept. The test is valid
    only where both fits converge at a finite maximum (no separation) and the columns of `smaller`
    lie in the span of those of `larger`; else the reason is given. Raises UserError: statsmodels is
    not installed.
    """
    try:
        import statsmodels.api as sm
        from scipy.stats import chi2
    except ImportError:
        raise UserError(
            f"analyze predict: tests need statsmodels: {pip_install('analysis')}, or leave them "
            "out with --set tests=false."
        ) from None
    designs = [sm.add_constant(one, has_constant="add") for one in (smaller, larger)]
    ranks = [int(np.linalg.matrix_rank(one)) for one in designs]
    dof = ranks[1] - ranks[0]
    reason = ""
    if np.linalg.matrix_rank(np.concatenate(designs, axis=1)) > ranks[1] or dof < 1:
        reason = "the models are not nested"
    elif separating_plane(_independent(designs[1]), label).any():
        reason = "the features separate the labels, so there is no finite maximum"
    fits: list[float] = []
    for design in map(_independent, designs):
        if not reason:
            fit, reason = _log_likelihood(sm.Logit(label.astype(float), design))
            fits.append(fit)
    if reason:
        return RatioTest(_NAN, dof, _NAN, reason)
    statistic = max(2 * (fits[1] - fits[0]), 0.0)
    return RatioTest(statistic, dof, float(chi2.sf(statistic, dof)))


def separating_features(values: _Floats, label: _Flags) -> list[int]:
    """Give columns, out of (n, k), without which nothing separates the labels."""
    kept, found = list(range(values.shape[1])), []
    while kept:
        design = np.column_stack([np.ones(len(values)), values[:, kept]])
        weights = np.abs(separating_plane(design, label)[1:])
        if not weights.any():
            break
        found.append(kept.pop(int(weights.argmax())))
    return sorted(found)


def separating_plane(design: _Floats, label: _Flags) -> _Floats:
    """Weights of a plane that separates the labels but for rows on it, all 0 where there is none.

    Exactly where there is one a logistic model has no finite maximum-likelihood fit (Albert and
    Anderson 1984); a linear programme finds it (Konis 2007). The design, (n, k), is of full rank
    and has the intercept.
    """
    scale = np.abs(design).max(axis=0)
    signed = np.where(label, 1.0, -1.0)[:, None] * (design / np.where(scale > 0, scale, 1.0))
    found = linprog(-signed.mean(axis=0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=(-1, 1))
    if found.status != 0 or -found.fun <= _NO_PLANE:
        return np.zeros(design.shape[1])
    return np.asarray(np.where(np.abs(found.x) > _NO_PLANE, found.x, 0.0))


def _independent(design: _Floats) -> _Floats:
    """Columns that span what all of them span."""
    _, r, order = qr(design, mode="economic", pivoting=True)
    size = np.abs(np.diag(r))
    rank = int((size > 1e-9 * size[0]).sum())
    return np.asarray(design[:, np.sort(order[:rank])])


def _log_likelihood(model: Any) -> tuple[float, str]:
    """Log-likelihood of a maximum-likelihood fit, or why there is none."""
    reason = ""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for method in ("newton", "bfgs"):  # long tails send Newton's first steps astray
            try:
                fit = model.fit(disp=0, maxiter=2000, method=method)
            except Exception as error:  # statsmodels has no common type for what can go wrong
                reason = f"no unpenalised fit ({type(error).__name__})"
                continue
            if fit.mle_retvals["converged"] and np.isfinite(fit.llf):
                return float(fit.llf), ""
            reason = "the unpenalised fit does not converge"
    return _NAN, reason


# -- what is said and drawn -----------------------------------------------------------------


def _sentence(scores: pl.DataFrame) -> str:
    rows = rows_of(scores.filter(figure="f1", category="all"))
    said = ", ".join(
        f"{_WORDS[row['model']]} {ranged(row['value'], scale=100, unit=' %')}" for row in rows
    )
    return (
        "How well logistic models of simple features say whether a sequence is memorized, by F1 "
        f"(precision and recall in one) on sequences put aside: {said}."
    )


def _figures(scores: pl.DataFrame, weights: pl.DataFrame) -> Iterator[Chart]:
    models = scores["model"].unique(maintain_order=True).to_list()
    shifts = {model: 0.16 * (i - (len(models) - 1) / 2) for i, model in enumerate(models)}
    figures, by_category = scores.filter(category="all"), scores.filter(figure="f1")
    categories = scores["category"].unique(maintain_order=True)
    counts = zip(categories, counted_names(by_category, "category"), strict=True)
    for title, rows, column, names in (
        ("Figures of each model on the sequences put aside", figures, "figure", FIGURES),
        ("F1 within each category", by_category.drop("n"), "category", dict(counts)),
    ):
        yield Chart(
            title=f"{title}, per cent (95 % interval)",
            form="points",
            x_names=tuple(names.values()),
            percent=True,
            series=tuple(
                series_beside(_WORDS[model], rows.filter(model=model), column, names, shift)
                for model, shift in shifts.items()
            ),
        )
    alone, others = weights.filter(model="baseline"), weights.filter(model="taxonomic")
    series = {"baseline": alone}
    series |= {name: part for (name,), part in others.group_by("part", maintain_order=True)}
    yield Chart(
        title="Weight of each feature, standardised: the baseline and one model a category "
        "(95 % interval)",
        form="bars",
        x_names=tuple(name.replace("_", " ") for name in alone["feature"]),
        series=tuple(series_of(name, rows, "weight") for name, rows in series.items()),
    )


def _without_interval(scores: pl.DataFrame) -> Iterator[str]:
    """Which categories have no F1, or none with an interval, and what they hold."""
    f1 = scores.filter(pl.col("category") != "all", figure="f1", model="baseline")
    said = [
        f"{row['category']} ({row['n_memorized']:,} of {row['n']:,} memorized)"
        for row in rows_of(f1)
        if row["value"].low is None
    ]
    if said:
        yield (
            f"F1 has no interval within {', '.join(said)}: {FEWEST_GROUPS} groups of near "
            "duplicates, memorized and not, are needed among the sequences put aside, and without "
            "a memorized one there is no F1."
        )


def _further(
    inputs: AnalysisInputs, data: Data, partition: Partition | None, scores: pl.DataFrame
) -> Iterator[str]:
    n_test = int(data.is_test.sum())
    yield (
        f"{len(data.label) - n_test:,} sequences to fit, {n_test:,} put aside (near duplicates on "
        "one side)."
    )
    if partition is not None and partition.best is not None:
        yield (
            f"The best partition divides the sequences by {partition.best} (feature@quantile). Of "
            f"{partition.n_all} partitions {partition.n_eligible} hold memorized and other "
            "sequences in each part."
        )
    elif partition is not None:
        yield "No partition has both labels in each of its parts, so there is no optimal one."
    yield from _without_interval(scores)
    left_out = [name for name in FEATURES if name not in data.features]
    if left_out:
        yield f"Left out, being unknown or the same for every sequence: {', '.join(left_out)}."
    if data.n_unknown:
        yield (
            f"{data.n_unknown:,} sequences without a category (a feature is missing) were left out."
        )
    yield f"Token frequencies are those of {frequency_source(inputs)}."
    yield (
        "Perplexity of the second half is close to the label itself: a memorized suffix is a "
        "likely one. The model without perplexities says what the rest can do."
    )
