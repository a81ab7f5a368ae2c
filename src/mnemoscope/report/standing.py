"""Where a taxonomy's figure stands: beyond the text, nothing beyond it, or undecided.

One rule for the sign on the page, the first paragraph and the picture, so that they cannot
disagree.
"""

from enum import Enum
from typing import NamedTuple

from mnemoscope.report.content import Benchmark, TaxonomyResult

__all__ = [
    "MEMORY_FREE",
    "SOURCE_GROUPS",
    "SOURCE_WORDS",
    "Best",
    "SourceWords",
    "Standing",
    "best_without_memory",
    "standing",
    "taxonomy_standing",
]

# Sources that reach their figure without having seen the sequences in training.
MEMORY_FREE = ("blind", "ngram", "reference")


class SourceWords(NamedTuple):
    """How a source is called, and what it is."""

    name: str
    detail: str


SOURCE_WORDS = {
    "model": SourceWords("CNNs", "on the model's maps"),
    "statistics": SourceWords("Regression", "on pooled statistics"),
    "blind": SourceWords("Blind CNNs", "on the tokens alone"),
    "ngram": SourceWords("Blind n-grams", "regression on tokens"),
    "reference": SourceWords("Reference model", "CNNs on its maps"),
    "control": SourceWords("Control task", "the same CNNs, labels permuted"),
    "logits": SourceWords("Logits", "suffix log-probabilities"),
}

# The order of every chart: what is asked, what it must beat, how low and how high figures go.
SOURCE_GROUPS = (
    ("The model's attention", ("model", "statistics")),
    ("Without any memory", MEMORY_FREE),
    ("Checks", ("control", "logits")),
)


class Standing(Enum):
    """Where min-F1 on the model's attention stands beside what is reached without memory."""

    BEYOND = "Beyond the text"
    WITHIN = "Nothing beyond the text"
    UNDECIDED = "Undecided"
    UNTRAINED = "Did not train"
    UNCONTROLLED = "Cannot be said"
    IMPOSSIBLE = "Impossible"


# The kinds of `benchmark.verdict`.
_OF_KIND = {
    "adds": Standing.BEYOND,
    "nothing": Standing.WITHIN,
    "unclear": Standing.UNDECIDED,
    "cannot": Standing.UNCONTROLLED,
}


class Best(NamedTuple):
    """The best figure without memory and the source that reaches it."""

    source: str
    value: float


def best_without_memory(benchmark: Benchmark) -> Best | None:
    """Find the larger of blind baseline and reference model, None when neither was measured."""
    found = [
        Best(row.source, row.min_f1.value)
        for row in benchmark.rows
        if row.source in MEMORY_FREE and row.min_f1.value is not None
    ]
    return max(found, key=lambda best: best.value, default=None)


def standing(benchmark: Benchmark | None) -> Standing:
    """Judge a benchmark by the kind of its verdict, or by its excess where no kind is given.

    Beyond: the whole interval is above zero. Nothing beyond: none of it is. Undecided: it spans
    zero, or there is none.
    """
    if benchmark is None or benchmark.impossible:
        return Standing.IMPOSSIBLE
    model = benchmark.row("model")
    if model is None or not model.did_train or model.min_f1.value is None:
        return Standing.UNTRAINED
    excess = benchmark.excess
    if excess is None or excess.estimate.value is None:
        return Standing.UNCONTROLLED
    if excess.kind:
        return _OF_KIND[excess.kind]
    low, high = excess.estimate.low, excess.estimate.high
    if low is None or high is None:
        return Standing.UNDECIDED
    return Standing.BEYOND if low > 0 else Standing.WITHIN if high <= 0 else Standing.UNDECIDED


def taxonomy_standing(taxonomy: TaxonomyResult) -> Standing:
    """Judge a taxonomy by its main benchmark."""
    return Standing.IMPOSSIBLE if taxonomy.impossible else standing(taxonomy.main)
