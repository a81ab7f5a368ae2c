"""Audit documents: `mnemoscope audit MODEL DOCUMENTS -o DIR`.

Windows, spans, evidence, then `spans.parquet`, `audit.html` and, last, `audit.json`: a folder
with `audit.json` holds a whole audit.
"""

import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope import __version__
from mnemoscope.audit.documents import Document, Reading, Splitter, Tokens, token_texts, tokenize
from mnemoscope.audit.evidence import (
    Prior,
    SpanEvidence,
    ask_about,
    check_same_tokens,
    compare_prefixes,
    other_prefixes,
    tries_needed,
)
from mnemoscope.audit.found import find_hits, frame_of, grown_spans, summaries
from mnemoscope.audit.ground import CnnGround
from mnemoscope.audit.page import render_page, sarif_log
from mnemoscope.audit.scan import SCHEMA, Growth, counts_as_hit, fine_starts, grow, scan_windows
from mnemoscope.audit.service import Answer, Asker, Client
from mnemoscope.audit.settings import AuditSettings, Parts
from mnemoscope.audit.spans import Span
from mnemoscope.errors import UserError
from mnemoscope.files import write_json, write_parquet, write_text
from mnemoscope.lm.continue_ import is_copied
from mnemoscope.lm.model import LanguageModel, check_fits, in_chat
from mnemoscope.progress import say, track

if TYPE_CHECKING:
    from mnemoscope.lm.model import LanguageModel


# The evidence of spans that a model behind an API gives: as much as the service tells.

_SAME = 1e-6  # nats; the service rounds what it says twice of one token


class _Judged(NamedTuple):
    """What a service says of one span's window; see `SpanEvidence`."""

    logprobs: list[float] | None
    alternatives: list[list[dict[str, Any]]] | None
    alone: list[float] | None
    prior: Prior | None


def gather_remote_evidence(
    asker: Asker, spans: Sequence[tuple[int, Span]], settings: AuditSettings
) -> tuple[list[SpanEvidence], bool]:
    """Ask about the window of each span.

    Args:
        asker: documents and service.
        spans: number of the document and the span.
        settings: of the audit.

    Returns:
        One piece of evidence a span, and whether the service judges a given text.
    """
    places = [(number, span.hit.first) for number, span in spans]
    written = asker.continue_at(places, [settings.suffix] * len(places), label="Gathering evidence")
    judged = _judge(asker, places, settings)
    found = []
    for row, (number, span) in enumerate(spans):
        first = span.hit.first
        window = asker.tokens[number].ids[first : first + settings.length]
        own = judged[row] if judged else _Judged(written[row].logprobs, None, None, None)
        values = own.logprobs
        # Of the pieces of words the product is that of the tokens, as the model wrote them.
        chance = None if values is None else float(math.fsum(values))
        found.append(
            SpanEvidence(
                window=window.tolist(),
                suffix_pieces=token_texts(asker.splitter.tokenizer, window[settings.prefix :]),
                continuation_pieces=written[row].pieces,
                logprobs=values,
                sampling_logprob=chance,
                tries=None if chance is None else tries_needed(chance, settings.probability),
                alternatives=own.alternatives or written[row].alternatives,
                alone_logprobs=own.alone,
                prior=own.prior,
                reference_score=None,
                reference_logprobs=None,
            )
        )
    return found, judged is not None


def _judge(
    asker: Asker, places: Sequence[tuple[int, int]], settings: AuditSettings
) -> list[_Judged] | None:
    """Each window's suffix after its own prefix, alone, and after others; None: not given."""
    before = [] if asker.splitter.bos_id is None else [asker.splitter.bos_id]
    rows: list[list[int]] = []
    plan: list[tuple[int, str]] = []
    for number, first in places:
        window = asker.tokens[number].ids[first : first + settings.length].tolist()
        suffix = window[settings.prefix :]
        others, source = other_prefixes(asker.tokens, (number, first), settings)
        rows += [[*before, *window], [*before, *suffix]]
        rows += [[*before, *prefix, *suffix] for prefix in others.tolist()]
        plan.append((len(others), source))
    answers = asker.judge(rows)
    if answers is None:
        return None
    found, start = [], 0
    for n_others, source in plan:
        some = [
            _suffix(answer, len(row), settings.suffix)
            for answer, row in zip(
                answers[start : start + 2 + n_others],
                rows[start : start + 2 + n_others],
                strict=True,
            )
        ]
        found.append(_one(some, source))
        start += 2 + n_others
    return found


