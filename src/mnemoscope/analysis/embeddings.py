"""Dynamics of the last hidden state while the model writes, by how much of it is right.

Source: Chen, Han, Miyao 2024, arXiv 2405.11577; section 4 of the related work: last states averaged
by score level, their cosine and Euclidean distances step by step, a projection. Means of few
sequences lie apart by chance, in hundreds of dimensions the most of it: beside each distance stands
the one freed of that noise, and the one of shuffled levels.
Run it: mnemoscope analyze embeddings STUDY
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

from mnemoscope import Estimate, UserError
from mnemoscope.plugin import (
    AnalysisInputs,
    AnalysisResult,
    Chart,
    HeatMap,
    LevelSettings,
    Z,
    count_by_level,
    draw_within,
    frame_of,
    generate_by_level,
    grouped_variance,
    n_groups,
    plain,
    ranged,
    rows_of,
    series_by,
    series_of,
    states_of,
)

_Floats = npt.NDArray[np.float64]

METRICS = ("cosine", "euclidean")

_Levels = npt.NDArray[np.int64]

_REACH = np.array([-Z, Z])


class Settings(LevelSettings):
    """Settings of `embeddings`."""

    per_level: int = Field(default=100, ge=2, description="Sequences a level at most.")
    minimum: int = Field(default=5, ge=2, description="Sequences that a level needs.")
    n_resamples: int = Field(
        default=200, ge=20, description="Bootstrap samples and shuffles behind an interval."
    )


def mean_states(states: npt.NDArray[np.floating], level: _Levels, levels: list[int]) -> _Floats:
    """Average states, (n, steps, width), over each level's sequences: (levels, steps, width)."""
    return np.stack([states[level == one].mean(axis=0, dtype=np.float64) for one in levels])


def mean_noise(
    states: npt.NDArray[np.floating],
    level: _Levels,
    levels: list[int],
    groups: npt.ArrayLike | None = None,
) -> _Floats:
    """Summed variance of each mean state over `groups` (n,), its expected squared error.

    Shape (levels, steps).
    """
    owners = np.arange(len(states)) if groups is None else np.asarray(groups)
    sides = [level == one for one in levels]
    return np.stack([grouped_variance(states[x], owners[x]).sum(axis=-1) for x in sides])


def distances(means: _Floats, metric: str, noise: _Floats | None = None) -> _Floats:
    """Give the distance of every two levels at every step, shape (steps, levels, levels).

    The metric is `cosine` (1 - cosine of the angle) or `euclidean`, means are of shape (levels,
    steps, width). With the noise of `mean_noise`, squared lengths and squared distances are freed
    of what is expected of it; NaN where a mean is no longer than its noise.
    """
    plain = np.stack([cdist(step, step, metric) for step in means.transpose(1, 0, 2)])
    if noise is None:
        return plain
    loss = noise.T
    if metric == "euclidean":
        freed = np.sqrt(np.maximum(plain**2 - loss[:, :, None] - loss[:, None, :], 0.0))
    else:
        scale = _scale(means, noise).T
        freed = np.clip(1 - (1 - plain) * scale[:, :, None] * scale[:, None, :], 0.0, 2.0)
    same = np.arange(len(means))
    freed[:, same, same] = 0.0
    return freed


def _scale(means: _Floats, noise: _Floats) -> _Floats:
    """Length of each mean over what its length is without noise, (levels, steps)."""
    squared = (means**2).sum(axis=-1)
    left = np.where(squared > noise, squared - noise, np.nan)
    return np.asarray(np.sqrt(squared / left))


def project(means: _Floats) -> tuple[_Floats, _Floats]:
    """Project mean states, (levels, steps, width), on the two principal components of them all.

    Gives places, shape (levels, steps, 2), and the share of the variance of each component.
    """
    flat = means.reshape(-1, means.shape[2])
    fitted = PCA(n_components=2, svd_solver="full").fit(flat)
    return fitted.transform(flat).reshape(*means.shape[:2], 2), fitted.explained_variance_ratio_


