"""The tables of `docs/items.md`: what each detector accuses, by kind and by readings."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.pages import figure, table_of
from mnemoscope.stats import clopper_pearson

PAGE = "docs/items.md"
DOSES = (1, 4, 16, 64)
SECRET, OPEN = ("fact", "code"), ("counting", "letter", "copied")
MODELS = {"embedded": "the shipped model", "smollm2": "SmolLM2-135M"}


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Of each model one row a detector; and how often the printed order is the likeliest."""
    columns = [
        "detector",
        *(f"secrets read {dose} times: accused, %" for dose in DOSES),
        "secrets never read",
        "guessable or copied, read",
        "guessable or copied, never read",
    ]
    made = {
        (PAGE, f"detectors, {name}"): table_of(columns, _rows(one["runs"]))
        for name, one in found.items()
    }
    columns = [
        "the printed order is the likeliest to",
        *(f"read {dose} times, %" for dose in DOSES),
    ]
    rows = [row for name, one in found.items() for row in _orders(MODELS[name], one["runs"])]
    return {**made, (PAGE, "orders"): table_of([*columns, "never read"], rows)}


def _rows(runs: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    for name in runs[0]["accused"]:

        def share(kinds: tuple[str, ...], doses: tuple[int, ...], name: str = name) -> str:
            keys = [f"{kind} {dose}" for kind in kinds for dose in doses]
            part = sum(run["accused"][name].get(key, 0) for run in runs for key in keys)
            whole = sum(run["sizes"].get(key, 0) for run in runs for key in keys)
            return _share(part, whole)

        yield [
            name,
            *(share(SECRET, (dose,)) for dose in DOSES),
            share(SECRET, (0,)),
            share(OPEN, DOSES),
            share(OPEN, (0,)),
        ]


def _orders(model: str, runs: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Of the items with choices; each twin once, though the model is asked beside either."""
    twins = list(runs[0]["orders"])
    for who, twin in ((model, twins[0]), *((one, one) for one in twins)):
        role = "model" if who == model else "twin"
        cells = []
        for dose in (*DOSES, 0):
            each = [run["orders"][twin][str(dose)] for run in runs]
            cells.append(_share(sum(one[role] for one in each), sum(one["n"] for one in each)))
        yield [who if role == "model" else f"{model}, {who}", *cells]


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}: {figure(*clopper_pearson(part, whole))}"
