"""Tasks give their results whatever the number of processes, and a script runs once."""

import subprocess
import sys

from mnemoscope.cluster.engine import run_tasks

SCRIPT = """
import multiprocessing.context, os, sys
from pathlib import Path
import mnemoscope.cli
from mnemoscope.cluster.engine import run_tasks
with open(Path(__file__).with_suffix(".runs"), "a") as runs:
    runs.write("x")
start = multiprocessing.context.ForkServerContext
preload = start.set_forkserver_preload
start.set_forkserver_preload = lambda context, names: preload(context, names[:1])
imports = "__import__('mnemoscope.cluster.ray') and 'ray' in __import__('sys').modules"
print(sorted(run_tasks(eval, ["1 + 1", imports, "1 + 2"], workers=2)), "ray" in sys.modules)
os.environ["LATER"] = "here"
print(*run_tasks(eval, ["__import__('os').environ['LATER']"] * 2, workers=2))
"""


def test_every_task_gives_its_result_and_a_script_without_a_main_guard_runs_once(tmp_path) -> None:
    """In this process, and in a script with two workers, who do not run it again nor load Ray.

    Workers that start later know what the environment is by then.
    """
    assert sorted(run_tasks(abs, [-1, -2, -3], workers=1)) == [1, 2, 3]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[False, 2, 3] False\nhere here\n"
    assert script.with_suffix(".runs").read_text() == "x"
