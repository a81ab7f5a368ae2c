"""Measures of what a diffusion model stores, on arrays, and verdicts beside those of a control.

The functions know no network. `model` asks one and gives them what it answers. Two networks that
were trained apart differ on any prompt. How much they differ where there is nothing to remember is
measured: on prompts that neither of them read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.stats import Estimate, Floats, draw_within, estimate_of, resampled_auc
from mnemoscope.store import Facts
from mnemoscope.words import plural

Score = Callable[[Floats], Floats]
"""Gradient of the log-density at one noise level, of points (n, dimensions) each."""

MEMORIZED, NOT_SHOWN, UNDECIDED = "memorized", "not shown", "cannot be told"
VERDICTS = (MEMORIZED, UNDECIDED, NOT_SHOWN)
UNREAD = "unread"
"""The label of prompts that neither model read."""
MEASURES = {
    "norm": "noise norm of the guidance",
    "masked": "noise norm under the bright ending",
    "flipd": "dimension (FLIPD)",
}
"""Figures of a picture; the first two are large where it is memorized, the last is small."""
_RESAMPLES = 1000
_STEP = 0.01  # of the noise level: the error of the central difference is its square


def flipd(score: Score, points: npt.ArrayLike, sigma: float, *, scale: float = 1.0) -> Floats:
    """Give the local intrinsic dimension at points, (n, D), from a score function: (n,).

    D + σ² (tr ∇s + |s|²) at `scale` times the point, s the score of scale·x plus noise of σ: the
    rate at which the log-density falls with log σ. The trace is by central differences.

    Source: FLIPD, Kamkari et al. 2024, arXiv 2406.03537 (there the trace is Hutchinson's).
    """
    at = scale * np.asarray(points, dtype=np.float64)
    width, step = at.shape[1], _STEP * sigma
    trace = np.zeros(len(at))
    for axis, shift in enumerate(step * np.eye(width)):
        trace += (score(at + shift) - score(at - shift))[:, axis] / (2 * step)
    return np.asarray(width + sigma**2 * (trace + (score(at) ** 2).sum(axis=1)))


def ending_mask(attention: npt.ArrayLike, last: npt.ArrayLike) -> Floats:
    """Give the bright ending: how much each image patch looks at the last text token, (n, patches).

    `attention` is cross-attention at the last denoising step, softmax over the text's tokens, of
    the conditioned half of a batch, (n, layers, heads, patches, tokens); `last` the place of the
    last token of each text (its end token), a number or (n,).

    Source: Chen et al. 2024, arXiv 2410.21665, as its public code (chenchen-usyd/BE-PRSS) has it:
        the mean over heads and layers (there 8 heads of the two layers of 64 × 64 on the way down),
        a soft mask without a threshold.
    """
    maps = np.asarray(attention, dtype=np.float64).mean(axis=(1, 2))
    return np.asarray(maps[np.arange(len(maps)), :, np.asarray(last)])


def noise_norm(
    text: npt.ArrayLike, empty: npt.ArrayLike, mask: npt.ArrayLike | None = None
) -> Floats:
    """Give ‖(ε(text) − ε(empty)) ⊙ m‖₂ / mean(m) of each image, (n,): large where memorized.

    Noise predicted with the text and with the empty one is (n, channels, height, width); m, not
    negative and nowhere all 0, (n, height, width), None to leave it out.

    Source: LD of Chen et al. 2024, arXiv 2410.21665, as its public code has it, of one denoising
        step; without a mask the norm of Wen et al. 2024 (ICLR, "Detecting, Explaining, and
        Mitigating Memorization in Diffusion Models").
    """
    apart = np.asarray(text, dtype=np.float64) - np.asarray(empty, dtype=np.float64)
    return _masked_norm(apart, mask)


def local_similarity(
    generated: npt.ArrayLike, trained: npt.ArrayLike, mask: npt.ArrayLike | None = None
) -> Floats:
    """Give −‖(x − y) ⊙ m‖₂ / mean(m) of generated and training images, (n,): 0 where m is copied.

    Shapes as in `noise_norm`. Whatever differs where the mask is dark counts little.

    Source: LS of Chen et al. 2024, arXiv 2410.21665. Its public code holds no LS; the Euclidean
        distance, and the mask scaled as in LD, are our reading.
    """
    apart = np.asarray(generated, dtype=np.float64) - np.asarray(trained, dtype=np.float64)
    return -_masked_norm(apart, mask)


def _masked_norm(apart: Floats, mask: npt.ArrayLike | None) -> Floats:
    if mask is None:
        return np.asarray(np.sqrt((apart**2).sum(axis=(1, 2, 3))))
    soft = np.asarray(mask, dtype=np.float64)
    norm = np.sqrt(((apart * soft[:, None]) ** 2).sum(axis=(1, 2, 3)))
    return np.asarray(norm / soft.mean(axis=(1, 2)))


def beyond(rows: pl.DataFrame, measure: str) -> Floats | None:
    """How far each row goes beyond the control, in the direction of memory; None without one.

    Of norms the logarithm of their ratio, of dimensions the difference.
    """
    own, control = rows[measure], rows[f"control_{measure}"]
    if control.null_count() == len(control) or own.null_count() == len(own):
        return None
    first, second = (one.cast(pl.Float64).to_numpy() for one in (own, control))
    return np.asarray(second - first if measure == "flipd" else np.log(first) - np.log(second))


def chance_of(values: Floats, unread: Floats) -> Floats:
    """The chance that what was never read lies as high: conformal p-values, (n,).

    Right for any continuous distribution, as far as the asked rows, if not read, are like the
    unread ones.

    >>> chance_of(np.array([3.0, 0.5]), np.array([1.0, 2.0, 0.0])).tolist()
    [0.25, 0.75]
    """
    above = (unread[None] >= values[:, None]).sum(axis=1)
    return np.asarray((1 + above) / (1 + len(unread)))


def why_undecided(n_unread: int, error: float, *, has_control: bool) -> str | None:
    """Why no prompt can be called memorized; None where it can."""
    if not has_control:
        return "no control: give a model that did not read the pictures"
    needed = int(np.ceil(1 / error - 1e-9)) - 1
    if n_unread < needed:
        return f"{n_unread} unread prompts, where an error of {error:g} needs {needed}"
    return None


def judged(rows: pl.DataFrame, *, measure: str, error: float) -> pl.DataFrame:
    """The rows with `beyond`, `p`, `verdict` and `reason`; unread prompts get no verdict.

    A row is memorized where a prompt that was never read would go as far beyond the control with a
    chance of at most `error`. `rows` have `label`, and each measure of the model and `control_`.
    """
    is_unread = (rows["label"] == UNREAD).fill_null(False).to_numpy()
    n, missing = int(is_unread.sum()), pl.lit(None, dtype=pl.Float64)
    far, p = beyond(rows, measure), None
    reason = why_undecided(n, error, has_control=far is not None)
    if far is not None and reason is None:
        p = chance_of(far, far[is_unread])
    rows = rows.with_columns(
        (missing if far is None else pl.Series(far)).alias("beyond"),
        (missing if p is None else pl.Series(p)).alias("p"),
    )
    said = pl.lit(UNDECIDED)
    reasons = [reason] * rows.height
    if p is not None:
        said = pl.when(pl.col("p") <= error).then(pl.lit(MEMORIZED)).otherwise(pl.lit(NOT_SHOWN))
        reasons = [f"{round(one * (n + 1)) - 1} of {n} unread prompts go as far" for one in p]
    asked = ~pl.Series(is_unread)
    return rows.with_columns(
        pl.when(asked).then(said).alias("verdict"),
        pl.when(asked).then(pl.Series(reasons)).alias("reason"),
    )


def by_label(rows: pl.DataFrame) -> list[Facts]:
    """One row a label and measure: how well it tells these prompts from the unread ones.

    ROC AUC with 95 % intervals, of the `model`, of the `control`, and of how far the model goes
    `beyond` it; nothing where no prompt is unread.
    """
    unread = rows.filter(label=UNREAD)
    if unread.is_empty():
        return []
    found = []
    for label in rows.filter(pl.col("verdict").is_not_null())["label"].unique(maintain_order=True):
        own = rows.filter(pl.col("label").eq_missing(label), pl.col("verdict").is_not_null())
        both = pl.concat([own, unread])
        is_own = np.arange(both.height) < own.height
        for measure, name in MEASURES.items():
            areas = {}
            for who, column in (("model", measure), ("control", f"control_{measure}")):
                values = both[column].cast(pl.Float64).to_numpy()
                areas[who] = _area(-values if measure == "flipd" else values, is_own)
            far = beyond(both, measure)
            areas["beyond"] = _area(np.full(both.height, np.nan) if far is None else far, is_own)
            found.append(
                {"label": label, "n": own.height, "measure": name}
                | {"memorized": int((own["verdict"] == MEMORIZED).sum())}
                | {who: one._asdict() for who, one in areas.items()}
            )
    return found


def _area(high_if_memorized: Floats, is_own: np.ndarray) -> Estimate:
    known = np.isfinite(high_if_memorized)
    values, own = high_if_memorized[known], is_own[known]
    if own.all() or not own.any():
        return Estimate(None)
    each = np.arange(len(own))  # a group of its own: below ten there is no interval
    drawn = draw_within(own, np.random.default_rng(0), _RESAMPLES, groups=each)
    areas = resampled_auc(values, own, drawn)
    return estimate_of(float(areas[0]), areas[1:])


def sentence_of(rows: pl.DataFrame, error: float) -> str:
    """What was found, in a sentence or two."""
    own = rows.filter(pl.col("verdict").is_not_null())
    counts = dict(own["verdict"].value_counts().iter_rows())
    if UNDECIDED in counts:
        reason = own["reason"][0]
        return f"{plural(own.height, 'prompt')}: cannot be told ({reason})."
    n = counts.get(MEMORIZED, 0)
    chance = f"if none were, {error * own.height:.1f} would be called so by chance"
    return f"{n} of {plural(own.height, 'prompt')} memorized; {chance}."


def limits_of(norms: Sequence[Sequence[float]], error: float) -> Floats:
    """The norm at each step, (steps,), that only a share `error` of unread prompts lies above."""
    return np.asarray(np.quantile(np.asarray(norms, dtype=np.float64), 1 - error, axis=0))


def heat_of(row: Mapping[str, Any]) -> Floats:
    """Where a picture is steered by its prompt more than the control's, (places,): 0 for no more.

    Without a control where it is steered, as it is.
    """
    own, control = np.asarray(row["where"], dtype=np.float64), row["control_where"]
    if control is None:
        return own
    apart = np.log(own) - np.log(np.asarray(control, dtype=np.float64))
    return np.asarray(apart.clip(0, None))
