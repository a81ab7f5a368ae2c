"""Each input stands alone beside its own controls; the excess holds like against like."""

import numpy as np
import polars as pl
import pytest
from benchmark_cases import CLASSES, MEAN, noisy, predictions_of, runs_of

from mnemoscope.benchmark.excess import collect_votes, measure_excess
from mnemoscope.benchmark.table import INPUTS_SCHEMA, score_benchmark, score_by_input
from mnemoscope.cnn.presets import CnnSetting
from mnemoscope.stats import rows_of

TRUE = np.arange(180) % 3
SEEDS = (0, 1)
SHARES = {
    ("model", "mean"): 0.6,
    ("model", "heads"): 0.9,
    ("model", "difference"): 0.8,
    ("reference", "mean"): 0.5,
    ("reference", "heads"): 0.3,
    ("control", "mean"): 0.1,
    ("blind", "mean"): 0.2,
}


@pytest.fixture(scope="module")
def predictions() -> pl.DataFrame:
    parts = [
        predictions_of(
            source,
            TRUE,
            {seed: noisy(TRUE, share, 10 * salt + seed) for seed in SEEDS},
            setting=CnnSetting(6, 10, name),
        )
        for salt, ((source, name), share) in enumerate(SHARES.items())
    ]
    text = predictions_of("ngram", TRUE, {0: noisy(TRUE, 0.25, 99)}, setting=None)
    return pl.concat([*parts, text])


def inputs(predictions: pl.DataFrame, **options) -> pl.DataFrame:
    return score_by_input(predictions, runs_of(predictions), CLASSES, n_resamples=60, **options)


def votes(predictions: pl.DataFrame, source: str, name: str | None):
    chosen = (pl.col("source") == source) & pl.col("input").eq_missing(pl.lit(name))
    return collect_votes(predictions.filter(chosen), 3, where="x")


def row_of(table: pl.DataFrame, **wanted: str) -> dict:
    (row,) = rows_of(table.filter(**wanted))
    return row


def test_every_input_has_a_row_for_each_source_that_reads_it(predictions: pl.DataFrame) -> None:
    table = inputs(predictions)
    assert dict(table.schema) == dict(INPUTS_SCHEMA)
    found = {key[0]: part["source"].to_list() for key, part in table.group_by("input")}
    assert found == {
        "mean": ["model", "blind", "ngram", "reference", "control"],
        "heads": ["model", "blind", "ngram", "reference"],
        "difference": ["model", "blind", "ngram", "reference"],
    }


def test_an_input_is_held_against_the_reference_on_that_input(predictions) -> None:
    table = inputs(predictions, seed=4)
    for name, reference in (("mean", "mean"), ("heads", "heads"), ("difference", "mean")):
        row = row_of(table, input=name, source="model")
        controls = {
            "blind": votes(predictions, "blind", "mean"),
            "ngram": votes(predictions, "ngram", None),
            "reference": votes(predictions, "reference", reference),
        }
        own = votes(predictions, "model", name)
        wanted = measure_excess(own, controls, n_resamples=60, seed=4)
        assert (row["excess"].value, row["excess"].low) == (wanted.value, wanted.low)
        assert row["excess_settings"] == [f"k6-f10-{name}"]


def test_an_input_alone_gives_the_rows_of_the_benchmark_table(predictions: pl.DataFrame) -> None:
    alone = predictions.filter(~pl.col("input").is_in(["heads", "difference"]).fill_null(False))
    table = score_benchmark(alone, runs_of(alone), CLASSES, n_resamples=60)
    assert inputs(alone).drop("input").equals(table)
    logits = predictions_of("logits", TRUE, {0: TRUE}, setting=None)
    both = pl.concat([alone, logits])  # a single input takes the benchmark table over
    whole = score_benchmark(both, runs_of(both), CLASSES, n_resamples=60)
    assert inputs(both, whole=whole).equals(inputs(alone))


def test_the_excess_counts_the_settings_that_the_controls_had(predictions: pl.DataFrame) -> None:
    asked = {"n_resamples": 60, "control_settings": [MEAN]}
    table = score_benchmark(predictions, runs_of(predictions), CLASSES, **asked)
    row = row_of(table, source="model")
    assert row["excess_settings"] == ["k6-f10-mean"]
    assert row["n_runs"] == 6  # the figure of the model is still that of all its trainings
    of_reference = predictions.filter(pl.col("source") == "reference")
    controls = {
        "blind": votes(predictions, "blind", "mean"),
        "ngram": votes(predictions, "ngram", None),
        "reference": collect_votes(of_reference, 3, where="x"),
    }
    mean = votes(predictions, "model", "mean")
    wanted = measure_excess(mean, controls, n_resamples=60, seed=0)
    assert row["excess"].value == wanted.value
    assert row["excess_min_f1"] == wanted.min_f1 < row["min_f1"].value
    row = row_of(inputs(predictions, control_settings=[MEAN]), input="heads", source="model")
    assert row["min_f1"].value > 0.8  # has no controls of its own
    assert row["excess"].value is None
    assert row["verdict_kind"] == "cannot"
    assert "not trained with this setting" in row["verdict"]


def test_where_only_the_settings_without_controls_trained_there_is_no_excess(predictions) -> None:
    runs = runs_of(predictions).with_columns(
        did_train=~((pl.col("source") == "model") & (pl.col("input") == "mean"))
    )
    table = score_benchmark(predictions, runs, CLASSES, n_resamples=60, control_settings=[MEAN])
    row = row_of(table, source="model")
    assert row["min_f1"].value > 0.7
    assert row["excess"].value is None
    assert row["verdict"] == "cannot be said: the CNN on the model's attention did not train"
