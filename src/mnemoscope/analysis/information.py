"""Entropy of neurons and mutual information between them, from binned activations.

Source: Bansal, Pruthi, Belinkov 2022, "Measures of Information Reflect Memorization Patterns",
arXiv 2210.09404; section 6 of the related work. Natural logarithms; plug-in estimates, whose bias
upwards a shuffled null shows.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["bin_edges", "binned", "entropies", "mean_information", "shuffled_columns"]

Codes = npt.NDArray[np.int64]
"""Number of the bin of every sample and neuron, shape (samples, neurons)."""


def bin_edges(
    activations: npt.ArrayLike, n_bins: int, kind: Literal["quantile", "width"]
) -> npt.NDArray[np.float64]:
    """Give the inner edges of each neuron's bins.

    Args:
        activations: of all groups together, shape (samples, neurons): groups share their bins.
        n_bins: how many.
        kind: as many samples in each bin, or bins of equal width from least to greatest.

    Returns:
        Shape (n_bins - 1, neurons), ascending.
    """
    values = np.asarray(activations, dtype=np.float64)
    inner = np.arange(1, n_bins) / n_bins
    if kind == "quantile":
        found: npt.NDArray[np.float64] = np.quantile(values, inner, axis=0)
        return found
    low, high = values.min(axis=0), values.max(axis=0)
    even: npt.NDArray[np.float64] = low + inner[:, None] * (high - low)
    return even


def binned(activations: npt.ArrayLike, edges: npt.NDArray[np.float64]) -> Codes:
    """Number the bin of every activation; a value on an edge belongs to the upper bin."""
    values = np.asarray(activations, dtype=np.float64)
    codes = np.empty(values.shape, dtype=np.int64)
    for neuron in range(values.shape[1]):
        codes[:, neuron] = np.searchsorted(edges[:, neuron], values[:, neuron], side="right")
    return codes


def entropies(codes: Codes, n_bins: int, *, published: bool = False) -> npt.NDArray[np.float64]:
    """Give each neuron's entropy, nats.

    Args:
        codes: from `binned`.
        n_bins: how many bins there are.
        published: the mean over samples of p ln 1/p, p the share of the sample's bin, as the
            paper's first equation is printed: Σ p² ln 1/p over bins, which is not Shannon's entropy
            and is largest for neurons that are neither constant nor spread evenly.

    Returns:
        Shape (neurons,).
    """
    share = _counts(codes, n_bins) / len(codes)
    terms = share * np.log(1 / np.where(share > 0, share, 1.0))
    found: npt.NDArray[np.float64] = (terms * share if published else terms).sum(axis=0)
    return found


def mean_information(codes: Codes, n_bins: int) -> float:
    """Give the mutual information of two neurons, nats, mean over all pairs.

    I = H(one) + H(other) − H(both), from joint counts that one product of matrices gives.

    Args:
        codes: from `binned`; at least two neurons.
        n_bins: how many bins there are.
    """
    n, n_neurons = codes.shape
    places = (np.arange(n_neurons) * n_bins + codes).astype(np.int64)
    indicator = np.zeros((n, n_neurons * n_bins), dtype=np.float32)
    indicator[np.arange(n)[:, None], places] = 1
    joint = indicator.T @ indicator  # whole numbers up to n: exact in float32
    table = np.arange(n + 1, dtype=np.float64)
    n_log_n = table * np.log(np.maximum(table, 1))
    terms = n_log_n[joint.astype(np.int32)]
    both_all = np.log(n) - terms.reshape(n_neurons, n_bins, n_neurons, n_bins).sum((1, 3)) / n
    single = np.diag(both_all)  # a neuron with itself has its own entropy
    pairs = np.triu_indices(n_neurons, 1)
    return float((single[pairs[0]] + single[pairs[1]] - both_all[pairs]).mean())


def shuffled_columns(codes: Codes, generator: np.random.Generator) -> Codes:
    """Put each neuron's samples in an order of its own: what is left of information is bias."""
    return generator.permuted(codes, axis=0)


def _counts(codes: Codes, n_bins: int) -> npt.NDArray[np.float64]:
    """Samples in each bin of each neuron, (bins, neurons)."""
    n_neurons = codes.shape[1]
    places = (codes * n_neurons + np.arange(n_neurons)).ravel()
    counts = np.bincount(places, minlength=n_bins * n_neurons)
    return counts.reshape(n_bins, n_neurons).astype(np.float64)
