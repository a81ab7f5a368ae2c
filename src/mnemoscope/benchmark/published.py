"""The paper's published figures (arXiv 2508.02573), read from package data, and ours beside them.

`data/README.md` says what each file holds. All figures are per cent; ours are fractions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from importlib import resources
from io import BytesIO
from itertools import combinations, product
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope import stats
from mnemoscope.benchmark.table import Scores
from mnemoscope.cnn.metrics import f1_per_class
from mnemoscope.columns import Column, schema_of
from mnemoscope.errors import UserError, nearest
from mnemoscope.taxonomy import PAPER, PRASHANTH
from mnemoscope.taxonomy.catalogue import rho_name
from mnemoscope.taxonomy.labels import has_verdict, label_sequences, missing_columns
from mnemoscope.taxonomy.names import match_classes, parse_taxonomy, taxonomy_or_none
from mnemoscope.words import interval, percent

PUBLISHED_MODELS = ("all", "12b", "6.9b", "2.8b")
"""Pythia sizes with a table of their own; ``all`` sums the three, as the sweep of ρ does."""


class PublishedConfusion(NamedTuple):
    """One published confusion matrix (rows true, counts) and its printed figures, in per cent.

    `taxonomy` is as published (``Others`` is the last class); `classes` as in the matrix.
    """

    taxonomy: str
    classes: tuple[str, ...]
    confusion: np.ndarray
    min_f1: float
    mean_f1: float


def published_table(model: str = "all") -> pl.DataFrame:
    """The published table of the 54 taxonomies, for one of `PUBLISHED_MODELS`.

    Figures are per cent; `mean_eval_loss` is the per-sample loss over the batch size 16. Published
    order: best min-F1 first among equally many classes. Raises UserError: no table for this model.

    >>> published_table("12b").height
    54
    """
    if model not in PUBLISHED_MODELS:
        known = ", ".join(PUBLISHED_MODELS)
        raise UserError(
            f"published tables: no model '{model}'; there are {known}."
            f"{nearest(model, PUBLISHED_MODELS)}"
        )
    return pl.read_csv(BytesIO(read_data(f"taxonomies_{model}.csv")))


def published_rho() -> pl.DataFrame:
    """The published sweep of the ROUGE threshold of the Guess node, three models summed.

    Columns ``Rouge-L``, ``Rouge-3`` (bool: is it used), ``Threshold`` (ρ, a fraction) and the
    figures of `published_table`.
    """
    frame = pl.read_csv(BytesIO(read_data("rho.csv")))
    return frame.with_columns(pl.col("Rouge-L", "Rouge-3") == "Yes")


@cache
def published_confusions() -> tuple[PublishedConfusion, ...]:
    """The 54 published confusion matrices, in the order of the file.

    Each is summed over three models, eight CNNs (`presets.GRIDS`) and three epochs: 144,000
    predictions a row, made on 2,000 evaluation sequences a class and model.
    """
    return tuple(
        PublishedConfusion(
            taxonomy=entry["taxonomy"],
            classes=tuple(entry["labels"]),
            confusion=_frozen(entry["confusion"]),
            min_f1=entry["min_f1"],
            mean_f1=entry["mean_f1"],
        )
        for entry in json.loads(read_data("taxonomy_confusions.json"))
    )


def _frozen(confusion: list[list[int]]) -> np.ndarray:
    """Make a read-only array: the cached matrices are shared by all callers."""
    counts = np.asarray(confusion, dtype=np.int64)
    counts.setflags(write=False)
    return counts


def published_profile() -> pl.DataFrame:
    """The published layer profile of Δ of Pythia 12b: `layer` and a column a class, fractions."""
    return pl.read_csv(BytesIO(read_data("layer_profile_12b.csv")))


def read_data(name: str) -> bytes:
    """Read one file of the package data."""
    return (resources.files("mnemoscope.benchmark") / "data" / name).read_bytes()


_percent = partial(percent, unit=False)
VerdictWord = Literal["holds", "does not hold", "cannot be told"]
ConclusionFigures = dict[str, float | dict[str, float | None] | None]

_BEST = "Non-Memo, Guess, Others"
# Prashanth et al.'s own taxonomy first, then the nearest that a corpus can fill.
_RECITE_OR_RECOLLECT = tuple(
    f"Non-Memo, Recite[{limit}], {rest}"
    for rest in ("Reconstruct, Others", "Others")
    for limit in ("5", "50", "1k")
)
_FEW_SHOT = {
    limit: (f"Non-Memo, Recite[{limit}], Others", f"Non-Memo, Recollect[{limit}], Others")
    for limit in ("5", "50", "1k")
}
PUBLISHED_GUESSED = 0.283
"""Share of extractable text that can be guessed, as the paper prints it."""
_A_GOOD_PART = 0.25
_NO_SIDE = " There is no interval, so no side is taken."
_INSIDE = (0.5, 0.6, 0.7, 0.8, 0.9)
_BELOW = (0.1, 0.2, 0.3, 0.4)
_SERIES = {"ROUGE-L or ROUGE-3": (True, True), "ROUGE-L": (True, False), "ROUGE-3": (False, True)}


@dataclass(frozen=True)
class Measured:
    """One taxonomy's figures, fractions."""

    name: str  # as published; the classes in the order of the matrix
    min_f1: float  # fraction
    confusion: stats.Floats | None = (
        None  # (classes, classes), rows true; None where it is not known
    )
    # the same of every resample, (resamples, classes, classes), taxonomies of one set together;
    # None where there are no predictions to resample
    draws: stats.Floats | None = None
    # the taxonomy that shares these figures (same rule, or same labels on these sequences); empty
    # for its own
    trained_as: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in order."""
        return tuple(self.name.split(", "))

    def min_f1_draws(self) -> stats.Floats | None:
        """Min-F1 of every resample."""
        return None if self.draws is None else f1_per_class(self.draws).min(axis=-1)


@dataclass(frozen=True)
class Conclusion:
    """A conclusion of the paper and what the figures say of it.

    `key` is `best`, `confused`, `plateau`, `guessed` or `few-shot`.

    `reason` gives the figures in per cent, `figures` the same for programs, as fractions; one with
    an interval as `value`, `low` and `high`.
    """

    key: str
    claim: str
    verdict: VerdictWord
    reason: str
    figures: ConclusionFigures = field(default_factory=dict)


def draw_conclusions(
    catalogue: Mapping[str, Measured],
    sweep: Mapping[str, Measured],
    *,
    guessed: stats.Estimate = stats.NO_ESTIMATE,
    by_sign: bool = False,
) -> tuple[Conclusion, ...]:
    """Test the paper's conclusions on measured figures.

    Guess-Recall is best, Recite and Recollect are confused most, ρ has a plateau, a good part of
    what can be extracted is guessed (`guessed`: the share of memorized sequences), and few-shot
    recollection is no mechanism of its own.

    `catalogue` holds taxonomies by published name, of two for one partition either; `sweep` the ρ
    settings by `published_rho_name`. A difference without an interval takes no side, unless its
    sign is to decide (`by_sign`).
    """
    return (
        _judge_best(catalogue, by_sign),
        _judge_confused(catalogue, by_sign),
        _judge_plateau(sweep, by_sign),
        _judge_guessed(guessed, by_sign),
        _judge_few_shot(catalogue, by_sign),
    )


def published_rho_name(rouge_l: bool, rouge_3: bool, threshold: float) -> str:
    """Name a setting of the ρ sweep as the published tables would, and its twin among the 54 so.

    >>> published_rho_name(True, False, 0.6)
    'Non-Memo, Guess[0.6-off], Others'
    """
    if rouge_l and rouge_3 and threshold == 0.5:
        return _BEST
    return rho_name(threshold, rouge_l=rouge_l, rouge_3=rouge_3).replace("Recall", "Others")


def pair_errors(confusions: stats.Floats) -> dict[tuple[int, int], stats.Floats]:
    """For each pair of classes, how often one is taken for the other, from (..., classes, classes).

    Among predictions that name one of the two for a sequence of one of the two, the share that
    names the wrong one: 0 is perfect, one half is guessing, 0 where neither is ever named.
    """
    found = {}
    for a, b in combinations(range(confusions.shape[-1]), 2):
        wrong = confusions[..., a, b] + confusions[..., b, a]
        named = wrong + confusions[..., a, a] + confusions[..., b, b]
        found[a, b] = np.divide(wrong, named, out=np.zeros_like(wrong * 1.0), where=named > 0)
    return found


def _judge_best(catalogue: Mapping[str, Measured], by_sign: bool) -> Conclusion:
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
        reason = "No other published taxonomy was measured."
        return Conclusion("best", claim, "cannot be told", reason)
    rival = max(others, key=lambda one: one.min_f1)
    difference = stats.Estimate(best.min_f1 - rival.min_f1, *_lead(best, others))
    rank = 1 + sum(one.min_f1 > best.min_f1 for one in others)
    reason = (
        f"Its min-F1 is {_percent(best.min_f1)}, rank {rank} of {n} measured; the best of the "
        f"others is {rival.name} with {_percent(rival.min_f1)}; difference "
        f"{_points(difference)}."
    )
    figures: ConclusionFigures = {
        "min_f1": best.min_f1,
        "rival_min_f1": rival.min_f1,
        "difference": difference._asdict(),
        "n": float(n),
    }
    if n < stats.FEWEST:
        reason += f" {n} taxonomies are too few to speak of all."
        return Conclusion("best", claim, "cannot be told", reason, figures)
    return _concluded("best", claim, reason, difference, by_sign, figures)


def _judge_confused(catalogue: Mapping[str, Measured], by_sign: bool) -> Conclusion:
    claim = (
        "Recite and Recollect are hard to tell apart: of all classes of their taxonomy these two "
        "are confused most."
    )
    found = [catalogue[name] for name in _RECITE_OR_RECOLLECT if name in catalogue]
    chosen = next((one for one in found if one.confusion is not None), None)
    if chosen is None or chosen.confusion is None:
        reason = "No published taxonomy of Recite and Recollect was measured."
        return Conclusion("confused", claim, "cannot be told", reason)
    classes = chosen.classes
    pair = (1, len(classes) - 1)
    errors = {key: float(value) for key, value in pair_errors(chosen.confusion).items()}
    rest = max((key for key in errors if key != pair), key=lambda key: errors[key])
    apart = errors[pair] - errors[rest]
    error, difference = stats.Estimate(errors[pair]), stats.Estimate(apart)
    if chosen.draws is not None:
        drawn = pair_errors(chosen.draws)
        largest = np.max([value for key, value in drawn.items() if key != pair], axis=0)
        difference = stats.estimate_of(apart, drawn[pair] - largest)
        error = stats.estimate_of(errors[pair], drawn[pair])
    f1 = f1_per_class(chosen.confusion)
    next_pair = " and ".join([*classes[:-1], "Recollect"][index] for index in rest)
    reason = (
        f"In {chosen.name}, of the decisions between Recite and its last class, Recollect, "
        f"{_percent(error.value)} % {_ends(error)}are wrong (guessing: 50 %); "
        f"next come {next_pair} with {_percent(errors[rest])} %, "
        f"difference {_points(difference)}. "
        f"F1 of {classes[1]} {_percent(float(f1[1]))}, of Recollect {_percent(float(f1[-1]))}."
    )
    if error.high is not None and error.high >= 0.5:
        reason += " They are told apart no better than by guessing."
    figures: ConclusionFigures = {
        "error": error._asdict(),
        "next_error": errors[rest],
        "difference": difference._asdict(),
        "recite_f1": float(f1[1]),
        "recollect_f1": float(f1[-1]),
    }
    return _concluded("confused", claim, reason, difference, by_sign, figures)


def _judge_plateau(sweep: Mapping[str, Measured], by_sign: bool) -> Conclusion:
    """Every series of the sweep: how much min-F1 varies from 0.5 to 0.9, and falls below."""
    claim = (
        "Min-F1 of Guess or Recall hardly depends on ρ between 0.5 and 0.9: it varies there by at "
        "most half of what it loses further down."
    )
    every = (_judge_series(name, sweep, by_sign) for name in _SERIES)
    judged = [one for one in every if one is not None]
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


def _judge_series(name: str, sweep: Mapping[str, Measured], by_sign: bool) -> Conclusion | None:
    """One series; None with too few settings (four inside, one below).

    The drop is to the lowest ρ measured, chosen beforehand: an interval around zero says that no
    edge is seen, however flat the inside is.
    """
    points = {
        rho: sweep.get(published_rho_name(*_SERIES[name], rho)) for rho in (*_BELOW, *_INSIDE)
    }
    inside = [one for rho in _INSIDE if (one := points[rho]) is not None]
    below = [(rho, one) for rho in _BELOW if (one := points[rho]) is not None]
    if len(inside) < 4 or not below:
        return None
    rho, foot = below[0]
    values = np.array([one.min_f1 for one in inside])
    spread, lost = float(np.ptp(values)), float(values.mean() - foot.min_f1)
    drop, rest = stats.Estimate(lost), stats.Estimate(lost / 2 - spread)
    drawn = [draws for one in inside if (draws := one.min_f1_draws()) is not None]
    foot_draws = foot.min_f1_draws()
    if foot_draws is not None and len(drawn) == len(inside):
        drops = np.mean(drawn, axis=0) - foot_draws
        drop = stats.estimate_of(lost, drops)
        rest = stats.estimate_of(lost / 2 - spread, drops / 2 - np.ptp(drawn, axis=0))
    verdict = _decide(drop, by_sign)
    if verdict == "holds":
        verdict = _decide(rest, by_sign)
    reason = (
        f"{name}: {_percent(values.min())} to {_percent(values.max())} inside (spread "
        f"{_percent(spread)}), {_percent(foot.min_f1)} at ρ = {rho:g} (a drop of "
        f"{_points(drop)}): {verdict}."
    )
    return Conclusion(name, "", verdict, reason, {"spread": spread, "drop": drop._asdict()})


def _judge_guessed(guessed: stats.Estimate, by_sign: bool) -> Conclusion:
    claim = "Over a quarter of what can be extracted is guessed, not recalled."
    if guessed.value is None:
        reason = "Of no memorized sequence is it known whether it can be guessed."
        return Conclusion("guessed", claim, "cannot be told", reason)
    difference = _less(guessed, _A_GOOD_PART)
    reason = f"{_percent(guessed.value)} % {_ends(guessed)}of the memorized sequences are Guess."
    return _concluded("guessed", claim, reason, difference, by_sign, {"share": guessed._asdict()})


def pair_auc(confusions: stats.Floats) -> stats.Floats:
    """AUC of classes 1 and 2 by the decisions between them, from (..., classes, classes).

    The mean of both classes' share of right ones: the area below a curve of one point, a lower
    bound of the AUC of the scores. One half where a class has no such decision.
    """
    rates = []
    for own, other in ((1, 2), (2, 1)):
        right, wrong = confusions[..., own, own], confusions[..., own, other]
        named = right + wrong
        rates.append(np.divide(right, named, out=np.full_like(named * 1.0, 0.5), where=named > 0))
    return np.asarray((rates[0] + rates[1]) / 2)


def _judge_few_shot(catalogue: Mapping[str, Measured], by_sign: bool) -> Conclusion:
    claim = (
        "Few-shot recollection is no mechanism of its own: at no δ are Recite[δ] and Recollect[δ] "
        "told apart as well as Guess and Recall."
    )
    best = catalogue.get(_BEST)
    found = {
        limit: [one for name in names if (one := catalogue.get(name)) and one.confusion is not None]
        for limit, names in _FEW_SHOT.items()
    }
    found = {limit: ones for limit, ones in found.items() if ones}
    if best is None or best.confusion is None or not found:
        reason = "Guess or Recall, or Recite[δ] at some δ, was not measured."
        return Conclusion("few-shot", claim, "cannot be told", reason)
    own = float(pair_auc(best.confusion))
    by_limit = {
        limit: max(float(pair_auc(one.confusion)) for one in ones if one.confusion is not None)
        for limit, ones in found.items()
    }
    apart = own - max(by_limit.values())
    difference = stats.Estimate(apart)
    every = [one.draws for ones in found.values() for one in ones]
    if best.draws is not None and all(draws is not None for draws in every):
        rivals = [pair_auc(draws) for draws in every if draws is not None]
        difference = stats.estimate_of(apart, pair_auc(best.draws) - np.max(rivals, axis=0))
    said = ", ".join(f"{_percent(auc)} at δ = {limit}" for limit, auc in by_limit.items())
    reason = (
        f"AUC of the decisions between the two (guessing: 50 %): {said}; of Guess and Recall "
        f"{_percent(own)}; difference {_points(difference)}."
    )
    figures: ConclusionFigures = {f"auc_{limit}": auc for limit, auc in by_limit.items()}
    figures |= {"guess_recall": own, "difference": difference._asdict()}
    return _concluded("few-shot", claim, reason, difference, by_sign, figures)


def _lead(best: Measured, others: Sequence[Measured]) -> tuple[float | None, float | None]:
    """95 % bounds of the lead over the best of many; none where one was not resampled.

    The lower is the smallest pairwise bound: the best must lead each. The upper holds for all pairs
    at once (largest deviation of any pair in each resample), lest one best by chance looks better.
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


