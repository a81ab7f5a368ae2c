"""Shares of documents that are reproduced, guessed and recalled."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, cast

import polars as pl
from pydantic import NonNegativeInt
from typing_extensions import TypedDict

from mnemoscope.audits.rule import GUESS, RECALL, UNDECIDED, VERDICTS
from mnemoscope.stats import FEWEST_GROUPS, Estimate, clopper_pearson, resampled_ratio
from mnemoscope.words import adding_up, percent

KINDS = ("reproduced", "guessed", "undecided", "recalled", "near")
OTHERWISE = pl.List(pl.Struct({"start": pl.Int64, "end": pl.Int64, "written": pl.String}))
"""Type of a column of characters of a passage that the model wrote otherwise, and how."""


class Piece(NamedTuple):
    """Characters of a passage, and what was written in their place (None: the same)."""

    start: int
    end: int
    written: str | None
    verdict: str


class Passage(NamedTuple):
    """A stretch of a document, in characters, with what is said of it; a span has its number.

    `otherwise` are the parts of it that no window has right: `start`, `end` and what was `written`;
    `verdicts` its parts in order, each with its own verdict, if these differ.
    """

    start: int
    end: int
    verdict: str
    otherwise: Sequence[Mapping[str, Any]] = ()
    number: int | None = None
    verdicts: Sequence[tuple[int, int, str]] = ()

    @property
    def pieces(self) -> list[Piece]:
        """Its characters in order, cut where they are written otherwise and by verdict."""
        found: list[Piece] = []
        at = self.start
        for _, last, verdict in self.verdicts or [(self.start, self.end, self.verdict)]:
            stop = min(last, self.end)
            for one in self.otherwise:
                begin, end = max(one["start"], at), min(one["end"], stop)
                if begin < end:
                    found.append(Piece(at, begin, None, verdict))
                    found.append(Piece(begin, end, one["written"], verdict))
                    at = end
            found.append(Piece(at, stop, None, verdict))
            at = max(at, stop)
        return [one for one in found if one.start < one.end]

    @property
    def written(self) -> list[tuple[int, int]]:
        """The ranges of characters that the model has right."""
        return [(one.start, one.end) for one in self.pieces if one.written is None]

    def shares(self) -> dict[str, float]:
        """Of what the model has right the share of each verdict, the stronger first."""
        counts = dict.fromkeys(VERDICTS, 0)
        for one in self.pieces:
            counts[one.verdict] += (one.end - one.start) * (one.written is None)
        whole = sum(counts.values())
        return {name: n / whole for name, n in counts.items() if n} or {self.verdict: 1.0}


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
    undecided_spans: NonNegativeInt
    recall_spans: NonNegativeInt
    near_spans: NotRequired[NonNegativeInt | None]
    near_recall_spans: NotRequired[NonNegativeInt | None]
    reproduced: Share
    guessed: Share
    undecided: Share
    recalled: Share
    near: NotRequired[Share]
    alone: NotRequired[Share]
    alone_spans: NotRequired[NonNegativeInt]


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


def number_of(counts: Counts, kind: str) -> int:
    """How many passages are of a kind, one of `KINDS`."""
    n = {
        "guessed": counts["guess_spans"],
        "undecided": counts["undecided_spans"],
        "recalled": counts["recall_spans"],
    }
    n["reproduced"] = sum(n.values())
    n["near"] = n["recalled"] + (counts.get("near_recall_spans") or 0)
    return n[kind]


def near_said(counts: Counts) -> str:
    """The near copies of a document or of all, and how many count as recalled; empty if none.

    >>> near_said({"near_spans": 8, "near_recall_spans": 1})  # type: ignore[typeddict-item]
    '8 near copies, 1 of them called recalled'
    """
    n, recalled = counts.get("near_spans") or 0, counts.get("near_recall_spans") or 0
    if not n:
        return ""
    if n == 1:
        return f"1 near copy, {'' if recalled else 'not '}called recalled"
    which = "all" if recalled == n else f"{recalled or 'none'} of them"
    return f"{n:,} near copies, {which} called recalled"


def share_beside(counts: Counts, kind: str) -> Share:
    """The share recalled, guessed or undecided, such that the three add up as printed.

    They give what is reproduced. That and what is recalled are printed as they are, since both also
    stand alone.
    """
    kinds = ("recalled", "guessed", "undecided")
    shares = [share_of(counts, one)["share"] for one in kinds]
    shown = adding_up(shares, counts["reproduced"]["share"])
    return {**share_of(counts, kind), "share": shown[kinds.index(kind)]}


def share_of(counts: Counts, kind: str) -> Share:
    """The share of a kind, one of `KINDS`."""
    found: Share = counts[kind]  # type: ignore[literal-required]
    return found


def summarize(
    name: str,
    *,
    n_characters: int,
    n_tokens: int,
    n_windows: int,
    spans: Sequence[tuple[Any, ...]],
    near: Sequence[tuple[Any, ...]] | None = None,
    numbers: Sequence[int] | None = None,
) -> DocumentCounts:
    """Count one document: for each of `KINDS` the characters that the model wrote, and their share.

    `spans` and `near` are what `Passage` is made of; no spans overlap but in a character that two
    tokens share. Spans that touch are one passage, else those of one of `numbers`; it counts once,
    as the strongest of its verdicts. The last share, `near`, is of what is recalled word for word
    or in a near copy; None where these were not looked for.
    """
    counts = {GUESS: 0, UNDECIDED: 0, RECALL: 0}
    own, nearly = ([Passage(*one) for one in rows or ()] for rows in (spans, near))
    if numbers is None:
        numbers = passage_numbers((name, span.start, span.end) for span in own)
    strongest: dict[int, str] = {}
    for number, span in zip(numbers, own, strict=True):
        found = strongest.get(number, span.verdict)
        strongest[number] = min(found, span.verdict, key=VERDICTS.index)
    n_spans = Counter(strongest.values())
    seen = 0
    for span in own:
        for start, end in span.written:
            counts[span.verdict] += max(end - max(start, seen), 0)
            seen = max(seen, end)
    parts = [sum(counts.values()), *counts.values()]
    if near is not None:
        parts.append(
            covered(at for x in (*own, *nearly) if x.verdict == RECALL for at in x.written)
        )
    made = {
        "document": name,
        "characters": n_characters,
        "tokens": n_tokens,
        "windows": n_windows,
        "guess_spans": n_spans[GUESS],
        "undecided_spans": n_spans[UNDECIDED],
        "recall_spans": n_spans[RECALL],
        **{
            kind: {"characters": part, "share": part / n_characters if n_characters else 0.0}
            for kind, part in zip(KINDS, parts, strict=False)
        },
        "near_spans": None if near is None else len(nearly),
        "near_recall_spans": None if near is None else sum(x.verdict == RECALL for x in nearly),
    }
    return cast(DocumentCounts, made)


def passage_numbers(places: Iterable[tuple[str, int, int]]) -> list[int]:
    """Of each span, by document, start and end and in their order, which passage it is a piece of.

    Spans are pieces of one passage where no character stands between them.

    >>> passage_numbers([("a", 0, 9), ("a", 9, 12), ("a", 13, 20), ("b", 20, 30)])
    [0, 0, 1, 2]
    """
    numbers: list[int] = []
    before: tuple[str, int, int] | None = None
    for one in places:
        is_next = before and before[0] == one[0] and before[1] <= one[2] and one[1] <= before[2]
        numbers.append(numbers[-1] + (not is_next) if numbers else 0)
        before = one
    return numbers


def count_document(
    name: str,
    sizes: Sizes,
    passages: pl.DataFrame,
    near: pl.DataFrame | None = None,
    alone: pl.DataFrame | None = None,
) -> DocumentCounts:
    """`summarize` a document from the passages and near copies of all.

    A column `passage` says which rows are pieces of one; without it those that touch are. `alone`
    are passages that the reference repeats and the model does not.
    """
    place = ("start", "end", "verdict", "otherwise")
    own, nearly, others = (
        None if one is None else one.filter(pl.col("document") == name)
        for one in (passages, near, alone)
    )
    assert own is not None
    counts = summarize(
        name,
        n_characters=sizes["characters"],
        n_tokens=sizes["tokens"],
        n_windows=sizes["windows"],
        spans=own.select(place).rows(),
        near=None if nearly is None else nearly.select(place).rows(),
        numbers=own["passage"].to_list() if "passage" in own.columns else None,
    )
    if others is not None:
        n = covered(at for one in others.select(place).iter_rows() for at in Passage(*one).written)
        share = n / sizes["characters"] if sizes["characters"] else 0.0
        counts["alone"] = {"characters": n, "share": share}
        counts["alone_spans"] = others.height
    return counts


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
    kinds = [kind for kind in (*KINDS, "alone") if rows and kind in rows[0]]
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
        **{
            key: sum(row[key] for row in rows)
            for key in ("guess_spans", "undecided_spans", "recall_spans")
        },
        **{
            key: sum(row[key] or 0 for row in rows) if "near" in shares else None
            for key in ("near_spans", "near_recall_spans")
        },
        **({"alone_spans": sum(row["alone_spans"] for row in rows)} if "alone" in shares else {}),
        **shares,
    }
    return cast(Summary, made)
