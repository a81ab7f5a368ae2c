"""How far a long computation is: a bar on a terminal, plain lines elsewhere, silence by default.

The library reports to whatever `show_progress` has installed; importing a room shows nothing.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

_LINE_EVERY_SECONDS = 10.0


class Progress(Protocol):
    """One running computation."""

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units are done."""


class _Silent:
    """Nobody asked to see anything."""

    def advance(self, n: int = 1) -> None:
        """Do nothing."""


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
            self._print()

    def close(self) -> None:
        """Print the last line."""
        self._print()

    def _print(self) -> None:
        of_total = f" of {self._total:,}" if self._total is not None else ""
        seconds = time.monotonic() - self._started
        rate = f", {_rate(self._done / seconds)}" if seconds >= 1 and self._done else ""
        print(
            f"{self._label}: {self._done:,}{of_total} {self._unit} in {seconds:.0f} s{rate}",
            file=self._stream,
            flush=True,
        )


def _rate(a_second: float) -> str:
    """Units a second, or seconds a unit where that is the larger number."""
    if a_second >= 1:
        return f"{a_second:,.0f} a second"
    return f"{1 / a_second:,.0f} s each"


SILENT: Progress = _Silent()
Opener = Callable[[str, int | None, str], "tuple[Progress, Callable[[], None]]"]
"""Begins to follow one computation: label, total, unit; gives it and what ends it."""
_openers: list[Opener] = []


@contextmanager
def track(label: str, *, total: int | None = None, unit: str = "sequences") -> Iterator[Progress]:
    """Follow one computation.

    Args:
        label: what runs, in a word or two.
        total: how many units there are, when known.
        unit: what is counted.

    Yields:
        An object whose `advance(n)` is to be called as units are finished.
    """
    if not _openers:
        yield SILENT
        return
    progress, close = _openers[-1](label, total, unit)
    try:
        yield progress
    finally:
        close()


def say(message: str) -> None:
    """Print one line of what happens next to stderr, only where progress is shown."""
    if _openers:
        print(message, file=sys.stderr, flush=True)


@contextmanager
def show_progress(stream: TextIO | None = None) -> Iterator[None]:
    """Show progress inside this block: bars on a terminal (and notebooks), lines elsewhere."""
    stream = stream or sys.stderr
    with follow_progress(_rich_opener() if _is_interactive(stream) else _line_opener(stream)):
        yield


@contextmanager
def follow_progress(opener: Opener) -> Iterator[None]:
    """Hand every computation inside this block to `opener`; what it raises stops the work."""
    _openers.append(opener)
    try:
        yield
    finally:
        _openers.remove(opener)


def _is_interactive(stream: TextIO) -> bool:
    """True on a terminal and in a notebook kernel."""
    return stream.isatty() or "ipykernel" in sys.modules


def _line_opener(stream: TextIO) -> Opener:
    def open_(label: str, total: int | None, unit: str) -> tuple[Progress, Callable[[], None]]:
        lines = _Lines(label, total, unit, stream)
        return lines, lines.close

    return open_


def _rich_opener() -> Opener:
    def open_(label: str, total: int | None, unit: str) -> tuple[Progress, Callable[[], None]]:
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

    return open_
