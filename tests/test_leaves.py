"""Errors, progress and printed figures: what every room builds on."""

import doctest
import io
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope import progress, words
from mnemoscope.errors import UserError, flags_as_typed, nearest
from mnemoscope.stats import Estimate


def test_nearest_names_the_likely_word_and_nothing_else():
    assert nearest("batchsize", ["batch_size", "device"]) == " Did you mean 'batch_size'?"
    assert nearest("RECAL", ["Recall", "Guess"]) == " Did you mean 'Recall'?"
    assert nearest("zzz", ["batch_size"]) == ""
    assert nearest("embedded", ["embedded", "embedding"]) == ""  # what was given is no hint


def test_a_message_names_flags_on_the_command_line_and_arguments_elsewhere():
    fetch = "'hf download x --include 'data/a-*' --include 'b' --local-dir FOLDER', then"
    command = "run 'mnemoscope label STUDY --redo' first"
    typed = f"--set label.minimum=9 or --batch-size 8; {command}; {fetch} --source; a--b with -o."
    error = UserError(typed)
    spoken = f"label.minimum=9 or batch_size 8; {command}; {fetch} source; a--b."
    assert str(error) == spoken
    with flags_as_typed():
        assert str(error) == typed
    assert str(error) == spoken


def test_progress_is_silent_unless_asked_and_plain_off_a_terminal(capsys):
    with progress.track("Working", total=2) as bar:
        bar.advance(2)
    assert capsys.readouterr() == ("", "")
    stream = io.StringIO()
    for verbose in (True, False):  # what is done at once is a detail
        with progress.show_progress(stream, verbose=verbose):
            progress.say("a detail", is_detail=True)
            with progress.track("Working", total=2) as bar:
                bar.advance(2)
    assert capsys.readouterr() == ("", "a detail\n")
    assert stream.getvalue().startswith("Working: 2 of 2 sequences in 0 s")
    with progress.track("Working", total=2) as bar:
        bar.advance(2)
    assert stream.getvalue().count("\n") == 1


def test_lines_of_long_work_grow_apart_and_end_with_one(monkeypatch):
    clock, stream = iter(range(0, 2000, 5)), io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress.show_progress(stream), progress.track("Working", total=99) as bar:
        for _ in range(99):
            bar.advance()
    first, *_, last = lines = stream.getvalue().splitlines()
    assert first.startswith("Working: 2 of 99")
    assert last.startswith("Working: 99 of 99")
    assert len(lines) < 20


def test_what_remains_is_said_at_the_pace_so_far():
    assert progress.time_left(50, 200, 60.0) == ", about 3.0 min more"
    assert progress.time_left(199, 200, 20.0) == ", about 0 s more"
    for done, total, seconds in ((0, 200, 60.0), (200, 200, 60.0), (5, None, 60.0), (5, 9, 0.1)):
        assert progress.time_left(done, total, seconds) == ""


def test_loading_before_and_what_was_there_say_nothing_of_the_pace(monkeypatch):
    """A resumed work of 100: 40 were there, a model loads for 30 s, then one is made a second."""
    now, stream = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.show_progress(stream), progress.track("Working", total=100) as bar:
        bar.advance(40)
        for second in range(30, 90):
            now[0] = second
            bar.advance()
    left = [line for line in stream.getvalue().splitlines() if "more" in line]
    for line in left[1:]:
        n_left = 100 - int(line.split()[1])
        assert line.endswith((f"about {n_left} s more", f"about {n_left / 60:.1f} min more"))


@pytest.mark.parametrize(
    ("shell", "is_one"),
    [(None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=1), True)],
)
def test_only_a_running_kernel_is_a_notebook(monkeypatch, shell, is_one):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert progress.is_notebook() == is_one
    monkeypatch.delitem(sys.modules, "IPython")
    assert not progress.is_notebook()


FRACTION = st.floats(-1, 1)


def read(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-").replace("\N{NARROW NO-BREAK SPACE}%", ""))


def test_examples_of_the_docstrings():
    assert doctest.testmod(words, optionflags=doctest.ELLIPSIS).failed == 0


@given(FRACTION)
def test_per_cent_and_points_read_back_to_a_twentieth(value: float):
    shown, signed = words.percent(value), words.points(value)
    # one decimal: at most half a tenth away, and 1e-9 for the decimal text itself
    assert read(shown) == pytest.approx(100 * value, abs=0.05 + 1e-9)
    assert read(signed) == pytest.approx(100 * value, abs=0.05 + 1e-9)
    assert "-" not in shown + signed
    assert signed[0] in "+\N{MINUS SIGN}" or signed == "0.0"


def test_what_is_unknown_is_a_dash_and_not_a_zero():
    shown = [words.percent(None), words.points(None), words.count(None), words.duration(None)]
    assert [*shown, words.share(0, 0), words.figure(Estimate(None))] == ["–"] * 6
    assert words.interval(Estimate(0.5)) == ""
    assert words.interval(Estimate(0.0, -0.01, 0.2)) == "[−1.0,\xa020.0]"
