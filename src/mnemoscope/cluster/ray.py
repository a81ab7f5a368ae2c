"""Run work on a Ray cluster: an existing one, or a local one started and stopped here.

Workers need mnemoscope installed and access to the model; `mnemoscope run ... --engine ray`.
`Storage` is a folder or bucket that all machines see: files appear only when complete, and their
SHA-256 is verified on reading.
"""

import errno
import gc
import hashlib
import os
import socket
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from mnemoscope.cluster.engine import Engine, n_workers
from mnemoscope.errors import (
    DamagedDataError,
    MnemoscopeError,
    NoRoomError,
    UserError,
    check_installed,
    first_line,
)
from mnemoscope.progress import say

_MOST_RETRIES = 2
_SAY_EVERY_SECONDS = 60
_OBJECT_STORE_BYTES = 200_000_000  # blocks of tokens; results go through the storage
_CONNECT_SECONDS = 5.0


class RayEngine(Engine):
    """Use as a context manager: `with RayEngine() as engine, use_engine(engine): ...`.

    `address` is `host:port` of a cluster, or `auto` for the one this machine belongs to; None uses
    RAY_ADDRESS, else starts a local cluster. `n_workers` 0 is as many as there is room for;
    `storage` the URL of storage that all machines see, None a folder in the study. Raises UserError
    (on entering): Ray is not installed, the address cannot be reached, or the storage is not
    writable.
    """

    is_cluster: bool = True

    def __init__(
        self, address: str | None = None, *, n_workers: int = 0, storage: str | None = None
    ) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        self.storage = storage
        self._n_workers = n_workers
        self._actors: list[Any] = []
        self._kind: tuple[float, ...] = ()

    def __enter__(self) -> "RayEngine":
        check_installed("--engine ray needs", "ray", extra="ray")
        if self.storage is not None:
            storage = Storage(self.storage)
            storage.remove(storage.leave_mark())
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a notice
        # For a local cluster: its workers are all the work there is, so they should not wait
        # for other processes (Ray's default is 15).
        os.environ.setdefault("RAY_worker_niceness", "0")
        # Machines are asked now and then what they see: not by a new process each time.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
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

    def run_tasks(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        *,
        workers: int,
        gpus: float = 0.0,
    ) -> Iterator[Any]:
        """Run each task in a worker with one thread; tasks whose worker dies run again.

        Raises MnemoscopeError: raised by a task. UserError: no machine of the cluster has room for
        a worker.
        """
        at_most = min(workers or len(tasks), len(tasks))
        if not at_most:
            return
        make = partial(partial, function)
        with self.workers(make, gpus=gpus, at_most=at_most, threads=1) as pool:
            for _, result in pool.run(tasks):
                yield result

    @contextmanager
    def workers(
        self,
        make: Callable[[], Callable[[Any], Any]],
        *,
        gpus: float,
        at_most: int,
        threads: int | None = None,
    ) -> Iterator["Pool"]:
        """Start up to `at_most` workers with `gpus` GPUs each, as many as there is room for.

        `make` is called once in each and returns the function that processes a block. Workers
        outlive the block, because starting a process takes seconds: they free what they loaded and
        wait for the next use, until one of another kind is wanted or an error occurs. Each uses as
        many threads as this process unless `threads` says otherwise, so that its numbers are the
        same. Ray restarts dead ones and gives them their block again. Raises UserError: no machine
        of the cluster has room for one.
        """
        import ray

        threads = threads or _threads()
        cpus = 1 if gpus else threads
        fitting = self._n_fitting(cpus, gpus)
        n = max(1, min(self._n_workers or fitting, at_most))
        if self._kind != (cpus, gpus, threads):
            self._end_actors()
            self._kind = cpus, gpus, threads
        kind: Any = ray.remote(_Actor).options(
            num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=_MOST_RETRIES
        )
        while len(self._actors) < n:
            self._actors.append(kind.remote(threads, str(Path.cwd())))
        try:
            yield Pool(self._actors[:n], make)
            for actor in self._actors:
                actor.forget.remote()
        except BaseException:
            self._end_actors()
            raise

    def _end_actors(self) -> None:
        import ray

        for actor in self._actors:
            with suppress(Exception):
                ray.kill(actor)
        self._actors = []

    def n_gpus(self) -> int:
        """GPUs of the cluster."""
        import ray

        return int(ray.cluster_resources().get("GPU", 0))

    def check_sees(self, path: Path) -> None:
        """Raise UserError, naming the machine, if one cannot see a file."""
        here = path.resolve()
        for name, sees in self._everywhere(lambda: here.exists()):
            if not sees:
                raise UserError(
                    f"{path}: machine {name} of the cluster does not see it. Training reads the "
                    "study's maps, so put the study in a folder that all machines share."
                )

    def check_storage(self, storage: "Storage") -> None:
        """Raise UserError if a machine cannot see the storage or the storage is not usable."""
        url, mark = storage.url, storage.leave_mark()
        try:
            for name, sees in self._everywhere(lambda: Storage(url).read(mark) is not None):
                if not sees:
                    raise UserError(
                        f"{url}: machine {name} of the cluster does not see what is "
                        "written there. Give --storage a URL that all machines see."
                    )
        finally:
            storage.remove(mark)

    def _everywhere(self, function: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
        """Run a function once on every machine; yields each machine's name and result."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = []
        for node in _nodes():
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            remote = ray.remote(function).options(num_cpus=0, scheduling_strategy=here)
            asked.append((node["NodeManagerHostname"], remote.remote()))
        for name, reference in asked:
            yield name, _get(reference)

    def _n_fitting(self, cpus: int, gpus: float) -> int:
        """Workers that the cluster has room for; raises UserError if there is room for none."""
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


class Pool:
    """Hands blocks to actors; actors that the cluster has no room for yet get none."""

    def __init__(self, actors: Sequence[Any], make: Callable[[], Callable[[Any], Any]]) -> None:
        import ray

        made = ray.put(make)
        self._make = made.hex(), made
        self._idle: list[Any] = []
        # Running: the actor of each reference and its block, None while the actor loads.
        self._running: dict[Any, tuple[Any, int | None]] = {
            actor.prepare.remote(*self._make): (actor, None) for actor in actors
        }

    def run(self, blocks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Process each block on a free worker; yields (position, result) as they finish."""
        import ray

        waiting, n_left = deque(enumerate(blocks)), len(blocks)
        while n_left:
            while self._idle and waiting:
                actor, (number, block) = self._idle.pop(), waiting.popleft()
                self._running[actor.work.remote(*self._make, block)] = actor, number
            done, _ = ray.wait(list(self._running), timeout=_SAY_EVERY_SECONDS)
            if not done:
                n_busy = sum(number is not None for _, number in self._running.values())
                say(f"Ray: {n_busy} workers at work, {len(waiting)} blocks waiting")
                continue
            actor, position = self._running.pop(done[0])
            result = _get(done[0])
            self._idle.append(actor)
            if position is not None:
                n_left -= 1
                yield position, result


class _Actor:
    """Runs in a worker; after a restart it loads again with its next block."""

    def __init__(self, threads: int, folder: str) -> None:
        gc.disable()  # until all is imported: see `prepare`
        import torch

        with suppress(OSError):  # relative paths work where the driver's folder exists
            os.chdir(folder)
        torch.set_num_threads(threads)
        self._key = ""
        self._work: Any = None

    def prepare(self, key: str, make: Callable[[], Callable[[Any], Any]]) -> None:
        """Load what the blocks need, once for each `key`."""
        if self._key != key:
            gc.freeze()  # the imports came with `make` and stay: no garbage is among them
            gc.enable()
            self._work = make()
            self._key = key

    def work(self, key: str, make: Callable[[], Callable[[Any], Any]], block: Any) -> Any:
        """Process one block."""
        self.prepare(key, make)
        return self._work(block)

    def forget(self) -> None:
        """Free what was loaded."""
        import torch

        self._key, self._work = "", None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


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
            "enough for the model? Finished blocks are kept."
        ) from None


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _check_reachable(address: str) -> None:
    """Reject an address where nothing listens; Ray itself would try for minutes."""
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


