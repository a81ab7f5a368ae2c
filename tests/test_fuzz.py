"""Odd input of every kind is read, or refused in one line, soon and in little memory: `fuzz.py`."""

import os
from pathlib import Path

import pytest

from fuzz import TARGETS, TEXT, main


@pytest.fixture(scope="session")
def audit(tiny, made_once) -> Path:
    from mnemoscope.audits.library import audit

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "d.txt").write_text(TEXT)
        audit(str(tiny.model), folder / "d.txt", out=folder, stride=64)

    return made_once("fuzzed-audit", make)


@pytest.mark.parametrize(
    ("n", "names"),
    [(2, ()), *(pytest.param(1250, (one,), marks=pytest.mark.slow) for one in TARGETS)],
)
def test_odd_input_is_read_or_refused_in_one_line(
    n, names, tiny_studies, audit, forkserver, tmp_path
):
    said = tmp_path / "said"
    arguments = (said, str(n), str(tiny_studies["report"]), str(audit), *names)
    process = forkserver.Process(target=try_all, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0, said.read_text()[-8000:]


def try_all(said: Path, *arguments: str) -> None:
    os.environ["POLARS_MAX_THREADS"] = "1"  # each thread reserves memory
    os.dup2(os.open(said, os.O_CREAT | os.O_WRONLY), 1)
    main(*arguments)
