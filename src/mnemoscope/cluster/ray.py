"""Run work on a Ray cluster: one that is there, or one of this machine, started and stopped here.

Workers need mnemoscope installed and see the model; `mnemoscope run ... --engine ray`.
"""

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mnemoscope.cluster.engine import n_workers
from mnemoscope.cluster.storage import Storage
from mnemoscope.errors import MnemoscopeError, UserError
from mnemoscope.progress import say

# Ray actors that each hold what they loaded; blocks are dealt out, a dead actor's block again.

_MOST_DEATHS = 3
_SAY_EVERY_SECONDS = 60


class ActorPool:
    """Workers of a Ray cluster.

    Args:
        make: called once in each actor; gives what works on a block.
        n: actors to ask for. One that the cluster has no room for yet gets no block.
        cpus: processor cores of each.
        gpus: accelerators of each.
        threads: torch threads of each, which with the batches decides the bits.
        spare: what an earlier pool of the same cores, accelerators and threads has released; they
            are taken first, since a process of its own costs seconds.
    """

    def __init__(
        self,
        make: Callable[[], Callable[[Any], Any]],
        *,
        n: int,
        cpus: int,
        gpus: float,
        threads: int,
        spare: Sequence[Any] = (),
    ) -> None:
        import ray

        self._ray = ray
        self._kind: Any = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
        self._arguments = (ray.put(make), threads, str(Path.cwd()))
        self._n, self._failed_starts = n, 0
        self._spare, self._idle = list(spare), list[Any]()
        self._running: dict[Any, tuple[Any, int | None]] = {}
        for _ in range(n):
            self._start()

    def run(self, blocks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Work on each block, see `protocol.Workers`.

        Raises:
            MnemoscopeError: what a worker raised.
            UserError: workers die again and again.
        """
        waiting, deaths = deque(range(len(blocks))), Counter[int]()
        n_left = len(blocks)
        while n_left:
            while self._idle and waiting:
                self._give(self._idle.pop(), waiting[0], blocks[waiting.popleft()])
            done, _ = self._ray.wait(list(self._running), timeout=_SAY_EVERY_SECONDS)
            if not done:
                n_busy = sum(number is not None for _, number in self._running.values())
                say(f"Ray: {n_busy} workers at work, {len(waiting)} blocks waiting")
                continue
            actor, number = self._running.pop(done[0])
            try:
                result = self._ray.get(done[0])
            except self._ray.exceptions.RayTaskError as error:
                raise original_error(error) from None
            except self._ray.exceptions.RayError as error:
                self._bury(number, deaths, error)
                if number is not None:
                    waiting.appendleft(number)
                continue
            self._idle.append(actor)
            if number is not None:
                n_left -= 1
                yield number, result

    def release(self) -> list[Any]:
        """Give the free workers up, without what they loaded; the others end."""
        free, self._spare, self._idle = [*self._spare, *self._idle], [], []
        self.close()
        for actor in free:
            actor.forget.remote()
        return free

    def close(self) -> None:
        """End all workers."""
        end_actors([*self._spare, *self._idle, *(actor for actor, _ in self._running.values())])
        self._spare, self._idle, self._running = [], [], {}

    def _start(self) -> None:
        """Ask for one more worker; it counts as busy until it is ready."""
        actor: Any = self._spare.pop() if self._spare else self._kind.remote()
        self._running[actor.prepare.remote(*self._arguments)] = (actor, None)

    def _give(self, actor: Any, number: int, block: Any) -> None:
        """Hand a block to a worker that is free."""
        self._running[actor.work.remote(block)] = (actor, number)

    def _bury(self, number: int | None, deaths: Counter[int], error: Exception) -> None:
        """Replace a worker that died, unless its block (or its start) has killed several."""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if number is None:
            self._failed_starts += 1
            count, what = self._failed_starts, "while they loaded the model"
        else:
            deaths[number] += 1
            count, what = deaths[number], f"on block {number}"
        if count >= _MOST_DEATHS:
            raise UserError(
                f"ray: {count} workers died {what}; the last: {reason} Is there memory enough for "
                "the model? Finished blocks are kept."
            )
        say(f"Ray: a worker died ({reason}); another takes its place and its block")
        self._start()


class _Actor:
    """What runs in a worker."""

    def prepare(self, make: Callable[[], Callable[[Any], Any]], threads: int, folder: str) -> int:
        """Load what the blocks need, once; returns the process id."""
        import torch

        stand_in(folder)
        torch.set_num_threads(threads)
        self._work: Any = make()
        return os.getpid()

    def work(self, block: Any) -> Any:
        """Work on one block."""
        return self._work(block)

    def forget(self) -> None:
        """Give back the memory of what was loaded."""
        import gc

        import torch

        self._work = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def end_actors(actors: Sequence[Any]) -> None:
    """End workers, also those that have died."""
    import ray

    for actor in actors:
        with suppress(Exception):
            ray.kill(actor)


def stand_in(folder: str) -> None:
    """Let relative paths mean what they mean to the driver, where the machine has its folder."""
    with suppress(OSError):
        os.chdir(folder)


def original_error(error: Any) -> Exception:
    """What a worker raised: our own words as they are, anything else with Ray's account of it."""
    cause = error.cause
    if isinstance(cause, MnemoscopeError):
        return cause
    if isinstance(cause, ModuleNotFoundError):
        return UserError(
            f"ray: a worker lacks a package ({cause}). Install the same mnemoscope, with its "
            "extras, on every machine of the cluster."
        )
    if isinstance(cause, MemoryError):
        return cause
    return RuntimeError(f"in a Ray worker: {type(cause).__name__}: {cause}")


# Run work on a Ray cluster: one that is there, or one of this machine, started and stopped here.

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