def from_top(
    one: npt.NDArray[np.floating],
    top: npt.NDArray[np.floating],
    *,
    n_resamples: int,
    seed: int,
    groups: npt.ArrayLike | None = None,
) -> pl.DataFrame:
    """Follow the distance of two groups' mean states with its interval and with what chance gives.

    States are of shape (n, steps, width) and (m, steps, width); `n_resamples` counts bootstrap
    samples, and as many shuffles. `groups` of near duplicates, (n + m,), are drawn whole. Gives a
    row a `metric` and `step`: `plain`, of the two means as they are; `chance`, its 95th percentile
    when the groups are shuffled; `freed` of the noise of the means, see `distances`, with `low`
    and `high` by the bootstrap's spread; null where groups are few.
    """
    rng = np.random.default_rng(seed)
    both = np.concatenate([one, top]).astype(np.float64)
    n, m = len(one), len(top)
    is_one = np.arange(n + m) < n
    counts = draw_within(~is_one, rng, n_resamples, groups=groups)
    drawn = counts / np.where(is_one, *(counts[:, x].sum(1)[:, None] for x in (is_one, ~is_one)))
    _, owner = np.unique(np.arange(n + m) if groups is None else groups, return_inverse=True)
    order = rng.random((n_resamples, owner.max() + 1))[:, owner].argsort(axis=1, kind="stable")
    mixed = np.zeros((n_resamples, n + m), dtype=bool)
    np.put_along_axis(mixed, order[:, :n], True, axis=1)
    side = (~is_one).astype(np.int64)
    means, noise = mean_states(both, side, [0, 1]), mean_noise(both, side, [0, 1], groups)
    scale, rows = _scale(means, noise).prod(axis=0), []
    every = {metric: distances(means, metric)[:, 0, 1] for metric in METRICS}
    freed = {metric: distances(means, metric, noise)[:, 0, 1] for metric in METRICS}
    for step, states in enumerate(both.transpose(1, 0, 2)):
        again = _apart(states, drawn, np.broadcast_to(is_one, drawn.shape))
        shuffled = _apart(states, np.where(mixed, 1 / n, 1 / m), mixed)
        squared = freed["euclidean"][step] ** 2 + _REACH * _deviation(again["euclidean"] ** 2)
        ends = {
            "cosine": freed["cosine"][step] + scale[step] * _REACH * _deviation(again["cosine"]),
            "euclidean": np.sqrt(np.maximum(squared, 0.0)),
        }
        for metric in METRICS:
            low, high = (max(float(end), 0.0) if len(drawn) else None for end in ends[metric])
            rows.append(
                {"metric": metric, "step": step + 1, "plain": float(every[metric][step])}
                | {"chance": float(np.quantile(shuffled[metric], 0.95))}
                | {"freed": Estimate(float(freed[metric][step]), low, high)}
            )
    return frame_of(rows).sort("metric", maintain_order=True)


def _deviation(draws: npt.NDArray[np.float64]) -> float:
    return float(draws.std()) if len(draws) else 0.0


def _apart(
    states: _Floats, weights: _Floats, is_one: npt.NDArray[np.bool_]
) -> dict[str, npt.NDArray[np.float64]]:
    """Distances of the weighted means of two groups, for each row of weights (rows, n + m)."""
    first, second = (np.where(side, weights, 0) @ states for side in (is_one, ~is_one))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return {
        "cosine": 1 - (first * second).sum(axis=1) / lengths,
        "euclidean": np.linalg.norm(first - second, axis=1),
    }


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Continuations, and states of each level."""
    return count_by_level(inputs, settings, 1)


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Follow the distances of levels; UserError: the top level or all others are too small."""
    generated = generate_by_level(inputs, settings, where="analyze embeddings")
    counts = np.bincount(generated.level, minlength=settings.n_steps + 1)
    levels = [level for level, n in enumerate(counts) if n >= settings.minimum]
    if len(levels) < 2 or levels[-1] != settings.n_steps:
        raise UserError(
            f"analyze embeddings: {int(counts[-1])} sequences with all {settings.n_steps} tokens "
            f"right and {int(counts[:-1].sum())} others; {settings.minimum} of the first and of "
            "some other level are needed. Take more (--set n_sequences=null) or lower minimum."
        )
    states = states_of(inputs, generated)
    means = mean_states(states, generated.level, levels)
    near = inputs.near_duplicates(generated.rows["sequence_id"])
    noise = mean_noise(states, generated.level, levels, near)
    followed = _followed(states, generated.level, levels, settings, near)
    pairs = _pairs(means, noise, levels)
    order = _order(states[:, -1:], generated.level, levels, near, settings)
    places, explained = project(means)
    at = pl.DataFrame(
        {
            name: np.repeat(of, settings.n_steps)
            for name, of in (("level", levels), ("n", counts[levels]))
        }
        | {"step": np.tile(np.arange(settings.n_steps) + 1, len(levels))}
        | {"first": places[..., 0].ravel(), "second": places[..., 1].ravel()}
    )
    return AnalysisResult(
        sentence=_sentence(followed, order, levels, settings.n_steps),
        frames={
            "from_top": followed,
            "pairs": pairs,
            "order": order,
            "places": at,
            "levels": pl.DataFrame({"level": np.arange(len(counts)), "n": counts}),
        },
        figures=(
            *(_distance_chart(followed, metric, levels, settings.n_steps) for metric in METRICS),
            _pair_map(means, noise, levels),
            _place_chart(at, explained, levels),
        ),
        further=tuple(_further(counts, levels, settings)),
    )


