"""Tables of grafts, and those of `docs/appendix/graft-parts.md`."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from experiments.pages import figure, table_of
from mnemoscope.localize.grafts import Finding
from mnemoscope.pipeline.causes import FINDINGS, TRUTH, by_weight, finding_of
from mnemoscope.stats import Estimate
from mnemoscope.taxonomy import PAPER
from mnemoscope.words import UNKNOWN, interval, p_figure, percent, points

FOUND = ["part", "broken", "spared", "finding", "p_value", "random_broken", "kept_broken"]
FIGURES = ["specific", "equal_total", "crude", "over_flip"]
FOUND += ["kept_spared", *FIGURES]
"""Columns of `graft_specificity.parquet`."""
_FINDING = (
    *("finding", "random changes leave, %", "difference, points", "p"),
    *("where as much of both is left", "crude", "over flip"),
)

Row = Mapping[str, Any]


def tables(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Those of single trainings, then beside each other."""
    crossed, one, two, a, b, hubble = found
    trained = (crossed, one, two)
    shown = {
        "rule": parts(found[crossed][PAPER]),
        "truth": parts(found[crossed][TRUTH]),
        "forms": forms({name: found[name]["forms"] for name in trained}, PAPER),
        "forms-half": forms(
            {name: _natural(found[name]["forms, half"]) for name in trained}, PAPER
        ),
        "trainings-rule": trainings({name: found[name][PAPER] for name in trained}),
        "trainings-truth": trainings({name: found[name][TRUTH] for name in trained}),
        "crossover": trainings({name: found[name][PAPER] for name in (a, b)}),
        "hubble": parts(found[hubble][PAPER]),
    }
    return {("docs/appendix/graft-parts.md", name): text for name, text in shown.items()}


def parts(found: Row) -> str:
    """A line a part: what survives of each class, and its strongest finding."""
    strongest: dict[str, Row] = {}
    for row in by_weight(_with_estimates(found["specific"])):
        strongest.setdefault(row["part"], row)
    rows = []
    for one in found["parts"]:
        losses = [
            UNKNOWN if loss is None else f"{loss:+.2f}".replace("-", "−")
            for loss in (one["loss"], one["random_loss"])
        ]
        cells = [*map(_left, one["cells"]), *_finding(strongest[one["part"]])]
        rows.append([f"`{one['part']}`", *cells, *losses])
    columns = [f"{name} left, %" for name in found["classes"]]
    columns += [*_FINDING, "loss elsewhere, nats", "random changes"]
    return table_of(["part of the reference", *columns], rows)


def _left(one: Sequence[float | None]) -> str:
    return f"{percent(one[0], unit=False)} {interval(tuple(one))}".strip()


def _beyond(one: Sequence[float | None]) -> str:
    return f"{points(one[0])} {interval(tuple(one))}".strip()


def _finding(row: Row) -> list[str]:
    """The cells of a row of `graft_specificity.parquet`."""
    whole, both, crude, flip = (_beyond(row[name]) for name in FIGURES)
    said = f"{row['broken']} beyond {row['spared']}: {FINDINGS[finding_of(row)]}"
    chance = p_figure(row["p_value"])
    return [said, percent(row["random_broken"], unit=False), whole, chance, both, crude, flip]


def pairs(found: Sequence[Row]) -> str:
    """A line a part and pair of classes, in the order that says more, of all kinds of text."""
    rows = [[f"`{row['part']}`", *_finding(row)] for row in _by_pair(found)]
    return table_of(["part", *_FINDING], rows)


def kinds(found: Sequence[Row]) -> str:
    """What is left in each kind of text, and a line a kind, part and pair of classes within it."""
    left, said = [], []
    for one in found:
        left.append([one["kind"], "sequences", *map(str, one["n"])])
        for row in one["left"]:
            change = f"`{row['part']}`{row['change']}"
            left.append([one["kind"], change, *map(_left, row["cells"])])
        pairs = _by_pair(one["specific"])
        said += [[one["kind"], f"`{row['part']}`", *_finding(row)] for row in pairs]
    heads = [f"{name} left, %" for name in found[0]["classes"]]
    shown = table_of(["kind of text", "part of the reference", *heads], left)
    return f"{shown}\n{table_of(['kind of text', 'part', *_FINDING], said)}"


