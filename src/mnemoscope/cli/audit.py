"""The verbs audit (which passages of documents a model repeats) and app (the same in a browser)."""

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args

import typer
from pydantic import BaseModel
from typer import Argument, Option

from mnemoscope.audits.settings import (
    NEEDS,
    AuditSettings,
    EndpointSettings,
    audit_settings,
    endpoint_settings,
    flag_of,
)
from mnemoscope.cli.options import (
    ANSWER,
    Answer,
    Columns,
    Device,
    Dtype,
    Quiet,
    Redo,
    parse_columns,
)
from mnemoscope.cli.study import shown
from mnemoscope.embedded import place_of
from mnemoscope.errors import UserError, check_installed
from mnemoscope.files import read_parquet, write_parquet, write_text
from mnemoscope.lm.hub import check_device_name, check_dtype_name
from mnemoscope.progress import say
from mnemoscope.study.settings import EMBEDDED

if TYPE_CHECKING:
    import polars as pl

    from mnemoscope.audits.documents import Document, Reading, Splitter
    from mnemoscope.audits.evidence import AuditedModel
    from mnemoscope.audits.ground import CnnGround
    from mnemoscope.audits.rule import Gate
    from mnemoscope.audits.service import ServedModel
    from mnemoscope.audits.verify import Verification
    from mnemoscope.lm.model import LanguageModel

_GATE_FAILED = 3
_MAKE_STUDY = "auto"
_SPAN_FACTS = ["document", "start", "end", "tokens", "verdict", "reason", "text"]
_SUREST, _SHOWN = 5, 60  # windows that --before prints, characters of each
_BEFORE = {"prefix", "suffix", "stride", "batch_size", "chat_template", "instruction"}
"""Settings that --before heeds: which windows it reads, and how."""
_PANEL = "Models behind an API"
_GROUPS = {
    "": "model documents out reference study fail_if junit verify answer redo quiet",
    "What is read, and by what": "encoding column revision dtype device batch_size chat_template "
    "instruction",
    "Windows and passages": "stride prefix suffix threshold patterns refine_from "
    "max_growth near_length near_gap seed",
    "Chances": "temperature top_k probability n_prefixes edits beams profile profile_prefix before",
    "Where it comes from, and ordinary use": "corpus corpus_dtype ordinary answer_tokens overlap",
    _PANEL: "url served_model tokenizer chat prompt_as logprobs api_key_env concurrency "
    "requests_per_minute timeout retries price_in price_out dry_run",
}
"""Arguments and flags in the order of the help, by its panels."""


def _flags_of(section: type[BaseModel]) -> Iterator[inspect.Parameter]:
    """The flag of each field of a settings section; None or False stands for its default."""
    for name, field in section.model_fields.items():
        plain = (one for one in (bool, int, float) if field.annotation in (one, one | None))
        kind, flag = next(plain, str), flag_of(name)
        default = False if field.default is False else None
        if kind is bool and default is None:
            flag = f"{flag}/--no-{name}"
        wanted = bool if default is False else kind | None
        parameter = "served_model" if section is EndpointSettings and name == "model" else name
        yield inspect.Parameter(
            parameter,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[wanted, Option(flag, help=str(field.description))],
        )


def _with_settings(verb: Callable[..., None]) -> Callable[..., None]:
    """Give the verb a flag for each setting of an audit and of a service, in their panels."""
    signature = inspect.signature(verb)
    made = (*_flags_of(AuditSettings), *_flags_of(EndpointSettings))
    known = {**signature.parameters, **{one.name: one for one in made}}
    flags = []
    for panel, names in _GROUPS.items():
        for name in names.split():
            kind, *infos = get_args(known[name].annotation) or (known[name].annotation,)
            if infos:  # others are groups of flags
                infos = [copy(infos[0]), *infos[1:]]  # other verbs share some
                infos[0].rich_help_panel = panel or None
                kind = Annotated[(kind, *infos)]
            flags.append(known[name].replace(annotation=kind))
    verb.__signature__ = signature.replace(parameters=flags)  # type: ignore[attr-defined]
    return verb


