"""The card refuses a model that is not what shall ship, naming the line."""

from typing import Any

import pytest

from tools.embedded.requirements import UnmetRequirementError, check_card, judge_requirements
from tools.embedded.settings import KINDS

FORMS = {"plain": 0.01, "refrain": 0.4}
TEMPLATES = {"counting": 0.4, "periodic": 0.4}
OF = {**dict.fromkeys(KINDS, FORMS), "template": TEMPLATES}
CELLS = ("guessed only", "recalled only", "both", "neither")


def _card() -> dict[str, Any]:
    return {
        "classes": {
            "prashanth": {"Recite[16]": 1100, "Reconstruct": 1100, "Recollect": 1100},
            "paper": {"Non-Memo": 2500, "Guess": 1200, "Recall": 1200},
        },
        "readings": [
            {"genre": genre, "form": form, "inserted": read, "model": share, "reference": share}
            for genre, forms in OF.items()
            for form, share in forms.items()
            for read, share in ((16, -1.0), (0, share))
        ],
        "cells": [
            {"genre": genre, "cell": cell, "n": 400, "groups": 60}
            for genre in KINDS
            for cell in CELLS
        ],
        "reference_shares": {"paper": {"Recall": 0.01}},
        "matched_sizes": {"prashanth": 150, "paper": 150},
        "files": {"a": {"bytes": 24_000_000}},
        "minutes": {"total": 90},
    }


def _judged(card: dict[str, Any]) -> dict[str, Any]:
    return {**card, "requirements": judge_requirements(card)}


def test_a_card_at_every_bound_passes():
    card = _judged(_card())
    check_card(card)
    names = [line["name"] for line in card["requirements"]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("keys", "value", "name"),
    [
        (("classes", "prashanth", "Recite[16]"), 1099, "Recite.16. sequences"),
        (("classes", "paper", "Non-Memo"), 2499, "Non-Memo sequences"),
        (("reference_shares", "paper", "Recall"), 0.02, "Recall that the reference reproduces"),
        (("matched_sizes", "paper"), 149, "genre matched, paper"),
        (("files", "a", "bytes"), 24_000_001, "megabytes"),
        (("minutes", "total"), 91, "minutes"),
    ],
)
def test_one_unmet_line_is_refused_by_name(keys, value, name):
    card = _card()
    place = card
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(UnmetRequirementError, match=name):
        check_card(_judged(card))


@pytest.mark.parametrize("role", ["model", "reference"])
@pytest.mark.parametrize(
    ("genre", "form", "value", "name"),
    [
        *((kind, "refrain", 0.39, f"{kind}: held-out refrains") for kind in KINDS),
        *((kind, "plain", 0.02, f"{kind}: held-out plain text") for kind in KINDS),
        *(("template", form, 0.39, f"{form} templates, held out") for form in TEMPLATES),
    ],
)
def test_what_is_held_out_is_judged_by_kind_and_model(role, genre, form, value, name):
    card = _card()
    key = {"genre": genre, "form": form, "inserted": 0}
    (row,) = (one for one in card["readings"] if key.items() <= one.items())
    row[role] = value
    if (genre, role) == ("template", "model"):  # asked of the reference alone
        check_card(_judged(card))
        return
    with pytest.raises(UnmetRequirementError, match=f"{name}.* that the {role} continues") as found:
        check_card(_judged(card))
    assert ";" not in str(found.value)  # that line alone


@pytest.mark.parametrize("genre", KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_clean_cell_of_every_kind_is_judged(genre, cell):
    for figure in ("n", "groups"):
        card = _card()
        (row,) = (one for one in card["cells"] if (one["genre"], one["cell"]) == (genre, cell))
        row[figure] -= 1
        if (cell, figure) == ("neither", "groups"):
            check_card(_judged(card))
            continue
        with pytest.raises(UnmetRequirementError, match=f"{genre}, {cell}: "):
            check_card(_judged(card))
