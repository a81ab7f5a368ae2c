"""Three conclusions of the paper, each put to a set of measured taxonomies.

The same code is put to the published figures, where all three hold, and to a study's own. A
verdict rests on a difference and its paired interval: it holds or does not hold where the
interval lies on one side of zero, else it cannot be told. Published figures have no interval
(144,000 predictions a class); there the sign decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np

from mnemoscope.benchmark.correlation import FEWEST
from mnemoscope.cnn.intervals import interval_of
from mnemoscope.cnn.metrics import Floats, f1_per_class

__all__ = ["Conclusion", "Measured", "VerdictWord", "draw_conclusions", "pair_errors", "rho_name"]

VerdictWord = Literal["holds", "does not hold", "cannot be told"]

_BEST = "Non-Memo, Guess, Others"
# Prashanth et al.'s own taxonomy first, then the nearest that a corpus can fill.
_RECITE_OR_RECOLLECT = tuple(
    f"Non-Memo, Recite[{limit}], {rest}"
    for rest in ("Reconstruct, Others", "Others")
    for limit in ("5", "50", "1k")
)
_INSIDE = (0.5, 0.6, 0.7, 0.8, 0.9)
_BELOW = (0.1, 0.2, 0.3, 0.4)
_SERIES = {
    "ROUGE-L or ROUGE-3": (True, True),
    "ROUGE-L": (True, False),
    "ROUGE-3": (False, True),
}


@dataclass(frozen=True)
class Measured:
    """One taxonomy's figures.

    Attributes:
        name: as published; the classes in the order of the matrix.
        min_f1: fraction.
        confusion: (classes, classes), rows true; None where it is not known.
        draws: the same of every resample, (resamples, classes, classes); taxonomies of one set
            are resampled together. None where there are no predictions to resample.
        trained_as: the taxonomy whose figures these are where another shares them (the same
            rule, or the same labels on these sequences); empty for its own.
    """

    name: str
    min_f1: float
    confusion: Floats | None = None
    draws: Floats | None = None
    trained_as: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in order."""
        return tuple(self.name.split(", "))

    def min_f1_draws(self) -> Floats | None:
        """Min-F1 of every resample."""
        return None if self.draws is None else f1_per_class(self.draws).min(axis=-1)


@dataclass(frozen=True)
class Conclusion:
    """A conclusion of the paper and what the figures say of it.

    Attributes:
        key: `best`, `confused` or `plateau`.
        claim: the conclusion, a sentence.
        verdict: in plain words.
        reason: the figures behind the verdict, a sentence or more; F1 in per cent.
        figures: the same figures for programs, fractions.
    """

    key: str
    claim: str
    verdict: VerdictWord
    reason: str
    figures: dict[str, float | None] = field(default_factory=dict)


def draw_conclusions(
    catalogue: Mapping[str, Measured], sweep: Mapping[str, Measured]
) -> tuple[Conclusion, ...]:
    """Put the paper's three conclusions to a set of figures.

    Args:
        catalogue: those of the 54 published taxonomies that were measured, by published name;
            of a partition with two names, one is enough.
        sweep: those of the ρ settings that were measured, by `rho_name`.

    Returns:
        Guess-Recall is the best; Recite and Recollect are confused most; ρ has a plateau.
    """
    return _judge_best(catalogue), _judge_confused(catalogue), _judge_plateau(sweep)


def rho_name(rouge_l: bool, rouge_3: bool, threshold: float) -> str:
    """Name a setting of the ρ sweep as our taxonomies spell it.

    >>> rho_name(True, False, 0.6)
    'Non-Memo, Guess[0.6-off], Others'
    """
    if rouge_l and rouge_3 and threshold == 0.5:
        return _BEST
    limits = [f"{threshold:g}" if used else "off" for used in (rouge_l, rouge_3)]
    return f"Non-Memo, Guess[{'-'.join(limits)}], Others"


def pair_errors(confusions: Floats) -> dict[tuple[int, int], Floats]:
    """For each pair of classes, how often one is taken for the other.

    Of the predictions that name one of the two for a sequence of one of the two, the share that
    names the wrong one: 0 is perfect, one half is guessing.

    Args:
        confusions: (..., classes, classes), rows true.

    Returns:
        For each pair of class indices float64 (...), 0 where neither is ever named.
    """
    found = {}
    for a, b in combinations(range(confusions.shape[-1]), 2):
        wrong = confusions[..., a, b] + confusions[..., b, a]
        named = wrong + confusions[..., a, a] + confusions[..., b, b]
        found[a, b] = np.divide(wrong, named, out=np.zeros_like(wrong * 1.0), where=named > 0)
    return found


