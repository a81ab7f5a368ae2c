"""Logits of a trained CNN on maps, in the order of the maps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mnemoscope.cnn.inputs import NetworkInputs
from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.trained import TrainedCnn
from mnemoscope.maps.dataset import MapSource

__all__ = ["evaluation_mode", "predict_logits"]


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout off inside the block and restore the former mode after it."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def predict_logits(
    trained: TrainedCnn, maps: MapSource, *, batch_size: int | None = None
) -> Tensor:
    """Score maps.

    Args:
        trained: what `train_cnn` or `load_cnn` gave.
        maps: as captured, not scaled.
        batch_size: maps at once, None for 256 of 4 layers and fewer of more (`rows_at_once`);
            another size may change the last bits.

    Returns:
        (maps, classes) float32 on the CPU.

    Raises:
        ValueError: maps of another number of layers or another length.
    """
    network = trained.network
    if (maps.n_layers, maps.length) != (network.n_layers, network.length):
        raise ValueError(
            f"maps have {maps.n_layers} layers of side {maps.length}, the CNN was trained on "
            f"{network.n_layers} of side {network.length}"
        )
    device = next(network.parameters()).device
    return score_inputs(
        network, NetworkInputs(maps, trained.scaling, device=device), batch_size=batch_size
    )


@torch.inference_mode()
def score_inputs(
    network: AttentionCnn, inputs: NetworkInputs, *, batch_size: int | None = None
) -> Tensor:
    """Score maps that are already scaled; result as `predict_logits`."""
    logits = torch.empty(len(inputs), network.n_classes)
    with evaluation_mode(network):
        for rows in torch.split(torch.arange(len(inputs)), batch_size or inputs.rows_at_once):
            scored = network(inputs.batch(rows), causal=True)
            logits[rows[0] : rows[-1] + 1] = scored.to("cpu", torch.float32)
    return logits
