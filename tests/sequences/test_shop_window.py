"""The room's shop window: every name is there, and looking at it loads nothing heavy."""

import subprocess
import sys

import pytest

import mnemoscope.sequences as room


def test_every_name_in_the_window_can_be_had():
    assert all(getattr(room, name) is not None for name in room.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = room.no_such_name


def test_looking_loads_neither_polars_nor_torch_nor_transformers():
    script = (
        "import sys, mnemoscope.sequences; "
        "print([m for m in ('polars', 'torch', 'transformers', 'magika') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert printed.stdout.strip() == "[]", printed.stderr


def test_the_whole_room_works_without_torch_and_transformers():
    script = (
        "import sys, mnemoscope.sequences as room; [getattr(room, n) for n in room.__all__]; "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert printed.stdout.strip() == "[]", printed.stderr
