"""The verbs audit, audit api, audit verify, audit rank (passages that a model repeats), and app."""

import inspect
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel
from typer import Argument, Option

from mnemoscope.audits.questions import QUESTIONS, settings_class
from mnemoscope.audits.settings import AuditSettings, EndpointSettings, checked, flag_of
from mnemoscope.cli.gates import gated_audits, judge_found, read_gate, results_of, say_plan
from mnemoscope.cli.options import (
    ANSWER,
    GATE,
    GATE_FAILED,
    Device,
    Dtype,
    Exclude,
    GateFlags,
    JsonAnswer,
    Quiet,
    QuietOrWordy,
    Wordy,
    is_failed,
    parse_columns,
)
from mnemoscope.cli.study import shown
from mnemoscope.errors import UserError, check_installed, printable
from mnemoscope.parse import parse_yaml, read_bounded

if TYPE_CHECKING:
    from mnemoscope.audits.library import Audit
    from mnemoscope.audits.records import AuditRecord
    from mnemoscope.audits.shares import Share
    from mnemoscope.conditions import Gate

_UNCHECKED = 2
_SPAN_FACTS = ["document", "start", "end", "tokens", "verdict", "reason", "text", "otherwise"]
_SPAN_FACTS += ["window_start", "suffix_start"]  # the beginning that brings it out
_SPAN_FACTS += ["score", "reference_score"]  # shares of tokens that model and reference wrote
_KINDS = {"recalled": "recalled", "undecided": "cannot be told", "guessed": "guessed"}
_SUREST, _SHOWN = 5, 60  # windows that `audit rank` prints, characters of each
_RANKED = ("prefix", "suffix", "stride", "batch_size", "chat_template", "instruction")
_USUAL = ("prefix", "suffix", "stride", "read", "unread", "ordinary")
"""Settings whose flags the short help shows; `--help-all` shows all."""
_USUAL_OF_SERVICE = ("chat", "prompt_as", "concurrency", "requests_per_minute", "api_key_env")

Model = Annotated[str, Argument(help="Path, hub name, 'embedded'.")]
DocumentNames = Annotated[
    list[str],
    Argument(help="Paths, hub data sets; or -."),
]
Folder = Annotated[Path | None, Option("-o", "--out", help="Folder for the result.")]
Reference = Annotated[
    str | None,
    Option("--reference", help="A model that never saw them, or 'none'."),
]
Column = Annotated[
    list[str] | None,
    Option("--column", metavar="NAME=PATH", help="Texts of tables: text=NAME, 'text=*'."),
]
Again = Annotated[bool, Option("--redo", help="Make it anew, also over another.")]
Encoding = Annotated[str, Option("--encoding", help="Encoding of text files.", hidden=True)]
TrustRemoteCode = Annotated[
    bool,
    Option("--trust-remote-code", help="Run Python code that comes with the model.", hidden=True),
]
Revision = Annotated[
    str | None, Option("--revision", help="Hub revision of the model.", hidden=True)
]
Case = Annotated[
    str | None,
    Option("--case", metavar="TEXT", help="What it is for (--operator: who makes it)."),
]
Operator = Annotated[
    str | None, Option("--operator", metavar="NAME", help="Who makes it.", hidden=True)
]
SettingsFile = Annotated[
    Path | None, Option("--settings", help="YAML with settings, named as the flags.")
]


def flag_parameters(
    section: type[BaseModel], names: Iterable[str], usual: Iterable[str]
) -> list[inspect.Parameter]:
    """The flag of each named setting; None or False stands for its default."""
    flags = []
    for name in names:
        field = section.model_fields[name]
        plain = (one for one in (bool, int, float) if field.annotation in (one, one | None))
        kind, flag, help_text = next(plain, str), flag_of(name), str(field.description)
        default = False if field.default is False else None
        if kind is bool and default is None:
            flag = f"{flag}/--no-{name}"
        elif not field.is_required() and field.get_default() not in (None, False):
            help_text = f"{help_text.removesuffix('.')} (default {field.default})."
        wanted = bool if default is False else kind | None
        option = Option(flag, help=help_text, hidden=name not in usual)
        annotation = Annotated[wanted, option]  # type: ignore[valid-type]
        kind_of = inspect.Parameter.KEYWORD_ONLY
        flags.append(inspect.Parameter(name, kind_of, default=default, annotation=annotation))
    return flags


