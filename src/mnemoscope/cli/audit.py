"""The verb audit: which passages of documents a model repeats, guessed or recalled."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnemoscope.cli.audit_endpoint import (
    ApiKeyEnv,
    Concurrency,
    DryRun,
    Endpoint,
    Logprobs,
    PriceIn,
    PriceOut,
    PromptAs,
    RequestsPerMinute,
    Retries,
    ServedModel,
    Timeout,
    Tokenizer,
    ask_service_again,
    audit_behind,
    check_alone,
)
from mnemoscope.cli.audit_said import judge, print_record, print_verification, write_junit
from mnemoscope.cli.options import Device, Dtype, Quiet, Redo
from mnemoscope.cli.study import shown
from mnemoscope.config import EMBEDDED
from mnemoscope.errors import UserError
from mnemoscope.lm.names import check_device_name, check_dtype_name

if TYPE_CHECKING:
    import polars as pl

    from mnemoscope.audit.cnn_ground import CnnGround
    from mnemoscope.audit.folder import AskedModel
    from mnemoscope.audit.settings import AuditSettings
    from mnemoscope.audit.verify import Verification
    from mnemoscope.lm.language_model import LanguageModel

__all__ = ["audit"]

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
    from mnemoscope.audit.settings import audit_settings
    from mnemoscope.audit.summary import parse_gate

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
    from mnemoscope.audit.folder import prepare_folder, standing_audit
    from mnemoscope.audit.texts import read_documents
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
    from mnemoscope.study import Study

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
    from mnemoscope.stages.auto_study import make_study

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
    from mnemoscope.progress import say
    from mnemoscope.stages.audit_study import check_study, read_ground
    from mnemoscope.stages.models import facts_of

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
    from mnemoscope.lm.loading import load_model
    from mnemoscope.progress import say

    say(f"Loading the {role} {name}")
    place = _place(name, role)
    return load_model(place, revision=revision, dtype=given["dtype"], device=given["device"])


def _asked(name: str, role: str, revision: str | None, given: dict[str, str]) -> "AskedModel":
    from mnemoscope.audit.folder import AskedModel

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
    from mnemoscope.audit.folder import check_is_audit

    check_is_audit(folder)
    from mnemoscope.audit.verify import verify_audit

    def load(facts: dict[str, Any]) -> "LanguageModel":
        given = {"dtype": facts["dtype"], "device": device}
        return _load(facts["name"], "model", facts["revision"], given)

    def ask(record: dict[str, Any], frame: "pl.DataFrame") -> list[bool]:
        return ask_service_again(folder, record, frame)

    return verify_audit(folder, load, ask)
