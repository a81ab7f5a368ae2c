"""The tables of classifiers in `docs/analyses/neurons.md`."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from experiments.mislabelled.tables import NAMES
from experiments.pages import figure, number, table_of
from mnemoscope.stats import correlate_ranks, t_interval

PAGE = "docs/analyses/neurons.md"
MEASURES = {"entropy": "entropy", "above_shuffled": "information", "confidence": "confidence"}


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """How each measure orders five classifiers and all ten, and what each measure is."""
    order = ["network", "read", "right on, %, least to most read so", *MEASURES.values()]
    each = ["network", "read", "share", "right on, %", *MEASURES.values()]
    return {
        (PAGE, "classifiers"): table_of(order, _rows(found["runs"])),
        (PAGE, "each classifier"): table_of(each, _each(found["runs"])),
    }


def _rows(runs: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    for family in dict.fromkeys(one["family"] for one in runs):
        own = [one for one in runs if one["family"] == family]
        for kind in dict.fromkeys(one["kind"] for one in own):
            part = [one for one in own if one["kind"] == kind]
            right = zip(*([row["right"][0] for row in _fitted(one)] for one in part), strict=True)
            yield [
                NAMES[family],
                kind,
                ", ".join(f"{100 * sum(each) / len(each):.0f}" for each in right),
                *(_said([one["order"][what][0] for one in part]) for what in MEASURES),
            ]
        seeds = [
            [row for one in own if one["seed"] == seed for row in _fitted(one)]
            for seed in dict.fromkeys(one["seed"] for one in own)
        ]
        together = (_said([_order(ten, what) for ten in seeds]) for what in MEASURES)
        yield [NAMES[family], f"either, all {len(seeds[0])} together", "", *together]


def _order(models: list[Mapping[str, Any]], what: str) -> float:
    """Kendall's τ-b of a measure with the share right, as `analyze neurons` gives it."""
    tau = correlate_ranks([one[what][0] for one in models], [one["right"][0] for one in models])
    assert tau.kendall.value is not None
    return tau.kendall.value


def _each(runs: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Every classifier of the first seed, and the network before it was fitted, with intervals."""
    for run in (one for one in runs if one["seed"] == runs[0]["seed"]):
        start = [row for row in run["models"] if row["share"] is None]
        for row in [*_fitted(run), *start]:
            share = "before fitting" if row["share"] is None else f"{100 * row['share']:g} %"
            figures = (number(*row[what]) for what in MEASURES)
            yield [NAMES[run["family"]], run["kind"], share, figure(*row["right"]), *figures]


def _fitted(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    fitted = [row for row in run["models"] if row["share"] is not None]
    return sorted(fitted, key=lambda row: row["share"])


def _said(each: list[float]) -> str:
    """Mean over seeds, with Student's interval over them."""
    n, mean = len(each), float(np.mean(each))
    ends = t_interval(mean, [(float(np.var(each, ddof=1)) / n, n - 1)])
    low, high = np.clip(ends, -1, 1).tolist()
    return figure(mean, low, high, scale=1, digits=2)
