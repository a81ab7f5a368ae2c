"""A server of processes that is forked from this one, where the imports are done."""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path


def start_fork_server() -> None:
    """Start it before this process has threads of its own: a fork does not take them along.

    Elsewhere than on Linux it is started by its first user, as ever.
    """
    multiprocessing.set_forkserver_preload(["mnemoscope.flow.run", "mnemoscope.cli.study"])
    if sys.platform != "linux":
        return
    threads = {one.read_text().strip() for one in Path("/proc/self/task").glob("*/comm")}
    assert "polars-0" not in threads, "a module lets Polars compute where it is imported"
    multiprocessing.resource_tracker.ensure_running()
    plain, multiprocessing.util.spawnv_passfds = multiprocessing.util.spawnv_passfds, _fork
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        multiprocessing.util.spawnv_passfds = plain


def _fork(_, command: list[str], kept: list[int]) -> int:
    if pid := os.fork():
        return pid
    try:
        for one in {int(path.name) for path in Path("/proc/self/fd").iterdir()} - {0, 1, 2, *kept}:
            with suppress(OSError):  # that of the list itself
                if not stat.S_ISREG(os.fstat(one).st_mode):  # what is captured goes into a file
                    os.close(one)
        multiprocessing.forkserver._forkserver._lock._at_fork_reinit()  # held by who forks
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        exec(command[-1], {})
    finally:
        os._exit(0)
