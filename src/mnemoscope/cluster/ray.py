"""Run units on the workers of a Ray cluster: an existing one, or one started and stopped here.

Workers need mnemoscope installed, access to the model, and sight of the store that keeps results.
"""

import gc
import os
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mnemoscope.cluster.connect import connect, get_result, n_fitting, n_threads, on_every_machine
from mnemoscope.cluster.storage import SharedStore
from mnemoscope.cluster.units import Needs, Opened, Result, Unit, UnitStore, do_unit
from mnemoscope.errors import UserError, check_installed
from mnemoscope.progress import Progress, say


class RayExecutor:
    """Use as a context manager: `with RayExecutor() as ray, use_executor(ray): ...`.

    `address` is `host:port` of a cluster, or `auto` for the one this machine belongs to; None uses
    RAY_ADDRESS, else starts a local cluster. `n_workers` 0 is as many as there is room for;
    `storage` the URL of storage that all machines see, None for the study's folder. Raises
    UserError (on entering): Ray is not installed, the address cannot be reached, or the storage
    is not writable.
    """

    def __init__(
        self, address: str | None = None, *, n_workers: int = 0, storage: str | None = None
    ) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        self.storage = storage
        self._n_workers = n_workers
        self._actors: list[Any] = []
        self._kind: tuple[float, ...] = ()
        self._seen: set[str] = set()
        self._context: tuple[str, Any] = "", None

    def __enter__(self) -> "RayExecutor":
        check_installed("--engine ray needs", "ray", extra="ray")
        if self.storage is not None:
            SharedStore(self.storage).write(mark := _mark(), b"")
            SharedStore(self.storage).remove(mark)
        connect(self.address, self._n_workers)
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        self._actors = []
        ray.shutdown()

    def run(
        self,
        units: Sequence[Unit],
        store: UnitStore | None,
        context: Opened,
        needs: Needs,
        progress: Progress,  # noqa: ARG002 - units on other machines cannot report
    ) -> Iterator[tuple[int, Result | None]]:
        """Run units, see `Executor`; a worker that dies is started again and gets its unit again.

        A worker uses as many threads as this process unless told otherwise, so that its numbers are
        the same. One that the cluster has no room for yet gets no unit. Raises UserError: no
        machine has room for a worker, or one died three times with the same unit.
        """
        import ray

        if not units:
            return
        if self._context[0] != context.name:  # else workers keep what they have opened
            self._context = context.name, ray.put(context)
        name, opened = self._context
        waiting = deque(enumerate(units))
        running: dict[Any, tuple[Any, int | None]] = {
            actor.load.remote(name, opened): (actor, None)
            for actor in self._workers(needs, len(units))
        }
        try:
            while running:
                done, _ = ray.wait(list(running), timeout=60)
                if not done:
                    say(f"Ray: {len(running)} workers at work, {len(waiting)} units waiting")
                    continue
                actor, place = running.pop(done[0])
                result = get_result(done[0])
                if waiting:
                    number, unit = waiting.popleft()
                    running[actor.do.remote(name, opened, store, unit)] = actor, number
                elif not any(number is not None for _, number in running.values()):
                    running.clear()  # nobody waits for a worker that has no room
                if place is not None:
                    yield place, result
        except BaseException as error:
            is_over = isinstance(error, GeneratorExit) and not running
            if not is_over:
                self._end_workers()
            raise

    def _workers(self, needs: Needs, at_most: int) -> list[Any]:
        """Workers for these needs; they outlive their units, for a process takes seconds."""
        import ray

        threads = needs.threads or n_threads()
        cpus, gpus = (1 if needs.gpus else threads), needs.gpus
        fitting = n_fitting(cpus, gpus)  # which says if there is room for none
        n = min(self._n_workers or fitting, at_most)
        if self._kind != (cpus, gpus, threads):
            self._end_workers()
            self._kind = cpus, gpus, threads
        kind: Any = ray.remote(_Worker).options(
            num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=2
        )
        while len(self._actors) < n:
            self._actors.append(kind.remote(threads, str(Path.cwd())))
        return self._actors[:n]

    def _end_workers(self) -> None:
        import ray

        for actor in self._actors:
            with suppress(Exception):
                ray.kill(actor)
        self._actors = []

    def gpus(self, device: str, device_map: Any = None) -> float:
        """GPUs that a worker needs; UserError for `cuda:N`, each sees its own, and for a map."""
        import ray

        if device_map is not None:
            raise UserError(
                "model.device_map: with --engine ray each worker has one GPU and the whole model "
                "on it. Leave one of the two out."
            )
        if device.startswith("cuda:"):
            raise UserError(
                f"--device {device}: with --engine ray each worker has one GPU of its own. Write "
                "--device cuda."
            )
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0
        return 1.0 if device == "cuda" or (device == "auto" and has_gpus) else 0.0

    def check_sees(self, store: UnitStore) -> None:
        """Raise UserError, naming the machine, if one does not see what is kept in a store."""
        if store.url in self._seen:
            return
        store.write(mark := _mark(), b"")
        try:
            for name, sees in on_every_machine(_sees, store, mark):
                if not sees:
                    raise UserError(
                        f"{store.url}: machine {name} of the cluster does not see what is written "
                        "there. Put the study in a folder that all machines share; for 'continue' "
                        "and 'capture' it is enough to give --storage a URL that all see."
                    )
        finally:
            store.remove(mark)
        self._seen.add(store.url)


class _Worker:
    """Runs in a process of the cluster; after a restart it loads again with its next unit."""

    def __init__(self, threads: int, folder: str) -> None:
        import torch

        with suppress(OSError):  # relative paths work where the driver's folder exists
            os.chdir(folder)
        torch.set_num_threads(threads)
        self._context = Opened(dict)

    def load(self, name: str, context: Opened) -> None:
        """Free what is opened and open another context, unless this is it."""
        import torch

        if self._context.name != name:
            self._context = Opened(dict)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._context = context
        self._context()

    def do(self, name: str, context: Opened, store: UnitStore | None, unit: Unit) -> Result | None:
        """Run one unit, unless a worker that died kept its result."""
        self.load(name, context)
        if store is not None and store.get(unit.key) is not None:
            return None
        result = do_unit(unit, store, self._context)
        return result if store is None else None


def _sees(store: UnitStore, mark: str) -> bool:
    return store.read(mark) is not None


def _mark() -> str:
    return f".mark-{uuid.uuid4().hex}"