def _concluded(
    key: str,
    claim: str,
    reason: str,
    difference: stats.Estimate,
    by_sign: bool,
    figures: ConclusionFigures,
) -> Conclusion:
    """What a difference decides, and that it takes no side where it has no interval."""
    if difference.low is None and not by_sign:
        reason += _NO_SIDE
    return Conclusion(key, claim, _decide(difference, by_sign), reason, figures)


def _decide(difference: stats.Estimate, by_sign: bool) -> VerdictWord:
    """On which side of zero a difference lies; without an interval untold, or by its sign."""
    value, low, high = difference
    if low is None or high is None:
        if value is None or not by_sign:
            return "cannot be told"
        return "holds" if value > 0 else "does not hold"
    return "holds" if low > 0 else "does not hold" if high < 0 else "cannot be told"


def _points(difference: stats.Estimate) -> str:
    """A difference in points and its interval, if it has one."""
    return f"{_percent(difference.value)} points {_ends(difference)}".strip()


def _ends(estimate: stats.Estimate) -> str:
    """An interval in brackets with a blank behind it, nothing where there is none."""
    return f"{interval(estimate, space=' ')} ".lstrip()


_PRINTED = "fraction, as the paper prints it"
COMPARISON_COLUMNS = {
    "kind": Column(pl.String, "`catalogue`: one of the 54; `rho`: one of the 27 settings of ρ"),
    "published_name": Column(pl.String, "the name in the published table"),
    "n_classes": Column(pl.Int64, "classes, Non-Memo among them"),
    "rouge_l": Column(pl.Boolean, "a setting of ρ: whether it uses ROUGE-L"),
    "rouge_3": Column(pl.Boolean, "whether it uses ROUGE-3"),
    "threshold": Column(pl.Float64, "ρ"),
    "taxonomy": Column(pl.String, "the study's taxonomy that the figures are of; its main sample"),
    "state": Column(pl.String, "`measured`, `alias`, or why not"),
    "note": Column(pl.String, "why not, or the name it was trained under"),
    "n_eval": Column(pl.Int64, "evaluation sequences"),
    "min_f1": Column(stats.FIGURE, "ours"),
    "mean_f1": Column(stats.FIGURE, "ours"),
    "published_min_f1": Column(pl.Float64, f"{_PRINTED}; three models summed"),
    "published_mean_f1": Column(pl.Float64, _PRINTED),
    **{
        f"published_{figure}_{model}": Column(pl.Float64, f"of Pythia {model}; not of ρ")
        for model in PUBLISHED_MODELS[1:]
        for figure in ("min_f1", "mean_f1")
    },
    "difference": Column(stats.FIGURE, "ours minus the published min-F1, which has no interval"),
    "mean_f1_difference": Column(stats.FIGURE, "the same of mean F1"),
}
COMPARISON_SCHEMA = schema_of(COMPARISON_COLUMNS)

