"""The tables of `docs/items.md`: what each detector accuses, by kind and by readings."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.pages import figure, table_of
from mnemoscope.stats import clopper_pearson

PAGE = "docs/items.md"
DOSES = (1, 4, 16, 64)
SECRET, OPEN = ("fact", "code"), ("counting", "letter", "copied")


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """One row a detector."""
    columns = [
        "detector",
        *(f"secrets read {dose} times: accused, %" for dose in DOSES),
        "secrets never read",
        "guessable or copied, read",
        "guessable or copied, never read",
    ]
    return {(PAGE, "detectors"): table_of(columns, _rows(found["runs"]))}


def _rows(runs: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    for name in runs[0]["accused"]:

        def share(kinds: tuple[str, ...], doses: tuple[int, ...], name: str = name) -> str:
            keys = [f"{kind} {dose}" for kind in kinds for dose in doses]
            part = sum(run["accused"][name].get(key, 0) for run in runs for key in keys)
            whole = sum(run["sizes"].get(key, 0) for run in runs for key in keys)
            return f"{part} of {whole}: {figure(*clopper_pearson(part, whole))}"

        yield [
            name,
            *(share(SECRET, (dose,)) for dose in DOSES),
            share(SECRET, (0,)),
            share(OPEN, DOSES),
            share(OPEN, (0,)),
        ]
