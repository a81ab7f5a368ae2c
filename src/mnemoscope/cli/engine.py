"""The flags that say where a verb's work runs: this machine, or the workers of a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from mnemoscope.errors import UserError, nearest

__all__ = ["EngineFlags", "EngineOption", "RayAddress", "RayWorkers", "Storage", "working_with"]

_ENGINES = ("local", "ray")

EngineOption = Annotated[
    str, typer.Option("--engine", help="local, or ray: spread over the workers of a cluster.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT",
        help="A running cluster, or auto; RAY_ADDRESS unless given, else one of this machine.",
        show_default=False,
    ),
]
RayWorkers = Annotated[
    int | None,
    typer.Option(
        "--ray-workers",
        min=1,
        help="Workers to use (as many as there is room for).",
        show_default=False,
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Where workers put finished blocks: a folder or bucket that all machines see; a "
        "folder in the study unless given.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class EngineFlags:
    """What was said of the engine on the command line."""

    engine: str = "local"
    ray_address: str | None = None
    ray_workers: int | None = None
    storage: str | None = None


@contextmanager
def working_with(flags: EngineFlags) -> Iterator[None]:
    """Let the engine that was asked for run the work of this block.

    Raises:
        UserError: no such engine, flags of Ray without it, or as `RayEngine`.
    """
    if flags.engine not in _ENGINES:
        hint = nearest(flags.engine, _ENGINES)
        raise UserError(f"--engine {flags.engine}: wants local or ray.{hint}")
    if flags.engine == "local":
        if flags != EngineFlags():
            raise UserError("--ray-address, --ray-workers and --storage want --engine ray.")
        yield
        return
    from mnemoscope.engine import use_engine
    from mnemoscope.engine.ray_cluster import RayEngine

    engine = RayEngine(flags.ray_address, n_workers=flags.ray_workers or 0, storage=flags.storage)
    with engine, use_engine(engine):
        yield
