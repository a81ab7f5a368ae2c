"""Repeat an audit's passages and say whether they still hold: `mnemoscope audit verify DIR`."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl

from mnemoscope.audits import unread as unread_question
from mnemoscope.audits.asking import AskedModel, Auditing, ModelRecord, Prompt
from mnemoscope.audits.documents import Document, read_documents
from mnemoscope.audits.passages import GROUNDS, numbered
from mnemoscope.audits.questions import QUESTIONS, settings_class
from mnemoscope.audits.records import (
    ARTEFACT,
    RECORD,
    AuditRecord,
    DocumentRow,
    audit_store,
    changed_files,
    changed_record,
    check_is_audit,
    read_audit,
)
from mnemoscope.audits.reference import apart
from mnemoscope.audits.rule import decide, rule_windows
from mnemoscope.audits.run import PAGES, find_passages, pages_of
from mnemoscope.audits.scan import ask_in_parts, prompts_at
from mnemoscope.audits.settings import AuditSettings, checked
from mnemoscope.audits.shares import count_document, overall
from mnemoscope.audits.tokens import Text, Tokens, Words, character_range, cut_texts
from mnemoscope.audits.verdict import verdict_of
from mnemoscope.data.formats import is_there
from mnemoscope.errors import MnemoscopeError, UserError
from mnemoscope.study.settings import EMBEDDED
from mnemoscope.version import __version__
from mnemoscope.words import first_names, plural

Load = Callable[[AuditRecord, AuditSettings], AskedModel]
"""Gives the model that an audit's record speaks of."""
LoadReference = Callable[[AuditRecord, AuditSettings], AskedModel | None]
"""Gives its reference; None: it is not asked."""


class Verification(NamedTuple):
    """What came of it.

    A passage holds that stands in the document where the audit says, whose window the model
    continues as recorded, and whose verdict follows from what the tests say.

    Attributes:
        n_spans: passages of the audit.
        n_hold: those that hold.
        n_open: those that are written again, in documents that are not there or were changed.
        problems: what does not hold.
        unchecked: documents, audited or of `--unread`, that could not be found, and what could not
            be checked for it.
        notes: what to know beside.
        checked: what holds, in sentences; empty where there are problems.
        not_checked: what was not looked at beside, in sentences; empty where there are problems.
        has_pages: whether pages were compared; those of another version are not.
        sha256: of `audit.json`.
    """

    n_spans: int
    n_hold: int
    n_open: int
    problems: list[str]
    unchecked: list[str]
    notes: list[str]
    checked: list[str]
    not_checked: list[str]
    has_pages: bool
    sha256: str


