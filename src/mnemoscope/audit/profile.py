"""The chance of a document by position: `mnemoscope audit --profile` slides over a whole book.

Nothing is decoded. Of every window the chance that one answer, drawn as `AuditSettings` say, is
the suffix comes from teacher-forced forwards; what a model may be asked n times comes out with
chance p where 1 - (1 - chance)^n >= p.

Windows of equal tokens are read once. Beyond that two windows share a forward only where what
stands before their suffixes begins at one place, since all that a model has read moves its
states: that is so with ``profile_prefix="all"``, where a forward serves every window of a block.

Source: (n, p)-discoverable extraction, Hayes et al., arXiv 2410.19482; slid over books in Cooper
    et al., arXiv 2505.12546.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from mnemoscope.audit.answers import sampling_logprobs
from mnemoscope.audit.documents import Document, Tokens, character_range, token_texts
from mnemoscope.audit.evidence import Choices, TokenScores
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.spans import Place, coarse_starts, cut
from mnemoscope.lm.continue_ import run_lengths
from mnemoscope.lm.model import (
    LanguageModel,
    check_finite,
    check_tokens,
    last_logits,
    new_cache,
    prepend_bos,
    run_batches,
    within_logits,
)
from mnemoscope.progress import say, track
from mnemoscope.store import keep_table, kept_table
from mnemoscope.words import about

PROFILE_COLUMNS: dict[str, Any] = {
    "document": pl.String,
    "start": pl.Int64,
    "suffix_start": pl.Int64,
    "end": pl.Int64,
    "token": pl.Int64,
    "prefix_tokens": pl.Int64,
    "extraction_logprob": pl.Float64,
    "logprob": pl.Float64,
    "run": pl.Int64,
}
"""Columns of `profile.parquet`, in order; docs/audit-files.md says what each is."""

_LONGEST = 2048  # tokens read at once of a model whose positions have no limit
_BATCHES_A_PART = 4
_CHANCES: dict[str, Any] = {
    "extraction_logprob": pl.Float64,
    "logprob": pl.Float64,
    "run": pl.Int64,
}


class Chances(NamedTuple):
    """What a model says of given tokens, arrays of one shape (..., tokens).

    The natural logarithm of the chance of drawing each (-inf: never), that of its probability, and
    whether it is the likeliest.
    """

    sampled: npt.NDArray[np.float64]
    logprobs: npt.NDArray[np.float64]
    is_best: npt.NDArray[np.bool_]


class _Block(NamedTuple):
    """Tokens `begin` up to `end` of a document, and the windows whose suffixes are read in them."""

    number: int
    begin: int
    end: int
    firsts: list[int]


def profile_documents(
    lm: LanguageModel,
    documents: Sequence[Document],
    tokens: Sequence[Tokens],
    settings: AuditSettings,
    kept: Path | None = None,
) -> pl.DataFrame:
    """The chance of every stride-th window's suffix; columns `PROFILE_COLUMNS`.

    In `kept` finished parts stand, and are not asked again. What it takes is said first. Raises
    UserError: logits that are not finite.
    """
    places = [
        (number, first)
        for number, one in enumerate(tokens)
        for first in coarse_starts(len(one.ids), settings)
    ]
    begins = [first for _, first in places]
    if settings.profile_prefix == "all":
        blocks = list(_blocks(lm, places, settings))
        begins = [block.begin for block in blocks for _ in block.firsts]
        jobs = [lambda block=block: _ask_block(lm, tokens, block, settings) for block in blocks]
        n_tokens, order = sum(block.end - block.begin for block in blocks), None
    else:
        windows = cut(tokens, places, settings.length)
        distinct, order = np.unique(windows, axis=0, return_inverse=True)
        size = settings.batch_size * _BATCHES_A_PART
        parts = [distinct[start : start + size] for start in range(0, len(distinct), size)]
        jobs = [lambda part=part: _ask_windows(lm, part, settings) for part in parts]
        n_tokens = distinct.size
    say(f"Profile: {len(places):,} windows, {n_tokens:,} tokens to be read.")
    frame = _run(jobs, kept)
    if order is not None:
        frame = frame[order.ravel()]
    return _table(documents, tokens, places, begins, frame, settings)


def _run(jobs: Sequence[Callable[[], pl.DataFrame]], kept: Path | None) -> pl.DataFrame:
    """All parts in order; the first one that is asked says how long the others will take."""
    made, is_said = [pl.DataFrame(schema=_CHANCES)], False
    with track("Profile", total=len(jobs), unit="parts") as progress:
        for number, job in enumerate(jobs):
            path = kept and kept / f"profile-{number:06d}.parquet"
            part = kept_table(path, "part of the profile") if path else None
            if part is None:
                started = time.monotonic()
                part = job()
                left = (time.monotonic() - started) * (len(jobs) - number - 1)
                if not is_said and left > 1:
                    say(f"Profile: {about(left)} more.")
                is_said = True
                if path:
                    keep_table(path, part)
            made.append(part)
            progress.advance()
    return pl.concat(made)


def _ask_windows(
    lm: LanguageModel, rows: npt.NDArray[np.int32], settings: AuditSettings
) -> pl.DataFrame:
    """Chances of the suffixes of windows (n, length), batch by batch."""

    def ask(batch: torch.Tensor) -> pl.DataFrame:
        with torch.inference_mode():
            logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), settings.suffix)
            found = _judge(lm, logits, batch[:, -settings.suffix :], settings)
        return _summed(found)

    table = check_tokens(lm, rows)
    return pl.concat(run_batches(lm, table, settings.batch_size, ask, places=settings.suffix))


def _ask_block(
    lm: LanguageModel, tokens: Sequence[Tokens], block: _Block, settings: AuditSettings
) -> pl.DataFrame:
    """Chances of the suffixes of all windows of a block, from one reading of it."""
    row = check_tokens(lm, tokens[block.number].ids[None, block.begin : block.end])
    begin = block.firsts[0] + settings.prefix
    found = next(
        run_batches(lm, row, 1, lambda one: _read_on(lm, one, begin - block.begin, settings))
    )
    shifts = [first + settings.prefix - begin for first in block.firsts]
    views = (np.lib.stride_tricks.sliding_window_view(one[0], settings.suffix) for one in found)
    return _summed(Chances(*(view[shifts] for view in views)))


def _read_on(lm: LanguageModel, row: torch.Tensor, begin: int, settings: AuditSettings) -> Chances:
    """Chances of the tokens of one row (1, T) from `begin` on; few logits stand at once."""
    n_at_once = within_logits(lm)
    cache = new_cache(lm, row.shape[1] - 1)
    made: list[Chances] = []
    n_before = len(lm.before)
    shown = prepend_bos(lm, row[:, :-1])
    with torch.inference_mode():
        for start in range(begin, row.shape[1], n_at_once):
            end = min(start + n_at_once, row.shape[1])
            fed = shown[:, : end - 1 + n_before]
            if cache is not None and made:  # what was read before stands in the cache
                fed = fed[:, start - 1 + n_before :]
            logits = last_logits(lm, fed, end - start, cache)
            made.append(_judge(lm, logits, row[:, start:end], settings))
    return Chances(*(np.concatenate(one, axis=1) for one in zip(*made, strict=True)))


def _judge(
    lm: LanguageModel, logits: torch.Tensor, wanted: torch.Tensor, settings: AuditSettings
) -> Chances:
    """Chances of tokens (n, places) from logits (n, places, vocabulary), place by place."""
    made = []
    for at in range(wanted.shape[1]):  # of a large vocabulary no second copy of all logits is made
        here, token = logits[:, at].float(), wanted[:, at]
        logprob = here.log_softmax(dim=-1).gather(1, token[:, None])[:, 0]
        check_finite(lm, logprob)
        made.append((sampling_logprobs(here, token, settings), logprob, here.argmax(-1) == token))
    sampled, logprobs, is_best = (torch.stack(one, 1).cpu() for one in zip(*made, strict=True))
    return Chances(sampled.numpy(), logprobs.double().numpy(), is_best.numpy())


def _summed(found: Chances) -> pl.DataFrame:
    """Those of suffixes (n, suffix) whole, and the tokens right before the first wrong one."""
    return pl.DataFrame(
        {
            "extraction_logprob": found.sampled.sum(axis=1),
            "logprob": found.logprobs.sum(axis=1),
            "run": run_lengths(found.is_best),
        },
        schema=_CHANCES,
    )


def _blocks(
    lm: LanguageModel, places: Sequence[Place], settings: AuditSettings
) -> Iterator[_Block]:
    """Pieces of documents; before each suffix stands half of what the model can hold, or all."""
    room = _LONGEST if lm.max_positions is None else lm.max_positions - len(lm.before)
    owned: dict[int, list[int]] = {}
    for number, first in places:
        owned.setdefault(number, []).append(first)
    for number, firsts in owned.items():
        while firsts:
            begin, end = firsts[0] + settings.prefix, firsts[0] + settings.length
            start = 0 if end <= room else max(begin - room // 2, end - room)
            n = sum(first + settings.length <= start + room for first in firsts)
            yield _Block(number, start, firsts[n - 1] + settings.length, firsts[:n])
            firsts = firsts[n:]


def _table(
    documents: Sequence[Document],
    tokens: Sequence[Tokens],
    places: Sequence[Place],
    begins: Sequence[int],
    chances: pl.DataFrame,
    settings: AuditSettings,
) -> pl.DataFrame:
    rows = []
    for (number, first), begin in zip(places, begins, strict=True):
        own, suffix, last = tokens[number], first + settings.prefix, first + settings.length
        start, end = character_range(own, suffix, last)
        rows.append(
            (documents[number].name, int(own.starts[begin]), start, end, first, suffix - begin)
        )
    columns = dict(list(PROFILE_COLUMNS.items())[: len(PROFILE_COLUMNS) - len(_CHANCES)])
    return pl.DataFrame(rows, schema=columns, orient="row").hstack(chances)


N_ALTERNATIVES = 3


def score_rows(lm: LanguageModel, rows: npt.ArrayLike, settings: AuditSettings) -> TokenScores:
    """Ask how likely a model finds the suffix of each row, from one teacher-forced forward.

    `rows` are token ids, shape (n, length), n at least 1; of the suffix's length it stands alone.
    Raises UserError: logits that are not finite.
    """
    table = check_tokens(lm, rows)

    def ask(batch: torch.Tensor) -> tuple[Any, ...]:
        wanted = batch[:, -settings.suffix :]
        if not lm.before and batch.shape[1] == settings.suffix:
            wanted = wanted[:, 1:]  # nothing is read before the first
        with torch.inference_mode():
            logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), wanted.shape[1])
            found = _judge(lm, logits, wanted, settings)
            n, places = min(N_ALTERNATIVES, logits.shape[-1]), range(wanted.shape[1])
            tops = [logits[:, at].float().log_softmax(dim=-1).topk(n) for at in places]
        best, ids = (torch.stack(one, 1).cpu().numpy() for one in zip(*tops, strict=True))
        missing = np.full((len(ids), settings.suffix - len(places)), np.nan)
        values = np.hstack([missing, found.logprobs])
        return values, found.sampled.sum(axis=1), found.is_best.all(axis=1), ids, best

    made = run_batches(lm, table, settings.batch_size, ask, places=settings.suffix)
    batches = zip(*made, strict=True)
    logprobs, sampled, is_whole, ids, values = map(np.concatenate, batches)

    def choices(row: int) -> Choices:
        texts = iter(token_texts(lm.tokenizer, ids[row]))
        return [
            [{"text": next(texts), "logprob": float(one)} for one in place] for place in values[row]
        ]

    return TokenScores(logprobs, sampled, is_whole, choices)
