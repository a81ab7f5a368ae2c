"""What a benchmark figure may rest on: one table of the model's attention and all its controls.

Trainings, inputs, names and what the excess counts are read off this table. A new control is an
entry here and, for a baseline, a function of `benchmark.baselines`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple


class Source(NamedTuple):
    """One thing that predictions may rest on."""

    # "attention" is what is asked; "free" needs no memory, and the excess is counted over the
    # largest of these; "check" shows how low and how high figures can go
    group: Literal["attention", "free", "check"]
    # what it sees: the model's maps, the reference's, tokens, log-probabilities of the suffix or
    # of the best token at each place of the prefix
    reads: Literal["maps", "reference", "tokens", "logprobs", "prefix"]
    name: str  # how it is called
    detail: str  # what it is, beside the name
    # where it stands in the table on the terminal; of two in one column the better; empty for
    # nowhere
    column: str
    fit: str | None = None  # function of `benchmark.baselines`, fitted once a sample; None for CNNs
    # what reads it, the CNNs or the regression on statistics; a control is held against the
    # attention that the same reader read, and one of "any" against both
    reader: Literal["cnn", "regression", "any"] = "cnn"
    phrase: str = ""  # what it is, inside a sentence
    is_permuted: bool = False  # whether the labels it learns are permuted
    # share of the suffix's attention that marks the class, see `maps.views.MarkedMaps`
    mark: float = 0.0

    @property
    def needs_reference(self) -> bool:
        """Whether it reads the reference's maps."""
        return self.reads == "reference"


MARK = 0.02
"""Share of the suffix's attention that the planted mark moves.

The least that CNNs find on the embedded model with 240 sequences a class: of four classes min-F1 is
100 % at 5 %, 56 at 2, 24 (guessing: 25) at 1 (`experiments/verdicts/marks.py`).
"""

_regression = partial(Source, fit="classify_statistics", reader="regression")
_shared = partial(Source, reader="any")

# In the order of training; `sources_of` leaves the reference out where there is none.
TABLE = {
    "model": Source("attention", "maps", "CNNs", "on the model's maps", "model"),
    "statistics": _regression(
        "attention", "maps", "Regression", "on statistics of the model's maps", "model"
    ),
    "control": Source(
        "check",
        "maps",
        "Control task",
        "the same CNNs, labels permuted",
        "control",
        is_permuted=True,
    ),
    "planted": Source(
        "check",
        "maps",
        "Planted mark",
        f"{100 * MARK:g} % of the suffix's attention, labels permuted",
        "",
        is_permuted=True,
        mark=MARK,
    ),
    "control_statistics": _regression(
        "check",
        "maps",
        "Control task",
        "the same regression, labels permuted",
        "control",
        is_permuted=True,
    ),
    "planted_statistics": _regression(
        "check",
        "maps",
        "Planted mark",
        f"the same regression, {100 * MARK:g} % of the suffix's attention",
        "",
        is_permuted=True,
        mark=MARK,
    ),
    "blind": Source(
        "free",
        "tokens",
        "Blind CNNs",
        "on the tokens alone",
        "best blind",
        phrase="a CNN on the tokens alone",
    ),
    "blind_statistics": _regression(
        "free",
        "tokens",
        "Blind regression",
        "on statistics of the tokens' repetitions",
        "best blind",
        phrase="a regression on the tokens' repetitions",
    ),
    "ngram": _shared(
        "free",
        "tokens",
        "Blind n-grams",
        "regression on tokens",
        "best blind",
        fit="ngram_logits",
        phrase="a regression on token n-grams",
    ),
    "logits": _shared(
        "check",
        "logprobs",
        "Logits",
        "suffix log-probabilities; circular",
        "logits",
        fit="classify_logprobs",
    ),
    "prefix_logits": _shared(
        "check",
        "prefix",
        "Prefix logits",
        "how sure the model is of each token of the prefix; not circular",
        "prefix logits",
        fit="classify_logprobs",
    ),
    "reference": Source(
        "free",
        "reference",
        "Reference model",
        "CNNs on its maps",
        "reference",
        phrase="a CNN on the reference model's attention",
    ),
    "reference_statistics": _regression(
        "free",
        "reference",
        "Reference regression",
        "on statistics of its maps",
        "reference",
        phrase="a regression on statistics of the reference model's attention",
    ),
}


BEYOND = (
    "what the text and the attention of the reference, named as one that never saw these "
    "sequences, give"
)
"""What a gain is counted beyond."""


def _chosen(rule: Callable[[Source], bool]) -> tuple[str, ...]:
    return tuple(name for name, source in TABLE.items() if rule(source))


ATTENTION = _chosen(lambda source: source.group == "attention")
MEMORY_FREE = _chosen(lambda source: source.group == "free")
"""A min-F1 is held against those of its reader (`of_reader`); the largest counts."""
PLANTED = _chosen(lambda source: source.mark > 0)
"""What a reader must find before its silence on the model's attention says anything."""
CHECKS = _chosen(lambda source: source.group == "check")
SOURCES = (*ATTENTION, *MEMORY_FREE, *CHECKS)
"""All, in the order of tables and charts."""
CNNS = _chosen(lambda source: source.fit is None)
BASELINES = _chosen(lambda source: source.fit is not None)
TEXT_ALONE = _chosen(lambda source: source.group == "free" and source.reads == "tokens")


def of_reader(names: Iterable[str], attention: str) -> tuple[str, ...]:
    """Those of these sources that the reader of `attention` read, or that need no reader.

    >>> of_reader(MEMORY_FREE, "statistics")
    ('blind_statistics', 'ngram', 'reference_statistics')
    """
    reader = TABLE[attention].reader
    return tuple(name for name in names if TABLE[name].reader in (reader, "any"))


def headline_of(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The reader, of a sample's rows by source, chosen within the training rows; else the CNNs."""
    chosen = [one for one, row in rows.items() if row.get("is_headline")]
    return chosen[0] if chosen else ATTENTION[0]