def verify_audit(
    out: Path,
    load: Load,
    documents: Sequence[str] = (),
    load_reference: LoadReference = lambda *_: None,
    *,
    unread: str | None = None,
    search: bool = False,
) -> Verification:
    """Repeat the passages of an audit with the model that `load` gives, and check its files.

    `documents` are files and folders where its documents are now; they are known by the checksums
    of their texts, whatever they are called; so are those of `--unread`, which are in `unread`.
    Where `load_reference` gives the reference, it is asked again too. With `search` the model
    continues every window of the documents again, which takes as long as the audit did: whether
    passages were left out. Raises UserError: no audit there, it asked no `unread`, or a model
    cannot be loaded. DamagedDataError: a file that cannot be read.
    """
    check_is_audit(out)
    if (changed := changed_record(out)) is not None:
        sha256 = hashlib.sha256((out / RECORD).read_bytes()).hexdigest()
        return Verification(0, 0, 0, [changed], [], [], [], [], False, sha256)
    record, frame = read_audit(out, as_it_is=True)
    moved = _moved(out, record, documents)
    found = _check_documents(out, record, moved)
    problems, notes = found.problems, found.notes
    lost = changed_files(out, record)
    problems += lost.values()
    settings = checked(settings_class(), **record["settings"])
    model = load(record, settings)
    fingerprint = model.facts().record["fingerprint"]
    if fingerprint is None:
        notes.append("the weights behind an API cannot be checked, only what it writes now.")
    elif fingerprint != record["model"]["fingerprint"]:
        problems.append(
            f"{model.facts().record['name']}: other weights than those of "
            f"{record['model']['name']}, which were audited. Nothing that "
            "the model writes was compared: say where the audited one is with --model DIR."
        )
        sha256 = hashlib.sha256((out / RECORD).read_bytes()).hexdigest()
        return Verification(0, 0, 0, problems, found.unchecked, notes, [], [], False, sha256)
    reference = load_reference(record, settings)
    texts = cut_texts(model.splitter, found.same)
    audit = Auditing(model, texts, settings, reference, passages=frame)
    audit.apart = None if record["reference"] is None else record["reference"].get("apart")
    unread_gone = _find_unread(audit, record, moved, unread)
    problems += _reference_again(audit, record)
    numbers, holds, is_there = audit.numbers(), _hold(audit), list[bool]()
    for row, ok in zip(frame.rows(named=True), holds, strict=True):
        is_there.append(row["document"] in numbers)
        if not ok and (is_there[-1] or model.kind == "here"):  # a service is asked by the document
            problems.append(f"{row['document']}, {row['start']}-{row['end']}: does not hold.")
    if search:
        problems += _left_out(audit)
    for name, question in audit.asked().items():
        check, file = question.part("check"), f"{name}.parquet"
        if check and file in record["files"].keys() - lost.keys():
            problems += check(audit, audit_store(out).frame(ARTEFACT, file))
    if not unread_gone and not found.unchecked and not problems:
        problems += _unread_again(out, record, audit, search=search)
    passages = numbered(frame)  # a row is one, or a piece of one
    broken = {one for one, ok in zip(passages, holds, strict=True) if not ok}
    there = {one for one, ok in zip(passages, is_there, strict=True) if ok}
    n_hold = len(there - broken)
    is_own = (by := record["versions"]["mnemoscope"]) == __version__
    if not problems and not found.unchecked:
        problems += _not_following(out, record, frame, found.same, with_pages=is_own)
        if not is_own:
            notes.append(
                f"made by mnemoscope {by}; this is {__version__}, which may word them otherwise: "
                f"the verdict's sentence, {', '.join(PAGES)} could not be compared with the "
                f"passages. mnemoscope {by} can."
            )
    is_whole = not problems and not found.unchecked
    return Verification(
        len({*passages}),
        n_hold,
        len({*passages} - broken) - n_hold,
        problems,
        found.unchecked + unread_gone,
        notes,
        _what_holds(record, reference, is_own, search=search, unread_gone=bool(unread_gone))
        if is_whole
        else [],
        _not_looked_at(audit, record, search=search) if is_whole else [],
        is_own,
        hashlib.sha256((out / RECORD).read_bytes()).hexdigest(),
    )


def _find_unread(
    audit: Auditing, record: AuditRecord, moved: Sequence[Document], elsewhere: str | None
) -> list[str]:
    """Give the audit those documents of `--unread` that are there; what to say of the others."""
    audit.unread = []
    if "unread" not in record:
        if elsewhere is not None:
            raise UserError("--unread: this audit asked none. Leave it out.")
        return []
    texts, place = record["unread"]["texts"], str(record["settings"]["unread"])
    there = {one.sha256: one for one in moved}
    encoding, columns = record["encoding"], record.get("columns")

    def read(place: str) -> dict[str, Document]:
        found = read_documents([place], encoding=encoding, columns=columns).documents
        return {one.sha256: one for one in found}

    with suppress(MnemoscopeError):
        there |= read(place)
    if elsewhere is not None:
        there |= read(elsewhere)
    same = [
        replace(there[one["sha256"]], name=one["document"])
        for one in texts
        if one["sha256"] in there
    ]
    audit.unread = cut_texts(audit.model.splitter, same)
    if len(same) == len(texts):
        return []
    rest = "every p of --read and " * ("read" in record) + "what the rule says of them"
    return [
        f"--unread {place}: {len(texts) - len(same):,} of its {plural(len(texts), 'text')} not "
        f"found, or changed: {rest} rests on texts that were not compared. Say where they are now "
        "with --unread DIR."
    ]


