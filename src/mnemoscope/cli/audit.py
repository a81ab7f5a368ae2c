"""The verb audit: which passages of documents a model repeats, guessed or recalled."""

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnemoscope.cli.options import Device, Dtype, Quiet, Redo
from mnemoscope.cli.study import shown
from mnemoscope.errors import UserError
from mnemoscope.lm.hub import check_device_name, check_dtype_name
from mnemoscope.study.settings import EMBEDDED

if TYPE_CHECKING:
    import polars as pl

    from mnemoscope.audit.documents import Splitter
    from mnemoscope.audit.found import Gate
    from mnemoscope.audit.ground import CnnGround
    from mnemoscope.audit.run import AskedModel
    from mnemoscope.audit.settings import AuditSettings
    from mnemoscope.audit.verify import Verification
    from mnemoscope.lm.model import LanguageModel


# The verb audit with --endpoint: a model behind an OpenAI-compatible API.

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
    from mnemoscope.audit.documents import read_documents
    from mnemoscope.audit.run import audit_endpoint, check_settings, prepare_folder
    from mnemoscope.audit.service import (
        AnswerStore,
        Asker,
        Client,
        endpoint_settings,
        estimate_cost,
    )
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
    from mnemoscope.audit.service import Client, endpoint_settings
    from mnemoscope.audit.verify import ask_again

    api = record["api"]
    chosen = endpoint_settings(
        url=api["endpoint"], model=record["model"]["name"], **api["settings"]
    )
    splitter = _splitter(api["tokenizer"], api["tokenizer_revision"])
    return ask_again(Client(chosen), splitter, folder, record, frame)


def _splitter(tokenizer: str | None, revision: str | None) -> "Splitter":
    from mnemoscope.audit.documents import ModelTokens, Words

    if tokenizer is None:
        return Words()
    from mnemoscope.embedded import model_path
    from mnemoscope.lm.bos import find_bos
    from mnemoscope.lm.load import load_tokenizer

    found = load_tokenizer(str(model_path()) if tokenizer == EMBEDDED else tokenizer, revision)
    return ModelTokens(found, find_bos(found))


# What the verb audit prints: shares, a verification, the gate's answer and its exit status.

_GATE_FAILED = 3


def print_verification(folder: Path, found: "Verification") -> None:
    """Say what does not hold, and leave with status 3 if anything does not."""
    for line in [*found.problems, *found.notes]:
        print(line)
    print(f"{folder}: {found.n_hold} of {found.n_spans} passages hold.")
    if found.problems:
        n = len(found.problems)
        print(f"{folder} does not hold: {n} problem{'' if n == 1 else 's'}, named above.")
        raise typer.Exit(_GATE_FAILED)


def print_record(out: Path, record: dict[str, Any]) -> None:
    """Say what was not asked, the shares, and where the audit is."""
    for row in record["documents"]:
        if row["is_too_short"]:
            print(f"{row['document']}: shorter than one window, not asked.")
    for row in record["skipped"]:
        print(f"{row['document']}: not read: {row['reason']}")
    whole = record["summary"]
    documents = f"{whole['documents']} document{'' if whole['documents'] == 1 else 's'}"
    print(
        f"{documents}, {whole['characters']:,} characters: "
        f"{_share(whole['reproduced'])} reproduced, {_share(whole['guessed'])} guessed "
        f"({_passages(whole['guess_spans'])}), {_share(whole['recalled'])} recalled "
        f"({_passages(whole['recall_spans'])})."
    )
    print(f"In {out / 'audit.html'}, spans.parquet and audit.json. Open the first in a browser.")


def write_junit(path: Path, out: Path, record: dict[str, Any]) -> None:
    """Write the JUnit report of an audit."""
    from mnemoscope.audit.page import junit_xml
    from mnemoscope.files import read_parquet, write_text

    write_text(path, junit_xml(record, read_parquet(out / "spans.parquet")))
    print(f"Wrote {path}.")


def _passages(n: int) -> str:
    return f"{n:,} passage{'' if n == 1 else 's'}"


def _share(share: dict[str, float]) -> str:
    return f"{100 * share['share']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def judge(gate: "Gate", record: dict[str, Any]) -> None:
    """Leave with status 3 if the condition holds."""
    if not gate.is_failed(record["summary"]):
        print(f"Passed ({gate.kind} {_share(record['summary'][gate.kind])}): not {gate.text}.")
        return
    print(f"Failed: {gate.text} ({_share(record['summary'][gate.kind])}).")
    raise typer.Exit(_GATE_FAILED)


