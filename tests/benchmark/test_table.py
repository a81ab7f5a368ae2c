"""The benchmark table, its verdicts, and several models summed as in the paper."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from benchmark_cases import CLASSES, TAXONOMY, noisy, predictions_of, runs_of
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from mnemoscope.benchmark.excess import (
    EFFECT,
    BenchmarkFigures,
    Excess,
    collect_votes,
    give_verdict,
    measure_excess,
)
from mnemoscope.benchmark.published import published_confusions, published_table
from mnemoscope.benchmark.sources import SOURCES
from mnemoscope.benchmark.table import BENCHMARK_SCHEMA, score_benchmark, score_together

TRUE = np.arange(240) % 3
SEEDS = (0, 1, 2)
SHARES = {
    "model": 0.8,
    "statistics": 0.7,
    "blind": 0.3,
    "reference": 0.2,
    "control": 0.0,
    "planted": 0.9,
    "painted": 0.85,
}
ONCE = {
    "ngram": 0.4,
    "logits": 0.95,
    "blind_statistics": 0.1,
    "reference_statistics": 0.5,
    "control_statistics": 0.0,
    "planted_statistics": 0.9,
    "rest": 0.4,
    "rest_and_model": 0.6,
    "prefix_logits": 0.9,
}


@pytest.fixture(scope="module")
def predictions() -> pl.DataFrame:
    """Every source; the model with two settings; regressions on controls run once."""
    parts = []
    for salt, (source, share) in enumerate(SHARES.items()):
        for setting in ("k6-f10-mean", "k8-f16-max")[: 1 + (source == "model")]:
            seeds = {seed: noisy(TRUE, share, 10 * salt + seed + len(setting)) for seed in SEEDS}
            parts.append(predictions_of(source, TRUE, seeds, setting=setting))
    for source, share in ONCE.items():
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
    assert row_of(table, "model")["n_runs"] == 6
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


@pytest.mark.parametrize(
    ("reader", "controls"),
    [
        ("model", ("blind", "ngram", "reference")),
        ("statistics", ("blind_statistics", "ngram", "reference_statistics")),
    ],
)
def test_the_excess_of_a_reader_is_over_what_the_same_reader_sees(
    predictions, reader: str, controls: tuple[str, ...]
) -> None:
    table = score(predictions, seed=3)
    votes = {
        source: collect_votes(predictions.filter(pl.col("source") == source), 3, where="x")
        for source in controls
    }
    own = collect_votes(predictions.filter(pl.col("source") == reader), 3, where="x")
    wanted = measure_excess(own, votes, n_resamples=200, seed=3)
    row = row_of(table, reader)
    found = (row["excess"], row["excess_low"], row["excess_high"], row["excess_over"])
    assert found == (wanted.value, wanted.low, wanted.high, wanted.strongest)
    assert row["excess_over"] == {"model": "ngram", "statistics": "reference_statistics"}[reader]
    assert row["verdict_kind"] == "adds"


def test_only_the_models_attention_has_an_excess(predictions: pl.DataFrame) -> None:
    others = score(predictions).filter(~pl.col("source").is_in(["model", "statistics"]))
    assert others["excess"].null_count() == others["verdict"].null_count() == others.height == 14


def test_the_gain_is_of_one_regression_with_and_without_the_models_attention(predictions) -> None:
    table = score(predictions, seed=3)
    without, whole = (
        collect_votes(predictions.filter(pl.col("source") == source), 3, where="x")
        for source in ("rest", "rest_and_model")
    )
    wanted = measure_excess(whole, {"rest": without}, n_resamples=200, seed=3)
    row = row_of(table, "statistics")
    assert (row["gain"], row["gain_low"], row["gain_high"]) == (
        wanted.value,
        wanted.low,
        wanted.high,
    )
    assert (
        row["gain"] == row_of(table, "rest_and_model")["min_f1"] - row_of(table, "rest")["min_f1"]
    )
    assert row["gain_low"] > 0
    assert row_of(table, "model")["gain"] is None
    alone = score(predictions.filter(pl.col("source") != "rest"))
    assert row_of(alone, "statistics")["gain"] is None


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
    table = score(predictions, choice=None if choice is None else {TAXONOMY: choice})
    rows = {name: row_of(table, name) for name in ("model", "statistics")}
    assert rows["model"]["min_f1"] > rows["statistics"]["min_f1"]
    assert [name for name, row in rows.items() if row["is_headline"]] == [headline]
    shown = {name: row["choice_min_f1"] for name, row in rows.items()}
    assert shown == (choice or {"model": None, "statistics": None})
    assert row_of(table, "blind")["is_headline"] is None


def test_a_source_that_did_not_train_has_no_figures(predictions: pl.DataFrame) -> None:
    table = score(predictions, runs_of(predictions, untrained=("blind", "control")))
    row = row_of(table, "blind")
    assert (row["did_train"], row["n_runs"], row["n_trained"]) == (False, 3, 0)
    empty = ("min_f1", "low", "high", "mean_f1", "f1", "confusion", "n_eval", "training_min_f1")
    assert all(row[name] is None for name in empty)
    assert "blind did not train" in row_of(table, "model")["verdict"]


def test_a_model_that_did_not_train_has_no_excess_and_says_so(predictions: pl.DataFrame) -> None:
    row = row_of(score(predictions, runs_of(predictions, untrained=("model",))), "model")
    assert row["min_f1"] is row["excess"] is row["matched_min_f1"] is None
    assert row["verdict"] == "cannot be said: the CNN on the model's attention did not train"


def test_only_the_runs_that_trained_count(predictions: pl.DataFrame) -> None:
    runs = runs_of(predictions).with_columns(
        did_train=~((pl.col("source") == "model") & (pl.col("seed") > 0))
    )
    row = row_of(score(predictions, runs), "model")
    own = predictions.filter((pl.col("source") == "model") & (pl.col("seed") == 0))
    assert (row["n_runs"], row["n_trained"]) == (6, 2)
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
    assert (row["excess"], row["excess_low"], row["excess_high"]) == (0, 0, 0)
    assert row["verdict"].startswith("undecided, with one training a source")


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


def three_models(confusion: np.ndarray, seed: int) -> list[np.ndarray]:
    """Three matrices of whole counts that sum to one, split at random cell by cell."""
    generator = np.random.default_rng(seed)
    parts = generator.multinomial(confusion.ravel(), [0.5, 0.3, 0.2])
    return [part.reshape(confusion.shape) for part in parts.T]


@pytest.mark.parametrize("place", range(0, 54, 9))
def test_three_models_that_sum_to_a_published_matrix_give_its_printed_figures(place) -> None:
    published = published_confusions()[place]
    found = score_together(three_models(published.confusion, place))
    assert found["confusion"] == published.confusion.tolist()
    assert round(100 * found["min_f1"], 1) == published.min_f1
    assert round(100 * found["mean_f1"], 1) == published.mean_f1


def test_the_headline_is_the_papers() -> None:
    matrices = {one.taxonomy: one.confusion for one in published_confusions()}
    for name, printed in (
        ("Non-Memo, Guess, Others", 89.0),
        ("Non-Memo, Recite[5], Reconstruct, Others", 64.7),
    ):
        found = score_together(three_models(matrices[name], 7))
        assert round(100 * found["min_f1"], 1) == printed


def test_summed_confusions_are_not_the_mean_of_the_models_figures() -> None:
    """The printed figures of each model average to something else than the printed sum."""
    name = "Non-Memo, Code, Others"
    own = [
        dict(published_table(model).select("tax_name", "min_f1").rows())[name]
        for model in ("12b", "6.9b", "2.8b")
    ]
    whole = dict(published_table("all").select("tax_name", "min_f1").rows())[name]
    assert abs(np.mean(own) - whole) < 3
    # And on matrices where one model errs one way and one the other, by far:
    found = score_together([np.array([[10, 0], [10, 0]]), np.array([[0, 10], [0, 10]])])
    assert found["min_f1"] == pytest.approx(0.5)


def test_figures_are_those_of_scikit_learn_on_all_predictions() -> None:
    generator = np.random.default_rng(0)
    true, predicted, matrices = [], [], []
    for _ in range(3):
        truth, guess = generator.integers(0, 3, (2, 200))
        true.append(truth)
        predicted.append(guess)
        matrices.append(
            np.array([[((truth == a) & (guess == b)).sum() for b in range(3)] for a in range(3)])
        )
    found = score_together(matrices)
    precision, recall, f1, _ = precision_recall_fscore_support(
        np.concatenate(true), np.concatenate(predicted)
    )
    for name, wanted in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert np.allclose(found[name], wanted, atol=1e-12)


def test_intervals_are_quantiles_of_the_summed_resamples() -> None:
    generator = np.random.default_rng(1)
    draws = [generator.uniform(1, 9, (300, 2, 2)) for _ in range(3)]
    found = score_together([np.full((2, 2), 5)] * 3, draws)
    total = draws[0] + draws[1] + draws[2]
    f1 = np.stack(
        [2 * total[:, c, c] / (total[:, c].sum(1) + total[:, :, c].sum(1)) for c in range(2)], 1
    )
    assert found["low"] == pytest.approx(np.quantile(f1.min(1), 0.025))
    assert found["high"] == pytest.approx(np.quantile(f1.min(1), 0.975))
    assert found["mean_f1_low"] == pytest.approx(np.quantile(f1.mean(1), 0.025))


def test_matrices_of_different_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be summed"):
        score_together([np.eye(2), np.eye(3)])


ALL = ("blind", "ngram", "reference")
SEEN = BenchmarkFigures(
    classes=("Non-Memo", "Guess", "Recall"),
    did_train=True,
    f1=(0.7, 0.8, 0.9),
    f1_low=(0.65, 0.75, 0.85),
    excess=Excess(0.031, 0.01, 0.052, "ngram", 0.6),
    controls=ALL,
)


def test_an_interval_above_zero_is_something_that_attention_adds() -> None:
    verdict = give_verdict(SEEN)
    assert verdict.kind == "adds"
    assert verdict.sentence == ("attention adds 3.1 points [1.0, 5.2] to what the text alone gives")


def test_the_control_that_the_excess_is_over_is_named() -> None:
    over = replace(SEEN, excess=replace(SEEN.excess, strongest="reference"))
    assert give_verdict(over).sentence == (
        "attention adds 3.1 points [1.0, 5.2] to what the attention of a model that never saw "
        "these sequences gives"
    )


QUIET = replace(SEEN, finds_mark=True, excess=Excess(-0.011, -0.04, 0.032, "blind", 0.6))


def test_nothing_is_said_of_a_bound_below_the_effect_by_a_reader_that_finds_marks() -> None:
    verdict = give_verdict(QUIET)
    assert verdict.kind == "nothing"
    assert verdict.sentence == (
        "nothing is left once the text is taken off, 5.0 points being the least that counts: −1.1 "
        "points [−4.0, 3.2] beyond what the text alone gives"
    )
    lower = replace(QUIET, excess=replace(QUIET.excess, high=EFFECT - 1e-9))
    assert give_verdict(lower).kind == "nothing"


@pytest.mark.parametrize("low", [-0.04, -0.2])
def test_an_upper_end_at_the_effect_is_undecided_however_low_the_excess(low: float) -> None:
    verdict = give_verdict(replace(QUIET, excess=replace(QUIET.excess, low=low, high=EFFECT)))
    assert verdict.kind == "unclear"
    assert verdict.sentence.startswith(
        "undecided, up to 5.0 points cannot be excluded: −1.1 points ["
    )


@pytest.mark.parametrize(
    ("finds_mark", "why"),
    [
        (False, "as the CNN does not find a planted mark of 2 % either"),
        (None, "as whether the CNN would find a planted mark was not tried"),
    ],
)
def test_a_reader_that_finds_no_mark_cannot_say_that_nothing_is_there(finds_mark, why) -> None:
    far_below = Excess(-0.123, -0.18, -0.004, "blind", 0.6)
    verdict = give_verdict(replace(QUIET, finds_mark=finds_mark, excess=far_below))
    assert verdict.kind == "unclear"
    assert verdict.sentence == (
        f"undecided, {why}: −12.3 points [−18.0, −0.4] beyond what the text alone gives"
    )


@pytest.mark.parametrize(("n", "words"), [(1, "one training"), (2, "two trainings")])
@pytest.mark.parametrize("excess", [SEEN.excess, QUIET.excess])
def test_fewer_than_three_trainings_take_no_side(n: int, words: str, excess: Excess) -> None:
    few = replace(SEEN, finds_mark=True, excess=replace(excess, n_trainings=n))
    verdict = give_verdict(few)
    assert verdict.kind == "unclear"
    assert verdict.sentence.startswith(f"undecided, with {words} a source (three are needed):")
    three = replace(few, excess=replace(excess, n_trainings=3))
    assert give_verdict(three).kind == give_verdict(replace(few, excess=excess)).kind != "unclear"


def test_what_the_largest_control_gains_by_chance_is_said_where_nothing_is_added() -> None:
    said = " (if nothing differed, the best control would lead by 1.6 points)"
    quiet = replace(QUIET, excess=replace(QUIET.excess, chance=0.016))
    assert give_verdict(quiet).sentence == give_verdict(QUIET).sentence + said
    seen = replace(SEEN, excess=replace(SEEN.excess, chance=0.016))
    assert give_verdict(seen) == give_verdict(SEEN)


def test_an_input_that_does_not_beat_the_painted_answer_only_knows_it() -> None:
    painted = replace(QUIET, excess=replace(QUIET.excess, strongest="painted"))
    assert give_verdict(painted).sentence == (
        "nothing is left once the log-probability of each next token is taken off, 5.0 points "
        "being the least that counts: this input only knows the answer, −1.1 points [−4.0, 3.2] "
        "beyond what the log-probability of each next token gives by itself"
    )
    seen = replace(SEEN, excess=replace(SEEN.excess, strongest="painted"))
    assert give_verdict(seen).kind == "adds"
    assert "only knows" not in give_verdict(seen).sentence


def test_an_interval_that_spans_zero_is_not_called_either_way() -> None:
    verdict = give_verdict(replace(SEEN, excess=Excess(0.02, -0.03, 0.07, "blind", 0.6)))
    assert verdict.kind == "unclear"
    assert verdict.sentence == (
        "undecided, up to 7.0 points cannot be excluded: attention adds 2.0 points [−3.0, 7.0] to "
        "what the text alone gives"
    )


def test_a_mark_that_the_cnns_find_is_seen_in_the_table(predictions: pl.DataFrame) -> None:
    """A model as good as its controls, on many sequences: nothing, where the mark is found."""
    true = np.arange(6000) % 3
    shares = {"model": 0.5, "blind": 0.5, "reference": 0.5, "planted": 0.5}
    made = [
        predictions_of(one, true, {seed: noisy(true, share, 10 * salt + seed) for seed in SEEDS})
        for salt, (one, share) in enumerate(shares.items())
    ]
    guessing = predictions_of("planted", true, {seed: noisy(true, 0.0, seed) for seed in SEEDS})
    for last, tried in ((made[3], "nothing"), (guessing, "unclear"), (None, "unclear")):
        table = score(pl.concat([*made[:3], *([] if last is None else [last])]))
        row = row_of(table, "model")
        assert row["excess_high"] < EFFECT
        assert row["n_trainings"] == 3
        assert 0 < row["excess_chance"] < 0.02
        assert row["verdict_kind"] == tried, row["verdict"]


def test_a_lost_class_takes_the_meaning_from_an_excess() -> None:
    lost = replace(SEEN, f1=(0.23, 0.8, 0.71), f1_low=(0.18, 0.75, 0.66))
    verdict = give_verdict(lost)
    assert verdict.kind == "unclear"
    assert verdict.sentence.startswith(
        "Non-Memo is told apart no better than by guessing (F1 23.0, guessing gives 33.3), so it "
        "means little that attention adds 3.1 points"
    )


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        (
            BenchmarkFigures(SEEN.classes, did_train=False, controls=ALL),
            "the CNN on the model's attention did not train",
        ),
        (
            BenchmarkFigures(SEEN.classes, did_train=True),
            "no control was run, so the figure may come from the text alone",
        ),
        (
            BenchmarkFigures(
                SEEN.classes, did_train=True, controls=("blind",), failed_controls=("blind",)
            ),
            "no control trained (blind)",
        ),
    ],
)
def test_what_cannot_be_said_is_said_with_its_reason(figures, reason: str) -> None:
    verdict = give_verdict(figures)
    assert (verdict.kind, verdict.sentence) == ("cannot", f"cannot be said: {reason}")


def test_missing_and_failed_controls_are_noted() -> None:
    partial = replace(SEEN, controls=("blind", "ngram"), failed_controls=("blind",))
    assert give_verdict(partial).sentence.endswith(" (blind did not train, no reference model)")
    only_reference = replace(SEEN, controls=("reference",))
    assert give_verdict(only_reference).sentence.endswith(" (no blind baseline)")


def test_no_negative_zero_is_printed() -> None:
    verdict = give_verdict(replace(SEEN, excess=Excess(-0.0001, -0.0002, -0.0, "blind", 0.6)))
    assert "−0.0" not in verdict.sentence


def test_a_cnn_that_never_finds_a_class_in_training_has_no_verdict() -> None:
    lost = replace(SEEN, training_min_f1=0.0, excess=Excess(-0.36, -0.4, -0.3, "blind", 0.0))
    verdict = give_verdict(lost)
    assert verdict.kind == "cannot"
    assert "never finds one of the classes, on its own training set" in verdict.sentence
    assert give_verdict(replace(SEEN, training_min_f1=0.4)) == give_verdict(SEEN)


def test_classes_of_eight_groups_have_figures_and_no_interval(predictions) -> None:
    apart = score(predictions)
    grouped = score(predictions.with_columns(group=pl.col("sequence_id") // 30))
    assert set(apart["n_groups"]) == {240}
    assert set(grouped["n_groups"]) == {8}
    assert set(apart["interval_note"]) == {None}
    row = row_of(grouped, "model")
    assert row["min_f1"] == row_of(apart, "model")["min_f1"]
    assert row["interval_note"] == (
        "no interval: the evaluation sequences of a class are 8 groups of near duplicates, and 10 "
        "are needed"
    )
    for name in ("low", "mean_f1_low", "excess_low", "excess_high", "over_statistics_high"):
        assert row[name] is None
    assert row["f1_low"] == [None] * 3
    assert row["verdict_kind"] == "cannot"
    assert row["interval_note"] in row["verdict"]


def test_intervals_of_groups_are_as_wide_as_those_of_one_sequence_each(predictions) -> None:
    """Each sequence five times over, in one group: the figures and intervals of the single ones."""
    copies = pl.concat(
        predictions.with_columns(
            sequence_id=pl.col("sequence_id") + 1000 * copy, group=pl.col("sequence_id")
        )
        for copy in range(5)
    )
    once, grouped = score(predictions), score(copies)
    assert set(grouped["n_groups"]) == {240}
    assert set(grouped["n_eval"]) == {1200}
    for source in SOURCES:
        one, five = row_of(once, source), row_of(grouped, source)
        for name in ("min_f1", "low", "high", "mean_f1_low", "mean_f1_high"):
            assert five[name] == pytest.approx(one[name], abs=1e-12)
    model, of_copies = row_of(once, "model"), row_of(grouped, "model")
    for name in ("excess", "excess_low", "excess_high", "over_statistics_low"):
        assert of_copies[name] == pytest.approx(model[name], abs=1e-12)
