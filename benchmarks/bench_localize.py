"""Time Δ against the published per-head procedure and against one backward pass of the CNN.

Run: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_localize.py [SEQUENCES]
Pythia-12b's shape (36 layers, 40 heads, 64 tokens), CNN of kernel 6 and 10 filters, 4 classes, in
memory. The procedure of the paper's code (arXiv 2508.02573) is written as it reads: one sequence at
a time, gradient by every head, D · A by every head, the largest over heads. CPU time, the median of
five rounds, each of which times all of them one after the other.
"""

import torch

from benchmarks.given import given
from benchmarks.measured import Spent, middle, spent
from mnemoscope.cnn.inputs import NetworkInputs, Scaling
from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import PRESETS, CnnSetting
from mnemoscope.cnn.training import TrainedCnn, TrainingHistory
from mnemoscope.localize.delta import class_contrast, decisiveness
from mnemoscope.maps.triangle import pack_triangle
from mnemoscope.maps.views import TensorMaps

N_LAYERS, N_HEADS, LENGTH, N_CLASSES, BATCH, ROUNDS = 36, 40, 64, 4, 32, 5
RAW = Scaling(None, None, 0.0)


def some_heads(n: int) -> torch.Tensor:
    """Multiples of 1/1024 whose mean over heads is one too: (n, layers, heads, query, key).

    The store's float16 then holds mean and maximum exactly, and what is left between the two
    procedures is the rounding of their sums.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (n, N_LAYERS, N_HEADS, LENGTH, LENGTH)
    whole = torch.randint(N_HEADS, 1000, shape, generator=generator, dtype=torch.int32)
    whole[:, :, 0] -= whole.sum(2, dtype=torch.int32) % N_HEADS
    return whole.tril().float().div_(1024)


def published(network: AttentionCnn, heads: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Δ by the published procedure: (classes, layers, query, key)."""
    delta = torch.zeros(N_CLASSES, N_LAYERS, LENGTH, LENGTH)
    n_used = torch.zeros(N_CLASSES)
    for weights, label in zip(heads, labels.tolist(), strict=True):
        leaf = weights.clone().requires_grad_()
        logits = network(leaf.mean(1)[None])[0]
        if logits.argmax() != label:
            continue
        others = [logits[c] for c in range(N_CLASSES) if c != label]
        (logits[label] - sum(others) / len(others)).backward()
        if leaf.grad.max() <= 0:
            continue
        decisive = (leaf.grad / leaf.grad.max()).clamp(min=0)
        delta[label] += (decisive * weights).amax(dim=1)
        n_used[label] += 1
    return delta / n_used.clamp(min=1)[:, None, None, None]


def one_pass(network: AttentionCnn, maps: TensorMaps, labels: torch.Tensor) -> None:
    """Read, forward and backward to the input, and nothing else: the limit."""
    source = NetworkInputs(maps, RAW)
    for rows in torch.split(torch.arange(len(maps)), BATCH):
        inputs = source.batch(rows).requires_grad_()
        torch.autograd.grad(class_contrast(network(inputs), labels[rows]).sum(), inputs)


def trained_of(network: AttentionCnn) -> TrainedCnn:
    return TrainedCnn(
        network=network,
        scaling=RAW,
        setting=CnnSetting(6, 10, "mean"),
        preset=PRESETS["as_run"],
        seed=0,
        history=TrainingHistory((), 0),
    )


def main(n: int) -> None:
    torch.manual_seed(3)
    network = AttentionCnn(N_LAYERS, N_CLASSES, kernel=6, filters=10).eval()
    heads = some_heads(n)
    means = heads.mean(2)
    mean, largest = (TensorMaps(pack_triangle(pooled)) for pooled in (means, heads.amax(2)))
    with torch.no_grad():
        network.classifier[-1].bias -= network(means).mean(0)
        labels = network(means).argmax(1)
    labels[::7] = (labels[::7] + 1) % N_CLASSES

    def ours() -> torch.Tensor:
        return decisiveness(
            trained_of(network), mean, labels, max_maps=largest, batch_size=BATCH
        ).delta

    difference = (ours() - published(network, heads, labels)).abs().max()
    each: dict[str, list[Spent]] = {}
    for _ in range(ROUNDS):
        for name, run in (
            ("published", lambda: published(network, heads, labels)),
            ("ours", ours),
            ("one pass", lambda: one_pass(network, mean, labels)),
        ):
            each.setdefault(name, []).append(spent(run)[0])
    taken = {name: middle(values) for name, values in each.items()}
    median = {name: one.seconds for name, one in taken.items()}
    print(f"{n} sequences of {N_LAYERS} layers, {N_HEADS} heads, {LENGTH} tokens; CPU time")
    for name, value in median.items():
        print(
            f"  {name}: {1000 * value / n:.1f} ms a sequence, {taken[name].megabytes:.0f} MB more"
        )
    print(f"  ours is {median['published'] / median['ours']:.1f} times as fast as published")
    print(f"  ours takes {median['ours'] / median['one pass']:.2f} times one pass")
    print(f"  largest difference {difference:.1e}")


if __name__ == "__main__":
    main(*given(__doc__, sequences=32))
