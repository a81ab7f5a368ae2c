"""Coefficients against scipy's and closed forms; divergence of Gaussians; published shares."""

from itertools import permutations

import numpy as np
import polars as pl
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from figure_columns import apart
from mnemoscope.analysis import dependencies
from mnemoscope.analysis.dependencies import (
    CATEGORIES,
    PUBLISHED_LAST_ROW,
    Settings,
    binned_kl,
    chatterjee_xi,
    coefficient_table,
    coefficients,
    divergence_table,
    kl_at,
    published_row,
    published_shares,
    read_proportions,
)
from mnemoscope.analysis.inputs import AnalysisResult
from mnemoscope.analysis.predictors import FEATURES
from mnemoscope.errors import UserError
from tests.analysis.conftest import assert_copies_tell_nothing_new


def test_xi_is_scipys() -> None:
    """Without ties of x the order is given, so the two agree to rounding."""
    assert chatterjee_xi(range(50), range(50)) == pytest.approx(48 / 51)  # (n - 2)/(n + 1)
    assert np.isnan(chatterjee_xi([1, 2], [1, 1]))
    if not hasattr(scipy.stats, "chatterjeexi"):
        pytest.skip("this scipy has no chatterjeexi")
    generator = np.random.default_rng(0)
    x = generator.normal(size=300)
    y = x**2 + generator.normal(size=300)
    for one in (y, (y > 1).astype(float)):
        theirs = scipy.stats.chatterjeexi(x, one).statistic
        assert chatterjee_xi(x, one) == pytest.approx(theirs, abs=1e-12)


def _xi_in_order(y: np.ndarray) -> float:
    """The formula as published, of y in the order of an x without ties."""
    r = np.array([(y <= one).sum() for one in y])
    low = np.array([(y >= one).sum() for one in y])
    return 1 - len(y) * np.abs(np.diff(r)).sum() / (2 * (low * (len(y) - low)).sum())


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=2, max_size=6).filter(
        lambda rows: len({y for _, y in rows}) > 1
    )
)
def test_xi_is_the_mean_over_every_order_of_equal_x(rows) -> None:
    x, y = np.array(rows).T
    orders = [
        np.array([y[place] for place in order])
        for order in permutations(range(len(x)))
        if (np.diff(x[list(order)]) >= 0).all()
    ]
    assert chatterjee_xi(x, y) == pytest.approx(np.mean([_xi_in_order(one) for one in orders]))


def test_pearson_and_spearman_are_scipys_and_intervals_draw_groups() -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=400)
    y = (0.8 * x + generator.normal(size=400) > 0).astype(float)
    found = coefficients(x, y, n_resamples=100)
    assert found["pearson"].value == pytest.approx(scipy.stats.pearsonr(x, y).statistic)
    assert found["spearman"].value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    fisher = scipy.stats.pearsonr(x, y).confidence_interval()
    assert found["pearson"].low == pytest.approx(fisher.low, abs=0.03)  # two methods, one width
    assert found["pearson"].high == pytest.approx(fisher.high, abs=0.03)
    for one in found.values():
        assert one.low < one.value < one.high

    def measure(rows, groups):
        found = coefficients(x[rows], y[rows], n_resamples=100, groups=groups)
        return [found["pearson"], found["spearman"]]

    assert_copies_tell_nothing_new(measure, 400)


@pytest.mark.parametrize("kind", ["independent", "dependent", "tied"])
def test_the_interval_of_xi_covers_the_truth(kind: str) -> None:
    """P(y | x) = x has ξ = Var(x) / (1/4): 1/3 of an even x, 2/3 of x in 0, 1/2, 1.

    Of 40 samples 95 % should cover, 80 % is 4 sd below.
    """
    truth = {"independent": 0.0, "dependent": 1 / 3, "tied": 2 / 3}[kind]
    generator = np.random.default_rng(3)
    covered = 0
    for seed in range(40):
        x = generator.random(300) if kind != "tied" else generator.integers(0, 3, 300) / 2
        y = generator.random(300) < (0.4 if kind == "independent" else x)
        one = coefficients(x, y, seed=seed, n_resamples=40)["xi"]
        covered += one.low <= truth <= one.high
        assert one.low <= one.value <= one.high
    assert covered >= 32


