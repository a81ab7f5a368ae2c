"""The answer says what the figures say, a null result as plainly as a positive one."""

from dataclasses import replace

import pytest

from mnemoscope.benchmark.excess import Excess as Measured
from mnemoscope.benchmark.table import BenchmarkFigures, give_verdict
from mnemoscope.report import content as c
from mnemoscope.report.answer import answer, benchmark_sentence
from mnemoscope.report.content import Standing, best_without_memory, standing

NAMES = ("Non-Memo", "Guess", "Recall")


def with_excess(build_taxonomy, value, low, high, **more):
    return build_taxonomy(NAMES, excess=(value, low, high), **more)


@pytest.mark.parametrize(
    ("excess", "expected"),
    [
        ((0.2, 0.1, 0.3), Standing.BEYOND),
        ((0.2, -0.01, 0.3), Standing.UNDECIDED),
        ((0.2, 0.0, 0.3), Standing.UNDECIDED),
        ((-0.1, -0.2, 0.1), Standing.UNDECIDED),
        ((0.0, -0.1, 0.1), Standing.UNDECIDED),
        ((-0.1, -0.2, -0.05), Standing.WITHIN),
        ((0.4, None, None), Standing.UNDECIDED),
    ],
)
def test_the_interval_of_the_excess_decides(build_taxonomy, excess, expected) -> None:
    benchmark = build_taxonomy(NAMES).main
    judged = replace(benchmark, excess=c.Excess(c.Estimate(*excess), ""))
    assert standing(judged) is expected


@pytest.mark.parametrize("value", [-0.2, 0.001, 0.2])
@pytest.mark.parametrize("is_class_lost", [False, True])
def test_the_sign_never_contradicts_the_verdict(build_taxonomy, value, is_class_lost) -> None:
    low, high = value - 0.05, value + 0.05
    f1 = (0.2, 0.8, 0.8) if is_class_lost else (0.7, 0.8, 0.8)
    figures = BenchmarkFigures(
        NAMES,
        did_train=True,
        f1=f1,
        f1_low=f1,
        excess=Measured(value, low, high, "blind"),
        controls=("blind", "ngram", "reference"),
    )
    verdict = give_verdict(figures)
    told = c.Excess(c.Estimate(value, low, high), verdict.sentence, verdict.kind)
    state = standing(replace(build_taxonomy(NAMES).main, excess=told))
    assert (state is Standing.BEYOND) == (verdict.kind == "adds")
    assert (state is Standing.WITHIN) == (verdict.kind == "nothing")
    if not is_class_lost:  # the interval alone gives the same
        assert standing(replace(build_taxonomy(NAMES).main, excess=replace(told, kind=""))) is state


def test_without_training_or_controls_there_is_no_verdict(build_taxonomy) -> None:
    benchmark = build_taxonomy(NAMES).main
    untrained = [
        replace(row, did_train=False, min_f1=c.Estimate(None)) if row.source == "model" else row
        for row in benchmark.rows
    ]
    assert standing(replace(benchmark, rows=tuple(untrained))) is Standing.UNTRAINED
    assert standing(replace(benchmark, excess=None)) is Standing.UNCONTROLLED
    assert standing(replace(benchmark, impossible="too few")) is Standing.IMPOSSIBLE
    assert standing(None) is Standing.IMPOSSIBLE


def test_the_bar_is_the_best_of_all_without_memory(build_taxonomy) -> None:
    scores = {"model": 0.9, "blind": 0.4, "ngram": 0.5, "reference": 0.6, "control": 0.7}
    benchmark = build_taxonomy(NAMES, scores=scores | {"logits": 0.8}).main
    assert best_without_memory(benchmark) == ("reference", 0.6)


def test_a_null_result_is_said_plainly_with_its_positive_control(content) -> None:
    facts, found = answer(content)
    assert "finished 4,044 of them (60.4\u202f%) word for word" in facts
    assert found.startswith("Under neither taxonomy does attention tell the classes apart better")
    assert "excess −11.8 points [−16.2,\xa0−7.1] and −20.0 points" in found
    assert "tell the classes apart with min-F1 61.1\u202f% and 86.2\u202f%" in found


