"""One computation at a time, in the order of coming: progress to be seen, cancelled when wanted."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
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
    """Work that waits for its turn.

    Args:
        work: the work; it reports through `mnemoscope.progress`.

    Attributes:
        standing: how it stands.
        ended: set once it has ended, whatever came of it.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._cancelled = threading.Event()
        self.ended = threading.Event()
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
    """Runs one job at a time in a thread of its own; the others wait in the order of coming.

    A job needs no reader: it ends, and the next begins, whatever became of who asked for it.
    """

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()  # the first one runs
        self._lock = threading.Lock()

    def follow(self, job: Job) -> Iterator[Standing]:
        """Wait, have the job run, and say every moment how it stands.

        Raises:
            UserError: too many wait already.
            Cancelled: it was cancelled while it waited.
        """
        self._submit(job)
        try:
            while not job.ended.is_set():
                n_before = self._before(job)
                if n_before:
                    job.check()
                yield Standing(n_before=n_before) if n_before else job.standing
                job.ended.wait(_POLL_SECONDS)
        finally:
            job.cancel()  # of no account once it has ended

    def ask(self, work: Callable[[], Any]) -> Any:
        """Wait for the desk, do work of a moment, and give what comes of it."""
        job = Job(work)
        self._submit(job)
        job.ended.wait()
        return job.result()

    @property
    def is_free(self) -> bool:
        """True while nothing runs and nobody waits."""
        return not self._jobs

    def _submit(self, job: Job) -> None:
        with self._lock:
            if len(self._jobs) > MOST_WAITING:
                raise UserError("too many audits wait already. Try again in a minute.")
            self._jobs.append(job)
            if len(self._jobs) == 1:
                threading.Thread(target=self._work_off, daemon=True).start()

    def _work_off(self) -> None:
        """Run jobs until none is left."""
        while True:
            self._jobs[0].run()
            with self._lock:
                self._jobs.popleft().ended.set()
                if not self._jobs:
                    return

    def _before(self, job: Job) -> int:
        """How many come before it; 0 also once it has ended."""
        with self._lock:
            return self._jobs.index(job) if job in self._jobs else 0
