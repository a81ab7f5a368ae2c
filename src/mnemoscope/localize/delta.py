"""Decisiveness Δ: where a CNN reads each class, weighed by the attention that stands there.

For class o, over sequences of o:
C = gradient of (logit_o − mean of the other logits) by the network's input;
D = max(C, 0) / max C, a sequence with max C ≤ 0 skipped; Δ_o = mean of D · (max over heads of A).
One backward pass serves all rows, each with the contrast of its own class.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mnemoscope.cnn.group import CnnGroup
from mnemoscope.cnn.inputs import NetworkInputs, Scaling
from mnemoscope.cnn.training import TrainedCnn, evaluation_mode
from mnemoscope.errors import UserError, check_installed, nearest
from mnemoscope.localize.rankings import ATTRIBUTIONS, COSTLY, OF_CAPTUM
from mnemoscope.maps.device import HeldMaps, hold_maps, n_at_once, read_ahead
from mnemoscope.maps.triangle import unpack_triangle
from mnemoscope.maps.views import MapSource

_STEPS = 16
_BLOCK = 8
_BATCH = 32  # a sixth faster than 64, in half the memory


class Contrast(NamedTuple):
    """Logits (b, classes) float32, and attributions of the contrasts (b, layers, query, key).

    Of a `CnnGroup` that is given a stream for each network: logits (networks, b, classes), and the
    attributions of the streams, one behind the other in the axis of the layers.
    """

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
        if name in OF_CAPTUM:
            check_installed(f"attribution '{name}' needs", "captum", extra="attribution")


def class_contrast(logits: Tensor, classes: Tensor) -> Tensor:
    """Each row's logit of its class minus the mean of its others: (…, b, classes) to (…, b)."""
    own = logits.gather(-1, classes.expand(logits.shape[:-1])[..., None])[..., 0]
    return own - (logits.sum(dim=-1) - own) / (logits.shape[-1] - 1)


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


COUNTS = ("n_used", "n_skipped", "n_wrong")
"""Of the sequences of a class."""


@dataclass(frozen=True)
class Decisiveness:
    """Δ of every class, float32 in [0, 1], (classes, layers, query, key), and what it rests on.

    Counts are int64 (classes,): `n_used` sequences count (correctly labelled ones, unless all were
    asked for), of `n_skipped` no cell supports the class (max C ≤ 0), `n_wrong` the CNN takes for
    another. Where none is used Δ is zero.
    """

    delta: Tensor
    n_used: Tensor
    n_skipped: Tensor
    n_wrong: Tensor


def decisiveness(
    trained: TrainedCnn,
    maps: MapSource,
    labels: Tensor,
    *,
    max_maps: MapSource,
    attribution: str = "gradient",
    batch_size: int | None = None,
    correct_only: bool = True,
) -> Decisiveness:
    """Δ of one trained CNN, on its device.

    `decisiveness_of_each` with one CNN; see there for arguments and errors.
    """
    (found,) = decisiveness_of_each(
        [trained],
        maps,
        labels,
        max_maps=max_maps,
        attribution=attribution,
        batch_size=batch_size,
        correct_only=correct_only,
    )
    return found


