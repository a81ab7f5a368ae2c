"""Run units on the workers of a Ray cluster: an existing one, or one started and stopped here.

Workers need mnemoscope installed, access to the model, and sight of the store that keeps results.
"""

import gc
import os
import socket
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mnemoscope.cluster.local import n_processes
from mnemoscope.cluster.storage import SharedStore
from mnemoscope.cluster.units import Needs, Opened, Result, Unit, UnitStore, do_unit
from mnemoscope.errors import MnemoscopeError, UserError, check_installed, first_line
from mnemoscope.progress import Progress, say

_QUIET = {  # and idle workers stay: machines are asked now and then what they see
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # workers of a local cluster are all the work there is
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
}


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

    def __enter__(self) -> "RayExecutor":
        check_installed("--engine ray needs", "ray", extra="ray")
        if self.storage is not None:
            SharedStore(self.storage).write(mark := _mark(), b"")
            SharedStore(self.storage).remove(mark)
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        _check_reachable(self.address or "local")
        import ray

        options: dict[str, Any] = {"address": self.address}
        if self.address is None:
            options = {
                "address": "local",
                "num_cpus": max(n_processes(0), self._n_workers * _threads()),
                "object_store_memory": 200_000_000,  # units hold tokens; results are files
                "include_dashboard": False,
            }
        try:
            ray.init(**options, logging_level="ERROR", log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            hint = ""
            if self.address is not None and os.environ.get("RAY_AUTH_MODE") != "token":
                hint = (  # Ray does not report missing authentication
                    "If its head was started with token authentication, set RAY_AUTH_MODE=token "
                    "here too, with the same ~/.ray/auth_token. "
                )
            raise _unreachable(self.address or "local", str(error), hint) from None
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
        work = ray.put((store, context))
        waiting = deque(enumerate(units))
        try:
            running: dict[Any, tuple[Any, int | None]] = {
                actor.load.remote(work.hex(), work): (actor, None)
                for actor in self._workers(needs, len(units))
            }
            while running:
                done, _ = ray.wait(list(running), timeout=60)
                if not done:
                    say(f"Ray: {len(running)} workers at work, {len(waiting)} units waiting")
                    continue
                actor, place = running.pop(done[0])
                result = _get(done[0])
                if waiting:
                    number, unit = waiting.popleft()
                    running[actor.do.remote(work.hex(), work, unit)] = actor, number
                elif not any(number is not None for _, number in running.values()):
                    running.clear()  # nobody waits for a worker that has no room
                if place is not None:
                    yield place, result
        except BaseException:
            self._end_workers()
            raise

    def _workers(self, needs: Needs, at_most: int) -> list[Any]:
        """Workers for these needs; they outlive their units, for a process takes seconds."""
        import ray

        threads = needs.threads or _threads()
        cpus, gpus = (1 if needs.gpus else threads), needs.gpus
        n = min(self._n_workers or _n_fitting(cpus, gpus), at_most)
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
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if store.url in self._seen:
            return
        store.write(mark := _mark(), b"")
        try:
            asked = []
            for node in _nodes():
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                sees = ray.remote(_sees).options(num_cpus=0, scheduling_strategy=there)
                asked.append((node["NodeManagerHostname"], sees.remote(store, mark)))
            for name, reference in asked:
                if not _get(reference):
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
        self._key = ""
        self._work: Any = None

    def load(self, key: str, work: tuple[UnitStore | None, Opened]) -> None:
        """Free what was loaded, and load what the units share, once for each `key`."""
        import torch

        if self._key != key:
            self._key, self._work = "", None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            work[1]()
            self._key, self._work = key, work

    def do(self, key: str, work: tuple[UnitStore | None, Opened], unit: Unit) -> Result | None:
        """Run one unit, unless a worker that died kept its result."""
        self.load(key, work)
        store, context = self._work
        if store is not None and store.get(unit.key) is not None:
            return None
        result = do_unit(unit, store, context)
        return result if store is None else None


def _sees(store: UnitStore, mark: str) -> bool:
    return store.read(mark) is not None


def _mark() -> str:
    return f".mark-{uuid.uuid4().hex}"


def _get(reference: Any) -> Any:
    """Result of a Ray task; errors of ours are raised as they were."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause: Any = error.cause
        if isinstance(cause, MnemoscopeError | MemoryError):
            raise cause from None
        if isinstance(cause, ModuleNotFoundError):
            raise UserError(
                f"ray: a worker lacks a package ({cause}). Install the same mnemoscope, with its "
                "extras, on every machine of the cluster."
            ) from None
        raise RuntimeError(f"in a Ray worker: {type(cause).__name__}: {cause}") from None
    except ray.exceptions.RayError as error:
        raise UserError(
            f"ray: a worker died again and again; the last: {first_line(error)} Is there memory "
            "enough for the model? Finished units are kept."
        ) from None


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _n_fitting(cpus: int, gpus: float) -> int:
    """Workers that the cluster has room for; UserError if there is room for none."""
    n = 0
    for node in _nodes():
        has = node["Resources"]
        rooms = [has.get("CPU", 0) // cpus, *([has.get("GPU", 0) // gpus] if gpus else [])]
        n += int(min(rooms))
    if n == 0:
        wanted = f"{cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        raise UserError(
            f"ray: no machine of the cluster has room for a worker of {wanted}. Set "
            "OMP_NUM_THREADS lower (threads of a worker), or --device cpu."
        )
    return n


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _check_reachable(address: str) -> None:
    """Reject an address where nothing listens; Ray itself would try for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UserError(
            f"--ray-address {address}: wants host:port, for example 10.0.0.1:6379, or auto; it "
            "runs on a machine of the cluster (see 'ray job submit')."
        )
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str, reason: str, hint: str = "") -> UserError:
    said = " ".join(reason.split())[:200]
    return UserError(
        f"--ray-address {address}: no Ray cluster can be reached ({said}). {hint}Start one with "
        "'ray start --head', or leave it out for a cluster of this machine."
    )
