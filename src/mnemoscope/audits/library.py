"""What programs and the command line call: an audit, one of a service, a check, a ranking.

Names are checked before torch is loaded, and a refusal leaves no empty folder behind.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.rule import GUESS, RECALL, UNDECIDED
from mnemoscope.audits.settings import AuditSettings, EndpointSettings, checked
from mnemoscope.audits.shares import estimate_of, number_of
from mnemoscope.columns import schema_of
from mnemoscope.conditions import check_baseline, judge_all, parse_gate, worst_said
from mnemoscope.data.formats import excluded_said, find_excluded, is_there
from mnemoscope.embedded import place_of
from mnemoscope.errors import UserError, a_kind, as_arguments, printable
from mnemoscope.files import LOCK_FILE, as_path, hold_folder, made_folder, remove_torn
from mnemoscope.lm.hub import (
    check_device_name,
    check_dtype_name,
    check_model,
    check_other_model,
    find_bos,
    is_of_same_run,
)
from mnemoscope.progress import progress_shown, say
from mnemoscope.stats import Estimate
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import EMBEDDED
from mnemoscope.words import plural, whole_characters

if TYPE_CHECKING:
    import polars as pl

    from mnemoscope.audits.asking import AskedModel, Auditing, ModelRecord
    from mnemoscope.audits.documents import Reading
    from mnemoscope.audits.ground import CnnGround
    from mnemoscope.audits.records import AuditRecord
    from mnemoscope.audits.service import ServedModel
    from mnemoscope.audits.verify import Verification
    from mnemoscope.conditions import Gate, GateResult, Shown
    from mnemoscope.lm.model import LanguageModel

Documents = str | Path | Sequence[str | Path] | Mapping[str, str]
"""Files, folders, tables and data sets of the hub, or texts, by their names or without."""

MAKE_STUDY = "auto"
"""Stands for a study that the audit makes itself."""


@dataclass(frozen=True, repr=False)
class Audit:
    """A finished audit: its folder, what `audit.json` holds, and its passages.

    A passage whose verdict changes inside it has one row a piece; `record` counts it once.
    An audit without a folder of its own is kept as long as this object is; `save` writes it down.
    """

    folder: Path
    record: "AuditRecord"
    passages: "pl.DataFrame"
    held: Any = None  # what removes a folder that nobody asked for

    @property
    def recalled(self) -> "pl.DataFrame":
        """The passages, or pieces of them, that are recalled."""
        return self.passages.filter(verdict=RECALL)

    @property
    def undecided(self) -> "pl.DataFrame":
        """Those of which it cannot be told, since rule and reference disagree."""
        return self.passages.filter(verdict=UNDECIDED)

    @property
    def guessed(self) -> "pl.DataFrame":
        """Those that come out, and that anyone could have guessed."""
        return self.passages.filter(verdict=GUESS)

    def save(self, folder: str | Path) -> Path:
        """Copy page, report and tables into a new or empty folder, which is given back.

        Raises UserError: the folder holds something, or cannot be made.
        """
        folder = as_path(folder, "folder")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: is not empty. Choose another folder for the audit.")
        shutil.copytree(self.folder, made_folder(folder), dirs_exist_ok=True)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Audit":
        """Read a finished audit, whose files must be as written; no model is loaded.

        Raises UserError: no audit there, or one of another version. DamagedDataError: a file
        cannot be read, or was changed.
        """
        from mnemoscope.audits.records import read_audit, read_verdicts

        read_verdicts(folder := as_path(folder, "folder"))
        return cls(folder, *read_audit(folder))

    def gate(
        self, *fail_if: str, baseline: "str | Path | Audit | None" = None, strict: bool = False
    ) -> "Judgement":
        """Put conditions to it, as `mnemoscope audit gate --fail-if CONDITION` does.

        Args:
            fail_if: conditions, such as ``"recalled > 0.5%"``, ``"near >= 1 passage in doc"``; it
                fails where any of them holds.
            baseline: an older audit, or its folder: only what is new counts.
            strict: fail where a document was not asked or roles look mixed up, too.

        Raises:
            UserError: no condition, or one that is not understood; no audit in `baseline`, or this
                one.
        """
        import polars as pl

        from mnemoscope.audits.exports import counted_passages, worst_passages
        from mnemoscope.audits.gate import PASSAGES
        from mnemoscope.audits.passages import PASSAGE
        from mnemoscope.audits.records import check_is_audit, read_near, read_sarif

        if not fail_if:
            raise UserError(f"gate: no condition. Give one, such as {PASSAGES.examples}.")
        gates = [parse_gate(one, PASSAGES) for one in dict.fromkeys(fail_if)]
        older = baseline.folder if isinstance(baseline, Audit) else baseline
        if older is not None:
            check_is_audit(older := as_path(older, "baseline"))
            check_baseline(older, self.folder)
        judged = judge_all(gates, lambda gate: judge_audit(gate, self, older), strict=strict)
        near = read_near(self.folder)
        rows = counted_passages(judged, near)
        schema = schema_of({name: PASSAGE[name] for name in _OF_GATE})
        found = pl.DataFrame(
            [[row[name] for name in _OF_GATE] for row in rows], schema, orient="row"
        )
        shown = worst_passages(judged, near, read_sarif(self.folder))
        return Judgement(found, tuple(judged), tuple(shown))

    def _shares(self) -> dict[str, Estimate]:
        """Shares of all characters that are recalled, guessed, or neither for sure."""
        summary = self.record["summary"]
        found = {"recalled": summary["recalled"], "guessed": summary["guessed"]}
        if summary["undecided_spans"]:
            found[UNDECIDED] = summary["undecided"]
        return {kind: estimate_of(one) for kind, one in found.items()}

    def __repr__(self) -> str:
        said = ", ".join(f"{kind} {share}" for kind, share in self._shares().items())
        n = number_of(self.record["summary"], "reproduced")
        return f"Audit({plural(n, 'passage')}: {said})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(row['verdict'])}</td><td>{escape(str(row['document']))}</td>"
            f"<td>{escape(row['text'][:_SHOWN])}</td></tr>"
            for row in self.passages.head(_ROWS).iter_rows(named=True)
        )
        shares = "".join(f"<li>{kind}: {share}</li>" for kind, share in self._shares().items())
        return (
            f"<b>{escape(self.record['verdict']['sentence'])}</b><ul>{shares}</ul>"
            f"<table><tr><th>verdict</th><th>document</th><th>passage</th></tr>{rows}</table>"
        )


@dataclass(frozen=True, repr=False)
class Judgement:
    """What a gate says of an audit; true where it passes.

    `passages` are those that it fails for, the longest first: beside a baseline the new ones.
    """

    passages: "pl.DataFrame"
    conditions: "tuple[GateResult, ...]" = ()
    shown: "tuple[Shown, ...]" = ()  # the passages, with their lines

    @property
    def passed(self) -> bool:
        """Whether no condition holds, and with `strict` nothing else fails."""
        return not any(one.is_failed for one in self.conditions)

    @property
    def reasons(self) -> list[str]:
        """The line of each condition that fails; none where it passes."""
        return [as_arguments(one.line) for one in self.conditions if one.is_failed]

    def check(self) -> None:
        """Raise AssertionError with all that `str` says, unless it passes."""
        if not self.passed:
            raise AssertionError(str(self))

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        """What failed, with the worst of it, as a log of `mnemoscope audit gate` says it."""
        lines = self.reasons or [as_arguments(one.line) for one in self.conditions]
        return "\n".join([*lines, *worst_said(self.shown, "passage")])

    __repr__ = __str__


class Plan(NamedTuple):
    """What a dry run says, and the documents of which the audit would ask nothing."""

    said: str
    unasked: list[str]


_WORDS_OF_NAME, _LONGEST_NAME = 20, 255
_LONGEST_LINE = 300
_OF_GATE = ("document", "start", "end", "verdict", "reason", "text")
_ROWS, _SHOWN = 10, 120  # passages, and characters of each, that a notebook shows


@dataclass(frozen=True)
class LocalChoice:
    """A model that runs here, as asked for: `name` is a folder, a hub name or ``"embedded"``.

    `loaded` is one that is in memory already. Raises UserError: a number format or a device that
    there is not.
    """

    name: str
    revision: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    role: str = "model"
    loaded: "LanguageModel | None" = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Refuse what torch would."""
        check_dtype_name(self.dtype)
        check_device_name(self.device)

    def check(self) -> None:
        """Refuse a name that leads to no model, before anything is loaded."""
        if self.name != EMBEDDED and self.loaded is None:
            check_model(self.name, self.revision)

    def beside(self, reference: str | Path | None) -> "LocalChoice | None":
        """The reference: what was asked for, else the embedded model's own; ``"none"``: none."""
        own = EMBEDDED if self.name == EMBEDDED else None
        name = None if reference == "none" else reference or own
        if not name:
            return None
        return replace(self, name=str(name), revision=None, role="reference", loaded=None)

    def load(self) -> "LanguageModel":
        """The model."""
        if self.loaded is not None:
            return self.loaded
        from mnemoscope.lm.load import load_model

        say(f"Loading the {self.role} {self.name}")
        place = place_of(self.name, self.role)
        return load_model(
            place,
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )


def chosen(
    stack: ExitStack,
    model: Any,
    reference: Any,
    tokenizer: Any,
    revision: str | None,
    named: Mapping[str, Any],
) -> tuple[LocalChoice, LocalChoice | None]:
    """A model and its reference, named (`named` says how they are loaded) or in memory.

    What is in memory is without dropout as long as `stack` is open.
    """

    def loaded(given: Any, role: str) -> LocalChoice:
        from mnemoscope.library.given import opened_model  # torch

        lm = stack.enter_context(opened_model(given, tokenizer, for_study=True))
        return LocalChoice(lm.name, role=role, loaded=lm, **named)

    is_named = isinstance(model, str | Path)
    own = LocalChoice(str(model), revision, **named) if is_named else loaded(model, "model")
    if reference is None or isinstance(reference, str | Path):
        return own, own.beside(reference)
    return own, loaded(reference, "reference")


def judge_audit(gate: "Gate", made: Audit, baseline: Path | None) -> "GateResult":
    """Put a condition to an audit; errors as `gate.judge`."""
    from mnemoscope.audits.gate import judge
    from mnemoscope.audits.records import read_near

    near = read_near(made.folder) if baseline is not None else None
    return judge(gate, made.record, made.passages, baseline, near)


def audit(
    model: Any,
    documents: Any,
    out: str | Path | None = None,
    *,
    tokenizer: Any = None,
    reference: Any = None,
    study: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
    encoding: str = "utf-8",
    columns: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    case: str | None = None,
    operator: str | None = None,
    command: Sequence[str] = (),
    redo: bool = False,
    progress: bool | None = None,
    **settings: Any,
) -> Audit:
    """Find the passages of documents that a model repeats, and say which of them are guesses.

    Args:
        model: a folder, a hub name, a `.gguf` file, ``"embedded"``, or a loaded model, as in
            `scan`.
        documents: files, folders, tables or data sets of the hub; or texts: one, a list of them, by
            their names (dict), or in the column `text` of a frame of Polars or pandas or a
            `datasets.Dataset`, named by its column `document`, if any. A string that names what is
            there is read, also in a list; else it is a text if it has several lines or more than
            20 words, and refused as a mistyped name if it is shorter.
        out: a folder for `audit.html`, `report.html`, tables and `audit.json`, where a stopped
            audit goes on; without it nothing is left behind but what `save` writes.
        tokenizer: of a loaded model, where its name does not tell.
        reference: a model that never saw the documents, named or loaded; ``"embedded"`` has its
            own (the shipped twin), and any other model none, unless given.
        study: a finished study of the model, whose CNNs give probabilities; ``"auto"`` makes one.
        revision: of a hub name.
        dtype: of the weights, where the model is named.
        device: where a named model runs.
        trust_remote_code: run Python code that comes with a named model.
        encoding: of text files.
        columns: of tables, by their paths.
        exclude: globs of files to leave out, on their paths within the documents.
        case: what the audit is for, a line that page, report and record show.
        operator: who makes it, likewise.
        command: recorded in `audit.json`.
        redo: write over another audit in the folder.
        progress: whether to show how far it is; None: in a notebook.
        settings: of the audit, as the flags are called (``stride=4``).

    Returns:
        An `Audit`: `passages`, those that are `recalled` and `guessed`, and the whole `record`.

    Raises:
        UserError: no such model or file, a setting that is unknown or out of range, another audit
            in the folder, or no document as long as a window.
    """
    if out is not None and not isinstance(out, str | Path):
        raise UserError(f"out: {a_kind(out)}; give a folder.")
    held = None
    if out is None:
        held = TemporaryDirectory(prefix="audit-")
        out = held.name
    folder = Path(out)
    asked, documents = audit_settings(**settings), _documents(documents)
    lines = _line("case", case), _line("operator", operator)
    with ExitStack() as stack:
        stack.enter_context(progress_shown(progress))
        named = {"dtype": dtype, "device": str(device), "trust_remote_code": trust_remote_code}
        own, other = chosen(stack, model, reference, tokenizer, revision, named)
        _check(own, other, documents)
        _check_study(study, asked)
        stack.enter_context(kept_clean(folder))
        reading = _read(documents, folder, encoding, columns, exclude)
        from mnemoscope.audits.unread import unread_documents

        unread = unread_documents(asked, reading)
        from mnemoscope.audits.run import check_same, make_audit
        from mnemoscope.audits.tokens import cut_texts

        check_same(folder, asked, reading, other.name if other else None, redo=redo)
        auditing = _local_audit(own, other, reading, asked)
        auditing.unread = cut_texts(auditing.model.splitter, unread)
        auditing.case, auditing.operator = lines
        if study is not None:
            auditing.cnn = _cnns(str(study), own, auditing, folder, redo=redo)
        record = make_audit(auditing, reading, folder, command=command, redo=redo)
        return replace(_made(folder, record), held=held)