# The verb audit: which passages of documents a model repeats, guessed or recalled.

_NO_REFERENCE = "none"
_MAKE_STUDY = "auto"

_Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="Folder for the audit.", show_default=False),
]


def audit(
    model: Annotated[
        str | None,
        typer.Argument(help="Folder, hub name, .gguf file, or 'embedded'.", show_default=False),
    ] = None,
    documents: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts, Markdown, code, HTML, PDF, DOCX, folders, .jsonl or .parquet with a "
            "column 'text', or - for standard input.",
            show_default=False,
        ),
    ] = None,
    out: _Out = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="A model of the same tokenizer that cannot have seen the documents; of "
            "'embedded' its own, 'none' for none.",
            show_default=False,
        ),
    ] = None,
    fail_if: Annotated[
        str | None,
        typer.Option(
            "--fail-if",
            help="Exit with status 3 if so, for example 'recalled > 0.5%'.",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(
            "--verify", help="Repeat the passages of an audit's folder.", show_default=False
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="Share of right tokens (default 0.9).")
    ] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", help="Tokens between windows (default 8).")
    ] = None,
    prefix: Annotated[
        int | None, typer.Option("--prefix", help="Tokens the model is shown (default 32).")
    ] = None,
    suffix: Annotated[
        int | None, typer.Option("--suffix", help="Tokens it is asked for (default 32).")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Of the sampling (default 1).")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Tokens sampled from, 0 is all (default 40).")
    ] = None,
    probability: Annotated[
        float | None,
        typer.Option("--probability", help="Chance wanted of the tries (default 0.9)."),
    ] = None,
    patterns: Annotated[
        str | None, typer.Option("--patterns", help="published (default) or strict rules.")
    ] = None,
    n_prefixes: Annotated[
        int | None,
        typer.Option("--other-prefixes", help="Other prefixes tried, 0 is none (default 8)."),
    ] = None,
    encoding: Annotated[str, typer.Option("--encoding", help="Encoding of text files.")] = "utf-8",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Windows a forward pass (default 64).")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Draws other prefixes.")] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Hub revision of the model.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            help="A finished study of this model, whose CNNs then give probabilities; 'auto' "
            "makes one of free texts.",
            show_default=False,
        ),
    ] = None,
    chat_template: Annotated[
        bool,
        typer.Option("--chat-template", help="A chat-tuned model's answer begins with the text."),
    ] = False,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", help="Also write a JUnit report.", show_default=False),
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    endpoint: Endpoint = None,
    served_model: ServedModel = None,
    tokenizer: Tokenizer = None,
    prompt_as: PromptAs = None,
    logprobs: Logprobs = None,
    api_key_env: ApiKeyEnv = None,
    concurrency: Concurrency = None,
    requests_per_minute: RequestsPerMinute = None,
    timeout: Timeout = None,
    retries: Retries = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    dry_run: DryRun = False,
    redo: Redo = False,
    quiet: Quiet = False,
) -> None:
    """Find the passages of documents that a model repeats, and say: guessed or recalled.

    A model behind an API: mnemoscope audit --endpoint URL --model NAME README.md -o audit

    Example: mnemoscope audit embedded README.md -o audit
    """
    service = {
        "url": endpoint,
        "model": served_model,
        "prompt_as": prompt_as,
        "logprobs": logprobs,
        "api_key_env": api_key_env,
        "concurrency": concurrency,
        "requests_per_minute": requests_per_minute,
        "timeout": timeout,
        "retries": retries,
    }
    costs = {"--tokenizer": tokenizer, "--price-in": price_in, "--price-out": price_out}
    if endpoint is None:
        named = {f"--{name.replace('_', '-')}": value for name, value in service.items()}
        check_alone(
            {**named, **costs, "--dry-run": dry_run},
            wanted="with --endpoint",
            refused="with a model that runs here",
        )
    given = {"dtype": dtype or "float32", "device": device or "auto"}
    check_dtype_name(given["dtype"])
    check_device_name(given["device"])
    if verify is not None:
        _refuse_beside_verify(model, documents, out)
        with shown(quiet):
            found = _verify(verify, given["device"])
        print_verification(verify, found)
        return
    if endpoint is not None and model is not None:
        documents, model = [model, *(documents or [])], None
    if (model is None and endpoint is None) or not documents:
        raise UserError(
            "audit wants a model and documents: mnemoscope audit MODEL DOCUMENTS -o DIR"
        )
    if out is None and not dry_run:
        raise UserError("audit wants a folder for the result: add -o DIR.")
    if model is not None:
        with shown(quiet):
            beside = _reference_name(model, reference)
            _check_names(model, revision, beside, documents, study)
    from mnemoscope.audit.found import parse_gate
    from mnemoscope.audit.settings import audit_settings

    if junit is not None and not junit.absolute().parent.is_dir():
        raise UserError(f"--junit {junit}: no such folder. Make it first.")
    gate = parse_gate(fail_if) if fail_if is not None else None
    settings = audit_settings(
        threshold=threshold,
        stride=stride,
        prefix=prefix,
        suffix=suffix,
        temperature=temperature,
        top_k=0 if top_k is None and endpoint is not None else top_k,
        probability=probability,
        patterns=patterns,
        n_prefixes=n_prefixes,
        batch_size=batch_size,
        seed=seed,
        chat_template=chat_template,
    )
    if endpoint is not None:
        here = {"--study": study, "--chat-template": chat_template}
        local = {"--reference": reference, "--batch-size": batch_size}
        check_alone(
            {**local, "--dtype": dtype, "--device": device, **here},
            wanted="with a model that runs here",
            refused="with --endpoint",
        )
    with shown(quiet), _folder_of_something(out or Path()):
        if model is not None and out is not None:
            record: dict[str, Any] | None = _audit(
                model,
                documents,
                out,
                settings,
                reference,
                revision,
                encoding,
                given,
                study=study,
                redo=redo,
            )
        else:
            record = audit_behind(
                service,
                documents,
                out,
                settings,
                tokenizer=tokenizer,
                revision=revision,
                encoding=encoding,
                prices=(price_in, price_out),
                dry_run=dry_run,
                redo=redo,
            )
    if record is None or out is None:
        return
    print_record(out, record)
    if junit is not None:
        write_junit(junit, out, record)
    if gate is not None:
        judge(gate, record)


