"""The verdict says what the figures say, and says so when they say nothing."""

from dataclasses import replace

import pytest

from mnemoscope.benchmark.excess import Excess
from mnemoscope.benchmark.table import BenchmarkFigures, give_verdict

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


def test_an_interval_not_above_zero_leaves_nothing() -> None:
    verdict = give_verdict(replace(SEEN, excess=Excess(-0.123, -0.18, -0.004, "blind", 0.6)))
    assert verdict.kind == "nothing"
    assert verdict.sentence.startswith("nothing is left once the text is taken off: −12.3 points")
    assert "[−18.0, −0.4]" in verdict.sentence


def test_an_interval_that_spans_zero_is_not_called_either_way() -> None:
    verdict = give_verdict(replace(SEEN, excess=Excess(0.02, -0.03, 0.07, "blind", 0.6)))
    assert verdict.kind == "unclear"
    assert verdict.sentence.startswith("cannot be told from nothing: attention adds 2.0 points")
    below = give_verdict(replace(SEEN, excess=Excess(-0.02, -0.07, 0.03, "blind", 0.6)))
    assert below.kind == "unclear"
    assert below.sentence.startswith("cannot be told from nothing: −2.0 points [−7.0, 3.0]")


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
