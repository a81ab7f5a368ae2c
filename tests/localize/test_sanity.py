"""The sanity checks tell an attribution of the network from one of the input."""

import torch
from torch import nn

from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import PRESETS, CnnSetting
from mnemoscope.cnn.training import Scaling, TrainedCnn, TrainingHistory
from mnemoscope.localize.delta import class_means, decisiveness, randomized
from mnemoscope.maps.format import pack_triangle
from mnemoscope.maps.views import TensorMaps

N_LAYERS, N_CLASSES = 2, 3


def a_cnn() -> TrainedCnn:
    torch.manual_seed(0)
    return TrainedCnn(
        network=AttentionCnn(N_LAYERS, N_CLASSES, kernel=6, filters=10).eval(),
        scaling=Scaling(None, None, 0.0),
        setting=CnnSetting(6, 10, "mean"),
        preset=PRESETS["paper"],
        seed=0,
        history=TrainingHistory((), 0),
    )


def some_maps(n: int) -> TensorMaps:
    generator = torch.Generator().manual_seed(1)
    return TensorMaps(pack_triangle(torch.rand(n, N_LAYERS, 64, 64, generator=generator).tril()))


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.named_parameters()}


def test_layers_are_drawn_anew_from_the_top_and_stay_so() -> None:
    trained = a_cnn()
    before = weights_of(trained.network)
    names = ["classifier.4", "classifier.1", "features.4", "features.0"]
    steps = list(randomized(trained))
    assert [name for name, _ in steps] == names
    for number, (_, cnn) in enumerate(steps, start=1):
        changed = {
            name.rpartition(".")[0]
            for name, value in weights_of(cnn.network).items()
            if not torch.equal(value, before[name])
        }
        assert changed == set(names[:number])
    assert all(
        torch.equal(value, before[name]) for name, value in weights_of(trained.network).items()
    )


def test_the_draws_are_seeded_and_leave_the_global_generator_alone() -> None:
    trained = a_cnn()
    state = torch.get_rng_state()
    first, again = ([weights_of(cnn.network) for _, cnn in randomized(trained)] for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(
        torch.equal(a[name], b[name]) for a, b in zip(first, again, strict=True) for name in a
    )


def test_means_of_all_sequences_are_delta_of_all_sequences() -> None:
    """To 1e-7: float64 sums of the same float32 numbers, in another order of rows."""
    trained, maps = a_cnn(), some_maps(9)
    labels = torch.arange(9) % N_CLASSES
    found = class_means(trained, maps, labels, max_maps=maps, attribution="gradient", batch_size=4)
    same = decisiveness(trained, maps, labels, max_maps=maps, correct_only=False)
    assert same.n_used.tolist() == [3, 3, 3]
    assert (found.delta - same.delta).abs().max() <= 1e-7
    ones = TensorMaps(torch.ones(9, N_LAYERS, 64 * 65 // 2))
    alone = decisiveness(trained, maps, labels, max_maps=ones, correct_only=False)
    assert (found.weights.tril() - alone.delta).abs().max() <= 1e-7
