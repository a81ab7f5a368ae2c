"""Two commits side by side: start, scan, capture, an audit of 30,000 characters, the small demo.

Run: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_commits.py BEFORE AFTER [--only NAME …]
BEFORE and AFTER are Pythons of two checkouts, each with its packages installed. Both do the same
work in processes of their own, one after the other, in turn first; printed are CPU seconds of the
whole process with its children, the median of the ratios after/before with their range, and the
most memory that one process held. `capture / plain` is beside the plain forward in one process.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

N = 256  # sequences of the shipped model, 64 tokens each

_MODEL = f"""
import sys, time, numpy as np, torch
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import implementation, prepend_bos
torch.set_num_threads(1)
lm = load_model(model_path())
tokens = token_matrix(read_table(sequences_path()).sample({N}, seed=0))
"""

_ASK = """
for _ in range(2):
    started = time.process_time()
    for _ in range(4):
        for _ in {}: pass
    spent = time.process_time() - started
"""

_PLAIN = """
ids = torch.as_tensor(tokens, dtype=torch.long)
with implementation(lm, "eager"), torch.inference_mode():
    for _ in range(4):
        for batch in ids.split(32):
            lm.model.base_model(input_ids=prepend_bos(lm, batch), use_cache=False)
    started = time.process_time()
    for _ in range(4):
        for batch in ids.split(32):
            lm.model.base_model(input_ids=prepend_bos(lm, batch), use_cache=False)
    spent /= time.process_time() - started
"""

_SAY = "print('figure', spent)"


def commands(text: Path, out: Path) -> dict[str, tuple[list[str], int]]:
    """What is run, by name: arguments of a Python, and how many pairs."""
    scan = _MODEL + _ASK.format("scan_memorized(lm, tokens, batch_size=32)") + _SAY
    capture = _MODEL + _ASK.format("capture_pooled(lm, tokens, batch_size=32)")
    audit = ["-m", "mnemoscope", "audit", "embedded", str(text), "--out", str(out)]
    return {
        "--help": (["-m", "mnemoscope", "--help"], 9),
        "import": (["-c", "import mnemoscope"], 9),
        "scan": (["-c", scan], 7),
        "capture": (["-c", capture + _SAY], 7),
        "capture / plain": (["-c", capture + _PLAIN + _SAY], 7),
        "audit of 30,000 characters": (audit, 5),
        "demo --small": (["-m", "mnemoscope", "demo", "--small", "--out", str(out)], 3),
    }


class Run(NamedTuple):
    """What a process took: the figure that it printed, or else CPU seconds with its children's.

    `megabytes` is the most that it, or any one of its children, held.
    """

    figure: float
    megabytes: float


def ran(python: str, arguments: list[str]) -> Run:
    """Run it and wait."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([python, *arguments], stdout=said, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (said, errors):
            file.seek(0)
        if process.returncode:
            raise SystemExit(f"{python} {arguments[:4]}: {errors.read().strip()[-300:]}")
        printed = (float(line.split()[1]) for line in said if line.startswith("figure "))
        return Run(next(printed, usage.ru_utime + usage.ru_stime), usage.ru_maxrss / 1024)


def main() -> None:
    """Run every pair and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs=2, metavar="PYTHON", help="before, after")
    parser.add_argument("--only", nargs="+", default=[], help="names of rows")
    given = parser.parse_args()
    print("| what | before | after | after / before | MB before | MB after |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        text, out = Path(folder) / "text.txt", Path(folder) / "out"
        standard = Path(sysconfig.get_path("stdlib"))
        text.write_text((standard / "argparse.py").read_text()[:30_000])
        for name, (arguments, n_pairs) in commands(text, out).items():
            if given.only and name not in given.only:
                continue
            sides: tuple[list[Run], list[Run]] = ([], [])
            for turn in range(n_pairs):
                for side in (turn % 2, 1 - turn % 2):
                    sides[side].append(ran(given.pythons[side], arguments))
                    if out.exists():
                        shutil.rmtree(out)
            before, after = ([one.figure for one in side] for side in sides)
            ratios = sorted(two / one for one, two in zip(before, after, strict=True))
            megabytes = (max(one.megabytes for one in side) for side in sides)
            row = [
                name,
                *(f"{statistics.median(side):.3g}" for side in (before, after)),
                f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
                *(f"{one:.0f}" for one in megabytes),
            ]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
