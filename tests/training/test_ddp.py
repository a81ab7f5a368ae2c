"""Two processes that train one model: one looks and logs, both stop at the same step."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from mnemoscope.training.history import read_history


def test_main_process_looks_and_both_stop_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    script = Path(__file__).with_name("ddp_run.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path)],
            env=os.environ
            | shared
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    main, other = ((tmp_path / f"rank-{rank}.txt").read_text().split() for rank in range(2))
    assert main[0] == "2"  # processes
    assert main[1:3] == other[1:3]  # last step and weights
    assert int(main[1]) < 200
    steps = read_history(tmp_path / "memorization").steps
    assert steps == list(range(0, int(main[1]) + 1, 5))
    assert (int(main[3]), int(other[3])) == (len(steps), 0)