def _unread_again(
    out: Path, record: AuditRecord, audit: Auditing, *, search: bool
) -> Iterator[str]:
    """What of the documents of `--unread`, which are all there, is not as recorded."""
    store = audit_store(out)
    tables = {
        name: store.frame(ARTEFACT, f"{name}.parquet")
        for name in ("unread", "read")
        if name in record
    }
    facts = dict[str, Mapping[str, Any]]()
    if "unread" in tables:
        facts["unread"] = unread_question.facts_of(audit, tables["unread"])
        if search and _has_grounds(audit, record):
            yield from unread_question.again(audit, tables["unread"])
    if "read" in tables and (record["reference"] is None or audit.other_lm is not None):
        from mnemoscope.audits import read

        facts["read"] = read.facts_of(
            audit, tables["read"], unread_question.unread_texts(audit), record["model"]["name"]
        )
    for name, found in facts.items():
        if json.loads(json.dumps(found)) != cast(Mapping[str, Any], record)[name]:
            yield f"{RECORD}: what it says under '{name}' does not follow from {name}.parquet."


def _has_grounds(audit: Auditing, record: AuditRecord) -> bool:
    """Whether all is there by which the audit decided; CNNs of a study never are."""
    return record["cnn"] is None and (record["reference"] is None or audit.reference is not None)


def _left_out(audit: Auditing) -> Iterator[str]:
    """What the model writes now and no passage of the audit has."""
    again = replace(audit, passages=pl.DataFrame(), kept=None)
    find_passages(again)
    for document, start, end in again.passages.select("document", "start", "end").rows():
        known = audit.passages.filter(pl.col("document") == document, pl.col("end") > start)
        at = start
        for first, last in known.sort("start").select("start", "end").rows():
            at = last if first <= at < last else at
        if at < end:
            yield f"{document}, {start}-{end}: comes out, and is no passage of the audit."
    for document in audit.numbers():
        was, now = (
            [one for row in frame.filter(document=document)["otherwise"].to_list() for one in row]
            for frame in (audit.passages, again.passages)
        )
        if was != now:
            yield f"{document}: what no window has right ('otherwise') is not what is recorded."


def _reference_again(audit: Auditing, record: AuditRecord) -> Iterator[str]:
    """What the reference, and the model with its parts, do not write as recorded."""
    if audit.reference is None or record["reference"] is None:
        return
    name = record["reference"]["name"]
    if audit.reference.facts().record["fingerprint"] != record["reference"]["fingerprint"]:
        yield f"reference {name}: other weights than those that were asked."
        return
    if {*audit.numbers()} >= {row["document"] for row in record["documents"]}:
        yield from _distance_again(audit, record["reference"])
    frame, names = audit.passages, [str(one) for one in range(audit.passages.height)]
    place = frame.select("document", "start", "end").rows()
    # By the tokens that the table holds: their documents need not be there.
    texts = [_window(*one) for one in zip(names, frame["window_tokens"].to_list(), strict=True)]
    alone = frame.with_columns(document=pl.Series(names), window_token=pl.lit(0))
    beside = replace(audit, texts=texts, passages=alone)
    for question, who in (("reference", "the reference"), ("grafts", "the model with its parts")):
        answer = QUESTIONS[question].part("ask")(beside)
        for column in _WRITTEN & {*answer.columns}:
            both = zip(frame[column].to_list(), answer.columns[column], strict=True)
            for (document, start, end), (was, now) in zip(place, both, strict=True):
                if was != now:
                    yield f"{document}, {start}-{end}: {who} does not write again what is recorded."


def _distance_again(audit: Auditing, reference: ModelRecord) -> Iterator[str]:
    """How far the reference is from the model, where that is not as it was printed."""
    was, now = reference.get("apart"), apart(audit)
    if (was is None) != (now is None) or abs((was or 0.0) - (now or 0.0)) > _AS_PRINTED:
        said = " and ".join("none" if one is None else f"{one:.3f}" for one in (was, now))
        yield f"reference {reference['name']}: its distance from the model differs ({said})."


_AS_PRINTED = 0.01
"""Nats a token, as they are printed: another machine rounds the last bits otherwise."""
_WRITTEN = {"reference_score", "grafts_survived"}
"""What is compared of these answers: counts of tokens and of parts, no rounded figures."""