def _followed(
    states: npt.NDArray[np.floating],
    level: _Levels,
    levels: list[int],
    settings: Settings,
    near: npt.NDArray[np.int64],
) -> pl.DataFrame:
    """Distance of every level from the top one at every step."""
    is_top, frames = level == levels[-1], []
    draws = settings.model_dump(include={"n_resamples", "seed"})
    for one in levels[:-1]:
        here = level == one
        owners = np.concatenate([near[here], near[is_top]])
        about = {
            "level": pl.lit(one, pl.Int64),
            "n": pl.lit(int(here.sum()), pl.Int64),
            "n_groups": pl.lit(n_groups(near[here]), pl.Int64),
        }
        found = from_top(states[here], states[is_top], groups=owners, **draws)
        frames.append(found.with_columns(**about))
    first = ("metric", "level", "n", "n_groups", "step")
    return pl.concat(frames).select(*first, pl.exclude(first))


def _pairs(means: _Floats, noise: _Floats, levels: list[int]) -> pl.DataFrame:
    """Distance of every two levels at every step, plain and freed of noise."""
    by_metric = {metric: distances(means, metric) for metric in METRICS}
    by_metric |= {f"{metric}_freed": distances(means, metric, noise) for metric in METRICS}
    rows = [
        {"step": step + 1, "level": levels[i], "other": levels[j]}
        | {name: float(values[step, i, j]) for name, values in by_metric.items()}
        for step in range(means.shape[1])
        for i in range(len(levels))
        for j in range(i)
    ]
    return pl.DataFrame(rows)


def _order(
    states: npt.NDArray[np.floating],
    level: _Levels,
    levels: list[int],
    near: npt.NDArray[np.int64],
    settings: Settings,
) -> pl.DataFrame:
    """Spearman of how far two levels are apart in score and in states (n, 1, width) at one step.

    One row: `pairs`, `correlation` of the distances freed of noise, and `shuffled`, what one in
    twenty shuffles of the levels reaches. Null where all are equally far apart.
    """
    first, second = np.tril_indices(len(levels), -1)
    apart = np.abs(np.array(levels)[first] - np.array(levels)[second])

    def correlation(of: _Levels) -> float:
        means, noise = mean_states(states, of, levels), mean_noise(states, of, levels, near)
        found = distances(means, "euclidean", noise)[0, first, second]
        if not (np.ptp(apart) and np.ptp(found)):
            return np.nan
        return float(spearmanr(apart, found).statistic)

    rng = np.random.default_rng(settings.seed)
    drawn = np.array([correlation(rng.permutation(level)) for _ in range(settings.n_resamples)])
    known = drawn[np.isfinite(drawn)]
    row = {"pairs": len(apart), "correlation": correlation(level)}
    row |= {"shuffled": float(np.quantile(known, 0.95)) if len(known) else np.nan}
    return pl.DataFrame([row]).with_columns(pl.col("correlation", "shuffled").fill_nan(None))


