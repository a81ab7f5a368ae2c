"""What an excess is worth, in words: the rule and its sentence, for page, terminal and table alike.

A side is taken only on three trainings a source. "Adds" wants the interval above zero, and every
class told apart better than by guessing. "Nothing" wants two things: the reader finds a mark that
was planted in maps of this size, so that its silence says something, and the upper end of the
interval lies below `EFFECT`. All else is undecided, and how much cannot be excluded is said.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Literal

from mnemoscope.benchmark.excess import Excess
from mnemoscope.benchmark.sources import MARK, TABLE, TEXT_ALONE
from mnemoscope.words import percent

Kind = Literal["adds", "unclear", "nothing", "cannot"]

EFFECT = 0.05
"""The least excess that would be called an effect: 5 points of min-F1."""

_WIDEST_VARIANCE = 2 * 0.25  # of the difference of two independent shares of one half

FEWEST_TRAININGS = 3
"""Trainings a source that a side is taken on: of one the noise between trainings is unknown."""

_GIVES = {
    "tokens": "what the text alone gives",
    "reference": "what the attention of a model that never saw these sequences gives",
    "painted": "what the log-probability of each next token gives by itself",
}
_NOTHING = {
    "tokens": "nothing is left once the text is taken off",
    "reference": "nothing is left that a model which never saw these sequences does not show",
    "painted": "nothing is left once the log-probability of each next token is taken off",
}
COUNTED = ("no training", "one training", "two trainings")


def smallest_excess(n: int) -> float:
    """About the smallest excess that shows with `n` independent evaluation sequences a class.

    Half of a 95 % interval of the difference of two independent shares of one half, the widest
    there is; F1 is a share of a class's own sequences and of those called so. Near duplicates count
    once, and what two readers have in common makes the interval of a study narrower.

    >>> round(smallest_excess(200), 3)
    0.098
    """
    return min(1.0, 1.96 * sqrt(_WIDEST_VARIANCE / max(n, 1)))


@dataclass(frozen=True)
class BenchmarkFigures:
    """What a verdict rests on; fractions, null where there is no figure.

    Attributes:
        classes: names in order.
        did_train: whether a CNN on the model's attention left chance on its training set.
        f1: of each class, on the model's attention.
        f1_low: lower ends of their 95 % intervals.
        excess: excess alignment.
        controls: those of the excess that ran.
        failed_controls: those of them that did not train.
        has_like_runs: whether the model was trained with a CNN setting that the controls had.
        training_min_f1: the CNN's on its own training set.
        interval_note: why the excess has no interval; null where it has.
        finds_mark: whether the reader finds a planted mark; null where that was not tried.
        reader: what reads the attention, in a word.
    """

    classes: tuple[str, ...]
    did_train: bool
    f1: tuple[float, ...] = ()
    f1_low: tuple[float, ...] = ()
    excess: Excess | None = None
    controls: tuple[str, ...] = ()
    failed_controls: tuple[str, ...] = ()
    has_like_runs: bool = True
    training_min_f1: float | None = None
    interval_note: str | None = None
    finds_mark: bool | None = None
    reader: str = "CNN"


@dataclass(frozen=True)
class Verdict:
    """A verdict: its kind, for programs, and its sentence, for people."""

    kind: Kind
    sentence: str


def give_verdict(figures: BenchmarkFigures) -> Verdict:
    """Put an excess and its interval into words; figures in points, the interval in brackets."""
    excess = figures.excess
    if figures.training_min_f1 == 0:
        return Verdict(
            "cannot",
            f"cannot be said: the {figures.reader} never finds one of the classes, on its own "
            "training set either, so it has not learned to tell them apart",
        )
    if excess is None:
        return Verdict("cannot", f"cannot be said: {_say_missing(figures)}")
    if excess.low is None or excess.high is None:
        return Verdict("cannot", f"cannot be said: {figures.interval_note}")
    reads = TABLE[excess.strongest].reads
    points = f"{_points(excess.value)} points [{_points(excess.low)}, {_points(excess.high)}]"
    adds = f"attention adds {points} to {_GIVES[reads]}"
    found = adds if excess.value > 0 else f"{points} beyond {_GIVES[reads]}"
    if reads == "painted" and excess.low <= 0:
        found = f"this input only knows the answer, {found}"
    note = _say_limits(figures)
    if excess.n_trainings is not None and excess.n_trainings < FEWEST_TRAININGS:
        return Verdict(
            "unclear",
            f"undecided, with {COUNTED[excess.n_trainings]} a source (three are needed): "
            f"{found}{note}",
        )
    if excess.low > 0:
        lost = _say_lost(figures)
        return Verdict("unclear", f"{lost}{adds}{note}") if lost else Verdict("adds", adds + note)
    most = f"up to {_points(max(excess.high, 0.0))} points"
    if excess.high >= EFFECT:
        return Verdict("unclear", f"undecided, {most} cannot be excluded: {found}{note}")
    if not figures.finds_mark:
        why = (
            f"the {figures.reader} does not find a planted mark of {100 * MARK:g} % either"
            if figures.finds_mark is False
            else f"whether the {figures.reader} would find a planted mark was not tried"
        )
        return Verdict("unclear", f"undecided, as {why}: {found}{note}")
    return Verdict(
        "nothing",
        f"{_NOTHING[reads]}, {_points(EFFECT)} points being the least that counts: {found}{note}",
    )


def _points(value: float) -> str:
    return percent(value, unit=False)


def _say_lost(figures: BenchmarkFigures) -> str:
    """Name a class told apart no better than by guessing; the controls only lose it even more.

    Guessing gives F1 = 1 / classes at equal class sizes.
    """
    chance = 1 / len(figures.classes)
    weakest = min(range(len(figures.classes)), key=lambda index: figures.f1[index])
    if figures.f1_low[weakest] > chance:
        return ""
    return (
        f"{figures.classes[weakest]} is told apart no better than by guessing "
        f"(F1 {_points(figures.f1[weakest])}, guessing gives {_points(chance)}), so it means "
        "little that "
    )


def _say_missing(figures: BenchmarkFigures) -> str:
    """Why there is no excess."""
    if not figures.has_like_runs:
        return (
            "the controls were not trained with this setting (benchmark.control_settings: 0 "
            "trains them with all)"
        )
    if not figures.did_train:
        return f"the {figures.reader} on the model's attention did not train"
    if figures.failed_controls:
        return f"no control trained ({', '.join(figures.failed_controls)})"
    return "no control was run, so the figure may come from the text alone"


def _say_limits(figures: BenchmarkFigures) -> str:
    """What the excess could not be held against, and what chance gives the largest control."""
    limits = [f"{control} did not train" for control in figures.failed_controls]
    if not set(TEXT_ALONE) & set(figures.controls):
        limits.append("no blind baseline")
    if not any(TABLE[one].reads == "reference" for one in figures.controls):
        limits.append("no reference model")
    excess = figures.excess
    if excess is not None and excess.low is not None and excess.low <= 0 and excess.chance:
        limits.append(
            f"if nothing differed, the best control would lead by {_points(excess.chance)} points"
        )
    return f" ({', '.join(limits)})" if limits else ""
