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


ROLES = ("model", "reference")


def _held_out(genre: str, form: str) -> tuple:
    return "readings", {"genre": genre, "form": form, "inserted": 0}


UNMET = [
    (("classes", "prashanth"), "Recite[16]", 1099, "Recite.16. sequences"),
    (("classes", "paper"), "Non-Memo", 2499, "Non-Memo sequences"),
    (("reference_shares", "paper"), "Recall", 0.02, "Recall that the reference reproduces"),
    (("matched_sizes",), "paper", 149, "genre matched, paper"),
    (("files", "a"), "bytes", 24_000_001, "megabytes"),
    (("minutes",), "total", 91, "minutes"),
    *(
        (_held_out(kind, form), role, value, f"{kind}: held-out {name}.* that the {role} continues")
        for kind in KINDS
        for form, value, name in (("refrain", 0.39, "refrains"), ("plain", 0.02, "plain text"))
        for role in ROLES
    ),
    *(
        (_held_out("template", form), "reference", 0.39, f"{form} templates, held out")
        for form in TEMPLATES
    ),
    *(
        (("cells", {"genre": kind, "cell": cell}), figure, value, f"{kind}, {cell}: ")
        for kind in KINDS
        for cell in CELLS
        for figure, value in (("n", 399), ("groups", 59))
        if (cell, figure) != ("neither", "groups")
    ),
]
ALLOWED = [
    *((_held_out("template", form), "model", 0.39, None) for form in TEMPLATES),
    *((("cells", {"genre": kind, "cell": "neither"}), "groups", 59, None) for kind in KINDS),
]


@pytest.mark.parametrize(("place", "key", "value", "said"), [*UNMET, *ALLOWED])
def test_the_unmet_line_alone_is_refused_by_name(place, key, value, said):
    """Every figure stands at its bound before one is changed."""
    card = found = _card()
    for one in place:
        is_row = isinstance(one, dict)
        found = next(row for row in found if one.items() <= row.items()) if is_row else found[one]
    found[key] = value
    judged = _judged(card)
    names = [line["name"] for line in judged["requirements"]]
    assert len(set(names)) == len(names)
    if said is None:
        check_card(judged)
        return
    with pytest.raises(UnmetRequirementError, match=said) as refused:
        check_card(judged)
    assert ";" not in str(refused.value)
