"""The benchmark table, its verdicts, and several models summed as in the paper."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from benchmark_cases import CLASSES, MEAN, noisy, predictions_of, runs_of
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from mnemoscope.benchmark.excess import (
    collect_votes,
    measure_excess,
)
from mnemoscope.benchmark.gain import Gain, measure_gain
from mnemoscope.benchmark.published import published_confusions
from mnemoscope.benchmark.sources import SOURCES
from mnemoscope.benchmark.table import BENCHMARK_SCHEMA, score_benchmark, score_together
from mnemoscope.benchmark.verdict import (
    EFFECT,
    WORSE,
    BenchmarkFigures,
    brief_of,
    give_verdict,
)
from mnemoscope.cnn.presets import CnnSetting
from mnemoscope.stats import NO_ESTIMATE, Estimate, rows_of

TRUE = np.arange(240) % 3
SEEDS = (0, 1, 2)
SHARES = {
    "model": 0.8,
    "statistics": 0.7,
    "blind": 0.3,
    "reference": 0.2,
    "control": 0.0,
    "planted": 0.9,
}
ONCE = {
    "ngram": 0.4,
    "logits": 0.95,
    "blind_statistics": 0.1,
    "reference_statistics": 0.5,
    "control_statistics": 0.0,
    "planted_statistics": 0.9,
    "prefix_logits": 0.9,
}


@pytest.fixture(scope="module")
def predictions() -> pl.DataFrame:
    """Every source; the model with two settings; regressions on controls run once."""
    parts = []
    for salt, (source, share) in enumerate(SHARES.items()):
        for setting in (MEAN, CnnSetting(8, 16, "max"))[: 1 + (source == "model")]:
            seeds = {
                seed: noisy(TRUE, share, 10 * salt + seed + len(setting.slug)) for seed in SEEDS
            }
            parts.append(predictions_of(source, TRUE, seeds, setting=setting, sure=0.5))
    for source, share in ONCE.items():
        once = {0: noisy(TRUE, share, 99)}
        parts.append(predictions_of(source, TRUE, once, setting=None, sure=0.5))
    return pl.concat(parts)


def row_of(table: pl.DataFrame, source: str) -> dict:
    (row,) = rows_of(table.filter(source=source))
    return row


def score(predictions: pl.DataFrame, runs: pl.DataFrame | None = None, **options) -> pl.DataFrame:
    runs = runs_of(predictions) if runs is None else runs
    options = {"n_resamples": 200} | options
    return score_benchmark(predictions, runs, CLASSES, **options)


@pytest.fixture(scope="module")
def scored(predictions: pl.DataFrame) -> pl.DataFrame:
    return score(predictions)


def test_one_row_a_source_with_the_figures_of_scikit_learn(predictions, scored) -> None:
    assert scored["source"].to_list() == list(SOURCES)
    assert dict(scored.schema) == dict(BENCHMARK_SCHEMA)
    assert [row_of(scored, one)["n_runs"] for one in ("model", "ngram")] == [6, 1]
    assert set(scored["n_eval"]) == {240}
    shuffled = predictions.sample(fraction=1, shuffle=True, seed=1)
    assert scored.equals(score(shuffled, runs_of(predictions)))
    for source in SOURCES:
        row = row_of(scored, source)
        own = predictions.filter(pl.col("source") == source)
        true, predicted = own["true"].to_numpy(), own["predicted"].to_numpy()
        figures = precision_recall_fscore_support(true, predicted)
        for name, wanted in zip(("precision", "recall", "f1"), figures, strict=False):
            np.testing.assert_allclose([one.value for one in row[name]], wanted, atol=1e-12)
        assert row["confusion"] == confusion_matrix(true, predicted).tolist()
        assert row["min_f1"].value == pytest.approx(figures[2].min())
        assert row["mean_f1"].value == pytest.approx(figures[2].mean())
        assert all(one.low < one.value < one.high for one in (row["min_f1"], *row["f1"]))


def votes(predictions: pl.DataFrame, source: str):
    return collect_votes(predictions.filter(pl.col("source") == source), 3, where="x")


READERS = {
    "model": ("blind", "ngram", "reference"),
    "statistics": ("blind_statistics", "ngram", "reference_statistics"),
}
STRONGEST = {"model": "ngram", "statistics": "reference_statistics"}


def test_the_excess_of_a_reader_is_over_what_the_same_reader_sees(predictions) -> None:
    table = score(predictions, seed=3)
    for reader, controls in READERS.items():
        held = {source: votes(predictions, source) for source in controls}
        wanted = measure_excess(votes(predictions, reader), held, n_resamples=200, seed=3)
        row = row_of(table, reader)
        found = (*row["excess"], row["excess_over"])
        assert found == (wanted.value, wanted.low, wanted.high, wanted.strongest)
        assert row["excess_over"] == STRONGEST[reader]
        assert row["verdict_kind"] == "adds"
    others = table.filter(~pl.col("source").is_in(list(READERS)))
    assert others["excess"].null_count() == others["verdict"].null_count() == others.height == 11


def test_the_gain_of_a_reader_is_over_the_reference_that_the_same_reader_sees(predictions) -> None:
    table = score(predictions)
    for reader, controls in READERS.items():
        held = {source: votes(predictions, source) for source in controls}
        (over,) = (source for source in controls if source.startswith("reference"))
        reference = held.pop(over)
        wanted = measure_gain(
            votes(predictions, reader), reference, list(held.values()), n_trained=480
        )
        row = row_of(table, reader)
        found = [*row["gain"], row["gain_seen"]]
        assert found == list(wanted[:4])
        assert row["gain_over"] == over
        assert row["pool_min_f1"] - row["pool_min_f1_without"] > 0.05
    blind = predictions.filter(~pl.col("source").str.starts_with("reference"))
    row = row_of(score(blind), "model")
    assert row["gain"].value is None
    assert row["excess"].low > 0
    assert row["verdict"].startswith("cannot be said: without a reference model")


@pytest.mark.parametrize(
    ("choice", "headline"),
    [
        (None, "model"),
        ({"model": 0.5, "statistics": 0.5}, "model"),
        ({"model": 0.5, "statistics": 0.6}, "statistics"),
        ({"model": 0.6, "statistics": 0.5}, "model"),
    ],
)
def test_the_headline_is_the_reader_that_did_better_in_training(
    predictions, choice: dict[str, float] | None, headline: str
) -> None:
    """On the evaluation sequences the CNNs do better, and that does not count."""
    table = score(predictions, choice=choice, n_resamples=20)
    rows = {name: row_of(table, name) for name in ("model", "statistics")}
    assert rows["model"]["min_f1"].value > rows["statistics"]["min_f1"].value
    assert [name for name, row in rows.items() if row["is_headline"]] == [headline]
    assert row_of(table, "blind")["is_headline"] is None
    assert row_of(table, headline)["verdict_kind"] == "adds"


def test_permuted_classes_show_an_auc_around_a_half(predictions, scored) -> None:
    """The deviation of an AUC of 80 and 80 is .046 where scores have no ties, and less with them.

    Of twenty draws the least and the largest lie some 1.9 of it from a half.
    """
    row = row_of(scored, "model")
    least, most = np.array(row["auc_chance_least"]), np.array(row["auc_chance_most"])
    assert (most < [one.low for one in row["auc"]]).all()
    assert ((least > 0.5 - 4 * 0.046) & (least < 0.5) & (most > 0.5)).all()
    assert (most < 0.5 + 4 * 0.046).all()
    grouped = score(predictions.with_columns(group=pl.col("sequence_id") % 60))
    wider = np.subtract(
        *(row_of(grouped, "model")[f"auc_chance_{end}"] for end in ("most", "least"))
    )
    assert wider.mean() > (most - least).mean()


def test_what_did_not_train_has_no_figures_and_is_said(predictions: pl.DataFrame) -> None:
    table = score(predictions, runs_of(predictions, untrained=("blind", "control")))
    row = row_of(table, "blind")
    assert (row["did_train"], row["n_runs"]) == (False, 3)
    assert row["min_f1"] == row["mean_f1"] == NO_ESTIMATE
    assert row["f1"] == []
    assert row["confusion"] is row["n_eval"] is row["training_min_f1"] is None
    assert "blind did not train" in row_of(table, "model")["verdict"]
    row = row_of(score(predictions, runs_of(predictions, untrained=("model",))), "model")
    assert row["min_f1"].value is row["excess"].value is row["matched_min_f1"].value is None
    assert row["verdict"] == "cannot be said: the CNN on the model's attention did not train"
    alone = predictions.filter(pl.col("source").is_in(["model", "statistics"]))
    table = score(alone)
    assert table["source"].to_list() == ["model", "statistics"]
    assert row_of(table, "model")["verdict"].startswith("cannot be said: no control was run")


def test_only_the_runs_that_trained_count_and_epochs_are_summed(predictions) -> None:
    runs = runs_of(predictions).with_columns(
        did_train=~((pl.col("source") == "model") & (pl.col("seed") > 0))
    )
    row = row_of(score(predictions, runs, n_resamples=20), "model")
    own = predictions.filter((pl.col("source") == "model") & (pl.col("seed") == 0))
    assert row["n_runs"] == 6
    assert row["confusion"] == confusion_matrix(own["true"], own["predicted"]).tolist()
    by_epoch = pl.concat(
        predictions_of("model", TRUE, {0: noisy(TRUE, 0.3 * (epoch + 1), epoch)}, epoch=epoch)
        for epoch in range(3)
    )
    row = row_of(score(by_epoch, n_resamples=20), "model")
    assert np.sum(row["confusion"]) == 3 * 240
    assert (row["n_runs"], row["n_eval"]) == (1, 240)


def test_a_row_names_its_sample_and_what_did_not_run_has_none() -> None:
    other = "Non-Memo, Code, Rest"
    own = predictions_of("model", TRUE, {0: TRUE}, taxonomy=other)
    own = own.with_columns(variant=pl.lit("row_split"))
    (row,) = rows_of(score(own))
    assert (row["taxonomy"], row["variant"], row["min_f1"].value) == (other, "row_split", 1)
    assert score(own.clear()).is_empty()


def three_models(confusion: np.ndarray, seed: int) -> list[np.ndarray]:
    """Three matrices of whole counts that sum to one, split at random cell by cell."""
    generator = np.random.default_rng(seed)
    parts = generator.multinomial(confusion.ravel(), [0.5, 0.3, 0.2])
    return [part.reshape(confusion.shape) for part in parts.T]


def test_three_models_that_sum_to_a_published_matrix_give_its_printed_figures() -> None:
    printed = {"Non-Memo, Guess, Others": 89.0, "Non-Memo, Recite[5], Reconstruct, Others": 64.7}
    for place, published in enumerate(published_confusions()):
        found = score_together(three_models(published.confusion, place))
        assert found.confusion == published.confusion.tolist()
        assert round(100 * found.min_f1.value, 1) == published.min_f1
        assert round(100 * found.mean_f1.value, 1) == published.mean_f1
        assert published.min_f1 == printed.pop(published.taxonomy, published.min_f1)
    assert not printed
    weights = published.confusion.ravel()
    labels = np.indices(published.confusion.shape).reshape(2, -1)
    figures = precision_recall_fscore_support(*labels, sample_weight=weights)
    for name, wanted in zip(("precision", "recall", "f1"), figures, strict=False):
        assert np.allclose([one.value for one in getattr(found, name)], wanted, atol=1e-12)
    # Not the mean of the models' figures: one errs one way and one the other, by far.
    found = score_together([np.array([[10, 0], [10, 0]]), np.array([[0, 10], [0, 10]])])
    assert found.min_f1.value == pytest.approx(0.5)


def test_intervals_are_quantiles_of_the_summed_resamples() -> None:
    generator = np.random.default_rng(1)
    draws = [generator.uniform(1, 9, (300, 2, 2)) for _ in range(3)]
    found = score_together([np.full((2, 2), 5)] * 3, draws)
    total = draws[0] + draws[1] + draws[2]
    f1 = np.stack(
        [2 * total[:, c, c] / (total[:, c].sum(1) + total[:, :, c].sum(1)) for c in range(2)], 1
    )
    assert found.min_f1.low == pytest.approx(np.quantile(f1.min(1), 0.025))
    assert found.min_f1.high == pytest.approx(np.quantile(f1.min(1), 0.975))
    assert found.mean_f1.low == pytest.approx(np.quantile(f1.mean(1), 0.025))
    with pytest.raises(ValueError, match="cannot be summed"):
        score_together([np.eye(2), np.eye(3)])


ALL = ("blind", "ngram", "reference")
SEEN = BenchmarkFigures(
    classes=("Non-Memo", "Guess", "Recall"),
    did_train=True,
    f1=(Estimate(0.7, 0.65, 0.75), Estimate(0.8, 0.75, 0.85), Estimate(0.9, 0.85, 0.95)),
    gain=Gain(0.061, 0.02, 0.102, 0.058, 0.77, 0.6, 0.5),
    controls=ALL,
)


QUIET = replace(SEEN, finds_mark=True, gain=SEEN.gain._replace(value=-0.011, low=-0.04, high=0.032))
FAILED = replace(SEEN, controls=ALL[::2], failed_controls=ALL[2:])


def of_gain(figures: BenchmarkFigures, **changes) -> BenchmarkFigures:
    return replace(figures, gain=figures.gain._replace(**changes))


UNSURE = of_gain(QUIET, high=EFFECT)
LOST = replace(SEEN, f1=(Estimate(0.23, 0.18, 0.28), *SEEN.f1[1:]))
LESS = of_gain(QUIET, value=-0.1, low=-0.15, high=-0.02)
FEWER = replace(QUIET, excess=Estimate(-0.149, -0.251, -0.023))
BETTER = "attention did better than the text"
UNTOLD = "undecided (whether the CNN would find a planted mark was not tried)"
SILENT = "(the CNN does not find a planted mark of 2 % either)"
ONE = "(one training; three needed for a verdict)"
LITTLE = "attention adds less than 0.06 nats, the least that counts"
VERDICTS = [  # figures, kind, the first words, what follows
    (SEEN, "adds", "attention adds to the text", "0.061 nats a sequence [0.020, 0.102] beyond"),
    (SEEN, "adds", "", "0.770 were left to gain, such a study sees 0.058 in 80 % of cases"),
    (of_gain(SEEN, low=-0.02), "unclear", "undecided (a gain of up to 0.102 nats cannot be", ""),
    (QUIET, "nothing", LITTLE, "−0.011 nats a sequence [−0.040, 0.032] beyond"),
    (of_gain(QUIET, high=EFFECT - 1e-9), "nothing", LITTLE, ""),
    (UNSURE, "unclear", "undecided (a gain of up to 0.060 nats cannot be excluded)", ""),
    (replace(QUIET, finds_mark=False), "unclear", f"undecided {SILENT}", ""),
    (replace(QUIET, finds_mark=None), "unclear", UNTOLD, ""),
    (
        LOST,
        "unclear",
        f"{BETTER} (Non-Memo is told apart no better than by guessing)",
        "guessing gives 33",
    ),
    # A gain or an excess on one side of zero is never undecided.
    (LESS, "nothing", WORSE, "−0.100 nats"),
    (replace(LESS, finds_mark=False), "unclear", f"{WORSE} {SILENT}", ""),
    (replace(LESS, n_trainings=1), "unclear", f"{WORSE} {ONE}", ""),
    (FEWER, "nothing", WORSE, "−14.9 points of min-F1 [−25.1,\xa0−2.3]; −0.011 nats"),
    (replace(FEWER, n_trainings=1), "unclear", f"{WORSE} {ONE}", "−14.9 points of min-F1"),
    (of_gain(FEWER, high=0.09), "unclear", f"{WORSE} (a gain of up to 0.090 nats", ""),
    (replace(FEWER, gain=None), "cannot", WORSE, "−14.9 points"),
    (replace(SEEN, excess=FEWER.excess), "adds", "attention adds to the text", "0.061 nats"),
    (replace(SEEN, n_trainings=1), "unclear", f"{BETTER} {ONE}", ""),
    (replace(QUIET, n_trainings=2), "unclear", "undecided (two trainings; three needed", ""),
    (replace(SEEN, n_trainings=3), "adds", "", ""),
    (replace(QUIET, n_trainings=3), "nothing", "", ""),
    (BenchmarkFigures(SEEN.classes, False, controls=ALL), "cannot", "", "did not train"),
    (BenchmarkFigures(SEEN.classes, True), "cannot", "", "no control was run"),
    (replace(SEEN, gain=None, controls=ALL[:2]), "cannot", "", "without a reference model"),
    (replace(FAILED, gain=None), "cannot", "", "no control trained (reference)"),
    (replace(SEEN, failed_controls=ALL[:1]), "adds", "", "(blind did not train, "),
    (replace(SEEN, controls=ALL[2:]), "adds", "", "(no blind baseline, "),
    (replace(SEEN, training_min_f1=0.0), "cannot", "cannot be said", "on its own training set"),
    (replace(SEEN, training_min_f1=0.4), "adds", "", ""),
]


@pytest.mark.parametrize(("figures", "kind", "brief", "said"), VERDICTS)
def test_a_verdict_takes_the_side_that_its_figures_carry(figures, kind, brief, said) -> None:
    verdict = give_verdict(figures)
    assert verdict.kind == kind
    assert brief_of(verdict.sentence).startswith(brief), verdict
    assert said in verdict.sentence.partition(": ")[2], verdict


SIDES = {"better": (0.02, 0.1), "none": (-0.03, 0.03), "wide": (-0.1, 0.1), "worse": (-0.1, -0.02)}


@pytest.mark.parametrize("gain", [None, *SIDES])
@pytest.mark.parametrize("excess", [None, *SIDES])
@pytest.mark.parametrize("n_trainings", [None, 1, 3])
@pytest.mark.parametrize("finds_mark", [None, False, True])
def test_no_interval_on_one_side_of_zero_is_called_undecided(
    gain, excess, n_trainings, finds_mark
) -> None:
    ends = {name: (sum(pair) / 2, *pair) for name, pair in SIDES.items()}
    figures = replace(
        SEEN,
        gain=gain and Gain(*ends[gain], 0.05, 0.7, 0.6, 0.5),
        excess=excess and Estimate(*ends[excess]),
        n_trainings=n_trainings,
        finds_mark=finds_mark,
    )
    said = brief_of(give_verdict(figures).sentence)
    if gain == "better":
        assert said.startswith(BETTER if n_trainings == 1 else "attention adds to the text")
    else:
        assert said.startswith(WORSE) == ("worse" in (gain, excess))


def test_a_mark_that_the_cnns_find_is_seen_in_the_table(predictions: pl.DataFrame) -> None:
    """A model as good as its controls, on many sequences: nothing, where the mark is found."""
    true = np.arange(6000) % 3
    shares = {"model": 0.5, "blind": 0.5, "reference": 0.5, "planted": 0.5}
    made = [
        predictions_of(
            one, true, {seed: noisy(true, share, 10 * salt + seed) for seed in SEEDS}, sure=0.5
        )
        for salt, (one, share) in enumerate(shares.items())
    ]
    blind = {seed: noisy(true, 0.0, seed) for seed in SEEDS}
    guessing = predictions_of("planted", true, blind, sure=0.5)
    for last, tried in ((made[3], "nothing"), (guessing, "unclear")):
        shown = pl.concat([*made[:3], last])
        trained = runs_of(shown).with_columns(n_train=pl.lit(6000))
        table = score(shown, trained, n_resamples=60)
        row = row_of(table, "model")
        assert row["gain"].low < 0 < row["gain"].high < EFFECT
        assert row["verdict_kind"] == tried, row["verdict"]


def test_classes_of_eight_groups_have_figures_and_no_interval(predictions, scored) -> None:
    apart = scored
    grouped = score(predictions.with_columns(group=pl.col("sequence_id") // 30))
    assert set(apart["n_groups"]) == {240}
    assert set(grouped["n_groups"]) == {8}
    row = row_of(grouped, "model")
    assert row["min_f1"] == (row_of(apart, "model")["min_f1"].value, None, None)
    for figure in (*(row[name] for name in ("mean_f1", "excess", "over_statistics")), *row["f1"]):
        assert figure == (figure.value, None, None)
    assert row["gain"] == NO_ESTIMATE
    assert row["verdict_kind"] == "cannot"
    assert (
        "no interval: the evaluation sequences of a class are 8 groups of near duplicates, and 10 "
        "are needed" in row["verdict"]
    )


def test_intervals_of_groups_are_as_wide_as_those_of_one_sequence_each(predictions, scored) -> None:
    """Each sequence five times over, in one group: the figures and intervals of the single ones."""
    copies = pl.concat(
        predictions.with_columns(
            sequence_id=pl.col("sequence_id") + 1000 * copy, group=pl.col("sequence_id")
        )
        for copy in range(5)
    )
    once, grouped = scored, score(copies)
    assert set(grouped["n_groups"]) == {240}
    assert set(grouped["n_eval"]) == {1200}
    for source in SOURCES:
        one, five = row_of(once, source), row_of(grouped, source)
        for name in ("min_f1", "mean_f1"):
            assert five[name] == pytest.approx(one[name], abs=1e-12)
    model, of_copies = row_of(once, "model"), row_of(grouped, "model")
    for name in ("excess", "over_statistics"):
        assert of_copies[name] == pytest.approx(model[name], abs=1e-12)