State = Literal["measured", "alias", "impossible", "untrained", "dropped", "absent"]
"""`alias`: measured under another name of the partition; `untrained`: its CNNs stayed at chance;
`dropped`: trained without one of its classes, which is another taxonomy; `absent`: not asked for.
"""


@dataclass(frozen=True)
class OurFigures:
    """What a study found for one taxonomy."""

    taxonomy: str  # its name in the study
    published_name: str  # spelt as the published tables spell it
    state: State  # `measured`, `impossible`, `untrained` or `dropped`
    note: str = ""  # why there is no figure
    n_eval: int | None = None  # this and what follows where measured
    min_f1: stats.Estimate = stats.NO_ESTIMATE
    mean_f1: stats.Estimate = stats.NO_ESTIMATE
    confusion: stats.Floats | None = None  # (classes, classes)
    # the same of every resample, drawn together with the other taxonomies'
    draws: stats.Floats | None = None
    # the taxonomy that labels these sequences alike though its rule differs, and whose figures
    # these are; empty for its own
    same_as: str = ""


class Comparison(NamedTuple):
    """Our figures beside the published ones."""

    frame: pl.DataFrame  # columns as in `COMPARISON_SCHEMA`; the 54 in the published order, then ρ
    # of the 54 (`catalogue`) and of the ρ settings (`rho`)
    correlations: dict[str, stats.RankCorrelation]
    conclusions: tuple[Conclusion, ...]  # the paper's, put to our figures

    def as_json(self) -> dict[str, object]:
        """Correlations and conclusions as plain values, the published ones beside ours."""
        return {
            "correlations": {kind: one.as_json() for kind, one in self.correlations.items()},
            "conclusions": [asdict(one) for one in self.conclusions],
            "published_conclusions": [asdict(one) for one in published_conclusions()],
        }


