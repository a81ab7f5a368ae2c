"""The tables of `docs/membership.md`."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.pages import figure, number, table_of

PAGE = "docs/membership.md"
SWAPPED = ", roles swapped"
LEFT_OUT = tuple(
    f"{one}{SWAPPED}"
    for one in ("mean log-probability", "log-probability over zlib bytes", "Min-K%")
)
PLAUSIBLE = {"0": "any", "0.5": "half as likely as the likeliest"}


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """AUC and TPR by readings, bits, ranks, kinds of text, guided decoding and capacity."""
    doses = found["by_dose"]
    of = [f"read {dose} times" for dose in doses]
    levels = ["never read, halves", *of[1:]]
    made = {
        "example": f"> {found['example']}\n",
        "auc": table_of(["AUC", *levels], _told(doses, "auc", number)),
        "tpr": table_of(["TPR at 1 % FPR, %", *levels], _told(doses, "tpr", figure)),
        "bits": table_of(
            ["readings", "passages", "documents", "bits of a passage"],
            (
                [dose, f"{one['n']:,}", str(one["documents"]), figure(*one["bits"], scale=1)]
                for dose, one in doses.items()
            ),
        ),
        "ranks": table_of(
            ["documents with p at most .05, %", *["never read", *of[1:]]], _ranks(found)
        ),
        "kinds": table_of(
            ["score or control", "AUC", "beyond the best control", "verdict"],
            (
                [one["name"], number(*one["auc"]), number(*one["beyond"]), one["verdict"]]
                for one in found["kinds"]
                if SWAPPED not in one["name"]
            ),
        ),
        "halves": table_of(
            ["regression on the text", "mean AUC", "its spread", "spread by resamples"],
            (
                [name, *(number(one[key]) for key in ("mean", "deviation", "resampled"))]
                for name, one in found["halves"].items()
            ),
        ),
        "guided": table_of(["tokens that may be written", "λ", *of], _guided(found)),
        "capacity": table_of(
            [
                *("parameters", "sequences", "epochs", "bits shown", "bits held"),
                *("which is asked, bits", "shown a parameter", "held a parameter"),
            ],
            _capacity(found),
        ),
    }
    return {(PAGE, name): text for name, text in made.items()}


def _told(doses: Mapping[str, Any], key: str, shown: Any) -> Iterator[list[str]]:
    rows = [{one["name"]: one[key] for one in dose["told"]} for dose in doses.values()]
    for name in rows[0]:
        if name not in LEFT_OUT:
            yield [name, *(shown(*one[name]) for one in rows)]


def _ranks(found: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, levels in found["ranks"].items():
        yield [name, *(f"{part} of {n}: {figure(*shares)}" for part, n, *shares in levels.values())]


def _guided(found: Mapping[str, Any]) -> Iterator[list[str]]:
    cells = found["guided"]
    doses = [*found["by_dose"]]
    rows = dict.fromkeys(key.partition(" ")[2] for key in cells)
    for row in rows:
        plausible, strength, *swapped = row.split(" ")
        words = f"{strength}, roles swapped" if swapped else strength
        yield [
            PLAUSIBLE[plausible],
            words,
            *(figure(*cells[f"{dose} {row}"]) for dose in doses),
        ]


def _capacity(found: Mapping[str, Any]) -> Iterator[list[str]]:
    order = sorted(found["capacity"], key=lambda one: (one["parameters"], one["shown"]))
    for one in order:
        n = one["parameters"]
        yield [
            f"{n:,}",
            f"{one['sequences']:,}",
            f"{one['epochs']:,.0f}",
            f"{one['shown']:,.0f}",
            f"{one['held']:,.0f}",
            f"{one['sequences'] * math.log2(one['sequences']):,.0f}",
            f"{one['shown'] / n:.1f}",
            f"{one['held'] / n:.2f}",
        ]
