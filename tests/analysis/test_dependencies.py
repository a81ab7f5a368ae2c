"""Coefficients against scipy's and closed forms; divergence of Gaussians; published shares."""

import numpy as np
import polars as pl
import pytest
import scipy.stats

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
    kl_estimate,
    own_proportions,
    published_row,
    published_shares,
    read_proportions,
)
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult
from mnemoscope.analysis.predictors import FEATURES
from mnemoscope.errors import UserError


@pytest.mark.parametrize("kind", ["continuous", "binary"])
def test_xi_is_scipys(kind: str) -> None:
    """Without ties of x the order is given, so the two agree to rounding."""
    if not hasattr(scipy.stats, "chatterjeexi"):
        pytest.skip("this scipy has no chatterjeexi")
    generator = np.random.default_rng(0)
    x = generator.normal(size=300)
    y = x**2 + generator.normal(size=300)
    y = (y > 1).astype(float) if kind == "binary" else y
    theirs = scipy.stats.chatterjeexi(x, y).statistic
    assert chatterjee_xi(x, y) == pytest.approx(theirs, abs=1e-12)


def test_xi_closed_forms() -> None:
    """Strictly monotone without ties: (n - 2)/(n + 1). Binary y, h ones on top of n: by hand."""
    n = 50
    assert chatterjee_xi(range(n), range(n)) == pytest.approx((n - 2) / (n + 1))
    h = 20
    label = [0] * (n - h) + [1] * h
    # one step of r from n-h to n (|step| = h); sum of l(n-l) over ones: h(n-h) each
    by_hand = 1 - n * h / (2 * h * h * (n - h))
    assert chatterjee_xi(range(n), label) == pytest.approx(by_hand)
    assert np.isnan(chatterjee_xi([1, 2], [1, 1]))


def test_xi_breaks_ties_by_the_seed_alone() -> None:
    x, y = np.zeros(400), np.random.default_rng(1).random(400) < 0.5
    found = [chatterjee_xi(x, y, seed=seed) for seed in range(40)]
    assert chatterjee_xi(x, y, seed=3) == found[3]
    assert len(set(found)) > 10
    # independent: mean 0, standard deviation 1/sqrt(n) for a fair coin, 40 draws
    assert abs(np.mean(found)) < 4 / np.sqrt(400 * 40)


def test_pearson_and_spearman_are_scipys_and_intervals_cover() -> None:
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


def test_the_interval_of_xi_covers_the_truth() -> None:
    """Independent x and y: ξ = 0; of 60 samples 95 % should cover, 80 % is 5 sd below."""
    generator = np.random.default_rng(3)
    covered = 0
    for seed in range(60):
        x, y = generator.random(300), generator.random(300) < 0.4
        one = coefficients(x, y, seed=seed, n_resamples=50)["xi"]
        covered += one.low <= 0 <= one.high
    assert covered >= 48


def test_the_divergence_of_two_gaussians() -> None:
    """KL(N(1,1) || N(0,1)) = 1/2 nats; 40 bins lose a few per cent of it."""
    generator = np.random.default_rng(4)
    first, second = generator.normal(1, 1, 20_000), generator.normal(0, 1, 20_000)
    assert binned_kl(first, second, n_bins=40) == pytest.approx(0.5, abs=0.05)
    assert binned_kl(second, second) == 0
    found, shuffled = kl_estimate(first[:400], second[:400], n_bins=10, n_resamples=50, seed=0)
    assert shuffled < 0.1 < found.low < found.value < found.high


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
    table = coefficient_table(features, memorized, kind, category, Settings(n_resamples=50))
    assert table.filter(feature="n_near").is_empty()  # no variance: left out
    assert table.filter(category="B").is_empty()  # ten rows: too few
    pearson = table.filter(coefficient="pearson", kind="all", category="all")
    strongest = pearson.sort(pl.col("value").abs())["feature"].to_list()[-2:]
    assert set(strongest) == {"duplicates", "generation_perplexity"}
    assert pearson.filter(feature="generation_perplexity")["value"].item() < -0.9
    found = divergence_table(features, memorized, Settings(n_resamples=50))
    assert found["duplicates"].to_list() == ["6–10"]
    assert found["kl"].item() > 1


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


