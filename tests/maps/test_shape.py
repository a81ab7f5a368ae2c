"""The few numbers of a map, against what they are by hand and by definition."""

import numpy as np
import pytest
import torch

from mnemoscope.maps.shape import ROW_STATISTICS, SHAPES, attention_shape, row_statistics

LENGTH = 16
NO_COPIES = torch.zeros(1, LENGTH, LENGTH, dtype=torch.bool)


def shape_of(layer: torch.Tensor, copies: torch.Tensor = NO_COPIES) -> dict[str, float]:
    return dict(zip(SHAPES, attention_shape(layer[None, None], copies)[0, 0].tolist(), strict=True))


def even() -> torch.Tensor:
    rows = torch.ones(LENGTH, LENGTH).tril()
    return rows / rows.sum(1, keepdim=True)


def test_even_attention_and_one_key_that_draws_all_are_the_two_ends() -> None:
    found, n_keys = shape_of(even()), np.arange(2, LENGTH + 1)
    assert found["Gini coefficient of a row"] == pytest.approx(0, abs=1e-6)
    assert found["entropy of a row, nats"] == pytest.approx(np.log(n_keys).mean(), abs=1e-6)
    harmonic = (1 / np.arange(1, LENGTH + 1)).mean()
    assert found["mass on the first token"] == pytest.approx(harmonic, abs=1e-6)
    alone = torch.zeros(LENGTH, LENGTH)
    alone[:, 0] = 1.0
    found = shape_of(alone)
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
    half = LENGTH // 2
    assert found["mass prefix → prefix"] == pytest.approx(float(maps[:half].sum() / maps.sum()))
    crossing = float(maps[half:, :half].sum() / maps.sum())
    assert found["mass suffix → prefix"] == pytest.approx(crossing)
    entropy = slow_rows(maps.double().numpy(), half)[0, 1:].mean()  # rows that do not sum to 1
    assert found["entropy of a row, nats"] == pytest.approx(entropy)
    assert found["mass on copy edges"] == pytest.approx(float(maps[9, 4] / maps.sum()))
    near = sum(maps.diagonal(-step).sum() for step in range(5)) / maps.sum()
    assert found["mass near the diagonal (|q−k| ≤ 4)"] == pytest.approx(float(near))


def slow_rows(layer: np.ndarray, prefix: int) -> np.ndarray:
    """The six figures of each row by their definition, (6, query), one weight at a time."""
    found = np.zeros((len(ROW_STATISTICS), len(layer)))
    for query, row in enumerate(layer):
        seen = [float(weight) for weight in row[: query + 1]]
        whole = sum(seen)
        shares = [weight / whole for weight in seen] if whole else []
        found[0, query] = sum(-share * np.log(share) for share in shares if share > 0)
        found[1, query] = max(seen)
        found[2, query] = seen[0]
        found[3, query] = seen[query]
        found[4, query] = seen[query - 1] if query else 0.0
        found[5, query] = sum(shares[:prefix])
    return found


@pytest.mark.parametrize(("length", "prefix"), [(8, None), (26, 20), (26, None), (64, 32)])
def test_row_statistics_are_what_they_are_by_hand(length: int, prefix: int | None) -> None:
    """Weights as a float16 store keeps them: small ones vanish, masks leave rows without any."""
    generator = torch.Generator().manual_seed(length)
    maps = (8 * torch.randn(3, 2, length, length, generator=generator)).exp()
    maps = (maps.tril() / maps.tril().sum(-1, keepdim=True)).half().float()
    maps[0, 1, length // 2] = 0.0  # cut by a mask, as is one whole layer
    maps[1, 0] = 0.0
    assert (maps[0, 0].tril() == 0).sum() > length * (length + 1) // 2 - length * length // 2
    found = row_statistics(maps, prefix)
    assert found.shape == (3, 2, len(ROW_STATISTICS), length)
    asked = prefix or length // 2
    wanted = np.stack([[slow_rows(layer, asked) for layer in one] for one in maps.double().numpy()])
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-6)  # float32 sums of 64 weights


def test_row_statistics_have_a_finite_slope_that_is_zero_above_the_diagonal() -> None:
    """Against central differences in float64, at weights of which some are 0."""
    maps = torch.rand(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps[0, 0, 5] = 0.0
    maps[0, 0, 6, 2] = 0.0
    maps = maps.tril().requires_grad_()
    factors = torch.rand(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def weighed(of: torch.Tensor) -> torch.Tensor:
        return (row_statistics(of) * factors).sum()

    (slopes,) = torch.autograd.grad(weighed(maps), maps)
    assert slopes.isfinite().all()
    assert not slopes.triu(1).any()
    for query, key in ((1, 0), (3, 3), (4, 1), (7, 6), (2, 2)):
        step = torch.zeros_like(maps)
        step[0, 0, query, key] = 1e-6
        rise = (weighed(maps + step) - weighed(maps - step)) / 2e-6
        assert float(slopes[0, 0, query, key]) == pytest.approx(float(rise.detach()), rel=1e-5)
