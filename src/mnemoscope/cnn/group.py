"""CNNs of one kernel as one network: a convolution over all of them, weights side by side.

Where they see the same maps the first convolution is a single one with every CNN's filters; where
each sees maps of its own, and behind it, convolutions are grouped and linear layers batched.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mnemoscope.cnn.network import AttentionCnn, causal_convolution, in_bands

_CONVOLUTIONS = ("features.0", "features.4")


class CnnGroup(nn.Module):
    """Networks of one kernel, depth, length and number of classes, trained as one.

    Filters may differ: where there are fewer, weights of 0 fill up. They stay 0, since no gradient
    passes a ReLU whose input is 0, nor a weight whose input is. Dropout draws each network's masks
    from its own stream, so a network is trained as it would be alone; sums are rounded otherwise.
    The networks keep their weights until `write_back`.
    """

    def __init__(self, networks: Sequence[AttentionCnn]) -> None:
        super().__init__()
        self.networks = list(networks)  # no submodules: their weights are not trained
        parameters = [dict(one.named_parameters()) for one in networks]
        stacked = {name: _stack([own[name] for own in parameters]) for name in parameters[0]}
        for name in _CONVOLUTIONS:
            weight = stacked[f"{name}.weight"].flatten(0, 1)
            if weight.ndim == 4:
                weight = weight.contiguous(memory_format=torch.channels_last)
            stacked[f"{name}.weight"] = weight
            stacked[f"{name}.bias"] = stacked[f"{name}.bias"].flatten()
        self.weights = nn.ParameterDict(
            {name.replace(".", "_"): nn.Parameter(one) for name, one in stacked.items()}
        )
        self._pools = networks[0].features[3], networks[0].features[7]
        self._relus = nn.ModuleList(
            nn.ReLU() for _ in range(3)
        )  # modules: guided attribution hooks them
        self._dropouts = [one.dropouts for one in networks]

    def forward(self, maps: Tensor, *, causal: bool = False) -> Tensor:
        """Logits (networks, batch, classes) of maps as `AttentionCnn.forward` takes them.

        Of one stream, which all networks see, or of several, one behind the other in the axis of
        the layers: then the first networks see the first, equally many each.
        """
        n, batch = len(self.networks), len(maps)
        units = self._convolve(maps, "features_0", maps.shape[1] // self._n_channels, causal)
        units = self._pools[0](self._drop(self._relus[0](units), 0))
        units = self._relus[1](self._convolve(units, "features_4", n))
        units = self._pools[1](self._drop(units, 1))
        rows = units.reshape(batch, n, -1).transpose(0, 1)
        rows = self._drop(self._relus[2](self._linear(rows, "classifier_1")), 2)
        return self._linear(rows, "classifier_4")

    @property
    def _n_channels(self) -> int:
        """Of the maps of one stream."""
        return int(self.weights["features_0_weight"].shape[1])

    def _convolve(self, units: Tensor, name: str, groups: int, causal: bool = False) -> Tensor:
        weight, bias = self.weights[f"{name}_weight"], self.weights[f"{name}_bias"]
        if weight.ndim == 3:
            return nn.functional.conv1d(units, weight, bias, groups=groups)
        if causal and in_bands(self._n_channels, units.device):
            return causal_convolution(units, weight, bias, groups)
        return nn.functional.conv2d(units, weight, bias, groups=groups)

    def _linear(self, rows: Tensor, name: str) -> Tensor:
        """Each network's rows (networks, batch, units) through its own layer."""
        weight, bias = self.weights[f"{name}_weight"], self.weights[f"{name}_bias"]
        return torch.baddbmm(bias[:, None], rows, weight.transpose(1, 2))

    def _drop(self, units: Tensor, place: int) -> Tensor:
        """Drop from units (batch, networks x filters, ...) or (networks, batch, units)."""
        if not self.training or self._dropouts[0][place].p == 0.0:
            return units
        draws = [own[place] for own in self._dropouts]
        if place == len(self._dropouts[0]) - 1:
            return units * torch.stack([one.mask(units[0]) for one in draws])
        n_each = units.shape[1] // len(draws)
        masks = []
        for one, network in zip(draws, self.networks, strict=True):
            shape = len(units), network.filters, *units.shape[2:]
            order = torch.channels_last if units.ndim == 4 else torch.contiguous_format
            mask = one.mask(units.new_empty(shape).to(memory_format=order))
            room = (0, 0) * (units.ndim - 2) + (0, n_each - network.filters)
            masks.append(nn.functional.pad(mask, room) if room[-1] else mask)
        return units * torch.cat(masks, dim=1)

    def generators(self) -> list[torch.Generator]:
        """The streams that dropout draws from."""
        return [generator for one in self.networks for generator in one.generators()]

    def write_back(self) -> None:
        """Copy the weights into the networks."""
        n = len(self.networks)
        with torch.no_grad():
            for number, network in enumerate(self.networks):
                for name, own in network.named_parameters():
                    stacked = self.weights[name.replace(".", "_")]
                    if name.startswith(_CONVOLUTIONS):
                        stacked = stacked.unflatten(0, (n, -1))
                    own.copy_(stacked[number][tuple(map(slice, own.shape))])


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors, those that are smaller filled up with zeros."""
    shape = [max(sizes) for sizes in zip(*(one.shape for one in tensors), strict=True)]
    stacked = tensors[0].new_zeros(len(tensors), *shape)
    for place, one in zip(stacked, tensors, strict=True):
        place[tuple(map(slice, one.shape))] = one.detach()
    return stacked
