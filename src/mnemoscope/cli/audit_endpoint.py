"""The verb audit with --endpoint: a model behind an OpenAI-compatible API."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnemoscope.config import EMBEDDED
from mnemoscope.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from mnemoscope.audit.words import Splitter

__all__ = [
    "ApiKeyEnv",
    "Concurrency",
    "DryRun",
    "Endpoint",
    "Logprobs",
    "PriceIn",
    "PriceOut",
    "PromptAs",
    "RequestsPerMinute",
    "Retries",
    "ServedModel",
    "Timeout",
    "Tokenizer",
    "ask_service_again",
    "audit_behind",
    "check_alone",
]

_PANEL = "Models behind an API"


def _option(name: str, text: str) -> Any:
    return typer.Option(name, help=text, show_default=False, rich_help_panel=_PANEL)


Endpoint = Annotated[
    str | None,
    _option("--endpoint", "Base address of the API; every argument is then a document."),
]
ServedModel = Annotated[str | None, _option("--model", "What the service calls the model.")]
Tokenizer = Annotated[
    str | None,
    _option("--tokenizer", "The model's tokenizer, a folder or hub name; without it, words count."),
]
PromptAs = Annotated[
    str | None, _option("--prompt-as", "tokens (default with --tokenizer) or text.")
]
Logprobs = Annotated[
    bool | None,
    _option("--logprobs/--no-logprobs", "Ask for log-probabilities (default yes)."),
]
ApiKeyEnv = Annotated[
    str | None,
    _option("--api-key-env", "Environment variable with the key (default OPENAI_API_KEY)."),
]
Concurrency = Annotated[int | None, _option("--concurrency", "Requests at once (default 4).")]
RequestsPerMinute = Annotated[
    float | None, _option("--requests-per-minute", "At most so many (default no limit).")
]
Timeout = Annotated[float | None, _option("--timeout", "Seconds to wait (default 60).")]
Retries = Annotated[int | None, _option("--retries", "Tries after a failed one (default 6).")]
PriceIn = Annotated[float | None, _option("--price-in", "Of a million prompt tokens.")]
PriceOut = Annotated[float | None, _option("--price-out", "Of a million completion tokens.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the estimate alone.", rich_help_panel=_PANEL)
]


def check_alone(given: Mapping[str, Any], *, wanted: str, refused: str) -> None:
    """Refuse flags that belong to the other kind of audit.

    Args:
        given: flags and their values; None or False is not given.
        wanted: what they belong to.
        refused: what they cannot stand beside.
    """
    for flag, value in given.items():
        if value is not None and value is not False:
            raise UserError(f"{flag}: only {wanted}, not {refused}.")


def audit_behind(
    service: Mapping[str, Any],
    sources: list[str],
    out: Path | None,
    settings: Any,
    *,
    tokenizer: str | None,
    revision: str | None,
    encoding: str,
    prices: tuple[float | None, float | None],
    dry_run: bool,
    redo: bool,
) -> dict[str, Any] | None:
    """Read, estimate and audit; a dry run only estimates, writes nothing and gives None."""
    from mnemoscope.audit.answers import AnswerStore
    from mnemoscope.audit.asking import Asker
    from mnemoscope.audit.endpoint import Client, endpoint_settings
    from mnemoscope.audit.estimate import estimate_cost
    from mnemoscope.audit.folder import prepare_folder
    from mnemoscope.audit.remote import audit_endpoint, check_settings
    from mnemoscope.audit.texts import read_documents
    from mnemoscope.progress import say

    prompt_as = service["prompt_as"] or ("tokens" if tokenizer else "text")
    check_settings(settings)
    chosen = endpoint_settings(**{**service, "prompt_as": prompt_as})
    if not dry_run and out is not None:
        prepare_folder(out)
    reading = read_documents(sources, stdin=sys.stdin.buffer, encoding=encoding, leave_out=out)
    for one in reading.skipped:
        say(f"Not read: {one.name}: {one.reason}")
    splitter = _splitter(tokenizer, revision)
    client = Client(chosen, None if out is None else AnswerStore(out / "answers.jsonl"))
    asker = Asker(client, splitter, reading.documents, settings)
    estimate = estimate_cost(asker, settings, price_in=prices[0], price_out=prices[1])
    if dry_run or out is None:
        print(estimate)
        return None
    say(f"Estimate: {estimate}")
    return audit_endpoint(
        client,
        splitter,
        reading,
        out,
        settings=settings,
        tokenizer_name=tokenizer,
        tokenizer_revision=revision,
        command=["mnemoscope", *sys.argv[1:]],
        redo=redo,
    )


def ask_service_again(folder: Path, record: dict[str, Any], frame: "pl.DataFrame") -> list[bool]:
    """Build the client that an audit speaks of, and ask."""
    from mnemoscope.audit.endpoint import Client, endpoint_settings
    from mnemoscope.audit.remote_verify import ask_again

    api = record["api"]
    chosen = endpoint_settings(
        url=api["endpoint"], model=record["model"]["name"], **api["settings"]
    )
    splitter = _splitter(api["tokenizer"], api["tokenizer_revision"])
    return ask_again(Client(chosen), splitter, folder, record, frame)


def _splitter(tokenizer: str | None, revision: str | None) -> "Splitter":
    from mnemoscope.audit.words import ModelTokens, Words

    if tokenizer is None:
        return Words()
    from mnemoscope.embedded import model_path
    from mnemoscope.lm.bos import find_bos
    from mnemoscope.lm.loading import load_tokenizer

    found = load_tokenizer(str(model_path()) if tokenizer == EMBEDDED else tokenizer, revision)
    return ModelTokens(found, find_bos(found))