def with_settings(verb: Callable[..., None]) -> Callable[..., None]:
    """Put the flags of settings in the place of a verb's `**settings`; `cli.app` reads them so.

    Which they are is asked when the flags are made: a question that is added has its flags.
    """
    signature = inspect.signature(verb)
    own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    made = _FLAGS[verb.__name__]()
    called = lambda **given: verb(**given)  # noqa: E731 - the verb keeps a signature of its own
    called.__signature__ = signature.replace(parameters=[*own, *made])  # type: ignore[attr-defined]
    called.__doc__, called.__name__ = verb.__doc__, verb.__name__
    return called


def _of_questions(*where: str) -> list[str]:
    """Settings of every audit of such a model, then those of each question that it can be asked."""
    asked = [one for one in QUESTIONS.values() if {*where} & {*one.where}]
    return [*AuditSettings.model_fields, *(name for one in asked for name in one.fields)]


def _local_flags() -> list[inspect.Parameter]:
    return flag_parameters(settings_class(), _of_questions("here"), _USUAL)


def _service_flags() -> list[inspect.Parameter]:
    skipped = {"temperature", "top_k", "batch_size", "chat_template"}
    names = [one for one in _of_questions("api", "chat") if one not in skipped]
    service = [one for one in EndpointSettings.model_fields if one not in ("url", "model")]
    return [
        *flag_parameters(settings_class(), names, _USUAL),
        *flag_parameters(EndpointSettings, service, _USUAL_OF_SERVICE),
    ]


_FLAGS: dict[str, Callable[[], list[inspect.Parameter]]] = {
    "audit": _local_flags,
    "audit_api": _service_flags,
    "audit_rank": lambda: flag_parameters(AuditSettings, _RANKED, _RANKED),
}


