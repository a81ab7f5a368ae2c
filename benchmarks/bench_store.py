"""Random access to a store of maps beside a raw read of the same bytes, warm and cold.

Run: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_store.py [LAYERS ...]

Rows are read in one random order, alone (`dataset[row]`) and 32 at a time (`dataset.read`, which
is what training and a `DataLoader` call), and the same bytes with `os.pread` into new memory, one
row or a list of 32 held at a time, by turns; ratios of medians over repetitions. Cold: the page
cache is told to drop the shards before each. Unpacking the triangle is timed apart.
"""

import os
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from benchmarks.given import parser_of
from benchmarks.measured import Spent, middle, spent
from mnemoscope.maps.format import StoreMeta, tensor_start
from mnemoscope.maps.shape import triangle_size
from mnemoscope.maps.store import MapStore, MapWriter
from mnemoscope.maps.triangle import pack_shard, unpack_triangle

N_ROWS, REPETITIONS, BATCH = 512, 21, 32


def make_store(folder: Path, n_layers: int) -> None:
    """512 random maps in two shards, on the disk."""
    writer = MapWriter(folder, StoreMeta(n_layers, 64))
    for start in range(0, N_ROWS, 256):
        ids = np.arange(start, start + 256)
        maps = torch.rand(256, n_layers, 64, 64).tril()
        shard = pack_shard(ids, {"mean": maps, "max": maps}, writer.meta)
        writer.take(shard, ids, "true", sha256=sha256(shard).hexdigest())
    os.sync()


def drop(folder: Path) -> None:
    """Ask the system to forget the shards."""
    for path in folder.glob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def taken(work: Callable[[], object], folder: Path, cold: bool) -> Spent:
    if cold:
        drop(folder)
    return spent(work)[0]


def compare(folder: Path, order: list[int], n_layers: int, *, at_once: int, cold: bool) -> None:
    """Print how fast the data set reads beside raw reads."""
    store = MapStore(folder)
    maps = store.dataset(store.index["sequence_id"].to_numpy(), "true", "mean")
    n_bytes = n_layers * triangle_size(64) * 2
    shards = sorted(folder.glob("*.safetensors"))
    files = [(os.open(path, os.O_RDONLY), tensor_start(path, "mean")) for path in shards]
    places = [(*files[row // 256], row % 256) for row in order]
    batches = [torch.tensor(order[at : at + at_once]) for at in range(0, N_ROWS, at_once)]

    def raw() -> None:
        for at in range(0, N_ROWS, at_once):
            [
                os.pread(file, n_bytes, start + row * n_bytes)
                for file, start, row in places[at : at + at_once]
            ]

    def ours() -> None:
        if at_once == 1:
            for row in order:
                maps[row]
        else:
            for batch in batches:
                maps.read(batch)

    ours()
    raw()
    times = [(taken(raw, folder, cold), taken(ours, folder, cold)) for _ in range(REPETITIONS)]
    theirs, own = (middle(one) for one in zip(*times, strict=True))
    gigabytes = N_ROWS * n_bytes / 1e9
    print(
        f"{n_layers} layers, {at_once:2d} at once, {'cold' if cold else 'warm'}: raw "
        f"{gigabytes / theirs.clock:.2f} GB/s, store {gigabytes / own.clock:.2f} GB/s: "
        f"{theirs.clock / own.clock:.2f} of it; {theirs.megabytes:.1f} and {own.megabytes:.1f} MB "
        "more"
    )
    for descriptor, _ in files:
        os.close(descriptor)


def time_unpacking(folder: Path, n_layers: int) -> None:
    """Print what putting the triangle back in place costs beside reading it."""
    store = MapStore(folder)
    maps = store.dataset(store.index["sequence_id"].to_numpy(), "true", "mean")
    rows = torch.randperm(N_ROWS)[:BATCH]
    packed = maps.read(rows)
    read, unpack = (
        middle([spent(work)[0] for _ in range(REPETITIONS)])
        for work in (lambda: maps.read(rows), lambda: unpack_triangle(packed))
    )
    print(
        f"{n_layers} layers, {BATCH} maps: read {read.clock * 1e3:.2f} ms, unpack "
        f"{unpack.clock * 1e3:.2f} ms; {read.megabytes:.1f} and {unpack.megabytes:.1f} MB more"
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("layers", type=int, nargs="*", default=[4, 12, 36])
    for n_layers in parser.parse_args().layers:
        with tempfile.TemporaryDirectory(dir=".") as name:
            folder = Path(name)
            make_store(folder, n_layers)
            order = torch.randperm(N_ROWS, generator=torch.Generator().manual_seed(0)).tolist()
            for cold in (False, True):
                for at_once in (1, BATCH):
                    compare(folder, order, n_layers, at_once=at_once, cold=cold)
            time_unpacking(folder, n_layers)


if __name__ == "__main__":
    main()
