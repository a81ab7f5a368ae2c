"""Δ of several models of one depth as one: every CNN counts alike, whichever model it read."""

from collections.abc import Sequence

import numpy as np

__all__ = ["average_models"]


def average_models(
    deltas: Sequence[np.ndarray], n_says: Sequence[Sequence[int]]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Average the models' means over their CNNs into the mean over all CNNs.

    A model with twice the CNNs counts twice, and one none of whose CNNs used a sequence of a class
    is left out of that class's mean: the result is what `decisiveness.average` gives of all CNNs.

    Args:
        deltas: of each model its mean over CNNs, (classes, layers, query, key), of one shape.
        n_says: of each model and class, the CNNs that its mean is over.

    Returns:
        The mean, float32, and the CNNs of each class that it is over.

    Raises:
        ValueError: no model, or maps of different shapes.
    """
    shapes = {one.shape for one in deltas}
    if len(shapes) != 1:
        raise ValueError(f"maps of shapes {sorted(shapes)} cannot be averaged")
    weights = np.array(n_says, dtype=np.float64)
    total = weights.sum(axis=0)
    summed = sum(
        one.astype(np.float64) * own[:, None, None, None]
        for one, own in zip(deltas, weights, strict=True)
    )
    mean: np.ndarray = summed / np.maximum(total, 1)[:, None, None, None]
    return mean.astype(np.float32), tuple(int(n) for n in total)
