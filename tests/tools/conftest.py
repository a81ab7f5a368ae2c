"""One tiny corpus and tokenizer for the tests of the embedded model, made once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnemoscope.embedded.texts import Segment, read_segments
from tools.embedded.corpus import cut_segments
from tools.embedded.recipe import Build, prepare
from tools.embedded.settings import TINY

RECIPE = "tools.embedded.recipe"


@pytest.fixture(scope="session")
def tiny_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the recipe in which the corpus is ready and nothing is trained."""
    out = tmp_path_factory.mktemp("embedded")
    prepare(out / "build", TINY)
    return out


@pytest.fixture(scope="session")
def tiny_build(tiny_out: Path) -> Build:
    """What stands in that folder."""
    return prepare(tiny_out / "build", TINY)


@pytest.fixture(scope="session")
def tiny_segments() -> list[Segment]:
    """The text that the tiny setting reads."""
    return read_segments(limit=TINY.max_segments)


@pytest.fixture(scope="session")
def tiny_windows(tiny_build: Build, tiny_segments: list[Segment]) -> dict[str, np.ndarray]:
    """That text, cut."""
    return cut_segments(tiny_segments, tiny_build.tokenizer)


@pytest.fixture
def run_recipe_command():
    """Start the recipe's command on a folder, in a process of its own."""

    def start(out: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", RECIPE, "--out", str(out), "--setting", "tiny"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