def ours_of(
    taxonomy: str, published_name: str, scored: Scores, draws: stats.Floats | None
) -> OurFigures:
    """Figures to compare."""
    if scored.min_f1.value is None:
        own = "its CNN did not leave" if scored.n_runs == 1 else "none of its CNNs left"
        note = f"{own} chance on its own training set"
        return OurFigures(taxonomy, published_name, "untrained", note)
    return OurFigures(
        taxonomy,
        published_name,
        "measured",
        n_eval=scored.n_eval,
        min_f1=scored.min_f1,
        mean_f1=scored.mean_f1,
        confusion=np.array(scored.confusion, dtype=np.float64),
        draws=draws,
    )


def compare_with_published(
    ours: Sequence[OurFigures], guessed: stats.Estimate = stats.NO_ESTIMATE
) -> Comparison:
    """Put our figures beside the published; `guessed` is the share of memorized that are Guess."""
    by_key: dict[str, OurFigures] = {}
    for one in ours:
        taxonomy = taxonomy_or_none(one.published_name)
        if taxonomy is not None:
            by_key.setdefault(taxonomy.partition_key, one)
    rows = [
        published | _our_columns(published, by_key.get(_key(published["published_name"])))
        for published in _published_rows()
    ]
    frame = stats.frame_of(rows, COMPARISON_SCHEMA)
    kinds = ("catalogue", "rho")
    measured = {kind: _measured(frame, kind, by_key) for kind in kinds}
    return Comparison(
        frame,
        {kind: _correlate(frame, kind, by_key) for kind in kinds},
        draw_conclusions(measured["catalogue"], measured["rho"], guessed=guessed),
    )


