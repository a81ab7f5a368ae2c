"""Ctrl-C is for the process that was started; what it has started says nothing of its own."""

import os
import signal
import subprocess
import sys
import time

SCRIPT = """
import multiprocessing, time
from mnemoscope.cluster import local
def start():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["slow"])
    return context
local._start = start
try:
    local.start_server()
    time.sleep(30)
except KeyboardInterrupt:
    print("stopped")
"""


def test_ctrl_c_while_the_server_of_workers_imports_prints_no_traceback(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\npathlib.Path('began').touch()\ntime.sleep(0.5)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "began").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60) == ("stopped\n", "")
