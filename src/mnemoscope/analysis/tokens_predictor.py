"""A small encoder that says of each generated token whether it is right, and what it must beat."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mnemoscope.progress import Progress

__all__ = [
    "Predictor",
    "Training",
    "predict_by_entropy",
    "predict_probabilities",
    "train_predictor",
]

_Floats = npt.NDArray[np.floating]
_Bools = npt.NDArray[np.bool_]
_HIDDEN = 512


@dataclass(frozen=True)
class Training:
    """How a predictor is built and trained.

    Attributes:
        n_layers: of the encoder.
        n_heads: at most; lowered to what divides the width.
        feedforward: width of the encoder's inner layers.
        n_epochs: at most.
        patience: epochs without a better loss on the held-back rows, after which it stops.
        batch_size: sequences a step.
        learning_rate: of Adam.
        batch_first: attend over the steps of a sequence. False, as published: the encoder takes
            the batch for the sequence and attends from one sequence to the others.
        seed: of weights, dropout and order.
    """

    n_layers: int = 4
    n_heads: int = 8
    feedforward: int = 512
    n_epochs: int = 30
    patience: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-4
    batch_first: bool = True
    seed: int = 0


class Predictor(nn.Module):
    """States and entropy of generated tokens to log-probabilities of wrong and right.

    Attributes:
        encoder: attends over what `batch_first` says.
    """

    def __init__(self, width: int, training: Training) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width,
            math.gcd(training.n_heads, width),
            training.feedforward,
            batch_first=training.batch_first,
        )
        self.encoder = nn.TransformerEncoder(layer, training.n_layers, enable_nested_tensor=False)
        self.narrow = nn.Linear(width, _HIDDEN)
        self.head = nn.Linear(_HIDDEN + 1, 2)
        self.register_buffer("center", torch.zeros(width + 1))
        self.register_buffer("scale", torch.ones(width + 1))

    def fit_scale(self, states: torch.Tensor, entropy: torch.Tensor) -> None:
        """Take mean and spread of the training rows, to which inputs are scaled from now on."""
        both = torch.cat([states, entropy[..., None]], dim=-1).flatten(0, 1)
        self.center = both.mean(dim=0)
        self.scale = both.std(dim=0).clamp_min(1e-6)

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
    held_back: npt.NDArray[np.bool_],
    training: Training,
    progress: Progress | None = None,
) -> Predictor:
    """Train on some sequences and keep the weights that do best on those held back.

    Args:
        states: shape (n, steps, width).
        entropy: nats, shape (n, steps).
        is_right: shape (n, steps).
        held_back: shape (n,): rows that decide when to stop and are not trained on.
        training: how.
        progress: advanced by every epoch.

    Returns:
        The predictor in evaluation mode. The process's own random state is left as it was.
    """
    x, h, y = (torch.from_numpy(np.ascontiguousarray(part)) for part in (states, entropy, is_right))
    x, h, y = x.float(), h.float(), y.long()
    inside, outside = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~held_back, held_back))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = Predictor(states.shape[2], training)
        model.fit_scale(x[inside], h[inside])
        optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
        best, kept, waited = math.inf, model.state_dict(), 0
        for _ in range(training.n_epochs):
            _epoch(model, optimizer, x, h, y, inside, training.batch_size)
            loss = _loss(model, x, h, y, outside, training.batch_size)
            if progress is not None:
                progress.advance(1)
            waited = 0 if loss < best else waited + 1
            if loss < best:
                best = loss
                kept = {name: one.clone() for name, one in model.state_dict().items()}
            if waited >= training.patience:
                break
    model.load_state_dict(kept)
    return model.eval()


def predict_probabilities(
    model: Predictor, states: _Floats, entropy: _Floats, *, batch_size: int
) -> npt.NDArray[np.float64]:
    """Give for every generated token the probability that it is right.

    Args:
        model: trained.
        states: shape (n, steps, width).
        entropy: shape (n, steps).
        batch_size: sequences at once; with `batch_first` it plays no part in the result.
    """
    parts = []
    with torch.no_grad():
        for start in range(0, len(states), batch_size):
            rows = slice(start, start + batch_size)
            x, h = (torch.from_numpy(np.ascontiguousarray(one[rows])) for one in (states, entropy))
            parts.append(model(x.float(), h.float()).exp()[..., 1].double().numpy())
    return np.concatenate(parts)


def predict_by_entropy(
    entropy: _Floats, is_right: _Bools, is_test: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Do the same without states: a logistic regression on entropy and place of the token.

    Args:
        entropy: shape (n, steps).
        is_right: shape (n, steps).
        is_test: shape (n,): rows that are predicted, the others are learnt from.

    Returns:
        Probabilities of the test rows, shape (test rows, steps).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = entropy.shape[1]
    places = np.broadcast_to(np.arange(steps), entropy.shape)
    features = np.stack([entropy, places], axis=-1)
    fitted: Any = make_pipeline(StandardScaler(), LogisticRegression())
    fitted.fit(features[~is_test].reshape(-1, 2), is_right[~is_test].ravel())
    found: npt.NDArray[np.float64] = fitted.predict_proba(features[is_test].reshape(-1, 2))[:, 1]
    return found.reshape(-1, steps)


def _epoch(
    model: Predictor,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    h: torch.Tensor,
    y: torch.Tensor,
    rows: torch.Tensor,
    batch_size: int,
) -> None:
    model.train()
    for batch in torch.split(rows[torch.randperm(len(rows))], batch_size):
        optimizer.zero_grad()
        _nll(model(x[batch], h[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _loss(
    model: Predictor,
    x: torch.Tensor,
    h: torch.Tensor,
    y: torch.Tensor,
    rows: torch.Tensor,
    batch_size: int,
) -> float:
    model.eval()
    with torch.no_grad():
        parts = [
            float(_nll(model(x[batch], h[batch]), y[batch])) * len(batch)
            for batch in torch.split(rows, batch_size)
        ]
    return sum(parts) / len(rows)


def _nll(logprobs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return nn.functional.nll_loss(logprobs.flatten(0, 1), wanted.flatten())
