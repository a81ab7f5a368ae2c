"""The table of classifiers in order in `docs/analyses/neurons.md`."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.mislabelled.tables import NAMES
from experiments.pages import table_of

PAGE = "docs/analyses/neurons.md"
MEASURES = {"entropy": "entropy", "above_shuffled": "information", "confidence": "confidence"}


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Of each network and kind one row: what the five have right, and how each measure orders."""
    columns = ["network", "read", "right on, %, least to most read so", *MEASURES.values()]
    return {(PAGE, "classifiers"): table_of(columns, _rows(found["runs"]))}


def _rows(runs: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    for family, kind in dict.fromkeys((one["family"], one["kind"]) for one in runs):
        own = [one for one in runs if (one["family"], one["kind"]) == (family, kind)]
        shares = [*zip(*([row["right"][0] for row in _fitted(one)] for one in own), strict=True)]
        yield [
            NAMES[family],
            kind,
            ", ".join(f"{100 * sum(each) / len(each):.0f}" for each in shares),
            *(_said([one["order"][what][0] for one in own]) for what in MEASURES),
        ]


def _fitted(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    fitted = [row for row in run["models"] if row["share"] is not None]
    return sorted(fitted, key=lambda row: row["share"])


def _said(each: list[float]) -> str:
    shown = ", ".join(f"{one:.1f}".replace("-", "−") for one in each)
    return f"{sum(each) / len(each):.2f} ({shown})".replace("-", "−")
