"""The answer says what the figures say, a null result as plainly as a positive one."""

from dataclasses import replace

import pytest

from mnemoscope.benchmark.gain import Gain
from mnemoscope.benchmark.verdict import BenchmarkFigures, give_verdict
from mnemoscope.report.answer import answer, benchmark_sentence, conclusion
from mnemoscope.report.content import Benchmark, Standing
from mnemoscope.stats import Estimate
from tests.report.conftest import make_benchmark, make_taxonomy

NAMES = ("Non-Memo", "Guess", "Recall")
BEYOND, WITHIN, UNDECIDED = (0.2, 0.1, 0.3), (-0.2, -0.3, -0.1), (0.01, -0.1, 0.1)


@pytest.mark.parametrize("value", [-0.2, 0.001, 0.2])
@pytest.mark.parametrize("is_class_lost", [False, True])
def test_the_sign_never_contradicts_the_verdict(value, is_class_lost):
    f1 = (0.2, 0.8, 0.8) if is_class_lost else (0.7, 0.8, 0.8)
    figures = BenchmarkFigures(
        NAMES,
        did_train=True,
        f1=tuple(Estimate(one, one, one) for one in f1),
        gain=Gain(value, value - 0.05, value + 0.05, 0.07, 0.9, 0.6, 0.5),
        controls=("blind", "ngram", "reference"),
    )
    verdict = give_verdict(figures)
    state = make_benchmark(verdict=verdict.sentence, verdict_kind=verdict.kind).standing
    assert (state is Standing.BEYOND) == (verdict.kind == "adds")
    assert (state is Standing.WITHIN) == (verdict.kind == "nothing")


def test_without_training_or_controls_there_is_no_verdict_and_the_bar_is_the_best_without_memory():
    untrained = make_benchmark(scores={"model": None, "blind": 0.4})
    assert untrained.standing is Standing.UNTRAINED
    assert make_benchmark(verdict=None).standing is Standing.UNCONTROLLED
    assert make_benchmark(excess=(0, 0, 0), verdict_kind="cannot").standing is (
        Standing.UNCONTROLLED
    )
    assert Benchmark("matched", impossible="too few").standing is Standing.IMPOSSIBLE
    scores = {"model": 0.9, "blind": 0.4, "ngram": 0.5, "reference": 0.6, "control": 0.7}
    assert make_benchmark(scores=scores | {"logits": 0.8}).best == ("reference", 0.6)


def test_a_null_result_is_said_plainly_with_its_positive_control(content):
    facts, said = answer(content)
    assert "finished 4,044 of them (60.4\u202f%) word for word" in facts
    assert said.startswith("Under “Prashanth et al.” nothing is left once the text is taken off: −")
    assert "; under “Guess or recall” nothing is left once the text is taken off: −20.0" in said
    assert "tell the classes apart with min-F1 61.1\u202f% and 86.2\u202f%" in said
    assert len(answer(replace(content, taxonomies=()))) == 1
    failing = {"model": 0.2, "blind": 0.5, "reference": 0.3, "logits": 0.45}
    without = make_taxonomy(n_layers=1, benchmarks=(make_benchmark(scores=failing),))
    assert "log-probabilities" not in answer(replace(content, taxonomies=[without]))[1]


GIVEN = "the text gives away"


@pytest.mark.parametrize(
    ("excesses", "said"),
    [
        ((WITHIN, BEYOND), "Attention shows more than the text alone gives away."),
        (
            (WITHIN, UNDECIDED),
            "Whether attention shows more than the text gives away is undecided.",
        ),
        ((WITHIN,), "Attention adds less than 0.06 nats to what the text gives away."),
        ((), ""),
    ],
)
def test_one_sentence_says_what_the_clearest_taxonomy_shows(content, excesses, said):
    shown = [
        make_taxonomy(n_layers=1, benchmarks=(make_benchmark(excess=one),)) for one in excesses
    ]
    assert conclusion(replace(content, taxonomies=shown)) == said


FINDINGS = {
    "SPECIFIC": "In this training Recall depends on the queries and keys of layer 0 more than ",
    "EITHER_WAY": "Recall breaks more than Guess along one direction of ",
    "ALIKE": "No part of the model was found to break one memorized class more than random ",
    "OUT_OF_REACH": "Whether memorized classes need different parts of the model cannot ",
    "FEW": "Whether memorized classes need different parts of the model cannot ",
}
OF_TRUTH = {
    "SPECIFIC": "; of text that can be guessed, what was read depends on the MLP of layer 1 ",
    "ALIKE": "; of text that can be guessed, having been read makes no difference that shows",
}


@pytest.mark.parametrize(("finding", "begins"), FINDINGS.items())
@pytest.mark.parametrize("truth", [*FINDINGS, None])
def test_the_sentence_begins_with_what_grafts_decide(content, finding, begins, truth):
    row = {"broken": "Recall", "spared": "Guess", "part": "layers.0.qk"}
    row |= {"specific": Estimate(0.1)}
    of_truth = {"broken": "read", "spared": "never read", "part": "layers.1.mlp"}
    by_truth = {"by_truth": truth and of_truth | {"specific": Estimate(0.2), "finding": truth}}
    grafts = [{"first": None}, {"first": row | {"finding": finding}} | by_truth]
    if finding == "SPECIFIC":
        grafts.append({"first": row | {"finding": "ALIKE", "specific": Estimate(0.9)}})
    taxonomies = [make_taxonomy(n_layers=1, graft=one) for one in grafts]
    said = conclusion(replace(content, taxonomies=taxonomies))
    assert said.startswith(begins)
    assert OF_TRUTH.get(truth, ".") in said
    assert ("that can be guessed" in said) == (truth in OF_TRUTH)


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