def audit(
    model: Model,
    documents: DocumentNames,
    out: Folder = None,
    reference: Reference = None,
    case: Case = None,
    operator: Operator = None,
    study: Annotated[
        str | None,
        Option("--study", help="A study of the model; 'auto' makes one."),
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what it asks and takes.")] = False,
    gate: GateFlags = GATE,
    encoding: Encoding = "utf-8",
    column: Column = None,
    exclude: Exclude = None,
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    settings: SettingsFile = None,
    answer: JsonAnswer = ANSWER,
    redo: Again = False,
    quiet: QuietOrWordy = False,
    verbose: Wordy = False,
    **fields: Any,
) -> None:
    """Find the passages that a model repeats. --help-all shows every flag.

    Of a finished one: mnemoscope audit gate, audit verify, audit redact.

    Example: mnemoscope audit embedded README.md -o audit
    """
    from mnemoscope.audits.documents import check_sources
    from mnemoscope.audits.library import audit as make
    from mnemoscope.audits.library import planned

    check_sources(documents)
    condition = _condition(gate, has_near=fields.get("near_length") != 0, out=out)
    if dry_run:
        named = {"dtype": dtype or "float32", "device": device or "auto"}
        plan = planned(
            *(model, documents, out),
            reference=reference,
            study=study,
            revision=revision,
            encoding=encoding,
            columns=parse_columns(column, documents),
            exclude=exclude or (),
            redo=redo,
            named={**named, "trust_remote_code": trust_remote_code},
            **_settings(settings, **fields),
        )
        say_plan(plan.said, plan.unasked, gate, answer)
        return
    folder = needed_out(out, "audit")
    with shown(quiet):
        made = make(
            model,
            documents,
            folder,
            reference=reference,
            study=study,
            revision=revision,
            dtype=dtype or "float32",
            device=device or "auto",
            trust_remote_code=trust_remote_code,
            encoding=encoding,
            columns=parse_columns(column, documents),
            exclude=exclude or (),
            case=case,
            operator=operator,
            command=["mnemoscope", *sys.argv[1:]],
            redo=redo,
            **_settings(settings, **fields),
        )
    _report(made, condition, gate, answer, quiet=quiet, verbose=verbose)


def audit_api(
    url: Annotated[str, Argument(help="Base address of the API, such as https://HOST/v1.")],
    model: Annotated[str, Argument(help="The service's name for the model.")],
    documents: DocumentNames,
    out: Folder = None,
    tokenizer: Annotated[
        str | None,
        Option("--tokenizer", help="The model's tokenizer; without it words are counted."),
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print requests, tokens and price, and ask nothing.")
    ] = False,
    price_in: Annotated[
        float | None, Option("--price-in", help="Price of a million prompt tokens.")
    ] = None,
    price_out: Annotated[
        float | None, Option("--price-out", help="Price of a million completion tokens.")
    ] = None,
    case: Case = None,
    operator: Operator = None,
    gate: GateFlags = GATE,
    encoding: Encoding = "utf-8",
    column: Column = None,
    exclude: Exclude = None,
    revision: Revision = None,
    settings: SettingsFile = None,
    answer: JsonAnswer = ANSWER,
    redo: Again = False,
    quiet: QuietOrWordy = False,
    verbose: Wordy = False,
    **fields: Any,
) -> None:
    """Audit a model behind an OpenAI-compatible API. --help-all shows every flag.

    Example: mnemoscope audit api http://localhost:8000/v1 NAME README.md -o audit --dry-run
    """
    from mnemoscope.audits.library import Plan
    from mnemoscope.audits.library import audit_api as make

    given = _settings(settings, asks_service=True, **fields)
    service = {name: given.pop(name) for name in {*EndpointSettings.model_fields} & {*given}}
    if service.get("chat") and service.get("prompt_as") == "tokens":
        raise UserError("--prompt-as tokens: a chat is asked in text. Leave it out.")
    is_text = service.get("chat") or not tokenizer
    service["prompt_as"] = service.get("prompt_as") or ("text" if is_text else "tokens")
    asked = checked(EndpointSettings, url=url, model=model, **service)
    has_near = asked.chat and given.get("near_length") != 0
    condition = _condition(gate, has_near=has_near, out=out)
    folder = out if dry_run else needed_out(out, "audit")
    with shown(quiet):
        made = make(
            asked,
            documents,
            folder,
            tokenizer=tokenizer,
            revision=revision,
            prices=(price_in, price_out),
            dry_run=dry_run,
            encoding=encoding,
            columns=parse_columns(column, documents),
            exclude=exclude or (),
            case=case,
            operator=operator,
            command=["mnemoscope", *sys.argv[1:]],
            redo=redo,
            **given,
        )
    if isinstance(made, Plan):
        say_plan(made.said, made.unasked, gate, answer)
        return
    _report(made, condition, gate, answer, quiet=quiet, verbose=verbose)


def audit_gate(
    folder: Annotated[Path, Argument(help="The folder of a finished audit.")],
    gate: GateFlags = GATE,
    answer: JsonAnswer = ANSWER,
    quiet: QuietOrWordy = False,
    verbose: Wordy = False,
) -> None:
    """Put a condition to a finished audit, whose files must be as written; no model is loaded.

    Conditions: 'recalled > 0.5%', 'near > 3 passages', 'recalled >= 1 passage in doc'. Also
    guessed; undecided: cannot be told; reproduced: all three; near: recalled and near copies that
    are called recall.

    Example: mnemoscope audit gate audit --fail-if 'recalled >= 1 passage in doc'
    """
    from mnemoscope.audits.library import Audit
    from mnemoscope.audits.records import read_verdicts

    condition = read_gate(gate, of := gated_audits(), needed=True, out=folder)
    with shown(quiet):
        made = Audit(folder, *read_verdicts(folder))
        page = folder / "audit.html"
        judge_found(made, condition, gate, of, answer, page=page, verbose=verbose)


def audit_verify(
    folder: Annotated[Path, Argument(help="The folder of a finished audit.")],
    documents: Annotated[
        list[str] | None,
        Option("--documents", metavar="DIR", help="Where the documents are now, if they moved."),
    ] = None,
    model: Annotated[
        str | None, Option("--model", metavar="DIR", help="Where the model is now, if it moved.")
    ] = None,
    reference: Annotated[
        str | None,
        Option("--reference", metavar="DIR", help="Where the reference is now; 'none': not asked."),
    ] = None,
    unread: Annotated[
        str | None,
        Option("--unread", metavar="DIR", help="Where the texts of --unread are now."),
    ] = None,
    search: Annotated[
        bool, Option("--search", help="Ask every window again: was a passage left out?")
    ] = False,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    answer: JsonAnswer = ANSWER,
    quiet: Quiet = False,
) -> None:
    """Check a finished audit: repeat its passages, and compare all checksums.

    Example: mnemoscope audit verify audit
    """
    from mnemoscope.audits.library import verify
    from mnemoscope.words import plural

    with shown(quiet):
        found = verify(
            folder,
            documents=documents or (),
            model=model,
            reference=reference,
            unread=unread,
            device=device or "auto",
            trust_remote_code=trust_remote_code,
            search=search,
        )
    answer.facts.update({"folder": folder, **found._asdict(), "searched": search})
    for line in found.problems:
        print(printable(line))
    for line in found.unchecked:
        print(printable(f"Not checked: {line}"))
    for line in found.notes:
        print(printable(line))
    for line in found.checked:
        print(f"Checked: {line}")
    for line in found.not_checked:
        print(f"Not checked: {line}")
    if found.n_spans or not found.problems:
        whole = plural(found.n_spans, "passage")
        if found.n_open:
            print(
                f"{folder}: {found.n_hold + found.n_open} of {whole} written again by the model; "
                f"of {found.n_open} the document, named above, could not be compared."
            )
        else:
            hold = "holds" if found.n_spans == 1 else "hold"
            print(f"{folder}: {found.n_hold} of {whole} {hold}.")
    if found.problems:
        problems = plural(len(found.problems), "problem")
        print(f"{folder} does not hold: {problems}, named above.")
        raise typer.Exit(GATE_FAILED)
    if found.unchecked:
        is_unread = all(one.startswith("--unread") for one in found.unchecked)
        where = "--unread" if is_unread else "--documents"
        print(
            f"{folder}: not verified, for want of the {plural(len(found.unchecked), 'thing')} "
            "named above. Nothing speaks against the audit; run this where it was made, or say "
            f"where they are now with {where} DIR."
        )
        raise typer.Exit(_UNCHECKED)
    but = "" if found.has_pages else ", but for its pages"
    print(
        f"{folder}: verified{but}. Deposit this checksum of audit.json where nobody can change it: "
        "it protects all of the above, and date, case and operator, which nothing else does. "
        f"SHA-256 {found.sha256}"
    )


def audit_redact(
    folder: Annotated[Path, Argument(help="The folder of a finished audit.")],
    out: Folder = None,
    hide_names: Annotated[
        bool, Option("--hide-names", help="Number the documents; leave the command out.")
    ] = False,
    check: Annotated[
        Path | None, Option("--check", metavar="DIR", help="Only compare such pages as were made.")
    ] = None,
    answer: JsonAnswer = ANSWER,
) -> None:
    """Write the pages of a finished audit without any text of its documents.

    Names (unless they are hidden), positions, figures, verdicts and checksums stay. The audit keeps
    the checksums of the pages and, of hidden names, which is whose: redacted.json.

    Example: mnemoscope audit redact audit -o shared
    """
    from mnemoscope.audits.redact import REDACTED, check_redacted, redact_audit

    if check is not None:
        problems = check_redacted(folder, check)
        answer.facts.update(folder=folder, problems=problems)
        print(*map(printable, problems or [f"{check}: the pages are as they were made."]), sep="\n")
        if problems:
            raise typer.Exit(GATE_FAILED)
        return
    made = redact_audit(folder, needed_out(out, "audit redact"), hide_names=hide_names)
    for page, sha256 in made.pages.items():
        print(f"Wrote {page}, SHA-256 {sha256}")
    stands = "Names of documents and the command stand there; --hide-names leaves them out."
    if hide_names:
        stands = f"Document N there is the Nth of {folder / 'audit.json'}. "
        stands += "Case, operator and models are named."
    kept = f"{folder / REDACTED} keeps these checksums" + ", and each name" * hide_names
    if not made.is_kept:
        kept = f"{folder / REDACTED} could not be written: keep these checksums yourself"
    print(f"{stands} {kept}. To compare the pages with it later, add --check DIR in place of -o.")
    answer.facts.update(folder=folder, pages=[*made.pages])


def audit_rank(
    model: Model,
    documents: DocumentNames,
    out: Folder = None,
    reference: Reference = None,
    encoding: Encoding = "utf-8",
    column: Column = None,
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    answer: JsonAnswer = ANSWER,
    quiet: Quiet = False,
    **fields: Any,
) -> None:
    """Rank windows by how sure the model is of their beginnings; nothing is decoded.

    Example: mnemoscope audit rank embedded README.md -o ranking
    """
    from mnemoscope.audits.library import rank
    from mnemoscope.audits.rank import RANKING, share_beyond
    from mnemoscope.words import plural

    folder = needed_out(out, "audit rank")
    with shown(quiet):
        frame = rank(
            model,
            documents,
            folder,
            reference=reference,
            revision=revision,
            dtype=dtype or "float32",
            device=device or "auto",
            trust_remote_code=trust_remote_code,
            encoding=encoding,
            columns=parse_columns(column, documents),
            **fields,
        )
    print(f"{plural(frame.height, 'window')} read, none decoded.")
    if frame["reference_entropy"].null_count() == 0:
        share = share_beyond(frame["entropy"], frame["reference_entropy"])
        print(f"Surer of than the reference explains: {100 * share:.1f} % of them.")
    for row in frame.head(_SUREST).iter_rows(named=True):
        text = " ".join(row["text"].split())
        place = f"{row['document']}, characters {row['suffix_start']} to {row['end']}"
        print(f"{place}: entropy {row['entropy']:.2f}: {text[:_SHOWN]}")
    print(f"In {folder / RANKING}, the surest first. 'mnemoscope audit' asks them.")
    answer.facts.update(folder=folder, windows=frame)


def needed_out(out: Path | None, verb: str) -> Path:
    """The folder of `-o`, which these verbs need."""
    if out is None:
        raise UserError(f"{verb} needs a folder for the result: add -o DIR.")
    return out


def _settings(file: Path | None, *, asks_service: bool = False, **fields: Any) -> dict[str, Any]:
    """Settings of a file, and flags over them; what was not given is left out."""
    named: Any = {}
    if file is not None:
        try:
            named = parse_yaml(read_bounded(file).decode("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read as YAML ({error}).") from None
        if not isinstance(named, dict):
            raise UserError(f"{file}: not settings. Write a line for each, such as stride: 4.")
    given = {name: one for name, one in fields.items() if one is not None and one is not False}
    own: dict[str, Any] = {str(key).replace("-", "_"): one for key, one in named.items()}
    for one in dataclass_fields(GateFlags):
        if one.name in own:
            flag = flag_of(one.name)
            raise UserError(f"{file}: {one.name}: no setting of an audit. Give {flag} as a flag.")
    of_service = EndpointSettings.model_fields.keys() if asks_service else set()
    try:
        checked(settings_class(), **{k: v for k, v in own.items() if k not in of_service})
        if told := {k: v for k, v in own.items() if k in of_service}:
            checked(EndpointSettings, **{"url": "http://localhost", "model": "model"} | told)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return own | given


def _condition(flags: GateFlags, *, has_near: bool, out: Path | None) -> "list[Gate]":
    gates = read_gate(flags, gated_audits(), out=out)
    if not has_near and any(one.kind == "near" for one in gates):
        raise UserError("--fail-if near: near copies are not looked for here. Choose recalled.")
    return gates


def _report(
    made: "Audit",
    gates: "list[Gate]",
    flags: GateFlags,
    answer: JsonAnswer,
    *,
    quiet: bool,
    verbose: bool,
) -> None:
    """Say what came of an audit, write what was asked for beside it, and judge it.

    Where it fails, what failed comes first, and all else is in the page.
    """
    results = results_of(made, gates, flags, of := gated_audits())
    if verbose or not is_failed(results):
        brief = quiet and not verbose
        _print_record(made.folder, made.record, is_gated=bool(gates), is_brief=brief)
    spans = made.passages.select(_SPAN_FACTS)
    from mnemoscope.audits.exports import address_of, recalled_lines
    from mnemoscope.audits.records import read_sarif

    at_lines = recalled_lines(read_sarif(made.folder))
    names = [row["document"] for row in made.record["documents"]]
    lines = {name: found for name in names if (found := at_lines.get(address_of(name)))}
    facts = {"folder": made.folder, "spans": spans, "recalled_lines": lines}
    answer.facts.update({**made.record, **facts})
    page = made.folder / "audit.html"
    judge_found(made, gates, flags, of, answer, results, page=page, verbose=verbose)


def _print_record(out: Path, record: "AuditRecord", *, is_gated: bool, is_brief: bool) -> None:
    """Say what was not asked, the verdict, the shares, and where the audit is.

    Where it `is_brief`, the page says how far to trust it.
    """
    from mnemoscope.audits.records import WINDOWS_LINES, copies_said
    from mnemoscope.audits.shares import number_of, share_beside
    from mnemoscope.audits.verdict import (
        distance_said,
        error_rate,
        is_near,
        is_nearly_same,
        read_said,
    )
    from mnemoscope.words import plural

    for row in record["documents"]:
        if row["is_too_short"]:
            print(f"{printable(row['document'])}: shorter than one window, not asked.")
        elif row["has_windows_lines"]:
            print(f"{printable(row['document'])}: {WINDOWS_LINES}")
    for one in record["skipped"]:
        print(f"{printable(one['document'])}: not read: {one['reason']}")
    if said := copies_said(record):
        print(said)
    _print_documents(out, record)
    whole = record["summary"]
    beside = record["verdict"]["beside"]
    has_parts = beside is not None and beside["in_recalled"]
    parts = dict.fromkeys(_KINDS, "") | {
        "undecided": ", and parts of recalled ones" if has_parts else ""
    }
    shares = [
        f"{_share(share_beside(whole, kind))} {said} ({plural(n, 'passage')}{parts[kind]})"
        for kind, said in _KINDS.items()
        if (n := number_of(whole, kind)) or kind != "undecided"
    ]
    print(
        f"{plural(whole['documents'], 'document')}, {whole['characters']:,} characters: "
        f"{_share(whole['reproduced'])} reproduced, {', '.join(shares)}."
        + " In brackets: 95 % intervals for documents like these."
        * (whole["reproduced"].get("low") is not None)
    )
    if n_near := whole.get("near_recall_spans"):
        passages = plural(number_of(whole, "near"), "passage")
        copies = f"{n_near:,} near cop{'y' if n_near == 1 else 'ies'}"
        print(f"With {copies}: {_share(whole['near'])} recalled or nearly so ({passages}).")
    print(record["verdict"]["sentence"])
    if whole["reproduced"]["characters"] and not is_brief:
        print(error_rate(record["verdict"], record.get("unread")), "report.html says more.")
    reference = record["reference"]
    distance = distance_said(reference)
    is_said = beside is not None and reference is not None and is_near(reference.get("apart"))
    if distance and reference is not None and (is_gated or not is_said):
        is_far = not is_nearly_same(reference.get("apart"))
        said = f"The reference is {'' if is_far else 'not '}far enough apart to count"
        print(said + (f": it {distance}: {record['verdict']['page']}." if not is_gated else "."))
    stride = int(str(record["settings"]["stride"]))
    if stride > 1 and not whole["recall_spans"]:
        print(
            f"Asked at one token in {stride}: a passage that comes out after exactly one beginning "
            "can have been missed. --stride 1 tries every beginning."
        )
    if "origins" in record:
        print(printable(record["origins"]["sentence"]))
    if "read" in record:
        print(printable(read_said(record)))
    trust = ", and how far to trust it" * is_brief
    print(
        f"Read {out / 'report.html'} (the summary{trust}), then {out / 'audit.html'} (every "
        "passage, and the documents: 'mnemoscope audit redact' makes pages without the texts)."
    )
    if is_brief:
        return
    files = [out / name for name in ("audit.json", "spans.parquet", "audit.sarif")]
    print(f"For programs: {', '.join(map(str, files))}.")


def _print_documents(out: Path, record: "AuditRecord") -> None:
    """Say what came out of each document, and of which nothing did; of one alone the lines."""
    from mnemoscope.audits.exports import address_of, recalled_lines
    from mnemoscope.audits.records import LISTED, listed_documents, read_sarif, silent_documents
    from mnemoscope.audits.shares import near_said, number_of, share_beside, share_words
    from mnemoscope.words import lines_said, plural

    found = [row for row in listed_documents(record) if not row["is_too_short"]]
    at_lines = recalled_lines(read_sarif(out))
    if record["summary"]["documents"] > 1:
        for row in found[:LISTED]:
            shares = [
                f"{share_words(share_beside(row, kind)['share'])} {said}"
                for kind, said in _KINDS.items()
                if number_of(row, kind) or kind != "undecided"
            ]
            ranges = at_lines.get(address_of(row["document"]))
            lines = f"; recalled on {lines_said(ranges)}" if ranges else ""
            copies = f"; {said}" if (said := near_said(row)) else ""
            print(f"{printable(row['document'])}: {', '.join(shares)}{copies}{lines}")
        if len(found) > LISTED:
            more = plural(len(found) - LISTED, "more document")
            print(f"... and {more}: {out / 'audit.html'} lists all.")
        if any("…" in lines_said(at_lines.get(address_of(row["document"]), [])) for row in found):
            print(f"Every line stands in {out / 'audit.sarif'}.")
        if found and (silent := silent_documents(record)):
            n_more = len(silent) - LISTED
            more = f" and {n_more:,} more: {out / 'audit.html'} lists all" * (n_more > 0)
            print(printable(f"Nothing came out of: {', '.join(silent[:LISTED])}{more}."))
    elif ranges := [one for row in found for one in at_lines.get(address_of(row["document"]), [])]:
        print(f"Recalled on {lines_said(ranges)}.")


def _share(share: "Share") -> str:
    from mnemoscope.audits.shares import estimate_of, share_words

    if not share["share"] and (high := share.get("high")):
        return f"0.0 % [at most {share_words(high)}]"
    return str(estimate_of(share))


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
