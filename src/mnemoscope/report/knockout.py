"""What breaks when attention edges are cut, as the report shows it: curves, indices, copy edges."""

import math
from dataclasses import dataclass

from mnemoscope.report.content import Estimate

__all__ = [
    "CopyRow",
    "KnockoutCurve",
    "KnockoutPanel",
    "KnockoutPoint",
    "KnockoutView",
    "SpecificityRow",
    "strength_place",
]

_MARGIN_PERCENT = 5.0


@dataclass(frozen=True)
class KnockoutPoint:
    """One strength of a cut, tried on one class.

    Attributes:
        strength: per cent of all edges.
        survival: share of the class's memorized sequences that are still reproduced.
        n_edges: edges cut, a mean where they differ by sequence.
        mass: share of all attention that stood on them, a fraction.
        score: mean memorization score.
        logprob: mean log-probability of the true suffix's tokens, nats.
        draws: random draws behind the figure.
    """

    strength: float
    survival: Estimate
    n_edges: float
    mass: float
    score: float
    logprob: float
    draws: int = 1


@dataclass(frozen=True)
class KnockoutCurve:
    """Survival by strength for one choice of edges.

    Attributes:
        choice: `decisive`, `random`, `equal mass`, `same layers` or `highest mass`.
        edges_of: the class whose Δ or mass ranks the edges, empty where none does.
        name: the two in words.
        points: by rising strength.
    """

    choice: str
    edges_of: str
    name: str
    points: tuple[KnockoutPoint, ...]


@dataclass(frozen=True)
class KnockoutPanel:
    """All curves of one tried class: `curves` are drawn, `others` stand in the table alone."""

    class_name: str
    n: int
    curves: tuple[KnockoutCurve, ...]
    others: tuple[KnockoutCurve, ...] = ()


@dataclass(frozen=True)
class SpecificityRow:
    """How much more a class's decisive edges break it than the others, beyond equal mass.

    Attributes:
        class_name: whose edges are cut.
        strength: per cent of all edges.
        broken_own: share of its own sequences that break.
        broken_equal_mass: share of them that random edges of equal mass break.
        broken_others: the same share of each other class, by its decisive edges.
        index: the specificity, -2 to 2 as a fraction.
    """

    class_name: str
    strength: float
    broken_own: float
    broken_equal_mass: float
    broken_others: tuple[tuple[str, float], ...]
    index: Estimate


@dataclass(frozen=True)
class CopyRow:
    """One class with its copy edges cut, beside as many others of each sequence.

    Attributes:
        class_name: of the sequences.
        n_edges: copy edges of a sequence, mean.
        mass: share of the sequences' attention on them, a fraction.
        survival: with the copy edges cut.
        random: with as many random keys of every query cut.
        random_mass: share of the attention on these.
        equal: with as many other edges of about the same attention cut.
        equal_mass: share of the attention on these.
    """

    class_name: str
    n_edges: float
    mass: float
    survival: Estimate
    random: Estimate
    random_mass: float
    equal: Estimate
    equal_mass: float


@dataclass(frozen=True)
class KnockoutView:
    """The knockout of one taxonomy.

    Attributes:
        panels: one a tried class.
        strengths: those tried, rising.
        indices: one a class and strength.
        copies: one a class; empty where copy edges were not tried.
        statements: the result in words at the strength nearest to 1 %, a line a class.
        further: the same at the other strengths.
        attribution: whose Δ ranks the edges.
        renormalize: whether what is left of a row is scaled to its former sum.
    """

    panels: tuple[KnockoutPanel, ...]
    strengths: tuple[float, ...]
    indices: tuple[SpecificityRow, ...] = ()
    copies: tuple[CopyRow, ...] = ()
    statements: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    attribution: str = "gradient"
    renormalize: bool = False


def strength_place(strength: float, strengths: tuple[float, ...]) -> float:
    """Place a strength on a logarithmic axis, per cent of its width.

    >>> [strength_place(one, (0.1, 1.0, 10.0)) for one in (0.1, 1.0, 10.0)]
    [5.0, 50.0, 95.0]
    >>> strength_place(3.0, (3.0,))
    50.0
    """
    low, high = math.log(min(strengths)), math.log(max(strengths))
    if high == low:
        return 50.0
    return _MARGIN_PERCENT + (100 - 2 * _MARGIN_PERCENT) * (math.log(strength) - low) / (high - low)
