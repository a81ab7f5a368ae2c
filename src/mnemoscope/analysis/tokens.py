"""Can it be told of each generated token whether it is right, from states and entropy?

Source: Chen, Han, Miyao 2024, arXiv 2405.11577; section 4 of the related work: an encoder on the
last hidden states and the entropy of generated tokens, its token and full-sequence accuracy.
Run it: mnemoscope analyze tokens STUDY
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from mnemoscope import UserError
from mnemoscope.plugin import (
    AnalysisInputs,
    AnalysisResult,
    Chart,
    Generated,
    LevelSettings,
    Progress,
    bars_by,
    entropy_of,
    find_groups,
    frame_of,
    generate_by_level,
    n_groups,
    resampled_mean,
    rows_of,
    series_by,
    series_of,
    share_true,
    states_of,
    track,
)

_Floats = npt.NDArray[np.floating]
_Bools = npt.NDArray[np.bool_]

_TEST, _HELD_BACK = 0.2, 0.125  # of the rows; of the rest
_MINIMUM = 50
_HIDDEN = 512


class Settings(LevelSettings):
    """Settings of `tokens`."""

    n_epochs: int = Field(default=30, ge=1, description="Epochs of training at most.")


class Sides(NamedTuple):
    """Which rows are for what, (n,): a fifth to test, an eighth of the rest to decide the stop."""

    is_test: _Bools
    held_back: _Bools


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Train the predictor and try it beside two that know less; UserError: too few sequences."""
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
    training = Training(n_epochs=settings.n_epochs, seed=settings.seed)
    held_back, test = sides.held_back[known], right[sides.is_test]
    with track("Training the predictor, epochs", total=settings.n_epochs) as progress:
        model = train_predictor(
            states[known], entropy[known], right[known], held_back, training, progress
        )
    encoded = predict_probabilities(
        model, states[sides.is_test], entropy[sides.is_test], batch_size=training.batch_size
    )
    chances = {
        "states and entropy": encoded,
        "entropy alone": predict_by_entropy(entropy, right, sides.is_test),
        "always the commoner": np.full(test.shape, float(right[known].mean())),
    }
    owners = groups.to_numpy()[sides.is_test]
    scores = frame_of(
        [row for name, one in chances.items() for row in score(one > 0.5, test, name, owners)]
    )
    steps = frame_of(
        [
            {"predictor": name, "step": step} | {"accuracy": share_true(hit, owners)}
            for name, one in chances.items()
            for step, hit in enumerate(((one > 0.5) == test).T, start=1)
        ]
    )
    levels = _level_frame(encoded > 0.5, test, owners)
    return AnalysisResult(
        sentence=_sentence(scores, len(test)),
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


# -- a small encoder, and what it must beat -------------------------------------------------


@dataclass(frozen=True)
class Training:
    """How a predictor is built and trained."""

    n_layers: int = 4
    n_heads: int = 8  # at most; lowered to what divides the width
    feedforward: int = 512
    n_epochs: int = 30  # at most
    patience: int = 5  # epochs without a better loss on the held-back rows
    batch_size: int = 32
    learning_rate: float = 1e-4  # of Adam
    seed: int = 0


class Predictor(nn.Module):
    """States and entropy of generated tokens to log-probabilities of wrong and right."""

    def __init__(self, width: int, training: Training) -> None:
        super().__init__()
        n_heads = math.gcd(training.n_heads, width)
        layer = nn.TransformerEncoderLayer(width, n_heads, training.feedforward, batch_first=True)
        self.encoder: nn.TransformerEncoder = nn.TransformerEncoder(
            layer, training.n_layers, enable_nested_tensor=False
        )
        self.narrow: nn.Linear = nn.Linear(width, _HIDDEN)
        self.head: nn.Linear = nn.Linear(_HIDDEN + 1, 2)
        self.register_buffer("center", torch.zeros(width + 1))
        self.register_buffer("scale", torch.ones(width + 1))

    def fit_scale(self, states: torch.Tensor, entropy: torch.Tensor) -> None:
        """Take mean and spread of the training rows, to which inputs are scaled from now on."""
        both = torch.cat([states, entropy[..., None]], dim=-1).flatten(0, 1)
        self.center: torch.Tensor = both.mean(dim=0)
        self.scale: torch.Tensor = both.std(dim=0).clamp_min(1e-6)

    def forward(self, states: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
        """States (batch, steps, width) and entropy (batch, steps) to (batch, steps, 2)."""
        both = torch.cat([states, entropy[..., None]], dim=-1)
        scaled = (both - self.center) / self.scale
        seen = self.narrow(self.encoder(scaled[..., :-1])).relu()
        found: torch.Tensor = self.head(torch.cat([seen, scaled[..., -1:]], dim=-1))
        return found.log_softmax(dim=-1)


def train_predictor(
    states: _Floats,
    entropy: _Floats,
    is_right: _Bools,
    held_back: _Bools,
    training: Training,
    progress: Progress,
) -> Predictor:
    """Train on some sequences and keep the weights that do best on those held back.

    States are of shape (n, steps, width), entropy (nats) and `is_right` (n, steps); `held_back`,
    (n,), says which rows decide when to stop and are not trained on. Every epoch advances the
    progress. The process's own random state is left as it was.
    """
    x, h, y = (torch.from_numpy(np.ascontiguousarray(part)) for part in (states, entropy, is_right))
    x, h, y = x.float(), h.float(), y.long()
    inside, outside = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~held_back, held_back))

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        logprobs = model(x[batch], h[batch])
        return nn.functional.nll_loss(logprobs.flatten(0, 1), y[batch].flatten())

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = Predictor(states.shape[2], training)
        model.fit_scale(x[inside], h[inside])
        optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
        best, kept, waited = math.inf, model.state_dict(), 0
        for _ in range(training.n_epochs):
            model.train()
            for batch in torch.split(inside[torch.randperm(len(inside))], training.batch_size):
                optimizer.zero_grad()
                loss_of(batch).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            model.eval()
            with torch.no_grad():
                batches = torch.split(outside, training.batch_size)
                loss = sum(float(loss_of(batch)) * len(batch) for batch in batches) / len(outside)
            progress.advance()
            waited += 1
            if loss < best:
                best, waited = loss, 0
                kept = {name: one.clone() for name, one in model.state_dict().items()}
            if waited >= training.patience:
                break
    model.load_state_dict(kept)
    return model.eval()


