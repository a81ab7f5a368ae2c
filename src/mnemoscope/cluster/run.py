"""Run units of work where the executor in use runs them: on this machine, or on a cluster."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Protocol

from mnemoscope.cluster.local import LocalExecutor
from mnemoscope.cluster.units import Needs, Opened, Result, Unit, UnitStore, get_unit, has_unit
from mnemoscope.errors import UserError
from mnemoscope.progress import SILENT, Progress, track


class Executor(Protocol):
    """Where units run.

    Attributes:
        storage: URL of a store that all its machines see; None for the study's folder.
    """

    @property
    def storage(self) -> str | None:
        """Where results go."""

    def run(
        self,
        units: Sequence[Unit],
        store: UnitStore | None,
        context: Opened,
        needs: Needs,
        progress: Progress,
    ) -> Iterator[tuple[int, Result | None]]:
        """Run units; give the position of each as it is finished, and its result.

        None in place of a result: another process has put it into the store.
        """

    def gpus(self, device: str, device_map: Any = None) -> float:
        """GPUs that a worker needs for a device, as the settings name it; UserError if none can."""

    def check_sees(self, store: UnitStore) -> None:
        """Raise UserError if a machine does not see what is kept in a store."""


_current: ContextVar[Executor | None] = ContextVar("executor", default=None)


def current_executor() -> Executor:
    """The executor in use: that of `use_executor`, else the processes of this machine."""
    return _current.get() or LocalExecutor()


@contextmanager
def use_executor(executor: Executor) -> Iterator[None]:
    """Run the units of this block by an executor."""
    token = _current.set(executor)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def keeping_workers() -> Iterator[None]:
    """Keep the processes of this machine from one stage of this block to the next."""
    if _current.get() is not None:
        yield
        return
    with LocalExecutor() as local, use_executor(local):
        yield


def run_units(
    units: Sequence[Unit],
    store: UnitStore | None,
    context: Opened,
    *,
    label: str = "",
    noun: str = "sequences",
    needs: Needs = Needs(),  # noqa: B008 - frozen
    executor: Executor | None = None,
) -> Iterator[Result]:
    """Run the units that a store lacks; give the results of all in the order of the units.

    Each result comes as soon as it and those before it are there. What is damaged in the store is
    made again. Without a store nothing is kept, and results are plain values. Raises
    MnemoscopeError: raised by a unit. UserError: a process wrote a result, but it is not there.
    """
    if not units:
        return
    executor = executor or current_executor()
    first = {unit.key: place for place, unit in reversed(list(enumerate(units)))}
    # Not run here: what the store has, and units that repeat the key of an earlier one.
    is_kept = [
        store is not None and (first[unit.key] != place or has_unit(unit, store))
        for place, unit in enumerate(units)
    ]
    todo = [place for place in range(len(units)) if not is_kept[place]]
    total = sum(one.size for one in units)
    shown: AbstractContextManager[Progress] = nullcontext(SILENT)
    if total:
        shown = track(label, total=total, unit=noun)
    with shown as progress:
        progress.advance(
            sum(unit.size for unit, is_there in zip(units, is_kept, strict=True) if is_there)
        )
        if store is not None and todo:
            executor.check_sees(store)
        counted = _Counted(progress)
        running = executor.run([units[at] for at in todo], store, context, needs, counted)
        early: dict[int, Result | None] = {}  # finished before those in front of them
        for place, unit in enumerate(units):
            while not is_kept[place] and place not in early:
                number, result = next(running)
                early[todo[number]] = result
                counted.finish(units[todo[number]].size)
            found = early.pop(place, None) or _kept(store, unit)
            if found is None and is_kept[place]:  # it is damaged, so it runs after all
                ((_, found),) = executor.run([unit], store, context, needs, SILENT)
                found = found or _kept(store, unit)
            if found is None:
                raise UserError(
                    f"{store and store.url}/{unit.key}: a worker stored it, but it is not there. "
                    "Give --storage a URL that all machines of the cluster see."
                )
            yield found


def _kept(store: UnitStore | None, unit: Unit) -> Result | None:
    return None if store is None else get_unit(unit, store)


class _Counted:
    """Counts what units report; `finish` adds what a unit left out, the next may be running."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._n, self._due = progress, 0, 0

    def advance(self, n: int = 1) -> None:
        self._n += n
        self._progress.advance(n)

    def finish(self, size: int) -> None:
        self._due += size
        if self._n < self._due:
            self.advance(self._due - self._n)