def _sentence(followed: pl.DataFrame, order: pl.DataFrame, levels: list[int], n_steps: int) -> str:
    lowest = followed.filter(metric="euclidean", level=levels[0])
    first, last = (
        f"{ranged(row['freed'], digits=2)} (as it is {row['plain']:.2f}; "
        f"levels shuffled give up to {row['chance']:.2f})"
        for row in (next(rows_of(lowest)), next(rows_of(lowest[-1:])))
    )
    text = (
        f"The mean last state of sequences with {levels[0]} of {n_steps} generated tokens right "
        f"lies, freed of the noise of means, at a Euclidean distance of {first} from that "
        f"of those all right where the first token is chosen, and of {last} at token "
        f"{n_steps}"
    )
    pairs, found, shuffled = order.row(0)
    if found is None:
        return f"{text}."
    beside = "" if shuffled is None else f" (levels shuffled: up to {shuffled:.2f})"
    return (
        f"{text}; over {pairs} pairs of levels, how far they are apart in score and how far in "
        f"their states there have a rank correlation of {found:.2f}{beside}."
    )


def _spread(levels: list[int], n: int) -> list[int]:
    """At most n of the levels, spread over the scale."""
    return sorted({levels[round(i)] for i in np.linspace(0, len(levels) - 1, n)})


def _distance_chart(followed: pl.DataFrame, metric: str, levels: list[int], n_steps: int) -> Chart:
    """Distances from the top level of a few others; of the lowest also as it is, and by chance."""
    shown = _spread(levels[:-1], 3)
    parts = {level: followed.filter(metric=metric, level=level) for level in shown}
    lowest = parts[shown[0]]
    return Chart(
        title=f"{metric.capitalize()} distance of a level's mean state from that of sequences all "
        "right, freed of noise (95 % interval)",
        x_label="generated token",
        series=(
            *(
                series_of(f"{level} of {n_steps} right", rows, "freed", x="step")
                for level, rows in parts.items()
            ),
            *(
                series_of(f"{shown[0]} of {n_steps}, {name}", lowest, y, x="step")
                for y, name in (("plain", "as it is"), ("chance", "shuffled with the top level"))
            ),
        ),
    )


def _pair_map(means: _Floats, noise: _Floats, levels: list[int]) -> HeatMap:
    values = distances(means, "euclidean", noise)[-1]
    names = tuple(str(level) for level in levels)
    return HeatMap(
        title=f"Euclidean distance of every two levels' mean states at token {means.shape[1]}, "
        "freed of noise",
        values=tuple(plain(row) for row in values),
        row_names=names,
        column_names=names,
        row_label="right tokens",
        column_label="right tokens",
    )


def _place_chart(places: pl.DataFrame, explained: _Floats, levels: list[int]) -> Chart:
    """Every level's mean states as points on two components; no order of steps is drawn."""
    shown = places.filter(pl.col("level").is_in(_spread(levels, 6)))
    return Chart(
        title="Mean states on their first two principal components, one point a step",
        form="points",
        x_label=f"first ({100 * explained[0]:.0f} % of the variance)",
        y_label=f"second ({100 * explained[1]:.0f} %)",
        series=series_by(shown, "level", "second", x="first", name="{} right"),
    )


def _further(counts: _Levels, levels: list[int], settings: Settings) -> Iterator[str]:
    yield (
        f"{counts.sum():,} sequences, at most {settings.per_level} of each score level; a "
        "state is the one from which a token is chosen, after the last normalisation."
    )
    yield (
        "Levels differ in their texts too: what the states show of the text is not told apart here "
        "from what they show of memory."
    )
    missing = [str(level) for level in range(settings.n_steps + 1) if level not in levels]
    if missing:
        yield (
            f"Fewer than {settings.minimum} sequences, left out: {', '.join(missing)} of "
            f"{settings.n_steps} right."
        )
    small = [level for level in levels if counts[level] < settings.per_level // 2]
    if small:
        yield (
            f"{len(small)} of {len(levels)} levels hold fewer than {settings.per_level // 2} "
            "sequences: means of few lie apart by chance, which is what is taken off."
        )
