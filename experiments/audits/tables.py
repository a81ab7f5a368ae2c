"""The tables of grounds in `docs/audit-evidence.md`."""

from collections.abc import Sequence
from typing import Any

from scipy.stats import binomtest

from experiments.pages import table_of
from mnemoscope.stats import clopper_pearson
from mnemoscope.words import interval

RULES = {
    "rule": ("no reference: the rule decides", "rule"),
    "reference": (
        "a reference of another shape, nothing more: rule and reference",
        "rule and reference",
    ),
    "grafts": (
        "a reference of the model's shape: rule and reference, grafts where they disagree",
        "**rule, unless reference and grafts say guess**",
    ),
    "cnn": (
        "a reference of another shape, a study: rule and reference, CNN where they disagree",
        "**rule, unless reference and CNN say guess**",
    ),
    "needs": (
        "a reference of another shape, no study: rule and reference, needs where they disagree",
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
        (_PAGE, "copies"): _copies(found["copies"]),
        (_PAGE, "unread"): _unread(found["unread"]),
    }


def _copies(found: dict[str, dict[str, float]]) -> str:
    heads = ["the embedded model and", "nats a token", "difference of the weights, %"]
    rows = ([name, f"{one['apart']:.3f}", f"{one['weights']:.2f}"] for name, one in found.items())
    return table_of(heads, rows)


def _unread(found: dict[str, dict[str, int]]) -> str:
    heads = ["held-out", "sequences", "of documents", "came out"]
    return table_of(heads, ([name, *map(str, one.values())] for name, one in found.items()))


def counts_of(rows: dict[str, Any], rule: str) -> dict[str, int]:
    """What a rule of an audit says of the passages, as `audits.verdict.Tested` counts it.

    What rule or reference call recall, and the verdict does not, cannot be told.
    """
    right, called, _, trained = _sums(rows[RULES[rule][1]])
    either, of_either, *_ = (right, called) if rule == "rule" else _sums(rows["rule or reference"])
    return {
        "called": called,
        "wrong": called - right,
        "trained": trained,
        "missed": trained - either,
        "undecided": either - right,
        "never_undecided": of_either - either - (called - right),
    }


def _sums(row: dict[str, Any]) -> list[int]:
    """Of both halves: right ones, of so many called recall; found ones, of so many true."""
    return [sum(half[at] for half in row[name]) for name in ("right", "found") for at in (0, 1)]


def _verdicts(rows: dict[str, Any]) -> str:
    heads = [
        "the audit has",
        "called recalled",
        "wrong",
        "of so many trained ones",
        "called guessed",
        "cannot be told",
        "of the lists that nobody could recall, cannot be told",
    ]
    cells = []
    for name, (has, _) in RULES.items():
        n = counts_of(rows, name)
        high = clopper_pearson(float(n["wrong"]), n["called"]).high or 0.0
        wrong = f"{n['wrong']} (at most {100 * high:.1f} %)"
        last = [str(n[one]) for one in ("trained", "missed", "undecided", "never_undecided")]
        cells.append([has, str(n["called"]), wrong, *last])
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
