"""The answer says what the figures say, a null result as plainly as a positive one."""

from dataclasses import replace

import pytest

from mnemoscope.benchmark.gain import Gain
from mnemoscope.benchmark.verdict import BenchmarkFigures, give_verdict
from mnemoscope.report.answer import answer, benchmark_sentence
from mnemoscope.report.content import Benchmark, Standing
from mnemoscope.stats import Estimate
from tests.report.conftest import make_benchmark, make_taxonomy

NAMES = ("Non-Memo", "Guess", "Recall")


@pytest.mark.parametrize("value", [-0.2, 0.001, 0.2])
@pytest.mark.parametrize("is_class_lost", [False, True])
def test_the_sign_never_contradicts_the_verdict(value, is_class_lost):
    f1 = (0.2, 0.8, 0.8) if is_class_lost else (0.7, 0.8, 0.8)
    figures = BenchmarkFigures(
        NAMES,
        did_train=True,
        f1=tuple(Estimate(one, one, one) for one in f1),
        gain=Gain(value, value - 0.05, value + 0.05, 0.07, 0.9, 0.6, 0.5),
        excess=Estimate(value, value - 0.05, value + 0.05),
        controls=("blind", "ngram", "reference"),
    )
    verdict = give_verdict(figures)
    excess = (value, value - 0.05, value + 0.05)
    told = {"verdict": verdict.sentence, "verdict_kind": verdict.kind}
    made = make_benchmark(excess=excess, **told)
    assert (made.standing is Standing.BEYOND) == (verdict.kind == "adds")
    assert (made.standing is Standing.WORSE) == (value < -0.05)
    assert made.brief == verdict.sentence.split(": ")[0]


def test_without_training_or_controls_there_is_no_verdict_and_the_bar_is_the_best_without_memory():
    untrained = make_benchmark(scores={"model": None, "blind": 0.4})
    assert untrained.standing is Standing.UNTRAINED
    assert make_benchmark(verdict=None).standing is Standing.UNCONTROLLED
    assert untrained.brief == "Did not train"
    assert make_benchmark(excess=(0, 0, 0), verdict_kind="cannot").standing is (
        Standing.UNCONTROLLED
    )
    assert Benchmark("matched", impossible="too few").standing is Standing.IMPOSSIBLE
    scores = {"model": 0.9, "blind": 0.4, "ngram": 0.5, "reference": 0.6, "control": 0.7}
    assert make_benchmark(scores=scores | {"logits": 0.8}).best == ("reference", 0.6)


def test_a_null_result_is_said_plainly_with_its_positive_control(content):
    facts, said = answer(content)
    assert "finished 4,044 of them (60.4\u202f%) word for word" in facts
    assert said.startswith("Under “Prashanth et al.” attention did worse than the text: −11.8")
    assert "; under “Guess or recall” attention did worse than the text: −20.0 points" in said
    assert "tell the classes apart with min-F1 61.1\u202f% and 86.2\u202f%" in said
    assert len(answer(replace(content, taxonomies=()))) == 1
    failing = {"model": 0.2, "blind": 0.5, "reference": 0.3, "logits": 0.45}
    without = make_taxonomy(n_layers=1, benchmarks=(make_benchmark(scores=failing),))
    assert "log-probabilities" not in answer(replace(content, taxonomies=[without]))[1]


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        ((-0.15, -0.2, -0.1), "does better (38.4\u202f%; CNNs minus regression −15.0 points"),
        ((0.02, -0.03, 0.07), "does as well within the interval (38.4\u202f%; CNNs minus"),
        ((0.02, 0.01, 0.03), None),
        ((None, None, None), None),
    ],
)
def test_a_regression_that_does_as_well_as_the_cnns_is_named_by_the_interval(gap, said):
    text = benchmark_sentence(make_benchmark(over_statistics=Estimate(*gap)))
    assert ("needs no CNN" in text) == (said is not None)
    assert said is None or said in text
    text = benchmark_sentence(make_benchmark(scores={"model": None, "statistics": 0.384}))
    assert "did not learn even their own training sequences" in text
    assert "reaches min-F1 38.4\u202f%" in text