@cache
def published_conclusions() -> tuple[Conclusion, ...]:
    """Put the paper's conclusions to its own figures, which have no intervals, by the same code."""
    catalogue = {
        one.taxonomy: Measured(one.taxonomy, one.min_f1 / 100, one.confusion.astype(np.float64))
        for one in published_confusions()
    }
    sweep = {
        row["published_name"]: Measured(row["published_name"], row["published_min_f1"])
        for row in _published_rows()
        if row["kind"] == "rho"
    }
    return draw_conclusions(
        catalogue, sweep, guessed=stats.Estimate(PUBLISHED_GUESSED), by_sign=True
    )


@cache
def _published_rows() -> tuple[dict[str, Any], ...]:
    """The published side of every row, fractions."""
    tables = {
        model: {row["tax_name"]: row for row in published_table(model).iter_rows(named=True)}
        for model in PUBLISHED_MODELS
    }
    rows = []
    for name, printed in tables["all"].items():
        row = {"kind": "catalogue", "published_name": name, "n_classes": printed["num_classes"]}
        row |= _published_figures("", printed)
        for model in PUBLISHED_MODELS[1:]:
            row |= _published_figures(f"_{model}", tables[model][name])
        rows.append(row)
    for printed in published_rho().iter_rows(named=True):
        setting = (printed["Rouge-L"], printed["Rouge-3"], printed["Threshold"])
        row = {"kind": "rho", "published_name": published_rho_name(*setting), "n_classes": 3}
        row |= dict(zip(("rouge_l", "rouge_3", "threshold"), setting, strict=True))
        row |= _published_figures("", printed)
        rows.append(row)
    return tuple(rows)


