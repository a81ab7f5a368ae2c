"""Units of work that take no time, for tests of where and how units run."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mnemoscope.cluster.units import Opened, UnitStore


@dataclass(frozen=True)
class Power:
    """A number and its powers, times what the context says; `log` has a line a run."""

    n: int
    log: Path | None = None
    mark: Path | None = None  # whoever first leaves it dies
    size = 2

    @property
    def key(self) -> str:
        return f"power-{self.n}"

    def run(self, factor: int, progress) -> dict:
        if self.mark is not None and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(f"{self.n}\n")
        progress.advance(1)
        powers = pl.DataFrame({"power": [factor * self.n**k for k in range(1, 4)]})
        return {"parquet": powers, "bin": bytes([self.n] * 100), "n": self.n}


@dataclass(frozen=True)
class Evaluated:
    """A Python expression; not kept."""

    text: str
    key = ""
    size = 1

    def run(self, _, progress) -> dict:
        return {"value": eval(self.text)}


@dataclass(frozen=True)
class Reporting:
    """Says of each of its parts that it is done, and takes a while for it."""

    size: int

    @property
    def key(self) -> str:
        return f"reporting-{self.size}"

    def run(self, _, progress) -> dict:
        for _part in range(self.size):
            progress.advance(1)
            time.sleep(0.3)
        return {"n": self.size}


class Forgetful(UnitStore):
    """A store that does not find again what was put into it."""

    def get(self, key: str) -> None:
        return None


def make_each(units, factor, progress) -> list[dict]:
    """What units make that are made together."""
    return [one.run(factor, progress) for one in units]


def powers(n: int = 12, **options) -> list[Power]:
    return [Power(number, **options) for number in range(n)]


def two() -> int:
    return 2


TWO = Opened(two)


def runs_of(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []
