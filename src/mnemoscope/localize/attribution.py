"""How a class's score changes with each cell of the network's input: by gradient or occlusion.

The score is a contrast: the class's logit minus the mean of the others. One backward pass serves
all rows, each with the contrast of its own class.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from mnemoscope.cnn.training import evaluation_mode
from mnemoscope.errors import UserError, nearest

Attribution = Literal["gradient", "guided", "integrated", "occlusion"]
"""`gradient`: plain. `guided`: guided backpropagation (Springenberg et al., arXiv 1412.6806).

The paper (arXiv 2508.02573) writes guided; its published code hooks ReLU modules, of which its
network has none, and so computes the plain gradient bit for bit.
`integrated`: the gradient averaged along the straight line from an input of zeros (no attention;
with a scaled input the training maps' mean), 16 steps (Sundararajan et al., arXiv 1703.01365), not
multiplied by the input, since Δ weighs by the attention itself. `occlusion`: how much the contrast
falls when a block of one layer, 8 queries and 8 keys is set to zero (Zeiler and Fergus, 2014). The
last two are Captum's, in the extra `attribution`.
"""
ATTRIBUTIONS: tuple[str, ...] = get_args(Attribution)
OF_CAPTUM = ("integrated", "occlusion")
COSTLY = OF_CAPTUM
"""Those that run the network tens of times a sequence, where the others need one pass."""

_STEPS = 16
_BLOCK = 8


class Contrast(NamedTuple):
    """Logits (b, classes) float32, and attributions of the contrasts (b, layers, query, key)."""

    logits: Tensor
    gradients: Tensor


def contrast_gradients(
    network: nn.Module, inputs: Tensor, classes: Tensor, *, attribution: str = "gradient"
) -> Contrast:
    """Attribute each row's class contrast to the network's input.

    The network runs in evaluation mode and is restored, hooks removed, also after an error. Rows do
    not interact, so the gradient of the summed contrasts holds each row's own. Inputs are scaled as
    in training, (b, layers, query, key), on the network's device; classes int64 (b,). Raises
    UserError: unknown attribution, guided for a network without ReLU modules, or one of Captum's
    where Captum is not installed.
    """
    check_attributions([attribution])
    if attribution in OF_CAPTUM:
        return _by_captum(network, inputs.detach(), classes, attribution)
    inputs = inputs.detach().requires_grad_()
    rule = _guided(network) if attribution == "guided" else nullcontext()
    with evaluation_mode(network), rule, torch.enable_grad():
        logits = network(inputs)
        (gradients,) = torch.autograd.grad(class_contrast(logits, classes).sum(), inputs)
    return Contrast(logits.detach(), gradients)


def check_attributions(names: Iterable[str]) -> None:
    """Reject unknown attributions, and Captum's if it is not installed, before any work is done."""
    for name in names:
        if name not in ATTRIBUTIONS:
            raise UserError(
                f"attribution '{name}': must be one of {', '.join(ATTRIBUTIONS)}."
                f"{nearest(name, ATTRIBUTIONS)}"
            )
        if name in OF_CAPTUM and find_spec("captum") is None:
            raise UserError(
                f"attribution '{name}' needs Captum, which is not installed. "
                "Run: pip install 'mnemoscope[attribution]'"
            )


def class_contrast(logits: Tensor, classes: Tensor) -> Tensor:
    """Each row's logit of its class minus the mean of its other logits: (b, classes) to (b,)."""
    own = logits.gather(1, classes[:, None])[:, 0]
    return own - (logits.sum(dim=1) - own) / (logits.shape[1] - 1)


def _by_captum(network: nn.Module, inputs: Tensor, classes: Tensor, attribution: str) -> Contrast:
    """Integrated gradients, or occlusion of blocks, of each row's contrast."""
    from captum.attr import FeatureAblation, IntegratedGradients

    def contrast(rows: Tensor, of: Tensor) -> Tensor:
        return class_contrast(network(rows), of)

    with evaluation_mode(network):
        with torch.no_grad():
            logits = network(inputs)
        if attribution == "integrated":
            found = IntegratedGradients(contrast, multiply_by_inputs=False).attribute(
                inputs,
                additional_forward_args=(classes,),
                n_steps=_STEPS,
                internal_batch_size=max(len(inputs), 64),
            )
        else:
            with torch.no_grad():
                found = FeatureAblation(contrast).attribute(
                    inputs, additional_forward_args=(classes,), feature_mask=_blocks(inputs)
                )
    return Contrast(logits, found.detach().to(inputs.dtype))


def _blocks(inputs: Tensor) -> Tensor:
    """Block number of each cell, (1, layers, query, key); one above the diagonal joins it."""
    n_layers, length = inputs.shape[1:3]
    band = torch.arange(length, device=inputs.device) // _BLOCK
    n_bands = int(band[-1]) + 1
    within = band[:, None] * n_bands + torch.minimum(band[:, None], band)
    layers = torch.arange(n_layers, device=inputs.device)[:, None, None]
    _, numbers = torch.unique(layers * n_bands**2 + within, return_inverse=True)
    blocks: Tensor = numbers[None]
    return blocks


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
