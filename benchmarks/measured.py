"""Time and memory of a piece of work, side by side, for every row that is printed."""

import ctypes
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")


class Spent(NamedTuple):
    """Seconds of the processor and of the clock, and the most megabytes above what was held."""

    seconds: float
    clock: float
    megabytes: float


def spent(work: Callable[[], _T]) -> tuple[Spent, _T]:
    """Do it; what it took, of all threads, and what came out."""
    forget_peak()
    held = memory("VmRSS")
    seconds, clock = time.process_time(), time.perf_counter()
    found = work()
    taken = time.process_time() - seconds, time.perf_counter() - clock
    return Spent(*taken, max(0.0, memory("VmHWM") - held)), found


def middle(each: Sequence[Spent]) -> Spent:
    """Median times, and the most memory: what is freed may be kept, and is not asked for again."""
    seconds, clock, megabytes = zip(*each, strict=True)
    return Spent(median(seconds), median(clock), max(megabytes))


def memory(of: str) -> float:
    """Megabytes that this process holds (VmRSS), or held at most since `forget_peak` (VmHWM).

    Not a number where the system is not Linux.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = (int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{of}:"))
    return next(found, math.nan)


def forget_peak() -> None:
    """Give freed memory back to the system, and count from what is held now."""
    peak = Path("/proc/self/clear_refs")
    if peak.exists():
        ctypes.CDLL(None).malloc_trim(0)
        peak.write_text("5")
