"""Which engine runs the work: this machine's processes, unless a block of code says otherwise."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from mnemoscope.engine.local import LocalEngine
from mnemoscope.engine.protocol import Engine

__all__ = ["current_engine", "run_tasks", "use_engine"]

Task = TypeVar("Task")
Result = TypeVar("Result")

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