def test_shares_stand_beside_the_published_ones_of_the_same_split_only() -> None:
    assert published_row(None) is None
    assert published_row("duped_12b") is None
    row = published_row("deduped_12b")
    assert row == published_row("memories_deduped_12b")
    assert row is not None
    assert row["Recite[5]"] == pytest.approx(0.837, abs=5e-4)
    category = pl.Series(["Recite[5]", "Recollect", "Recollect", None, "Reconstruct"])
    own = own_proportions(category, pl.Series([True, True, False, True, True]))
    assert own["n"].to_list() == [1, 1, 1]
    others = own_proportions(pl.Series(["Recall", "Guess", "Recall"]), pl.Series([True] * 3))
    assert others.select("category", "n").rows() == [("Guess", 1), ("Recall", 2)]


def _of_features(features, memorized, monkeypatch, *, split=None, **settings) -> AnalysisResult:
    """The analysis on features that are given, of a study that reads this split."""
    n = len(memorized)
    monkeypatch.setattr(dependencies, "add_predictors", lambda inputs, rows: features)
    table = pl.DataFrame(
        {"sequence_id": range(n), "is_memorized": memorized, "duplicates": [2] * n}
        | {"text": ["a text"] * n}
        | dict.fromkeys(("is_incrementing", "is_repeating"), [False] * n)
    )
    inputs = AnalysisInputs(where="", table=table, load_model=lambda: None, split=split)
    return dependencies.analyse(inputs, Settings(n_resamples=50, **settings))


def _of_split(split: str | None, taxonomy: str, monkeypatch) -> AnalysisResult:
    names = ("Recite[5]", "Reconstruct", "Recollect") if "Recite" in taxonomy else ("Guess",) * 3
    category = pl.Series("category", [names[i % 3] for i in range(200)])
    monkeypatch.setattr(dependencies, "categories_of", lambda rows, taxonomy: category)
    return _of_features(*_planted(200), monkeypatch, split=split, taxonomy=taxonomy)


def test_the_published_tables_and_their_artefact_stand_beside_the_same_split(monkeypatch) -> None:
    """Over size one checkpoint, over training one size; the pooled row is named and in neither."""
    theirs = Settings().taxonomy
    found = _of_split("deduped_1b", theirs, monkeypatch)
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
    for split, taxonomy in ((None, theirs), ("deduped_1b", "Non-Memo, Guess, Recall")):
        other = _of_split(split, taxonomy, monkeypatch)
        assert "published_shares" not in other.frames
        assert other.frames["proportions"]["published"].null_count() > 0
        assert not any("84.56" in line for line in other.further)


def test_features_that_never_vary_are_refused_and_one_that_does_is_enough(monkeypatch) -> None:
    half = [True, False] * 30
    constant = pl.DataFrame(dict.fromkeys(FEATURES, [1.0] * 60))
    unknown = pl.DataFrame(dict.fromkeys(FEATURES, [None] * 60), schema_overrides=constant.schema)
    few = np.where(np.arange(60) < 30, np.arange(60.0), np.nan)  # known of 15 and 15
    for features, said in (
        (constant, "no feature differs between two sequences"),
        (unknown.with_columns(generation_perplexity=pl.lit(2.0)), "no feature differs"),
        (constant.with_columns(n_near=few), "20 memorized and as many others"),
    ):
        with pytest.raises(UserError, match=said):
            _of_features(features, half, monkeypatch)
    varying = constant.with_columns(n_near=np.arange(60.0))
    result = _of_features(varying, half, monkeypatch)
    assert result.frames["coefficients"]["feature"].unique().to_list() == ["n_near"]
    assert result.sentence.count("n near by") == 3
    left_out = next(line for line in result.further if line.startswith("Left out"))
    assert all(name in left_out for name in FEATURES if name != "n_near")


def test_one_sided_labels_are_refused(monkeypatch) -> None:
    features = pl.DataFrame(dict.fromkeys(FEATURES, np.arange(60.0)))
    with pytest.raises(UserError, match="19 memorized sequences and 41 others; 20 of each are"):
        _of_features(features, [True] * 19 + [False] * 41, monkeypatch)
