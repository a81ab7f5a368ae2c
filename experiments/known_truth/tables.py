"""The two tables of known truth in `docs/verdicts.md`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.pages import figure, number, spread, table_of
from mnemoscope.benchmark.verdict import EFFECT
from mnemoscope.stats import clopper_pearson


def tables(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    """How often something is said to be added by text alone; verdicts of studies."""
    heads = ["pair", "divisions", "gain, nats", "adds, %", "the reference adds, %"]
    heads += ["interval holds 0, %", "nothing, %", "80 % see", "model adds", "reference adds"]
    text = table_of(heads, [[name, *_cells(of)] for name, of in found["text"].items()])
    heads = ["study", "what sets the classes apart", "sequences in groups", "reader"]
    heads += ["gain, nats", "80 % see", "verdict", "excess of min-F1, points"]
    studies = table_of(heads, map(_study_row, found["studies"]))
    page = "docs/verdicts.md"
    return {(page, "known truth, text"): text, (page, "known truth, studies"): studies}


def _cells(gains: Mapping[str, list[float]]) -> list[str]:
    values = np.array([*gains.values()], dtype=np.float64)
    value, low, high, seen = values.T
    adds, less = low > 0, high < 0
    shares = [
        figure(*clopper_pearson(float(one.sum()), len(one)))
        for one in (adds, less, ~adds & ~less, (low <= 0) & (high < EFFECT))
    ]
    wrong = [
        "; ".join(name for name, is_wrong in zip(gains, one, strict=True) if is_wrong) or "–"
        for one in (adds, less)
    ]
    mean = spread(value.mean(), value.std())
    return [str(len(values)), mean, *shares, f"{seen.mean():.3f}", *wrong]


def _study_row(row: Mapping[str, Any]) -> list[str]:
    """The reader that the study judges by is in bold."""
    shown = f"**{row['reader']}**" if row["is_headline"] else row["reader"]
    n = f"{row['n_eval']} in {row['n_groups']}"
    gain, verdict = number(*row["gain"]), row["verdict_kind"] or "–"
    seen, excess = number(row["gain_seen"]), figure(*row["excess"])
    return [row["study"], row["truth"], n, shown, gain, seen, verdict, excess]
