"""Time a training step of one CNN on one core: what each choice of the code saves.

Run: .venv/bin/python benchmarks/bench_cnn_speed.py
CPU time of the median step of 16 maps (4 layers, 64 tokens, kernel 6, 10 filters, dropout .2),
so that other work on the machine shows little.
"""

import statistics
import time
from functools import partial

import torch
from torch import nn

from benchmarks.given import given
from benchmarks.measured import spent
from mnemoscope.cnn.network import AttentionCnn, SeededDropout
from mnemoscope.cnn.training import keep_freed_memory

N_MAPS, N_LAYERS, BATCH, N_STEPS = 512, 4, 16, 60
MANY_LAYERS, FEW_MAPS, FEW_STEPS = 36, 64, 20


def build(
    *,
    channels_last: bool,
    seeded: bool,
    filters: int = 10,
    kernel: int = 6,
    n_layers: int = N_LAYERS,
) -> AttentionCnn:
    torch.manual_seed(0)
    network = AttentionCnn(n_layers, 3, kernel=kernel, filters=filters, dropout=0.2)
    network.seed_dropout(0 if seeded else None)
    if not channels_last:
        for module in network.features:
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous()
    return network


def milliseconds(
    *,
    channels_last: bool = True,
    seeded: bool = True,
    bfloat16: bool = False,
    batch: int = BATCH,
    filters: int = 10,
    kernel: int = 6,
    n_layers: int = N_LAYERS,
    causal: bool = False,
) -> tuple[float, float]:
    """Milliseconds a step, and megabytes more at most."""
    network = build(
        channels_last=channels_last,
        seeded=seeded,
        filters=filters,
        kernel=kernel,
        n_layers=n_layers,
    )
    order = torch.channels_last if channels_last else torch.contiguous_format
    n_maps = N_MAPS if n_layers == N_LAYERS else FEW_MAPS
    maps = torch.randn(n_maps, n_layers, 64, 64).tril().contiguous(memory_format=order)
    labels = torch.randint(0, 3, (n_maps,))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    times = []

    def steps() -> None:
        for _ in range(N_STEPS if n_layers == N_LAYERS else FEW_STEPS):
            rows = torch.randint(0, n_maps, (batch,))
            started = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = nn.functional.cross_entropy(network(maps[rows], causal=causal), labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            times.append(time.process_time() - started)

    taken, _ = spent(steps)
    return 1e3 * statistics.median(times), taken.megabytes


def main() -> None:
    given(__doc__)
    torch.set_num_threads(1)
    assert isinstance(build(channels_last=True, seeded=True).features[2], SeededDropout)
    print(f"torch {torch.__version__}, one thread; ms a step of {BATCH} maps")

    def row(name: str, found: tuple[float, float]) -> str:
        return "  {:58} {:6.1f}, {:5.0f} MB more".format(name, *found)

    print(row("torch's order, torch's dropout", milliseconds(channels_last=False, seeded=False)))
    print(row("channels last, torch's dropout", milliseconds(seeded=False)))
    print(row("channels last, seeded dropout", milliseconds()))
    keep_freed_memory()  # cannot be undone, so what follows has it too
    print(row("the same, freed memory kept: what train_cnns does", milliseconds()))
    print(row("the same with torch's dropout", milliseconds(seeded=False)))
    print(row("the same in bfloat16 (not used: other bits)", milliseconds(bfloat16=True)))
    print(row("the same, 32 maps", milliseconds(batch=32)))
    print(row("the same, kernel 8, 16 filters", milliseconds(kernel=8, filters=16)))
    for kernel, filters in ((6, 10), (8, 16)):
        large = partial(milliseconds, n_layers=MANY_LAYERS, kernel=kernel, filters=filters)
        name = f"{MANY_LAYERS} layers, kernel {kernel}, {filters} filters"
        print(row(name, large()))
        print(row(f"{name}, causal: what train_cnns does", large(causal=True)))


if __name__ == "__main__":
    main()
