"""Several models averaged are the mean over all their CNNs."""

import numpy as np
import pytest
import torch

from mnemoscope.localize.delta import Decisiveness, average, average_models

SHAPE = (3, 2, 8, 8)  # classes, layers, query, key


def of_cnn(seed: int, used: tuple[int, ...] = (5, 5, 5)) -> Decisiveness:
    """Random Δ of one CNN; zero of a class that it used no sequence of."""
    delta = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))
    counts = torch.tensor(used)
    none = torch.zeros(3, dtype=torch.int64)
    return Decisiveness(delta * (counts > 0)[:, None, None, None], counts, none, none)


def test_the_mean_of_models_is_the_mean_of_all_their_cnns() -> None:
    """One model has two CNNs and the other four, of which two know nothing of the last class."""
    first = [of_cnn(0), of_cnn(1)]
    second = [of_cnn(2), of_cnn(3, (5, 5, 0)), of_cnn(4), of_cnn(5, (5, 0, 0))]
    whole = average([*first, *second])
    means = [average(parts).delta.numpy() for parts in (first, second)]
    delta, n_says = average_models(means, [(2, 2, 2), (4, 3, 2)])
    assert n_says == (6, 5, 4)
    np.testing.assert_allclose(delta, whole.delta.numpy(), atol=1e-6)  # float32 means in between


def test_a_class_that_one_model_knows_nothing_of_is_the_others() -> None:
    ones, threes = np.full(SHAPE, 1.0, np.float32), np.full(SHAPE, 3.0, np.float32)
    delta, n_says = average_models([ones, threes], [(2, 2, 0), (2, 6, 1)])
    assert [float(one.max()) for one in delta] == [2.0, 2.5, 3.0]
    assert n_says == (4, 8, 1)
    nothing, _ = average_models([ones * 0, threes * 0], [(0, 0, 0), (0, 0, 0)])
    assert (nothing == 0).all()


def test_maps_of_another_depth_are_no_mean() -> None:
    with pytest.raises(ValueError, match="cannot be averaged"):
        average_models([np.zeros(SHAPE), np.zeros((3, 4, 8, 8))], [(1, 1, 1)] * 2)