def planned(
    model: str,
    documents: Documents,
    out: Path | None,
    *,
    reference: str | None = None,
    study: str | None = None,
    revision: str | None = None,
    encoding: str = "utf-8",
    columns: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    redo: bool = False,
    named: Mapping[str, Any],
    **settings: Any,
) -> Plan:
    """What `audit` would ask, of which documents, and what it takes; errors as there.

    Models on disk are loaded, and pieces of the documents are asked to measure the time.
    """
    asked = audit_settings(**settings)
    own = LocalChoice(model, revision, **named)
    other = own.beside(reference)
    _check(own, other, documents)
    _check_study(study, asked)
    from mnemoscope.audits.records import check_folder

    if out is not None:
        check_folder(out)
    reading = _read(documents, out, encoding, columns, exclude)
    from mnemoscope.audits.dry_run import plan_audit, time_pieces
    from mnemoscope.audits.run import added_to, check_same
    from mnemoscope.audits.tokens import cut_texts
    from mnemoscope.audits.unread import unread_documents
    from mnemoscope.lm.tokenizer import load_tokenizer
    from mnemoscope.study.shapes import is_on_disk

    if out is not None:
        check_same(out, asked, reading, other.name if other else None, redo=redo)
    added = None if out is None or redo else added_to(out, asked)

    place, left_out = place_of(own.name), list[str]()
    unread = unread_documents(asked, reading, tell=left_out.append)
    trust = own.trust_remote_code
    tokenizer = load_tokenizer(place, revision=revision, trust_remote_code=trust)
    timed = None
    is_timed = added is None or "unread" in added
    if is_timed and all(is_on_disk(one.name, one.revision) for one in (own, other) if one):
        started = monotonic()
        auditing = _local_audit(own, other, reading, asked)
        loading = monotonic() - started
        auditing.unread = cut_texts(auditing.model.splitter, unread)
        auditing.texts = auditing.texts if added is None else []
        timed = time_pieces(auditing)._replace(loading=loading)
    lines = plan_audit(
        *(reading, tokenizer, asked),
        weights=Path(place),
        device=own.device,
        reference=Path(place_of(other.name, "reference")) if other else None,
        beside={name for name, one in (("reference", other), ("cnn", study)) if one is not None},
        unread=unread,
        timed=timed,
        added=added,
        tell_short=(unasked := [one.name for one in reading.skipped]).append,
    )
    return Plan("\n".join([*left_out, *lines]), unasked)


