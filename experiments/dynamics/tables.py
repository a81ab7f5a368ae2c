"""The table of sizes, masks and identifiers in `docs/analyses/dynamics.md`."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from experiments.pages import table_of

PAGE = "docs/analyses/dynamics.md"
COLUMNS = (
    "network",
    "million parameters",
    "before each text",
    "M of 600 texts, %",
    "T(.9), epochs",
)


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Of each network and kind of identifier one row, seeds in it."""
    return {(PAGE, "sizes"): table_of(COLUMNS, _rows(found["runs"]))}


def _rows(runs: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["kind"], row["size"], row["identifier"]

    for one in dict.fromkeys(map(key, runs)):
        own = [row for row in runs if key(row) == one]
        kind, size, identifier = one
        epochs = [row["epochs"] for row in own]
        yield [
            f"{kind}, {size}",
            f"{own[0]['parameters'] / 1e6:.1f}",
            {"none": "nothing", "own": "a number of its own", "shared": "one number for all"}[
                identifier
            ],
            f"{100 * fmean(row['m'][0] for row in own):.1f}",
            ", ".join("not reached" if n is None else f"{n}" for n in epochs),
        ]
