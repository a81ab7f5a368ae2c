"""Logistic models of memorized or not: one for all, or one a part; and likelihood-ratio tests.

Source: Prashanth et al. 2024, arXiv 2406.17746, section 1.13 of the related work: L2, C = 1,
balanced class weights, features standardised. The scaler is fitted on the training rows alone;
`leaky` fits it on all, as published. Tests are of unpenalised fits (statsmodels), nested ones.
"""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.errors import UserError

__all__ = [
    "PartModels",
    "RatioTest",
    "fit_parts",
    "is_separated",
    "likelihood_ratio",
    "separating_features",
]

_Floats = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]
_Parts = npt.NDArray[np.int64]
_NO_PLANE = 1e-6  # the solver's own tolerance is 1e-7


@dataclass(frozen=True)
class PartModels:
    """One pipeline a part; a part whose training rows have one label only predicts that label.

    Attributes:
        models: pipeline, or the constant probability, of each part.
        fallback: share of memorized training rows, for a part that training did not hold.
    """

    models: dict[int, Any]
    fallback: float

    def predict(self, values: _Floats, parts: _Parts) -> _Floats:
        """Give the probability of being memorized, shape (n,).

        Args:
            values: features, shape (n, features).
            parts: of every row.
        """
        found = np.full(len(values), self.fallback)
        for part, model in self.models.items():
            rows = parts == part
            if rows.any():
                is_constant = isinstance(model, float)
                found[rows] = model if is_constant else model.predict_proba(values[rows])[:, 1]
        return found

    def weights(self, n_features: int) -> dict[int, _Floats]:
        """Give the weight of each standardised feature in each part; NaN of a constant part.

        Args:
            n_features: how many.
        """
        return {
            part: np.full(n_features, np.nan)
            if isinstance(model, float)
            else np.asarray(model[-1].coef_[0], dtype=np.float64)
            for part, model in self.models.items()
        }


def fit_parts(
    values: _Floats,
    label: _Flags,
    parts: _Parts,
    *,
    unscaled: tuple[int, ...] = (),
    leaky: _Floats | None = None,
    leaky_parts: _Parts | None = None,
) -> PartModels:
    """Fit one logistic model a part.

    Args:
        values: features of the training rows, shape (n, features).
        label: memorized, shape (n,).
        parts: of every row, whole numbers; all 0 is one model for all.
        unscaled: columns that are left as they are (0 or 1 already).
        leaky: rows that the scaler is fitted on instead, test rows included, as published.
        leaky_parts: parts of these rows.
    """
    models: dict[int, Any] = {}
    for part in np.unique(parts).tolist():
        rows = parts == part
        share = float(label[rows].mean())
        if share in (0.0, 1.0):
            models[part] = share
            continue
        seen = values[rows]
        if leaky is not None and leaky_parts is not None:
            seen = leaky[leaky_parts == part]
        models[part] = _fit(values[rows], label[rows], seen, unscaled)
    return PartModels(models, float(label.mean()))


