"""The verdict of a benchmark: does attention add to what can be told without memory?

For page, terminal and table alike. It rests on the gain (`benchmark.gain`) and takes a side only
on three trainings of each CNN, beside a reference model. "Adds" wants the interval above zero, and
every class told apart better than by guessing. "Nothing" wants two things: the reader finds a mark
that was planted in maps of this size, so that its silence says something, and the upper end of the
interval lies below `EFFECT`. All else is unclear, and why is said.

The first words of a sentence, up to its colon, answer alone (`brief_of`). An interval on one side
of zero is never called undecided: they say on which side it lies.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from mnemoscope.benchmark.gain import POWER, Gain
from mnemoscope.benchmark.sources import BEYOND, MARK, TABLE, TEXT_ALONE
from mnemoscope.stats import Estimate
from mnemoscope.words import interval, nats, percent, points

Kind = Literal["adds", "unclear", "nothing", "cannot"]

EFFECT = 0.06
"""The least gain that would be called an effect, nats a sequence.

What a lead of 5 points of min-F1 over equal controls is worth (`experiments/verdicts/run.py`).
"""
FEWEST_TRAININGS = 3
"""Trainings a source that a side is taken on: of one the noise between trainings is unknown."""

WORSE = "attention did worse than the text"
_BETTER = "attention did better than the text"
_WANTED = "three needed for a verdict"
COUNTED = ("no training", "one training", "two trainings")

_points = partial(percent, unit=False)


@dataclass(frozen=True)
class BenchmarkFigures:
    """What a verdict rests on; fractions, null where there is no figure."""

    classes: tuple[str, ...]  # names in order
    did_train: bool  # whether a CNN on the model's attention left chance on its training set
    f1: tuple[Estimate, ...] = ()  # of each class, on the model's attention
    gain: Gain | None = None  # what attention adds
    excess: Estimate | None = None  # min-F1 minus the best control's
    n_trainings: int | None = None  # of the CNN source that has fewest; None without CNNs
    controls: tuple[str, ...] = ()  # the sources without memory that ran
    failed_controls: tuple[str, ...] = ()  # those of them that did not train
    # whether the model was trained with a CNN setting that the controls had
    has_like_runs: bool = True
    training_min_f1: float | None = None  # the CNN's on its own training set
    interval_note: str | None = None  # why there is no interval; null where there is
    # whether the reader finds a planted mark; null where that was not tried
    finds_mark: bool | None = None
    reader: str = "CNN"  # what reads the attention, in a word


@dataclass(frozen=True)
class Verdict:
    """A verdict: its kind, for programs, and its sentence, for people."""

    kind: Kind
    sentence: str


def give_verdict(figures: BenchmarkFigures) -> Verdict:
    """Put a gain and its interval into words; nats a sequence, the interval in brackets."""
    gain = figures.gain
    if figures.training_min_f1 == 0:
        return Verdict(
            "cannot",
            f"cannot be said: the {figures.reader} never finds one of the classes, on its own "
            "training set either, so it has not learned to tell them apart",
        )
    excess = figures.excess
    is_worse = did_worse(gain, excess)
    less = ""
    if is_worse and excess is not None and excess.value is not None:
        less = f"{points(excess.value)} points of min-F1 {interval(excess)}".strip()
    if gain is None:
        missing = _say_missing(figures)
        said = f"{WORSE}: {less}; {missing}" if is_worse else f"cannot be said: {missing}"
        return Verdict("cannot", said)
    found = f"{nats(gain.value)} nats a sequence [{nats(gain.low)}, {nats(gain.high)}]"
    details = f"{less and less + '; '}{found} beyond {BEYOND}{_say_limits(figures, gain)}"
    side = _BETTER if gain.low > 0 else WORSE if is_worse else "undecided"
    if figures.n_trainings is not None and figures.n_trainings < FEWEST_TRAININGS:
        trained = f"{COUNTED[figures.n_trainings]}; {_WANTED}"
        return Verdict("unclear", f"{side} ({trained}): {details}")
    if gain.low > 0:
        lost = _say_lost(figures)
        if lost:
            return Verdict("unclear", f"{_BETTER} ({lost}; {details}")
        return Verdict("adds", f"attention adds to the text: {details}")
    why = _say_unclear(figures, gain)
    if why is None:
        little = f"attention adds less than {EFFECT:g} nats, the least that counts"
        return Verdict("nothing", f"{WORSE if is_worse else little}: {details}")
    return Verdict("unclear", f"{side} ({why}): {details}")


def did_worse(gain: Gain | Estimate | None, excess: Estimate | None) -> bool:
    """Whether the interval of the gain lies below zero, or, of no better gain, the excess's."""
    ends = [None if one is None else one.high for one in (gain, excess)]
    is_better = gain is not None and gain.low is not None and gain.low > 0
    return not is_better and any(high is not None and high < 0 for high in ends)


def brief_of(sentence: str) -> str:
    """The first words of a verdict's sentence, which answer alone.

    >>> brief_of("undecided (one training; three needed for a verdict): 0.031 nats a sequence")
    'undecided (one training; three needed for a verdict)'
    """
    return sentence.partition(": ")[0]


def wants_trainings(sentence: str) -> bool:
    """Whether a verdict's sentence takes no side for want of trainings."""
    return any(f"({one}; {_WANTED}" in sentence for one in COUNTED)


def _say_unclear(figures: BenchmarkFigures, gain: Gain) -> str | None:
    """Why a gain that does not lie above zero is not called nothing; None where it is."""
    if gain.high >= EFFECT:
        return f"a gain of up to {nats(gain.high)} nats cannot be excluded"
    if figures.finds_mark is None:
        return f"whether the {figures.reader} would find a planted mark was not tried"
    if not figures.finds_mark:
        return f"the {figures.reader} does not find a planted mark of {100 * MARK:g} % either"
    return None


def _say_lost(figures: BenchmarkFigures) -> str:
    """Name a class told apart no better than by guessing, which gives F1 = 1 / classes."""
    chance = 1 / len(figures.classes)
    pairs = zip(figures.f1, figures.classes, strict=True)
    f1, weakest = min(pairs, key=lambda pair: pair[0].value or 0.0)
    if f1.low is not None and f1.low > chance:
        return ""
    return (
        f"{weakest} is told apart no better than by guessing): its F1 is {_points(f1.value)}, "
        f"guessing gives {_points(chance)}"
    )


def _say_missing(figures: BenchmarkFigures) -> str:
    if not figures.has_like_runs:
        return (
            "the controls were not trained with this setting (benchmark.control_settings: 0 "
            "trains them with all)"
        )
    if not figures.did_train:
        return f"the {figures.reader} on the model's attention did not train"
    if not figures.controls:
        return "no control was run, so the figure may come from the text alone"
    if not any(TABLE[one].needs_reference for one in figures.controls):
        return (
            "without a reference model, what attention adds to the text may be text "
            "that the blind baselines do not see"
        )
    if figures.failed_controls:
        return f"no control trained ({', '.join(figures.failed_controls)})"
    return figures.interval_note or "no class probabilities were kept"


def _say_limits(figures: BenchmarkFigures, gain: Gain) -> str:
    """What could not be held against the model, what was left to gain, and the study's power."""
    limits = [f"{control} did not train" for control in figures.failed_controls]
    if not set(TEXT_ALONE) & set(figures.controls):
        limits.append("no blind baseline")
    limits.append(f"{nats(gain.left)} were left to gain")
    limits.append(f"such a study sees {nats(gain.seen)} in {100 * POWER:g} % of cases")
    return f" ({', '.join(limits)})"
