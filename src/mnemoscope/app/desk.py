"""One computation at a time, in the order of coming: progress to be seen, cancelled when wanted."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mnemoscope.errors import UserError
from mnemoscope.progress import Progress, follow_progress

__all__ = ["Cancelled", "Desk", "Job", "Standing"]

_POLL_SECONDS = 0.2
MOST_WAITING = 8


class Cancelled(Exception):  # noqa: N818 - no error: the visitor wanted it
    """The visitor has cancelled, or gone."""


@dataclass(frozen=True)
class Standing:
    """How a job stands.

    Attributes:
        n_before: jobs that come before it; 0 once it runs.
        label: what it does, in a word or two.
        done: units that are done of that.
        total: units in all, None where nobody knows.
        unit: what is counted.
    """

    n_before: int = 0
    label: str = ""
    done: int = 0
    total: int | None = None
    unit: str = ""


class Job:
    """Work that waits for its turn and then runs in a thread of its own.

    Args:
        work: the work; it reports through `mnemoscope.progress`.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._cancelled = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None
        self.standing = Standing()

    def cancel(self) -> None:
        """Stop it at the next step, or where it waits."""
        self._cancelled.set()

    def check(self) -> None:
        """Go on only where nobody has cancelled."""
        if self._cancelled.is_set():
            raise Cancelled

    def result(self) -> Any:
        """What came of it; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def run(self) -> None:
        """Do the work here and keep what comes of it."""
        try:
            with follow_progress(self._open):
                self.check()
                self._result = self._work()
                self.check()
        except BaseException as error:  # it is raised again where the result is asked for
            self._error = error

    def _open(
        self, label: str, total: int | None, unit: str
    ) -> tuple[Progress, Callable[[], None]]:
        self.check()
        self.standing = Standing(0, label, 0, total, unit)
        return _Follower(self), lambda: None


class _Follower:
    """Counts for one job and stops it."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def advance(self, n: int = 1) -> None:
        """Count, or stop."""
        self._job.check()
        old = self._job.standing
        self._job.standing = Standing(0, old.label, old.done + n, old.total, old.unit)


class Desk:
    """Lets one job run at a time; the others wait in the order of coming."""

    def __init__(self) -> None:
        self._waiting: deque[object] = deque()
        self._change = threading.Condition()

    def follow(self, job: Job) -> Iterator[Standing]:
        """Wait, run the job, and say every moment how it stands.

        The desk is free again once the job's thread has ended, whatever became of its reader.

        Raises:
            UserError: too many wait already.
            Cancelled: it was cancelled while it waited.
        """
        ticket = self._take_ticket()
        thread: threading.Thread | None = None
        try:
            while n_before := self._before(ticket):
                job.check()
                yield Standing(n_before=n_before)
                self._pause()
            thread = threading.Thread(target=job.run, daemon=True)
            thread.start()
            while thread.is_alive():
                yield job.standing
                thread.join(_POLL_SECONDS)
        finally:
            if thread is not None and thread.is_alive():
                job.cancel()
                thread.join()
            self._leave(ticket)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the desk and hold it: for work of a moment."""
        ticket = self._take_ticket()
        try:
            while self._before(ticket):
                self._pause()
            yield
        finally:
            self._leave(ticket)

    @property
    def is_free(self) -> bool:
        """True while nothing runs and nobody waits."""
        return not self._waiting

    def _take_ticket(self) -> object:
        ticket = object()
        with self._change:
            if len(self._waiting) > MOST_WAITING:
                raise UserError("too many audits wait already. Try again in a minute.")
            self._waiting.append(ticket)
        return ticket

    def _before(self, ticket: object) -> int:
        with self._change:
            return self._waiting.index(ticket)

    def _pause(self) -> None:
        with self._change:
            self._change.wait(_POLL_SECONDS)

    def _leave(self, ticket: object) -> None:
        with self._change:
            self._waiting.remove(ticket)
            self._change.notify_all()
