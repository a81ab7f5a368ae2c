"""Audit documents with a model behind an API: `mnemoscope audit --endpoint URL --model NAME`.

Windows, spans and rule are those of `run`; only the model's text and, where the service gives
them, its log-probabilities come from elsewhere. Every answer is kept in `answers.jsonl`.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.audit.answers import Answer
from mnemoscope.audit.asking import Asker
from mnemoscope.audit.chain import SCHEMA_VERSION, record_head
from mnemoscope.audit.endpoint import Client
from mnemoscope.audit.folder import finished_audit, prepare_folder
from mnemoscope.audit.found import find_hits, frame_of, grown_spans, summaries
from mnemoscope.audit.growth import Growth
from mnemoscope.audit.remote_evidence import gather_remote_evidence
from mnemoscope.audit.run import check_long_enough, write_audit
from mnemoscope.audit.scan import SCHEMA, counts_as_hit, fine_starts
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.spans import Span
from mnemoscope.audit.texts import Reading
from mnemoscope.audit.words import Splitter
from mnemoscope.errors import UserError
from mnemoscope.lm.verbatim import is_copied
from mnemoscope.progress import say

__all__ = ["audit_endpoint", "check_settings"]


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
    key = _key(asker, reading, settings)
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


def _key(asker: Asker, reading: Reading, settings: AuditSettings) -> str:
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
