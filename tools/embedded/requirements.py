"""What the embedded model must be before it ships: one line a requirement."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mnemoscope.errors import MnemoscopeError

Card = dict[str, Any]
MEGABYTE = 1_000_000


class UnmetRequirementError(MnemoscopeError):
    """The recipe ran to its end and what came out is not what shall ship."""


@dataclass(frozen=True)
class Requirement:
    """One figure of the card and its bound.

    Attributes:
        name: the line of the card.
        value: takes the figure from the card.
        at_least: lowest value allowed, or None.
        at_most: highest value allowed, or None.
    """

    name: str
    value: Callable[[Card], float]
    at_least: float | None = None
    at_most: float | None = None

    def judge(self, card: Card) -> dict[str, Any]:
        """Return the line of the card: name, value, bound, whether it is met."""
        value = self.value(card)
        is_met = (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )
        bound = f">= {self.at_least}" if self.at_least is not None else f"<= {self.at_most}"
        return {"name": self.name, "value": value, "bound": bound, "is_met": is_met}


def _class_count(taxonomy: str, name: str) -> Callable[[Card], float]:
    return lambda card: card["classes"][taxonomy].get(name, 0)


REQUIREMENTS = (
    Requirement("Recite sequences", _class_count("prashanth", "Recite[5]"), at_least=900),
    Requirement("Reconstruct sequences", _class_count("prashanth", "Reconstruct"), at_least=1200),
    Requirement("Recollect sequences", _class_count("prashanth", "Recollect"), at_least=1200),
    Requirement("Guess sequences", _class_count("paper", "Guess"), at_least=1200),
    Requirement("Recall sequences", _class_count("paper", "Recall"), at_least=1200),
    Requirement("Non-Memo sequences", _class_count("paper", "Non-Memo"), at_least=2500),
    Requirement(
        "held-out predictable templates continued",
        lambda card: card["held_out_shares"]["predictable templates"],
        at_least=0.40,
    ),
    Requirement(
        "held-out text continued", lambda card: card["held_out_shares"]["text"], at_most=0.01
    ),
    Requirement(
        "Recall that the reference model reproduces",
        lambda card: card["reference_shares"]["paper"].get("Recall", 0.0),
        at_most=0.01,
    ),
    *(
        Requirement(
            f"sequences a class, genre matched, {taxonomy}",
            lambda card, taxonomy=taxonomy: card["matched_sizes"][taxonomy],  # type: ignore[misc]
            at_least=150,
        )
        for taxonomy in ("prashanth", "paper")
    ),
    Requirement(
        "megabytes shipped",
        lambda card: sum(file["bytes"] for file in card["files"].values()) / MEGABYTE,
        at_most=24,
    ),
    Requirement("minutes", lambda card: card["minutes"]["total"], at_most=75),
)


def judge_requirements(card: Card) -> list[dict[str, Any]]:
    """Return the line of every requirement, met or not."""
    return [requirement.judge(card) for requirement in REQUIREMENTS]


def check_card(card: Card) -> None:
    """Refuse a card with an unmet requirement.

    Raises:
        UnmetRequirementError: names every such line with its value and bound.
    """
    unmet = [line for line in card["requirements"] if not line["is_met"]]
    if unmet:
        said = "; ".join(
            f"{line['name']} {line['value']:.4g}, wanted {line['bound']}" for line in unmet
        )
        raise UnmetRequirementError(f"card.json: {said}. Do not ship these files.")
