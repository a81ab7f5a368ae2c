"""What a start costs: CPU seconds and peak memory of the help and of the import alone.

Run: .venv/bin/python benchmarks/bench_start.py [REPETITIONS]

Each in a process of its own; the least of all repetitions, since other work only adds.
"""

import os
import subprocess
import sys

from benchmarks.given import given

STARTS = {
    "python": ["-c", "pass"],
    "import mnemoscope": ["-c", "import mnemoscope"],
    "mnemoscope --help": ["-m", "mnemoscope", "--help"],
    "mnemoscope run --help": ["-m", "mnemoscope", "run", "--help"],
}


def start(arguments: list[str]) -> tuple[float, float]:
    """CPU seconds and peak resident megabytes of one process."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3


def main() -> None:
    (n,) = given(__doc__, repetitions=9)
    for name, arguments in STARTS.items():
        seconds, megabytes = map(min, zip(*(start(arguments) for _ in range(n)), strict=True))
        print(f"{name}: {seconds:.2f} s of CPU, peak {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
