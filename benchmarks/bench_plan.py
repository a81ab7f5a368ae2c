"""Measure what `mnemoscope run --dry-run` assumes of a processor core: the training of the CNNs.

Run: .venv/bin/python benchmarks/bench_plan.py
Prints the operations a second of a training step at Pythia-12b's shape (36 layers), counted as the
dry run counts them (3 forward passes of the two convolutions), in CPU time of one thread.
"""

import torch
from torch import nn

from benchmarks.given import given
from benchmarks.measured import middle, spent
from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import cnn_flops

N_LAYERS, LENGTH, BATCH, N_STEPS = 36, 64, 16, 12


def operations_a_second(kernel: int, filters: int) -> tuple[float, float]:
    """That rate, and megabytes more at most."""
    torch.manual_seed(0)
    network = AttentionCnn(N_LAYERS, 3, kernel=kernel, filters=filters)
    maps = torch.randn(BATCH, N_LAYERS, LENGTH, LENGTH).tril()
    maps = maps.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 3, (BATCH,))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def step() -> None:
        loss = nn.functional.cross_entropy(network(maps), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    taken = middle([spent(step)[0] for _ in range(N_STEPS)])
    flops = cnn_flops(N_LAYERS, LENGTH, kernel=kernel, filters=filters)
    return 3 * flops * BATCH / taken.seconds, taken.megabytes


def main() -> None:
    given(__doc__)
    torch.set_num_threads(1)
    for kernel in (6, 8):
        for filters in (10, 16):
            rate, more = operations_a_second(kernel, filters)
            of = f"kernel {kernel}, {filters} filters"
            print(f"{of}: {rate:.2e} operations a second and core, {more:.0f} MB more")


if __name__ == "__main__":
    main()
