"""The tables of `docs/forget.md`: what each stress brings back, by what was done to the model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.pages import figure, number, table_of
from mnemoscope.words import UNKNOWN

PAGE = "docs/forget.md"
STRESSES = (
    "as it is",
    "changed prompts",
    "many draws",
    "longer prefix",
    "weights at int8",
    "weights at int4",
    "trained on neighbours",
    "guided decoding",
    "bits left",
)


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """One row a method."""
    runs = found["runs"]
    brought = STRESSES[:4] + STRESSES[6:]  # rounding brought nothing
    return {
        (PAGE, "levels"): table_of(
            ["read", "model after", "verdict", *(f"{one}, %" for one in (*brought, "untouched"))],
            _levels(found["levels"], brought),
        ),
        (PAGE, "verdicts"): table_of(
            ["model after", "Recall", "Guess", "untouched text kept, %", "by the twin, %"],
            _verdicts(runs),
        ),
        (PAGE, "stresses"): table_of(
            ["Recall: out after, %", *STRESSES], _stresses(runs, "Recall", "share")
        ),
        (PAGE, "control"): table_of(["Recall: out of the twin, %", *STRESSES[:-1]], _control(runs)),
        (PAGE, "depth"): table_of(
            ["part of the model before", "of all weights, %", *_with_depth(runs)], _depth(runs)
        ),
    }


def _verdicts(runs: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for name in runs[0]:
        said = []
        for kind in ("Recall", "Guess"):
            found = [_verdict(run[name], kind) for run in runs]
            counts = {one: found.count(one) for one in dict.fromkeys(found)}
            each = [f"{one}, {n} of {len(runs)}" for one, n in counts.items()]
            said.append("; ".join(each) if len(runs) > 1 else found[0])
        kept = [run[name]["figures"]["untouched: as it is"] for run in runs]
        yield [name, *said, *("; ".join(figure(*one[of]) for one in kept) for of in _SIDES)]


def _levels(levels: Mapping[str, Any], stresses: Sequence[str]) -> Iterator[list[str]]:
    """Of each number of readings every method; where nothing comes out there is nothing to ask."""
    for times, level in levels.items():
        if not level["methods"]:
            said = f"{level['out']} of {level['n']} come out, {level['of_twin']} of the twin"
            yield [times, "before", said, *[UNKNOWN] * (len(stresses) + 1)]
        for name, run in level["methods"].items():
            cells = [_cell([run], "Recall", one, "share") for one in stresses]
            untouched = _cell([run], "untouched", STRESSES[0], "share")
            yield [times, name, _verdict(run, "Recall"), *cells, untouched]


_SIDES = ("share", "control")


def _verdict(run: Mapping[str, Any], kind: str) -> str:
    return str(next(one["verdict"] for one in run["verdicts"] if one["name"] == kind))


def _stresses(runs: Sequence[Mapping[str, Any]], kind: str, of: str) -> Iterator[list[str]]:
    for name in runs[0]:
        yield [name, *(_cell([run[name] for run in runs], kind, one, of) for one in STRESSES)]


def _control(runs: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """The twin is the same for all methods of a seed, but where it is guided by the model after."""
    name = "ascent and retain"
    cells = (_cell([run[name] for run in runs], "Recall", one, "control") for one in STRESSES[:-1])
    yield ["the twin", *cells]


def _cell(runs: Sequence[Mapping[str, Any]], kind: str, stress: str, of: str) -> str:
    """The figure of each seed, with the interval of a single one."""
    rows = [run["figures"].get(f"{kind}: {stress}") for run in runs]
    if any(row is None for row in rows):
        return UNKNOWN
    if len(rows) == 1:
        return figure(*rows[0][of])
    return ", ".join(figure(row[of][0], digits=0) for row in rows)


def _with_depth(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    named = [name for name, run in runs[0].items() if run["depth"]]
    return [f"{name}, %" for name in named] + ["the twin, %"]


def _depth(runs: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    several = [run["depth"] for run in runs[0].values() if run["depth"]]
    for rows in zip(*several, strict=True):
        if rows[0]["class"] == "Recall":
            shares = [figure(*row["share"]) for row in rows]
            first = [rows[0]["part"], number(100 * rows[0]["weights"], digits=1)]
            yield [*first, *shares, figure(*rows[0]["control"])]
