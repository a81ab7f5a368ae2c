"""Scan against greedy decoding on the embedded model: verdicts that differ, and time.

Run: .venv/bin/python benchmarks/bench_scan.py [SEQUENCES]
"""

import sys
import time

import numpy as np

from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.lm.continuation import continue_sequences
from mnemoscope.lm.loading import load_model
from mnemoscope.lm.scan import scan_memorized
from mnemoscope.sequences.schema import read_table, token_matrix


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    model = load_model(model_path())
    tokens = token_matrix(read_table(sequences_path()).sample(n, seed=0))
    started = time.perf_counter()
    scans = list(scan_memorized(model, tokens, batch_size=64))
    scan_seconds = time.perf_counter() - started
    started = time.perf_counter()
    scores = np.concatenate([one.score for one in continue_sequences(model, tokens, batch_size=64)])
    decode_seconds = time.perf_counter() - started
    scanned = np.concatenate([one.is_memorized for one in scans])
    gaps = np.concatenate([one.smallest_gap for one in scans])
    differs = scanned != (scores == 1.0)
    print(f"{n:,} sequences, {scanned.mean():.1%} memorized, {differs.sum()} verdicts differ")
    if differs.any():
        print(f"largest gap of the two best logits among them: {gaps[differs].max():.2g}")
    print(
        f"scan {scan_seconds:.1f} s, decoding {decode_seconds:.1f} s: "
        f"{decode_seconds / scan_seconds:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