class _Suffix(NamedTuple):
    values: npt.NDArray[np.float64]
    alternatives: list[list[dict[str, Any]]]
    is_whole: bool


def _suffix(answer: Answer, length: int, suffix: int) -> _Suffix:
    """The last `suffix` of the prompt's `length` tokens; the first of a text has no value."""
    values = [math.nan if one is None else one for one in answer.logprobs or []]
    tops = (answer.alternatives or [[]] * len(values))[length - suffix : length]
    array = np.array(values[length - suffix : length], dtype=np.float64)
    is_best = [
        bool(top) and value >= top[0]["logprob"] - _SAME
        for value, top in zip(array, tops, strict=True)
    ]
    return _Suffix(array, tops, all(is_best))


def _one(some: list[_Suffix], source: str) -> _Judged:
    own, alone, others = some[0], some[1], some[2:]
    sums = np.array([one.values.sum() for one in others], dtype=np.float64)
    is_whole = np.array([one.is_whole for one in others], dtype=np.bool_)
    prior = compare_prefixes(float(own.values.sum()), sums, is_whole, source)
    return _Judged(own.values.tolist(), own.alternatives, alone.values.tolist(), prior)


# The chain of evidence: which model files, which versions, so that someone else can repeat it.

SCHEMA_VERSION = 1
"""Of `audit.json` and `spans.parquet`; raised when a column or key changes its meaning."""

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "polars", "scipy")
_READERS = ("pypdf", "python-docx", "inscriptis")
_MODEL_FILES = ("*.safetensors", "*.json", "*.gguf", "*.model")


