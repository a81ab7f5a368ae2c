"""What a stage may ask of an engine: independent tasks, and workers that keep what they loaded."""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from mnemoscope.cluster.storage import Storage

# What a stage may ask of an engine: independent tasks, and workers that keep what they loaded.


class Workers(Protocol):
    """Workers that were made ready once, for example with a model loaded, and are given blocks."""

    def run(self, blocks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Work on each block once.

        Args:
            blocks: dealt out one at a time, to whichever worker is free.

        Yields:
            Position of a block and what came of it, in the order in which they are finished.
        """


class Engine(Protocol):
    """Where work runs. `is_cluster` says that it may be other machines.

    Attributes:
        is_cluster: workers load their own models and hand results over through shared storage.
        storage: URL of that storage, None for a folder in the study.
    """

    is_cluster: bool
    storage: str | None

    def run_tasks(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        *,
        workers: int,
        gpus: float = 0.0,
    ) -> Iterator[Any]:
        """Run a function on each task, see `mnemoscope.cluster.run_tasks`."""

    def workers(
        self, make: Callable[[], Callable[[Any], Any]], *, gpus: float, at_most: int
    ) -> AbstractContextManager[Workers]:
        """Make workers ready.

        Args:
            make: called once in each worker; gives what works on a block.
            gpus: accelerators that each worker has to itself.
            at_most: workers that there is use for.
        """

    def n_gpus(self) -> int:
        """Accelerators that workers can be given."""

    def check_sees(self, path: Path) -> None:
        """Refuse a machine that does not see a file which its tasks read (UserError)."""

    def check_storage(self, storage: Storage) -> None:
        """Refuse a machine that does not see what is written to the storage (UserError)."""


# Run independent tasks in processes of this machine, one torch thread each.

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Task = TypeVar("Task")
Result = TypeVar("Result")


def n_workers(asked: int) -> int:
    """Processes to use: what was asked for, or one a core that this process may use.

    Args:
        asked: 0 for one a core.
    """
    if asked:
        return asked
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_here(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int
) -> Iterator[Result]:
    """Run a function on each task; results come as they are finished.

    Args:
        function: a module-level function of a package (it is sent to other processes by name).
        tasks: its arguments.
        workers: processes; with 1, or a single task, it runs here.

    Yields:
        Results, in the order in which they are finished.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        with _one_thread():
            for task in tasks:
                yield function(task)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_prepare, initargs=(os.getpid(),)
    )
    try:
        with _main_hidden(), _one_thread_a_worker():
            futures = [pool.submit(function, task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class LocalEngine:
    """The engine of this machine: tasks in processes of their own, blocks in this one."""

    is_cluster: bool = False
    storage: str | None = None

    def run_tasks(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        *,
        workers: int,
        gpus: float = 0.0,  # noqa: ARG002 - processes of one machine share its accelerator
    ) -> Iterator[Any]:
        """Run a function on each task, see `run_tasks`."""
        return run_here(function, tasks, workers=n_workers(workers))

    @contextmanager
    def workers(
        self,
        make: Callable[[], Callable[[Any], Any]],
        *,
        gpus: float,  # noqa: ARG002
        at_most: int,  # noqa: ARG002
    ) -> Iterator["_Here"]:
        """The one worker is this process."""
        yield _Here(make())

    def n_gpus(self) -> int:
        """None that would have to be asked for."""
        return 0

    def check_sees(self, path: Path) -> None:
        """This machine sees what this machine sees."""

    def check_storage(self, storage: Storage) -> None:
        """Of a bucket too: it was opened here."""


class _Here:
    """A worker that is this process."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def run(self, blocks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Work on the blocks in order."""
        for number, block in enumerate(blocks):
            yield number, self._work(block)


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Start workers that do not run the user's script again: they need nothing of it.

    Without this a script must keep its lines behind ``if __name__ == "__main__"``.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _one_thread_a_worker() -> Iterator[None]:
    """Start workers whose linear algebra (scikit-learn's too) uses one thread.

    Two workers with two threads each wait for one another: a regression took 12 s, not 0.3 s.
    """
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _one_thread:  # noqa: N801 - reads as a statement
    """Limit torch to one thread inside the block."""

    def __enter__(self) -> None:
        import torch

        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        import torch

        torch.set_num_threads(self._threads)


def _prepare(parent: int) -> None:
    """Make a worker use one thread and end when its parent has been killed."""
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    """A killed parent cannot say goodbye: leave when it is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


# Which engine runs the work: this machine's processes, unless a block of code says otherwise.

_current: ContextVar[Engine | None] = ContextVar("engine", default=None)


def current_engine() -> Engine:
    """The engine that runs the work now."""
    return _current.get() or LocalEngine()


@contextmanager
def use_engine(engine: Engine) -> Iterator[None]:
    """Let an engine run the work inside this block."""
    token = _current.set(engine)
    try:
        yield
    finally:
        _current.reset(token)


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    workers: int,
    gpus: float = 0.0,
) -> Iterator[Result]:
    """Run a function on each task where the current engine runs work, each with one thread.

    Args:
        function: a module-level function of a package (it is sent to other processes by name).
        tasks: its arguments.
        workers: tasks that run at once, at most; 0 is as many as there is room for.
        gpus: share of an accelerator that a task on a cluster is given.

    Yields:
        Results, in the order in which they are finished.
    """
    yield from current_engine().run_tasks(function, tasks, workers=workers, gpus=gpus)
