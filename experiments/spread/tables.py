"""The table of the spread's bias in `docs/analyses/dimension.md`."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from experiments.pages import figure, table_of

PAGE = "docs/analyses/dimension.md"
COLUMNS = ("points of", "true dimension", "draws", "spread", "TwoNN")
one = partial(figure, scale=1, digits=2)


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """A row a shape and number of draws."""
    rows = [
        [row["shape"], f"{row['dimension']}", f"{row['draws']:,}"]
        + [one(*row[which]) for which in ("participation_ratio", "two_nn")]
        for row in found["rows"]
    ]
    return {(PAGE, "bias"): table_of(COLUMNS, rows)}
