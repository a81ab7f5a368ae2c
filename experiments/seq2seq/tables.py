"""The tables of `docs/analyses/copying-tasks.md`: copies by dose, disparity, attention."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.pages import figure, number, table_of

PAGE = "docs/analyses/copying-tasks.md"
NAMES = {"t5": "T5", "bart": "BART"}
_SHOWN = {
    "extract": ("extract", "all"),
    "recite": ("recite", "all"),
    "extract less recite": ("extract", "recite"),
    "recite, memorized less not": ("recite, memorized", "recite, not memorized"),
}
KINDS = ("own target", "another text", "from the input")
_KINDS = {"targets swapped": KINDS[:1], "before fitting": (KINDS[0], KINDS[2])}


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Of each network, last seed: copies by dose, differences between tasks, attention."""
    runs = {name: found[family][-1] for family, name in NAMES.items() if family in found}
    doses = [f"{dose} in the table" for dose in sorted({one["dose"] for one in _any(runs)})]
    return {
        (PAGE, "doses"): table_of(
            ["network", "model", "task", "answers that have, %", *doses], _each(runs, _doses)
        ),
        (PAGE, "disparity"): table_of(
            ["network", "model", "rows", "recite less extract, points"], _each(runs, _disparity)
        ),
        (PAGE, "attention"): table_of(
            ["network", "model", "attention", "layer", *_SHOWN], _each(runs, _attention)
        ),
    }


def _any(runs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for run in runs.values() for row in run["doses"]]


def _each(runs: Mapping[str, Any], rows: Any) -> Iterator[list[str]]:
    for name, run in runs.items():
        yield from ([name, *row] for row in rows(run))


def _doses(run: Mapping[str, Any]) -> Iterator[list[str]]:
    by: dict[tuple[str, str], list[Any]] = {}
    for row in run["doses"]:
        by.setdefault((row["model"], row["task"]), []).append(row)
    for (model, task), each in by.items():
        for kind in _KINDS.get(model, KINDS):
            shares = [figure(*row[kind]) for row in sorted(each, key=lambda row: row["dose"])]
            yield [model, task, kind, *shares]


def _disparity(run: Mapping[str, Any]) -> Iterator[list[str]]:
    for row in run["disparity"]:
        value, low, high = (-one for one in row["difference"])
        yield [row["model"], row["rows"], figure(value + 0.0, high, low)]


def _attention(run: Mapping[str, Any]) -> Iterator[list[str]]:
    keys: dict[tuple[Any, ...], dict[tuple[str, str], Any]] = {
        (row["model"], row["part"], row["layer"]): {} for row in run["attention"]
    }
    for row in run["attention"] + run["attention_differences"]:
        sides = (row["first"], row["second"]) if "first" in row else (row["task"], row["answers"])
        value = row["difference" if "first" in row else "mean"]
        keys[row["model"], row["part"], row["layer"]][sides] = value
    for (model, part, layer), values in keys.items():
        shown = [values.get(one) for one in _SHOWN.values()]
        cells = ["–" if one is None else number(*one) for one in shown]
        yield [model, part, str(layer), *cells]
