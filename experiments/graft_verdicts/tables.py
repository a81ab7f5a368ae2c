"""The tables of `docs/appendix/graft-verdicts.md`."""

from statistics import fmean
from typing import Any

from experiments.pages import table_of

SIZES = (0.8, 1.0, 1.22, 1.5, 2.0)  # of class-blind twins
EFFECTS = (0.1, 0.2, 0.3)  # true differences


def tables(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    """How often "specific" is said falsely, and how often rightly; per cent of studies."""
    heads = ["class-blind twins", *(f"size {size:g}" for size in SIZES), "all sizes"]
    false = [
        [name, *(f"{100 * one:.1f}" for one in (*shares, fmean(shares)))]
        for name, shares in found["false"].items()
    ]
    shown = {"false": table_of(heads, false)}
    heads = ["true difference, points", *(f"{100 * one:.0f}" for one in EFFECTS)]
    heads.append(f"{100 * EFFECTS[-1]:.0f}, and the flip does the same")
    power = [
        [name, *(f"{100 * one:.0f}" for one in shares)] for name, shares in found["power"].items()
    ]
    shown["power"] = table_of(heads, power)
    return {("docs/appendix/graft-verdicts.md", name): text for name, text in shown.items()}
