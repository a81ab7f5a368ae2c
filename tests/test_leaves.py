"""Errors and progress: what every room builds on."""

import io
import sys
from types import SimpleNamespace

import pytest

from mnemoscope import progress
from mnemoscope.errors import nearest


def test_nearest_names_the_likely_word_and_nothing_else() -> None:
    assert nearest("batchsize", ["batch_size", "device"]) == " Did you mean 'batch_size'?"
    assert nearest("RECAL", ["Recall", "Guess"]) == " Did you mean 'Recall'?"
    assert nearest("zzz", ["batch_size"]) == ""


def test_progress_is_silent_unless_asked_and_plain_off_a_terminal(capsys) -> None:
    with progress.track("Working", total=2) as bar:
        bar.advance(2)
    assert capsys.readouterr() == ("", "")
    stream = io.StringIO()
    with progress.show_progress(stream), progress.track("Working", total=2) as bar:
        bar.advance(2)
    assert stream.getvalue().startswith("Working: 2 of 2 sequences in 0 s")
    with progress.track("Working", total=2) as bar:
        bar.advance(2)
    assert stream.getvalue().count("\n") == 1


def test_what_remains_is_said_at_the_pace_so_far() -> None:
    assert progress.time_left(50, 200, 60.0) == ", about 3.0 min more"
    assert progress.time_left(199, 200, 20.0) == ", about 0 s more"
    for done, total, seconds in ((0, 200, 60.0), (200, 200, 60.0), (5, None, 60.0), (5, 9, 0.1)):
        assert progress.time_left(done, total, seconds) == ""


@pytest.mark.parametrize(
    ("shell", "is_one"),
    [(None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=1), True)],
)
def test_only_a_running_kernel_is_a_notebook(monkeypatch, shell, is_one) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert progress.is_notebook() == is_one
    monkeypatch.delitem(sys.modules, "IPython")
    assert not progress.is_notebook()
