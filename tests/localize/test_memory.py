"""Δ needs as much memory for many sequences as for a few batches of them."""

import subprocess
import sys

N_SEQUENCES, N_LAYERS, LENGTH = 800, 4, 64
ONE_COPY_MIB = N_SEQUENCES * N_LAYERS * LENGTH**2 * 4 / 2**20  # 50: float32 gradients of all

# In a process of its own: the peak of the test run would hide what is added to it.
SCRIPT = f"""
import resource
import torch
from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import PRESETS, CnnSetting
from mnemoscope.cnn.training import Scaling, TrainedCnn, TrainingHistory
from mnemoscope.localize.delta import decisiveness

class Drawn:
    n_layers, length = {N_LAYERS}, {LENGTH}
    def __init__(self, n):
        self.n = n
    def __len__(self):
        return self.n
    def read(self, rows):
        return torch.rand(len(rows), self.n_layers, self.length * (self.length + 1) // 2)

torch.set_num_threads(1)
network = AttentionCnn({N_LAYERS}, 3, kernel=3, filters=2)
trained = TrainedCnn(network=network, scaling=Scaling(None, None, 0.0), preset=PRESETS["as_run"],
                     setting=CnnSetting(3, 2, "max"), seed=0, history=TrainingHistory((), 0))
for n in (130, {N_SEQUENCES}):
    maps = Drawn(n)
    found = decisiveness(trained, maps, torch.arange(n) % 3, max_maps=maps, correct_only=False)
    assert int(found.n_used.sum() + found.n_skipped.sum()) == n
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_sequences() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=240
    )
    few, many = (int(line) / 2**10 for line in done.stdout.split())
    assert many - few < ONE_COPY_MIB / 4
