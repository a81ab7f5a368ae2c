"""The few numbers of a map, against what they are by hand and by definition."""

import numpy as np
import pytest
import torch

from mnemoscope.maps.shape import SHAPES, attention_shape

LENGTH = 16
NO_COPIES = torch.zeros(1, LENGTH, LENGTH, dtype=torch.bool)


def shape_of(layer: torch.Tensor, copies: torch.Tensor = NO_COPIES) -> dict[str, float]:
    return dict(zip(SHAPES, attention_shape(layer[None, None], copies)[0, 0].tolist(), strict=True))


def even() -> torch.Tensor:
    rows = torch.ones(LENGTH, LENGTH).tril()
    return rows / rows.sum(1, keepdim=True)


def test_even_attention_has_no_concentration_and_the_entropy_of_its_rows() -> None:
    found = shape_of(even())
    assert found["Gini coefficient of a row"] == pytest.approx(0, abs=1e-6)
    wanted = np.log(np.arange(2, LENGTH + 1)).mean()
    assert found["entropy of a row, nats"] == pytest.approx(wanted, abs=1e-6)
    harmonic = (1 / np.arange(1, LENGTH + 1)).mean()
    assert found["mass on the first token"] == pytest.approx(harmonic, abs=1e-6)


def test_one_key_that_draws_all_is_the_upper_end() -> None:
    alone = torch.zeros(LENGTH, LENGTH)
    alone[:, 0] = 1.0
    found = shape_of(alone)
    n_keys = np.arange(2, LENGTH + 1)
    assert found["Gini coefficient of a row"] == pytest.approx((1 - 1 / n_keys).mean())
    assert found["entropy of a row, nats"] == pytest.approx(0, abs=1e-9)
    assert found["mass on the first token"] == 1
    assert found["mass prefix → prefix"] == found["mass suffix → prefix"] == 0.5
    assert found["mass suffix → suffix"] == 0


def test_gini_is_the_mean_difference_over_twice_the_mean() -> None:
    """The definition: the mean |a − b| over all pairs, over twice the mean."""
    maps = torch.rand(LENGTH, LENGTH, generator=torch.Generator().manual_seed(0)).tril()
    wanted = []
    for query in range(1, LENGTH):
        row = maps[query, : query + 1].double()
        wanted.append(float((row[:, None] - row).abs().mean() / (2 * row.mean())))
    assert shape_of(maps)["Gini coefficient of a row"] == pytest.approx(np.mean(wanted))


def test_blocks_add_up_and_copies_and_diagonal_count_their_cells() -> None:
    maps = torch.rand(LENGTH, LENGTH, generator=torch.Generator().manual_seed(1)).tril()
    copies = NO_COPIES.clone()
    copies[0, 9, 4] = True
    found = shape_of(maps, copies)
    assert sum(value for name, value in found.items() if "→" in name) == pytest.approx(1)
    assert found["mass on copy edges"] == pytest.approx(float(maps[9, 4] / maps.sum()))
    near = sum(maps.diagonal(-step).sum() for step in range(5)) / maps.sum()
    assert found["mass near the diagonal (|q−k| ≤ 4)"] == pytest.approx(float(near))
