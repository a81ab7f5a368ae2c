"""Two processes that train one model: one looks and logs, both stop at the same step."""

import runpy
import socket
from pathlib import Path

from mnemoscope.training.history import read_history


def test_main_process_looks_and_both_stop_together(tmp_path, forkserver):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("ddp_run.py")
    given = {"FOLDER": tmp_path, "PORT": port}
    process = forkserver.Process(target=runpy.run_path, args=(str(script), given, "__main__"))
    process.start()
    process.join(180)
    process.kill()
    assert process.exitcode == 0
    main, other = ((tmp_path / f"rank-{rank}.txt").read_text().split() for rank in range(2))
    assert main[0] == "2"  # processes
    assert main[1:3] == other[1:3]  # last step and weights
    assert int(main[1]) < 200
    steps = read_history(tmp_path / "memorization").steps
    assert steps == list(range(0, int(main[1]) + 1, 5))
    assert (int(main[3]), int(other[3])) == (len(steps), 0)
