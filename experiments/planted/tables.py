"""The tables of `docs/appendix/graft-planted.md`."""

from typing import Any

from experiments.grafts.tables import kinds, pairs


def tables(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Every pair of classes, then the same within each kind of text."""
    page = "docs/appendix/graft-planted.md"
    return {(page, "pairs"): pairs(found["pairs"]), (page, "kinds"): kinds(found["kinds"])}
