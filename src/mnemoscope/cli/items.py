"""The verbs items and items api: is a benchmark hit memory, or predictable?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from mnemoscope.audits.settings import EndpointSettings, checked
from mnemoscope.cli.options import ANSWER, Answer, Device, Dtype, Quiet, judged, parse_columns
from mnemoscope.cli.study import shown
from mnemoscope.errors import UserError

if TYPE_CHECKING:
    from mnemoscope.conditions import Condition
    from mnemoscope.contamination.run import Items

Table = Annotated[str, Argument(help="Items with prompt and answer: a table, or hub data.")]
Folder = Annotated[Path | None, Option("-o", "--out", help="Folder for the result.")]
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
FailIf = Annotated[str | None, Option("--fail-if", help="Status 3 if, say, 'recalled > 1%'.")]
Redo = Annotated[bool, Option("--redo", help="Write over other items.")]


def items(
    model: Annotated[str, Argument(help="Folder, hub name, .gguf file, 'embedded'.")],
    table: Table,
    out: Folder = None,
    reference: Twin = None,
    edits: Edits = 0,
    chance: Chance = 0.01,
    chat_template: Annotated[
        bool, Option("--chat-template", help="Put each prompt as a user's question.")
    ] = False,
    column: Column = None,
    fail_if: FailIf = None,
    batch_size: Annotated[int, Option("--batch-size", help="Prompts at once.")] = 64,
    revision: Annotated[str | None, Option("--revision", help="Hub revision.")] = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: Annotated[
        bool, Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    redo: Redo = False,
    answer: Answer = ANSWER,
    quiet: Quiet = False,
) -> None:
    """Say of each hit of a benchmark whether it is memory, or could be guessed.

    Example: mnemoscope items my-model items.jsonl --reference its-base -o items
    """
    gate = _gate(fail_if)
    from mnemoscope.contamination.run import items as ask

    with shown(quiet):
        found = ask(
            model,
            table,
            _out(out),
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
    _report(found, gate, answer)


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
    fail_if: FailIf = None,
    concurrency: Annotated[int, Option("--concurrency", help="Requests at once.")] = 4,
    api_key_env: Annotated[
        str, Option("--api-key-env", help="Environment variable with the key.")
    ] = "OPENAI_API_KEY",
    redo: Redo = False,
    answer: Answer = ANSWER,
    quiet: Quiet = False,
) -> None:
    """Put items to a model behind an OpenAI-compatible API.

    Example: mnemoscope items api http://localhost:8000/v1 NAME items.jsonl -o items
    """
    gate = _gate(fail_if)
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
            _out(out),
            reference=reference,
            edits=edits,
            chance=chance,
            columns=parse_columns(column),
            redo=redo,
        )
    _report(found, gate, answer)


def _out(out: Path | None) -> Path:
    if out is None:
        raise UserError("items needs a folder for the result: add -o DIR.")
    return out


def _gate(text: str | None) -> "Condition | None":
    from mnemoscope.conditions import parse_condition

    if text is None:
        return None
    return parse_condition(text, kinds=["recalled"], noun="item", whole="items")


def _report(found: "Items", gate: "Condition | None", answer: Answer) -> None:
    from mnemoscope.words import plural

    print(found.record["sentence"])
    for name, share in found.shares.items():
        print(f"  {name}: {share}")
    if found.record["together"]:
        print(found.record["together"])
    scores = found.scores
    print(f"Score {scores['all']}; without the recalled items {scores['without']}.")
    if found.record["reference"] is None:
        print("No twin: only items with three variants can be recalled. Give one by --reference.")
    assert found.folder is not None
    print(f"Read {found.folder / 'items.html'}; every item stands in items.parquet.")
    answer.facts.update({**found.record, "folder": found.folder})
    if gate is None:
        return
    n, share = found.recalled.height, found.shares["recalled"]
    amount = float(n) if gate.is_number else share.value or 0.0
    said = plural(n, "item") if gate.is_number else gate.say_share(share)
    said = f"{said} recalled, {gate.allowed}"
    judged(gate, said, answer, is_failed=gate.is_beyond(amount))
