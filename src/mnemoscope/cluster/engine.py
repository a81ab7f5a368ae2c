"""Run independent tasks in processes of this machine, or on the engine set by `use_engine`."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from mnemoscope.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


class Engine:
    """Where independent tasks run: on this machine, each in a process with one torch thread."""

    is_cluster: bool = False

    def run_tasks(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        *,
        workers: int,
        gpus: float = 0.0,  # noqa: ARG002 - processes of one machine share its accelerator
    ) -> Iterator[Any]:
        """Run a function on each task, see `run_tasks`; one worker runs in this process."""
        workers = min(n_workers(workers), len(tasks))
        if workers <= 1:
            with _one_thread():
                for task in tasks:
                    yield function(task)
            return
        pool = ProcessPoolExecutor(
            workers, mp_context=_context(), initializer=_prepare, initargs=(dict(os.environ),)
        )
        try:
            with _main_hidden():
                futures = [pool.submit(function, task) for task in tasks]
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def n_gpus(self) -> int:
        """GPUs to assign to workers; local processes share the GPU without asking."""
        return 0

    def check_sees(self, path: Path) -> None:
        """Raise UserError if a machine cannot see a file that its tasks read."""


_current: ContextVar[Engine | None] = ContextVar("engine", default=None)


def current_engine() -> Engine:
    """The engine in use."""
    return _current.get() or Engine()


@contextmanager
def use_engine(engine: Engine) -> Iterator[None]:
    """Use an engine for the work inside this block."""
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
    """Run a function on each task on the current engine; yield results as they finish.

    The function is sent to other processes by name, so it must be at module level. At most
    `workers` tasks run at once (0: as many as fit), with one thread each; `gpus` is a cluster
    task's share of a GPU.
    """
    yield from current_engine().run_tasks(function, tasks, workers=workers, gpus=gpus)


def n_workers(asked: int) -> int:
    """Number of processes to use; 0 means one for each core available to this process."""
    if asked:
        return asked
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus_for(device: str, engine: Engine) -> float:
    """GPUs that a worker needs for a device name; UserError for `cuda:N`: each sees its own."""
    if device.startswith("cuda:"):
        raise UserError(
            f"--device {device}: with --engine ray each worker has one GPU of its own. Write "
            "--device cuda."
        )
    return 1.0 if device == "cuda" or (device == "auto" and engine.n_gpus()) else 0.0


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Start workers that do not run the user's script again, which may lack a main guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _context() -> multiprocessing.context.BaseContext:
    """How workers start: where that works, with the heaviest imports done once for all of them.

    Polars is left to each worker: its import starts a thread, which a fork does not copy.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers.modeling_utils", "sklearn.linear_model"])
    return context


def _prepare(environment: dict[str, str]) -> None:
    """Limit a worker to one thread and end it when its parent has been killed.

    Its environment is its parent's of now, not that of the server's start.
    """
    import torch

    os.environ |= environment
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
