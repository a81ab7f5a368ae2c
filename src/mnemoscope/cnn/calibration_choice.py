"""Choose a calibration by cases that did not fit it, or none where none helps.

A calibration fitted on few independent cases can be worse than none: near duplicates fall to one
side together, so that hundreds of cases may be a dozen independent ones. So the cases are parted
by group into folds; each candidate is fitted on the others and judged on its own fold.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.cnn.calibration import (
    AS_IT_IS,
    ENOUGH_FOR_ISOTONIC,
    Calibration,
    apply_calibration,
    fit_calibration,
)

__all__ = ["CANDIDATES", "N_FOLDS", "Choice", "choose_calibration", "cross_fitted"]

CANDIDATES = ("none", "temperature", "isotonic")
"""From the simplest on; the last from `ENOUGH_FOR_ISOTONIC` groups on."""

N_FOLDS = 5
"""Fewer where one class has fewer groups."""

_N_REPEATS = 4  # with other folds, so that the choice does not hang on one draw

_Floats = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]


class Choice(NamedTuple):
    """What was chosen.

    Attributes:
        calibration: fitted on all cases.
        brier: of each candidate, cross-validated; empty where there are too few groups to tell.
    """

    calibration: Calibration
    brier: dict[str, float]


def choose_calibration(
    logits: npt.ArrayLike, is_so: npt.ArrayLike, groups: npt.ArrayLike, *, seed: int = 0
) -> Choice:
    """Choose by the cross-validated Brier score; a calibration must beat the simpler ones.

    A candidate takes the place of a simpler one where its score is lower by more than one
    standard error of the difference, groups being the independent observations.

    Args:
        logits: log-odds as the CNN gives them, shape (n,), finite.
        is_so: which of the two classes it is, shape (n,), bool.
        groups: of near duplicates, shape (n,), any values.
        seed: of the folds.

    Returns:
        No calibration where one class has fewer than two groups.

    Raises:
        ValueError: as `fit_calibration`.

    Source: the rule of one standard error, Breiman et al., Classification and Regression Trees,
        1984, section 3.4.3.
    """
    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(is_so, dtype=bool)
    owners = np.asarray(groups)
    repeats = [list(_folds(values, truth, owners, seed + one)) for one in range(_N_REPEATS)]
    if not all(repeats):
        return Choice(AS_IT_IS, {})
    is_many = len(np.unique(owners)) >= ENOUGH_FOR_ISOTONIC
    candidates = CANDIDATES if is_many else CANDIDATES[:-1]
    losses = {one: _losses(one, values, truth, repeats) for one in candidates}
    chosen = candidates[0]
    for other in candidates[1:]:
        gain = losses[chosen] - losses[other]
        if gain.mean() > _standard_error(gain, owners):
            chosen = other
    scores = {one: float(loss.mean()) for one, loss in losses.items()}
    return Choice(_fit(chosen, values, truth), scores)


def cross_fitted(
    logits: npt.ArrayLike, is_so: npt.ArrayLike, groups: npt.ArrayLike, *, seed: int = 0
) -> _Floats:
    """Probabilities of cases by calibrations that were chosen and fitted without them.

    Args:
        logits: as `choose_calibration`.
        is_so: as there.
        groups: as there; at least two of either class.
        seed: of the folds.

    Returns:
        Shape (n,): what tells how good `choose_calibration` is on cases like these.

    Raises:
        ValueError: too few groups.
    """
    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(is_so, dtype=bool)
    owners = np.asarray(groups)
    made = np.full(len(values), np.nan)
    for others, own in _folds(values, truth, owners, seed):
        choice = choose_calibration(values[others], truth[others], owners[others], seed=seed)
        made[own] = apply_calibration(choice.calibration, values[own])
    if np.isnan(made).any():
        raise ValueError("cross-fitting wants two groups of either class")
    return made


def _folds(values: _Floats, truth: _Flags, groups: Any, seed: int) -> Iterator[tuple[Any, Any]]:
    """Rows to fit on and rows to judge on, no group in both; none where a class has one group."""
    from sklearn.model_selection import StratifiedGroupKFold

    n_groups = min(len(np.unique(groups[truth])), len(np.unique(groups[~truth])))
    if n_groups < 2:
        return
    splitter = StratifiedGroupKFold(min(N_FOLDS, n_groups), shuffle=True, random_state=seed)
    yield from splitter.split(values, truth, groups)


def _fit(candidate: str, values: _Floats, truth: _Flags) -> Calibration:
    """One candidate; of a single class nothing can be learned."""
    if candidate == "none" or truth.all() or not truth.any():
        return AS_IT_IS
    return fit_calibration(values, truth, "isotonic" if candidate == "isotonic" else "temperature")


def _losses(
    candidate: str, values: _Floats, truth: _Flags, repeats: list[list[tuple[Any, Any]]]
) -> _Floats:
    """Squared error of a candidate on every case, fitted on the other folds; mean of repeats."""
    made = np.empty((len(repeats), len(values)))
    for row, folds in zip(made, repeats, strict=True):
        for others, own in folds:
            fitted = _fit(candidate, values[others], truth[others])
            row[own] = apply_calibration(fitted, values[own])
    return np.asarray(((made - truth) ** 2).mean(axis=0))


def _standard_error(values: _Floats, groups: Any) -> float:
    """Of the mean of values whose groups are independent, and their members are not."""
    _, owner = np.unique(groups, return_inverse=True)
    sums = np.bincount(owner, weights=values - values.mean())
    n = len(sums)
    return float(np.sqrt(n / max(n - 1, 1) * (sums**2).sum())) / len(values)
