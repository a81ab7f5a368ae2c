"""The tables of known circuits in `docs/analyses/trigger.md` and `perturb.md`."""

from collections.abc import Mapping
from typing import Any

from experiments.pages import figure, table_of

TRIGGER, PERTURB = "docs/analyses/trigger.md", "docs/analyses/perturb.md"


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """States by what holds a token; prompts beside what must come out; what is unlearned, where."""
    stress = found["perturb"]
    own = {row["kind"]: row for row in stress["prompts"] if row["group"] == "Recall"}
    unseen = {row["kind"]: row for row in stress["prompts"] if row["group"] == "unseen"}
    beside = {(row["way"], row["group"]): row for row in stress["beside"]}
    return {
        (TRIGGER, "circuit"): table_of(
            ["held by", "sequences", "one of its states changes it, %", "one of the others, %",
             "to be replaced together", "found so, %"],
            [
                [row["held"], f"{row['n']}", _figure(row["own"]), _figure(row["other"]),
                 f"{row['fewest'] or 'none'}", _figure(row["as_built"])]
                for row in found["states"]
            ],
        ),
        (PERTURB, "circuit, prompts"): table_of(
            ["prompt", "passages", "must come out whole, %", "come out whole, %",
             "never learnt, whole, %"],
            [
                [kind, f"{row['n']}", f"{100 * stress['built'][kind]:.1f}", _figure(row["whole"]),
                 _figure(unseen[kind]["whole"])]
                for kind, row in own.items()
            ],
        ),
        (PERTURB, "circuit, unlearned"): table_of(
            ["unlearned by", "steps", "whole after, %", "right tokens of other passages, %"],
            [
                [row["way"], f"{row['step']}", _figure(row["right"]),
                 _figure(beside[row["way"], "Recall, not unlearned"]["after_right"])]
                for row in stress["unlearned"]
            ],
        ),
        (PERTURB, "circuit, weights"): table_of(
            ["unlearned by", "weights", "of the unlearned passages, %", "by chance, %",
             "of other passages, %", "of all passages, %", "of none, %"],
            [
                [row["way"], f"{row['n']}", _figure(row["own"]), f"{100 * row['chance']:.2f}",
                 *(_figure(row[name]) for name in ("others", "shared", "nowhere"))]
                for row in stress["weights"]
            ],
        ),
    }  # fmt: skip


def _figure(value: Any) -> str:
    return figure(*value) if value is not None else figure(None)
