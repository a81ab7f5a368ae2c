"""Tasks give their results whatever the number of processes, and a script runs once."""

import subprocess
import sys

import pytest

from mnemoscope.cluster.engine import run_tasks

SCRIPT = """
from pathlib import Path
from mnemoscope.cluster.engine import run_tasks
with open(Path(__file__).with_suffix(".runs"), "a") as runs:
    runs.write("x")
print(sorted(run_tasks(abs, [-1, -2, -3], workers=2)))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_gives_its_result(workers) -> None:
    assert sorted(run_tasks(abs, [-1, -2, -3], workers=workers)) == [1, 2, 3]


def test_a_script_without_a_main_guard_is_not_run_again_by_its_workers(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[1, 2, 3]\n"
    assert script.with_suffix(".runs").read_text() == "x"
