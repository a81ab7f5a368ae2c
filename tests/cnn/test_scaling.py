"""Scaling against numpy in float64, and what reaches the network."""

import numpy as np
import pytest
import torch
from cnn_problems import attention

from mnemoscope.cnn.presets import PRESETS
from mnemoscope.cnn.training import NetworkInputs, fit_scaling, scale_maps
from mnemoscope.errors import DamagedDataError
from mnemoscope.maps.format import pack_triangle, unpack_triangle
from mnemoscope.maps.shape import row_statistics
from mnemoscope.maps.views import TensorMaps

SMALL, PAPER, ROWS = PRESETS["small"], PRESETS["paper"], PRESETS["rows"]


def source(n: int = 300, seed: int = 0) -> TensorMaps:
    return TensorMaps(pack_triangle(attention(n, 2, 16, seed)))


def all_of(maps: TensorMaps) -> torch.Tensor:
    return maps.read(torch.arange(len(maps)))


def test_small_is_square_root_then_standardised_per_position() -> None:
    train, other = source(), source(50, 1)
    roots = np.sqrt(all_of(train).numpy().astype(np.float64))
    mean, deviation = roots.mean(0), np.maximum(roots.std(0), 1e-3)
    expected = (np.sqrt(all_of(other).numpy().astype(np.float64)) - mean) / deviation
    got = pack_triangle(scale_maps(fit_scaling(train, SMALL), all_of(other)))
    # float32: a root below 1 is off by 6e-8, divided by the smallest deviation here (about 0.05)
    np.testing.assert_allclose(got.numpy(), np.clip(expected, -8, 8), atol=1e-4)


def test_nothing_stands_above_the_diagonal_constants_become_0_and_extremes_are_clamped() -> None:
    maps = source()
    scaling = fit_scaling(maps, SMALL)
    scaled = scale_maps(scaling, all_of(maps))
    assert not torch.triu(scaled, 1).any()
    assert not scaled[:, :, 0, 0].any()  # the first token attends to itself with weight 1
    assert scaled.shape == (300, 2, 16, 16)
    extreme = torch.zeros(2, 2, 136)
    extreme[0] = 4.0
    scaled = scale_maps(scaling, extreme)
    assert (float(scaled.min()), float(scaled.max())) == (-SMALL.clamp, SMALL.clamp)


def test_paper_leaves_maps_raw() -> None:
    maps = source()
    scaled = scale_maps(fit_scaling(maps, PAPER), all_of(maps))
    assert torch.equal(pack_triangle(scaled), all_of(maps).float())


def test_rows_are_standardised_statistics_of_rows() -> None:
    train, other = source(), source(50, 1)
    of = [row_statistics(unpack_triangle(all_of(maps).double())).numpy() for maps in (train, other)]
    mean, deviation = of[0].mean(0), np.maximum(of[0].std(0), 1e-3)
    expected = ((of[1] - mean) / deviation).reshape(50, 12, 16)
    got = scale_maps(fit_scaling(train, ROWS), all_of(other))
    # float32: a share of 1 is off by 1.2e-7, divided by the smallest deviation there is (1e-3)
    np.testing.assert_allclose(got.numpy(), np.clip(expected, -8, 8), atol=2e-4)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -0.1])
def test_what_cannot_be_attention_is_refused_with_its_layer(value: float) -> None:
    packed = all_of(source()).clone()
    packed[7, 1, 40] = value
    with pytest.raises(DamagedDataError, match="layer 1"):
        fit_scaling(TensorMaps(packed), SMALL)


@pytest.mark.parametrize("preset", [SMALL, PAPER, ROWS], ids=lambda preset: preset.name)
def test_kept_inputs_equal_inputs_made_a_batch_at_a_time(preset) -> None:
    maps = source(600)
    scaling = fit_scaling(maps, preset)
    kept = NetworkInputs(maps, scaling, keep_bytes=1 << 30)
    made = NetworkInputs(maps, scaling, keep_bytes=0)
    rows = torch.tensor([5, 599, 0, 256, 255, 5])
    assert torch.equal(kept.batch(rows), made.batch(rows))
    assert torch.equal(made.batch(rows), scale_maps(scaling, maps.read(rows)))
    is_map = kept.batch(rows).ndim == 4
    assert not is_map or kept.batch(rows).is_contiguous(memory_format=torch.channels_last)