def _audit(
    model: str,
    sources: list[str],
    out: Path,
    settings: "AuditSettings",
    reference: str | None,
    revision: str | None,
    encoding: str,
    given: dict[str, str],
    *,
    study: str | None,
    redo: bool,
) -> dict[str, Any]:
    """Read, load and audit; nothing is loaded for documents that cannot be read."""
    from mnemoscope.audit.documents import read_documents
    from mnemoscope.audit.run import prepare_folder, standing_audit
    from mnemoscope.progress import say

    prepare_folder(out)
    reading = read_documents(sources, stdin=sys.stdin.buffer, encoding=encoding, leave_out=out)
    for one in reading.skipped:
        say(f"Not read: {one.name}: {one.reason}")
    beside = _reference_name(model, reference)
    if study is None:
        asked = _asked(model, "model", revision, given)
        other_asked = None if beside is None else _asked(beside, "reference", None, given)
        there = standing_audit(out, reading, settings, asked, other_asked, redo=redo)
        if there is not None:
            say(f"{out}: this audit is already there.")
            return there
    from mnemoscope.audit.run import audit_documents, check_audit

    lm = _load(model, "model", revision, given)
    other = None if beside is None else _load(beside, "reference", None, given)
    folder = None if study is None else Path(study)
    if study == _MAKE_STUDY:
        check_audit(lm, reading, out, settings, other, redo=redo)
        folder = _make_study(out, settings, model, revision, given, lm)
    return audit_documents(
        lm,
        reading,
        out,
        settings=settings,
        reference=other,
        cnn=None if folder is None else _ground(folder, lm, settings),
        command=["mnemoscope", *sys.argv[1:]],
        names={"model": model, "reference": beside or ""},
        redo=redo,
    )


def _check_names(
    model: str, revision: str | None, reference: str | None, sources: list[str], study: str | None
) -> None:
    """Refuse what is not there before torch is loaded."""
    from mnemoscope.lm.hub import check_model
    from mnemoscope.study.folder import Study

    for source in sources:
        if source != "-" and not Path(source).exists():
            raise UserError(f"{source}: no such file or folder.")
    if study not in (None, _MAKE_STUDY):
        Study(Path(str(study)))
    if model != EMBEDDED:
        check_model(model, revision)
    if reference is not None and reference != EMBEDDED:
        check_model(reference)


