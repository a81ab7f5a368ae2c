"""Two commits side by side: start, scan, capture, an audit of 30,000 characters, the small demo.

Run: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_commits.py BEFORE AFTER [--only NAME …]
BEFORE and AFTER are Pythons of two checkouts, each with its packages installed. Both do the same
work in processes of their own, one after the other, in turn first; printed are CPU seconds of the
whole process with its children, and the median of the ratios after/before with their range. The
model's own time in one process, without start, is the plain forward's: `capture / plain`.
"""

import argparse
import os
import statistics
import subprocess
import sysconfig
import tempfile
from pathlib import Path

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


def spent(python: str, arguments: list[str]) -> float:
    """The figure that the process prints, or else its CPU seconds with those of its children."""
    before = os.times()
    done = subprocess.run([python, *arguments], capture_output=True, text=True, check=False)
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{python} {arguments[:4]}: {done.stderr.strip()[-300:]}")
    figures = [line for line in done.stdout.splitlines() if line.startswith("figure ")]
    if figures:
        return float(figures[0].split()[1])
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def main() -> None:
    """Run every pair and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs=2, metavar="PYTHON", help="before, after")
    parser.add_argument("--only", nargs="+", default=[], help="names of rows")
    given = parser.parse_args()
    print("| what | before | after | after / before |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        text, out = Path(folder) / "text.txt", Path(folder) / "out"
        standard = Path(sysconfig.get_path("stdlib"))
        text.write_text((standard / "argparse.py").read_text()[:30_000])
        for name, (arguments, n_pairs) in commands(text, out).items():
            if given.only and name not in given.only:
                continue
            pairs = []
            for turn in range(n_pairs):
                figures = {}
                for side in (turn % 2, 1 - turn % 2):
                    figures[side] = spent(given.pythons[side], arguments)
                    if out.exists():
                        subprocess.run(["rm", "-r", str(out)], check=True)
                pairs.append((figures[0], figures[1]))
            ratios = sorted(after / before for before, after in pairs)
            one, two = (statistics.median(side) for side in zip(*pairs, strict=True))
            print(
                f"| {name} | {one:.3g} | {two:.3g} | {statistics.median(ratios):.3f} "
                f"({ratios[0]:.3f} to {ratios[-1]:.3f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