def test_a_divergence_is_the_gaussian_one_up_to_its_ceiling_whatever_the_size_of_a_band() -> None:
    """KL(N(1,1) || N(0,1)) = 1/2 nats; N(0, 1) from N(20, 1) is 200, more than samples show."""
    generator = np.random.default_rng(4)
    first, second = generator.normal(1, 1, 20_000), generator.normal(0, 1, 20_000)
    assert binned_kl(first, second, n_bins=40) == pytest.approx(0.5, abs=0.05)  # bins lose some
    assert binned_kl(second, second) == 0
    asked = {"n_bins": 12, "n_resamples": 20, "seed": 0}
    near, far = second[:5000], generator.normal(20, 1, 5000)
    kl, shuffled, ceiling = kl_at(near, far, (50, 50), **asked)
    assert kl == pytest.approx(ceiling)
    assert shuffled < 0.3 < ceiling < np.log(101)
    few = kl_at(near[:60], near[60:120] + 1, (50, 50), **asked)[0]
    many = kl_at(near[:2500], near[2500:] + 1, (50, 50), **asked)[0]
    assert few == pytest.approx(many, abs=0.35)


def test_bands_are_compared_by_an_auc_of_closed_form() -> None:
    """Log-perplexities N(0, 1) and N(1, 1): AUC = Φ(1/√2) = .760 in a band of any size."""
    generator = np.random.default_rng(9)
    parts = []
    for duplicates, n in ((0, 2000), (1, 8000)):
        memorized = np.arange(n) % 2 == 0
        logs = generator.normal(np.where(memorized, 0.0, 1.0), 1.0)
        parts.append((np.full(n, duplicates), memorized, np.exp(logs)))
    duplicates, memorized, perplexity = (np.concatenate(one) for one in zip(*parts, strict=True))
    features = pl.DataFrame({"duplicates": duplicates, "generation_perplexity": perplexity})
    found = apart(
        divergence_table(features, memorized, Settings(n_resamples=50), np.arange(len(memorized)))
    )
    truth = float(scipy.stats.norm.cdf(1 / np.sqrt(2)))
    assert ((found["auc_low"] < truth) & (truth < found["auc_high"])).all()
    assert found["ceiling"].n_unique() == 1
    # 1,000 a side: a divergence has a standard error of .04; three of a difference
    assert abs(found["kl"][0] - found["kl"][1]) < 0.2
    assert (found["shuffled"] < 0.05).all()


def _planted(n: int = 600) -> tuple[pl.DataFrame, np.ndarray]:
    generator = np.random.default_rng(6)
    memorized = generator.random(n) < 0.5
    columns = {name: generator.normal(size=n) for name in FEATURES}
    columns["duplicates"] = np.where(memorized, 8.0, 7.0) + generator.integers(0, 2, n)
    columns["generation_perplexity"] = np.exp(
        np.where(memorized, 0.0, 1.0)
    ) + 0.1 * generator.random(n)
    columns["n_near"] = np.zeros(n)
    return pl.DataFrame(columns), memorized


def test_tables_of_planted_features() -> None:
    features, memorized = _planted()
    kind = pl.Series("kind", ["text"] * 300 + ["code"] * 300)
    category = pl.Series("category", ["A"] * 590 + ["B"] * 10)
    settings = Settings(n_resamples=50)
    table = coefficient_table(features, memorized, kind, category, settings, np.arange(600))
    table = apart(table)
    assert table.filter(feature="n_near").is_empty()  # no variance: left out
    assert table.filter(category="B").is_empty()  # ten rows: too few
    pearson = table.filter(coefficient="pearson", kind="all", category="all")
    strongest = pearson.sort(pl.col("value").abs())["feature"].to_list()[-2:]
    assert set(strongest) == {"duplicates", "generation_perplexity"}
    assert pearson.filter(feature="generation_perplexity")["value"].item() < -0.9
    found = apart(
        divergence_table(features, memorized, Settings(n_resamples=50), np.arange(len(memorized)))
    )
    assert found["duplicates"].to_list() == ["6–10"]
    assert found["auc"].item() == 1
    assert found["kl"].item() == pytest.approx(found["ceiling"].item())


