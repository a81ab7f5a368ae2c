"""Δ needs as much memory for many sequences as for a few batches of them."""

import resource
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import torch

from mnemoscope.cnn.inputs import Scaling
from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import PRESETS, CnnSetting
from mnemoscope.cnn.training import TrainedCnn, TrainingHistory
from mnemoscope.localize.delta import decisiveness

N_SEQUENCES, N_LAYERS, LENGTH = 800, 4, 64
ONE_COPY_MIB = N_SEQUENCES * N_LAYERS * LENGTH**2 * 4 / 2**20  # 50: float32 gradients of all


class Drawn:
    n_layers, length = N_LAYERS, LENGTH

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def read(self, rows) -> torch.Tensor:
        return torch.rand(len(rows), N_LAYERS, LENGTH * (LENGTH + 1) // 2)


def send_peaks(to: Connection) -> None:
    torch.set_num_threads(1)
    network = AttentionCnn(N_LAYERS, 3, kernel=3, filters=2)
    settings = {"preset": PRESETS["as_run"], "setting": CnnSetting(3, 2, "max"), "seed": 0}
    scaling, history = Scaling(None, None, 0.0), TrainingHistory((), 0)
    trained = TrainedCnn(network=network, scaling=scaling, history=history, **settings)
    for n in (130, N_SEQUENCES):
        maps = Drawn(n)
        found = decisiveness(trained, maps, torch.arange(n) % 3, max_maps=maps, correct_only=False)
        assert int(found.n_used.sum() + found.n_skipped.sum()) == n
        to.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def test_memory_does_not_grow_with_the_number_of_sequences(forkserver) -> None:
    """In a process of its own: the peak of the test run would hide what is added to it."""
    here, there = Pipe()
    process = forkserver.Process(target=send_peaks, args=(there,))
    process.start()
    there.close()  # so that a process that ends early is no wait
    few, many = here.recv(), here.recv()
    process.join()
    assert many - few < ONE_COPY_MIB / 4