def _judge_best(catalogue: Mapping[str, Measured]) -> Conclusion:
    """Guess-Recall against the best of the others."""
    claim = "Guess or Recall is the best of all taxonomies."
    best = catalogue.get(_BEST)
    partitions: dict[str, Measured] = {}
    for one in catalogue.values():
        partitions.setdefault(one.trained_as or one.name, one)
    if best is not None:
        partitions.pop(best.trained_as or best.name)
    others, n = list(partitions.values()), len(partitions) + 1
    if best is None:
        return Conclusion("best", claim, "cannot be told", "Guess or Recall was not measured.")
    if not others:
        return Conclusion("best", claim, "cannot be told", "No other taxonomy was measured.")
    rival = max(others, key=lambda one: one.min_f1)
    difference = best.min_f1 - rival.min_f1
    low, high = _lead(best, others)
    verdict = _decide(difference, low, high) if n >= FEWEST else "cannot be told"
    rank = 1 + sum(one.min_f1 > best.min_f1 for one in others)
    reason = (
        f"Its min-F1 is {_percent(best.min_f1)}, rank {rank} of {n} measured; the best of the "
        f"others is {rival.name} with {_percent(rival.min_f1)}; difference "
        f"{_points(difference, low, high)}."
    )
    if n < FEWEST:
        reason += f" {n} taxonomies are too few to speak of all."
    figures = {
        "min_f1": best.min_f1,
        "rival_min_f1": rival.min_f1,
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "n": float(n),
    }
    return Conclusion("best", claim, verdict, reason, figures)


def _judge_confused(catalogue: Mapping[str, Measured]) -> Conclusion:
    """Recite and Recollect against every other pair of their taxonomy."""
    claim = (
        "Recite and Recollect are hard to tell apart: of all classes of their taxonomy these two "
        "are confused most."
    )
    found = [catalogue[name] for name in _RECITE_OR_RECOLLECT if name in catalogue]
    chosen = next((one for one in found if one.confusion is not None), None)
    if chosen is None or chosen.confusion is None:
        reason = "No taxonomy of Recite and Recollect was measured."
        return Conclusion("confused", claim, "cannot be told", reason)
    classes = chosen.classes
    pair = (1, len(classes) - 1)
    errors = {key: float(value) for key, value in pair_errors(chosen.confusion).items()}
    rest = max((key for key in errors if key != pair), key=lambda key: errors[key])
    difference = errors[pair] - errors[rest]
    low = high = error_low = error_high = None
    if chosen.draws is not None:
        drawn = pair_errors(chosen.draws)
        largest = np.max([value for key, value in drawn.items() if key != pair], axis=0)
        low, high = interval_of(drawn[pair] - largest)
        error_low, error_high = interval_of(drawn[pair])
    f1 = f1_per_class(chosen.confusion)
    next_pair = " and ".join([*classes[:-1], "Recollect"][index] for index in rest)
    reason = (
        f"In {chosen.name}, of the decisions between Recite and its last class, Recollect, "
        f"{_percent(errors[pair])} % {_ends(error_low, error_high)}are wrong (guessing: 50 %); "
        f"next come {next_pair} with {_percent(errors[rest])} %, "
        f"difference {_points(difference, low, high)}. "
        f"F1 of {classes[1]} {_percent(float(f1[1]))}, of Recollect {_percent(float(f1[-1]))}."
    )
    if error_high is not None and error_high >= 0.5:
        reason += " They are told apart no better than by guessing."
    figures = {
        "error": errors[pair],
        "error_low": error_low,
        "error_high": error_high,
        "next_error": errors[rest],
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "recite_f1": float(f1[1]),
        "recollect_f1": float(f1[-1]),
    }
    return Conclusion("confused", claim, _decide(difference, low, high), reason, figures)


