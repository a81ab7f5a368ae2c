"""Turn a CNN's scores into calibrated probabilities, and measure whether they are.

Of all cases that get 0.8, eight in ten should be so. Two classes: for a CNN with more, the
difference of two logits. Fit on cases that neither trained nor chose the CNN; measure on others.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.stats import Estimate, Floats, draw_within, estimate_of, grouped_variance

ENOUGH_FOR_ISOTONIC = 1000
"""Below so many cases isotonic regression follows their noise (scikit-learn's guide says so)."""

N_FOLDS = 5
"""Fewer where one class has fewer groups."""

_Flags = npt.NDArray[np.bool_]
_Method = Literal["none", "temperature", "isotonic"]
_CANDIDATES: tuple[_Method, ...] = ("none", "temperature", "isotonic")  # from the simplest on
_N_BINS = 10
_N_RESAMPLES = 500
_NO_PENALTY = 1e8  # scikit-learn's C; targets off 0 and 1 keep the solution finite
_N_REPEATS = 4  # with other folds, so that the choice does not hang on one draw


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration; plain values, fitted on `n` cases.

    `temperature` divides logits by a number; above 1 the CNN was too sure; infinite: its order was
    no better than chance, and everything gets 0.5. ``isotonic`` is a rising step function of them:
    `knots` are logit and probability of each corner, linear in between.
    """

    method: _Method
    n: int
    temperature: float | None = None
    knots: tuple[tuple[float, float], ...] = ()


AS_IT_IS = Calibration("none", 0, temperature=1.0)
"""No calibration: the CNN's own probabilities."""


class ChosenCalibration(NamedTuple):
    """A calibration fitted on all cases, and cross-validated Brier scores if there are groups."""

    calibration: Calibration
    brier: dict[str, float]


class Bin(NamedTuple):
    """One bin of a reliability diagram: its ends, its cases, their mean and what share is so."""

    low: float
    high: float
    n: int
    mean: float
    share: float


def fit_calibration(
    logits: npt.ArrayLike,
    is_so: npt.ArrayLike,
    method: Literal["temperature", "isotonic"],
) -> Calibration:
    """Fit a calibration on held-out cases: finite log-odds (n,) and bool (n,).

    Raises ValueError: shapes differ, a logit is not finite, or there is one class only.

    Source: temperature, Guo et al., arXiv 1706.04599, as a logistic regression through the
        origin; its targets are Platt's, (k + 1) / (k + 2) of k cases in place of 1, so that
        classes told apart without a mistake do not make it infinitely sure. scikit-learn's own
        temperature scaling has no such targets.
    """
    values, truth = _check(logits, is_so)
    if truth.all() or not truth.any():
        raise ValueError("a calibration wants cases of both classes")
    if method == "isotonic":
        return Calibration("isotonic", len(values), knots=_fit_isotonic(values, truth))
    return Calibration("temperature", len(values), temperature=_fit_temperature(values, truth))


def apply_calibration(calibration: Calibration, logits: npt.ArrayLike) -> Floats:
    """Probabilities of logits, shape (n,), float64; never falling where logits rise."""
    values = np.asarray(logits, dtype=np.float64)
    if calibration.temperature is not None:
        scaled = values / calibration.temperature
        return np.asarray(np.exp(-np.logaddexp(0.0, -scaled)))
    places, heights = np.array(calibration.knots).T
    return np.asarray(np.interp(values, places, heights))


def _fit_temperature(values: Floats, truth: _Flags) -> float:
    """The temperature of the greatest likelihood; infinite where none helps."""
    from sklearn.linear_model import LogisticRegression

    n_so, n_not = int(truth.sum()), int((~truth).sum())
    wanted = np.where(truth, (n_so + 1) / (n_so + 2), 1 / (n_not + 2))
    spread = float(np.abs(values).max()) or 1.0  # the solver is at home near 1
    # Newton's method: lbfgs, at so small a tolerance, now and then ends with a warning.
    model: Any = LogisticRegression(
        C=_NO_PENALTY, fit_intercept=False, solver="newton-cholesky", tol=1e-10, max_iter=1000
    )
    model.fit(
        np.concatenate([values, values])[:, None] / spread,
        np.repeat([1, 0], len(values)),
        sample_weight=np.concatenate([wanted, 1 - wanted]),
    )
    slope = float(model.coef_[0, 0]) / spread
    return 1 / slope if slope > 0 else math.inf


def _fit_isotonic(values: Floats, truth: _Flags) -> tuple[tuple[float, float], ...]:
    """Corners of the rising step function; never 0 nor 1, which no finite sample shows."""
    from sklearn.isotonic import IsotonicRegression

    n = len(values)
    model = IsotonicRegression(y_min=1 / (n + 2), y_max=(n + 1) / (n + 2), out_of_bounds="clip")
    model.fit(values, truth.astype(float))
    return tuple(zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True))


def brier(probabilities: npt.ArrayLike, is_so: npt.ArrayLike, drawn: npt.ArrayLike = ()) -> Floats:
    """Mean squared distance of probabilities from what is so; 0.25 is always saying 0.5.

    For the cases (n,) and for each resample: (1 + resamples,). `drawn` as for `resampled_auc`.
    """
    values, truth = _check(probabilities, is_so)
    counts = np.concatenate([np.ones((1, len(values))), np.reshape(drawn, (-1, len(values)))])
    return np.asarray(counts @ (values - truth) ** 2 / counts.sum(axis=1))


def ece(probabilities: npt.ArrayLike, is_so: npt.ArrayLike) -> float:
    """Expected calibration error: how far probabilities are from shares, a mean over the cases."""
    bins = reliability(probabilities, is_so)
    return sum(one.n * abs(one.mean - one.share) for one in bins) / sum(one.n for one in bins)


