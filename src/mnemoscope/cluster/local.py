"""Run units in this process, or in processes of this machine."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import resource_tracker
from types import ModuleType
from typing import Any, Generic, Self, TypeVar

from mnemoscope.cluster.units import (
    Needs,
    Opened,
    Result,
    Unit,
    UnitStore,
    do_unit,
    keep_unit,
    run_unit,
)
from mnemoscope.progress import Progress, say

_Made = TypeVar("_Made")
_LOOK_SECONDS = 2.0
"""How often the count of what the workers did is looked at."""
_LARGE = 1 << 20
"""Bytes of a result from which on it is kept while the next unit runs: a shard of maps."""


class LocalExecutor:
    """This machine: one process, or several that share its accelerator.

    Inside a `with` block processes stay for the next units, unless they may hold memory of an
    accelerator: each takes about a second of work to start.
    """

    storage: str | None = None

    def __init__(self) -> None:
        self._is_kept = False
        self._pool: tuple[ProcessPoolExecutor, Any] | None = None
        self._kind: tuple[int, int | None] | None = None

    def __enter__(self) -> Self:
        self._is_kept = True
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(
        self,
        units: Sequence[Unit],
        store: UnitStore | None,
        context: Opened,
        needs: Needs,
        progress: Progress,
    ) -> Iterator[tuple[int, Result | None]]:
        """Run units, see `Executor`; one process is this one.

        It keeps a large result in a thread, so that the next unit does not wait while a file is
        summed and written. At most one waits; where keeping it fails, that is raised when the next
        unit is done.
        """
        n = min(n_processes(needs.processes), len(units))
        if n <= 1:
            with _threads(needs.threads), Behind[tuple[int, Result]]() as behind:
                for place, unit in enumerate(units):
                    made = run_unit(unit, context, progress)
                    yield from behind.add(partial(_kept, place, unit, store, made))
                    sizes = [len(one) for one in made.values() if isinstance(one, bytes)]
                    if sum(sizes) < _LARGE:
                        yield from behind.rest()  # a kill costs one unit
                yield from behind.rest()
            return
        (pool, counter), places = self._workers(needs), dict[Future[Result | None], int]()
        try:
            with _starting():
                for place, unit in enumerate(units):
                    places[pool.submit(_do, unit, store, context)] = place
            n_known = counter.get_obj().value
            while places:
                done, _ = wait(places, _LOOK_SECONDS, return_when=FIRST_COMPLETED)
                n_now = counter.get_obj().value  # without its lock, which a killed worker may hold
                progress.advance(n_now - n_known)
                n_known = n_now
                for future in sorted(done, key=places.__getitem__):
                    yield places.pop(future), future.result()
        except KeyboardInterrupt:
            say("Stopping when what is running now is done; what is finished is kept.")
            raise
        finally:
            if places or not self._is_kept or _holds_accelerator():
                self._end()

    def _workers(self, needs: Needs) -> tuple[ProcessPoolExecutor, Any]:
        """Processes of this kind, those that are there or new ones, and the count they keep."""
        kind = n_processes(needs.processes), needs.threads
        if self._pool is None or self._kind != kind:
            self._end()
            start = _start()
            counter = start.Value("q", 0)
            pool = ProcessPoolExecutor(
                kind[0],
                mp_context=start,
                initializer=_prepare,
                initargs=(dict(os.environ), needs.threads, counter),
            )
            self._pool, self._kind = (pool, counter), kind
        return self._pool

    def _end(self) -> None:
        """Let processes finish what they are at."""
        if self._pool is not None:
            self._pool[0].shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def gpus(self, device: str, device_map: Any = None) -> float:  # noqa: ARG002
        """None is handed out: processes of one machine share its accelerator."""
        return 0.0

    def check_sees(self, store: UnitStore) -> None:
        """This machine sees its own folders."""


class Behind(Generic[_Made]):
    """Work done in a thread, one after the other, while this one goes on; a block waits for all.

    One piece of work may wait: `add` returns when those before it are done, with what they gave,
    and raises what they raised. So does `rest`, of all.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[_Made]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)  # also after an error: what was done is kept

    def add(self, work: Callable[[], _Made]) -> list[_Made]:
        """Do this behind; gives results of earlier work, in order."""
        done = self.rest()
        self._waiting.append(self._thread.submit(work))
        return done

    def rest(self) -> list[_Made]:
        """Wait for what was added; gives its results."""
        done = []
        while self._waiting:
            done.append(self._waiting.popleft().result())
        return done


def _kept(
    place: int, unit: Unit, store: UnitStore | None, made: Mapping[str, Any]
) -> tuple[int, Result]:
    return place, keep_unit(unit, store, made)


def n_processes(asked: int) -> int:
    """Number of processes to use; 0 means one for each core available to this process."""
    if asked:
        return asked
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_server() -> None:
    """Begin the imports that all workers share, in a process of their own; returns at once."""
    if sys.platform == "linux":
        from multiprocessing.forkserver import ensure_running

        with _starting():
            _start()
            ensure_running()


@contextmanager
def _starting() -> Iterator[None]:
    """Start processes that neither run the user's script again nor hear Ctrl-C.

    The script may lack a main guard. Ctrl-C goes to every process of the terminal; this one hears
    it when they have started, and lets the others finish what they are at, the server its imports.
    """
    main, came = sys.modules["__main__"], []
    is_main_thread = threading.current_thread() is threading.main_thread()
    with ExitStack() as stack:
        sys.modules["__main__"] = ModuleType("__main__")
        stack.callback(sys.modules.__setitem__, "__main__", main)
        if is_main_thread:
            heard = signal.signal(signal.SIGINT, lambda *_: came.append(True))
            stack.callback(signal.signal, signal.SIGINT, heard or signal.SIG_DFL)
            if sys.platform != "win32":  # what starts now inherits that it is held back
                resource_tracker.ensure_running()  # its own start would end the hold
                before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        yield
    if came:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(wanted or n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _start() -> multiprocessing.context.BaseContext:
    """How workers start: where that works, with the heaviest imports done once for all of them.

    Polars is left to each worker: its import starts a thread, which a fork does not copy.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers.modeling_utils", "sklearn.linear_model"])
    return context


class _Reported:
    """Adds what a worker's units report to the count that its parent looks at."""

    def __init__(self, counter: Any) -> None:
        self._counter = counter

    def advance(self, n: int = 1) -> None:
        with self._counter.get_lock():
            self._counter.value += n


def _holds_accelerator() -> bool:
    """Whether a process may hold an accelerator's memory, which others need."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


_opened: Opened | None = None
"""The context of a worker's latest unit, which the next one may share."""
_progress: Progress
"""Where a worker's units report to."""


def _prepare(environment: dict[str, str], threads: int | None, counter: Any) -> None:
    """Prepare a worker, and end it when its parent has been killed.

    Its environment is its parent's of now, not that of the server's start.
    """
    import torch

    global _progress
    _progress = _Reported(counter)
    os.environ |= environment
    torch.set_num_threads(threads or torch.get_num_threads())
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _do(unit: Unit, store: UnitStore | None, context: Opened) -> Result | None:
    global _opened
    if _opened is None or _opened.name != context.name:
        _opened = context  # what the units before have loaded is let go
    result = do_unit(unit, store, _opened, _progress)
    return result if store is None else None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
