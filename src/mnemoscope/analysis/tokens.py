"""Can it be told of each generated token whether it is right, from states and entropy?

Source: Chen, Han, Miyao 2024, arXiv 2405.11577; section 4 of the related work: a predictor on the
last hidden states and the entropy of generated tokens, its token and full-sequence accuracy. Theirs
is an encoder of four layers; with the few sequences of a study it does worse than entropy alone, so
a logistic regression is in its place here, beside one that sees entropy and its course alone.
Run it: mnemoscope analyze tokens STUDY
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mnemoscope import Estimate, UserError
from mnemoscope.plugin import (
    AnalysisInputs,
    AnalysisResult,
    Chart,
    Generated,
    LevelSettings,
    bars_by,
    count_by_level,
    entropy_of,
    find_groups,
    frame_of,
    generate_by_level,
    n_groups,
    ranged,
    resampled_mean,
    rows_of,
    series_by,
    series_of,
    share_true,
    states_of,
)

_Floats = npt.NDArray[np.floating]
_Bools = npt.NDArray[np.bool_]

BOTH, COURSE, ENTROPY = "states and entropy", "entropy and its course", "entropy alone"
COMMONER = "always the commoner"
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse penalties of the regressions."""
_TEST, _HELD_BACK = 0.2, 0.125  # of the rows; of the rest
_MINIMUM = 50


class Settings(LevelSettings):
    """Settings of `tokens`."""


class Sides(NamedTuple):
    """Which rows are for what, (n,): a fifth to test, an eighth of the rest to choose a penalty."""

    is_test: _Bools
    held_back: _Bools


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Continuations, states and entropy of each level."""
    return count_by_level(inputs, settings, 2)


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Fit the predictor and try it beside three that know less; UserError: too few sequences."""
    generated = generate_by_level(inputs, settings, where="analyze tokens")
    if len(generated.tokens) < _MINIMUM:
        raise UserError(
            f"analyze tokens: {len(generated.tokens)} sequences, {_MINIMUM} are needed. Take more "
            "(--set n_sequences=null, --set per_level=N)."
        )
    states, n = states_of(inputs, generated), generated.n_steps
    entropies = entropy_of(inputs, "step_entropy", generated.rows, generated.tokens, steps=n)
    entropy = entropies[:, -n:].astype(np.float32)
    groups = find_groups(generated.rows)
    right, sides = generated.is_right, split_rows(groups, settings.seed)
    known = ~sides.is_test
    for rows in (sides.is_test, sides.held_back, known & ~sides.held_back):
        if rows.sum() < 2 or len(np.unique(right[rows])) < 2:
            raise UserError(
                "analyze tokens: one side of the split holds right tokens only or wrong ones only. "
                "Take more sequences (--set n_sequences=null, --set per_level=N)."
            )
    test, course = right[sides.is_test], course_of(entropy)
    chances = {
        BOTH: predict(np.concatenate([states, course], axis=-1), right, sides),
        COURSE: predict(course, right, sides),
        ENTROPY: predict(course[..., :1], right, sides),
        COMMONER: np.full(test.shape, float(right[known].mean())),
    }
    encoded = chances[BOTH]
    owners = groups.to_numpy()[sides.is_test]
    scores = frame_of(
        [row for name, one in chances.items() for row in score(one > 0.5, test, name, owners)]
    )
    steps = frame_of(
        [
            {"predictor": name, "step": step, "n": len(hit)} | {"accuracy": share_true(hit, owners)}
            for name, one in chances.items()
            for step, hit in enumerate(((one > 0.5) == test).T, start=1)
        ]
    )
    levels = _level_frame(encoded > 0.5, test, owners)
    hits = [((chances[name] > 0.5) == test).mean(axis=1) for name in (BOTH, COURSE)]
    added = resampled_mean(hits[0] - hits[1], owners)
    return AnalysisResult(
        sentence=_sentence(scores, added, len(test)),
        frames={"scores": scores, "levels": levels, "steps": steps},
        figures=tuple(_figures(scores, steps, levels, settings.n_steps)),
        further=tuple(_further(generated, sides, chances, test, settings)),
    )


def split_rows(groups: npt.ArrayLike, seed: int) -> Sides:
    """Split by group, (n,): rows of one group, near-equal texts, are on one side."""
    names, places = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    sizes, n = np.bincount(places), len(places)

    def draw(free: _Bools, room: float) -> _Bools:
        chosen = np.zeros(len(names), dtype=bool)
        for one in (one for one in rng.permutation(len(names)) if free[one]):
            if sizes[one] <= room:
                chosen[one] = True
                room -= sizes[one]
        return chosen

    test = draw(np.ones(len(names), dtype=bool), _TEST * n)
    held = draw(~test, _HELD_BACK * (1 - _TEST) * n)
    return Sides(test[places], held[places])


# -- how well a predictor does --------------------------------------------------------------


def score(
    guessed: _Bools, is_right: _Bools, name: str, groups: npt.ArrayLike | None = None
) -> list[dict[str, object]]:
    """Token and full-sequence accuracy of guesses, (n, steps), with intervals over groups, (n,)."""
    hit = guessed == is_right
    found = {
        "tokens": resampled_mean(hit.mean(axis=1), groups),
        "full sequences": share_true(hit.all(axis=1), groups),
    }
    return [
        {"predictor": name, "of": what, "n": len(hit), "n_groups": n_groups(groups)}
        | {"accuracy": one}
        for what, one in found.items()
    ]