def test_a_positive_result_is_said_with_its_figures(content, build_taxonomy) -> None:
    one = with_excess(build_taxonomy, 0.2, 0.1, 0.3)
    text = answer(replace(content, taxonomies=(one,)))[1]
    assert text.startswith("Attention tells the classes apart better")
    assert "it shows memory, and not only text (excess +20.0 points [10.0,\xa030.0])." in text
    both = answer(replace(content, taxonomies=(one, one)))[1]
    assert both.startswith("Under both taxonomies attention tells")


def test_no_positive_control_is_claimed_when_logits_fail_too(content, build_taxonomy) -> None:
    scores = {"model": 0.2, "blind": 0.5, "reference": 0.3, "logits": 0.45}
    one = with_excess(build_taxonomy, -0.3, -0.4, -0.2, scores=scores)
    text = answer(replace(content, taxonomies=(one,)))[1]
    assert text.startswith("Attention does not tell")
    assert "log-probabilities" not in text


def test_mixed_results_name_each_side_once(content, build_taxonomy) -> None:
    group = (
        with_excess(build_taxonomy, 0.2, 0.1, 0.3, title="A"),
        with_excess(build_taxonomy, -0.2, -0.3, -0.1, title="B"),
        with_excess(build_taxonomy, 0.01, -0.1, 0.1, title="C"),
    )
    text = answer(replace(content, taxonomies=group))[1]
    assert text.startswith("Under “A” attention tells the classes apart better")
    assert "under “B” it does not (excess −20.0" in text
    assert "under “C” this remains undecided" in text


def test_many_taxonomies_are_counted_and_not_listed(content, build_taxonomy) -> None:
    one = with_excess(build_taxonomy, -0.2, -0.3, -0.1)
    text = answer(replace(content, taxonomies=(one,) * 7))[1]
    assert text.startswith("Under none of 7 taxonomies does attention tell")
    assert "points" not in text


def test_without_a_reference_model_none_is_claimed(content, build_taxonomy) -> None:
    scores = {"model": 0.2, "blind": 0.5, "ngram": 0.3, "control": 0.2, "logits": 0.8}
    one = with_excess(build_taxonomy, -0.3, -0.4, -0.2, scores=scores)
    text = answer(replace(content, taxonomies=(one,), reference=None))[1]
    assert "from the tokens alone (excess" in text
    assert "never saw" not in text


def test_a_study_without_taxonomies_states_only_the_facts(content) -> None:
    assert len(answer(replace(content, taxonomies=()))) == 1


def test_an_untrained_cnn_gives_way_to_the_regression(build_taxonomy) -> None:
    benchmark = build_taxonomy(NAMES).main
    rows = tuple(
        replace(row, did_train=False, min_f1=c.Estimate(None), f1=())
        if row.source == "model"
        else row
        for row in benchmark.rows
    )
    text = benchmark_sentence(replace(benchmark, rows=rows))
    assert "did not learn even their own training sequences" in text
    assert "reaches min-F1 38.4\u202f%" in text


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        ((-0.15, -0.2, -0.1), "does better (38.4\u202f%; CNNs minus regression −15.0 points"),
        ((0.02, -0.03, 0.07), "does as well within the interval (38.4\u202f%; CNNs minus"),
        ((0.02, 0.01, 0.03), None),
        ((0.02, None, None), None),  # a table of before there was a difference
    ],
)
def test_a_regression_that_does_as_well_as_the_cnns_is_named_by_the_interval(
    content, gap, said
) -> None:
    benchmark = replace(content.taxonomies[1].main, over_statistics=c.Estimate(*gap))
    text = benchmark_sentence(benchmark)
    assert ("needs no CNN" in text) == (said is not None)
    assert said is None or said in text