def decisiveness_of_each(
    trained: Sequence[TrainedCnn],
    maps: MapSource,
    labels: Tensor,
    *,
    max_maps: MapSource,
    attribution: str = "gradient",
    batch_size: int | None = None,
    correct_only: bool = True,
) -> list[Decisiveness]:
    """Δ of CNNs that read the same maps, scaled alike, with one reading of these.

    Those of one kernel that see maps are asked by one backward pass, which rounds otherwise than
    one each.

    Nothing per head is needed. The gradient through mean pooling is the same for every head,
    through max pooling it is nonzero at the largest head only, and D ≥ 0, so the published
    max over heads of (D · A) is D · (max over heads of A), for both poolings. Where a CNN sees
    mean and maximum, an edge's gradient is their sum: what moving it in every head alike does.

    The gradient is taken by what the network sees. With the paper's training that is the pooled
    map itself: the published definition. With a scaled input (square root, then standardised per
    cell) it is the scaled map, and only A is as stored. The chain back to the stored map would
    multiply by the root's slope, infinite at weight 0, and divide by the cell's spread: cells that
    hold little attention or hardly vary would take the largest C. In the scaled map a cell's unit
    is its own spread. On planted evidence .74 of Δ lies where it was planted, by the chain .23
    (`tests/localize/test_planted_truth.py`). A CNN over rows has no cell for an edge: its gradient
    goes through the statistics to the stored map, times the weight there, so that an edge's unit
    is itself (not for occlusion, which takes edges away).

    `maps` are as the CNN reads them (of `both`, the layers twice), `max_maps` the maxima over heads
    of the same sequences, the same object where the CNN's pooling is max. `correct_only` takes only
    sequences that the CNN labels correctly, since the others show why it errs; the paper's text
    takes all, its code the first 200 of each class. `batch_size` None is 32 on the processor and
    more on an accelerator. Raises UserError: unknown attribution, or a damaged store. ValueError:
    maps, labels and maxima of different numbers.
    """
    if not len(maps) == len(labels) == len(max_maps):
        raise ValueError(f"{len(maps)} maps, {len(labels)} labels, {len(max_maps)} maxima")
    ask = _Asked(trained, maps, max_maps, attribution)
    shape = trained[0].network.n_classes, max_maps.n_layers, maps.length
    totals = [_Total(*shape, ask.device) for _ in trained]
    labels = labels.to("cpu", torch.int64)
    for rows, found, maxima in ask.batches(labels, batch_size):
        truth = labels[rows]
        is_right = torch.stack([one.logits for one in found]).argmax(dim=2) == truth.to(ask.device)
        # Over the whole square, as published.
        largest = torch.stack([one.gradients.amax(dim=(1, 2, 3)) for one in found])
        # The batch's one wait for an accelerator: from here on what counts is known.
        flags = torch.stack([is_right, largest > 0]).cpu()
        for number, total in enumerate(totals):
            is_right, has_evidence = flags[:, number]
            counts = is_right if correct_only else torch.ones_like(is_right)
            n_classes = len(total.wrong)
            total.wrong += torch.bincount(truth[~is_right], minlength=n_classes)
            total.skipped += torch.bincount(truth[counts & ~has_evidence], minlength=n_classes)
            used = (counts & has_evidence).nonzero()[:, 0]
            used = used[truth[used].argsort(stable=True)]  # those of a class side by side
            total.add(found[number].gradients, largest[number], truth, used, maxima(used))
    return [total.mean() for total in totals]


