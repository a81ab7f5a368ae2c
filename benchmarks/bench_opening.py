"""What comparing every shard with its sha256 costs: opening a store and reading all its maps.

Run: .venv/bin/python benchmarks/bench_opening.py [LAYERS]

512 random maps in two shards in the page cache, by the clock: the checksums alone, opening and one
pass over all maps in random order with them and without, and what a second opening costs.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.bench_store import BATCH, N_ROWS, make_store
from benchmarks.given import given
from benchmarks.measured import spent
from mnemoscope import store
from mnemoscope.maps.store import MapStore

REPETITIONS = 7


def read_all(store: MapStore, order: torch.Tensor) -> None:
    """One pass over all maps, as a training reads them."""
    maps = store.dataset(store.index["sequence_id"].to_numpy(), "true", "mean")
    for rows in torch.split(order, BATCH):
        maps.read(rows)


def seconds(folder: Path, order: torch.Tensor, *, is_compared: bool) -> tuple[float, ...]:
    """Opening, and opening with one pass over all maps; and megabytes more at most."""
    store._WHOLE.clear()
    if not is_compared:  # this process has seen them
        MapStore(folder)
    opened, maps = spent(lambda: MapStore(folder))
    read, _ = spent(lambda: read_all(maps, order))
    return opened.clock, opened.clock + read.clock, max(opened.megabytes, read.megabytes)


def main() -> None:
    (n_layers,) = given(__doc__, layers=36)
    order = torch.randperm(N_ROWS, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        make_store(folder, n_layers)
        time.sleep(2 * store.TICK_SECONDS)
        pairs = [
            (*seconds(folder, order, is_compared=True), *seconds(folder, order, is_compared=False))
            for _ in range(REPETITIONS)
        ]
        size = sum(path.stat().st_size for path in folder.iterdir())
    opened, whole, more, again, plain, _ = (median(one) for one in zip(*pairs, strict=True))
    print(
        f"{n_layers} layers, {N_ROWS} maps, {size / 1e6:.0f} MB: opened in {opened * 1e3:.1f} ms "
        f"({size / opened / 1e9:.2f} GB/s), again in {again * 1e3:.1f} ms; opened and all maps "
        f"read once {whole * 1e3:.1f} ms, without comparing {plain * 1e3:.1f} ms: "
        f"{median(one[1] / one[4] for one in pairs):.2f} times; {more:.1f} MB more"
    )


if __name__ == "__main__":
    main()
