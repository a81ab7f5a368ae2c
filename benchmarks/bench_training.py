"""Time training from the store against training from all heads in HDF5, at Pythia-12b's shape.

Run: .venv/bin/python benchmarks/bench_training.py [--threads N] [--sequences N] [--busy] [--memory]
     .venv/bin/python benchmarks/bench_training.py --busy --group
Wants h5py (`pip install 'mnemoscope[bench]'`) and 12 MB of disk and memory a sequence.

The published layout, written here: every head of every layer in float16 in one HDF5 file, opened
anew for each sample, pooled over heads when read; ours: the store, pooled when captured. What one
would write without us stands beside them: maps pooled once and held in memory, torch's network in
channels last, the fused optimizer; and the same in bfloat16 (autocast), which changes the bits.
Files are in the page cache, batches of 16 in the same shuffled order, float16 on disk, float32 to
the network. All take turns, so that other work on the machine falls on both; of the rounds the
fastest counts; with `--busy` CPU time does, which with one thread is what a free core would
take. With `--group`: CNNs trained as one against one after the other. With `--memory`: peak memory
of training on 12,000 maps (3.6 GB) instead.
"""

import argparse
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn

from benchmarks.bench_windows import processor
from benchmarks.measured import spent
from mnemoscope.cnn.inputs import NetworkInputs, Scaling, scale_maps
from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import PRESETS, CnnSetting
from mnemoscope.cnn.training import Wanted, keep_freed_memory, train_cnns
from mnemoscope.maps.format import StoreMeta
from mnemoscope.maps.store import MapStore, MapWriter
from mnemoscope.maps.triangle import pack_shard
from mnemoscope.maps.views import StoredMaps, TensorMaps

LAYERS, HEADS, LENGTH, BATCH, CLASSES = 36, 40, 64, 16, 4
ROUNDS, SHARD_ROWS = 3, 64
GRID = ((6, 10), (6, 16), (8, 10), (8, 16))
RAW = Scaling(None, None, 0.0)
Batches = Callable[[torch.Tensor], torch.Tensor]
Clock = Callable[[], float]


def write_both(folder: Path, n_sequences: int) -> tuple[Path, StoredMaps]:
    """The same random causal attention in the published layout and in the store."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(LAYERS, HEADS, LENGTH, LENGTH, generator=generator)
    above = torch.ones(LENGTH, LENGTH).triu(1).bool()
    heads = scores.masked_fill(above, -torch.inf).softmax(-1).half()
    path = folder / "all_heads.h5"
    shape = (n_sequences, LAYERS, HEADS, LENGTH, LENGTH)
    store, pooled = MapWriter(folder / "maps", StoreMeta(LAYERS, LENGTH)), []
    with h5py.File(path, "w") as file:
        published = file.create_dataset("attention", shape, dtype="float16")
        for row in range(n_sequences):
            one = heads.roll(row, 0)  # other layers in front: another map for every sequence
            published[row] = one.numpy()
            pooled.append((one.mean(1).float(), one.amax(1).float()))
            if len(pooled) == SHARD_ROWS or row == n_sequences - 1:
                ids = np.arange(row + 1 - len(pooled), row + 1)
                mean, largest = map(torch.stack, zip(*pooled, strict=True))
                shard = pack_shard(ids, {"mean": mean, "max": largest}, store.meta)
                store.take(shard, ids, "true", sha256=sha256(shard).hexdigest())
                pooled.clear()
    return path, MapStore(folder / "maps").dataset(np.arange(n_sequences), "true", "mean")


def published_batches(path: Path) -> Batches:
    """A batch read in the published way: the file opened, all heads read, pooled, per sample."""

    def sample(row: int) -> torch.Tensor:
        with h5py.File(path, "r") as file:
            heads = torch.from_numpy(file["attention"][row])
        return heads.mean(1).float()

    return lambda rows: torch.stack([sample(row) for row in rows.tolist()])


def our_batches(maps: StoredMaps) -> Batches:
    """A batch as `train_cnns` reads it when the maps are too many to be kept."""
    return NetworkInputs(maps, RAW).batch


def pooled_batches(maps: StoredMaps) -> Batches:
    """A batch of maps that were pooled once and are held in memory, whole squares in float32."""
    squares = torch.cat([scale_maps(RAW, maps.read(rows)) for rows in every(len(maps))])
    squares = squares.contiguous(memory_format=torch.channels_last)
    return lambda rows: squares[rows]


def every(n_sequences: int) -> tuple[torch.Tensor, ...]:
    """All rows, a shard's at a time."""
    return torch.split(torch.arange(n_sequences), SHARD_ROWS)