def _by_pair(rows: Sequence[Row]) -> list[Row]:
    """Of the two orders of each part's pairs that which says more."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault((row["part"], *sorted((row["broken"], row["spared"]))), []).append(row)
    return [by_weight(_with_estimates(orders))[0] for orders in found.values()]


def _with_estimates(rows: Sequence[Row]) -> list[Row]:
    """Rows whose figures are estimates; JSON has lists."""
    return [{**row, **{name: Estimate(*row[name]) for name in FIGURES}} for row in rows]


def _natural(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["form"] == "rule, read"]


_ALL = 0.985
"""Of a form of which so much is left, single sequences decide where on the curves it stands."""


def forms(studies: Mapping[str, Sequence[Row]], taxonomy: str) -> str:
    """A line a part and form of the first class, a cell a study."""
    first, second = taxonomy.split(", ")[1:3]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for name, rows in studies.items():
        for row in rows:
            said = f"{percent(row['kept_spared'], unit=False)} of {row['n']}: "
            said += UNKNOWN if row["kept_spared"] >= _ALL else _beyond(row["beyond"])
            cells.setdefault((row["part"], row["form"]), {})[name] = said
    head = [f"{name}: left, %; {second} beyond it" for name in studies]
    return table_of(
        ["part", f"{first} that is", *head],
        [
            [f"`{part}`", form, *(of.get(name, UNKNOWN) for name in studies)]
            for (part, form), of in cells.items()
        ],
    )


def patches(found: Row) -> str:
    """A line a place: of each class and positions what survives, beside the control."""
    columns = ["place"]
    for one in found["columns"]:
        columns += [f"{one['class']}, {one['positions']}: kept, %", "other"]
    rows = [
        [
            f"`{row['part']}`",
            *(
                text
                for cell in row["cells"]
                for text in (_left(cell["twin"]), percent(cell["control"], unit=False))
            ),
        ]
        for row in found["rows"]
    ]
    return table_of(columns, rows)


def scores(found: Sequence[Row]) -> str:
    """A line a taxonomy, the strongest finding first, min-F1 of the paper beside it."""
    rows = [
        [row["taxonomy"], f"`{row['part']}`", *_finding(row), figure(row["printed"], scale=1)]
        for row in found
    ]
    return table_of(["taxonomy", "part", *_FINDING, "min-F1 in the paper, %"], rows)


def trainings(studies: Mapping[str, Row]) -> str:
    """A line a part and pair of classes that all have: difference and finding in each training.

    Of both orders of a pair the one whose differences are larger on average.
    """
    found = [
        {
            (row["part"], row["broken"], row["spared"]): row
            for row in one["specific"]
            if row["specific"][0] is not None
        }
        for one in studies.values()
    ]
    shared = [key for key in found[0] if all(key in table for table in found)]
    of_mean = {key: sum(table[key]["specific"][0] for table in found) for key in shared}
    rows = []
    for key in shared:
        part, broken, spared = key
        if of_mean[key] < of_mean.get((part, spared, broken), -inf):
            continue
        own, cells = [table[key] for table in found], list[str]()
        for row in own:
            cells.append(_beyond(row["specific"]))
            cells.append(f"{FINDINGS[finding_of(row)]}, p {p_figure(row['p_value'])}")
        agree = all(finding_of(row) is Finding.SPECIFIC for row in own)
        rows.append([f"`{part}`", f"{broken} beyond {spared}", *cells, "yes" if agree else "no"])
    columns = [name for one in studies for name in (f"{one}: points", "finding")]
    return table_of(["part", "classes", *columns, "in every training"], rows)
