"""Tokens a second and peak memory of `mnemoscope data duplicates` as the corpus and the table grow.

Run: .venv/bin/python benchmarks/bench_duplicates.py [--tokens 10 100 1000] [--sequences 100000]
(millions of tokens; uint16 ids, made in pieces with planted suffixes whose counts are checked;
2 GB of the temporary folder at 1,000, deleted after).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

PIECE = 10_000_000
PLANTED = 1_000  # sequences that stand in the corpus, 1 to 4 times in every piece


def write_sequences(path: Path, n: int) -> np.ndarray:
    """A table of random sequences; gives the suffixes of those that are planted."""
    tokens = np.random.default_rng(0).integers(0, 50_000, (n, 64), dtype=np.int32)
    rows = pl.Series("tokens", tokens.reshape(-1)).reshape((n, 64)).arr.to_list()
    pl.DataFrame({"sequence_id": np.arange(n), "tokens": rows}).write_parquet(path)
    return tokens[:PLANTED, 32:].astype(np.uint16)


def write_corpus(path: Path, n_tokens: int, suffixes: np.ndarray) -> np.ndarray:
    """Random ids with suffixes planted; gives how often each stands there."""
    rng = np.random.default_rng(1)
    times = np.arange(len(suffixes)) % 4 + 1
    which = np.repeat(np.arange(len(suffixes)), times)
    with open(path, "wb") as handle:
        for _ in range(n_tokens // PIECE):
            piece = rng.integers(0, 50_000, PIECE, dtype=np.uint16)
            slots = rng.choice(PIECE // 32, len(which), replace=False) * 32
            piece[slots[:, None] + np.arange(32)] = suffixes[which]
            piece.tofile(handle)
    return times * (n_tokens // PIECE)


def run(folder: Path, n_tokens: int, wanted: np.ndarray) -> str:
    """One call of the verb, in a process of its own; checks the counts."""
    words = ["--sequences", folder / "s.parquet", "--corpus", folder / "train.bin"]
    code = "from mnemoscope.cli import main; main()"
    command = [sys.executable, "-c", code, "data", "duplicates", *map(str, words), "-q"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "-o", str(folder / "out.parquet")], stdout=subprocess.PIPE, text=True
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds, cpu = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    said = process.stdout.read() if process.stdout else ""
    assert status == 0, said
    counts = pl.read_parquet(folder / "out.parquet", columns=["duplicates"])["duplicates"]
    assert counts[:PLANTED].to_list() == wanted.tolist(), "a planted suffix was miscounted"
    assert counts[PLANTED:].sum() == 0, "a random suffix was found"
    return (
        f"{n_tokens:,} tokens, {len(counts):,} sequences: {seconds:.1f} s, {cpu:.1f} s of the CPU "
        f"({n_tokens / cpu / 1e6:.1f} million tokens a second of it), peak memory "
        f"{usage.ru_maxrss / 1024:.0f} MB; planted counts right"
    )


def main() -> None:
    """Print a line for each size of the corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[10, 100, 1000], metavar="M")
    parser.add_argument("--sequences", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suffixes = write_sequences(folder / "s.parquet", arguments.sequences)
        for millions in arguments.tokens:
            n_tokens = millions * 1_000_000
            wanted = write_corpus(folder / "train.bin", n_tokens, suffixes)
            print(run(folder, n_tokens, wanted), flush=True)


if __name__ == "__main__":
    main()
