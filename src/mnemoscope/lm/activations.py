"""What the neurons of a model's MLPs say: the activation of each at the last token of a sequence.

A neuron is one of the numbers that an MLP's last matrix reads: what the nonlinearity gives, in a
gated MLP times the gate's other half.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mnemoscope.errors import UserError
from mnemoscope.lm.backend import attention_modules
from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import prepend_bos
from mnemoscope.lm.hidden_states import decoder_layers
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["neuron_activations", "output_matrices"]

# What families call the matrix that leads from an MLP's neurons back to the hidden state.
_NAMES = {"dense_4h_to_h", "down_proj", "fc_out", "fc2", "c_proj"}


def neuron_activations(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Give the activation of every neuron at the last token of every sequence.

    Args:
        lm: the model; its native attention backend is used, and its hooks are removed after every
            batch, also after an error.
        tokens: sequences, or their prefixes, shape (n, T), integers.
        batch_size: sequences at once; halved, and said so, when memory runs out.

    Returns:
        An iterator of batches (batch, layers, neurons), float32, in the order of the rows.

    Raises:
        UserError: tokens that do not fit the model, or a family whose layers have not one MLP each
            (experts).
        NoRoomError: not even one sequence fits into memory.
    """
    matrices = output_matrices(lm)
    table = check_tokens(lm, tokens)
    return run_batches(lm, table, batch_size, lambda batch: _batch(lm, matrices, batch))


def output_matrices(lm: LanguageModel) -> list[nn.Module]:
    """Give each layer's matrix that reads the neurons, in the order of the layers.

    Raises:
        UserError: a layer has none, or several.
    """
    return [_output_matrix(lm, number, layer) for number, layer in enumerate(decoder_layers(lm))]


def _output_matrix(lm: LanguageModel, number: int, layer: nn.Module) -> nn.Module:
    of_attention = {inner for module in attention_modules(layer) for inner in module.modules()}
    found: list[nn.Module] = [
        module
        for name, module in layer.named_modules()
        if name.rsplit(".", 1)[-1] in _NAMES and module not in of_attention
    ]
    if len(found) != 1:
        raise UserError(
            f"{lm.name}: layer {number} has {len(found)} MLP output matrices where one is looked "
            "for, so its neurons cannot be read. Choose a model without experts."
        )
    return found[0]


def _batch(
    lm: LanguageModel, matrices: list[nn.Module], batch: torch.Tensor
) -> npt.NDArray[np.float32]:
    with torch.inference_mode(), _last_inputs(matrices, len(batch)) as found:
        has_cache = hasattr(lm.model.config, "use_cache")
        lm.model.base_model(
            input_ids=prepend_bos(lm, batch), **({"use_cache": False} if has_cache else {})
        )
        return torch.stack([found[matrix] for matrix in matrices], dim=1).numpy()


@contextmanager
def _last_inputs(matrices: list[nn.Module], n_rows: int) -> Iterator[dict[nn.Module, torch.Tensor]]:
    """Collect what each matrix reads at the last token, (rows, neurons) float32 on the CPU."""
    found: dict[nn.Module, torch.Tensor] = {}

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        read = args[0]  # some families lay all tokens of a batch in one row
        last = read.reshape(n_rows, -1, read.shape[-1])[:, -1]
        found[module] = last.float().cpu().clone()

    handles = [matrix.register_forward_pre_hook(keep) for matrix in matrices]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