def reliability(probabilities: npt.ArrayLike, is_so: npt.ArrayLike) -> list[Bin]:
    """The reliability diagram: what was said and what was so, bin by bin, without empty bins.

    Probabilities (n,), n at least 1. A value on a border belongs to the upper bin, 1 to the last.
    Raises ValueError: shapes differ, or a value is no probability.
    """
    values, truth = _check(probabilities, is_so)
    if values.min() < 0 or values.max() > 1:
        raise ValueError("probabilities lie between 0 and 1")
    edges = np.linspace(0.0, 1.0, _N_BINS + 1)
    owner = np.searchsorted(edges[1:-1], values, side="right")
    found = []
    for number in np.unique(owner).tolist():
        inside = owner == number
        low, high = edges[number : number + 2].tolist()
        mean, share = float(values[inside].mean()), float(truth[inside].mean())
        found.append(Bin(low, high, int(inside.sum()), mean, share))
    return found


def _check(values: npt.ArrayLike, is_so: npt.ArrayLike) -> tuple[Floats, _Flags]:
    """Both as arrays of one length."""
    numbers, truth = np.asarray(values, dtype=np.float64), np.asarray(is_so, dtype=bool)
    if numbers.ndim != 1 or numbers.shape != truth.shape or not len(numbers):
        raise ValueError(f"{numbers.shape} values, {truth.shape} truths: one axis, equal, not 0")
    if not np.isfinite(numbers).all():
        raise ValueError("a value is not finite")
    return numbers, truth


def choose_calibration(
    logits: npt.ArrayLike, is_so: npt.ArrayLike, groups: npt.ArrayLike, *, seed: int = 0
) -> ChosenCalibration:
    """Choose by cross-validated Brier score; arguments as `fit_calibration`.

    A candidate replaces a simpler one if its score is lower by more than one standard error of the
    difference over `groups` of near duplicates, (n,). Isotonic regression competes from
    `ENOUGH_FOR_ISOTONIC` groups on; with fewer than two groups in a class nothing is calibrated.

    Source: the rule of one standard error, Breiman et al., Classification and Regression Trees,
        1984, section 3.4.3.
    """
    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(is_so, dtype=bool)
    _, owner = np.unique(np.asarray(groups), return_inverse=True)
    repeats = [list(_folds(values, truth, owner, seed + one)) for one in range(_N_REPEATS)]
    if not all(repeats):
        return ChosenCalibration(AS_IT_IS, {})
    losses: dict[_Method, Floats] = {}
    for method in _CANDIDATES if owner.max() + 1 >= ENOUGH_FOR_ISOTONIC else _CANDIDATES[:-1]:
        made = np.empty((len(repeats), len(values)))
        for row, folds in zip(made, repeats, strict=True):
            for others, own in folds:
                row[own] = apply_calibration(
                    _fit(method, values[others], truth[others]), values[own]
                )
        losses[method] = np.asarray(((made - truth) ** 2).mean(axis=0))
    chosen: _Method = "none"
    for method in list(losses)[1:]:
        gain = losses[chosen] - losses[method]
        if gain.mean() > math.sqrt(grouped_variance(gain, owner)):
            chosen = method
    scores = {str(method): float(loss.mean()) for method, loss in losses.items()}
    return ChosenCalibration(_fit(chosen, values, truth), scores)


def cross_fitted(logits: npt.ArrayLike, is_so: npt.ArrayLike, groups: npt.ArrayLike) -> Floats:
    """Probabilities (n,) by calibrations chosen and fitted without the case, to judge them by.

    Arguments as `choose_calibration`; `ValueError` with fewer than two groups in a class.
    """
    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(is_so, dtype=bool)
    owners = np.asarray(groups)
    made = np.full(len(values), np.nan)
    for others, own in _folds(values, truth, owners, seed=0):
        choice = choose_calibration(values[others], truth[others], owners[others])
        made[own] = apply_calibration(choice.calibration, values[own])
    if np.isnan(made).any():
        raise ValueError("cross-fitting wants two groups of either class")
    return made


def over_groups(
    figure: Callable[[Floats, _Flags, npt.NDArray[np.int32]], Floats],
    values: npt.ArrayLike,
    is_so: npt.ArrayLike,
    groups: npt.ArrayLike,
) -> Estimate:
    """A figure of values and what is so, (n,), its interval over `groups` within so and not so.

    `figure` takes draws as `brier` and `resampled_auc` do.
    """
    numbers, truth = _check(values, is_so)
    drawn = draw_within(truth, np.random.default_rng(0), _N_RESAMPLES, groups=groups)
    whole, *draws = figure(numbers, truth, drawn).tolist()
    return estimate_of(whole, draws)


def _folds(values: Floats, truth: _Flags, groups: Any, seed: int) -> Iterator[tuple[Any, Any]]:
    """Rows to fit on and rows to judge on, no group in both; none where a class has one group."""
    from sklearn.model_selection import StratifiedGroupKFold

    n_groups = min(len(np.unique(groups[truth])), len(np.unique(groups[~truth])))
    if n_groups < 2:
        return
    splitter = StratifiedGroupKFold(min(N_FOLDS, n_groups), shuffle=True, random_state=seed)
    yield from splitter.split(values, truth, groups)


def _fit(method: _Method, values: Floats, truth: _Flags) -> Calibration:
    """One candidate; of a single class nothing can be learned."""
    if method == "none" or truth.all() or not truth.any():
        return AS_IT_IS
    return fit_calibration(values, truth, method)
