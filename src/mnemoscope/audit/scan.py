"""Continue the windows of all documents: every stride-th start, then all starts around a find."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from mnemoscope.audit.documents import Tokens
from mnemoscope.audit.settings import AuditSettings, Parts
from mnemoscope.lm.continue_ import is_copied, right_tokens, run_lengths
from mnemoscope.lm.model import (
    LanguageModel,
    best_two,
    check_finite,
    check_tokens,
    last_logits,
    new_cache,
    prepend_bos,
    run_batches,
)
from mnemoscope.progress import track

# Continue windows greedily, and leave a window as soon as it cannot become a hit.

LEFT = -1
"""Stands in place of tokens that were not decoded."""

# Windows right up to here, few of most texts, are asked whether they are right to the end.
_ASKED_WHOLE = 4


class Continued(NamedTuple):
    """One batch of windows.

    Attributes:
        tokens: what the model wrote, shape (batch, suffix), int32; `LEFT` after a window was left.
        common: tokens of the longest common prefix of suffix and continuation, (batch,), int32.
        score: share of matching tokens (batch,), float64; NaN for a window that was left.
    """

    tokens: npt.NDArray[np.int32]
    common: npt.NDArray[np.int32]
    score: npt.NDArray[np.float64]


def continue_windows(
    lm: LanguageModel, windows: npt.ArrayLike, *, prefix: int, n_allowed: int, batch_size: int
) -> Iterator[Continued]:
    """Continue each window's prefix until it is done or cannot become a hit.

    Args:
        lm: the model.
        windows: token ids, shape (n, length), integers.
        prefix: tokens that the model is shown.
        n_allowed: wrong tokens that a hit may have; the suffix's length decodes all to the end.
        batch_size: windows a forward; halved, and said so, when memory runs out.

    Returns:
        An iterator of batches in the order of the rows.

    Raises:
        UserError: tokens that do not fit the model (at once), non-finite logits (on the way).
        NoRoomError: not even one window fits into memory.
    """
    table = check_tokens(lm, windows, prefix=prefix)
    return run_batches(
        lm, table, batch_size, lambda batch: _continue_batch(lm, batch, prefix, n_allowed)
    )


def _continue_batch(
    lm: LanguageModel, batch: torch.Tensor, prefix: int, n_allowed: int
) -> Continued:
    wanted = batch[:, prefix:]
    chosen = torch.full_like(wanted, LEFT)
    alive = torch.arange(len(batch), device=batch.device)
    cache, fed = new_cache(lm, batch.shape[1] - 1), prepend_bos(lm, batch[:, :prefix])
    with torch.inference_mode():
        for step in range(wanted.shape[1]):
            best, gap = best_two(last_logits(lm, fed, 1, cache))
            check_finite(lm, gap)
            chosen[alive, step] = best[:, 0]
            n_wrong = (chosen[alive, : step + 1] != wanted[alive, : step + 1]).sum(dim=1)
            is_kept = n_wrong <= n_allowed
            if step + 1 == _ASKED_WHOLE:
                is_kept &= ~_finish_whole(lm, batch, chosen, alive, n_wrong == 0)
            # Families without a cache read everything again.
            fed = best if cache is not None else torch.cat([fed, best], dim=1)
            kept = is_kept.nonzero().squeeze(1)
            if len(kept) == 0:
                break
            if len(kept) < len(alive):
                alive, fed = alive[kept], fed[kept]
                if cache is not None:
                    cache.batch_select_indices(kept)
    return _judge(chosen.cpu().numpy(), wanted.cpu().numpy())


def _finish_whole(
    lm: LanguageModel,
    batch: torch.Tensor,
    chosen: torch.Tensor,
    alive: torch.Tensor,
    is_right: torch.Tensor,
) -> torch.Tensor:
    """Finish, in `chosen`, the windows that the model reproduces whole; (alive,) bool: which.

    One teacher-forced forward instead of a step a token: while every token is the likeliest,
    decoding would have read the same (see `mnemoscope.lm.continue_`).
    """
    rows = alive[is_right]
    is_whole = torch.zeros_like(is_right)
    if len(rows):
        wanted = batch[rows, -chosen.shape[1] :]
        best, _ = best_two(last_logits(lm, prepend_bos(lm, batch[rows, :-1]), chosen.shape[1]))
        found = (best == wanted).all(dim=1)
        chosen[rows[found]] = wanted[found]
        is_whole[is_right.nonzero().squeeze(1)[found]] = True
    return is_whole


def _judge(chosen: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> Continued:
    is_right = chosen == wanted
    common = np.cumprod(is_right, axis=1).sum(axis=1)
    score = np.where(chosen[:, -1] == LEFT, np.nan, is_right.mean(axis=1))
    return Continued(chosen.astype(np.int32), common.astype(np.int32), score)


# Continue the windows of all documents: every stride-th start, then all starts around a find.

SCHEMA: dict[str, Any] = {
    "document": pl.Int64,
    "first": pl.Int64,
    "common": pl.Int32,
    "score": pl.Float64,
    "continuation": pl.List(pl.Int32),
}
_BATCHES_A_PART = 4
_Place = tuple[int, int]


def scan_windows(
    lm: LanguageModel, documents: Sequence[Tokens], *, settings: AuditSettings, parts: Parts
) -> pl.DataFrame:
    """Continue the windows of every document.

    Args:
        lm: the audited model.
        documents: their tokens.
        settings: window, stride and threshold.
        parts: keeps what is done.

    Returns:
        One row a window, in the order of documents and starts: `document` (its number), `first`
        (token at which the window starts), `common`, `score` (null where the window was left
        early, see `continuing`), `continuation` (null unless the window is a hit).
    """
    places = [
        (number, first)
        for number, tokens in enumerate(documents)
        for first in coarse_starts(len(tokens.ids), settings)
    ]
    coarse = _run(lm, documents, places, settings, parts, "windows", "Asking")
    places = [
        (number, first)
        for number, tokens in enumerate(documents)
        for first in fine_starts(
            coarse.filter(pl.col("document") == number), len(tokens.ids), settings
        )
    ]
    fine = _run(lm, documents, places, settings, parts, "around", "Asking around finds")
    return pl.concat([coarse, fine]).sort("document", "first")


def coarse_starts(n_tokens: int, settings: AuditSettings) -> list[int]:
    """Every stride-th start, and the last one, so that the end of a document is asked about too.

    >>> from mnemoscope.audit.settings import AuditSettings
    >>> coarse_starts(75, AuditSettings())
    [0, 8, 11]
    """
    last = n_tokens - settings.length
    return sorted({*range(0, last + 1, settings.stride), last}) if last >= 0 else []


def fine_starts(coarse: pl.DataFrame, n_tokens: int, settings: AuditSettings) -> list[int]:
    """Starts between the coarse ones that are worth a look: beside a window that begins right.

    Args:
        coarse: the coarse windows of one document; columns `first`, `common`, `score`.
        n_tokens: of the document.
        settings: stride and `refine_from`.

    Returns:
        Starts that are not among the coarse ones. Between two hits nothing is missing.
    """
    rows = coarse.select("first", "common", "score").sort("first").rows()
    enough = min(settings.refine_from, settings.suffix)
    is_hit = {
        first for first, _, score in rows if score is not None and counts_as_hit(score, settings)
    }
    known = {first for first, *_ in rows}
    found: set[int] = set()
    for (left, left_common, _), (right, right_common, _) in pairwise(rows):
        both = left in is_hit and right in is_hit
        if not both and (
            max(left_common, right_common) >= enough or left in is_hit or right in is_hit
        ):
            found.update(range(left + 1, right))
    return sorted(one for one in found - known if one + settings.length <= n_tokens)


def cut(
    documents: Sequence[Tokens], places: Iterable[_Place], length: int
) -> npt.NDArray[np.int32]:
    """Token ids of windows, shape (windows, length), int32.

    Args:
        documents: tokens of every document.
        places: number of the document and first token of each window.
        length: tokens a window.
    """
    rows = [documents[number].ids[first : first + length] for number, first in places]
    return np.stack(rows) if rows else np.empty((0, length), dtype=np.int32)


def counts_as_hit(score: float, settings: AuditSettings) -> bool:
    """True where so large a share of right tokens makes a window a hit."""
    return score >= 1 - settings.n_allowed / settings.suffix - 1e-9


def _run(
    lm: LanguageModel,
    documents: Sequence[Tokens],
    places: list[_Place],
    settings: AuditSettings,
    parts: Parts,
    name: str,
    label: str,
) -> pl.DataFrame:
    """Continue windows part by part, under a label; a part that is there is read by its name."""
    size = settings.batch_size * _BATCHES_A_PART
    made = [pl.DataFrame(schema=SCHEMA)]
    with track(label, total=len(places), unit="windows") as progress:
        for start in range(0, len(places), size):
            chunk, part = places[start : start + size], f"{name}-{start // size:06d}"
            frame = parts.read(part)
            if frame is None or frame.height != len(chunk):
                frame = _part(lm, documents, chunk, settings)
                parts.write(part, frame)
            made.append(frame)
            progress.advance(len(chunk))
    return pl.concat(made)


def _part(
    lm: LanguageModel, documents: Sequence[Tokens], places: list[_Place], settings: AuditSettings
) -> pl.DataFrame:
    batches = list(
        continue_windows(
            lm,
            cut(documents, places, settings.length),
            prefix=settings.prefix,
            n_allowed=settings.n_allowed,
            batch_size=settings.batch_size,
        )
    )
    score = np.concatenate([batch.score for batch in batches])
    continuations = [row for batch in batches for row in batch.tokens.tolist()]
    is_hit = [not np.isnan(one) and counts_as_hit(one, settings) for one in score]
    return pl.DataFrame(
        {
            "document": [number for number, _ in places],
            "first": [first for _, first in places],
            "common": np.concatenate([batch.common for batch in batches]),
            "score": [None if np.isnan(one) else float(one) for one in score],
            "continuation": [
                row if hit else None for row, hit in zip(continuations, is_hit, strict=True)
            ],
        },
        schema=SCHEMA,
    )


# How long a model goes on reproducing a document: the verbatim memorization length.


class Growth(NamedTuple):
    """What one prefix gives.

    Attributes:
        n_tokens: tokens of the document that the model writes on from it, without a mistake.
        is_copied: they, or how they begin, stand in the prefix already.
    """

    n_tokens: int
    is_copied: bool


def grow(
    lm: LanguageModel,
    documents: Sequence[Tokens],
    places: Sequence[tuple[int, int]],
    settings: AuditSettings,
) -> list[Growth]:
    """Ask how far the model goes on from the prefix of each window.

    Args:
        lm: the model; its positions limit how far can be asked.
        documents: tokens of every document.
        places: number of the document and first token of each window.
        settings: prefix, suffix and `max_growth`.

    Returns:
        One answer a place; at most suffix + `max_growth` tokens are asked for.
    """
    lengths = [_reach(lm, len(documents[number].ids) - first, settings) for number, first in places]
    found: list[Growth] = [Growth(0, False)] * len(places)
    order = sorted(range(len(places)), key=lambda one: lengths[one])
    for length, group in groupby(order, key=lambda one: lengths[one]):
        members = list(group)
        rows = np.stack([_row(documents, places[one], length) for one in members])
        is_right = right_tokens(lm, rows, batch_size=settings.batch_size, prefix=settings.prefix)
        for one, row, n in zip(members, rows, run_lengths(is_right), strict=True):
            prompt, written = row[: settings.prefix], row[settings.prefix : settings.prefix + n]
            found[one] = Growth(int(n), is_copied(lm.tokenizer, prompt, written))
    return found


def _reach(lm: LanguageModel, n_left: int, settings: AuditSettings) -> int:
    """Tokens of prefix and what may follow, within the document and the model's positions."""
    reach = min(n_left, settings.length + settings.max_growth)
    if lm.max_positions is not None:
        reach = min(reach, lm.max_positions - len(lm.before))
    return max(reach, settings.length)


def _row(documents: Sequence[Tokens], place: tuple[int, int], length: int) -> npt.NDArray[np.int32]:
    number, first = place
    return documents[number].ids[first : first + length]