class Storage:
    """A folder of shared storage: `/a/folder`, `s3://bucket/folder` or any other fsspec URL.

    Raises UserError: fsspec or the package for the URL's scheme is missing, the scheme is unknown,
    or other processes cannot see it.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._root = _open(self.url)

    def leave_mark(self) -> str:
        """Write a small file for other machines to look for; returns its name."""
        name = f"mark-{uuid.uuid4().hex}"
        self.write(name, b"mark")
        return name

    def write(self, name: str, data: bytes) -> str:
        """Write a file, whole or not at all; returns its SHA-256. NoRoomError if it is full."""
        temporary = self._path(f"{name}.{uuid.uuid4().hex}.tmp")
        with self._explaining(name, is_read=False):
            if self._is_local() or self._root.startswith("/"):
                self._fs.makedirs(self._root, exist_ok=True)  # on s3 this would create the bucket
            try:
                self._fs.pipe_file(temporary, data)
                self._fs.mv(temporary, self._path(name))
            except BaseException:
                with suppress(Exception):
                    self._fs.rm_file(temporary)
                raise
        return hashlib.sha256(data).hexdigest()

    def read(self, name: str, sha256: str | None = None) -> bytes | None:
        """Read a file; None if it is not there; one of another `sha256` is removed as damaged."""
        with self._explaining(name):
            try:
                data: bytes = self._fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            self.remove(name)
            raise DamagedDataError(
                f"{self.url}/{name}: its content has changed since it was written (sha256). It "
                "was removed: run the same command again and this block alone is made anew."
            )
        return data

    def path_of(self, name: str) -> Path | None:
        """Local path of a file; None in a bucket."""
        return Path(self._path(name)) if self._is_local() else None

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with self._explaining(name), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def remove_all(self) -> None:
        """Remove the folder and its content."""
        with self._explaining(""), suppress(FileNotFoundError):
            self._fs.rm(self._root, recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _is_local(self) -> bool:
        return "file" in _protocols(self._fs)

    @contextmanager
    def _explaining(self, name: str, *, is_read: bool = True) -> Iterator[None]:
        """Turn errors of the storage into UserError or NoRoomError, missing files excepted."""
        try:
            yield
        except Exception as error:
            if is_read and isinstance(error, FileNotFoundError):
                raise
            where = f"{self.url}/{name}".rstrip("/")
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomError(
                    f"{where}: the storage is full. Make room and run the same command again; "
                    "finished blocks are kept."
                ) from error
            reason = " ".join((getattr(error, "strerror", None) or str(error)).split())[:200]
            raise UserError(
                f"{where}: the storage refuses ({reason or type(error).__name__}). Check the URL "
                "and your permissions there, or give another --storage."
            ) from error


def _open(url: str) -> tuple[Any, str]:
    """File system of a URL, and the folder in it."""
    try:
        import fsspec
    except ImportError:
        raise UserError(
            f"{url}: shared storage needs fsspec: pip install 'mnemoscope[ray]'"
        ) from None
    try:
        system, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"{url}: {' '.join(str(error).split())[:200]}") from None
    except Exception as error:
        raise UserError(
            f"{url}: no storage that fsspec knows ({' '.join(str(error).split())[:200]}). Give a "
            "folder, or a URL such as s3://bucket/folder."
        ) from None
    if "memory" in _protocols(system):
        raise UserError(f"{url}: other processes do not see this. Give a folder or a bucket.")
    return system, root.rstrip("/")


def _protocols(system: Any) -> tuple[str, ...]:
    protocol = system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