def _level_frame(guessed: _Bools, test: _Bools, groups: npt.NDArray[Any]) -> pl.DataFrame:
    """Token and full-sequence accuracy at each score level."""
    level, hit = test.sum(axis=1), guessed == test
    inside = {one: hit[level == one] for one in np.unique(level).tolist()}
    return frame_of(
        [
            {"level": one, "n": len(rows), "n_groups": n_groups(groups[level == one])}
            | {"tokens": float(rows.mean())}
            | {"full": share_true(rows.all(axis=1), groups[level == one])}
            for one, rows in inside.items()
        ]
    )


# -- what predicts, and what it must beat ----------------------------------------------------


def course_of(entropy: _Floats) -> npt.NDArray[np.float64]:
    """What entropies (n, steps) tell as they go by: (n, steps, 4).

    That of the token, the largest and the sum up to it, and its place.
    """
    places = np.broadcast_to(np.arange(entropy.shape[1]), entropy.shape)
    own = np.asarray(entropy, dtype=np.float64)
    course = (own, np.maximum.accumulate(own, axis=1), own.cumsum(axis=1), places)
    return np.stack(course, axis=-1)


def predict(inputs: _Floats, is_right: _Bools, sides: Sides) -> npt.NDArray[np.float64]:
    """Probability that each token of the test rows is right, by a logistic regression.

    `inputs`, (n, steps, features), are what it sees of each token, `is_right` is (n, steps). The
    rows held back choose the penalty, of `PENALTIES`; all but the test rows are then learnt from.
    Gives (test rows, steps).
    """

    def fitted(rows: _Bools, penalty: float) -> Any:
        made: Any = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000))
        return made.fit(flat(inputs[rows]), is_right[rows].ravel())

    def flat(part: _Floats) -> npt.NDArray[np.float64]:
        return np.asarray(part, dtype=np.float64).reshape(-1, inputs.shape[-1])

    known, held = ~sides.is_test, sides.held_back
    losses = {
        one: log_loss(
            is_right[held].ravel(), fitted(known & ~held, one).predict_proba(flat(inputs[held]))
        )
        for one in PENALTIES
    }
    best = fitted(known, min(losses, key=lambda one: losses[one]))
    found: npt.NDArray[np.float64] = best.predict_proba(flat(inputs[sides.is_test]))[:, 1]
    return found.reshape(-1, inputs.shape[1])


# -- what is said and drawn -----------------------------------------------------------------


def _sentence(scores: pl.DataFrame, added: Estimate, n: int) -> str:
    said = {(row["predictor"], row["of"]): row["accuracy"] for row in rows_of(scores)}
    more = ranged(added, scale=100, sign="+")
    told = added.low is not None and added.high is not None and not added.low <= 0 <= added.high
    return (
        f"Entropy and its course tell of {said[COURSE, 'tokens']} of the generated tokens whether "
        f"they are right; hidden states add {more} points"
        f"{'' if told else ', which cannot be told from 0'}. Of {n:,} sequences, for all tokens at "
        f"once: {said[COURSE, 'full sequences']}, with states {said[BOTH, 'full sequences']}. The "
        f"token's own entropy alone tells {said[ENTROPY, 'tokens']}, always saying the commoner "
        f"{said[COMMONER, 'tokens']}."
    )


def _figures(
    scores: pl.DataFrame, steps: pl.DataFrame, levels: pl.DataFrame, n_steps: int
) -> Iterator[Chart]:
    title = "Tokens, and whole sequences, told rightly, per cent (95 % interval)"
    yield bars_by(title, scores, "predictor", "accuracy", at="of", percent=True)
    yield Chart(
        title="Tokens told rightly, by their place, per cent (95 % interval)",
        x_label="generated token",
        percent=True,
        series=series_by(steps, "predictor", "accuracy", x="step"),
    )
    yield Chart(
        title=f"Told rightly by states and entropy, by how many of {n_steps} tokens are right, "
        "per cent",
        x_label="right tokens of the sequence",
        form="points",
        percent=True,
        series=(
            series_of("tokens", levels, "tokens", x="level"),
            series_of("full sequences", levels, "full", x="level"),
        ),
    )


def _further(
    generated: Generated,
    sides: Sides,
    chances: dict[str, npt.NDArray[np.float64]],
    test: _Bools,
    settings: Settings,
) -> Iterator[str]:
    n, n_test, n_held = (len(generated.tokens), *(int(rows.sum()) for rows in sides))
    yield (
        f"{n:,} sequences, at most {settings.per_level} a level: {n - n_test - n_held:,} to learn "
        f"from, {n_held} to choose a penalty, {n_test} to try it on; near-equal texts on one "
        "side."
    )
    areas = (
        f"{name} {roc_auc_score(test.ravel(), one.ravel()):.3f}"
        for name, one in chances.items()
        if name != COMMONER
    )
    yield "ROC AUC over tokens: " + ", ".join(areas)
    yield "Each regression sees a token and what was generated before it, no later one."
    counts = np.bincount(generated.level, minlength=settings.n_steps + 1)
    few = settings.per_level // 2
    thin = [str(level) for level, count in enumerate(counts) if count < few]
    if thin:
        yield (
            f"Levels of fewer than {few} sequences: {', '.join(thin)} of {settings.n_steps} right."
        )
