"""How far a long computation is: a bar on a terminal, plain lines elsewhere, silence by default.

The library reports to whatever `show_progress` has installed; importing a room shows nothing.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TextIO

from mnemoscope.errors import printable

_LINE_EVERY_SECONDS, _NOTE_EVERY_SECONDS = 10.0, 2.0
_MOST_SECONDS = 60.0
"""Between two lines, which grow apart: an hour's work fills no log."""
_AT_ONCE_SECONDS = 0.1
"""What is done so soon was found, not made: it says nothing of the pace."""


class Progress(Protocol):
    """One running computation, as `track` gives it."""

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units are done."""


class _Silent:
    def advance(self, n: int = 1) -> None:
        """Nobody asked to see anything."""


class _All:
    def __init__(self, every: list[Progress]) -> None:
        self._every = every

    def advance(self, n: int = 1) -> None:
        """Tell each."""
        for one in self._every:
            one.advance(n)


class _Counted:
    """Counts, and shows how far it is every few seconds."""

    def __init__(self, label: str, total: int | None, unit: str, every_seconds: float) -> None:
        self._label, self._total, self._unit, self._every = label, total, unit, every_seconds
        self._done = self._found = 0
        self._started = self._last = time.monotonic()
        self._first: tuple[float, int] | None = None  # when anything was made, and what was done

    def advance(self, n: int = 1) -> None:
        """Count, and show where it is time to."""
        self._done += n
        now = time.monotonic()
        if now - self._started < _AT_ONCE_SECONDS:
            self._found = self._done
        elif self._first is None:
            self._first = now, self._done
        if now - self._last >= self._every and self._done != self._total:
            self._last = now
            self.show()

    def show(self) -> None:
        """Show how far it is."""

    def words(self) -> str:
        """How far it is."""
        of_total = f" of {self._total:,}" if self._total is not None else ""
        return f"{self._label}: {self._done:,}{of_total} {self._unit}"

    def left(self) -> str:
        """What remains, at the pace of what was made here; loading a model before is no part of it.

        Of a single thing that was made, this pace includes it.
        """
        began, done = self._first or (self._started, self._found)
        if done == self._done:
            began, done = self._started, self._found
        total = None if self._total is None else self._total - done
        return time_left(self._done - done, total, time.monotonic() - began)


class _Lines(_Counted):
    """A plain line after ten seconds, then ever more seldom, and one at the end, for logs.

    What is done before the first needs none, unless details are asked for.
    """

    def __init__(
        self, label: str, total: int | None, unit: str, *, stream: TextIO, verbose: bool
    ) -> None:
        super().__init__(label, total, unit, _LINE_EVERY_SECONDS)
        self._stream, self._is_said = stream, verbose

    def close(self) -> None:
        """Print the last line."""
        if self._is_said:
            self.show()

    def show(self) -> None:
        """Print how far it is, and how fast."""
        seconds, n_made = time.monotonic() - self._started, self._done - self._found
        rate = ""
        if seconds >= 1 and n_made:
            speed = n_made / seconds
            rate = f", {speed:,.0f} a second" if speed >= 1 else f", {1 / speed:,.0f} s each"
        said = f"{self.words()} in {seconds:.0f} s{rate}{self.left()}"
        print(said, file=self._stream, flush=True)
        self._is_said, self._every = True, min(1.5 * self._every, _MOST_SECONDS)


class _Note(_Counted):
    """A file that says how far it is, for another process to read."""

    def __init__(
        self, label: str, total: int | None, unit: str, *, path: Path, facts: dict[str, Any]
    ) -> None:
        super().__init__(label, total, unit, _NOTE_EVERY_SECONDS)
        self._path, self._facts = path, facts

    def show(self) -> None:
        """Write it; where that is impossible, nobody reads it."""
        left = self.left().removeprefix(", ")
        numbers = {"done": self._done, "total": self._total, "unit": self._unit}
        with suppress(OSError):
            said = self._facts | {"words": self.words(), "left": left} | numbers
            self._path.write_text(json.dumps(said), encoding="utf-8")


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
_noters: list[Opener] = []
_is_verbose = False


_unit = "sequences"


@contextmanager
def counted_as(unit: str) -> Iterator[None]:
    """Call what is followed inside this block so, where it has no name of its own."""
    global _unit
    before, _unit = _unit, unit
    try:
        yield
    finally:
        _unit = before


@contextmanager
def track(label: str, *, total: int | None = None, unit: str = "") -> Iterator[Progress]:
    """Follow one computation of `total` units; `advance(n)` is called as they are finished.

    They are sequences unless named here or by `counted_as`.
    A bar in a terminal and a notebook, lines elsewhere, nothing where nobody asked.
    """
    opened = [one(label, total, unit or _unit) for one in (*_openers[-1:], *_noters[-1:])]
    try:
        yield _All([progress for progress, _ in opened])
    finally:
        for _, close in opened:
            close()


@contextmanager
def noted(path: Path, **facts: str) -> Iterator[None]:
    """Keep in a file how far the computation is that runs inside this block, for `read_note`.

    The file stays where the block is stopped, and is removed where it ends well.
    """

    def open_note(label: str, total: int | None, unit: str) -> tuple[Progress, Callable[[], None]]:
        note = _Note(label, total, unit, path=path, facts=facts)
        return note, note.show

    _noters.append(open_note)
    with suppress(OSError):
        os.utime(path)  # what a stopped one wrote is now of this one
    try:
        yield
        with suppress(OSError):
            path.unlink(missing_ok=True)
    finally:
        _noters.remove(open_note)


def read_note(path: Path) -> dict[str, Any] | None:
    """What `noted` wrote last: its facts, `words`, `left` (may be empty), `done`, `total`, `unit`.

    None where there is nothing to read.
    """
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(path.read_text(encoding="utf-8"))
        texts = [found[name] for name in ("stage", "words", "left")]
        if all(isinstance(one, str) for one in texts):
            return dict(found)
    return None


def is_shown() -> bool:
    """Whether progress is shown."""
    return bool(_openers)


def say(message: str, *, is_detail: bool = False) -> None:
    """Print one line of what happens next to stderr, only where progress is shown.

    A detail is left out unless all are asked for.
    """
    if _openers and (_is_verbose or not is_detail):
        print(printable(message), file=sys.stderr, flush=True)


@contextmanager
def show_progress(stream: TextIO | None = None, *, verbose: bool = False) -> Iterator[None]:
    """Show progress inside this block: bars on a terminal (and notebooks), lines elsewhere.

    `verbose` adds details, and how long each short step took; bars stay when they are full.
    """
    stream = stream or sys.stderr
    is_interactive = stream.isatty() or is_notebook()
    shown = _open_bar if is_interactive else partial(_open_lines, stream)
    global _is_verbose
    before, _is_verbose = _is_verbose, verbose
    try:
        with follow_progress(shown):
            yield
    finally:
        _is_verbose = before


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
    lines = _Lines(label, total, unit, stream=stream, verbose=_is_verbose)
    return lines, lines.close


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
        transient=not (_is_verbose or is_notebook()),
    )
    bars.start()
    task = bars.add_task(label, total=total)

    class _Bar:
        def advance(self, n: int = 1) -> None:
            """Move the bar."""
            bars.advance(task, n)

    return _Bar(), bars.stop