def _published_figures(suffix: str, printed: Mapping[str, Any]) -> dict[str, float]:
    """Min-F1 and mean F1 of one printed row, fractions of one decimal of a per cent."""
    return {
        f"published_{figure}{suffix}": round(printed[figure] / 100, 3)
        for figure in ("min_f1", "mean_f1")
    }


def _our_columns(published: Mapping[str, Any], one: OurFigures | None) -> dict[str, object]:
    if one is None:
        return {"state": "absent"}
    same = ""
    if one.published_name != published["published_name"]:
        same = f"the same partition as {one.published_name}"
    elif one.same_as:
        same = f"the same labels here as {one.same_as}"
    note = ": ".join(part for part in (same, one.note) if part) or None
    taxonomy = one.same_as or one.taxonomy
    row: dict[str, object] = {"taxonomy": taxonomy, "state": one.state, "note": note}
    if one.min_f1.value is None:
        return row
    return {
        **row,
        "state": "alias" if same else "measured",
        "n_eval": one.n_eval,
        "min_f1": one.min_f1,
        "mean_f1": one.mean_f1,
        "difference": _less(one.min_f1, published["published_min_f1"]),
        "mean_f1_difference": _less(one.mean_f1, published["published_mean_f1"]),
    }


def _less(estimate: stats.Estimate, known: float) -> stats.Estimate:
    return stats.Estimate(*(None if one is None else one - known for one in estimate))


