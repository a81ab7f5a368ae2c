"""What a stage may ask of an engine: independent tasks, and workers that keep what they loaded."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from mnemoscope.engine.storage import Storage

__all__ = ["Engine", "Workers"]


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
        """Run a function on each task, see `mnemoscope.engine.run_tasks`."""

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
