"""Seconds and memory of `mnemoscope demo`, as a user runs it, stage by stage.

Run: .venv/bin/python benchmarks/bench_demo.py
Memory is the largest sum of proportional set sizes over the process and its workers, read
every half second (Linux).
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.given import given


def main() -> None:
    given(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "demo"
        started = time.monotonic()
        process = subprocess.Popen(
            [Path(sys.executable).with_name("mnemoscope"), "demo", "-q", "-o", study],
            stdout=subprocess.PIPE,
            text=True,
        )
        peaks: list[int] = []
        watcher = threading.Thread(target=watch, args=(process, peaks), daemon=True)
        watcher.start()
        output, _ = process.communicate()
        seconds = time.monotonic() - started
        watcher.join()
        print(output)
        print(f"exit status {process.returncode}, {seconds:.0f} s, {os.cpu_count()} cores")
        print(f"peak memory {max(peaks) / 1e9:.2f} GB (process and workers together)")
        for line in (study / "log.jsonl").read_text().splitlines():
            entry = json.loads(line)
            print(f"  {entry['stage']:<12}{entry['seconds']:>7.1f} s")
        size = sum(one.stat().st_size for one in study.rglob("*") if one.is_file())
        report = (study / "report.html").stat().st_size
        print(f"study {size / 1e6:.1f} MB, report {report / 1e6:.2f} MB")


def watch(process: subprocess.Popen[str], peaks: list[int]) -> None:
    """Note the memory of the whole process tree until it ends."""
    peaks.append(0)
    while process.poll() is None:
        peaks.append(sum(map(proportional_bytes, family(process.pid))))
        time.sleep(0.5)


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        found = [int(child) for child in children.read_text().split()]
    except OSError:
        return []
    return [pid, *[one for child in found for one in family(child)]]


def proportional_bytes(pid: int) -> int:
    """Proportional set size: pages shared by processes are counted once."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