class _Asked:
    """The contrasts of CNNs of maps by their edges, whatever they read of them."""

    def __init__(
        self, trained: Sequence[TrainedCnn], maps: MapSource, max_maps: MapSource, attribution: str
    ) -> None:
        first, scaling = trained[0].network, trained[0].scaling
        self.device = next(first.parameters()).device
        self.networks: list[nn.Module] = [one.network for one in trained]
        self.group: CnnGroup | None = None
        if scaling.over_rows:
            self.networks = [_OfMaps(one) for one in trained]
            scaling = Scaling(None, None, 0.0)
        elif len(trained) > 1 and attribution not in OF_CAPTUM:
            self.group = CnnGroup([one.network for one in trained]).eval()
        self.inputs = NetworkInputs(maps, scaling, device=self.device)
        is_far = self.device.type != "cpu"
        self.maxima = hold_maps(max_maps, self.device) if is_far else max_maps
        self.n_layers, self.attribution = max_maps.n_layers, attribution
        self.by_share = trained[0].scaling.over_rows and attribution != "occlusion"

    def batches(
        self, labels: Tensor, size: int | None
    ) -> Iterator[tuple[Tensor, list[Contrast], Callable[[Tensor], Tensor]]]:
        """Rows int64 (b,), each CNN's contrasts of them, and what gives the packed maxima of some.

        Of places (n,) within the batch; rows and places are on the CPU, all else on the device.
        """
        if size is None:
            is_many = self.attribution not in COSTLY  # those make batches of their own
            size = n_at_once(self.maxima, self.device, least=_BATCH) if is_many else _BATCH
            if self.group is not None:
                size = max(size // len(self.networks), _BATCH)
        rows = torch.arange(len(labels))
        parts = torch.split(rows, size)
        ahead: Iterator[Tensor] = iter(())
        if self.device.type != "cpu" and not isinstance(self.maxima, HeldMaps):
            ahead = read_ahead(self.maxima, parts, self.device)
        each = self.inputs.batches(rows[None].to(self.device), size)
        for part, (_, fetched) in zip(parts, each, strict=True):
            truth = labels[part].to(self.device)
            yield part, self._contrasts(fetched, truth), self._maxima(part, next(ahead, None))

    def _maxima(self, part: Tensor, sent: Tensor | None) -> Callable[[Tensor], Tensor]:
        if sent is not None:
            return lambda places: sent[places.to(self.device)]
        where = self.device if isinstance(self.maxima, HeldMaps) else "cpu"
        return lambda places: self.maxima.read(part[places].to(where))

    def _contrasts(self, fetched: Tensor, truth: Tensor) -> list[Contrast]:
        """Logits, and gradients (b, layers, query, key) summed over what is seen of a layer."""
        seen, n = self.inputs.scaled(fetched), len(self.networks)
        ask = partial(contrast_gradients, classes=truth, attribution=self.attribution)
        if self.group is not None:
            logits, gradients = ask(self.group, seen.repeat(1, n, 1, 1))
            each = torch.split(gradients, seen.shape[1], dim=1)
            return [
                Contrast(one, self._by_layer(own)) for one, own in zip(logits, each, strict=True)
            ]
        made = [ask(one, seen) for one in self.networks]
        if self.by_share:
            made = [Contrast(one, gradients * seen) for one, gradients in made]
        return [Contrast(one, self._by_layer(gradients)) for one, gradients in made]

    def _by_layer(self, gradients: Tensor) -> Tensor:
        """Summed over the channels that a layer has."""
        if gradients.shape[1] == self.n_layers:
            return gradients
        shape = len(gradients), -1, self.n_layers, *gradients.shape[2:]
        return gradients.reshape(shape).sum(dim=1)


class _OfMaps(nn.Module):
    """A CNN over rows, asked about the maps (b, layers, query, key) that they sum up."""

    def __init__(self, trained: TrainedCnn) -> None:
        super().__init__()
        self.network, self.scaling = trained.network, trained.scaling
        self.train(trained.network.training)

    def forward(self, maps: Tensor) -> Tensor:
        logits: Tensor = self.network(self.scaling.of_rows(maps))
        return logits


def normalized_gradients(gradients: Tensor) -> Tensor:
    """D: each sequence's gradients (b, layers, query, key) over their maximum, clipped at 0.

    The maximum is over the whole square, as published; zeros where it is not above 0.
    """
    largest = gradients.amax(dim=(1, 2, 3), keepdim=True)
    has_evidence = largest > 0
    return torch.where(has_evidence, gradients.clamp(min=0) / largest.where(has_evidence, 1), 0)


def average(parts: Sequence[Decisiveness]) -> Decisiveness:
    """Δ averaged over those CNNs that used a sequence of the class, counts summed."""
    if not parts:
        raise ValueError("no decisiveness to average")
    says = torch.stack([part.n_used > 0 for part in parts]).to(torch.float64)
    deltas = torch.stack([part.delta for part in parts]).to(torch.float64)
    summed = (deltas * says[:, :, None, None, None]).sum(dim=0)
    counts = {
        name: torch.stack([getattr(part, name) for part in parts]).sum(dim=0) for name in COUNTS
    }
    return Decisiveness(
        delta=(summed / says.sum(dim=0).clamp(min=1)[:, None, None, None]).float(),
        **counts,
    )


def pooled(parts: Sequence[Decisiveness]) -> Decisiveness:
    """Δ of all sequences from Δ of disjoint parts of them, by one CNN; at least one part."""
    counts = [sum((getattr(part, name) for part in parts), start=0) for name in COUNTS]
    weighted = sum(
        (part.delta.double() * part.n_used[:, None, None, None] for part in parts), start=0
    )
    return Decisiveness((weighted / counts[0].clamp(min=1)[:, None, None, None]).float(), *counts)


class _Total:
    """Running sums of D · A and counts by class; float64, so that order does not show.

    Kept as (classes, causal edges, layers): gradients come with layers last in memory, and A is 0
    above the diagonal. Sums are on the device, counts on the CPU.
    """

    def __init__(self, n_classes: int, n_layers: int, length: int, device: torch.device) -> None:
        self.edges = torch.tril_indices(length, length, device=device)
        where = "cpu" if device.type == "mps" else device  # which has no float64
        shape = n_classes, self.edges.shape[1], n_layers
        self.sum = torch.zeros(shape, dtype=torch.float64, device=where)
        self.used, self.skipped, self.wrong = torch.zeros(3, n_classes, dtype=torch.int64)

    def add(
        self, gradients: Tensor, largest: Tensor, truth: Tensor, used: Tensor, maxima: Tensor
    ) -> None:
        """Add what sequences at places `used` (n,) of a batch say, whose maxima are given.

        They lie class by class.
        """
        query, key = self.edges
        there = used.to(gradients.device)
        weights = gradients.permute(0, 2, 3, 1)[there[:, None], query, key].clamp_(min=0)
        weights.div_(largest[there][:, None, None]).mul_(maxima.transpose(1, 2))
        n_used = torch.bincount(truth[used], minlength=len(self.used))
        for label, own in enumerate(torch.split(weights, n_used.tolist())):
            if len(own):
                self.sum[label] += own.to(self.sum.device).sum(dim=0, dtype=torch.float64)
        self.used += n_used

    def mean(self) -> Decisiveness:
        """Δ: the sums over the number of sequences used."""
        n_classes, _, n_layers = self.sum.shape
        query, key = self.edges.cpu()
        mean = self.sum.cpu() / self.used.clamp(min=1)[:, None, None]
        delta = torch.zeros(n_classes, n_layers, int(query[-1]) + 1, int(query[-1]) + 1)
        delta[:, :, query, key] = mean.transpose(1, 2).float()
        return Decisiveness(delta, self.used, self.skipped, self.wrong)


class ClassMeans(NamedTuple):
    """Means of D, D · A and A (maximum over heads), each (classes, layers, query, key) float32.

    Over all sequences of a class: a randomized CNN classifies hardly any rightly, and the same ones
    are compared before and after.
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
    batch_size: int | None = None,
) -> ClassMeans:
    """Attribute every sequence to its true class and average; arguments as `decisiveness`."""
    n_classes = trained.network.n_classes
    shape = (n_classes, max_maps.n_layers, maps.length, maps.length)
    ask = _Asked([trained], maps, max_maps, attribution)
    where = torch.device("cpu") if ask.device.type == "mps" else ask.device
    sums = [torch.zeros(shape, dtype=torch.float64, device=where) for _ in ClassMeans._fields]
    for rows, (found,), maxima in ask.batches(labels, batch_size):
        weights = normalized_gradients(found.gradients).to(where).double()
        attention = unpack_triangle(maxima(torch.arange(len(rows)))).to(where).double()
        for total, values in zip(sums, (weights, weights * attention, attention), strict=True):
            total.index_add_(0, labels[rows].to(where), values)
    number = torch.bincount(labels, minlength=n_classes).clamp(min=1)[:, None, None, None]
    return ClassMeans(*((total.cpu() / number).float() for total in sums))


def randomized(trained: TrainedCnn, *, seed: int = 0) -> Iterator[tuple[str, TrainedCnn]]:
    """Redraw layer after layer, from the top down; the layer drawn last, and the CNN so far."""
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
