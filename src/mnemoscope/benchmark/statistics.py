"""A plain reader of the same maps: logistic regression on a few statistics a layer.

It stands beside the CNN so that a CNN that failed to train is not taken for absent evidence:
with a few hundred sequences a class it is often the better of the two.
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mnemoscope.benchmark.baseline import BaselineFit, fit_baseline
from mnemoscope.benchmark.blind import blind_maps
from mnemoscope.maps.dataset import MapSource
from mnemoscope.maps.shape import SHAPES, attention_shape
from mnemoscope.maps.triangle import unpack_triangle

__all__ = [
    "ALL_STATISTICS",
    "STATISTICS",
    "all_statistics",
    "classify_statistics",
    "map_statistics",
]

STATISTICS = (
    "prefix to prefix: mean",
    "prefix to prefix: standard deviation",
    "prefix to prefix: largest",
    "suffix to prefix: mean",
    "suffix to prefix: standard deviation",
    "suffix to prefix: largest",
    "suffix to suffix: mean",
    "suffix to suffix: standard deviation",
    "suffix to suffix: largest",
    "entropy of a prefix token's row",
    "entropy of a suffix token's row",
    "to itself",
    "to the token before",
    "to the first token",
)
"""What `map_statistics` gives of each layer, in order (query to key; causal entries only)."""
ALL_STATISTICS = (*STATISTICS, *SHAPES)
"""What `all_statistics` gives of each layer, in order."""

_ROWS_AT_ONCE = 256
_SMALLEST_WEIGHT = 1e-12


def map_statistics(maps: MapSource) -> np.ndarray:
    """Sum up each layer of each map in 14 numbers.

    Mean, standard deviation and maximum of three blocks (query prefix, key prefix; query
    suffix, key prefix; query suffix, key suffix), the mean entropy (nats) of the rows of
    either half, each row scaled to sum 1, and the mean weight on the diagonal, just below it,
    and on the first key (queries 1 and later). Prefix and suffix are halves of the map.

    Args:
        maps: n maps.

    Returns:
        Shape (n, layers, 14), float64, in the order of `STATISTICS`.
    """
    parts = [
        _summarize(unpack_triangle(maps.read(rows)))
        for rows in torch.split(torch.arange(len(maps)), _ROWS_AT_ONCE)
    ]
    return torch.cat(parts).numpy()


def all_statistics(maps: MapSource, tokens: np.ndarray) -> np.ndarray:
    """Sum up each layer of each map in 22 numbers: those of `map_statistics` and its shape.

    The shape (`maps.shape`) is how concentrated the rows are (entropy, Gini coefficient) and what
    share of the weight lies on the first token, near the diagonal, on the sequence's copy edges
    and in the blocks of prefix and suffix. Which edges are copies is read off the tokens.

    Args:
        maps: n maps.
        tokens: token ids of the same sequences as shown to the model, shape (n, T), integer.

    Returns:
        Shape (n, layers, 22), float64, in the order of `ALL_STATISTICS`.
    """
    marks = blind_maps(tokens)
    shapes = []
    for rows in torch.split(torch.arange(len(maps)), _ROWS_AT_ONCE):
        copies = unpack_triangle(marks.read(rows)[:, 1]) > 0
        shapes.append(attention_shape(unpack_triangle(maps.read(rows)), copies))
    return np.concatenate([map_statistics(maps), torch.cat(shapes).numpy()], axis=-1)


def classify_statistics(
    train_statistics: np.ndarray, train_labels: np.ndarray, eval_statistics: np.ndarray, seed: int
) -> BaselineFit:
    """Tell the classes apart by the statistics of their maps.

    Every statistic is standardized over the training sequences, then multinomial logistic
    regression (L2, C = 1).

    Args:
        train_statistics: shape (n_train, layers, figures), or (n_train, columns).
        train_labels: class index of each, shape (n_train,).
        eval_statistics: shape (n_eval, layers, figures), or (n_eval, columns).
        seed: of the solver.

    Returns:
        Predictions and class probabilities of the evaluation sequences.
    """
    estimator = make_pipeline(
        StandardScaler(), LogisticRegression(C=1.0, max_iter=1000, random_state=seed)
    )
    return fit_baseline(
        estimator,
        train_statistics.reshape(len(train_statistics), -1),
        train_labels,
        eval_statistics.reshape(len(eval_statistics), -1),
    )


def _summarize(maps: torch.Tensor) -> torch.Tensor:
    """Summarize unpacked maps, (n, layers, T, T) to (n, layers, 14)."""
    maps = maps.double()
    length = maps.shape[-1]
    half = length // 2
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    blocks = [
        maps[..., :half, :half][..., causal[:half, :half]],
        maps[..., half:, :half].flatten(-2),
        maps[..., half:, half:][..., causal[half:, half:]],
    ]
    figures = [f(b) for b in blocks for f in (_mean, _standard_deviation, _largest)]
    entropy = _row_entropy(maps)
    figures += [_mean(entropy[..., :half]), _mean(entropy[..., half:])]
    figures += [_mean(maps.diagonal(offset, -2, -1)) for offset in (0, -1)]
    return torch.stack([*figures, _mean(maps[..., 1:, 0])], dim=-1)


def _row_entropy(maps: torch.Tensor) -> torch.Tensor:
    """Give the entropy of each query's row scaled to sum 1, nats: (..., T)."""
    share = maps / maps.sum(-1, keepdim=True).clamp_min(_SMALLEST_WEIGHT)
    entropy: torch.Tensor = torch.special.entr(share).sum(-1)
    return entropy


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean(-1)


def _standard_deviation(values: torch.Tensor) -> torch.Tensor:
    return values.std(-1, correction=0)


def _largest(values: torch.Tensor) -> torch.Tensor:
    return values.amax(-1)
