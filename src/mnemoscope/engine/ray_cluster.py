"""Run work on a Ray cluster: one that is there, or one of this machine, started and stopped here.

Workers need mnemoscope installed and see the model; `mnemoscope run ... --engine ray`.
"""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mnemoscope.engine.local import n_workers
from mnemoscope.engine.ray_pool import ActorPool, end_actors, original_error, stand_in
from mnemoscope.engine.storage import Storage
from mnemoscope.errors import UserError

__all__ = ["RayEngine"]

_OBJECT_STORE_BYTES = 200_000_000  # blocks of tokens; results go through the storage
_CONNECT_SECONDS = 5.0


class RayEngine:
    """An engine that must be entered: `with RayEngine() as engine, use_engine(engine): ...`.

    Args:
        address: `host:port` of a cluster, or `auto` for the one this machine is part of; None is
            what RAY_ADDRESS says, else a cluster of this machine alone.
        n_workers: workers to ask for; 0 is as many as the cluster has room for.
        storage: URL of storage that all machines see; None is a folder in the study.

    Raises:
        UserError: (on entering) Ray is not installed, the address cannot be reached, or the
            storage cannot be written to.
    """

    is_cluster: bool = True

    def __init__(
        self, address: str | None = None, *, n_workers: int = 0, storage: str | None = None
    ) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        self.storage = storage
        self._n_workers = n_workers
        self._spare: tuple[tuple[Any, ...], list[Any]] = (), []

    def __enter__(self) -> "RayEngine":
        if find_spec("ray") is None:
            raise UserError("--engine ray: Ray is not installed: pip install 'mnemoscope[ray]'")
        if self.storage is not None:
            Storage(self.storage).check_writable()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a notice
        # Of a cluster of ours: its workers are all the work there is, so they are not to wait
        # behind whatever else runs on the machine (Ray's default is 15).
        os.environ.setdefault("RAY_worker_niceness", "0")
        if self.address is not None:
            _check_reachable(self.address)
        import ray

        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        try:
            if self.address is None:
                ray.init(
                    address="local",
                    num_cpus=max(n_workers(0), self._n_workers * _threads()),
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    **quiet,
                )
            else:
                ray.init(address=self.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise _unreachable(
                self.address or "local", str(error), _token_hint(self.address)
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        self._spare = (), []
        ray.shutdown()

    def run_tasks(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        *,
        workers: int,
        gpus: float = 0.0,
    ) -> Iterator[Any]:
        """Run a function on each task as a Ray task with one thread; one that dies runs again.

        Args:
            function: a module-level function of a package that the workers have too.
            tasks: its arguments.
            workers: tasks that run at once, at most; 0 is as many as there is room for.
            gpus: share of an accelerator that a task is given.

        Yields:
            Results, in the order in which they are finished.

        Raises:
            MnemoscopeError: what a task raised.
            UserError: no machine of the cluster has room for a task.
        """
        import ray

        self._n_fitting(1, gpus)
        self._take_spare(())  # the room is for the tasks
        remote = ray.remote(_run_one).options(num_cpus=1, num_gpus=gpus, max_retries=3)
        waiting = iter(tasks)
        running: set[Any] = set()
        most = workers or self._n_workers or len(tasks)
        try:
            while True:
                while len(running) < most and (task := next(waiting, None)) is not None:
                    running.add(remote.remote(function, task, str(Path.cwd())))
                if not running:
                    return
                done, rest = ray.wait(list(running))
                running = set(rest)
                yield _get(done[0])
        finally:
            for reference in running:
                with suppress(Exception):
                    ray.cancel(reference, force=True)

    @contextmanager
    def workers(
        self, make: Callable[[], Callable[[Any], Any]], *, gpus: float, at_most: int
    ) -> Iterator[ActorPool]:
        """Make actors ready, see `protocol.Engine`.

        After the block they give back the memory of what they loaded, and their processes wait
        for the next workers or end when tasks are to run; after an error they end at once.
        Each computes with as many threads as this process would, so that its numbers are the same.

        Raises:
            UserError: no machine of the cluster has room for one.
        """
        threads = _threads()
        cpus = 1 if gpus else threads
        fitting = self._n_fitting(cpus, gpus)
        n = max(1, min(self._n_workers or fitting, at_most))
        kind = cpus, gpus, threads
        spare = self._take_spare(kind)
        pool = ActorPool(make, n=n, cpus=cpus, gpus=gpus, threads=threads, spare=spare)
        try:
            yield pool
            self._spare = kind, pool.release()
        finally:
            pool.close()

    def _take_spare(self, kind: tuple[Any, ...]) -> list[Any]:
        """Workers that were released and are of this kind; of any other they end."""
        (found, actors), self._spare = self._spare, ((), [])
        if found == kind:
            return actors
        end_actors(actors)
        return []

    def n_gpus(self) -> int:
        """Accelerators of the cluster."""
        import ray

        return int(ray.cluster_resources().get("GPU", 0))

    def check_sees(self, path: Path) -> None:
        """Refuse a machine of the cluster that does not see a file.

        Raises:
            UserError: names the machine.
        """
        for name, sees in self._everywhere(_sees, str(path.resolve())):
            if not sees:
                raise UserError(
                    f"{path}: machine {name} of the cluster does not see it. Training reads the "
                    "study's maps, so put the study in a folder that all machines share."
                )

    def check_storage(self, storage: Storage) -> None:
        """Refuse a machine of the cluster that does not see the storage.

        Raises:
            UserError: names the machine, or says why the storage cannot be used.
        """
        mark = storage.leave_mark()
        try:
            for name, sees in self._everywhere(_sees_mark, (storage.url, mark)):
                if not sees:
                    raise UserError(
                        f"{storage.url}: machine {name} of the cluster does not see what is "
                        "written there. Give --storage a URL that all machines see."
                    )
        finally:
            storage.remove(mark)

    def _everywhere(
        self, function: Callable[[Any], Any], argument: Any
    ) -> Iterator[tuple[str, Any]]:
        """Run a function once on every machine; its name and the result of each."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = []
        for node in _nodes():
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            remote = ray.remote(function).options(num_cpus=0, scheduling_strategy=here)
            asked.append((node["NodeManagerHostname"], remote.remote(argument)))
        for name, reference in asked:
            yield name, _get(reference)

    def _n_fitting(self, cpus: int, gpus: float) -> int:
        """Workers that the cluster has room for.

        Raises:
            UserError: none.
        """
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


def _nodes() -> list[dict[str, Any]]:
    """Machines of the cluster that are up."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _get(reference: Any) -> Any:
    """The result of a Ray task; errors in our own words where they are ours."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise original_error(error) from None
    except ray.exceptions.RayError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"ray: a task died again and again; the last: {reason}") from None


def _run_one(function: Callable[[Any], Any], task: Any, folder: str) -> Any:
    """Run one task in a Ray worker, with one thread as in a process of this machine."""
    import torch
    from threadpoolctl import threadpool_limits

    stand_in(folder)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        return function(task)


def _threads() -> int:
    """Threads that torch would compute with in this process."""
    import torch

    return torch.get_num_threads()


def _sees(path: str) -> bool:
    return Path(path).exists()


def _sees_mark(argument: tuple[str, str]) -> bool:
    url, mark = argument
    return Storage(url).read(mark) is not None


def _check_reachable(address: str) -> None:
    """Refuse an address where nobody listens; Ray itself tries for minutes."""
    if address in ("auto", "local"):
        return
    if "://" in address:
        raise UserError(
            f"--ray-address {address}: wants host:port or auto, and runs on a machine of the "
            "cluster (see 'ray job submit')."
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--ray-address {address}: wants host:port, for example 10.0.0.1:6379.")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str, reason: str, hint: str = "") -> UserError:
    said = " ".join(reason.split())[:200]
    return UserError(
        f"--ray-address {address}: no Ray cluster can be reached ({said}). {hint}Start one with "
        "'ray start --head', or leave it out for a cluster of this machine."
    )


def _token_hint(address: str | None) -> str:
    """What may be missing where somebody listens and Ray gets no answer; it does not say so."""
    if address is None or os.environ.get("RAY_AUTH_MODE") == "token":
        return ""
    return (
        "If its head was started with token authentication, set RAY_AUTH_MODE=token here too, "
        "with the same ~/.ray/auth_token. "
    )
