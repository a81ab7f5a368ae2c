"""The library beside the functions that the stages call: scan and capture of the same windows.

Run: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_library.py [--n N] [--repeats N]
Processor time in one process, one way after the other in turn; the median of the ratios with their
range. Peak memory of each way, and what the import alone takes, in processes of their own.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import polars as pl
import torch

import mnemoscope as ms
from benchmarks.bench_start import start
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel

BATCH = 64


def seconds(way: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    started = time.process_time()
    way()
    return time.process_time() - started


def captured(lm: LanguageModel, tokens: np.ndarray) -> np.ndarray:
    """Means of the heads' weights, as `ms.capture` gives them, by the function below it."""
    parts = [one.mean for one in capture_pooled(lm, tokens, batch_size=BATCH)]
    return np.concatenate([np.asarray(one, dtype=np.float16) for one in parts])


PEAK = """
import mnemoscope as ms
from benchmarks.bench_library import BATCH, captured, opened
lm, windows, tokens = opened({n})
{way}
"""
WAYS = {
    ("scan", "below"): "from mnemoscope.lm.continue_ import scan_memorized as ask\n"
    "list(ask(lm, tokens, batch_size=BATCH))",
    ("scan", "above"): "ms.scan(lm.model, windows, tokenizer=lm.tokenizer, batch_size=BATCH)",
    ("capture", "below"): "captured(lm, tokens)",
    ("capture", "above"): "ms.capture(lm.model, windows, pool='mean', tokenizer=lm.tokenizer, "
    "batch_size=BATCH)",
}


def opened(n: int) -> tuple[LanguageModel, pl.DataFrame, np.ndarray]:
    """The shipped model, windows of its table, and their tokens."""
    torch.set_num_threads(1)
    windows = read_table(sequences_path()).sample(n, seed=0)
    return load_model(model_path()), windows, token_matrix(windows)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=512, help="windows")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    lm, windows, tokens = opened(given.n)
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "scan": (
            lambda: list(scan_memorized(lm, tokens, batch_size=BATCH)),
            lambda: ms.scan(lm.model, windows, tokenizer=lm.tokenizer, batch_size=BATCH),
        ),
        "capture": (
            lambda: captured(lm, tokens),
            lambda: ms.capture(
                lm.model, windows, pool="mean", tokenizer=lm.tokenizer, batch_size=BATCH
            ),
        ),
    }
    for name, (below, above) in ways.items():
        below(), above()
        pairs = []
        for turn in range(given.repeats):
            order = (below, above) if turn % 2 else (above, below)
            taken = {way: seconds(way) for way in order}
            pairs.append(taken[above] / taken[below])
        low, middle, high = min(pairs), statistics.median(pairs), max(pairs)
        print(f"{name}: {middle:.3f} ({low:.3f} to {high:.3f})", flush=True)
        of = {
            side: start(["-c", PEAK.format(n=given.n, way=WAYS[name, side])])[1]
            for side in ("below", "above")
        }
        print(f"{name}, peak: {of['above']:.0f} MB, below it {of['below']:.0f} MB", flush=True)
    bare, imported = (
        min(start(["-c", line])[0] for _ in range(7)) for line in ("pass", "import mnemoscope")
    )
    print(f"import mnemoscope: {imported - bare:.3f} CPU s", file=sys.stdout)


if __name__ == "__main__":
    main()
