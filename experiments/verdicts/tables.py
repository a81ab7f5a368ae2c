"""The tables of `docs/appendix/verdicts.md`."""

from typing import Any

from experiments.pages import spread, table_of
from mnemoscope.words import MINUS

_SHARES = ("holds it", "low > it", "high < it", "adds", "nothing")
_OTHERS = ("excess > 0", "nested > 0")


def tables(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    """How often intervals of few groups hold the truth; a line a kind of study."""
    heads = ["groups", "intervals of a mean that hold it"]
    groups = table_of(heads, [[n, f"{share:.1%}"] for n, share in found["groups"].items()])
    heads = ["studies", "lead", "gain", *_SHARES, "80 % see", *_OTHERS]
    kinds = table_of(heads, [[name, *_cells(row)] for name, row in found["kinds"].items()])
    return {("docs/appendix/verdicts.md", ""): f"{groups}\n{kinds}"}


def _cells(row: dict[str, float]) -> list[str]:
    lead = f"{row['lead']:.1f}".replace("-", MINUS)
    shares = [f"{row[name]:.1%}" for name in (*_SHARES, *_OTHERS)]
    seen = f"{row['80 % see']:.3f}"
    return [lead, spread(row["gain"], row["deviation"]), *shares[:5], seen, *shares[5:]]