def _what_holds(
    record: AuditRecord,
    reference: AskedModel | None,
    is_own: bool,
    *,
    search: bool,
    unread_gone: bool,
) -> list[str]:
    """What was checked, when nothing was found wrong."""
    files, counts = [*record["files"], RECORD], record["summary"]
    said = []
    if has_passages := bool(counts["recall_spans"] + counts["guess_spans"]):
        said.append(
            "each passage was written again by the model, stands in its document where the audit "
            "says, and has the verdict that its tests give."
        )
    if search:
        said.append("every window was asked again, and no passage was left out.")
    said += [
        f"{plural(len(record['documents']), 'document')} and {plural(len(files), 'file')} have "
        "their checksums.",
        "the counts follow from the passages.",
    ]
    if record["reference"] is not None and (has_passages or counts.get("alone_spans")):
        said.append(
            "what the reference and its parts wrote: by checksum alone, it was not asked again "
            "(--reference MODEL asks it)."
            if reference is None
            else "the reference and its parts were asked again, and wrote the same; its distance "
            "from the model is as printed."
        )
    if is_own:
        said.append(f"the verdict's sentence, {', '.join(PAGES)} follow from the passages.")
    if "unread" in record and not unread_gone:
        said.append("the documents of --unread are those that were asked.")
    if "read" in record:
        which = " and --unread" * ("unread" in record and not unread_gone)
        said.append(f"the documents{which} were scored again for --read.")
    return said


def _not_looked_at(audit: Auditing, record: AuditRecord, *, search: bool) -> list[str]:
    """What else the record holds that nothing here compared, in sentences."""
    again = {"reference", "grafts", "alone", "near", "profile", "read", "unread"}
    alone = [one.title for name, one in audit.asked().items() if name not in again]
    said = []
    if not search:
        said.append(
            "whether passages were left out, and what no window has right ('otherwise'). --search "
            "asks every window again."
        )
    if "unread" in record and not (search and _has_grounds(audit, record)):
        how = " --search asks these too." * _has_grounds(audit, record)
        said.append(f"what comes out of the documents of --unread: by checksum alone.{how}")
    if alone and (audit.passages.height or {"ordinary"} & {*audit.asked()}):
        said.append(f"of these answers the checksum alone was compared: {'; '.join(alone)}.")
    if "read" in record and record["reference"] is not None and audit.other_lm is None:
        said.append("the bits of --read, since the reference was not asked.")
    if record["reference"] is not None:
        said.append(
            "how likely the reference finds the passages, whether it repeats more alone than is "
            "listed, and whether the two were swapped: by checksum alone."
        )
    said.append(
        "date, case, operator, command, versions"
        + ", what was not read" * bool(record["skipped"])
        + ", what --exclude left out" * ("excluded" in record)
        + ": they stand as they were written down."
    )
    return said


def _not_following(
    out: Path,
    record: AuditRecord,
    frame: pl.DataFrame,
    documents: Sequence[Document],
    *,
    with_pages: bool,
) -> Iterator[str]:
    """What of the counts, the sentence and the pages does not follow; all documents are there."""
    store = audit_store(out)
    asked = [name for name in QUESTIONS if f"{name}.parquet" in record["files"]]
    tables = {name: store.frame(ARTEFACT, f"{name}.parquet") for name in asked}
    texts = {one.name: one.text for one in documents}
    rows: list[DocumentRow] = []
    for row in record["documents"]:
        name = row["document"]
        sized: DocumentRow = {**row, "characters": len(texts[name])}
        counts = count_document(name, sized, frame, tables.get("near"), tables.get("alone"))
        rows.append(cast(DocumentRow, {**row, **counts}))
    again: list[Any] = [rows, summary := overall(rows)]
    said: list[Any] = [record["documents"], record["summary"]]
    if with_pages:
        beside = record.get("unread")
        name, reference = record["model"]["name"], record["reference"]
        again.append(verdict_of(name, reference, summary, frame, beside, documents=rows))
        said.append(record["verdict"])
    if json.loads(json.dumps(again)) != json.loads(json.dumps(said)):
        yield f"{RECORD}: its counts or its sentence do not follow from the passages."
    elif with_pages:
        for file, data in pages_of(record, frame, tables, texts).items():
            if (out / file).read_bytes() != data:
                yield (
                    f"{file}: is not what mnemoscope {__version__} makes of the passages. It was "
                    "changed, or made by another state of that version."
                )


