"""How far a long computation is: a bar on a terminal, plain lines elsewhere, silence by default.

The library reports to whatever `show_progress` has installed; importing a room shows nothing.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TextIO

from mnemoscope.errors import printable

_LINE_EVERY_SECONDS = 10.0


class Progress(Protocol):
    """One running computation, as `track` gives it."""

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units are done."""


class _Silent:
    def advance(self, n: int = 1) -> None:
        """Nobody asked to see anything."""


class _Lines:
    """A plain line every ten seconds and one at the end, for logs."""

    def __init__(self, label: str, total: int | None, unit: str, stream: TextIO) -> None:
        self._label, self._total, self._unit, self._stream = label, total, unit, stream
        self._done = 0
        self._started = self._last = time.monotonic()

    def advance(self, n: int = 1) -> None:
        """Count, and print when ten seconds have passed since the last line."""
        self._done += n
        now = time.monotonic()
        if now - self._last >= _LINE_EVERY_SECONDS and self._done != self._total:
            self._last = now
            self.show()

    def show(self) -> None:
        """Print how far it is, and how fast."""
        of_total = f" of {self._total:,}" if self._total is not None else ""
        seconds = time.monotonic() - self._started
        rate = ""
        if seconds >= 1 and self._done:
            speed = self._done / seconds
            rate = f", {speed:,.0f} a second" if speed >= 1 else f", {1 / speed:,.0f} s each"
        left = time_left(self._done, self._total, seconds)
        done = f"{self._label}: {self._done:,}{of_total} {self._unit}"
        print(f"{done} in {seconds:.0f} s{rate}{left}", file=self._stream, flush=True)


def time_left(done: int, total: int | None, seconds: float) -> str:
    """What remains at the pace so far: `, about 2.5 min more`; empty where it cannot be said."""
    if not done or total is None or done >= total or seconds < 1:
        return ""
    from mnemoscope.words import about  # with numpy, which --help does not need

    return f", {about(seconds * (total - done) / done)} more"


SILENT: Progress = _Silent()
Opener = Callable[[str, int | None, str], "tuple[Progress, Callable[[], None]]"]
"""Begins to follow one computation: label, total, unit; gives it and what ends it."""
_openers: list[Opener] = []


@contextmanager
def track(label: str, *, total: int | None = None, unit: str = "sequences") -> Iterator[Progress]:
    """Follow one computation of `total` units; `advance(n)` is called as they are finished.

    A bar in a terminal and a notebook, lines elsewhere, nothing where nobody asked.
    """
    if not _openers:
        yield SILENT
        return
    progress, close = _openers[-1](label, total, unit)
    try:
        yield progress
    finally:
        close()


def is_shown() -> bool:
    """Whether progress is shown."""
    return bool(_openers)


def say(message: str) -> None:
    """Print one line of what happens next to stderr, only where progress is shown."""
    if _openers:
        print(printable(message), file=sys.stderr, flush=True)


@contextmanager
def show_progress(stream: TextIO | None = None) -> Iterator[None]:
    """Show progress inside this block: bars on a terminal (and notebooks), lines elsewhere."""
    stream = stream or sys.stderr
    is_interactive = stream.isatty() or is_notebook()
    with follow_progress(_open_bar if is_interactive else partial(_open_lines, stream)):
        yield


@contextmanager
def follow_progress(opener: Opener) -> Iterator[None]:
    """Hand every computation inside this block to `opener`; what it raises stops the work."""
    _openers.append(opener)
    try:
        yield
    finally:
        _openers.remove(opener)


@contextmanager
def progress_shown(shown: bool | None) -> Iterator[None]:
    """Show progress inside this block: where asked, in a notebook unless refused."""
    if shown is False or is_shown() or not (shown or is_notebook()):
        yield
    else:
        with show_progress():
            yield


def is_notebook() -> bool:
    """Whether this process is a notebook's kernel, not one that has merely loaded its package."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def _open_lines(
    stream: TextIO, label: str, total: int | None, unit: str
) -> tuple[Progress, Callable[[], None]]:
    lines = _Lines(label, total, unit, stream)
    return lines, lines.show


def _open_bar(label: str, total: int | None, unit: str) -> tuple[Progress, Callable[[], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars
    from rich.text import Text

    class _Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            """Units a second, lately."""
            return Text(f"{task.speed:,.0f}/s" if task.speed and task.speed >= 10 else "")

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bars.start()
    task = bars.add_task(label, total=total)

    class _Bar:
        def advance(self, n: int = 1) -> None:
            """Move the bar."""
            bars.advance(task, n)

    return _Bar(), bars.stop