def record_head(
    key: str,
    command: Sequence[str],
    settings: AuditSettings,
    encoding: str,
    *,
    model: Mapping[str, Any],
    reference: Mapping[str, Any] | None = None,
    cnn: Mapping[str, Any] | None = None,
    api: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What `audit.json` begins with: who asked whom, how, and by which versions.

    Args:
        key: hash of everything that decides what the audit says.
        command: as it was given.
        settings: of the audit.
        encoding: in which text files were read.
        model: as `model_facts`.
        reference: as `model_facts`, None without one.
        cnn: as `CnnGround.facts`, None where no study was asked.
        api: what a service gave and what not; None of a model that ran here, and then no key.
    """
    return {
        "schema": "mnemoscope audit",
        "schema_version": SCHEMA_VERSION,
        "key": key,
        "command": [one.encode("utf-8", "backslashreplace").decode() for one in command],
        "versions": versions(),
        "model": model,
        "reference": reference,
        "cnn": cnn,
        **({} if api is None else {"api": api}),
        "settings": settings.model_dump(),
        "encoding": encoding,
    }


def versions() -> dict[str, str]:
    """Versions of Python, of mnemoscope and of the packages that the figures depend on."""
    found = {"mnemoscope": __version__, "python": platform.python_version()}
    for package in (*_PACKAGES, *_READERS):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def model_facts(lm: "LanguageModel", name: str) -> dict[str, Any]:
    """What is recorded of a model.

    Args:
        lm: the model as loaded.
        name: what the user called it.

    Returns:
        Plain values; `fingerprint` is over weights and configuration as loaded, `files` holds the
        SHA-256 of each file of a local folder.
    """
    return {
        "name": name,
        "revision": lm.revision,
        "fingerprint": lm.fingerprint,
        "files": model_files(Path(lm.name)),
        "dtype": lm.dtype,
        "device": lm.device,
        "bos_id": lm.bos_id,
        "vocab_size": lm.vocab_size,
    }


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal.

    Args:
        path: the file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error


def model_files(place: Path) -> dict[str, str]:
    """SHA-256 of each file of a local model, by name; empty where `place` is none.

    Args:
        place: a model's folder, or one file.
    """
    if place.is_file():
        return {place.name: file_sha256(place)}
    if not place.is_dir():
        return {}
    found = sorted({path for pattern in _MODEL_FILES for path in place.glob(pattern)})
    return {path.name: file_sha256(path) for path in found if path.is_file()}


# The folder of an audit: may it be written, and does the wanted audit stand in it already?


class AskedModel(NamedTuple):
    """A model as it was asked for, before it is loaded.

    Attributes:
        place: its folder or file, or a hub name as a path that is not there.
        revision: of the hub, or None.
        dtype: as asked, ``auto`` included.
    """

    place: Path
    revision: str | None
    dtype: str


def prepare_folder(out: Path) -> None:
    """Make the audit's folder, or say why it cannot be.

    Args:
        out: the folder.

    Raises:
        UserError: a file is in the way, or there is no permission.
    """
    if (out / "study.yaml").exists():
        raise UserError(f"{out}: a study stands here. Choose another folder with -o.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{out}: a file is in the way. Choose another folder with -o.") from None
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}). Choose another.") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise UserError(f"{out}: no permission to write here. Choose another place with -o.")
    for name in ("texts", "parts", "study"):
        if (out / name).is_symlink():
            raise UserError(f"{out / name}: a link that leaves the output folder. Remove it.")


def check_is_audit(out: Path) -> None:
    """Refuse a folder without an audit.

    Args:
        out: the folder.

    Raises:
        UserError: no `audit.json` in it.
    """
    if not (out / "audit.json").is_file():
        raise UserError(f"{out}: no audit in it (audit.json). Make one with 'mnemoscope audit'.")


def standing_audit(
    out: Path,
    reading: Reading,
    settings: AuditSettings,
    model: AskedModel,
    reference: AskedModel | None,
    *,
    redo: bool,
) -> dict[str, Any] | None:
    """The audit that stands in a folder, where its files alone show that it is the wanted one.

    The files of a model decide its weights, so their SHA-256 stand for the fingerprint, which
    only the loaded model has. Where they do not decide (a hub name, an adapter, dtype `auto`, a
    tokenizer in other files, a chat template), loading must.

    Args:
        out: the audit's folder.
        reading: the documents.
        settings: of the audit.
        model: the audited model.
        reference: the reference model, or None.
        redo: another audit may be written over.

    Returns:
        What `audit.json` holds; None where nothing stands there or the model must be loaded.

    Raises:
        UserError: an audit of other documents or settings, or with another kind of reference.
    """
    try:
        record = json.loads((out / "audit.json").read_text(encoding="utf-8"))
        is_whole = record["spans_sha256"] == file_sha256(out / "spans.parquet")
        was = [
            record["schema_version"],
            record["settings"],
            [[one["document"], one["sha256"]] for one in record["documents"]],
            [record["reference"] is None, record["cnn"] is None, "api" in record],
        ]
        loaded = [record["model"], *([record["reference"]] if record["reference"] else [])]
        facts = [(one["dtype"], one["files"]) for one in loaded]
    except (OSError, UserError, ValueError, KeyError, TypeError):
        return None
    wanted = [
        SCHEMA_VERSION,
        json.loads(json.dumps(settings.model_dump())),
        [[one.name, one.sha256] for one in reading.documents],
        [reference is None, True, False],
    ]
    if was != wanted:
        if redo:
            return None
        raise other_audit(out)
    if settings.chat_template or not is_whole or not (out / "audit.html").is_file():
        return None
    asked = [model, *([reference] if reference else [])]
    is_same = all(_is_same(one, *fact) for one, fact in zip(asked, facts, strict=True))
    return dict(record) if is_same else None


def _is_same(asked: AskedModel, dtype: str, files: dict[str, str]) -> bool:
    """Whether the files show that this is the model of which dtype and files were recorded."""
    has_all = "tokenizer.json" in files or any(name.endswith(".gguf") for name in files)
    if asked.revision is not None or asked.dtype != dtype or not has_all:
        return False
    return "adapter_config.json" not in files and model_files(asked.place) == files


def finished_audit(out: Path, key: str, *, redo: bool) -> dict[str, Any] | None:
    """The audit that is already there, if it is this one; another one is not written over.

    Args:
        out: the audit's folder.
        key: hash of everything that decides what this audit says.
        redo: take away another one.

    Raises:
        UserError: another one is there.
    """
    path = out / "audit.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        is_this = record["key"] == key and record["spans_sha256"] == file_sha256(
            out / "spans.parquet"
        )
    except (OSError, ValueError, KeyError, TypeError):
        record, is_this = {}, False
    if is_this and (out / "audit.html").is_file():
        return dict(record)
    if not redo:
        raise other_audit(out)
    path.unlink()
    return None


def other_audit(out: Path) -> UserError:
    """What to say of a folder with another audit in it.

    Args:
        out: the audit's folder.
    """
    return UserError(
        f"{out}: holds an audit of other documents, settings or another model. Choose another "
        "folder with -o, or --redo to write over it."
    )


# Audit documents: `mnemoscope audit MODEL DOCUMENTS -o DIR`.


def audit_documents(
    lm: LanguageModel,
    reading: Reading,
    out: Path,
    *,
    settings: AuditSettings | None = None,
    reference: LanguageModel | None = None,
    cnn: CnnGround | None = None,
    command: Sequence[str] = (),
    names: dict[str, str] | None = None,
    redo: bool = False,
) -> dict[str, Any]:
    """Audit documents and write the audit.

    Args:
        lm: the audited model, with its tokenizer.
        reading: the documents, from `read_documents`.
        out: folder of the audit; a run that was stopped there goes on.
        settings: of the audit; None takes the defaults.
        reference: a model that cannot have seen the documents, or None.
        cnn: the CNNs of a study of the audited model, or None.
        command: recorded, so that someone else can repeat it.
        names: what `model` and `reference` were called, where that is not their path.
        redo: write over an audit of other documents or settings.

    Returns:
        What `audit.json` holds.

    Raises:
        UserError: another audit is in the folder, a reference of another family, a model without
            tokenizer or with too few positions, no document as long as a window.
    """
    settings = settings or AuditSettings()
    prepare_folder(out)
    if settings.chat_template:
        lm = in_chat(lm, settings.instruction)
    _check_models(lm, reference, settings)
    tokens = _tokenize(reading.documents, lm)
    check_long_enough(tokens, settings)
    key = _key(lm, reference, reading.documents, tokens, settings, cnn)
    done = finished_audit(out, key, redo=redo)
    if done is not None:
        say(f"{out}: this audit is already there.")
        return done
    parts = Parts(out, key)
    windows = scan_windows(lm, tokens, settings=settings, parts=parts)
    frame = audit_spans(
        lm, reading.documents, tokens, windows, settings=settings, reference=reference, cnn=cnn
    )
    names = {"model": lm.name, "reference": reference.name if reference else "", **(names or {})}
    head = record_head(
        key,
        command,
        settings,
        reading.encoding,
        model=model_facts(lm, names["model"]),
        reference=None if reference is None else model_facts(reference, names["reference"]),
        cnn=None if cnn is None else cnn.facts,
    )
    record = head | summaries(reading, tokens, windows, frame, settings)
    write_audit(out, record, reading.documents, frame)
    parts.remove()
    return record


def audit_spans(
    lm: LanguageModel,
    documents: Sequence[Document],
    tokens: Sequence[Tokens],
    windows: pl.DataFrame,
    *,
    settings: AuditSettings,
    reference: LanguageModel | None = None,
    cnn: CnnGround | None = None,
) -> pl.DataFrame:
    """Make the table of spans from continued windows.

    Args:
        lm: the audited model.
        documents: their texts.
        tokens: their tokens.
        windows: from `scan_windows`.
        settings: of the audit.
        reference: a model of the same tokenizer, or None.
        cnn: the CNNs of a study of the audited model, or None.

    Returns:
        Columns `records.SPAN_COLUMNS`, in the order of documents and characters.
    """
    hits = find_hits(lm.tokenizer, tokens, windows, settings)
    spans = grown_spans(tokens, hits, lambda places: grow(lm, tokens, places, settings))
    asked = ask_about(lm, tokens, spans, settings=settings, reference=reference, cnn=cnn)
    return frame_of(documents, tokens, spans, asked, settings)


def _check_models(
    lm: LanguageModel, reference: LanguageModel | None, settings: AuditSettings
) -> None:
    if lm.tokenizer is None:
        raise UserError(f"{lm.name}: has no tokenizer. Save it with the model.")
    check_fits(lm, settings.length)
    if reference is not None:
        check_same_tokens(lm, reference)
        check_fits(reference, settings.length)


def _tokenize(documents: Sequence[Document], lm: LanguageModel) -> list[Tokens]:
    with track("Tokenizing", total=len(documents), unit="documents") as progress:
        found = []
        for document in documents:
            found.append(tokenize(document.text, lm.tokenizer))
            progress.advance()
    return found


def check_long_enough(tokens: Sequence[Tokens], settings: AuditSettings) -> None:
    """Refuse documents of which nothing can be asked.

    Args:
        tokens: of every document.
        settings: of the audit.

    Raises:
        UserError: all are shorter than one window.
    """
    longest = max((len(one.ids) for one in tokens), default=0)
    if longest < settings.length:
        which = "the document is" if len(tokens) == 1 else f"all {len(tokens)} documents are"
        raise UserError(
            f"nothing to ask: {which} shorter than one window of {settings.length} tokens (the "
            f"longest has {longest}). Give longer ones, or a smaller --prefix and --suffix."
        )


def _key(
    lm: LanguageModel,
    reference: LanguageModel | None,
    documents: Sequence[Document],
    tokens: Sequence[Tokens],
    settings: AuditSettings,
    cnn: CnnGround | None,
) -> str:
    """Hash of everything that decides what an audit says."""
    whole = hashlib.sha256()
    facts = {
        "schema_version": SCHEMA_VERSION,
        "model": [lm.fingerprint, lm.dtype, lm.bos_id],
        "reference": reference and [reference.fingerprint, reference.dtype, reference.bos_id],
        "settings": settings.model_dump(),
        "documents": [[document.name, document.sha256] for document in documents],
    }
    if cnn is not None:
        facts["cnn"] = {name: fact for name, fact in cnn.facts.items() if name != "study"}
    whole.update(json.dumps(facts, sort_keys=True).encode())
    for one in tokens:
        whole.update(hashlib.sha256(one.ids.tobytes()).digest())
    return whole.hexdigest()


def check_audit(
    lm: LanguageModel,
    reading: Reading,
    out: Path,
    settings: AuditSettings,
    reference: LanguageModel | None,
    *,
    redo: bool,
) -> None:
    """Refuse what `audit_documents` would refuse, before a study is made for it at length.

    Args:
        lm: as `audit_documents`.
        reading: as there.
        out: as there.
        settings: as there.
        reference: as there.
        redo: as there.

    Raises:
        UserError: as there; an audit that asked no study is another one than is wanted.
    """
    _check_models(lm, reference, settings)
    check_long_enough(_tokenize(reading.documents, lm), settings)
    if redo or not (out / "audit.json").is_file():
        return
    try:
        asked = json.loads((out / "audit.json").read_text(encoding="utf-8"))["cnn"]
    except (OSError, ValueError, KeyError, TypeError):
        asked = None
    if asked is None:
        raise other_audit(out)


def write_audit(
    out: Path, record: dict[str, Any], documents: Sequence[Document], frame: pl.DataFrame
) -> None:
    """Write everything, `audit.json` last."""
    for row, document in zip(record["documents"], documents, strict=True):
        if row["text_file"] is not None:
            (out / "texts").mkdir(exist_ok=True)
            write_text(out / row["text_file"], document.text)
    write_parquet(out / "spans.parquet", frame)
    record["spans_sha256"] = file_sha256(out / "spans.parquet")
    texts = {document.name: document.text for document in documents}
    write_text(out / "audit.html", render_page(record, frame, texts))
    write_json(out / "audit.sarif", sarif_log(frame, texts))
    write_json(out / "audit.json", record)


# Audit documents with a model behind an API: `mnemoscope audit --endpoint URL --model NAME`.


def audit_endpoint(
    client: Client,
    splitter: Splitter,
    reading: Reading,
    out: Path,
    *,
    settings: AuditSettings,
    tokenizer_name: str | None = None,
    tokenizer_revision: str | None = None,
    command: Sequence[str] = (),
    redo: bool = False,
) -> dict[str, Any]:
    """Audit documents and write the audit.

    Args:
        client: the service, with a store of answers in `out`.
        splitter: the model's tokens, or words.
        reading: the documents, from `read_documents`.
        out: folder of the audit; a run that was stopped asks only what is missing.
        settings: of the audit; temperature 1 and all tokens, since a service gives no more.
        tokenizer_name: recorded, so that someone else can repeat it.
        tokenizer_revision: of a tokenizer of the hub, recorded too.
        command: recorded too.
        redo: write over an audit of other documents or settings.

    Returns:
        What `audit.json` holds; `api` says what the service gave and what not.

    Raises:
        UserError: another audit is in the folder, or the service does not answer.
    """
    check_settings(settings)
    prepare_folder(out)
    asker = Asker(client, splitter, reading.documents, settings)
    check_long_enough(asker.tokens, settings)
    key = _remote_key(asker, reading, settings)
    done = finished_audit(out, key, redo=redo)
    if done is not None:
        say(f"{out}: this audit is already there.")
        return done
    windows = _scan(asker, settings)
    spans = _spans(asker, windows, settings)
    evidence, is_judged = gather_remote_evidence(asker, spans, settings)
    frame = frame_of(reading.documents, asker.tokens, spans, evidence, settings)
    head = record_head(
        key,
        command,
        settings,
        reading.encoding,
        model=_facts(client.settings.model, splitter),
        api={
            "tokenizer": tokenizer_name,
            "tokenizer_revision": tokenizer_revision,
            **_api(asker, frame, is_judged=is_judged),
        },
    )
    record = head | summaries(reading, asker.tokens, windows, frame, settings)
    write_audit(out, record, reading.documents, frame)
    return record


def check_settings(settings: AuditSettings) -> None:
    """Refuse a sampling whose chances a service does not give.

    Args:
        settings: of the audit.

    Raises:
        UserError: another temperature than 1, or a `top_k`.
    """
    if settings.temperature != 1 or settings.top_k != 0:
        raise UserError(
            "--temperature, --top-k: an API does not give the probabilities that these need. "
            "Leave them out: the chance of one try is at temperature 1 from all tokens."
        )


def _scan(asker: Asker, settings: AuditSettings) -> pl.DataFrame:
    """Continue every stride-th window, then all around a find; columns `scan.SCHEMA`."""
    coarse = _continue(asker, asker.coarse_places(), "Asking", settings)
    places = [
        (number, first)
        for number, tokens in enumerate(asker.tokens)
        for first in fine_starts(
            coarse.filter(pl.col("document") == number), len(tokens.ids), settings
        )
        if asker.is_whole(number, first)
    ]
    fine = _continue(asker, places, "Asking around finds", settings)
    return pl.concat([coarse, fine]).sort("document", "first")


def _continue(
    asker: Asker, places: list[tuple[int, int]], label: str, settings: AuditSettings
) -> pl.DataFrame:
    found = asker.continue_at(places, [settings.suffix] * len(places), label=label)
    scores = [sum(one.is_right) / settings.suffix for one in found]
    return pl.DataFrame(
        {
            "document": [number for number, _ in places],
            "first": [first for _, first in places],
            "common": [one.common for one in found],
            "score": scores,
            "continuation": [
                one.ids if counts_as_hit(score, settings) else None
                for one, score in zip(found, scores, strict=True)
            ],
        },
        schema=SCHEMA,
    )


def _spans(asker: Asker, windows: pl.DataFrame, settings: AuditSettings) -> list[tuple[int, Span]]:
    """Spans of every document, grown by asking for more."""
    hits = find_hits(asker.splitter.tokenizer, asker.tokens, windows, settings)
    return grown_spans(asker.tokens, hits, lambda places: _grow(asker, places, settings))


def _grow(asker: Asker, places: list[tuple[int, int]], settings: AuditSettings) -> list[Growth]:
    """How far the model goes on from each place; see `growth.grow`."""
    wanted = settings.suffix + settings.max_growth
    lengths = [
        min(wanted, len(asker.tokens[number].ids) - first - settings.prefix)
        for number, first in places
    ]
    found = asker.continue_at(places, lengths, label="Following passages")
    grown = []
    for (number, first), one in zip(places, found, strict=True):
        begin = first + settings.prefix
        ids = asker.tokens[number].ids
        written = ids[begin : begin + one.common]
        copied = is_copied(asker.splitter.tokenizer, ids[first:begin], written)
        grown.append(Growth(one.common, copied))
    return grown


def _remote_key(asker: Asker, reading: Reading, settings: AuditSettings) -> str:
    """Hash of everything that decides what an audit says."""
    service = asker.client.settings
    facts = {
        "schema_version": SCHEMA_VERSION,
        "endpoint": [service.url, service.model, service.prompt_as, service.logprobs],
        "pieces": [type(asker.splitter).__name__, asker.splitter.bos_id],
        "settings": settings.model_dump(),
        "documents": [[document.name, document.sha256] for document in reading.documents],
    }
    whole = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for one in asker.tokens:
        whole.update(hashlib.sha256(one.ids.tobytes() + one.starts.tobytes()).digest())
    return whole.hexdigest()


def _facts(name: str, splitter: Splitter) -> dict[str, Any]:
    """As `chain.model_facts`; what cannot be known of a model behind an API is null."""
    unknown = dict.fromkeys(("revision", "fingerprint", "dtype", "device", "vocab_size"))
    return {"name": name, **unknown, "files": {}, "bos_id": splitter.bos_id}


def _api(asker: Asker, frame: pl.DataFrame, *, is_judged: bool) -> dict[str, Any]:
    """What the service gave, and in words what it did not."""
    service, answers = asker.client.settings, list(asker.answers.values())
    return {
        "endpoint": service.url,
        "settings": service.model_dump(exclude={"url", "model"}),
        "pieces": "tokens" if asker.splitter.is_model else "words",
        "answered_as": sorted({one.model for one in answers if one.model}),
        "requests": len(answers),
        "prompt_tokens": _total(answers, "prompt_tokens"),
        "completion_tokens": _total(answers, "completion_tokens"),
        "answers_cut": asker.n_cut,
        "notes": _notes(asker, frame, is_judged=is_judged),
    }


def _total(answers: Sequence[Answer], name: str) -> int | None:
    """Sum of what the service counted; None where it counted nothing."""
    values = [getattr(one, name) for one in answers]
    return sum(values) if values and None not in values else None


def _notes(asker: Asker, frame: pl.DataFrame, *, is_judged: bool) -> list[str]:
    notes = [
        "No CNN and no attention maps: a service shows what a model writes, not how.",
        "No fingerprint of the weights: who runs the service may change the model at any time. "
        "The answers stand in answers.jsonl.",
    ]
    if not asker.splitter.is_model:
        notes.append(
            "Windows, scores and the rule count words and punctuation marks, not the model's "
            "tokens: no tokenizer was given."
        )
    if asker.n_cut:
        notes.append(
            f"{asker.n_cut:,} answers ended before as many words as were asked for; what was not "
            "written counts as wrong."
        )
    n_without = frame["extraction_logprob"].null_count()
    if is_judged or not frame.height:
        return notes
    missing = "no perplexity without the prefix and no gain over other prefixes."
    if asker.can_judge:
        notes.append(f"The service gives no log-probabilities of a prompt: {missing}")
    else:
        notes.append(
            f"It was not asked to judge a given text: {missing} That takes --tokenizer, prompts "
            "as tokens and log-probabilities."
        )
    if n_without:
        notes.append(
            f"For {n_without:,} of {frame.height:,} passages the chance of one try is not known: "
            "the service gave no log-probabilities, or not for exactly these characters."
        )
    return notes
