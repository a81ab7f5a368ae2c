"""The tables of `docs/analyses/distilled-pairs.md`: what students repeat, by rows and loss."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.pages import figure, number, table_of

PAGE = "docs/analyses/distilled-pairs.md"
ROWS = {
    "captions": "the memorized pictures and captions",
    "pictures": "the memorized pictures, another caption",
    "neither": "neither",
}
MEMORIZED, RULE = "noise", "shape"


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
        "rows hold", "student", "memorized captions repeated, %", "above the control",
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
            rule = shares.get((model, RULE))
            if model == "teacher":
                if table == "captions":
                    yield ["–", model, figure(*own["share"], digits=0), "–",
                           figure(*swapped[model, MEMORIZED], digits=0), "–", "–", "–",
                           figure(*rule["share"], digits=0) if rule else "–"]  # fmt: skip
                continue
            yield [
                ROWS[table],
                model,
                figure(*own["share"], digits=0),
                "–" if model == "control" else figure(*own["above"], digits=0),
                figure(*swapped[model, MEMORIZED], digits=0),
                number(*gain["gain"]) if gain else "–",
                *(number(*gain[one]) if gain else "–" for one in ("auc", "auc_swapped")),
                figure(*rule["share"], digits=0) if rule else "–",
            ]