def _check_study(study: str | Path | None, settings: AuditSettings) -> None:
    """Refuse a folder that holds none, and settings that its CNNs cannot read."""
    if study not in (None, MAKE_STUDY):
        Study(str(study))
    if study is not None and settings.chat_template:
        raise UserError(
            f"--study {study}: its CNNs read plain text. Leave out --chat-template or --study."
        )


def _line(name: str, text: Any) -> str | None:
    """What is written into the record as it is given, on one line."""
    if text is None:
        return None
    if not isinstance(text, str) or not text.split() or len(text) > _LONGEST_LINE:
        raise UserError(f"{name}: give a line of at most {_LONGEST_LINE} characters.")
    return whole_characters(" ".join(text.split()))


def _documents(documents: Any) -> Documents:
    """Texts by their names where texts were given; else as it is."""
    if hasattr(documents, "columns") or hasattr(documents, "column_names"):
        documents = _texts_of(documents)
    if isinstance(documents, Mapping):
        for name, text in documents.items():
            if not isinstance(text, str):
                raise UserError(f"documents, {name!r}: {a_kind(text)}; give its text.")
        return {str(name): text for name, text in documents.items()}
    if isinstance(documents, Path):
        return documents
    if isinstance(documents, str) and not documents.strip():
        raise UserError("documents: an empty text. Give files, or texts by their names.")
    if isinstance(documents, str):
        return {"text": documents} if _is_text(documents) else documents
    if not isinstance(documents, Sequence):
        raise UserError(f"documents: {a_kind(documents)}; give files, or texts by their names.")
    if not documents:
        raise UserError("documents: none given.")
    for number, one in enumerate(documents):
        if not isinstance(one, str | Path):
            raise UserError(f"documents, number {number}: {a_kind(one)}; give a text, or a path.")
    if not any(isinstance(one, str) and _is_text(one) for one in documents):
        return documents
    for number, one in enumerate(documents):
        if isinstance(one, Path) or (not _is_text(one) and Path(one).exists()):
            raise UserError(
                f"documents, number {number}: the path {str(one)!r} among texts. Give one or the "
                "other."
            )
    return {f"text {number}": str(one) for number, one in enumerate(documents)}


