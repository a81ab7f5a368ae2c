"""Ray actors that each hold what they loaded; blocks are dealt out, a dead actor's block again."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mnemoscope.errors import MnemoscopeError, UserError
from mnemoscope.progress import say

__all__ = ["ActorPool", "end_actors", "original_error", "stand_in"]

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
