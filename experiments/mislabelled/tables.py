"""The tables of a classifier in `docs/analyses/psmi.md`: who finds the wrong labels, and when."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.pages import number, table_of

PAGE = "docs/analyses/psmi.md"
NAMES = {"bert": "encoder", "llama": "decoder"}
SCORES = ("PSMI, last layer", "loss", "margin", "entropy", "PSMI, truth shuffled")


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Of each network one row a moment of its fit; and the same of the truth by shadows."""
    beyond = ("PSMI beyond loss", "PSMI beyond before fitting")
    columns = ["network", "right on, %", *SCORES, *beyond]
    runs = {name: found[family] for family, name in NAMES.items()}
    rows = [row for name, each in runs.items() for row in _rows(name, each[0]["column"])]
    spread = [row for name, each in runs.items() for row in _spread(name, each)]
    shadows = [
        row
        for name, each in runs.items()
        for one in each[:1]
        if "shadows" in one
        for row in _rows(name, one["shadows"])
    ]
    return {
        (PAGE, "wrong labels"): table_of(columns, rows),
        (PAGE, "wrong labels, seeds"): table_of(
            ["network", "seeds", "epochs to fit all labels", "PSMI", "loss"], spread
        ),
        (PAGE, "shadows"): table_of(columns, shadows),
        (PAGE, "wrong labels, more rows"): table_of(
            columns, _rows(f"decoder of {found['more']['n']:,} rows", found["more"]["column"])
        ),
    }


def _when(moment: str) -> str:
    count = moment.removeprefix("epoch-")
    return moment if count == moment else f"after {count} epoch{'s' * (count != '1')}"


def _moments(asked: Mapping[str, Any]) -> list[str]:
    """In the order of the fit; asked is the fitted network first and the one before last."""
    first, *early, before = asked["right"]
    return [before, *early, first]


def _rows(name: str, asked: Mapping[str, Any]) -> Iterator[list[str]]:
    for moment in _moments(asked):
        scores = {one["score"]: one for one in asked["scores"] if one["moment"] == moment}
        last = [one for one in asked["layers"] if one["moment"] == moment][-1]
        yield [
            f"{name}, {_when(moment)}",
            f"{100 * asked['right'][moment]:.1f}",
            *(number(*scores[one]["auc"]) for one in SCORES),
            number(*scores["loss"]["psmi_beyond"]),
            number(*last["beyond"]),
        ]


def _spread(name: str, runs: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    def ends(moment: str, score: str) -> str:
        found = [
            one["auc"][0]
            for run in runs
            for one in run["column"]["scores"]
            if (one["moment"], one["score"]) == (moment, score)
        ]
        return f"{min(found):.3f} to {max(found):.3f}"

    epochs = sorted(run["epochs"] for run in runs)
    for moment in _moments(runs[0]["column"]):
        yield [
            f"{name}, {_when(moment)}",
            str(len(runs)),
            f"{epochs[0]} to {epochs[-1]}",
            ends(moment, SCORES[0]),
            ends(moment, "loss"),
        ]