def _texts_of(table: Any) -> dict[str, str]:
    """Texts of a frame or a `datasets.Dataset`, by `document` where no two have the same."""
    from mnemoscope.data.rows import to_frame

    frame = to_frame(table)
    if "text" not in frame.columns:
        raise UserError(f"documents: a table of {', '.join(frame.columns)}, without a column text.")
    frame = frame.drop_nulls("text")
    names = [f"text {number}" for number in range(frame.height)]
    if "document" in frame.columns and frame["document"].n_unique() == frame.height:
        names = [str(one) for one in frame["document"]]
    return dict(zip(names, frame["text"], strict=True))


def _is_text(given: str) -> bool:
    """Whether it is no name, mistyped or not: several lines, or more words than any name has."""
    is_long = len(given) > _LONGEST_NAME or len(given.split()) > _WORDS_OF_NAME
    return (is_long or "\n" in given.strip()) and not is_there(given)


def audit_api(
    service: EndpointSettings,
    documents: Documents,
    out: str | Path | None,
    *,
    tokenizer: str | None = None,
    revision: str | None = None,
    prices: tuple[float | None, float | None] = (None, None),
    dry_run: bool = False,
    encoding: str = "utf-8",
    columns: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    case: str | None = None,
    operator: str | None = None,
    command: Sequence[str] = (),
    redo: bool = False,
    **settings: Any,
) -> Audit | Plan:
    """Audit a model behind an API; with `dry_run` nothing is asked, and the estimate is given.

    `tokenizer` is that of the model, at `revision`; without it words are counted. `prices` are
    those of a million prompt and a million completion tokens. The rest is as in `audit`. Raises
    UserError: as there, and a service that refuses or gives no answer.
    """
    asked = audit_settings("chat" if service.chat else "api", **{"top_k": 0, **settings})
    lines = _line("case", case), _line("operator", operator)
    folder = None if out is None else Path(out)
    with kept_clean(None if dry_run else folder):
        from mnemoscope.audits.asking import Auditing
        from mnemoscope.audits.run import make_audit
        from mnemoscope.audits.service import estimate_cost
        from mnemoscope.audits.tokens import cut_texts

        reading = _read(documents, folder, encoding, columns, exclude)
        model = _served(service, asked, tokenizer, revision, folder)
        auditing = Auditing(model, cut_texts(model.splitter, reading.documents), asked)
        auditing.case, auditing.operator = lines
        estimate = estimate_cost(auditing, price_in=prices[0], price_out=prices[1])
        if dry_run or folder is None:
            short = (one for one in auditing.texts if len(one.tokens.ids) < asked.length)
            names = [*(one.name for one in reading.skipped), *(one.name for one in short)]
            return Plan(estimate, names)
        say(f"Estimate: {estimate}")
        return _made(folder, make_audit(auditing, reading, folder, command=command, redo=redo))


