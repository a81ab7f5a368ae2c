"""The table holds what each source reaches, nothing of what did not train, and the verdict."""

import numpy as np
import polars as pl
import pytest
from benchmark_cases import CLASSES, TAXONOMY, noisy, predictions_of, runs_of
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from mnemoscope.benchmark.excess import collect_votes, measure_excess
from mnemoscope.benchmark.sources import SOURCES
from mnemoscope.benchmark.table import BENCHMARK_SCHEMA, score_benchmark

TRUE = np.arange(240) % 3
SEEDS = (0, 1)
SHARES = {
    "model": 0.8,
    "statistics": 0.7,
    "blind": 0.3,
    "reference": 0.2,
    "control": 0.0,
}


@pytest.fixture(scope="module")
def predictions() -> pl.DataFrame:
    """Every source; the model with two settings; n-grams and logits run once."""
    parts = []
    for salt, (source, share) in enumerate(SHARES.items()):
        for setting in ("k6-f10-mean", "k8-f16-max")[: 1 + (source == "model")]:
            seeds = {seed: noisy(TRUE, share, 10 * salt + seed + len(setting)) for seed in SEEDS}
            parts.append(predictions_of(source, TRUE, seeds, setting=setting))
    for source, share in (("ngram", 0.4), ("logits", 0.95)):
        parts.append(predictions_of(source, TRUE, {0: noisy(TRUE, share, 99)}, setting="-"))
    return pl.concat(parts)


def row_of(table: pl.DataFrame, source: str) -> dict:
    return table.row(by_predicate=pl.col("source") == source, named=True)


def score(predictions: pl.DataFrame, runs: pl.DataFrame | None = None, **options) -> pl.DataFrame:
    runs = runs_of(predictions) if runs is None else runs
    return score_benchmark(predictions, runs, {TAXONOMY: CLASSES}, n_resamples=200, **options)


def test_one_row_a_source_in_the_order_of_the_sources(predictions: pl.DataFrame) -> None:
    table = score(predictions)
    assert table["source"].to_list() == list(SOURCES)
    assert dict(table.schema) == dict(BENCHMARK_SCHEMA)
    assert row_of(table, "model")["n_runs"] == 4
    assert row_of(table, "ngram")["n_runs"] == 1
    assert set(table["n_eval"]) == {240}


@pytest.mark.parametrize("source", SOURCES)
def test_figures_equal_scikit_learn_on_all_predictions(predictions, source: str) -> None:
    row = row_of(score(predictions), source)
    own = predictions.filter(pl.col("source") == source)
    true, predicted = own["true"].to_numpy(), own["predicted"].to_numpy()
    precision, recall, f1, _ = precision_recall_fscore_support(true, predicted)
    np.testing.assert_allclose(row["f1"], f1, atol=1e-12)
    np.testing.assert_allclose(row["precision"], precision, atol=1e-12)
    np.testing.assert_allclose(row["recall"], recall, atol=1e-12)
    assert row["confusion"] == confusion_matrix(true, predicted).tolist()
    assert row["min_f1"] == pytest.approx(f1.min())
    assert row["mean_f1"] == pytest.approx(f1.mean())
    assert row["low"] < row["min_f1"] < row["high"]
    assert all(
        low < value < high
        for low, value, high in zip(row["f1_low"], row["f1"], row["f1_high"], strict=True)
    )


def test_the_excess_is_over_the_three_controls_and_in_the_model_row_alone(predictions) -> None:
    table = score(predictions, seed=3)
    votes = {
        source: collect_votes(predictions.filter(pl.col("source") == source), 3, where="x")
        for source in ("model", "blind", "ngram", "reference")
    }
    model = votes.pop("model")
    wanted = measure_excess(model, votes, n_resamples=200, seed=3)
    row = row_of(table, "model")
    found = (row["excess"], row["excess_low"], row["excess_high"], row["excess_over"])
    assert found == (wanted.value, wanted.low, wanted.high, wanted.strongest)
    assert row["excess_over"] == "ngram"
    assert row["verdict_kind"] == "adds"
    others = table.filter(pl.col("source") != "model")
    assert others["excess"].null_count() == others["verdict"].null_count() == 6


def test_a_source_that_did_not_train_has_no_figures(predictions: pl.DataFrame) -> None:
    table = score(predictions, runs_of(predictions, untrained=("blind", "control")))
    row = row_of(table, "blind")
    assert (row["did_train"], row["n_runs"], row["n_trained"]) == (False, 2, 0)
    empty = ("min_f1", "low", "high", "mean_f1", "f1", "confusion", "n_eval", "training_min_f1")
    assert all(row[name] is None for name in empty)
    assert "blind did not train" in row_of(table, "model")["verdict"]


