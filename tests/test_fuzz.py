"""Odd input of every kind is read, or refused in one line, soon and in little memory: `fuzz.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import TARGETS, TEXT

_ENVIRONMENT = {
    **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")},
    **{"POLARS_MAX_THREADS": "1", "MALLOC_ARENA_MAX": "1", "HF_HUB_OFFLINE": "1"},
}
"""A fork takes no threads along, and each thread reserves memory."""


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
def test_odd_input_is_read_or_refused_in_one_line(n, names, tiny_studies, audit):
    script = Path(__file__).with_name("fuzz.py")
    done = subprocess.run(
        [sys.executable, script, str(n), tiny_studies["report"], audit, *names],
        env=os.environ | _ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
