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
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ | shared | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    main, other = ((tmp_path / f"rank-{rank}.txt").read_text().split() for rank in range(2))
    assert main[0] == "2"  # processes
    assert main[1:3] == other[1:3]  # last step and weights
    assert int(main[1]) < 200
    steps = read_history(tmp_path / "memorization").steps
    assert steps == list(range(0, int(main[1]) + 1, 5))
    assert (int(main[3]), int(other[3])) == (len(steps), 0)
