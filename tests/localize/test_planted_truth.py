"""Evidence planted at a known region is found there: Δ says where, not only whether."""

from dataclasses import replace

import pytest
import torch

from mnemoscope.cnn.inputs import scale_maps
from mnemoscope.cnn.presets import PRESETS, CnnSetting
from mnemoscope.cnn.training import TrainedCnn, Wanted, train_cnns
from mnemoscope.localize.delta import contrast_gradients, decisiveness, normalized_gradients
from mnemoscope.localize.regions import layer_profile
from mnemoscope.maps.triangle import pack_triangle, unpack_triangle
from mnemoscope.maps.views import TensorMaps

N_LAYERS, LENGTH, N_CLASSES = 3, 64, 3
REGIONS = {1: (0, slice(40, 48), slice(8, 16)), 2: (2, slice(48, 56), slice(28, 36))}
"""Class → layer, queries, keys of its evidence; class 0 has none."""
DECOY = (1, slice(20, 64), slice(0, 4))
"""As in real attention the first keys draw much, in every class alike."""


def planted_maps(n: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (n, layers, 64, 64) and their classes, in turn."""
    generator = torch.Generator().manual_seed(seed)
    maps = 0.02 * torch.rand(n, N_LAYERS, LENGTH, LENGTH, generator=generator)
    labels = torch.arange(n) % N_CLASSES
    maps[:, DECOY[0], DECOY[1], DECOY[2]] += 0.4 * torch.rand(n, 44, 4, generator=generator)
    for row, label in enumerate(labels.tolist()):
        if (region := REGIONS.get(label)) is not None:
            maps[row, region[0], region[1], region[2]] += 0.1
    return maps.tril(), labels


def held_out() -> tuple[torch.Tensor, torch.Tensor]:
    return planted_maps(60, seed=2)


@pytest.fixture(scope="module", params=["small", "as_run"])
def trained(request) -> TrainedCnn:
    """A quick training; raw maps need the more steps."""
    steps = {"small": 80, "as_run": 110, "rows": 160}[request.param]
    preset = replace(PRESETS[request.param], epochs=1, min_steps=steps, dropout=0.0)
    maps, labels = planted_maps(120, seed=1)
    return train_cnns(
        TensorMaps(pack_triangle(maps)),
        [Wanted(labels, CnnSetting(6, 10, "max"), 0)],
        n_classes=N_CLASSES,
        preset=preset,
    )[0]


def share(maps: torch.Tensor, region) -> float:
    """Share of a map's sum that lies in a region."""
    return float(maps[region].sum() / maps.sum())


@pytest.mark.parametrize("attribution", ["gradient", "guided"])
def test_delta_lies_where_the_evidence_was_planted(trained, attribution):
    """More than half of Δ on 1 % of the cells, which hold 7 % of the attention; the decoy's 35 %
    of the attention draws less than a tenth."""
    maps, labels = held_out()
    held = TensorMaps(pack_triangle(maps))
    found = decisiveness(trained, held, labels, max_maps=held, attribution=attribution)
    for label, region in REGIONS.items():
        attention = maps[labels == label].mean(0)
        assert share(attention, region) < 0.1
        assert share(attention, DECOY) > 0.3
        assert share(found.delta[label], region) > 0.5
        assert share(found.delta[label], DECOY) < 0.1
        assert int(layer_profile(found.delta.numpy())[label].argmax()) == region[0]
    assert found.n_used.sum() > 0.95 * len(labels)


@pytest.mark.parametrize("trained", ["rows"], indirect=True)
@pytest.mark.parametrize("attribution", ["gradient", "guided"])
def test_rows_point_to_the_evidence_among_more_of_the_rest(trained, attribution):
    """A row has six figures, so other rows that vary speak too."""
    maps, labels = held_out()
    held = TensorMaps(pack_triangle(maps))
    found = decisiveness(trained, held, labels, max_maps=held, attribution=attribution).delta
    for label, region in REGIONS.items():
        own = share(found[label], region)
        assert own > 3 * share(maps[labels == label].mean(0), region)
        assert own > 0.9 * share(found[label], region[:2])  # of its rows


@pytest.mark.parametrize("trained", ["small"], indirect=True)
def test_scaled_map_points_better_than_the_chain_through_the_scaling(trained):
    """Why C is taken by the scaled map: the docstring of `decisiveness` rests on this."""
    maps, labels = held_out()
    packed = pack_triangle(maps).half()
    held = TensorMaps(packed)
    found = decisiveness(trained, held, labels, max_maps=held).delta
    inputs = scale_maps(trained.scaling, packed)
    gradients = contrast_gradients(trained.network, inputs, labels).gradients
    slope = trained.scaling.inverse_deviation / (2 * packed.float().sqrt().clamp_min(1e-4))
    chained = normalized_gradients(gradients * unpack_triangle(slope)) * maps
    for label, region in REGIONS.items():
        by_chain = share(chained[labels == label].mean(0), region)
        assert share(found[label], region) > 2 * by_chain