def _hold(audit: Auditing) -> list[bool]:
    """Whether each passage is written again, by the same rule, and stands where it is said to.

    A model that runs here is asked by the tokens that the table holds, a service by the document.
    """
    settings, numbers = audit.settings, audit.numbers()
    rows = audit.passages.rows(named=True)
    if audit.model.kind == "here":
        asked, prompts = rows, [_prompt_of(row, settings) for row in rows]
    else:
        asked = [row for row in rows if _is_in(audit, row, numbers)]
        places = [(numbers[row["document"]], row["window_token"]) for row in asked]
        prompts = prompts_at(audit, places)
    written = ask_in_parts(audit, prompts, "miss", "Asking again")
    again = {
        id(row): one.ids == row["continuation_tokens"]
        if one.pieces is None
        else one.pieces == row["continuation_pieces"]
        for row, one in zip(asked, written, strict=True)
    }
    says = [row["rule_says"] for row in rows]
    if not isinstance(audit.tokenizer, Words):  # whose numbers mean nothing outside their audit
        rulings = rule_windows(
            audit.tokenizer, audit.windows, prefix=settings.prefix, patterns=settings.patterns
        )
        says = [one.verdict for one in rulings]
    return [
        again.get(id(row), False) and row["rule_says"] == said and _stands(audit, row, numbers)
        for row, said in zip(rows, says, strict=True)
    ]


def _prompt_of(row: Mapping[str, Any], settings: AuditSettings) -> Prompt:
    """The window that speaks for a passage, as the table has it."""
    text = _window(row["document"], row["window_tokens"])
    return Prompt(text, 0, settings.prefix, settings.length)


def _window(name: str, tokens: Sequence[int]) -> Text:
    """The tokens of a window, as a document of their own."""
    ids = np.array(tokens, dtype=np.int32)
    return Text(Document(name, "", ""), Tokens(ids, places := np.arange(len(ids)), places))


def _is_in(audit: Auditing, row: Mapping[str, Any], numbers: Mapping[str, int]) -> bool:
    """Whether the document is there, and as long as the window of a passage says."""
    number, last = numbers.get(row["document"]), row["window_token"] + audit.settings.length
    return (
        number is not None
        and row["window_token"] >= 0
        and last <= len(audit.texts[number].tokens.ids)
    )


def _stands(audit: Auditing, row: Mapping[str, Any], numbers: Mapping[str, int]) -> bool:
    """Whether the verdict of a passage follows, and the document, where it is there, has it so."""
    if row["verdict"] != decide(row["rule_says"], *(row[name] for name in GROUNDS)).verdict:
        return False
    if row["document"] not in numbers:
        return True
    if not _is_in(audit, row, numbers):
        return False
    document, own = audit.texts[numbers[row["document"]]]
    first = row["window_token"]
    last, place = first + audit.settings.length, (row["window_start"], row["window_end"])
    is_same = own.ids[first:last].tolist() == row["window_tokens"]
    return (
        document.text[row["start"] : row["end"]] == row["text"]
        and not _is_right_otherwise(row, own, first + audit.settings.prefix)
        and character_range(own, first, last) == place
        and (is_same or isinstance(audit.tokenizer, Words))
    )


def _is_right_otherwise(row: Mapping[str, Any], own: Tokens, begin: int) -> bool:
    """Whether a window has a token right of what no window of its passage has, as is recorded."""
    suffix = row["window_tokens"][len(row["window_tokens"]) - len(row["continuation_tokens"]) :]
    pairs = zip(suffix, row["continuation_tokens"], strict=True)
    return any(
        one["start"] < own.ends[at] and own.starts[at] < one["end"]
        for at, (wanted, written) in enumerate(pairs, begin)
        if wanted == written
        for one in row["otherwise"]
    )


class _Found(NamedTuple):
    """The documents that are the same, problems, what could not be found, notes."""

    same: list[Document]
    problems: list[str]
    unchecked: list[str]
    notes: list[str]


