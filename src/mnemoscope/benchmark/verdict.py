"""Say in one sentence what an excess is worth.

Four kinds: attention ``adds`` to the text, ``nothing`` is left once the text is taken off,
``unclear`` where the interval spans zero, and ``cannot`` be said where a figure is missing.
"""

from dataclasses import dataclass
from typing import Literal

from mnemoscope.benchmark.excess import Excess

__all__ = ["BenchmarkFigures", "Verdict", "give_verdict"]

Kind = Literal["adds", "unclear", "nothing", "cannot"]

_GIVES = {
    "text": "what the text alone gives",
    "reference": "what the attention of a model that never saw these sequences gives",
}
_NOTHING = {
    "text": "nothing is left once the text is taken off",
    "reference": "nothing is left that a model which never saw these sequences does not show",
}


@dataclass(frozen=True)
class BenchmarkFigures:
    """What a verdict rests on; fractions, null where there is no figure.

    Attributes:
        classes: names in order.
        did_train: whether a CNN on the model's attention left chance on its training set.
        f1: of each class, on the model's attention.
        f1_low: lower ends of their 95 % intervals.
        excess: excess alignment.
        controls: the controls among these three that ran.
        failed_controls: those of them that did not train.
        has_like_runs: whether the model was trained with a CNN setting that the controls had.
        training_min_f1: the CNN's on its own training set; null where it is not known.
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


@dataclass(frozen=True)
class Verdict:
    """A verdict: its kind, for programs, and its sentence, for people."""

    kind: Kind
    sentence: str


def give_verdict(figures: BenchmarkFigures) -> Verdict:
    """Put an excess and its interval into words.

    Args:
        figures: of one taxonomy.

    Returns:
        Kind and sentence; figures in points (per cent of F1), the interval in brackets.
    """
    excess = figures.excess
    if figures.training_min_f1 == 0:
        return Verdict(
            "cannot",
            "cannot be said: the CNN never finds one of the classes, on its own training set "
            "either, so it has not learned to tell them apart",
        )
    if excess is None:
        return Verdict("cannot", f"cannot be said: {_say_missing(figures)}")
    over = "reference" if excess.strongest == "reference" else "text"
    points = f"{_points(excess.value)} points [{_points(excess.low)}, {_points(excess.high)}]"
    adds = f"attention adds {points} to {_GIVES[over]}"
    note = _say_limits(figures)
    if excess.high <= 0:
        return Verdict("nothing", f"{_NOTHING[over]}: {points}{note}")
    if excess.value <= 0:
        return Verdict(
            "unclear", f"cannot be told from nothing: {points} beyond {_GIVES[over]}{note}"
        )
    if excess.low <= 0:
        return Verdict("unclear", f"cannot be told from nothing: {adds}{note}")
    lost = _say_lost_class(figures)
    if lost:
        return Verdict("unclear", f"{lost}, so it means little that {adds}{note}")
    return Verdict("adds", f"{adds}{note}")


def _say_missing(figures: BenchmarkFigures) -> str:
    """Why there is no excess."""
    if not figures.has_like_runs:
        return (
            "the controls were not trained with this setting (benchmark.control_settings: 0 "
            "trains them with all)"
        )
    if not figures.did_train:
        return "the CNN on the model's attention did not train"
    if figures.failed_controls:
        return f"no control trained ({', '.join(figures.failed_controls)})"
    return "no control was run, so the figure may come from the text alone"


def _say_lost_class(figures: BenchmarkFigures) -> str:
    """Name the weakest class where it is not told apart better than by guessing.

    Guessing gives F1 = 1 / classes at equal class sizes; an excess above zero then only says
    that the controls lose a class even more.
    """
    chance = 1 / len(figures.classes)
    weakest = min(range(len(figures.classes)), key=lambda index: figures.f1[index])
    if figures.f1_low[weakest] > chance:
        return ""
    return (
        f"{figures.classes[weakest]} is told apart no better than by guessing "
        f"(F1 {_points(figures.f1[weakest])}, guessing gives {_points(chance)})"
    )


def _say_limits(figures: BenchmarkFigures) -> str:
    """What the excess could not be held against."""
    limits = [f"{control} did not train" for control in figures.failed_controls]
    if not {"blind", "ngram"} & set(figures.controls):
        limits.append("no blind baseline")
    if "reference" not in figures.controls:
        limits.append("no reference model")
    return f" ({', '.join(limits)})" if limits else ""


def _points(share: float) -> str:
    """Print a fraction in points with one decimal; never a negative zero."""
    return f"{round(100 * share, 1) + 0.0:.1f}".replace("-", "−")