def test_published_shares_are_those_of_their_counts_and_the_last_row_pools_every_size() -> None:
    table, names = read_proportions(), list(CATEGORIES.values())
    at_end = table.filter(step_share=1.0)
    assert at_end["size"].n_unique() == at_end.height  # one checkpoint each
    counts, printed = at_end.select(names), at_end.select(f"{name}_percent" for name in names)
    shares = counts.to_numpy() / counts.sum_horizontal().to_numpy()[:, None]
    assert printed.to_numpy() == pytest.approx(100 * shares, abs=0.06)  # one decimal
    pooled = counts.sum().to_numpy()[0]
    assert 100 * pooled / pooled.sum() == pytest.approx(PUBLISHED_LAST_ROW, abs=0.006)
    true = at_end.filter(size="12b")
    assert true["recollection_percent"].item() == pytest.approx(13.3)
    assert abs(PUBLISHED_LAST_ROW[2] - 13.35) > 2  # what the pooling did


@pytest.fixture
def result_of(monkeypatch, inputs_with):
    """The analysis on features that are given, of a study that reads a split."""

    def result_of(features, memorized, *, split=None, **settings) -> AnalysisResult:
        n = len(memorized)
        monkeypatch.setattr(dependencies, "add_predictors", lambda inputs, rows: features)
        table = pl.DataFrame(
            {"sequence_id": range(n), "is_memorized": memorized, "duplicates": [2] * n}
            | {"text": ["a text"] * n}
            | dict.fromkeys(("is_incrementing", "is_repeating"), [False] * n)
        )
        inputs = inputs_with(table, split=split)
        return dependencies.analyse(inputs, Settings(n_resamples=50, **settings))

    return result_of


def test_the_published_tables_and_their_artefact_stand_beside_the_same_split(
    monkeypatch, result_of
) -> None:
    """Over size one checkpoint, over training one size; the pooled row is named and in neither."""

    theirs = Settings().taxonomy

    def of_split(split, taxonomy=theirs):
        parts = ["Recite[5]", "Reconstruct", "Recollect"] if "Recite" in taxonomy else ["Guess"] * 3
        category = pl.Series("category", (parts * 40)[:100])
        monkeypatch.setattr(dependencies, "categories_of", lambda rows, taxonomy: category)
        return result_of(*_planted(100), split=split, taxonomy=taxonomy)

    assert published_row("deduped_12b") == published_row("memories_deduped_12b")
    found = of_split("deduped_1b")
    assert found.frames["proportions"]["published"].sum() == pytest.approx(1)
    assert found.libraries == ("rapidfuzz",)  # edits between texts
    shares = found.frames["published_shares"]
    assert shares.equals(published_shares())
    over_size, over_training = (shares.filter(over=one) for one in ("size", "training"))
    assert over_size["step_share"].unique().to_list() == [1.0]
    assert over_training["size"].unique().to_list() == ["12b"]
    assert over_training["step_share"].to_list() == [0.16, 0.3, 0.44, 0.58, 0.72, 0.86, 1.0]
    assert 11.34 not in shares["recollection_percent"].to_list()
    assert any("84.56 / 4.10 / 11.34 %" in line for line in found.further)
    for asked in ((None,), ("duped_12b",), ("deduped_1b", "Non-Memo, Guess, Recall")):
        other = of_split(*asked)
        assert "published_shares" not in other.frames
        assert other.frames["proportions"]["published"].null_count() > 0
        assert not any("84.56" in line for line in other.further)


def test_too_little_is_refused_and_one_feature_that_varies_is_enough(result_of) -> None:
    half = [True, False] * 30
    constant = pl.DataFrame(dict.fromkeys(FEATURES, [1.0] * 60))
    unknown = pl.DataFrame(dict.fromkeys(FEATURES, [None] * 60), schema_overrides=constant.schema)
    few = np.where(np.arange(60) < 30, np.arange(60.0), np.nan)  # known of 15 and 15
    varying = constant.with_columns(n_near=np.arange(60.0))
    one_sided = [True] * 19 + [False] * 41
    for features, memorized, said in (
        (constant, half, "no feature differs between two sequences"),
        (unknown.with_columns(generation_perplexity=pl.lit(2.0)), half, "no feature differs"),
        (constant.with_columns(n_near=few), half, "20 memorized and as many others"),
        (varying, one_sided, "19 memorized sequences and 41 others; 20 of each are"),
    ):
        with pytest.raises(UserError, match=said):
            result_of(features, memorized)
    result = result_of(varying, half)
    assert result.frames["coefficients"]["feature"].unique().to_list() == ["n_near"]
    left_out = next(line for line in result.further if line.startswith("Left out"))
    assert all(name in left_out for name in FEATURES if name != "n_near")