def predict_probabilities(
    model: Predictor, states: _Floats, entropy: _Floats, *, batch_size: int
) -> npt.NDArray[np.float64]:
    """Give for every generated token the probability that it is right, shape (n, steps).

    The states are of shape (n, steps, width); `batch_size` plays no part in the result.
    """
    parts = []
    with torch.no_grad():
        for start in range(0, len(states), batch_size):
            rows = slice(start, start + batch_size)
            x, h = (torch.from_numpy(np.ascontiguousarray(one[rows])) for one in (states, entropy))
            parts.append(model(x.float(), h.float()).exp()[..., 1].double().numpy())
    return np.concatenate(parts)


def predict_by_entropy(
    entropy: _Floats, is_right: _Bools, is_test: _Bools
) -> npt.NDArray[np.float64]:
    """Do the same without states: a logistic regression on entropy and place of the token.

    Entropy and `is_right` are of shape (n, steps). Gives the probabilities of the rows that
    `is_test`, (n,), names, (test rows, steps); the others are learnt from.
    """
    steps = entropy.shape[1]
    places = np.broadcast_to(np.arange(steps), entropy.shape)
    features = np.stack([entropy, places], axis=-1)
    fitted: Any = make_pipeline(StandardScaler(), LogisticRegression())
    fitted.fit(features[~is_test].reshape(-1, 2), is_right[~is_test].ravel())
    found: npt.NDArray[np.float64] = fitted.predict_proba(features[is_test].reshape(-1, 2))[:, 1]
    return found.reshape(-1, steps)


# -- what is said and drawn -----------------------------------------------------------------


def _sentence(scores: pl.DataFrame, n: int) -> str:
    said = {(row["predictor"], row["of"]): row["accuracy"] for row in rows_of(scores)}
    return (
        f"States and entropy tell of {said['states and entropy', 'tokens']} of the generated "
        f"tokens whether they are right, and of {said['states and entropy', 'full sequences']} of "
        f"{n:,} sequences for all tokens at once; entropy alone of "
        f"{said['entropy alone', 'tokens']} and {said['entropy alone', 'full sequences']}, always "
        f"saying the commoner of {said['always the commoner', 'tokens']} and "
        f"{said['always the commoner', 'full sequences']}."
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
        f"from, {n_held} to decide when to stop, {n_test} to try it on; near-equal texts on one "
        "side."
    )
    areas = (
        f"{name} {roc_auc_score(test.ravel(), one.ravel()):.3f}"
        for name, one in list(chances.items())[:2]
    )
    yield "ROC AUC over tokens: " + ", ".join(areas)
    yield "The encoder sees all generated tokens of a sequence, later ones too."
    counts = np.bincount(generated.level, minlength=settings.n_steps + 1)
    few = settings.per_level // 2
    thin = [str(level) for level, count in enumerate(counts) if count < few]
    if thin:
        yield (
            f"Levels of fewer than {few} sequences: {', '.join(thin)} of {settings.n_steps} right."
        )
