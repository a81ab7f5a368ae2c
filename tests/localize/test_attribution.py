"""Attribution equals Captum's, answers worked out by hand, and leaves the network as it was."""

import pytest
import torch
from torch import nn

from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.errors import UserError
from mnemoscope.localize.delta import check_attributions, class_contrast, contrast_gradients


class ContrastNetwork(nn.Module):
    """Every class's contrast as an output, so that Captum can take one as its target."""

    def __init__(self, network: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.network = network
        others = (1 - torch.eye(n_classes)) / (n_classes - 1)
        self.register_buffer("mix", torch.eye(n_classes) - others)

    def forward(self, inputs):
        return self.network(inputs) @ self.mix.T


def a_network(n_classes=3, kernel=6, filters=10, seed=0) -> AttentionCnn:
    torch.manual_seed(seed)
    return AttentionCnn(4, n_classes, kernel=kernel, filters=filters)


def some_inputs(n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 4, 64, 64, generator=generator).tril()


@pytest.mark.parametrize("attribution", ["gradient", "guided"])
@pytest.mark.parametrize(("n_classes", "kernel", "filters"), [(2, 6, 10), (3, 8, 16), (4, 6, 16)])
def test_attribution_equals_captum(attribution, n_classes, kernel, filters):
    """To 1e-6 of the largest gradient: both sum the same float32 products, in one order."""
    from captum.attr import GuidedBackprop, Saliency  # heavy

    network = a_network(n_classes, kernel, filters).eval()
    inputs, classes = some_inputs(6), torch.arange(6) % n_classes
    found = contrast_gradients(network, inputs, classes, attribution=attribution)
    contrasts, copy = ContrastNetwork(network, n_classes), inputs.clone().requires_grad_()
    if attribution == "gradient":
        wanted = Saliency(contrasts).attribute(copy, target=classes, abs=False)
    else:
        wanted = GuidedBackprop(contrasts).attribute(copy, target=classes)
    scale = wanted.abs().max()
    assert scale > 0
    assert (found.gradients - wanted).abs().max() <= 1e-6 * scale
    assert torch.equal(found.logits, network(inputs).detach())


@pytest.mark.parametrize("attribution", ["gradient", "guided"])
@pytest.mark.parametrize("fails", [False, True])
def test_network_is_given_back_as_it_was(attribution, fails):
    """Dropout is off meanwhile, and the caller may forbid gradients."""
    network = a_network().train()
    modes = [module.training for module in network.modules()]
    inputs, classes = some_inputs(2)[:, : 3 if fails else 4], torch.tensor([0, 1])
    with pytest.raises(RuntimeError, match="channels") if fails else torch.no_grad():
        first, second = (
            contrast_gradients(network, inputs, classes, attribution=attribution) for _ in range(2)
        )
        assert torch.equal(first.gradients, second.gradients)
        assert torch.equal(first.logits, second.logits)
    assert [module.training for module in network.modules()] == modes
    assert not any(module._backward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not inputs.requires_grad


def test_what_cannot_be_attributed_is_refused(hide):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    inputs, zero = torch.rand(1, 1, 2, 2), torch.tensor([0])
    contrast_gradients(network, inputs, zero, attribution="gradient")
    for name, words in (("guided", "needs ReLU modules"), ("guide", "Did you mean 'guided'")):
        with pytest.raises(UserError, match=words):
            contrast_gradients(network, inputs, zero, attribution=name)
    hide("captum")
    with pytest.raises(UserError, match=r"pip install 'captum>=0.7'"):
        check_attributions(["gradient", "occlusion"])
    check_attributions(["gradient", "guided"])


class _Weighted(nn.Module):
    """Logits are weighted sums of the map: every attribution can be read off."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, maps):
        return torch.einsum("blqk,clqk->bc", maps, self.weight)


def test_integrated_gradients_of_a_linear_network_are_its_weights():
    """To 1e-6: the mean of 16 equal float32 gradients."""
    weight, inputs = torch.randn(2, 2, 16, 16), torch.rand(5, 2, 16, 16)
    classes = torch.tensor([0, 1, 1, 0, 1])
    found = contrast_gradients(_Weighted(weight), inputs, classes, attribution="integrated")
    assert (found.gradients - (weight[classes] - weight[1 - classes])).abs().max() < 1e-6


def test_occlusion_is_how_far_the_contrast_falls_without_a_block():
    """To 1e-4: differences of float32 sums of 512 terms."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 2, 16, 16, generator=generator)
    inputs = torch.rand(4, 2, 16, 16, generator=generator).tril()
    classes = torch.tensor([0, 1, 2, 0])
    network = _Weighted(weight)
    found = contrast_gradients(network, inputs, classes, attribution="occlusion")
    before = class_contrast(network(inputs), classes)
    for layer, queries, keys in ((0, 0, 0), (1, 1, 0), (1, 1, 1)):
        cut = inputs.clone()
        sides = (slice(8 * at, 8 * at + 8) for at in (queries, keys))
        block = (slice(None), layer, *sides)
        cut[block] = 0.0
        fall = before - class_contrast(network(cut), classes)
        assert (found.gradients[block] - fall[:, None, None]).abs().max() < 1e-4
