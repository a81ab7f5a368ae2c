"""Importing the room is light; its names come on first use."""

import subprocess
import sys

import pytest

import mnemoscope.lm as lm


def test_import_loads_neither_torch_nor_transformers():
    code = (
        "import sys, mnemoscope.lm; "
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there():
    for name in lm.__all__:
        assert getattr(lm, name).__name__ == name
    assert set(dir(lm)) == set(lm.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'saliency'"):
        _ = lm.saliency
