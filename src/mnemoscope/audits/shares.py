"""Shares of documents that are reproduced, guessed and recalled."""

from collections.abc import Iterable, Sequence
from typing import NotRequired, cast

import polars as pl
from pydantic import NonNegativeInt
from typing_extensions import TypedDict

from mnemoscope.audits.rule import GUESS, RECALL
from mnemoscope.stats import FEWEST_GROUPS, Estimate, clopper_pearson, resampled_ratio
from mnemoscope.words import adding_up, percent

KINDS = ("reproduced", "guessed", "recalled", "near")


class Share(TypedDict):
    """Characters of one kind and their share; with an interval, if of all documents."""

    characters: NonNegativeInt
    share: float
    low: NotRequired[float | None]
    high: NotRequired[float | None]


class Sizes(TypedDict):
    """How large a document is, and in how many windows it was asked."""

    characters: NonNegativeInt
    tokens: NonNegativeInt
    windows: NonNegativeInt


class Counts(Sizes):
    """What is counted of one document, and of all of them."""

    guess_spans: NonNegativeInt
    recall_spans: NonNegativeInt
    near_spans: NotRequired[NonNegativeInt | None]
    near_recall_spans: NotRequired[NonNegativeInt | None]
    reproduced: Share
    guessed: Share
    recalled: Share
    near: NotRequired[Share]


class DocumentCounts(Counts):
    """The counts of a document."""

    document: str


class Summary(Counts):
    """The counts of all documents, of which `asked` had windows."""

    documents: NonNegativeInt
    asked: NonNegativeInt


def estimate_of(share: Share) -> Estimate:
    """A share with its ends; None where it has none."""
    return Estimate(share["share"], share.get("low"), share.get("high"))


def share_words(share: float, *, space: str = " ") -> str:
    """Print a share as per cent that does not round something to nothing.

    >>> share_words(0.0523), share_words(0.0001)
    ('5.2 %', '< 0.1 %')
    """
    if 0 < share < 0.0005:
        return f"<{space}0.1{space}%"
    return f"{percent(share, unit=False)}{space}%"


def guessed_beside(counts: Counts) -> Share:
    """The guessed share, such that it and the recalled one add up to what is reproduced, printed.

    The other two are printed as they are, since they also stand alone.
    """
    parts = [counts["recalled"]["share"], counts["guessed"]["share"]]
    return {**counts["guessed"], "share": adding_up(parts, counts["reproduced"]["share"])[1]}


def share_of(counts: Counts, kind: str) -> Share:
    """The share of a kind: ``reproduced``, ``guessed``, ``recalled`` or ``near``."""
    found: Share = counts[kind]  # type: ignore[literal-required]
    return found


def summarize(
    name: str,
    *,
    n_characters: int,
    n_tokens: int,
    n_windows: int,
    spans: Sequence[tuple[int, int, str]],
    near: Sequence[tuple[int, int, str]] | None = None,
) -> DocumentCounts:
    """Count one document: for each of reproduced, guessed, recalled its characters and share.

    `spans` are start, end (characters) and verdict; none overlap but in a character that two
    tokens share. The last share, `near`, is of what is recalled word for word or in a near copy;
    None where these were not looked for.
    """
    counts = {GUESS: 0, RECALL: 0}
    n_spans = dict.fromkeys(counts, 0)
    seen = 0
    for start, end, verdict in spans:
        counts[verdict] += max(end - max(start, seen), 0)
        n_spans[verdict] += 1
        seen = max(seen, end)
    parts = [counts[GUESS] + counts[RECALL], counts[GUESS], counts[RECALL]]
    if near is not None:
        recalled = [(start, end) for start, end, verdict in (*spans, *near) if verdict == RECALL]
        parts.append(covered(recalled))
    made = {
        "document": name,
        "characters": n_characters,
        "tokens": n_tokens,
        "windows": n_windows,
        "guess_spans": n_spans[GUESS],
        "recall_spans": n_spans[RECALL],
        **{
            kind: {"characters": part, "share": part / n_characters if n_characters else 0.0}
            for kind, part in zip(KINDS, parts, strict=False)
        },
        "near_spans": None if near is None else len(near),
        "near_recall_spans": None if near is None else sum(one[2] == RECALL for one in near),
    }
    return cast(DocumentCounts, made)


def count_document(
    name: str, sizes: Sizes, passages: pl.DataFrame, near: pl.DataFrame | None = None
) -> DocumentCounts:
    """`summarize` a document from the passages and near copies of all."""
    place = ("start", "end", "verdict")
    own, nearly = (
        None if one is None else one.filter(pl.col("document") == name).select(place).rows()
        for one in (passages, near)
    )
    return summarize(
        name,
        n_characters=sizes["characters"],
        n_tokens=sizes["tokens"],
        n_windows=sizes["windows"],
        spans=own or [],
        near=nearly,
    )


def covered(ranges: Iterable[tuple[int, int]]) -> int:
    """Characters in any of some ranges."""
    n = seen = 0
    for start, end in sorted(ranges):
        n += max(end - max(start, seen), 0)
        seen = max(seen, end)
    return n


def overall(documents: Iterable[Counts]) -> Summary:
    """Add up what `summarize` gave; `asked` are the documents with windows.

    Passages of one document are not independent, so intervals draw documents; their ends are None
    where fewer than `FEWEST_GROUPS` were asked. Where all documents have nothing, or all of them
    everything, they are those of so many documents of which none, or each, has any.
    """
    rows = list(documents)
    asked = sum(row["windows"] > 0 for row in rows)
    wholes = [row["characters"] for row in rows]
    whole, shares = sum(wholes), {}
    kinds = [kind for kind in KINDS if rows and kind in rows[0]]
    for kind in kinds:
        parts = [share_of(row, kind)["characters"] for row in rows]
        part = sum(parts)
        share = part / whole if whole else 0.0
        if asked < FEWEST_GROUPS:
            found = Estimate(share)
        elif part in (0, whole):
            found = clopper_pearson(share * asked, asked)
        else:
            found = resampled_ratio(parts, wholes, range(len(rows)))
        shares[kind] = {"characters": part, "share": share, "low": found.low, "high": found.high}
    made = {
        "documents": len(rows),
        "asked": asked,
        "characters": whole,
        "tokens": sum(row["tokens"] for row in rows),
        "windows": sum(row["windows"] for row in rows),
        "guess_spans": sum(row["guess_spans"] for row in rows),
        "recall_spans": sum(row["recall_spans"] for row in rows),
        **{
            key: sum(row[key] or 0 for row in rows) if "near" in shares else None
            for key in ("near_spans", "near_recall_spans")
        },
        **shares,
    }
    return cast(Summary, made)
