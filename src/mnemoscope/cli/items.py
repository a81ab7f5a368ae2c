"""The verbs items, items api, items gate: is a benchmark hit memory, or predictable?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from mnemoscope.audits.settings import EndpointSettings, checked
from mnemoscope.cli.audit import Again, Folder, Model, Revision, TrustRemoteCode, needed_out
from mnemoscope.cli.gates import judge_finished, judge_found, read_gate
from mnemoscope.cli.options import (
    ANSWER,
    GATE,
    Device,
    Dtype,
    GateFlags,
    JsonAnswer,
    Quiet,
    parse_columns,
)
from mnemoscope.cli.study import shown

if TYPE_CHECKING:
    from mnemoscope.conditions import Gate
    from mnemoscope.contamination.found import Items

_RECALLED = ["item", "group", "prompt", "answer", "written", "reason"]

Table = Annotated[str, Argument(help="Items with prompt and answer: a table, or hub data.")]
Twin = Annotated[
    str | None, Option("--reference", help="The twin: a model alike that never saw them.")
]
Edits = Annotated[int, Option("--edits", help="Words by which an answer may differ.")]
Chance = Annotated[
    float, Option("--chance", help="A hit that a guess makes more often than this tells nothing.")
]
Column = Annotated[
    list[str] | None,
    Option("--column", metavar="NAME=PATH", help="A column of the table: prompt=question."),
]


def items(
    model: Model,
    table: Table,
    out: Folder = None,
    reference: Twin = None,
    edits: Edits = 0,
    chance: Chance = 0.01,
    chat_template: Annotated[
        bool, Option("--chat-template", help="Put each prompt as a user's question.")
    ] = False,
    column: Column = None,
    gate: GateFlags = GATE,
    batch_size: Annotated[int, Option("--batch-size", help="Prompts at once.")] = 64,
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    redo: Again = False,
    answer: JsonAnswer = ANSWER,
    quiet: Quiet = False,
) -> None:
    """Say of each hit of a benchmark whether it is memory, or could be guessed.

    Example: mnemoscope items my-model items.jsonl --reference its-base -o items
    """
    from mnemoscope.contamination.found import ITEMS

    condition = read_gate(gate, ITEMS, out=out, sources=[table])
    from mnemoscope.contamination.run import items as ask

    with shown(quiet):
        found = ask(
            model,
            table,
            needed_out(out, "items"),
            reference=reference,
            edits=edits,
            chance=chance,
            chat_template=chat_template,
            columns=parse_columns(column),
            batch_size=batch_size,
            revision=revision,
            dtype=dtype or "float32",
            device=device or "auto",
            trust_remote_code=trust_remote_code,
            redo=redo,
        )
    _report(found, condition, gate, answer)


def items_api(
    url: Annotated[str, Argument(help="Base address of the API, such as https://HOST/v1.")],
    model: Annotated[str, Argument(help="The service's name for the model.")],
    table: Table,
    out: Folder = None,
    reference: Twin = None,
    chat: Annotated[bool, Option("--chat", help="The service offers only chat.")] = False,
    edits: Edits = 0,
    chance: Chance = 0.01,
    column: Column = None,
    gate: GateFlags = GATE,
    concurrency: Annotated[int, Option("--concurrency", help="Requests at once.")] = 4,
    api_key_env: Annotated[
        str, Option("--api-key-env", help="Environment variable with the key.")
    ] = "OPENAI_API_KEY",
    redo: Again = False,
    answer: JsonAnswer = ANSWER,
    quiet: Quiet = False,
) -> None:
    """Put items to a model behind an OpenAI-compatible API.

    Example: mnemoscope items api http://localhost:8000/v1 NAME items.jsonl -o items
    """
    from mnemoscope.contamination.found import ITEMS

    condition = read_gate(gate, ITEMS, out=out, sources=[table])
    service = checked(
        EndpointSettings,
        url=url,
        model=model,
        chat=chat,
        logprobs=False,
        prompt_as="text",
        concurrency=concurrency,
        api_key_env=api_key_env,
    )
    from mnemoscope.contamination.run import items as ask

    with shown(quiet):
        found = ask(
            service,
            table,
            needed_out(out, "items"),
            reference=reference,
            edits=edits,
            chance=chance,
            columns=parse_columns(column),
            redo=redo,
        )
    _report(found, condition, gate, answer)


def items_gate(
    folder: Annotated[Path, Argument(help="The folder of finished items.")],
    gate: GateFlags = GATE,
    answer: JsonAnswer = ANSWER,
) -> None:
    """Put a condition to finished items, whose files must be as written; no model is loaded.

    Example: mnemoscope items gate items --fail-if 'recalled > 3 items'
    """
    from mnemoscope.contamination.found import ITEMS

    judge_finished(folder, gate, ITEMS, answer)


def _report(found: "Items", conditions: "list[Gate]", flags: GateFlags, answer: JsonAnswer) -> None:
    from mnemoscope.contamination.found import ITEMS, shares_said

    print(found.record["sentence"])
    for name, share in shares_said(found.shares).items():
        print(f"  {name}: {share}")
    if found.record["together"]:
        print(found.record["together"])
    if found.record["orders"]:
        print(found.record["orders"]["sentence"])
    scores = found.scores
    without = f"; without the recalled items {scores['without']}" if found.recalled.height else ""
    print(f"Score {scores['all']}{without}.")
    if found.record["reference"] is None:
        print("No twin: only items with three variants can be recalled. Give one by --reference.")
    assert found.folder is not None
    print(f"Read {found.folder / 'items.html'}; every item stands in items.parquet.")
    recalled = found.recalled.select(_RECALLED)
    answer.facts.update({**found.record, "folder": found.folder, "recalled": recalled})
    judge_found(found, conditions, flags, ITEMS, answer)
