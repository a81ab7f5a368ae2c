"""How a class's score changes with each cell of the network's input: gradient or guided.

The score is a contrast: the class's logit minus the mean of the other logits. One backward pass
serves all rows, each with the contrast of its own class.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from mnemoscope.cnn.prediction import evaluation_mode
from mnemoscope.errors import UserError, nearest

__all__ = ["ATTRIBUTIONS", "Attribution", "Contrast", "class_contrast", "contrast_gradients"]

Attribution = Literal["gradient", "guided"]
"""`gradient`: plain. `guided`: guided backpropagation (Springenberg et al., arXiv 1412.6806).

The paper (arXiv 2508.02573) writes guided; its published code hooks ReLU modules, of which its
network has none, and so computes the plain gradient bit for bit.
"""
ATTRIBUTIONS: tuple[str, ...] = get_args(Attribution)


class Contrast(NamedTuple):
    """What one forward and one backward pass give.

    Attributes:
        logits: float32, shape (b, classes).
        gradients: of each row's own contrast by its input, shape (b, layers, query, key).
    """

    logits: Tensor
    gradients: Tensor


def contrast_gradients(
    network: nn.Module, inputs: Tensor, classes: Tensor, *, attribution: str = "gradient"
) -> Contrast:
    """Differentiate each row's class contrast by the network's input.

    The network is put into evaluation mode and given back as it was, hooks removed, also after
    an error. Rows do not touch each other in evaluation mode, so the gradient of the sum of all
    contrasts holds each row's own.

    Args:
        network: maps (b, layers, query, key) to logits (b, classes).
        inputs: float, on the network's device, scaled as in training.
        classes: class index of each row, int64, shape (b,).
        attribution: "gradient" or "guided".

    Raises:
        UserError: unknown attribution, or guided for a network without ReLU modules.
    """
    if attribution not in ATTRIBUTIONS:
        raise UserError(
            f"attribution '{attribution}': must be one of {', '.join(ATTRIBUTIONS)}."
            f"{nearest(attribution, ATTRIBUTIONS)}"
        )
    inputs = inputs.detach().requires_grad_()
    rule = _guided(network) if attribution == "guided" else _plain()
    with evaluation_mode(network), rule, torch.enable_grad():
        logits = network(inputs)
        (gradients,) = torch.autograd.grad(class_contrast(logits, classes).sum(), inputs)
    return Contrast(logits.detach(), gradients)


def class_contrast(logits: Tensor, classes: Tensor) -> Tensor:
    """Each row's logit of its class minus the mean of its other logits.

    Args:
        logits: shape (b, classes), two classes or more.
        classes: int64, shape (b,).

    Returns:
        Shape (b,).
    """
    own = logits.gather(1, classes[:, None])[:, 0]
    return own - (logits.sum(dim=1) - own) / (logits.shape[1] - 1)


@contextmanager
def _plain() -> Iterator[None]:
    """The gradient as it is."""
    yield


@contextmanager
def _guided(network: nn.Module) -> Iterator[None]:
    """Let only positive gradients pass back through each ReLU."""
    relus = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    if not relus:
        raise UserError(
            "guided attribution needs ReLU modules and this network has none: the result would "
            "be the plain gradient. Use attribution 'gradient'."
        )
    handles = [relu.register_full_backward_hook(_keep_positive) for relu in relus]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep_positive(
    module: nn.Module,  # noqa: ARG001 - the hook's signature
    grad_input: tuple[Tensor, ...],
    grad_output: tuple[Tensor, ...],  # noqa: ARG001
) -> tuple[Tensor, ...]:
    return tuple(gradient.clamp(min=0) for gradient in grad_input)