@_with_settings
def audit(
    *,
    model: Annotated[
        str | None, Argument(help="Folder, hub name, .gguf file, or 'embedded'.")
    ] = None,
    documents: Annotated[
        list[str] | None,
        Argument(
            help="Texts, Markdown, code, HTML, PDF, DOCX, folders; .jsonl (.gz, .zst), .csv, "
            ".parquet or a data set of the hub with a column 'text'; or - for standard input."
        ),
    ] = None,
    out: Annotated[Path | None, Option("-o", "--out", help="Folder for the audit.")] = None,
    reference: Annotated[
        str | None,
        Option(
            "--reference",
            help="A model with the same tokenizer that never saw the documents. 'embedded' has "
            "its own; 'none' leaves it out.",
        ),
    ] = None,
    fail_if: Annotated[
        str | None,
        Option(
            "--fail-if", help="Exit with status 3 if this holds, for example 'recalled > 0.5%'."
        ),
    ] = None,
    verify: Annotated[
        Path | None, Option("--verify", help="Check a finished audit: repeat its passages.")
    ] = None,
    encoding: Annotated[str, Option("--encoding", help="Encoding of text files.")] = "utf-8",
    column: Columns = None,
    revision: Annotated[str | None, Option("--revision", help="Hub revision of the model.")] = None,
    study: Annotated[
        str | None,
        Option(
            "--study",
            help="A finished study of this model, whose CNNs give probabilities; 'auto' makes one "
            "from free texts.",
        ),
    ] = None,
    junit: Annotated[
        Path | None, Option("--junit", help="Also write a JUnit report to this file.")
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    tokenizer: Annotated[
        str | None,
        Option(
            "--tokenizer",
            help="The model's tokenizer, a folder or hub name (without it words are counted).",
        ),
    ] = None,
    price_in: Annotated[
        float | None, Option("--price-in", help="Price of a million prompt tokens.")
    ] = None,
    price_out: Annotated[
        float | None, Option("--price-out", help="Price of a million completion tokens.")
    ] = None,
    dry_run: Annotated[
        bool,
        Option(
            "--dry-run",
            help="Print requests, tokens and price, and ask nothing.",
            rich_help_panel=_PANEL,
        ),
    ] = False,
    before: Annotated[
        bool,
        Option("--before", help="Only rank windows by how sure the model is of their beginnings."),
    ] = False,
    answer: Answer = ANSWER,
    redo: Redo = False,
    quiet: Quiet = False,
    **fields: Any,
) -> None:
    """Find the passages of documents that a model repeats, and say: guessed or recalled.

    A model behind an API: mnemoscope audit --endpoint URL --model NAME README.md -o audit

    Example: mnemoscope audit embedded README.md -o audit
    """
    service = {
        name: fields.pop("served_model" if name == "model" else name, None)
        for name in EndpointSettings.model_fields
    }
    is_served = service["url"] is not None
    if not is_served:
        named = {flag_of(name): value for name, value in service.items()}
        named |= {"--tokenizer": tokenizer, "--price-in": price_in, "--price-out": price_out}
        named |= {"--dry-run": dry_run}
        _refuse(named, "only with --endpoint, not with a model that runs here")
    here = ModelArguments(
        model or "", revision, dtype or "float32", device or "auto", reference, study
    )
    check_dtype_name(here.dtype)
    check_device_name(here.device)
    if verify is not None:
        if model is not None or documents or out is not None:
            raise UserError(
                "--verify repeats what stands in its folder: give that folder and no more."
            )
        with shown(quiet):
            found = _verify(verify, here.device)
        answer.facts.update({"folder": verify, **found._asdict()})
        _print_verification(verify, found)
        return
    sources = [*([model] if is_served and model is not None else []), *(documents or [])]
    if (model is None and not is_served) or not sources:
        raise UserError(
            "audit needs a model and documents: mnemoscope audit MODEL DOCUMENTS -o DIR"
        )
    if out is None and not dry_run:
        raise UserError("audit needs a folder for the result: add -o DIR.")
    if not is_served:
        with shown(quiet):
            _check_names(here, sources)
    from mnemoscope.audits.rule import parse_gate

    if junit is not None and not junit.absolute().parent.is_dir():
        raise UserError(f"--junit {junit}: no such folder. Make it first.")
    if junit is not None and junit.is_dir():
        raise UserError(f"--junit {junit}: a folder. Name a file.")
    gate = parse_gate(fail_if) if fail_if is not None else None
    if is_served and fields["top_k"] is None:
        fields["top_k"] = 0
    settings = audit_settings(**fields)
    if is_served:
        local = {"--reference": reference, "--batch-size": fields["batch_size"], "--dtype": dtype}
        local |= {"--device": device, "--study": study, "--chat-template": fields["chat_template"]}
        asked_here = ("profile", "edits", "beams", "near_length", "near_gap")
        local |= {flag_of(name): fields[name] for name in asked_here}
        _refuse(local, "only with a model that runs here, not with --endpoint. Leave it out")
    for name, whole in (NEEDS | ({"instruction": "chat"} if is_served else {})).items():
        if not (fields | service)[whole]:
            why = f"only with {flag_of(whole)}. Add that, or leave it out"
            _refuse({flag_of(name): fields[name]}, why)
    if gate is not None and gate.kind == "near" and (is_served or not settings.near_length):
        raise UserError("--fail-if near: near copies are not looked for here. Choose recalled.")
    if before:
        other = {"--endpoint": service["url"], "--fail-if": fail_if, "--study": study}
        other |= {flag_of(name): fields[name] for name in fields.keys() - _BEFORE}
        _refuse({**other, "--junit": junit}, "not with --before, which decodes nothing")
    folder = out or Path()  # a dry run may have none
    with shown(quiet), _no_empty_folder(folder):
        from mnemoscope.audits.run import audit as audit_with
        from mnemoscope.audits.run import prepare_folder

        if is_served:
            from mnemoscope.audits.service import check_settings, estimate_cost

            check_settings(settings)
            if service["chat"] and service["prompt_as"] == "tokens":
                raise UserError("--prompt-as tokens: a chat is asked in text. Leave it out.")
            is_text = service["chat"] or not tokenizer
            service["prompt_as"] = service["prompt_as"] or ("text" if is_text else "tokens")
            asked = endpoint_settings(**service)
        if not dry_run:
            prepare_folder(folder)
        reading = _read(sources, out, encoding, parse_columns(column))
        if before:
            answer.facts.update(folder=folder, windows=_rank(here, reading, folder, settings))
            return
        if is_served:
            there = _served(asked, reading.documents, settings, tokenizer, revision, out)
            estimate = estimate_cost(there, price_in=price_in, price_out=price_out)
            if dry_run:
                print(estimate)
                answer.facts["estimate"] = estimate
                return
            say(f"Estimate: {estimate}")
            record = audit_with(there, reading, folder, command=_command(), redo=redo)
        else:
            record = _audit_here(here, reading, folder, settings, redo=redo)
    _print_record(folder, record)
    spans = read_parquet(folder / "spans.parquet")
    answer.facts.update({**record, "folder": folder, "spans": spans.select(_SPAN_FACTS)})
    if junit is not None:
        from mnemoscope.audits.page import junit_xml

        write_text(junit, junit_xml(record, spans))
        print(f"Wrote {junit}.")
    if gate is not None:
        answer.facts["gate"] = {"text": gate.text, "failed": gate.is_failed(record["summary"])}
        _judge(gate, record)


def _rank(
    here: "ModelArguments", reading: "Reading", out: Path, settings: AuditSettings
) -> "pl.DataFrame":
    """Rank windows without decoding, and print the surest."""
    from mnemoscope.audits.before import BEFORE_FILE, rank_windows, share_beyond
    from mnemoscope.audits.local import LocalModel
    from mnemoscope.audits.run import check_long_enough
    from mnemoscope.words import plural

    reference = here.beside.load() if here.beside else None
    model = LocalModel(here.load(), reading.documents, settings, reference=reference)
    check_long_enough(model)
    frame = rank_windows(model)
    write_parquet(out / BEFORE_FILE, frame)
    print(f"{plural(frame.height, 'window')} read, none decoded.")
    if reference is not None:
        share = share_beyond(frame["entropy"], frame["reference_entropy"])
        print(f"Surer of than the reference explains: {100 * share:.1f} % of them.")
    for row in frame.head(_SUREST).iter_rows(named=True):
        text = " ".join(row["text"].split())
        place = f"{row['document']}, characters {row['suffix_start']} to {row['end']}"
        print(f"{place}: entropy {row['entropy']:.2f}: {text[:_SHOWN]}")
    print(f"In {out / BEFORE_FILE}, the surest first. Without --before they are asked.")
    return frame


class ModelArguments(NamedTuple):
    """A model that runs here, and what stands beside it, as asked for."""

    name: str
    revision: str | None
    dtype: str
    device: str
    reference: str | None = None
    study: str | None = None
    role: str = "model"

    @property
    def beside(self) -> "ModelArguments | None":
        """The reference: what was asked for, else the embedded model's own, else None."""
        own = EMBEDDED if self.name == EMBEDDED else None
        name = None if self.reference == "none" else self.reference or own
        return (
            ModelArguments(name, None, self.dtype, self.device, role="reference") if name else None
        )

    def load(self) -> "LanguageModel":
        """The model."""
        from mnemoscope.lm.load import load_model

        say(f"Loading the {self.role} {self.name}")
        place = place_of(self.name, self.role)
        return load_model(place, revision=self.revision, dtype=self.dtype, device=self.device)


def _refuse(given: Mapping[str, Any], why: str) -> None:
    """Refuse flags that belong to the other kind of audit; None or False is not given."""
    for flag, value in given.items():
        if value is not None and value is not False:
            raise UserError(f"{flag}: {why}.")


def _check_names(here: ModelArguments, sources: Sequence[str]) -> None:
    """Refuse what is not there before torch is loaded."""
    from mnemoscope.audits.documents import check_sources
    from mnemoscope.lm.hub import check_model
    from mnemoscope.study.folder import Study

    check_sources(sources)
    if here.study not in (None, _MAKE_STUDY):
        Study(str(here.study))
    if here.name != EMBEDDED:
        check_model(here.name, here.revision)
    if here.beside is not None and here.beside.name != EMBEDDED:
        check_model(here.beside.name)


@contextmanager
def _no_empty_folder(out: Path) -> Iterator[None]:
    """Leave no empty folder behind a refusal."""
    was_there = out.exists()
    try:
        yield
    except BaseException:
        if not was_there and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        raise


def _command() -> list[str]:
    return ["mnemoscope", *sys.argv[1:]]


def _read(
    sources: Sequence[str], out: Path | None, encoding: str, columns: dict[str, str]
) -> "Reading":
    from mnemoscope.audits.documents import read_documents

    reading = read_documents(
        sources, stdin=sys.stdin.buffer, encoding=encoding, leave_out=out, columns=columns
    )
    for one in reading.skipped:
        say(f"Not read: {one.name}: {one.reason}")
    return reading


def _audit_here(
    here: ModelArguments, reading: "Reading", out: Path, settings: AuditSettings, *, redo: bool
) -> dict[str, Any]:
    from mnemoscope.audits.local import audit_documents, check_audit

    other, study = here.beside, here.study
    lm, reference = here.load(), other.load() if other else None
    folder = None if study is None else Path(study)
    if study == _MAKE_STUDY:
        from mnemoscope.audits.ground import make_study

        check_audit(lm, reading, out, settings, reference, redo=redo)
        folder = make_study(
            out,
            settings,
            model=here.name,
            revision=here.revision,
            dtype=here.dtype,
            device=here.device,
            lm=lm,
        ).folder
    return audit_documents(
        lm,
        reading,
        out,
        settings=settings,
        reference=reference,
        cnn=None if folder is None else _ground(folder, lm, settings),
        command=_command(),
        names={"model": here.name, "reference": other.name if other else ""},
        redo=redo,
    )


def _ground(folder: Path, lm: "LanguageModel", settings: AuditSettings) -> "CnnGround":
    """The CNNs of a study of this model; says so where they give no probability."""
    from mnemoscope.audits.ground import check_study, read_ground
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


def _served(
    asked: EndpointSettings,
    documents: "Sequence[Document]",
    settings: AuditSettings,
    tokenizer: str | None,
    revision: str | None,
    out: Path | None = None,
) -> "ServedModel":
    """A model behind an API; its answers are kept in the audit's folder, where there is one."""
    from mnemoscope.audits.chat import ChatModel
    from mnemoscope.audits.documents import ModelTokens, Words
    from mnemoscope.audits.service import AnswerStore, Client, ServedModel

    splitter: Splitter = Words()
    if tokenizer is not None:
        from mnemoscope.lm.hub import find_bos
        from mnemoscope.lm.load import load_tokenizer

        found = load_tokenizer(place_of(tokenizer), revision)
        splitter = ModelTokens(found, find_bos(found))
    return (ChatModel if asked.chat else ServedModel)(
        Client(asked, None if out is None else AnswerStore(out / "answers.jsonl")),
        splitter,
        documents,
        settings,
        tokenizer_name=tokenizer,
        tokenizer_revision=revision,
    )


def _verify(folder: Path, device: str) -> "Verification":
    from mnemoscope.audits.run import check_is_audit

    check_is_audit(folder)
    from mnemoscope.audits.verify import verify_audit

    def load(
        record: dict[str, Any], documents: "Sequence[Document]", settings: AuditSettings
    ) -> "AuditedModel":
        facts, api = record["model"], record.get("api")
        if api:
            asked = endpoint_settings(url=api["endpoint"], model=facts["name"], **api["settings"])
            named = api["tokenizer"], api["tokenizer_revision"]
            return _served(asked, documents, settings, *named)
        from mnemoscope.audits.local import LocalModel

        here = ModelArguments(facts["name"], facts["revision"], facts["dtype"], device)
        return LocalModel(here.load(), documents, settings)

    return verify_audit(folder, load)


def _print_verification(folder: Path, found: "Verification") -> None:
    """Say what does not hold, and leave with status 3 if anything does not."""
    from mnemoscope.words import plural

    for line in [*found.problems, *found.notes]:
        print(line)
    print(f"{folder}: {found.n_hold} of {found.n_spans} passages hold.")
    if found.problems:
        problems = plural(len(found.problems), "problem")
        print(f"{folder} does not hold: {problems}, named above.")
        raise typer.Exit(_GATE_FAILED)


def _print_record(out: Path, record: dict[str, Any]) -> None:
    """Say what was not asked, the shares, and where the audit is."""
    from mnemoscope.words import plural

    for row in record["documents"]:
        if row["is_too_short"]:
            print(f"{row['document']}: shorter than one window, not asked.")
    for row in record["skipped"]:
        print(f"{row['document']}: not read: {row['reason']}")
    whole = record["summary"]
    print(
        f"{plural(whole['documents'], 'document')}, {whole['characters']:,} characters: "
        f"{_share(whole['reproduced'])} reproduced, {_share(whole['guessed'])} guessed "
        f"({plural(whole['guess_spans'], 'passage')}), {_share(whole['recalled'])} recalled "
        f"({plural(whole['recall_spans'], 'passage')})."
    )
    if whole.get("near_spans"):
        n = whole["near_spans"]
        print(
            f"With {n:,} near cop{'y' if n == 1 else 'ies'}: {_share(whole['near'])} recalled word "
            "for word or nearly so."
        )
    print(f"Open {out / 'audit.html'} in a browser; spans.parquet and audit.json are beside it.")


def _share(share: dict[str, float]) -> str:
    from mnemoscope.stats import Estimate

    return str(Estimate(share["share"], share["low"], share["high"]))


def _judge(gate: "Gate", record: dict[str, Any]) -> None:
    """Leave with status 3 if the condition holds."""
    if not gate.is_failed(record["summary"]):
        print(f"Passed ({gate.kind} {_share(record['summary'][gate.kind])}): not {gate.text}.")
        return
    print(f"Failed: {gate.text} ({_share(record['summary'][gate.kind])}).")
    raise typer.Exit(_GATE_FAILED)


def app(
    target: Annotated[Path | None, Argument(help="A study or an audit to show.")] = None,
    port: Annotated[
        int | None, Option("--port", help="Port (default: the first free one from 7860).")
    ] = None,
    host: Annotated[
        str, Option("--host", help="Address to listen on; only this machine is allowed.")
    ] = "127.0.0.1",
    device: Device = None,
) -> None:
    """Audit documents and browse a study in the browser; nothing leaves this machine.

    Example: mnemoscope app my-study
    """
    check_installed("the app needs", "gradio", extra="app")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the hub's client is imported
    from mnemoscope.app import check_host, check_target

    check_host(host)
    check_target(target)
    from mnemoscope.app.serve import serve_app

    def say_address(address: str) -> None:
        print(f"Open {address} in a browser of this machine. Ctrl-C ends it.", flush=True)

    serve_app(target, host=host, port=port, device=device or "auto", when_ready=say_address)
