"""Studies that many tests look at, made once a session; a test that changes one copies it."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory) -> Path:
    """A finished small demo; read only."""
    from mnemoscope.stages.demo import demo_settings
    from mnemoscope.stages.run import run

    folder = tmp_path_factory.mktemp("study") / "demo"
    run(demo_settings(small=True), folder)
    return folder
