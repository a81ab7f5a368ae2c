"""Continue the windows of all documents: every stride-th start, then all starts around a find."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.audit.continuing import continue_windows
from mnemoscope.audit.parts import Parts
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.tokens import Tokens
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.progress import track

__all__ = ["SCHEMA", "coarse_starts", "counts_as_hit", "cut", "fine_starts", "scan_windows"]

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
