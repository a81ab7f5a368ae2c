"""A run killed anywhere and started again ends byte for byte where an unbroken one ends."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import polars as pl
import pytest

from forking import start_fork_server
from mnemoscope.audits import run as audit_run
from mnemoscope.cli import main
from mnemoscope.embedded import sequences_path
from mnemoscope.study.folder import Study
from mnemoscope.study.stages import STAGES
from study_files import assert_same, content, wait_until

pytestmark = pytest.mark.whole


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


def main_with_forked_workers(arguments: list[str]) -> None:
    """Run the command line; its fork server is forked from here, where the imports are done."""
    start_fork_server()
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


def die_at_write(arguments: list[str], n: int) -> None:
    """Run the command line, and be killed at the n-th file that gets its name."""
    named, left = {one: getattr(os, one) for one in ("replace", "link")}, [n]

    def dying(name: str, *places, **options) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        named[name](*places, **options)

    for name in named:
        setattr(os, name, partial(dying, name))
    main(arguments)


def die_in_audit(arguments: list[str], n: int) -> None:
    """The same of an audit, whose date stands in its pages: here it is always the same day."""
    audit_run._now = lambda: "2026-01-01T00:00:00+00:00"
    die_at_write(arguments, n)


GRAFT = [
    part
    for one in ("parts=[layers.0.qk]", "draws=1", "n_sequences=12", "n_heldout=6")
    for part in ("--set", f"graft.{one}")
]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a thing of POSIX")
def test_killed_at_random_moments_of_every_stage_it_goes_on_to_the_same_bytes(
    tiny_studies, forkserver, tmp_path, succeed
):
    of_others = shutil.ignore_patterns("analysis")  # what other tests have asked of the study
    folder, whole = (
        Path(shutil.copytree(tiny_studies[stage], tmp_path / stage, ignore=of_others))
        for stage in ("sequences", "report")
    )
    succeed("graft", whole, *GRAFT, "-q")
    stages = [one.name for one in STAGES if one.name != "sequences" and not one.is_optional]
    chance, died_in = random.Random(1), []
    for stage in (*stages, "graft"):
        words, n = [stage, str(folder), *(GRAFT if stage == "graft" else ()), "-q"], 3
        while True:  # the first time it dies for sure: settings, a table and a record are written
            process = forkserver.Process(target=die_at_write, args=(words, chance.randint(1, n)))
            process.start()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            assert not Study(folder).is_done(stage)
            died_in.append(stage)
            n += 5  # or the longest stages would be killed dozens of times
    assert set(died_in) == {*stages, "graft"}
    assert len(died_in) >= 30
    found, wanted = content(folder), content(whole)
    for one in (found, wanted):
        del one["report.html"]  # which says how long trainings took; a graft calls for a new one
        assert "manifests/report.json" not in one
    assert found == wanted


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a thing of POSIX")
def test_workers_of_a_killed_training_end_and_one_worker_goes_on_to_the_same_bytes(
    tiny_studies, forkserver, tmp_path, succeed
):
    folder, trained = tmp_path / "study", "cnn/*.outcome.safetensors"
    shutil.copytree(tiny_studies["capture"], folder)
    arguments = ["train", str(folder), "-q", "--set", "train.workers=2"]
    workers = kill_in_the_middle(forkserver, arguments, lambda: any(folder.glob(trained)))
    made = {path: path.read_bytes() for path in folder.glob(trained)}
    assert made
    assert not Study(folder).is_done("train")
    if Path("/proc/self/task").is_dir():
        assert len(workers) >= 2
        wait_until(lambda: not any(map(is_running, workers)), "the workers' end")
    succeed("train", folder, "--set", "train.workers=1")
    assert {path: path.read_bytes() for path in made if path.exists()}.items() <= made.items()
    assert_same(folder, tiny_studies["train"])


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a thing of POSIX")
def test_an_audit_killed_at_thirty_moments_ends_as_one_that_was_not(forkserver, tmp_path):
    rows = pl.read_parquet(sequences_path()).filter(pl.col("duplicates") > 5, form="plain")
    (text := tmp_path / "a.txt").write_text("\n".join(rows["text"].head(2)))
    asked = ["--corpus", str(text), "--ordinary", "shipped", "--answer-tokens", "8", "--profile"]
    asked += ["--read", "--stride", "32", "-q"]

    def audit(out: Path, n: int) -> int | None:
        words = ["audit", "embedded", str(text), "-o", str(out), *asked]
        process = forkserver.Process(target=die_in_audit, args=(words, n))
        process.start()
        process.join()
        return process.exitcode

    assert audit(tmp_path / "whole", -1) == 0
    chance, n = random.Random(2), 1
    for n_died in count():
        if (left := audit(tmp_path / "killed", chance.randint(1, n))) == 0:
            break
        assert left == -signal.SIGKILL
        n += n_died % 4 == 3  # it dies early often, and comes to the end
    assert n_died >= 30
    assert_same(tmp_path / "killed", tmp_path / "whole")
