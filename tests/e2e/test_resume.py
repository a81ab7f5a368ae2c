"""A stage killed in the middle and started again ends byte for byte where an unbroken one ends."""

import multiprocessing.forkserver
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from mnemoscope.cli import main
from mnemoscope.study.folder import Study
from study_files import assert_same

PATIENCE_SECONDS = 300


def children(pid: int) -> list[int]:
    """Processes that a process has started and that are still running."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(one) for one in listed.read_text().split()] if listed.is_file() else []


def is_running(pid: int) -> bool:
    """True of a process that is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.002)


def main_with_forked_workers(arguments: list[str]) -> None:
    """Run the command line; its fork server is forked from here, where the imports are done."""

    def fork(_, command: list[str], kept: list[int]) -> int:
        if pid := os.fork():
            return pid
        for one, following in pairwise([2, *sorted(kept), os.sysconf("SC_OPEN_MAX")]):
            os.closerange(one + 1, following)
        exec(command[-1], {})
        os._exit(0)

    assert "ray" not in sys.modules  # with all stages imported: nobody asked for a cluster
    multiprocessing.util.spawnv_passfds = fork
    multiprocessing.forkserver.ensure_running()
    main(arguments)


def kill_in_the_middle(forkserver, arguments: list[str], is_begun: Callable[[], bool]) -> list[int]:
    """Start the command line, kill it as soon as something is there; its children's children."""
    process = forkserver.Process(target=main_with_forked_workers, args=(arguments,))
    process.start()
    try:
        wait_until(lambda: is_begun() or not process.is_alive(), "partial output")
        assert process.is_alive(), "it ended before it was killed"
        workers = [each for one in children(process.pid) for each in children(one)]
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    return workers


CASES = {
    # verb: (where the study stands before, what there is of it in the middle)
    "continue": ("sequences", "continuation/*/part-*.parquet"),
    "capture": ("label", "maps/model/shard-*.safetensors"),
    "train": ("capture", "cnn/*.outcome.safetensors"),
}


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a thing of POSIX")
@pytest.mark.parametrize("verb", CASES)
def test_killed_and_started_again_equals_undisturbed(
    verb, tiny_studies, forkserver, tmp_path, call
) -> None:
    before, partial = CASES[verb]
    folder = tmp_path / "study"
    shutil.copytree(tiny_studies[before], folder)
    # Two workers in the run that is killed and one afterwards: the number must not matter.
    several = ["--set", "train.workers=2"] if verb == "train" else []
    arguments = [verb, str(folder), "-q", *several]
    workers = kill_in_the_middle(forkserver, arguments, lambda: any(folder.glob(partial)))
    made = {path: path.read_bytes() for path in folder.glob(partial)}
    assert made
    assert not Study(folder).is_done(verb)
    if verb == "train" and Path("/proc/self/task").is_dir():
        assert len(workers) >= 2
        wait_until(lambda: not any(map(is_running, workers)), "the workers' end")
    one = ["--set", "train.workers=1"] if verb == "train" else []
    assert call(verb, folder, *one).status == 0
    assert {path: path.read_bytes() for path in made if path.exists()}.items() <= made.items()
    assert_same(folder, tiny_studies[verb])
