"""Features and labels of as many memorized sequences as the 12b split has, 1.9 million.

Run: POLARS_MAX_THREADS=2 .venv/bin/python benchmarks/bench_features.py [ROWS]

The sequences are synthetic: pieces of the embedded corpus's prose, code and templates, counters,
periodic texts and licences, with token ids that repeat as the texts do. Each verb runs in a process
of its own; wall and CPU seconds and peak resident memory are the system's word on that process.
`is_code` is drawn, not classified.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.given import given
from mnemoscope.embedded import sequences_path

N_12B = 1_871_216
PART = 100_000


def main() -> None:
    (n,) = given(__doc__, rows=N_12B)
    folder = Path(tempfile.mkdtemp(prefix="bench_features-"))
    table, features, labels = (folder / f"{one}.parquet" for one in ("in", "features", "labels"))
    make_table(table, n)
    print(f"{n:,} sequences, {table.stat().st_size / 1e6:.0f} MB; {os.cpu_count()} cores there")
    measure("features", str(table), "-o", str(features))
    measure("label", str(features), "-t", "catalogue", "-t", "rho", "-o", str(labels))
    found = pl.scan_parquet(features)
    print(found.select(pl.col("is_incrementing", "is_repeating").mean()).collect().row(0))
    print(f"{len(pl.read_parquet_schema(labels)) - 1} taxonomies labelled")
    shutil.rmtree(folder)


def measure(*arguments: str) -> None:
    """Run one verb and print what it took."""
    command = [sys.executable, "-c", "from mnemoscope.cli import main; main()", *arguments]
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    assert status == 0, f"{command} failed"
    print(
        f"{arguments[0]}: {wall:.1f} s wall, {usage.ru_utime + usage.ru_stime:.1f} s CPU, peak "
        f"memory {usage.ru_maxrss / 1e6:.2f} GB"
    )


def make_table(path: Path, n: int) -> None:
    """Write sequences part by part; every text its own."""
    rng = np.random.default_rng(0)
    shipped = pl.read_parquet(sequences_path())
    texts, tokens = shipped["text"].to_list(), np.array(shipped["tokens"].to_list())
    parts = [
        make_part(rng, min(PART, n - first), first, texts, tokens) for first in range(0, n, PART)
    ]
    pl.concat(parts).write_parquet(path)


def make_part(
    rng: np.random.Generator, n: int, first: int, texts: list[str], tokens: np.ndarray
) -> pl.DataFrame:
    """Rows of the table: 84 % prose, code and templates, 3 % counters, 13 % periodic texts."""
    pick, other = rng.integers(0, len(texts), (2, n))
    kind = rng.choice(3, n, p=[0.84, 0.03, 0.13])
    unit = tokens[pick, :3]
    ids = np.where(kind[:, None] == 2, np.tile(unit, 22)[:, :64], tokens[pick])
    half = rng.random(n) < 0.5
    ids[half, 32:] = tokens[other[half], 32:]
    made = [
        texts[a] + texts[b][:100] if k == 0 else _counter(a, b) if k == 1 else texts[a][:9] * 25
        for a, b, k in zip(pick.tolist(), other.tolist(), kind.tolist(), strict=True)
    ]
    return pl.DataFrame(
        {
            "sequence_id": np.arange(first, first + n),
            "text": made,
            "tokens": pl.Series(ids.astype(np.int32), dtype=pl.Array(pl.Int32, 64)).arr.to_list(),
            "is_memorized": np.ones(n, dtype=bool),
            "duplicates": rng.zipf(1.4, n).clip(1, 10**6),
            "is_code": rng.random(n) < 0.3,
        }
    )


def _counter(start: int, step: int) -> str:
    """A numbered table, as in the Pile."""
    return "".join(f"| {start + (step % 9 + 1) * i} | item |\n" for i in range(14))


if __name__ == "__main__":
    main()