def _fit(values: _Floats, label: _Flags, seen: _Floats, unscaled: tuple[int, ...]) -> Any:
    """A pipeline of scaler and model; the scaler fitted on `seen`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(seen)
    for column in unscaled:
        scaler.mean_[column], scaler.scale_[column], scaler.var_[column] = 0.0, 1.0, 1.0
    model = LogisticRegression(C=1.0, max_iter=10_000, class_weight="balanced")
    model.fit(scaler.transform(values), label)
    return make_pipeline(scaler, model)


class RatioTest(NamedTuple):
    """A likelihood-ratio test of two nested, unpenalised fits.

    Attributes:
        statistic: twice the difference of the log-likelihoods; NaN where the test is not valid.
        dof: parameters that the larger model has beyond the smaller.
        p_value: of the chi-squared distribution; NaN where not valid.
        reason: why it is not valid, empty where it is.
    """

    statistic: float
    dof: int
    p_value: float
    reason: str = ""


def likelihood_ratio(smaller: _Floats, larger: _Floats, label: _Flags) -> RatioTest:
    """Test whether the columns that `larger` has beyond `smaller` add to the fit.

    Both are fitted without penalty and without class weights, with an intercept. The test is
    valid only where both fits converge at a finite maximum (no separation) and the columns of
    `smaller` lie in the span of those of `larger`; else the reason is given.

    Args:
        smaller: features, shape (n, k).
        larger: features, shape (n, m).
        label: memorized, shape (n,).

    Raises:
        UserError: statsmodels is not installed.
    """
    try:
        import statsmodels.api as sm
        from scipy.stats import chi2
    except ImportError:
        raise UserError(
            "analyze predict: tests need statsmodels. Install it: pip install "
            "'mnemoscope[analysis]', or leave them out with --set tests=false."
        ) from None
    designs = [sm.add_constant(one, has_constant="add") for one in (smaller, larger)]
    ranks = [int(np.linalg.matrix_rank(one)) for one in designs]
    dof = ranks[1] - ranks[0]
    both = int(np.linalg.matrix_rank(np.concatenate(designs, axis=1)))
    if both > ranks[1] or dof < 1:
        return RatioTest(float("nan"), dof, float("nan"), "the models are not nested")
    if is_separated(_independent(designs[1]), label):
        reason = "the features separate the labels, so there is no finite maximum"
        return RatioTest(float("nan"), dof, float("nan"), reason)
    fits = []
    for design in map(_independent, designs):
        fitted, reason = _unpenalised(sm, design, label)
        if reason:
            return RatioTest(float("nan"), dof, float("nan"), reason)
        fits.append(float(fitted))
    statistic = max(2 * (fits[1] - fits[0]), 0.0)
    return RatioTest(statistic, dof, float(chi2.sf(statistic, dof)))


def is_separated(design: _Floats, label: _Flags) -> bool:
    """Say whether a plane separates the labels, wholly or but for rows that lie on it.

    Exactly then a logistic model has no finite maximum-likelihood fit (Albert and Anderson 1984).

    Args:
        design: shape (n, k), of full rank, with the intercept.
        label: shape (n,).
    """
    return bool(_separating_plane(design, label).any())


def separating_features(values: _Floats, label: _Flags) -> list[int]:
    """Give columns without which nothing separates the labels.

    Args:
        values: features, shape (n, k); an intercept is added.
        label: shape (n,).
    """
    kept, found = list(range(values.shape[1])), []
    while kept:
        design = np.column_stack([np.ones(len(values)), values[:, kept]])
        weights = np.abs(_separating_plane(design, label)[1:])
        if not weights.any():
            break
        found.append(kept.pop(int(weights.argmax())))
    return sorted(found)


def _separating_plane(design: _Floats, label: _Flags) -> _Floats:
    """Weights of a separating plane, all 0 where there is none: a linear programme (Konis 2007)."""
    from scipy.optimize import linprog

    scale = np.abs(design).max(axis=0)
    signed = np.where(label, 1.0, -1.0)[:, None] * (design / np.where(scale > 0, scale, 1.0))
    found = linprog(-signed.mean(axis=0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=(-1, 1))
    if found.status != 0 or -found.fun <= _NO_PLANE:
        return np.zeros(design.shape[1])
    weights: _Floats = np.where(np.abs(found.x) > _NO_PLANE, found.x, 0.0)
    return weights


def _independent(design: _Floats) -> _Floats:
    """Columns that span what all of them span."""
    from scipy.linalg import qr

    _, r, order = qr(design, mode="economic", pivoting=True)
    size = np.abs(np.diag(r))
    rank = int((size > 1e-9 * size[0]).sum())
    kept: _Floats = design[:, np.sort(order[:rank])]
    return kept


def _unpenalised(sm: Any, design: _Floats, label: _Flags) -> tuple[float, str]:
    """Log-likelihood of a maximum-likelihood fit, or why there is none."""
    reason = ""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for method in ("newton", "bfgs"):  # long tails send Newton's first steps astray
            try:
                fit = sm.Logit(label.astype(float), design).fit(disp=0, maxiter=2000, method=method)
            except Exception as error:  # statsmodels has no common type for what can go wrong
                reason = f"no unpenalised fit ({type(error).__name__})"
                continue
            if fit.mle_retvals["converged"] and np.isfinite(fit.llf):
                return float(fit.llf), ""
            reason = "the unpenalised fit does not converge"
    return float("nan"), reason
