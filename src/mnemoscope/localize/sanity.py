"""Does an attribution depend on what the CNN learned: weights randomized layer by layer.

From the top down, each layer's weights are drawn anew and those above stay drawn ("cascading").
An attribution whose map hardly changes shows the input, not the network.

Source: Adebayo et al., Sanity Checks for Saliency Maps, 2018, arXiv 1810.03292.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mnemoscope.cnn.inputs import NetworkInputs
from mnemoscope.cnn.trained import TrainedCnn
from mnemoscope.localize.attribution import contrast_gradients
from mnemoscope.localize.decisiveness import normalized_gradients
from mnemoscope.maps.dataset import MapSource
from mnemoscope.maps.triangle import unpack_triangle

__all__ = ["ClassMeans", "class_means", "randomized"]


class ClassMeans(NamedTuple):
    """Means over all sequences of each class, rightly classified or not.

    A randomized CNN classifies hardly any sequence rightly; so that the same sequences are
    compared before and after, all count.

    Attributes:
        weights: of D alone, float32 (classes, layers, query, key).
        delta: of D · A.
        attention: of A alone, the maximum over heads.
    """

    weights: Tensor
    delta: Tensor
    attention: Tensor


def class_means(
    trained: TrainedCnn,
    maps: MapSource,
    labels: Tensor,
    *,
    max_maps: MapSource,
    attribution: str,
    batch_size: int = 64,
) -> ClassMeans:
    """Attribute every sequence to its true class and average; arguments as `decisiveness`."""
    n_classes = trained.network.n_classes
    shape = (n_classes, maps.n_layers, maps.length, maps.length)
    sums = [torch.zeros(shape, dtype=torch.float64) for _ in ClassMeans._fields]
    device = next(trained.network.parameters()).device
    inputs = NetworkInputs(maps, trained.scaling, device=device)
    for rows in torch.split(torch.arange(len(maps)), batch_size):
        truth = labels[rows]
        found = contrast_gradients(
            trained.network, inputs.batch(rows), truth.to(device), attribution=attribution
        )
        weights = normalized_gradients(found.gradients).cpu().double()
        attention = unpack_triangle(max_maps.read(rows)).double()
        for total, values in zip(sums, (weights, weights * attention, attention), strict=True):
            total.index_add_(0, truth, values)
    number = torch.bincount(labels, minlength=n_classes).clamp(min=1)[:, None, None, None]
    return ClassMeans(*((total / number).float() for total in sums))


def randomized(trained: TrainedCnn, *, seed: int = 0) -> Iterator[tuple[str, TrainedCnn]]:
    """Draw the weights of one layer after the other anew, from the top down.

    Args:
        trained: is left as it is.
        seed: of the draws.

    Yields:
        The layer drawn last, and a CNN whose layers from there to the top are random.
    """
    network = copy.deepcopy(trained.network)
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if hasattr(module, "reset_parameters") and next(module.parameters(), None) is not None
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in reversed(layers):
            module.reset_parameters()
            yield name, replace(trained, network=copy.deepcopy(network))