def _make_study(
    out: Path,
    settings: "AuditSettings",
    model: str,
    revision: str | None,
    given: dict[str, str],
    lm: "LanguageModel",
) -> Path:
    """Where the study is that was made of the model, or found finished."""
    from mnemoscope.audit.ground import make_study

    return make_study(
        out,
        settings,
        model=model,
        revision=revision,
        dtype=given["dtype"],
        device=given["device"],
        lm=lm,
    ).folder


def _ground(folder: Path, lm: "LanguageModel", settings: "AuditSettings") -> "CnnGround":
    """The CNNs of a study of this model; says so where they give no probability."""
    from mnemoscope.audit.ground import check_study, read_ground
    from mnemoscope.progress import say
    from mnemoscope.study.models import facts_of

    ground = read_ground(check_study(folder, facts_of(lm, lm.name), settings))
    if ground.facts["reason"] is not None:
        say(f"No probabilities from {folder}: {ground.facts['reason']}.")
        return ground
    fit, found = ground.facts["calibration"], ground.facts["measured"]
    say(
        f"Probabilities from {len(ground.cnns)} CNNs of {folder}, calibration: {fit['method']}. On "
        f"{found['n_guess']} Guess and {found['n_recall']} Recall sequences held out: ECE "
        f"{100 * found['ece']:.1f} % (as it was {100 * found['ece_uncalibrated']:.1f} %), AUC "
        f"{found['auc']:.3f}"
    )
    return ground


@contextmanager
def _folder_of_something(out: Path) -> Iterator[None]:
    """Leave no empty folder behind a refusal."""
    was_there = out.exists()
    try:
        yield
    except BaseException:
        if not was_there and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        raise


def _reference_name(model: str, reference: str | None) -> str | None:
    """What was asked for, else the embedded model's own, else None."""
    if reference == _NO_REFERENCE:
        return None
    return reference or (EMBEDDED if model == EMBEDDED else None)


def _load(name: str, role: str, revision: str | None, given: dict[str, str]) -> "LanguageModel":
    from mnemoscope.lm.load import load_model
    from mnemoscope.progress import say

    say(f"Loading the {role} {name}")
    place = _place(name, role)
    return load_model(place, revision=revision, dtype=given["dtype"], device=given["device"])


def _asked(name: str, role: str, revision: str | None, given: dict[str, str]) -> "AskedModel":
    from mnemoscope.audit.run import AskedModel

    return AskedModel(Path(_place(name, role)), revision, given["dtype"])


def _place(name: str, role: str) -> str:
    """Where a model is: what was typed, but of the embedded ones their folder."""
    from mnemoscope.embedded import model_path, reference_path

    if name != EMBEDDED:
        return name
    return str(reference_path() if role == "reference" else model_path())


def _refuse_beside_verify(model: str | None, documents: list[str] | None, out: Path | None) -> None:
    if model is not None or documents or out is not None:
        raise UserError("--verify repeats what stands in its folder: give that folder and no more.")


def _verify(folder: Path, device: str) -> "Verification":
    from mnemoscope.audit.run import check_is_audit

    check_is_audit(folder)
    from mnemoscope.audit.verify import verify_audit

    def load(facts: dict[str, Any]) -> "LanguageModel":
        given = {"dtype": facts["dtype"], "device": device}
        return _load(facts["name"], "model", facts["revision"], given)

    def ask(record: dict[str, Any], frame: "pl.DataFrame") -> list[bool]:
        return ask_service_again(folder, record, frame)

    return verify_audit(folder, load, ask)


# The verb app: audit documents and browse a study in the browser, on this machine alone.


def app(
    target: Annotated[
        Path | None,
        typer.Argument(help="A study or an audit to show.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", help="Port (the first free from 7860 on).", show_default=False),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="This machine; another is refused.")
    ] = "127.0.0.1",
    device: Device = None,
) -> None:
    """Audit documents and browse a study in the browser; nothing leaves this machine.

    Example: mnemoscope app my-study
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the app needs gradio: pip install 'mnemoscope[app]'.")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the hub's client is imported
    from mnemoscope.app import check_host, check_target

    check_host(host)
    check_target(target)
    from mnemoscope.app.serve import serve_app

    serve_app(target, host=host, port=port, device=device or "auto", when_ready=_print_address)


def _print_address(address: str) -> None:
    print(f"Open {address} in a browser of this machine. Ctrl-C ends it.", flush=True)
