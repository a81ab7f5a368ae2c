"""The tables of `docs/analyses/distilled-pairs.md`: what students repeat, by rows and loss."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.pages import figure, number, table_of
from mnemoscope.words import UNKNOWN

PAGE = "docs/analyses/distilled-pairs.md"
ROWS = {
    "captions": "the memorized pictures and captions",
    "pictures": "the memorized pictures, another caption",
    "neither": "neither",
}
MEMORIZED, RULE = "noise", "shape"
TOLD = ("gain", "auc", "auc_swapped")


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Captions repeated, gains, swapped pictures, the sentences, and what it took."""
    held = {name: found[name] for name in ROWS}
    said = "".join(
        f"- **Rows hold {ROWS[name]}.** {one['sentence']}\n" for name, one in held.items()
    )
    steps, n_seeds, seconds = found["steps"], found["seeds"], found["seconds"]
    cost = (
        f"{n_seeds} seed{'s' * (n_seeds != 1)}; a teacher of {steps['teacher']} steps, "
        f"{steps['base']} steps for the first student, {steps['student']} for each of the "
        f"{len(seconds)} others, of 16 rows: {seconds[0]:.0f} to {seconds[-1]:.0f} s a student on "
        f"a shared core, {sum(seconds) / 60:.0f} minutes in all.\n"
    )
    columns = [
        "rows hold", "student", "memorized captions repeated, %", "by seed", "above the control",
        "with another picture, %", "gain, nats a token", "AUC of the gain",
        "AUC, another picture", "shapes repeated, %",
    ]  # fmt: skip
    return {
        (PAGE, "students"): table_of(columns, _students(held)),
        (PAGE, "answer"): said,
        (PAGE, "cost"): cost,
    }


def _students(held: Mapping[str, Any]) -> Iterator[list[str]]:
    for table, found in held.items():
        shares = {(one["model"], one["class"]): one for one in found["shares"]}
        swapped = {(one["model"], one["class"]): one["share"] for one in found["swapped"]}
        told = {(one["model"], one["kind"]): one for one in found["kinds"]}
        for model in dict.fromkeys(name for name, _ in shares):
            own, gain = shares[model, MEMORIZED], told.get((model, MEMORIZED))
            if model == "teacher" and table != "captions":  # the same in all
                continue
            yield [
                "–" if model == "teacher" else ROWS[table],
                model,
                figure(*own["share"], digits=0),
                ", ".join(figure(one, digits=0) for one in found["by_seed"][model]),
                UNKNOWN if model == "teacher" else figure(*own["above"], digits=0),
                figure(*swapped[model, MEMORIZED], digits=0),
                *(number(*gain[one]) if gain else UNKNOWN for one in TOLD),
                figure(*shares[model, RULE]["share"], digits=0),
            ]
