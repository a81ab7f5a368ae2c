"""The card refuses a model that is not what shall ship, naming the line."""

from typing import Any

import pytest

from tools.embedded.requirements import UnmetRequirementError, check_card, judge_requirements


def _card() -> dict[str, Any]:
    return {
        "classes": {
            "prashanth": {"Recite[5]": 900, "Reconstruct": 1200, "Recollect": 1200},
            "paper": {"Non-Memo": 2500, "Guess": 1200, "Recall": 1200},
        },
        "held_out_shares": {"predictable templates": 0.4, "text": 0.01},
        "reference_shares": {"paper": {"Recall": 0.01}},
        "matched_sizes": {"prashanth": 150, "paper": 150},
        "files": {"a": {"bytes": 24_000_000}},
        "minutes": {"total": 75},
    }


def _judged(card: dict[str, Any]) -> dict[str, Any]:
    return {**card, "requirements": judge_requirements(card)}


def test_a_card_at_every_bound_passes():
    check_card(_judged(_card()))


@pytest.mark.parametrize(
    ("keys", "value", "name"),
    [
        (("classes", "prashanth", "Recite[5]"), 899, "Recite sequences"),
        (("classes", "paper", "Non-Memo"), 2499, "Non-Memo sequences"),
        (("held_out_shares", "predictable templates"), 0.39, "held-out predictable templates"),
        (("held_out_shares", "text"), 0.02, "held-out text"),
        (("reference_shares", "paper", "Recall"), 0.02, "reference model reproduces"),
        (("matched_sizes", "paper"), 149, "genre matched, paper"),
        (("files", "a", "bytes"), 24_000_001, "megabytes"),
        (("minutes", "total"), 76, "minutes"),
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
