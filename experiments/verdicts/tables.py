"""The tables of `docs/appendix/verdicts.md`."""

from typing import Any

from experiments.pages import spread, table_of
from mnemoscope.words import MINUS

_COLUMNS = (
    *("lead", "gain", "holds it", "low > it", "high < it", "adds", "nothing"),
    *("80 % see", "excess > 0", "nested > 0"),
)
_SHORT = {
    "gain": "gain, nats",
    "holds it": "interval holds it",
    "adds": "adds",
    "nothing": "nothing",
}


def tables(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    """How often intervals of few groups hold the truth; a line a kind of study, long and short."""
    heads = ["groups", "intervals of a mean that hold it"]
    groups = table_of(heads, [[n, f"{share:.1%}"] for n, share in found["groups"].items()])
    cells = {name: _cells(row) for name, row in found["kinds"].items()}
    long = table_of(["studies", *_COLUMNS], [[name, *of.values()] for name, of in cells.items()])
    kept = [[name, *(of[column] for column in _SHORT)] for name, of in cells.items()]
    return {
        ("docs/appendix/verdicts.md", ""): f"{groups}\n{long}",
        ("docs/verdicts.md", "simulated"): table_of(["studies", *_SHORT.values()], kept),
    }


def _cells(row: dict[str, float]) -> dict[str, str]:
    shown = {name: f"{row[name]:.1%}" for name in _COLUMNS}
    shown["lead"] = f"{row['lead']:.1f}".replace("-", MINUS)
    shown["gain"] = spread(row["gain"], row["deviation"])
    return shown | {"80 % see": f"{row['80 % see']:.3f}"}