def _measured(
    frame: pl.DataFrame, kind: str, by_key: Mapping[str, OurFigures]
) -> dict[str, Measured]:
    """Our figures by published name, each partition once, classes in the published order."""
    rows = frame.filter(kind=kind).drop_nulls("min_f1").unnest("min_f1")
    own_first = rows.sort(pl.col("state") == "alias", maintain_order=True)
    measured: dict[str, Measured] = {}
    seen = set()
    for name, value in own_first.select("published_name", "value").iter_rows():
        key = _key(name)
        if key in seen:
            continue
        seen.add(key)
        one = by_key[key]
        order = match_classes(parse_taxonomy(one.published_name), parse_taxonomy(name))
        confusion, draws = (_reorder(each, order) for each in (one.confusion, one.draws))
        measured[name] = Measured(name, value, confusion, draws, one.same_as or one.taxonomy)
    return measured


def _reorder(confusions: stats.Floats | None, order: Sequence[int]) -> stats.Floats | None:
    if confusions is None:
        return None
    places = list(order)
    return np.asarray(confusions[..., places, :][..., places])


def _correlate(
    frame: pl.DataFrame, kind: str, by_key: Mapping[str, OurFigures]
) -> stats.RankCorrelation:
    """Our min-F1 against the published; names that share figures count once, by their mean."""
    rows = frame.filter(kind=kind).drop_nulls("min_f1").unnest("min_f1")
    pairs = rows.group_by("taxonomy", maintain_order=True).agg(
        pl.col("value", "published_name").first(), pl.col("published_min_f1").mean()
    )
    drawn = [
        Measured(name, 0.0, None, by_key[_key(name)].draws).min_f1_draws()
        for name in pairs["published_name"]
    ]
    is_drawn = bool(drawn) and all(one is not None for one in drawn)
    draws = np.stack([one for one in drawn if one is not None], axis=1) if is_drawn else None
    return stats.correlate_ranks(
        pairs["value"].to_numpy(), pairs["published_min_f1"].to_numpy(), draws=draws
    )