def verify(
    folder: str | Path,
    *,
    documents: Sequence[str | Path] = (),
    model: str | Path | None = None,
    reference: str | Path | None = None,
    unread: str | Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    search: bool = False,
) -> "Verification":
    """Repeat the passages of a finished audit, and say which of them hold.

    With `search` every window is asked again, so that passages that were left out are found.

    `documents` are files and folders where the audited documents are now, `unread` where those of
    `--unread` are, `model` and `reference` where the models are; fingerprints tell whether they are
    those that were asked. A reference that is neither given nor on this machine is not asked again,
    nor is ``"none"``. Raises UserError: no audit there, no such documents, or a model is not there
    or cannot be loaded. DamagedDataError: a file that cannot be read.
    """
    from mnemoscope.audits.documents import check_sources
    from mnemoscope.audits.records import check_is_audit

    check_device_name(device)
    check_is_audit(Path(folder))
    sources = [str(one) for one in documents]
    others = None if unread is None else str(unread)
    check_sources([*sources, *([] if others is None else [others])])
    from mnemoscope.audits.verify import gone_of, verify_audit

    def choose(
        name: str, is_elsewhere: bool, facts: "ModelRecord", dtype: str, role: str = "model"
    ) -> LocalChoice:
        revision = None if is_elsewhere else facts["revision"]
        made = LocalChoice(name, revision, dtype, device, role, trust_remote_code=trust_remote_code)
        made.check()
        return made

    def load(record: "AuditRecord", settings: AuditSettings) -> "AskedModel":
        facts, api = record["model"], record.get("api")
        if not api:
            from mnemoscope.audits.local import LocalModel

            name, dtype = str(model or facts["name"]), facts["dtype"] or "float32"
            if facts["files"] and name != EMBEDDED and not Path(name).exists():
                given = {"--documents": documents, "--reference": reference, "--unread": unread}
                also = [one for one in gone_of(record) if not given[one]]
                flags = " ".join(f"{one} DIR" for one in ("--model", *also))
                raise UserError(
                    f"{name}: the model that was audited was a folder or file, which is not there. "
                    f"Say where it is now with {flags}."
                )
            return LocalModel(choose(name, bool(model), facts, dtype).load(), settings)
        place = {"url": api["endpoint"], "model": facts["name"]}
        service = checked(EndpointSettings, **api["settings"], **place)
        return _served(service, settings, api["tokenizer"], api["tokenizer_revision"], None)

    def load_reference(record: "AuditRecord", settings: AuditSettings) -> "AskedModel | None":
        facts = record["reference"]
        if facts is None and reference not in (None, "none"):
            raise UserError("--reference: this audit asked none. Leave it out.")
        if facts is None or reference == "none":
            return None
        name = str(reference or facts["name"])
        if reference is None and name != EMBEDDED and not Path(name).exists():
            return None
        from mnemoscope.audits.local import LocalModel

        found = choose(name, bool(reference), facts, facts["dtype"] or "float32", "reference")
        return LocalModel(found.load(), settings.model_copy(update={"chat_template": False}))

    return verify_audit(Path(folder), load, sources, load_reference, unread=others, search=search)


