"""What a start costs: CPU seconds and peak memory of the help and of the import alone.

Run: .venv/bin/python benchmarks/bench_start.py [REPETITIONS] [--study STUDY]

Each in a process of its own; the least of all repetitions, since other work only adds. Of a
finished study, what it costs to write its report again and to draw a figure of it.
"""

import os
import subprocess
import sys

from benchmarks.given import parser_of

STARTS = {
    "python": ["-c", "pass"],
    "import mnemoscope": ["-c", "import mnemoscope"],
    "mnemoscope --help": ["-m", "mnemoscope", "--help"],
    "mnemoscope run --help": ["-m", "mnemoscope", "run", "--help"],
}
OF_A_STUDY = {
    "mnemoscope report --redo": ["-m", "mnemoscope", "report", "--redo"],
    "ms.benchmark_figure": ["-c", "import mnemoscope as ms, sys; ms.benchmark_figure(sys.argv[1])"],
}


def start(arguments: list[str]) -> tuple[float, float]:
    """CPU seconds and peak resident megabytes of one process."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("repetitions", type=int, nargs="?", default=9)
    parser.add_argument("--study")
    asked = parser.parse_args()
    starts = dict(STARTS)
    if asked.study:
        starts |= {name: [*words, asked.study] for name, words in OF_A_STUDY.items()}
    for name, arguments in starts.items():
        each = [start(arguments) for _ in range(asked.repetitions)]
        seconds, megabytes = map(min, zip(*each, strict=True))
        print(f"{name}: {seconds:.2f} s of CPU, peak {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
