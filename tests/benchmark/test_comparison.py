"""Ours beside published: printed figures in place, aliases found, correlations as scipy's."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.stats import kendalltau, spearmanr

from mnemoscope.benchmark.published import (
    COMPARISON_SCHEMA,
    OurFigures,
    compare_with_published,
    published_conclusions,
    published_confusions,
    published_rho,
    published_rho_name,
    published_table,
)
from mnemoscope.cnn.metrics import f1_per_class
from mnemoscope.stats import FEWEST, Estimate, correlate_ranks, kendall, spearman
from mnemoscope.taxonomy.catalogue import catalogue
from mnemoscope.taxonomy.names import parse_taxonomy


def ours(name: str, confusion: np.ndarray, taxonomy: str | None = None, draws=None) -> OurFigures:
    """A measured taxonomy with an interval of one point either side."""
    f1 = f1_per_class(confusion)
    figures = {"n_eval": int(confusion.sum())}
    for value, figure, ends in ((f1.min(), "min_f1", ""), (f1.mean(), "mean_f1", None)):
        figures |= Estimate(value, value - 0.01, value + 0.01).columns(figure, ends=ends)
    return OurFigures(
        taxonomy or name, name, "measured", "", figures, np.asarray(confusion, float), draws
    )


def as_published() -> list[OurFigures]:
    """The published matrices as if they were ours, each partition under its first name."""
    first: dict[str, OurFigures] = {}
    for one in published_confusions():
        key = parse_taxonomy(one.taxonomy).partition_key
        first.setdefault(key, ours(one.taxonomy, one.confusion))
    return list(first.values())


def test_each_published_figure_stands_in_its_row() -> None:
    frame = compare_with_published([]).frame
    assert frame.schema == COMPARISON_SCHEMA
    assert set(frame["state"]) == {"absent"}
    rows = {row["published_name"]: row for row in frame.head(54).iter_rows(named=True)}
    assert set(rows) == {one.published_name for one in catalogue()}
    for model in ("all", "12b", "6.9b", "2.8b"):
        suffix = "" if model == "all" else f"_{model}"
        for printed in published_table(model).iter_rows(named=True):
            for figure in ("min_f1", "mean_f1"):
                found = rows[printed["tax_name"]][f"published_{figure}{suffix}"]
                assert round(100 * found, 1) == printed[figure]
    sweep = frame.tail(27)
    assert set(sweep["kind"]) == {"rho"}
    assert (sweep["published_min_f1"] * 100).round(1).to_list() == published_rho()[
        "min_f1"
    ].to_list()
    assert set(sweep["published_model"]) == {"12b"}


def test_the_published_matrices_differ_from_the_published_figures_by_rounding_alone() -> None:
    frame = compare_with_published(as_published()).frame.filter(pl.col("kind") == "catalogue")
    own = frame.filter(pl.col("state") == "measured")
    assert own.height == 51
    assert own["difference"].abs().max() <= 0.0005 + 1e-12  # printed to a tenth of a point
    assert own["mean_f1_difference"].abs().max() <= 0.0005 + 1e-12
    assert (own["difference_low"] - own["difference"]).round(9).unique().to_list() == [-0.01]


def test_two_names_of_one_partition_are_an_alias_and_count_once() -> None:
    comparison = compare_with_published(as_published())
    aliases = comparison.frame.filter(pl.col("state") == "alias")
    assert sorted(aliases["published_name"]) == [
        "Non-Memo, Recite[50], Others",
        "Non-Memo, Recollect[1k], Others",
        "Non-Memo, Recollect[5], Others",
    ]
    row = aliases.row(
        by_predicate=pl.col("published_name").str.contains("Recollect.5."), named=True
    )
    assert row["taxonomy"] == "Non-Memo, Recite[5], Others"
    assert row["note"] == "the same partition as Non-Memo, Recite[5], Others"
    assert row["min_f1"] == pytest.approx(0.808, abs=5e-4)  # trained once, under the other name
    assert row["published_min_f1"] == 0.804
    found = comparison.correlations["catalogue"]
    assert found.n == 51
    assert found.spearman is not None
    assert found.spearman > 0.999  # the aliases' mean of two figures may change a place


def test_an_alias_alone_serves_the_other_name_with_its_classes_exchanged() -> None:
    confusion = np.array([[90.0, 5, 5], [10, 60, 30], [5, 15, 80]])
    one = ours("Non-Memo, Recollect[5], Others", confusion)
    comparison = compare_with_published([one])
    named = {row["published_name"]: row for row in comparison.frame.iter_rows(named=True)}
    assert named["Non-Memo, Recite[5], Others"]["state"] == "alias"
    assert named["Non-Memo, Recollect[5], Others"]["state"] == "measured"
    # Of the decisions between the two 45 of 185 are wrong, whichever is named first.
    assert comparison.conclusions[1].verdict in ("cannot be told", "holds")


def test_rules_that_label_these_sequences_alike_share_figures_and_count_once() -> None:
    one = ours("Non-Memo, Code, Others", np.array([[90.0, 5, 5], [10, 60, 30], [5, 15, 80]]))
    guess = replace(one, published_name="Non-Memo, Guess, Others", same_as=one.taxonomy)
    comparison = compare_with_published([one, guess])
    rows = {row["published_name"]: row for row in comparison.frame.head(54).iter_rows(named=True)}
    alias = rows["Non-Memo, Guess, Others"]
    assert (alias["state"], alias["taxonomy"]) == ("alias", "Non-Memo, Code, Others")
    assert alias["note"] == "the same labels here as Non-Memo, Code, Others"
    assert alias["min_f1"] == rows["Non-Memo, Code, Others"]["min_f1"]
    assert comparison.correlations["catalogue"].n == 1
    # A name of the best's own partition is no rival of it.
    assert comparison.conclusions[0].reason == "No other taxonomy was measured."


def test_our_last_class_may_have_any_name_and_guess_any_spelling() -> None:
    name = parse_taxonomy("Non-Memo, Guess[0.5-0.5], Recall").published_name
    frame = compare_with_published([ours(name, np.eye(3) * 9, "Non-Memo, Guess, Recall")]).frame
    found = frame.filter(pl.col("state") == "measured")
    assert found["kind"].to_list() == ["catalogue", "rho"]  # ρ = 0.5 is one of the 54 too
    assert set(found["taxonomy"]) == {"Non-Memo, Guess, Recall"}


def test_what_has_no_figure_keeps_its_reason() -> None:
    reasons = {
        "Non-Memo, Code, Others": ("impossible", "60 sequences are needed"),
        "Non-Memo, Guess, Others": ("untrained", "its CNN did not leave chance"),
        "Non-Memo, Recite[5], Code, Others": ("dropped", "trained without Code"),
        "Non-Memo, Recollect[50], Others": ("impossible", "too few"),
    }
    found = [OurFigures(name, name, *reason) for name, reason in reasons.items()]
    frame = compare_with_published(found).frame
    rows = {row["published_name"]: row for row in frame.head(54).iter_rows(named=True)}
    for name, (state, note) in reasons.items():
        assert (rows[name]["state"], rows[name]["note"]) == (state, note)
        assert rows[name]["min_f1"] is None
        assert rows[name]["difference"] is None
    alias = rows["Non-Memo, Recite[50], Others"]
    assert alias["state"] == "impossible"
    assert alias["note"] == "the same partition as Non-Memo, Recollect[50], Others: too few"


def test_taxonomies_of_ones_own_are_passed_over() -> None:
    strange = [
        OurFigures(name, name, "impossible", "x")
        for name in ("Non-Memo, Mine, Others", "Non-Memo, Recite[7], Others")
    ]
    assert set(compare_with_published(strange).frame["state"]) == {"absent"}


def test_conclusions_put_to_the_published_matrices_are_the_published_ones() -> None:
    found = compare_with_published(as_published()).conclusions
    for ours_, theirs in zip(found[:2], published_conclusions()[:2], strict=True):
        assert ours_.verdict == theirs.verdict
    assert found[1].figures["error"] == published_conclusions()[1].figures["error"]
    assert found[2].verdict == "cannot be told"  # one of 27 settings


def test_the_sweep_is_correlated_over_its_settings() -> None:
    generator = np.random.default_rng(0)
    printed = published_rho()
    sweep = []
    for rouge_l, rouge_3, rho, value in printed.select(
        "Rouge-L", "Rouge-3", "Threshold", "min_f1"
    ).rows():
        f1 = value / 100 + generator.normal(0, 0.02)
        confusion = np.full((3, 3), 1000 * (1 - f1) / 2)
        np.fill_diagonal(confusion, 1000 * f1)
        draws = np.stack([confusion] * 20)
        sweep.append(ours(published_rho_name(rouge_l, rouge_3, rho), confusion, draws=draws))
    comparison = compare_with_published(sweep)
    found = comparison.correlations["rho"]
    frame = comparison.frame.filter(pl.col("kind") == "rho")
    assert found.n == 27
    assert found.spearman == pytest.approx(
        spearmanr(frame["min_f1"], printed["min_f1"]).statistic, abs=1e-12
    )
    assert found.kendall == pytest.approx(
        kendalltau(frame["min_f1"], printed["min_f1"]).statistic, abs=1e-12
    )
    # Resamples that all equal the figures have an interval without width.
    assert found.spearman_low == pytest.approx(found.spearman_high, abs=1e-12)


@pytest.mark.parametrize("digits", [0, 1, 6])  # 0 and 1 make many ties
def test_every_row_of_resamples_has_the_correlations_that_scipy_gives(digits) -> None:
    generator = np.random.default_rng(1)
    draws = generator.random((50, 20)).round(digits)
    others = generator.random(20).round(digits)
    for row, rho, tau in zip(draws, spearman(draws, others), kendall(draws, others), strict=True):
        assert rho == pytest.approx(spearmanr(row, others).statistic, abs=1e-12)
        assert tau == pytest.approx(kendalltau(row, others).statistic, abs=1e-12)


def test_too_few_or_equal_figures_have_no_correlation_and_say_so() -> None:
    few = correlate_ranks([1, 2, 3], [1, 2, 3])
    assert few.spearman is None
    assert str(FEWEST) in few.note
    equal = correlate_ranks([0.0] * 6, range(6))
    assert equal.spearman is equal.kendall is None
    assert "equal" in equal.note


def test_the_interval_of_a_correlation_covers_the_middle_of_its_resamples() -> None:
    generator = np.random.default_rng(2)
    values = np.linspace(0, 1, 10)
    draws = values + generator.normal(0, 0.2, (500, 10))
    found = correlate_ranks(values, values, draws=draws)
    each = np.array([spearmanr(row, values).statistic for row in draws])
    assert found.spearman_low == pytest.approx(np.quantile(each, 0.025), abs=1e-12)
    assert found.spearman_high == pytest.approx(np.quantile(each, 0.975), abs=1e-12)