@cache
def _key(published_name: str) -> str:
    return parse_taxonomy(published_name).partition_key


def published_allocation() -> dict[tuple[str, str], float]:
    """The published flow: share of all memorized sequences by both class names, fractions."""
    frame = pl.read_csv(BytesIO(read_data("allocation.csv")))
    return {(prashanth, paper): share / 100 for prashanth, paper, share in frame.iter_rows()}


def has_columns(frame: pl.DataFrame, *names: str) -> bool:
    """Whether a table has a verdict and every column that these taxonomies need."""
    needed = map(parse_taxonomy, names)
    return has_verdict(frame.columns) and not missing_columns(frame.columns, needed)


def label_twice(frame: pl.DataFrame) -> pl.DataFrame:
    """The class of each sequence in Prashanth et al.'s taxonomy (`prashanth`) and in the `paper`'s.

    Both are null where the sequence is not memorized or one of the classes is not known. Raises
    UserError: a column that one of the taxonomies needs is missing.
    """
    theirs, ours = (parse_taxonomy(name) for name in (PRASHANTH, PAPER))
    both = pl.DataFrame(
        {
            "prashanth": label_sequences(frame, theirs).cast(pl.String),
            "paper": label_sequences(frame, ours).cast(pl.String),
        }
    )
    is_known = pl.col("prashanth").is_in(theirs.classes[1:]) & pl.col("paper").is_in(
        ours.classes[1:]
    )
    return both.select(pl.when(is_known).then(pl.all()))


def allocate(frame: pl.DataFrame, groups: npt.ArrayLike | None = None) -> pl.DataFrame:
    """Count the memorized sequences by their class in both taxonomies, Prashanth et al.'s and ours.

    Gives a row a pair of classes: `prashanth`, `paper`, `n`, `share` of the memorized sequences
    whose classes are known (over `groups` of near duplicates, (n,)), `published` (0
    where the published figure has no flow) and `n_groups`. Empty where no memorized sequence has
    both classes. Raises UserError: a column that one of the taxonomies needs is missing.
    """
    theirs, ours = (parse_taxonomy(name) for name in (PRASHANTH, PAPER))
    both = label_twice(frame)
    known = both.drop_nulls()
    owners = None
    if groups is not None:
        owners = np.asarray(groups)[both["paper"].is_not_null().to_numpy()]
    published, rows = published_allocation(), []
    for first, second in product(theirs.classes[1:], ours.classes[1:]) if known.height else ():
        is_here = (known["prashanth"] == first) & (known["paper"] == second)
        rows.append(
            {
                **{"prashanth": first, "paper": second, "n": int(is_here.sum())},
                "share": stats.share_true(is_here, owners),
                "published": published.get((first.partition("[")[0], second), 0.0),
                "n_groups": stats.n_groups(owners),
            }
        )
    names = dict.fromkeys(("prashanth", "paper"), pl.String)
    figures = {"share": stats.FIGURE, "published": pl.Float64, "n_groups": pl.Int64}
    return stats.frame_of(rows, {**names, "n": pl.Int64, **figures})


def guessed_share(frame: pl.DataFrame, groups: npt.ArrayLike | None = None) -> stats.Estimate:
    """Share of the memorized sequences that are Guess, as `allocate`; no value where none has one.

    Raises UserError: a column is missing.
    """
    paper = parse_taxonomy(PAPER)
    labels = label_sequences(frame, paper).cast(pl.String)
    is_known = labels.is_in(paper.classes[1:]).fill_null(False)
    if not is_known.any():
        return stats.Estimate(None)
    owners = None if groups is None else np.asarray(groups)[is_known.to_numpy()]
    return stats.share_true(labels.filter(is_known) == paper.classes[1], owners)