def _judge_plateau(sweep: Mapping[str, Measured]) -> Conclusion:
    """Every series of the sweep: how much min-F1 varies from 0.5 to 0.9, and falls below."""
    claim = (
        "Min-F1 of Guess or Recall hardly depends on ρ between 0.5 and 0.9: it varies there by at "
        "most half of what it loses further down."
    )
    judged = [one for one in (_judge_series(name, sweep) for name in _SERIES) if one is not None]
    if not judged:
        n = len(sweep)
        were = "was" if n == 1 else "were"
        reason = f"{n} of the 27 settings of ρ {were} measured, too few of any one measure."
        return Conclusion("plateau", claim, "cannot be told", reason)
    verdicts = [one.verdict for one in judged]
    verdict: VerdictWord = "cannot be told"
    if "does not hold" in verdicts:
        verdict = "does not hold"
    elif all(one == "holds" for one in verdicts) and len(judged) == len(_SERIES):
        verdict = "holds"
    reason = " ".join(one.reason for one in judged)
    figures = {f"{one.key} {key}": value for one in judged for key, value in one.figures.items()}
    return Conclusion("plateau", claim, verdict, reason, figures)


def _judge_series(name: str, sweep: Mapping[str, Measured]) -> Conclusion | None:
    """One series; None where it has too few settings (four inside, one below, are needed).

    The drop is taken to the lowest ρ measured, chosen beforehand and not for its figure; so an
    interval of it around zero says that no edge is seen, however flat the inside is.
    """
    points = {rho: sweep.get(rho_name(*_SERIES[name], rho)) for rho in (*_BELOW, *_INSIDE)}
    inside = [one for rho in _INSIDE if (one := points[rho]) is not None]
    below = [(rho, one) for rho in _BELOW if (one := points[rho]) is not None]
    if len(inside) < 4 or not below:
        return None
    rho, foot = below[0]
    values = np.array([one.min_f1 for one in inside])
    spread, drop = float(np.ptp(values)), float(values.mean() - foot.min_f1)
    drawn = [draws for one in inside if (draws := one.min_f1_draws()) is not None]
    foot_draws = foot.min_f1_draws()
    drop_low = drop_high = rest_low = rest_high = None
    if foot_draws is not None and len(drawn) == len(inside):
        drops = np.mean(drawn, axis=0) - foot_draws
        drop_low, drop_high = interval_of(drops)
        rest_low, rest_high = interval_of(drops / 2 - np.ptp(drawn, axis=0))
    edge = _decide(drop, drop_low, drop_high)
    verdict = _decide(drop / 2 - spread, rest_low, rest_high) if edge == "holds" else edge
    reason = (
        f"{name}: {_percent(values.min())} to {_percent(values.max())} inside (spread "
        f"{_percent(spread)}), {_percent(foot.min_f1)} at ρ = {rho:g} (a drop of "
        f"{_points(drop, drop_low, drop_high)}): {verdict}."
    )
    figures = {"spread": spread, "drop": drop, "drop_low": drop_low, "drop_high": drop_high}
    return Conclusion(name, "", verdict, reason, figures)


def _lead(best: Measured, others: Sequence[Measured]) -> tuple[float | None, float | None]:
    """95 % bounds of the lead over the best of many; none where one was not resampled.

    The lower one is the smallest of the pairwise bounds: the best leads all only where it leads
    each. The upper one holds for all pairs at once (the largest deviation of any pair in each
    resample), since the best of many by chance would otherwise count as better.
    """
    own = best.min_f1_draws()
    draws = [one.min_f1_draws() for one in others]
    if own is None or any(one is None for one in draws):
        return None, None
    leads = own - np.stack([one for one in draws if one is not None])
    found = np.array([best.min_f1 - one.min_f1 for one in others])
    low = np.percentile(leads, 2.5, axis=1).min()
    beyond = np.percentile((found[:, None] - leads).max(axis=0), 97.5)
    return float(low), float(found.min() + beyond)


def _interval(first: Floats | None, second: Floats | None) -> tuple[float | None, float | None]:
    """Interval of a difference; none where one of the two was not resampled."""
    if first is None or second is None:
        return None, None
    return interval_of(first - second)


def _decide(value: float, low: float | None, high: float | None) -> VerdictWord:
    """On which side of zero a difference lies; without an interval its sign decides."""
    if low is None or high is None:
        return "holds" if value > 0 else "does not hold"
    return "holds" if low > 0 else "does not hold" if high < 0 else "cannot be told"


def _percent(share: float) -> str:
    """A fraction in per cent with one decimal, a true minus sign, never a negative zero."""
    return f"{round(100 * share, 1) + 0.0:.1f}".replace("-", "−")


def _points(value: float, low: float | None, high: float | None) -> str:
    """A difference in points and its interval."""
    return f"{_percent(value)} points {_ends(low, high)}".strip()


def _ends(low: float | None, high: float | None) -> str:
    """An interval in brackets with a blank behind it, nothing where there is none."""
    return "" if low is None or high is None else f"[{_percent(low)}, {_percent(high)}] "
