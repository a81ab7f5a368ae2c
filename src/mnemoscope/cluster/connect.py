"""Connect to a Ray cluster, and see what machines it has."""

import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from typing import Any

from mnemoscope.cluster.local import n_processes
from mnemoscope.errors import MnemoscopeError, UserError, first_line

_QUIET = {  # and idle workers stay: machines are asked now and then what they see
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # workers of a local cluster are all the work there is
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
}


def connect(address: str | None, n_workers: int) -> None:
    """Connect to a cluster, or start one with room for so many workers; UserError if that fails."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    _check_reachable(address or "local")
    import ray

    start = partial(
        ray.init, address=address or "local", logging_level="ERROR", log_to_driver=False
    )
    if address is None:
        n_cpus = max(n_processes(0), n_workers * n_threads())
        start = partial(start, num_cpus=n_cpus, include_dashboard=False)
        start = partial(start, object_store_memory=200_000_000)  # units hold tokens; results: files
    try:
        start()
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        hint = (  # Ray does not report missing authentication
            "If its head was started with token authentication, set RAY_AUTH_MODE=token here too, "
            "with the same ~/.ray/auth_token. "
        )
        is_known = address is None or os.environ.get("RAY_AUTH_MODE") == "token"
        raise _unreachable(address or "local", str(error), "" if is_known else hint) from None


def result_of(get: Callable[[], Any]) -> Any:
    """Get the result of a Ray task; errors of ours are raised as they were."""
    import ray

    try:
        return get()
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


def on_every_machine(function: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
    """Call a function once on every machine; gives each machine's name and the result."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = []
    for node in filter(itemgetter("Alive"), ray.nodes()):
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote = ray.remote(function).options(num_cpus=0, scheduling_strategy=there)
        asked.append((node["NodeManagerHostname"], remote.remote()))
    for name, reference in asked:
        yield name, result_of(partial(ray.get, reference))


def n_fitting(cpus: int, gpus: float) -> int:
    """Workers that the cluster has room for; UserError if there is room for none."""
    import ray

    n = 0
    for node in filter(itemgetter("Alive"), ray.nodes()):
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


def n_threads() -> int:
    """Threads of this process, which its workers use too."""
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
