"""Shards written while the model goes on, against shards written in between.

Run: OMP_NUM_THREADS=1 python benchmarks/bench_writing.py [SHARDS ROWS LAYERS MILLISECONDS]

Clock, both sides in one run, in turn. The model is a sleep of so many milliseconds a shard, as an
accelerator is to the thread that drives it; packing, sums, files and records are the real ones.
"""

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bench_windows import processor
from benchmarks.given import given
from benchmarks.measured import Spent, middle, spent
from mnemoscope.cluster import local
from mnemoscope.cluster.run import run_units
from mnemoscope.cluster.units import Opened, UnitStore
from mnemoscope.maps.format import StoreMeta
from mnemoscope.maps.store import MapWriter
from mnemoscope.maps.triangle import pack_shard

LENGTH, REPEATS = 64, 3


@dataclass(frozen=True)
class Shard:
    """A shard of packed maps, after a sleep."""

    number: int
    maps: dict[str, torch.Tensor]
    meta: StoreMeta
    seconds: float
    size = 1

    @property
    def key(self) -> str:
        """Its number."""
        return f"shard-{self.number}"

    @property
    def ids(self) -> np.ndarray:
        """Of its sequences."""
        n_rows = len(self.maps["mean"])
        return np.arange(n_rows) + self.number * n_rows

    def run(self, _context: Any, _progress: Any) -> dict[str, bytes]:
        """Wait for the model, then pack."""
        time.sleep(self.seconds)
        return {"shard": pack_shard(self.ids, self.maps, self.meta)}


def write(shards: list[Shard], folder: Path, *, behind: bool) -> None:
    """Run all and write them, as the stage `capture` does, behind the model or in between."""
    store, writer = UnitStore(folder / "units"), MapWriter(folder / "maps", shards[0].meta)
    local._LARGE = 1 << 20 if behind else 1 << 60
    with local.Behind[None]() as taken:
        found = run_units(shards, store, Opened(dict))
        for shard, result in zip(shards, found, strict=True):

            def take(shard: Any = shard, result: Any = result) -> None:
                sha256 = result.sha256["shard"]
                writer.take(result.files["shard"], shard.ids, "true", sha256=sha256)
                store.drop(shard.key, result)

            taken.add(take)
            if not behind:
                taken.rest()
        taken.rest()


def main() -> None:
    n, n_rows, n_layers, ms = given(__doc__, n=8, rows=128, layers=36, milliseconds=300)
    weights = torch.rand(n_rows, n_layers, LENGTH * (LENGTH + 1) // 2).half()
    meta = StoreMeta(n_layers, LENGTH)
    shards = [
        Shard(one, {"mean": weights, "max": weights.clone()}, meta, ms / 1000) for one in range(n)
    ]
    found: dict[bool, list[Spent]] = {True: [], False: []}
    for _ in range(REPEATS):
        for behind, times in found.items():
            with tempfile.TemporaryDirectory() as folder:
                times.append(spent(partial(write, shards, Path(folder), behind=behind))[0])
    after, before = (middle(found[one]) for one in (True, False))
    print(f"{processor()}; {n} shards of {2 * weights.nbytes / 1e6:.0f} MB, {ms} ms of model each")
    print(
        f"behind the model {after.clock:.2f} s, {after.megabytes:.0f} MB more; in between "
        f"{before.clock:.2f} s, {before.megabytes:.0f} MB: {before.clock / after.clock:.2f}"
    )


if __name__ == "__main__":
    main()
