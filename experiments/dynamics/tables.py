"""The tables of sizes, masks, identifiers and floors in `docs/analyses/dynamics.md`."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.pages import figure, table_of

PAGE = "docs/analyses/dynamics.md"
SIZES = ("network", "million parameters", "before each text", "M of 600 texts, %", "T(.9), epochs")
FLOORS = ("network", "the batch is read", "texts", "peak of M, %", "lowest M from there, %",
          "above never read, points", "above read once, points")  # fmt: skip
IDENTIFIERS = {"none": "nothing", "own": "a number of its own", "shared": "one number for all"}
ARMS = {"repeated": "four times in a row", "spaced": "four times, spaced"}


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Of each network and kind of identifier one row; of each causal one what it keeps, by arm."""
    return {
        (PAGE, "sizes"): table_of(SIZES, _sizes(found["runs"])),
        (PAGE, "floors by size"): table_of(FLOORS, _floors(found["floors"])),
    }


def _sizes(runs: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    for row in runs:
        yield [
            _named(row),
            f"{row['parameters'] / 1e6:.1f}",
            IDENTIFIERS[row["identifier"]],
            figure(*row["m"]),
            "not reached" if row["epochs"] is None else f"{row['epochs']}",
        ]


def _floors(rows: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    for row in rows:
        yield [
            _named(row),
            ARMS.get(row["arm"], row["arm"]),
            f"{row['n']}",
            figure(row["peak"]),
            figure(*row["floor"]),
            *(
                figure(None) if row["arm"] == beside else figure(*row[f"above_{beside}"])
                for beside in ("never", "once")
            ),
        ]


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['kind']}, {row['size']}" + (f", seed {row['seed']}" if row["seed"] else "")
