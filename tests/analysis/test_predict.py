"""Logistic models on tables whose truth is planted; perplexities and partitions by closed form."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from figure_columns import apart
from mnemoscope.analysis import predictors
from mnemoscope.analysis.predict import (
    PARTITION_FEATURES,
    Data,
    Settings,
    _without_interval,
    analyse,
    assign_parts,
    best_partition,
    candidates,
    figures_of,
    fit_parts,
    likelihood_ratio,
    model_all,
    scores_of,
    separating_features,
    separating_plane,
    split_rows,
)
from mnemoscope.analysis.predictors import frequency_columns, similar_texts
from mnemoscope.errors import UserError
from mnemoscope.stats import frame_of
from tests.analysis.conftest import assert_copies_tell_nothing_new

COEFFICIENTS = np.array([1.5, -1.0, 0.0])


def _logistic(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose log-odds are .3 plus the coefficients times standard normal features."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(n, 3))
    odds = 0.3 + values @ COEFFICIENTS
    return values, generator.random(n) < 1 / (1 + np.exp(-odds))


def test_the_model_is_the_published_one() -> None:
    """L2 with C = 1 and balanced weights: the minimum of that loss, written out, by scipy."""
    values, label = _logistic(80)
    values, label = values[:60], label & (np.arange(80) % 3 > 0)
    label = label[:60]
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    weight = np.where(label, 30 / label.sum(), 30 / (60 - label.sum()))
    sign = np.where(label, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> float:
        odds = parameters[0] + scaled @ parameters[1:]
        penalty = 0.5 * float(parameters[1:] @ parameters[1:])
        return penalty + float(weight @ np.logaddexp(0, -sign * odds))

    best = minimize(loss, np.zeros(4), tol=1e-10).x
    parts = np.zeros(60, dtype=int)
    fitted = fit_parts(values, label, parts)
    assert fitted.models[0][-1].coef_[0] == pytest.approx(best[1:], abs=1e-3)
    odds = best[0] + scaled @ best[1:]
    # the solver of scikit-learn stops at a gradient of 1e-4
    assert fitted.predict(values, parts) == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-3)


def test_errors_of_weights_are_those_of_resampled_groups_and_copies_make_none_smaller() -> None:
    values, label = _logistic(300)
    copied, groups = (np.repeat(one, 3, axis=0) for one in (values, np.arange(300)))
    alone, parts = np.arange(300), np.zeros(900, dtype=int)

    def errors(x: np.ndarray, y: np.ndarray, of: np.ndarray) -> np.ndarray:
        fitted = fit_parts(x, y, parts[: len(x)], unscaled=(0, 1, 2))
        (ends,) = fitted.weights(x, y, parts[: len(x)], of).values()
        reach = [np.nan if one.low is None else one.high - one.low for one in ends]
        return np.array(reach) / (2 * 1.96)

    found = errors(values, label, alone)
    thrice = (copied, np.repeat(label, 3))
    by_row = errors(*thrice, np.arange(900))
    assert errors(*thrice, groups) == pytest.approx(np.sqrt(3) * by_row, rel=1e-6)
    rng, draws = np.random.default_rng(0), []
    for _ in range(100):
        rows = rng.integers(0, 300, 300)
        one = fit_parts(values[rows], label[rows], parts[:300], unscaled=(0, 1, 2))
        draws.append(one.models[0][-1].coef_[0])
    # the spread of 100 resamples is known to 7 %
    assert found == pytest.approx(np.std(draws, axis=0), rel=0.25)
    rare = values * [1, 1, 0] + (alone[:, None] < 9) * [0, 0, 1.0]
    assert np.isnan(errors(rare, label, alone)).tolist() == [False, False, True]
    known = (values, label, parts[:300])
    (few,) = fit_parts(*known).weights(*known, alone // 40).values()
    assert all(one.value is not None and one.low is None for one in few)


def test_columns_of_flags_are_left_as_they_are_and_a_part_with_one_label_predicts_it() -> None:
    values, label = _logistic(400)
    left = fit_parts(values, label, np.zeros(400, dtype=int), unscaled=(2,)).models[0]
    assert left[0].transform(values)[:, 2] == pytest.approx(values[:, 2])
    assert left[0].mean_[:2] == pytest.approx(values[:, :2].mean(axis=0))
    values = np.arange(8.0)[:, None]
    label = np.array([True] * 4 + [False, True] * 2)
    fitted = fit_parts(values, label, np.array([0] * 4 + [1] * 4))
    assert fitted.predict(values, np.zeros(8, dtype=int)).tolist() == [1.0] * 8
    unknown = fitted.predict(values, np.full(8, 7))
    assert unknown == pytest.approx(label.mean())


def test_likelihood_ratios_hold_their_level_and_find_an_effect() -> None:
    pytest.importorskip("statsmodels")
    p_values = []
    for seed in range(40):
        values, label = _logistic(200, seed)
        p_values.append(likelihood_ratio(values[:, :2], values, label).p_value)
    # The third coefficient is 0: of 40 p-values 2 are below .05 on average, 8 are 4 sd above.
    assert sum(p < 0.05 for p in p_values) <= 8
    assert np.mean(p_values) > 0.3
    values, label = _logistic(400)
    found = likelihood_ratio(values[:, 1:], values, label)
    assert (found.dof, found.reason) == (1, "")
    assert found.p_value < 1e-10


def test_likelihood_ratios_are_refused_where_they_are_not_valid() -> None:
    pytest.importorskip("statsmodels")
    values, label = _logistic(300)
    separated = likelihood_ratio(values, np.column_stack([values, label * 2.0 - 1]), label)
    assert "separate" in separated.reason
    assert np.isnan(separated.p_value)
    assert "nested" in likelihood_ratio(values[:, :1], values[:, 1:], label).reason
    assert not separating_plane(np.column_stack([np.ones(300), values]), label).any()
    touching = np.column_stack([np.ones(4), [-1.0, 0.0, 0.0, 1.0]])  # all but rows on the plane
    assert separating_plane(touching, np.array([False, False, True, True])).any()
    # A flag that only some positive rows have separates, though most rows lie on the plane.
    flag = label & (values[:, 0] > 1)
    assert separating_features(np.column_stack([values, flag]), label) == [3]
    assert separating_features(values, label) == []


def test_calibration_error_and_figures_by_hand() -> None:
    for probabilities, right, wanted in (
        # Two bins in use: .65 confident and right half the time, .95 and always right.
        ([0.65, 0.65, 0.05, 0.95], [1, 0, 0, 1], 0.5 * 0.15 + 0.5 * 0.05),
        # Five bins: .65 and .75 fall into one, where a right and a wrong answer cancel in part.
        ([0.65, 0.75], [1, 0], 0.2),
    ):
        found = figures_of(np.array(probabilities), np.array(right, dtype=bool))
        assert found["ece"] == pytest.approx(wanted)
    calibrated = np.random.default_rng(0).random(50_000)
    drawn = np.random.default_rng(1).random(50_000) < calibrated
    assert figures_of(calibrated, drawn)["ece"] < 0.01
    nothing = figures_of(np.full(4, 0.2), np.ones(4, dtype=bool))
    assert [float(nothing[one][0]) for one in ("precision", "recall", "f1")] == [0, 0, 0]
    assert np.isnan([*nothing["roc_auc"], *nothing["pr_auc"]]).all()


def test_figures_of_resamples_are_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.integers(0, 12, 60) / 11  # with ties
    label = generator.random(60) < probabilities
    drawn = generator.multinomial(60, np.full(60, 1 / 60), 20)
    drawn[-1] = label  # one label alone
    found = figures_of(probabilities, label, drawn)
    for row, count in enumerate([np.ones(60, int), *drawn[:-1]]):
        p, y = np.repeat(probabilities, count), np.repeat(label, count)
        wanted = {
            "roc_auc": roc_auc_score(y, p),
            "pr_auc": average_precision_score(y, p),
            "precision": precision_score(y, p >= 0.5),
            "recall": recall_score(y, p >= 0.5),
            "f1": f1_score(y, p >= 0.5),
        }
        assert {name: found[name][row] for name in wanted} == pytest.approx(wanted)
        assert found["ece"][row] == pytest.approx(figures_of(p, y)["ece"][0])
    assert np.isnan([found["roc_auc"][-1], found["pr_auc"][-1]]).all()


def test_intervals_draw_groups_and_a_label_of_few_has_none() -> None:
    """Of 60 groups 12 of the rarer label are enough, 9 are not."""
    chance = np.random.default_rng(0).random(60)

    def of(n_memorized):
        def measure(rows, groups):
            label, one = rows < n_memorized, np.zeros(len(rows), dtype=int)
            data = Data({}, label, one, ("any",), np.ones(len(rows), bool), groups=groups)
            given = scores_of("m", chance[rows], data, Settings())
            return [one["value"] for one in given if one["category"] == "all"]

        return measure

    assert_copies_tell_nothing_new(of(12), 60)
    assert {one.low for one in of(9)(np.arange(60), np.arange(60))} == {None}


def test_a_category_without_memorized_sequences_has_no_f1_and_is_named() -> None:
    rows = np.arange(60)
    category, is_test = (rows >= 40).astype(int), np.ones(60, dtype=bool)
    data = Data({}, rows < 30, category, ("mixed", "unknown"), is_test, groups=rows)
    given = list(scores_of("baseline", np.random.default_rng(0).random(60), data, Settings()))
    values = {(one["category"], one["figure"]): one["value"] for one in given}
    for figure in ("precision", "recall", "f1"):
        assert values["unknown", figure] == (None, None, None)
        assert None not in values["mixed", figure]
    assert values["unknown", "ece"].low is not None
    (line,) = _without_interval(frame_of(given))
    assert line.startswith("F1 has no interval within unknown (0 of 20 memorized): 10 groups")


def test_there_are_810_candidates_and_their_parts_are_disjoint() -> None:
    generator = np.random.default_rng(2)
    values = {name: generator.normal(size=50) for name in PARTITION_FEATURES}
    every = list(candidates(values))
    assert len(every) == 810
    assert len({(one.first, one.second) for one in every}) == 810
    few = {name: values[name] for name in (*PARTITION_FEATURES[:3], PARTITION_FEATURES[8])}
    assert len(list(candidates(few))) == 108
    one = every[17]
    parts = assign_parts(one, values)
    is_first, is_second = (values[limit.feature] >= limit.value for limit in one)
    assert (parts[is_first] == 0).all()
    on_the_edge = dict.fromkeys(PARTITION_FEATURES, np.array([limit.value for limit in one]))
    assert assign_parts(one, on_the_edge)[0] == 0  # a value at the threshold reaches it
    assert ((parts == 1) == (~is_first & is_second)).all()


def _planted_data(n: int = 900) -> Data:
    """A sign that turns with the number of duplicates: only a partition by it can see it."""
    generator = np.random.default_rng(3)
    duplicates = generator.integers(0, 3, n).astype(float)
    x = generator.normal(size=n)
    label = generator.random(n) < 1 / (
        1 + np.exp(-4 * x * np.array([1, -1, 1])[duplicates.astype(int)])
    )
    return Data(
        {"duplicates": duplicates, "shannon_length": generator.normal(size=n), "avg_frequency": x},
        label,
        (duplicates == 1).astype(np.int64),
        ("even", "odd"),
        np.arange(n) % 5 == 0,
        np.arange(n),
    )


def test_the_planted_partition_is_found_and_beats_the_baseline() -> None:
    data = _planted_data()
    found = best_partition(data, Settings(partition_rows=400))
    assert found.best is not None
    assert "duplicates" in {limit.feature for limit in found.best}
    assert 0 < found.n_eligible <= found.n_all == 54
    unknown = {
        name: np.where(data.is_test, np.nan, values) for name, values in data.features.items()
    }
    blind = replace(data, features=unknown, label=data.label & ~data.is_test)
    assert best_partition(blind, Settings(partition_rows=400)) == found
    settings = Settings(n_resamples=50, tests=False, partition=False)
    scores, weights, tests, partition, chances = model_all(data, settings)
    assert {*chances} == {*scores["model"]}
    assert all(len(one) == data.is_test.sum() for one in chances.values())
    assert tests is None
    assert partition is None
    f1 = {row["model"]: row for row in apart(scores).filter(figure="f1", category="all").to_dicts()}
    assert f1["taxonomic"]["value_low"] > f1["baseline"]["value_high"]
    assert f1["taxonomic"]["value"] > 0.8
    turned = weights.filter(model="taxonomic", feature="avg_frequency")
    ends = {row["part"]: row["weight"] for row in turned.to_dicts()}
    assert ends["odd"]["high"] < 0 < ends["even"]["low"]


def test_near_duplicates_stay_on_one_side() -> None:
    generator = np.random.default_rng(4)
    groups = np.array([str(number) for number in generator.integers(0, 40, 300)])
    label, category = generator.random(300) < 0.5, generator.integers(0, 3, 300)
    test = split_rows(label, category, groups.tolist(), seed=0)
    assert set(groups[test]).isdisjoint(groups[~test])
    assert 0.1 < test.mean() < 0.3


def test_token_frequencies_count_multiplicity() -> None:
    counts = np.array([0, 10, 20, 40])  # 9 was never seen
    found = frequency_columns(np.array([[1, 1, 2, 3], [1, 1, 1, 9]], dtype=np.int32), counts)
    wanted = {"avg": [20.0, 7.5], "median": [15.0, 10.0], "min": [10.0, 0.0], "max": [40.0, 10.0]}
    wanted |= {"p25": [10.0, 0.0], "p75": [20.0, 10.0]}  # elements of the list itself
    assert {name: found[f"{name}_frequency"].tolist() for name in wanted} == wanted


def test_columns_of_the_table_count_before_what_is_made_of_it(monkeypatch, inputs_with) -> None:
    monkeypatch.setattr(predictors, "_logprobs", lambda inputs, rows: np.zeros((2, 3)))
    given = {"duplicates": [4, 5], "n_similar": [6, 7], "n_near": [8, 9]}
    rows = pl.DataFrame(
        {"sequence_id": [0, 1], "tokens": [[1, 2, 3, 4]] * 2, "text": ["one two"] * 2, **given}
    )
    inputs = inputs_with(rows, length=4)
    found = predictors.add_predictors(inputs, rows)
    assert found.select(*given).to_dict(as_series=False) == given
    made = predictors.add_predictors(inputs, rows.drop(*given))
    assert made["n_similar"].to_list() == [1, 1]
    assert made["duplicates"].null_count() == made["is_templating"].null_count() == 2


def test_similar_texts_are_counted_and_near_ones_among_them() -> None:
    base = "the quick brown fox jumps over the lazy dog and runs away again " * 2
    texts = [base, base.replace("lazy", "lame"), base, "nothing of the kind stands here at all"]
    found = similar_texts(texts)
    assert found["n_similar"].tolist() == [2, 2, 2, 0]
    assert found["n_near"].tolist() == [1, 2, 1, 0]  # an equal text is no edit away


@pytest.fixture
def result_of(monkeypatch, inputs_with):
    """The analysis of rows with planted features; all others are constant."""

    def result_of(table, features, **settings):
        made = pl.DataFrame({name: np.ones(table.height) for name in predictors.FEATURES})
        made = made.with_columns(**{name: pl.Series(one) for name, one in features.items()})
        monkeypatch.setattr("mnemoscope.analysis.predict.add_predictors", lambda *a, **k: made)
        settings = Settings(partition=False, n_resamples=50, **settings)
        return analyse(inputs_with(table), settings)

    return result_of


def _rows(memorized: list[bool], **columns: object) -> pl.DataFrame:
    n = len(memorized)
    tokens = np.random.default_rng(7).integers(1, 2000, (n, 64)).tolist()
    known = {"duplicates": [2] * n, "is_incrementing": [False] * n, "is_repeating": [False] * n}
    return pl.DataFrame(
        {"sequence_id": range(n), "tokens": tokens, "is_memorized": memorized} | known | columns
    )


HALF = [True, False] * 30
VARYING = {"duplicates": np.arange(60.0)}
UNKNOWN = {"duplicates": pl.Series([None] * 60, dtype=pl.Int64)}
GAP = {"n_near": np.where(np.arange(60) == 3, np.nan, np.arange(60.0))}
ONE_TEXT_OF_MEMORIZED = [[20] * 64 if i % 2 == 0 else [1 + i // 10 % 4] * 64 for i in range(60)]


@pytest.mark.parametrize(
    ("table", "features", "said"),
    [
        *(
            (
                _rows([True] * n + [False] * (60 - n)),
                VARYING,
                f"analyze predict: {n} memorized sequences and {60 - n} others; 20 of each",
            )
            for n in (0, 19, 60)
        ),
        (_rows(HALF, tokens=[[5] * 64] * 60), VARYING, "1 groups of near duplicates, and 5 are"),
        (_rows(HALF, tokens=ONE_TEXT_OF_MEMORIZED), VARYING, "predict, sequences .* 4 of each are"),
        (_rows(HALF), {}, "nothing to predict from"),
        (_rows(HALF), GAP, "nothing to predict from"),
        (_rows(HALF, **UNKNOWN), {}, "since duplicates is not known.*it: taxonomy=NAMES"),
    ],
)
def test_groups_too_small_one_sided_labels_and_features_without_variance_are_refused(
    result_of, table, features, said
):
    with pytest.raises(UserError, match=said) as refused:
        result_of(table, features, tests=False)
    assert "\n" not in str(refused.value)


def test_a_feature_without_variance_is_left_out_and_named(result_of) -> None:
    """One constant and one with a gap stand aside; the model learns from the third."""
    n = 200
    memorized = [True, False] * 100
    features = {
        "shannon_length": np.where(memorized, 1.0, 0.0) + np.arange(n) / n,
        "n_near": np.where(np.arange(n) == 3, np.nan, np.arange(n)),
    }
    for columns, tests, libraries in (
        ({}, False, ()),
        # edits between texts, the tests
        ({"text": [f"text {i}" for i in range(n)]}, True, ("rapidfuzz", "statsmodels")),
    ):
        result = result_of(_rows(memorized, **columns), features, tests=tests)
        left_out = next(line for line in result.further if line.startswith("Left out"))
        assert "n_near" in left_out
        assert "duplicates" in left_out
        assert "shannon_length" not in left_out
        assert result.frames["weights"]["feature"].unique().to_list() == ["shannon_length"]
        assert result.libraries == libraries
