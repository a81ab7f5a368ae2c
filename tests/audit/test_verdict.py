"""The verdict: the rule's, and where CNN and reference were asked too that of two of the three."""

import pytest

from mnemoscope.audit.evidence import SpanEvidence, span_row
from mnemoscope.audit.rule import Ruling
from mnemoscope.audit.spans import Hit, Span

PLACES = {"start": 1, "end": 5, "window_start": 0, "suffix_start": 1, "window_end": 5}


def row_of(rule, *, probability=None, reference=None):
    """A span's row; `reference` is the share of tokens that the reference gets right."""
    hit = Hit(0, 4, 1.0, [1, 2, 3, 4], (4, 8), Ruling(rule, "because", 0.0, 0.0, False, False))
    evidence = SpanEvidence(
        window=[0] * 8,
        suffix_pieces=list("abcd"),
        continuation_pieces=list("abcd"),
        logprobs=[-0.1] * 4,
        sampling_logprob=-0.4,
        tries=2,
        alternatives=[[]] * 4,
        alone_logprobs=[-1.0] * 4,
        prior=None,
        reference_score=reference,
        reference_logprobs=None if reference is None else [-2.0] * 4,
        probability=probability,
    )
    span = Span(4, 8, rule, hit, 1, 4, False)
    return span_row(span, evidence, document="a", text="xabcd", places=PLACES, threshold=0.9)


@pytest.mark.parametrize("rule", ["guess", "recall"])
def test_without_both_others_the_rule_decides(rule):
    for asked in ({}, {"probability": 0.99}, {"reference": 0.0}, {"reference": 1.0}):
        row = row_of(rule, **asked)
        assert (row["verdict"], row["rule_says"], row["reason"]) == (rule, rule, "because")


@pytest.mark.parametrize("rule", ["guess", "recall"])
@pytest.mark.parametrize("probability", [0.2, 0.5])
@pytest.mark.parametrize("reference", [0.3, 1.0])
def test_with_both_two_of_the_three_decide_and_the_reason_says_so(rule, probability, reference):
    row = row_of(rule, probability=probability, reference=reference)
    says = [
        rule,
        "recall" if probability >= 0.5 else "guess",
        "recall" if reference < 0.9 else "guess",
    ]
    assert [row[name] for name in ("rule_says", "cnn_says", "reference_says")] == says
    assert row["verdict"] == max(set(says), key=says.count)
    assert row["grounds_disagree"] == (len(set(says)) > 1)
    assert ("against the rule: because" in row["reason"]) == (row["verdict"] != rule)