def orders(n_sequences: int) -> Iterator[torch.Tensor]:
    """One epoch's batches, in the same shuffled order for all."""
    generator = torch.Generator().manual_seed(1)
    yield from torch.split(torch.randperm(n_sequences, generator=generator), BATCH)


class Trainer:
    """The paper's network and optimizer.

    `how`: ``ours``; ``plain`` as torch has it; ``tuned`` in channels last with the fused optimizer,
    torch's dropout and whole convolutions; ``bfloat16``, the same under autocast.
    """

    def __init__(self, kernel: int = 6, filters: int = 10, *, how: str = "ours") -> None:
        torch.manual_seed(0)
        self.causal, self.bfloat16 = how == "ours", how == "bfloat16"
        self.network = AttentionCnn(LAYERS, CLASSES, kernel=kernel, filters=filters)
        if how == "ours":
            self.network.seed_dropout(0)
        for module in self.network.features if how == "plain" else []:
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous()
        parameters, fused = self.network.parameters(), how != "plain"
        self.optimizer = torch.optim.AdamW(parameters, 1e-3, weight_decay=0.1, fused=fused)

    def step(self, maps: torch.Tensor, labels: torch.Tensor) -> None:
        """One step on one batch."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            logits = self.network(maps, causal=self.causal)
            loss = nn.functional.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()


def reading(batches: Batches, n_sequences: int, clock: Clock) -> float:
    started = clock()
    for rows in orders(n_sequences):
        batches(rows)
    return clock() - started


def epoch(batches: Batches, trainers: list[Trainer], n_sequences: int, clock: Clock) -> float:
    """Seconds of one epoch of some CNNs on one read."""
    labels = torch.arange(n_sequences) % CLASSES
    started = clock()
    for rows in orders(n_sequences):
        maps = batches(rows)
        for trainer in trainers:
            trainer.step(maps, labels[rows])
    return clock() - started


def one_by_one(batches: Batches, n_sequences: int, clock: Clock) -> float:
    return sum(epoch(batches, [Trainer(*point)], n_sequences, clock) for point in GRID)


def compare(folder: Path, n_sequences: int, clock: Clock) -> None:
    print(f"writing {n_sequences} sequences of {LAYERS} layers, {HEADS} heads ...", flush=True)
    path, maps = write_both(folder, n_sequences)
    theirs, ours, pooled = published_batches(path), our_batches(maps), pooled_batches(maps)
    some = torch.arange(0, n_sequences, 37)
    torch.testing.assert_close(theirs(some), ours(some), rtol=2e-3, atol=1e-7)  # half a float16
    assert torch.equal(ours(some), pooled(some))
    keep_freed_memory()
    run = (n_sequences, clock)
    ways: dict[str, Callable[[], float]] = {
        "read: all heads, HDF5": lambda: reading(theirs, *run),
        "read: the store": lambda: reading(ours, *run),
        "epoch: all heads, torch's network": lambda: epoch(theirs, [Trainer(how="plain")], *run),
        "epoch: all heads, our network": lambda: epoch(theirs, [Trainer()], *run),
        "epoch: the store, our network": lambda: epoch(ours, [Trainer()], *run),
        "epoch: pooled once, tuned network": lambda: epoch(pooled, [Trainer(how="tuned")], *run),
        "epoch: pooled once, bfloat16": lambda: epoch(pooled, [Trainer(how="bfloat16")], *run),
        "four settings: one read each": lambda: one_by_one(ours, *run),
        "four settings: one read for all": lambda: epoch(
            ours, [Trainer(*point) for point in GRID], *run
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    memory = dict.fromkeys(ways, 0.0)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            taken, seconds = spent(way)
            times[name].append(seconds)
            memory[name] = max(memory[name], taken.megabytes)
    report({name: min(rounds) for name, rounds in times.items()}, memory, n_sequences)


def report(seconds: dict[str, float], memory: dict[str, float], n_sequences: int) -> None:
    n_batches = -(-n_sequences // BATCH)
    for name, value in seconds.items():
        each = f"{1e3 * value / n_batches:9.2f} ms a batch"
        print(f"  {name:36}{value:8.2f} s{each}{memory[name]:8.0f} MB more")
    read_theirs, read_ours, plain, same, ours, tuned, bfloat16, apart, grouped = seconds.values()
    print(f"reading and pooling: {read_theirs / read_ours:.1f} times as fast")
    print(f"epoch: {plain / ours:.1f} times (same network: {same / ours:.1f} times)")
    print(
        f"epoch, against maps pooled once: {tuned / ours:.2f} times as fast; in bfloat16: "
        f"{bfloat16 / ours:.2f}"
    )
    print(f"share of reading: all heads {read_theirs / plain:.0%}, store {read_ours / ours:.1%}")
    print(f"four settings on one read: {apart / grouped:.3f} times as fast as one after another")


GROUPS = {  # layers, preset, and filters and seed of each CNN
    "4 layers, 3 seeds": (4, "small", [(10, 0), (10, 1), (10, 2)]),
    "4 layers, a seed and its control": (4, "small", [(10, 0), (10, 0)]),
    "36 layers, a seed and its control": (36, "as_run", [(10, 0), (10, 0)]),
    "36 layers, 2 filters, 2 seeds": (36, "as_run", [(10, 0), (16, 0), (10, 1), (16, 1)]),
}


def groups(n_sequences: int, clock: Clock) -> None:
    """CNNs of one kernel on the same maps as one network, and one after the other."""
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n_sequences) % CLASSES
    for name, (n_layers, preset_name, members) in GROUPS.items():
        weights = torch.rand(n_sequences, n_layers, 2080, generator=generator) / 32
        maps, preset = TensorMaps(weights), replace(PRESETS[preset_name], epochs=2, min_steps=0)
        wanted = [
            Wanted(labels.roll(number), CnnSetting(6, filters, "mean"), seed)
            for number, (filters, seed) in enumerate(members)
        ]
        train = partial(train_cnns, maps, n_classes=CLASSES, preset=preset)
        times: list[list[float]] = [[], []]
        more = [0.0, 0.0]
        for _ in range(ROUNDS):
            for at, parts in enumerate(([wanted], [[one] for one in wanted])):
                taken, seconds = spent(partial(train_parts, train, parts, clock))
                times[at].append(seconds)
                more[at] = max(more[at], taken.megabytes)
        together, apart = map(min, times)
        print(
            f"  {name}: group {together:.2f} s, one after the other {apart:.2f} s: "
            f"{apart / together:.2f} times as fast; {more[0]:.0f} and {more[1]:.0f} MB more",
            flush=True,
        )


def train_parts(train: Callable[..., object], parts: list[list[Wanted]], clock: Clock) -> float:
    """Seconds of training these groups."""
    started = clock()
    for part in parts:
        train(part)
    return clock() - started


def anonymous_bytes() -> int:
    """Memory of this process that is no page of a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def memory(folder: Path, n_sequences: int) -> None:
    """Peak memory of training on a store of the paper's size (one shard's content, repeated)."""
    _, maps = write_both(folder, SHARD_ROWS)
    shards = [folder / f"{number}.safetensors" for number in range(-(-n_sequences // SHARD_ROWS))]
    for shard in shards:
        shutil.copyfile(next((folder / "maps").glob("*.safetensors")), shard)
    positions = torch.arange(n_sequences)
    places = np.stack([positions // SHARD_ROWS, positions % SHARD_ROWS])
    maps = StoredMaps(shards, places, StoreMeta(LAYERS, LENGTH), "mean")
    before, peak, stop = anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    size = sum(shard.stat().st_size for shard in shards) / 1e9
    for name in ("as_run", "small"):
        preset = replace(PRESETS[name], epochs=1, min_steps=0)
        labels, setting = positions % CLASSES, CnnSetting(6, 10, "mean")
        peak[0], started = 0, time.perf_counter()
        train_cnns(maps, [Wanted(labels, setting, 0)], n_classes=CLASSES, preset=preset)
        print(
            f"  {name}: {n_sequences} maps, {size:.1f} GB on disk; one epoch and its check "
            f"{time.perf_counter() - started:.0f} s; peak memory "
            f"{(peak[0] - before) / 1e6:.0f} MB above the {before / 1e6:.0f} MB before",
            flush=True,
        )
    stop.set()
    watcher.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sequences", type=int, help="256, or 12,000 with --memory")
    parser.add_argument("--busy", action="store_true", help="one thread, CPU time")
    parser.add_argument("--group", action="store_true", help="training in groups alone")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to put the files for a while")
    wanted = parser.parse_args()
    threads = 1 if wanted.busy else wanted.threads
    torch.set_num_threads(threads)
    clock = time.process_time if wanted.busy else time.perf_counter
    name = "CPU" if wanted.busy else "wall"
    print(f"{processor()}, torch {torch.__version__}, threads: {threads}, {name} time", flush=True)
    if wanted.group:
        groups(wanted.sequences or 96, clock)
        return
    with tempfile.TemporaryDirectory(dir=wanted.folder) as folder:
        if wanted.memory:
            memory(Path(folder), wanted.sequences or 12_000)
        else:
            compare(Path(folder), wanted.sequences or 256, clock)


if __name__ == "__main__":
    main()
