"""The task `mnemoscope/verbatim` for inspect_ai: how much of each class does a model reproduce?

    inspect eval mnemoscope/verbatim -T study=my-study --model ...

inspect_ai finds it by an entry point. Sequences and scores are those of the task for
lm-evaluation-harness.
"""

from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, grouped, mean, scorer
from inspect_ai.solver import TaskState, generate

from mnemoscope.embedded import place_of
from mnemoscope.errors import UserError
from mnemoscope.flow.lm_eval import asked_of, shown_rows
from mnemoscope.flow.lm_eval_score import process_results
from mnemoscope.lm.tokenizer import load_tokenizer

_BY_CLASS = [grouped(mean(), "class", all_label="all sequences")]


@task  # type: ignore[untyped-decorator]
def verbatim(
    study: str | None = None,
    table: str | None = None,
    taxonomy: str | list[str] | None = None,
    tokenizer: str | None = None,
    prefix: int | None = None,
    most: int | None = None,
    seed: int = 0,
) -> Any:
    """Show a model the prefixes of a study or table and compare what it writes with the suffixes.

    Args:
        study: a labelled study's folder.
        table: or a table with `tokens` and perhaps `class`; it needs `tokenizer`.
        taxonomy: whose classes are told apart; the study's first, or the table's column `class`.
            `inspect` makes a list of a name with commas, which is joined again.
        tokenizer: of a table: the model that its tokens are for.
        prefix: of a table: tokens shown; half of a sequence unless given.
        most: sequences of each class, drawn by `seed`.
        seed: of that draw.

    Raises UserError: neither or both of `study` and `table`; otherwise as `asked_of` and
    `shown_rows`.
    """
    if (study is None) == (table is None):
        raise UserError("mnemoscope/verbatim: give -T study=FOLDER, or -T table=FILE.")
    asked = asked_of(
        Path(str(study or table)),
        taxonomy=",".join(taxonomy) if isinstance(taxonomy, list) else taxonomy,
        tokenizer=tokenizer,
        prefix=prefix,
        verb="mnemoscope/verbatim",
    )
    loaded = load_tokenizer(place_of(asked.tokenizer), asked.revision)
    shown = shown_rows(asked, loaded, most=most, seed=seed)
    samples = [
        Sample(
            id=row["sequence_id"],
            input=row["prefix"],
            target=row["suffix"],
            metadata={"class": row["class"] or "no class", "ends": row["ends"]},
        )
        for row in shown.rows.iter_rows(named=True)
    ]
    return Task(
        dataset=MemoryDataset(samples, name=asked.where),
        solver=generate(),
        scorer=verbatim_match(),
        config=GenerateConfig(temperature=0.0, max_tokens=shown.n_suffix),
        version=1,
    )


@scorer(metrics={"exact_match": _BY_CLASS, "longest_match": _BY_CLASS})  # type: ignore[untyped-decorator]
def verbatim_match() -> Any:
    """1 where the continuation begins with the whole suffix; and its suffix tokens in a row."""

    async def score(state: TaskState, target: Any) -> Score:
        document = {"suffix": target.text, "ends": state.metadata["ends"]}
        written = state.output.completion
        return Score(value=process_results(document, [written]), answer=written)

    return score