def _moved(out: Path, record: AuditRecord, elsewhere: Sequence[str]) -> list[Document]:
    """What stands where the documents are said to be now."""
    if not elsewhere:
        return []
    return read_documents(
        elsewhere,
        encoding=record["encoding"],
        columns=record.get("columns"),
        leave_out=out,
        exclude=[*record.get("excluded", ())],
    ).documents


def _check_documents(out: Path, record: AuditRecord, moved: Sequence[Document]) -> _Found:
    """Compare every document with its checksum: where it was, elsewhere, and in the folder."""
    there = read_again(out, record, copies=False)
    by_text = {one.sha256: one for one in moved}
    others = {one["sha256"] for one in record["unread"]["texts"]} if "unread" in record else set()
    others |= {one["sha256"] for one in record["documents"]}
    by_name = {_last_part(one.name): one for one in moved if one.sha256 not in others}
    found, elsewhere = _Found([], [], [], []), []
    for row in record["documents"]:
        name, own = row["document"], there.get(row["document"])
        if name == "-":
            found.notes.append("standard input is not there any more; its text stands in texts/.")
        is_same = own is not None and own.sha256 == row["sha256"]
        if own is not None and is_same and _last_part(name) not in by_name:
            found.same.append(own)
            elsewhere += [name] * bool(moved and own.sha256 not in by_text)
        elif row["sha256"] in by_text:
            found.same.append(replace(by_text[row["sha256"]], name=name))
        elif own is not None and not is_same:
            found.problems.append(f"{name}: its text was changed after the audit.")
        elif _last_part(name) in by_name:
            other = by_name[_last_part(name)].name
            found.problems.append(f"{name}: its text was changed after the audit, in {other}.")
        else:
            file = row["text_file"]
            kept = _kept_text(out, name, file).get(name) if file else None
            if kept is not None and kept.sha256 == row["sha256"]:
                found.same.append(kept)
                found.notes.append(f"{name}: not there; its text was read from {file}.")
            else:
                found.unchecked.append(
                    f"{name}: not found from {Path.cwd()}, so it could not be checked."
                )
    if elsewhere:
        found.notes.append(
            f"{plural(len(elsewhere), 'document')} not among those of --documents: "
            f"{first_names(elsewhere)}, compared where the audit read them."
        )
    return found


def gone_of(record: AuditRecord) -> list[str]:
    """The flags for documents, reference and unread texts that are not where they were."""
    unread = record["unread"]["texts"] if "unread" in record else []
    rows = [one for one in record["documents"] if not one["text_file"]]
    names = {
        "--documents": [one["document"] for one in rows],
        "--reference": [
            one["name"]
            for one in [record["reference"]]
            if one and one.get("files") and one["name"] != EMBEDDED
        ],
        "--unread": [one["document"] for one in unread],
    }
    return [
        flag
        for flag, some in names.items()
        if any("#" not in one and not is_there(one) for one in some)  # a row may be the hub's
    ]


def _source(name: str) -> str:
    """The file of a document: of a row of a table that of the table."""
    return name.rpartition("#")[0] if not is_there(name) and "#" in name else name


def _last_part(name: str) -> str:
    return PureWindowsPath(name).name


def read_again(out: Path, record: AuditRecord, *, copies: bool) -> dict[str, Document]:
    """The documents of an audit as they are now, by name; those that cannot be read are left out.

    Standard input, and with `copies` all that is no plain text, is read from the audit's folder.
    """
    found: dict[str, Document] = {}
    seen: set[str] = set()
    for row in record["documents"]:
        source = _source(name := row["document"])
        if name == "-" or (copies and row["text_file"] is not None):
            found |= _kept_text(out, name, str(row["text_file"]))
        elif source not in seen:
            seen.add(source)
            with suppress(MnemoscopeError):
                reading = read_documents(
                    [source],
                    encoding=record["encoding"],
                    columns=record.get("columns"),
                )
                found |= {document.name: document for document in reading.documents}
    return found


def _kept_text(out: Path, name: str, file: str) -> dict[str, Document]:
    path = (out / "texts" / Path(file).name).resolve()
    if not path.is_relative_to(out.resolve()):
        return {}
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: Document(name, text, hashlib.sha256(data).hexdigest())}