def rank(
    model: str | Path,
    documents: Documents,
    out: str | Path,
    *,
    reference: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
    encoding: str = "utf-8",
    columns: Mapping[str, str] | None = None,
    **settings: Any,
) -> "pl.DataFrame":
    """Rank windows by how sure the model is of their beginnings, and decode nothing.

    Arguments as in `audit`; gives and writes what `rank.rank_windows` says. Raises UserError: as
    there.
    """
    own, folder = LocalChoice(str(model), revision, dtype, device), Path(out)
    own = replace(own, trust_remote_code=trust_remote_code)
    other, asked = own.beside(reference), audit_settings(**settings)
    _check(own, other, documents)
    with kept_clean(folder):
        reading = _read(documents, folder, encoding, columns)
        from mnemoscope.audits.rank import RANKING, rank_windows
        from mnemoscope.audits.scan import check_long_enough
        from mnemoscope.files import write_parquet

        auditing = _local_audit(own, other, reading, asked)
        check_long_enough(auditing)
        frame = rank_windows(auditing)
        write_parquet(folder / RANKING, frame)
    return frame


def _check(own: LocalChoice, other: LocalChoice | None, documents: Documents) -> None:
    """Refuse names that lead nowhere, before torch is loaded."""
    from mnemoscope.audits.documents import check_sources

    if not isinstance(documents, Mapping):
        check_sources(_sources(documents))
    for one in (own, other):
        if one is not None:
            one.check()
    if other is not None and own.loaded is other.loaded is None and own.name != EMBEDDED:
        check_other_model(other.name, other.revision, own.name, own.revision)
        if is_of_same_run(other.name, own.name):
            say(
                f"--reference {other.name}: a checkpoint of the same training, which may have read "
                "the documents too: what both write cannot be told. Name the model that it was "
                "tuned from."
            )


def _sources(documents: "str | Path | Sequence[str | Path]") -> list[str]:
    given = [documents] if isinstance(documents, str | Path) else documents
    return [str(one) for one in given]


@contextmanager
def kept_clean(out: Path | None) -> Iterator[None]:
    """Make the folder and hold it; leave none behind a refusal in which nothing is kept of it."""
    if out is None:
        yield
        return
    from mnemoscope.audits.records import FOUNDED, PARTS, prepare_folder

    was_there = out.exists()
    prepare_folder(out)
    with hold_folder(out):
        for folder in (out, out / PARTS, out / "texts"):
            remove_torn(folder)
        try:
            yield
        except BaseException as error:
            files = [one for one in out.rglob("*") if not one.is_dir()]
            is_empty = all(one.name.startswith((FOUNDED, LOCK_FILE)) for one in files)
            if is_empty and isinstance(error, KeyboardInterrupt):
                say(f"{out}: nothing was kept yet.")
            if is_empty and not was_there:
                shutil.rmtree(out, ignore_errors=True)
            raise
        finally:  # while it is held: the folder of an audit holds the audit alone
            (out / LOCK_FILE).unlink(missing_ok=True)


