"""Where work runs: in processes of this machine, unless a block of code gives another engine."""

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
from mnemoscope.errors import UserError

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers(Protocol):
    """Workers that have loaded something, a model for example, and work on blocks with it."""

    def run(self, blocks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Have each block done by whichever worker is free.

        Yields:
            Position of a block and what came of it, in the order in which they are finished.
        """


class Engine(Protocol):
    """Where independent tasks run."""

    is_cluster: bool

    def run_tasks(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        *,
        workers: int,
        gpus: float = 0.0,
    ) -> Iterator[Any]:
        """Run a function on each task, see `mnemoscope.cluster.engine.run_tasks`."""

    def n_gpus(self) -> int:
        """Accelerators that workers can be given."""

    def check_sees(self, path: Path) -> None:
        """Refuse a machine that does not see a file which its tasks read (UserError)."""


class ClusterEngine(Engine, Protocol):
    """Also has workers on other machines, which hand results over through shared storage.

    Attributes:
        storage: URL of that storage, None for a folder in the study.
    """

    storage: str | None

    def workers(
        self, make: Callable[[], Callable[[Any], Any]], *, gpus: float, at_most: int
    ) -> AbstractContextManager[Workers]:
        """Make workers ready.

        Args:
            make: called once in each worker; gives what works on a block.
            gpus: accelerators that each worker has to itself.
            at_most: workers that there is use for.
        """

    def check_storage(self, storage: Storage) -> None:
        """Refuse a machine that does not see what is written to the storage (UserError)."""


class LocalEngine:
    """The engine of this machine: tasks in processes of their own, one torch thread each."""

    is_cluster: bool = False

    def run_tasks(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        *,
        workers: int,
        gpus: float = 0.0,  # noqa: ARG002 - processes of one machine share its accelerator
    ) -> Iterator[Any]:
        """Run a function on each task, see `run_tasks`; with one worker it runs here."""
        workers = min(n_workers(workers), len(tasks))
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

    def n_gpus(self) -> int:
        """None that would have to be asked for."""
        return 0

    def check_sees(self, path: Path) -> None:
        """This machine sees what this machine sees."""


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


def n_workers(asked: int) -> int:
    """Processes to use: what was asked for, or with 0 one a core that this process may use."""
    if asked:
        return asked
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus_for(device: str, engine: Engine) -> float:
    """Accelerators that a worker needs for a device of the settings.

    Raises:
        UserError: one of several is named, but a worker sees its own alone.
    """
    if device.startswith("cuda:"):
        raise UserError(
            f"--device {device}: with --engine ray each worker has one GPU of its own. Write "
            "--device cuda."
        )
    return 1.0 if device == "cuda" or (device == "auto" and engine.n_gpus()) else 0.0


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


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread inside the block."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


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
