"""The tables of grounds in `docs/audit-evidence.md`."""

from collections.abc import Sequence
from typing import Any

from scipy.stats import binomtest

from experiments.pages import table_of
from mnemoscope.stats import clopper_pearson
from mnemoscope.words import interval

RULES = {
    "rule": ("no reference: the rule decides", "rule"),
    "grafts": (
        "a reference of the model's shape: the rule, unless reference and grafts say guess",
        "**rule, unless reference and grafts say guess**",
    ),
    "cnn": (
        "a reference of another shape, a study: the rule, unless reference and CNN say guess",
        "**rule, unless reference and CNN say guess**",
    ),
    "needs": (
        "a reference of another shape, no study: the rule, unless reference and needs say guess",
        "**rule, unless reference and needs say guess**",
    ),
}
"""What an audit has, and its row, by the names of `audits.verdict`."""
_PAGE = "docs/audit-evidence.md"
_BESIDE = "more right, more wrong than the rule, both halves"


def tables(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Grounds by passage and by character, against what was trained on and the reference."""
    heads = ["ground", "called recall that was trained on", "trained on that is called recall"]
    rows = [
        [name, *("; ".join(map(_share, row[one])) for one in ("right", "found"))]
        for name, row in found["characters"].items()
    ]
    return {
        (_PAGE, "the verdict"): _verdicts(found["trained"]),
        (_PAGE, "grounds"): _by_passage(found["trained"]),
        (_PAGE, "grounds by character"): table_of(heads, rows),
        (_PAGE, "grounds and the reference"): _by_passage(found["reference"]),
    }


def counts_of(rows: dict[str, Any], rule: str) -> tuple[int, int, int, int]:
    """Of a rule of an audit: passages called recalled, of these wrong, trained ones, missed."""
    row = rows[RULES[rule][1]]
    (right, called), (found, trained) = (
        [sum(half[place] for half in row[name]) for place in (0, 1)] for name in ("right", "found")
    )
    return called, called - right, trained, trained - found


def _verdicts(rows: dict[str, Any]) -> str:
    heads = [
        "the audit has",
        "called recalled",
        "wrong",
        "of so many trained ones",
        "called guessed",
    ]
    cells = []
    for name, (has, _) in RULES.items():
        called, wrong, trained, missed = counts_of(rows, name)
        high = clopper_pearson(float(wrong), called).high or 0.0
        cells.append(
            [has, str(called), f"{wrong} (at most {100 * high:.1f} %)", str(trained), str(missed)]
        )
    return table_of(heads, cells)


def _by_passage(rows: dict[str, Any]) -> str:
    heads = ["ground", "AUC", '"recall" that is right, %', 'of the true ones it calls "recall", %']
    cells = []
    for name, row in rows.items():
        columns = (_aucs(row["auc"]), _counts(row["right"]), _counts(row["found"]))
        cells.append([name, *columns, _beside(row["better"], row["worse"])])
    return table_of([*heads, _BESIDE], cells)


def _aucs(halves: Sequence[Sequence[float] | None]) -> str:
    shown = ([f"{one:.3f}".removeprefix("0") for one in half] for half in halves if half)
    return "; ".join("{} [{}, {}]".format(*half) for half in shown)


def _counts(halves: Sequence[Sequence[float]]) -> str:
    return "; ".join(
        f"{n} of {of} {interval((n / of, low, high), space=' ')}" for n, of, low, high in halves
    )


def _share(figures: Sequence[float]) -> str:
    return f"{100 * figures[0]:.1f} {interval(tuple(figures), space=' ')}"


def _beside(better: int, worse: int) -> str:
    if not better + worse:
        return ""
    p = f"{binomtest(better, better + worse).pvalue:.2g}"
    p = "p < .001" if float(p) < 0.001 else f"p = {p.removeprefix('0')}"
    return f"{better}, {worse}: {p}"
