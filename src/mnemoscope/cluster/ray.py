"""Run units on the workers of a Ray cluster: an existing one, or one started and stopped here.

Workers need mnemoscope installed, access to the model, and sight of the store that keeps results.
"""

import gc
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mnemoscope.cluster.connect import connect, n_fitting, n_threads, on_every_machine, result_of
from mnemoscope.cluster.storage import SharedStore, check_own
from mnemoscope.cluster.units import Needs, Opened, Result, Unit, UnitStore, do_unit, get_unit
from mnemoscope.errors import UserError, check_installed
from mnemoscope.progress import Progress


class RayExecutor:
    """Use as a context manager: `with RayExecutor() as ray, use_executor(ray): ...`.

    `address` is as `--ray-address`, `n_workers` 0 as many as there is room for. Entering raises
    UserError: no Ray, no such cluster, or a storage that cannot be written to.
    """

    def __init__(
        self, address: str | None = None, *, n_workers: int = 0, storage: str | None = None
    ) -> None:
        self.address: str | None = address or os.environ.get("RAY_ADDRESS") or None
        self.storage: str | None = storage
        self._n_workers, self._kind, self._actors = n_workers, tuple[float, ...](), list[Any]()

    def __enter__(self) -> "RayExecutor":
        check_installed("--engine ray needs", "ray", extra="ray")
        if self.storage is not None:
            check_own(store := SharedStore(self.storage))
            store.write(".mark", b"")
            store.remove(".mark")
        connect(self.address, self._n_workers)
        return self

    def __exit__(self, *_: object) -> None:
        import ray

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

        One that starts too late, for lack of room, gets no unit. Raises UserError: no machine has
        room for a worker, or one died three times with the same unit.
        """
        import ray
        from ray.util import ActorPool

        opened = ray.put(context)
        workers = {one.__ray_ready__.remote(): one for one in self._workers(needs, len(units))}
        ready, _ = ray.wait(list(workers), num_returns=len(workers), timeout=60)
        pool = ActorPool([workers[one] for one in ready or ray.wait(list(workers))[0]])
        for item in enumerate(units):
            pool.submit(lambda actor, one: actor.do.remote(opened, store, *one), item)
        try:
            while pool.has_next():
                yield result_of(pool.get_next_unordered)
        finally:
            if pool.has_next():
                self._end_workers()

    def _workers(self, needs: Needs, at_most: int) -> list[Any]:
        """Workers; they outlive their units, and have this process's threads, for equal numbers."""
        import ray

        threads, gpus = needs.threads or n_threads(), needs.gpus
        cpus = 1 if gpus else threads
        fitting = n_fitting(cpus, gpus)  # which says if there is room for none
        n = min(self._n_workers or fitting, at_most)
        if self._kind != (cpus, gpus, threads):
            self._end_workers()
            self._kind = cpus, gpus, threads
        ours = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": 2}
        kind: Any = ray.remote(_Worker).options(**ours)
        self._actors += [kind.remote(threads, Path.cwd()) for _ in range(n - len(self._actors))]
        return self._actors[:n]

    def _end_workers(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def gpus(self, device: str, device_map: Any = None) -> float:
        """GPUs that a worker needs; UserError for `cuda:N`, each sees its own, and for a map."""
        import ray

        if device_map is not None or device.startswith("cuda:"):
            raise UserError(
                "model.device, model.device_map: with --engine ray each worker has one GPU of its "
                "own. Write --device cuda, and no map."
            )
        return float(device == "cuda" or (device == "auto" and "GPU" in ray.cluster_resources()))

    def check_sees(self, store: UnitStore) -> None:
        """Raise UserError, naming the machine, if one does not see what is kept in a store."""
        store.write(mark := f".mark-{uuid.uuid4().hex}", b"")
        try:
            found = on_every_machine(lambda: store.read(mark) is not None)
            if blind := [name for name, sees in found if not sees]:
                raise UserError(
                    f"{store.url}: machine {blind[0]} of the cluster does not see what is written "
                    "there. Put the study where all see it, or give --storage such a URL."
                )
        finally:
            store.remove(mark)


class _Worker:
    """Runs in a process of the cluster; after a restart it loads again with its next unit."""

    def __init__(self, threads: int, folder: Path) -> None:
        import torch

        with suppress(OSError):  # relative paths work where the driver's folder exists
            os.chdir(folder)
        torch.set_num_threads(threads)
        self._context = Opened(dict)

    def do(
        self, context: Opened, store: UnitStore | None, place: int, unit: Unit
    ) -> tuple[int, Result | None]:
        """Run one unit, unless a worker that died kept its result; gives its place and result."""
        import torch

        if self._context.name != context.name:  # else it keeps what it has opened
            self._context = Opened(dict)
            gc.collect()
            torch.cuda.empty_cache()  # does nothing without CUDA
            self._context = context
        if store is not None and get_unit(unit, store) is not None:
            return place, None
        result = do_unit(unit, store, self._context)
        return place, result if store is None else None
