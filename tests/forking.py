"""A server of processes that is forked from this one, where the imports are done."""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import sys
from itertools import pairwise
from pathlib import Path


def start_fork_server() -> None:
    """Start it before this process has threads of its own: a fork does not take them along."""
    threads = {one.read_text().strip() for one in Path("/proc/self/task").glob("*/comm")}
    assert "polars-0" not in threads, "a module lets Polars compute where it is imported"
    multiprocessing.set_forkserver_preload(["mnemoscope.flow.run", "mnemoscope.cli.study"])
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
        for one, following in pairwise([2, *sorted(kept), os.sysconf("SC_OPEN_MAX")]):
            os.closerange(one + 1, following)
        multiprocessing.forkserver._forkserver._lock._at_fork_reinit()  # held by who forks
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        exec(command[-1], {})
    finally:
        os._exit(0)