def _read(
    documents: Documents,
    out: Path | None,
    encoding: str,
    columns: Mapping[str, str] | None,
    exclude: Sequence[str] = (),
) -> "Reading":
    from mnemoscope.audits.documents import (
        Reading,
        check_columns,
        check_outside,
        make_document,
        read_documents,
    )

    if isinstance(documents, Mapping):
        if exclude:
            raise UserError("exclude: texts were given by their names. Leave out those.")
        texts = [make_document(*one, is_extracted=True) for one in documents.items()]
        return Reading(texts, [])
    sources = _sources(documents)
    if out is not None:
        check_outside(sources, out)
    excluded = find_excluded(sources, exclude)
    check_columns(sources, columns, exclude)
    stdin = sys.stdin.buffer if "-" in sources else None
    reading = read_documents(
        sources, stdin=stdin, encoding=encoding, leave_out=out, columns=columns, exclude=exclude
    )
    for line in excluded_said(excluded):
        say(line)
    for one in reading.skipped:
        say(printable(f"Not read: {one.name}: {one.reason}"))
    return replace(reading, excluded=excluded)


def _local_audit(
    own: LocalChoice, other: LocalChoice | None, reading: "Reading", settings: AuditSettings
) -> "Auditing":
    from mnemoscope.audits.local import local_audit
    from mnemoscope.study.models import check_unlike

    lm, reference = own.load(), other.load() if other else None
    names = own.name, other.name if other else ""
    if reference is not None and lm.tokenizer.get_vocab() == reference.tokenizer.get_vocab():
        check_unlike(names[1], reference.fingerprint, names[0], lm.fingerprint)
    return local_audit(lm, reading.documents, settings, reference=reference, names=names)


def _cnns(
    study: str, own: LocalChoice, auditing: "Auditing", out: Path, *, redo: bool
) -> "CnnGround":
    """The CNNs of a study of this model, made where asked; says why they give no probability."""
    from mnemoscope.audits.ground import check_study, make_study, read_ground
    from mnemoscope.audits.run import audit_key, check_no_other
    from mnemoscope.audits.scan import check_long_enough

    lm, folder = auditing.lm, Path(study)
    if study == MAKE_STUDY:  # at length, so what would be refused then is refused now
        check_long_enough(auditing)
        check_no_other(out, redo=redo)
        audit_key(auditing)
        folder = make_study(
            out,
            auditing.settings,
            model=own.name,
            revision=own.revision,
            dtype=own.dtype,
            device=own.device,
            lm=lm,
        ).folder
    ground = read_ground(check_study(folder, lm, auditing.settings))
    if ground.facts["reason"] is not None:
        say(f"No probabilities from {folder}: {ground.facts['reason']}.")
        return ground
    fit, found = ground.facts["calibration"], ground.facts["measured"]
    say(
        f"Probabilities from {len(ground.cnns)} CNNs of {folder}, calibration: {fit['method']}. On "
        f"{found['n_guess']} Guess and {found['n_recall']} Recall sequences held out: ECE "
        f"{100 * found['ece']:.1f} % (as it was {100 * found['ece_uncalibrated']:.1f} %), AUC "
        f"{found['auc']['value']:.3f}"
    )
    return ground


def _served(
    service: EndpointSettings,
    settings: AuditSettings,
    tokenizer: str | None,
    revision: str | None,
    out: Path | None,
) -> "ServedModel":
    """A model behind an API; its answers are kept in the audit's folder, where there is one."""
    from mnemoscope.audits.chat import ChatModel
    from mnemoscope.audits.client import AnswerStore, Client
    from mnemoscope.audits.service import ServedModel
    from mnemoscope.audits.tokens import ModelTokens, Splitter, Words

    splitter: Splitter = Words()
    if tokenizer is not None:
        from mnemoscope.lm.tokenizer import load_tokenizer

        found = load_tokenizer(place_of(tokenizer), revision)
        splitter = ModelTokens(found, find_bos(found))
    return (ChatModel if service.chat else ServedModel)(
        Client(service, None if out is None else AnswerStore(out / "answers.jsonl")),
        splitter,
        settings,
        tokenizer_name=tokenizer,
        tokenizer_revision=revision,
    )


def _made(folder: Path, record: "AuditRecord") -> Audit:
    from mnemoscope.audits.records import read_audit

    return Audit(folder, record, read_audit(folder)[1])
