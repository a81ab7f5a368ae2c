"""Ctrl-C is for the process that was started; what it has started says nothing of its own."""

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import multiprocessing, pathlib, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run unheard
from mnemoscope.cluster import local
def start():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["slow"])
    pathlib.Path("starting").touch()
    time.sleep(0.3)
    return context
local._start = start
try:
    local.start_server()
    time.sleep(30)
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.parametrize("moment", ["starting", "began"])
def test_ctrl_c_while_the_server_of_workers_starts_or_imports_is_heard_once(tmp_path, moment):
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
    while not (tmp_path / moment).exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60) == ("stopped\n", "")
