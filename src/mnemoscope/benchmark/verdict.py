"""The verdict of a benchmark: does attention add to what can be told without memory?

For page, terminal and table alike. It rests on the gain (`benchmark.gain`) and takes a side only
on three trainings of each CNN, beside a reference model. "Adds" wants the interval above zero, and
every class told apart better than by guessing. "Nothing" wants two things: the reader finds a mark
that was planted in maps of this size, so that its silence says something, and the upper end of the
interval lies below `EFFECT`. All else is undecided, and how much cannot be excluded is said.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from mnemoscope.benchmark.gain import POWER, Gain
from mnemoscope.benchmark.sources import BEYOND, MARK, TABLE, TEXT_ALONE
from mnemoscope.stats import Estimate
from mnemoscope.words import nats, percent

Kind = Literal["adds", "unclear", "nothing", "cannot"]

EFFECT = 0.06
"""The least gain that would be called an effect, nats a sequence.

What a lead of 5 points of min-F1 over equal controls is worth (`experiments/verdicts/run.py`).
"""
FEWEST_TRAININGS = 3
"""Trainings a source that a side is taken on: of one the noise between trainings is unknown."""

COUNTED = ("no training", "one training", "two trainings")

_points = partial(percent, unit=False)


@dataclass(frozen=True)
class BenchmarkFigures:
    """What a verdict rests on; fractions, null where there is no figure."""

    classes: tuple[str, ...]  # names in order
    did_train: bool  # whether a CNN on the model's attention left chance on its training set
    f1: tuple[Estimate, ...] = ()  # of each class, on the model's attention
    gain: Gain | None = None  # what attention adds
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
    if gain is None:
        return Verdict("cannot", f"cannot be said: {_say_missing(figures)}")
    amount = f"{nats(gain.value)} nats a sequence [{nats(gain.low)}, {nats(gain.high)}]"
    adds = f"attention adds {amount} to {BEYOND}"
    found = adds if gain.value > 0 else f"{amount} beyond {BEYOND}"
    note = _say_limits(figures, gain)
    if figures.n_trainings is not None and figures.n_trainings < FEWEST_TRAININGS:
        return Verdict(
            "unclear",
            f"undecided, with {COUNTED[figures.n_trainings]} a source (three are needed): "
            f"{found}{note}",
        )
    if gain.low > 0:
        lost = _say_lost(figures)
        return Verdict("unclear", f"{lost}{adds}{note}") if lost else Verdict("adds", adds + note)
    if gain.high >= EFFECT:
        most = f"up to {nats(gain.high)} nats a sequence"
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
        f"less than {EFFECT:g} nats, the least that counts, is left beyond {BEYOND}: "
        f"{amount}{note}",
    )


def _say_lost(figures: BenchmarkFigures) -> str:
    """Name a class told apart no better than by guessing, which gives F1 = 1 / classes."""
    chance = 1 / len(figures.classes)
    pairs = zip(figures.f1, figures.classes, strict=True)
    f1, weakest = min(pairs, key=lambda pair: pair[0].value or 0.0)
    if f1.low is not None and f1.low > chance:
        return ""
    return (
        f"{weakest} is told apart no better than by guessing "
        f"(F1 {_points(f1.value)}, guessing gives {_points(chance)}), so it means "
        "little that "
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