def test_a_model_that_did_not_train_has_no_excess_and_says_so(predictions: pl.DataFrame) -> None:
    row = row_of(score(predictions, runs_of(predictions, untrained=("model",))), "model")
    assert row["min_f1"] is row["excess"] is row["matched_min_f1"] is None
    assert row["verdict"] == "cannot be said: the CNN on the model's attention did not train"


def test_only_the_runs_that_trained_count(predictions: pl.DataFrame) -> None:
    runs = runs_of(predictions).with_columns(
        did_train=~((pl.col("source") == "model") & (pl.col("seed") == 1))
    )
    row = row_of(score(predictions, runs), "model")
    own = predictions.filter((pl.col("source") == "model") & (pl.col("seed") == 0))
    assert (row["n_runs"], row["n_trained"]) == (4, 2)
    assert row["confusion"] == confusion_matrix(own["true"], own["predicted"]).tolist()


def test_without_controls_the_verdict_says_so(predictions: pl.DataFrame) -> None:
    alone = predictions.filter(pl.col("source").is_in(["model", "statistics"]))
    table = score(alone)
    assert table["source"].to_list() == ["model", "statistics"]
    assert row_of(table, "model")["verdict"].startswith("cannot be said: no control was run")


def test_epochs_are_summed_as_published(predictions: pl.DataFrame) -> None:
    by_epoch = pl.concat(
        predictions_of("model", TRUE, {0: noisy(TRUE, 0.3 * (epoch + 1), epoch)}, epoch=epoch)
        for epoch in range(3)
    )
    row = row_of(score(by_epoch), "model")
    assert np.sum(row["confusion"]) == 3 * 240
    assert (row["n_runs"], row["n_eval"]) == (1, 240)


def test_taxonomies_are_kept_apart() -> None:
    other = "Non-Memo, Code, Rest"
    both = pl.concat(
        [
            predictions_of("model", TRUE, {0: TRUE}),
            predictions_of("model", TRUE, {0: noisy(TRUE, 0.2, 0)}, taxonomy=other),
        ]
    )
    table = score_benchmark(
        both, runs_of(both), {other: CLASSES, TAXONOMY: CLASSES}, n_resamples=50
    )
    assert table["taxonomy"].to_list() == [other, TAXONOMY]
    assert table["min_f1"][1] == 1 > table["min_f1"][0]


def test_an_impossible_taxonomy_has_no_rows(predictions: pl.DataFrame) -> None:
    classes = {TAXONOMY: CLASSES, "Non-Memo, Nothing": ("Non-Memo", "Nothing")}
    table = score_benchmark(predictions, runs_of(predictions), classes, n_resamples=50)
    assert set(table["taxonomy"]) == {TAXONOMY}


def matched_case(*, model_follows_text: bool) -> pl.DataFrame:
    """A text that leans to the class; a model that sees the class, or only the text."""
    generator = np.random.default_rng(0)
    true = np.arange(600) % 3
    logits = generator.normal(size=(600, 3)) + 1.2 * np.eye(3)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    text = probabilities.argmax(axis=1)
    model = text if model_follows_text else noisy(true, 0.9, 1)
    return pl.concat(
        [
            predictions_of("model", true, {0: model}, probabilities=np.eye(3)[model]),
            predictions_of("blind", true, {0: text}, probabilities=probabilities),
        ]
    )


def test_a_model_that_sees_the_class_keeps_its_figure_on_matched_sequences() -> None:
    row = row_of(score(matched_case(model_follows_text=False)), "model")
    assert row["matched_by"] == "blind"
    assert row["matched_min_f1"] > 0.85
    assert row["matched_low"] < row["matched_min_f1"] < row["matched_high"]
    assert len(row["matched_f1"]) == 3
    assert row["matched_blind_min_f1"] < 0.4  # chance is a third
    assert row["difference_after"] < 0.1 < 1 < row["difference_before"]
    assert row["matched_note"] is None


def test_a_model_that_only_reads_the_text_falls_to_chance_on_matched_sequences() -> None:
    row = row_of(score(matched_case(model_follows_text=True)), "model")
    assert row["min_f1"] > 0.55
    assert row["matched_min_f1"] < 0.4
    assert row["excess"] == 0
    assert row["verdict_kind"] == "nothing"


def test_too_few_matched_sequences_give_a_note_and_no_figure() -> None:
    true = np.arange(90) % 3
    sure = np.eye(3)[true]
    both = [predictions_of(s, true, {0: true}, probabilities=sure) for s in ("model", "blind")]
    row = row_of(score(pl.concat(both)), "model")
    assert row["matched_min_f1"] is None
    assert row["matched_n_per_class"] == 0
    assert row["matched_note"].startswith("too few sequences look alike to the blind baseline")


def test_the_table_is_the_same_each_time(predictions: pl.DataFrame) -> None:
    shuffled = predictions.sample(fraction=1, shuffle=True, seed=1)
    assert score(predictions).equals(score(shuffled, runs_of(predictions)))
