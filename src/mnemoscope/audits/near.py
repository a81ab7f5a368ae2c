"""Near copies: passages that a model writes with words put in, left out or exchanged.

Where a window begins right and is no hit, the model is let go on for twice as long, and what it
writes is laid beside the document: matching blocks, the longest first, are merged while the gaps
between them are small, and what matches enough of the document's tokens is a near copy.

Records and forms match each other so wherever they stand, whoever read them. So what was written is
laid beside other places of the documents too: only what matches far more at its own is recalled.

Source: near-verbatim recall of arXiv 2601.02671, there over whole books and in words.
"""

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.audits.asking import Answer, Auditing
from mnemoscope.audits.questions import NearSettings
from mnemoscope.audits.rule import RECALL, UNDECIDED, Ruling, rule_windows
from mnemoscope.audits.scan import ask_in_parts, prompts_at
from mnemoscope.audits.shares import OTHERWISE
from mnemoscope.audits.tokens import Place, Text, Words, character_range, cut, decode, runs_without
from mnemoscope.columns import Column, schema_of

SHORTEST_BLOCK = 3
"""Tokens of a matching block; shorter ones match by chance anywhere."""
BEGINS_RIGHT = 4
"""Tokens that a window must begin right with for the model to be let go on."""
LEAST_SHARE = 0.6
"""Share of the longer of the two texts that must match."""
BEYOND = 2 / 3
"""Of `near_length`: so many tokens more must match than do at any other place."""
_MOST_PLACES = 200
"""Other places in the same document, and in the others."""
_SAME = 0.8
"""Share of tokens that make another place the same text, and no other of its form."""

TABLE = {
    "document": Column(pl.String, "its name"),
    "start": Column(pl.Int64, "first character of the stretch that windows nearly reproduce"),
    "end": Column(pl.Int64, "position after its last character"),
    "verdict": Column(
        pl.String,
        "`guess` or `recall` by the rule, of the prefix and what the model wrote after it; "
        "`cannot be told` where that matches other places nearly as much",
    ),
    "reason": Column(pl.String, "why, in words"),
    "text": Column(pl.String, "the stretch"),
    "written": Column(pl.String, "what the model wrote in the window that matches most"),
    "otherwise": Column(
        OTHERWISE, "characters of it that no answer has; counted nowhere (`written`: empty)"
    ),
    "tokens": Column(pl.Int64, "tokens of the stretch"),
    "matched": Column(pl.Int64, "tokens of that window that match"),
    "longest_block": Column(pl.Int64, "how many of them in a row"),
    "elsewhere": Column(
        pl.Int64, "most tokens of what was written there that match at another place"
    ),
    "edits": Column(
        pl.Int64, "Levenshtein distance in characters of `written` and the text beside it"
    ),
    "windows": Column(pl.Int64, "windows that nearly reproduce some of it"),
    "strict_characters": Column(pl.Int64, "characters of it in `spans.parquet` too"),
    "window_token": Column(pl.Int64, "first token of that window"),
    "window_start": Column(pl.Int64, "its first character"),
    "window_tokens": Column(pl.List(pl.Int32), "token ids that were shown"),
    "continuation_tokens": Column(pl.List(pl.Int32), "token ids that were written"),
    "prefix_text": Column(pl.String, "the text that was shown"),
    "pieces": Column(
        pl.List(pl.Struct({"kind": pl.String, "text": pl.String})),
        "`written` in pieces: the `same`, of the `document` alone, `written` by the model alone",
    ),
}


class Alignment(NamedTuple):
    """Where two lists of tokens run side by side, ends excluded.

    `blocks` says where each matching block begins and ends in the first list.
    """

    first: int
    last: int
    other_first: int
    other_last: int
    blocks: tuple[tuple[int, int], ...]

    @property
    def matched(self) -> int:
        """Tokens of its matching blocks."""
        return sum(last - first for first, last in self.blocks)

    @property
    def longest(self) -> int:
        """Tokens of the longest one."""
        return max(last - first for first, last in self.blocks)

    @property
    def share(self) -> float:
        """Matched tokens of the longer of the two."""
        return self.matched / max(self.last - self.first, self.other_last - self.other_first)


def align(tokens: Sequence[int], others: Sequence[int], *, gap: int) -> list[Alignment]:
    """Merge the matching blocks of two lists of tokens, in order, over gaps of at most `gap`.

    >>> align([1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 4, 5, 6], gap=2)[0].blocks
    ((0, 3), (3, 6))
    """
    found: list[Alignment] = []
    for first, other, size in SequenceMatcher(
        None, tokens, others, autojunk=False
    ).get_matching_blocks():
        if size < SHORTEST_BLOCK:
            continue
        here = ((first, first + size),)
        block = Alignment(first, first + size, other, other + size, here)
        before = found[-1] if found else None
        if before and max(first - before.last, other - before.other_last) <= gap:
            found[-1] = before._replace(
                last=block.last,
                other_last=block.other_last,
                blocks=before.blocks + here,
            )
        else:
            found.append(block)
    return found


def ask(audit: Auditing) -> Answer:
    """Let the model go on wherever a window begins right, and lay that beside the documents."""
    places = begun_right(audit.scanned)
    written = write_on(audit, places)
    return Answer(table=near_table(audit, places, written))


def begun_right(windows: pl.DataFrame) -> list[Place]:
    """Places of `spans.WINDOW_COLUMNS` from which a near copy may come: they begin right."""
    begun = windows.filter(pl.col("continuation").is_null(), pl.col("common") >= BEGINS_RIGHT)
    return begun.select("document", "first").rows()


def write_on(audit: Auditing, places: Sequence[Place]) -> list[list[int]]:
    """What the model writes from the prefixes of windows, twice as far as a window reaches."""
    prompts = prompts_at(audit, places, 2 * audit.settings.suffix)
    return [one.ids for one in ask_in_parts(audit, prompts, "end", "Looking for near copies")]


def check(audit: Auditing, table: pl.DataFrame) -> list[str]:
    """What of the near copies does not come out again, of documents that are there."""
    numbers = audit.numbers()
    rows = table.filter(pl.col("document").is_in(list(numbers))).rows(named=True)
    places = [(numbers[row["document"]], row["window_token"]) for row in rows]
    return [
        f"{row['document']}, {row['start']}-{row['end']}: the near copy does not hold."
        for row, place, written in zip(rows, places, write_on(audit, places), strict=True)
        if not _is_written(audit.tokenizer, written, row)
        or audit.texts[place[0]].document.text[row["start"] : row["end"]] != row["text"]
    ]


def _is_written(tokenizer: Any, written: list[int], row: Mapping[str, Any]) -> bool:
    """Whether a model writes a near copy again; words have other numbers each time."""
    if isinstance(tokenizer, Words):
        return row["written"] in tokenizer.decode(written)
    return bool(written == row["continuation_tokens"])


class NearCopy(NamedTuple):
    """Tokens `first` up to and without `last` of a document, which windows nearly reproduce.

    `place` is the window that matches most, `written` all that the model wrote there, and
    `alignment` lays that beside the document's tokens from the end of its prefix on. `matched` are
    the tokens of the document that any of the windows has.
    """

    first: int
    last: int
    place: Place
    written: list[int]
    alignment: Alignment
    n_windows: int
    matched: frozenset[int]


def find_near_copies(
    texts: Sequence[Text],
    places: Sequence[Place],
    written: Sequence[list[int]],
    settings: NearSettings,
) -> list[NearCopy]:
    """Lay what the model wrote from places, in order, beside the documents.

    `written` are token ids. Copies that overlap become one.
    """
    found: list[NearCopy] = []
    for place, row in zip(places, written, strict=True):
        number, begin = place[0], place[1] + settings.prefix
        ids = texts[number].tokens.ids
        own = ids[begin : begin + len(row) + len(row) // 2].tolist()
        for one in align(own, row, gap=settings.near_gap):
            if one.matched < settings.near_length or one.share < LEAST_SHARE:
                continue
            matched = frozenset(begin + at for block in one.blocks for at in range(*block))
            made = NearCopy(begin + one.first, begin + one.last, place, row, one, 1, matched)
            before = found[-1] if found and found[-1].place[0] == number else None
            if before is None or made.first >= before.last:
                found.append(made)
                continue
            best = max(before, made, key=lambda copy: copy.alignment.matched)
            found[-1] = best._replace(
                first=min(before.first, made.first),
                last=max(before.last, made.last),
                n_windows=before.n_windows + 1,
                matched=before.matched | matched,
            )
    return found


def near_table(
    audit: Auditing, places: Sequence[Place], written: Sequence[list[int]]
) -> pl.DataFrame:
    """The table of near copies in documents' characters; what stands mostly in passages is not."""
    from rapidfuzz.distance import Levenshtein

    settings, tokenizer = audit.settings, audit.tokenizer
    assert isinstance(settings, NearSettings)
    copies = find_near_copies(audit.texts, places, written, settings)
    rows = []
    for one in copies:
        number, first = one.place
        document, own = audit.texts[number]
        start, end = character_range(own, one.first, one.last)
        spans = (
            audit.passages.filter(pl.col("document") == document.name).select("start", "end").rows()
        )
        within = sum(max(min(end, b) - max(start, a), 0) for a, b in spans)
        if 2 * within > end - start:
            continue
        elsewhere = matched_elsewhere(audit.texts, one, settings)
        ruling = _rule(audit, one, elsewhere)
        begin, side = first + settings.prefix, one.alignment
        shown = slice(*character_range(own, first, begin))
        copied = slice(*character_range(own, begin + side.first, begin + side.last))
        ids = own.ids[begin + side.first : begin + side.last].tolist()
        others = one.written[side.other_first : side.other_last]
        text = decode(tokenizer, others)
        is_written = np.isin(np.arange(len(own.ids)), [*one.matched])
        rows.append(
            {
                "document": document.name,
                "start": start,
                "end": end,
                "verdict": ruling.verdict,
                "reason": ruling.reason,
                "text": document.text[start:end],
                "written": text,
                "otherwise": [
                    {"start": begins, "end": ends, "written": ""}
                    for _, begins, ends in runs_without(own, one.first, one.last, is_written)
                ],
                "tokens": one.last - one.first,
                "matched": side.matched,
                "longest_block": side.longest,
                "elsewhere": elsewhere,
                "edits": Levenshtein.distance(document.text[copied], text),
                "windows": one.n_windows,
                "strict_characters": within,
                "window_token": first,
                "window_start": shown.start,
                "window_tokens": own.ids[first:begin].tolist(),
                "continuation_tokens": one.written,
                "prefix_text": document.text[shown],
                "pieces": list(_pieces(tokenizer, ids, others)),
            }
        )
    return pl.DataFrame(rows, schema=schema_of(TABLE))


def matched_elsewhere(texts: Sequence[Text], copy: NearCopy, settings: NearSettings) -> int:
    """Most tokens of what was written for a near copy that match at another place of the documents.

    About 200 places of its own document and as many of the others, evenly spread, and the beginning
    of each; one that holds nearly the same text as the copy's own place is none.
    """
    number, begin = copy.place[0], copy.place[1] + settings.prefix
    reach = len(copy.written) + len(copy.written) // 2
    ids = texts[number].tokens.ids
    own, around = (ids[max(begin - more, 0) : begin + reach + more].tolist() for more in (0, reach))

    def places(of: Sequence[int], step: int) -> Iterator[Place]:
        step = max(step, sum(len(texts[at].tokens.ids) for at in of) // _MOST_PLACES, 1)
        for at in of:
            for first in range(0, max(len(texts[at].tokens.ids) - reach, 0) + 1, step):
                if at != number or abs(first - begin) >= reach:
                    yield at, first

    def best(tokens: Sequence[int], others: Sequence[int]) -> Alignment:
        runs = align(tokens, others, gap=settings.near_gap)
        return max(runs, key=lambda one: one.matched, default=Alignment(0, 0, 0, 0, ()))

    most, others = 0, [at for at in range(len(texts)) if at != number]
    for at, first in chain(places([number], reach // 6), places(others, reach)):
        there = texts[at].tokens.ids[first : first + reach].tolist()
        run = best(there, copy.written)
        if run.matched <= most:
            continue
        # Places of other documents may lie far apart: the same text may begin at any token there.
        part, text = there[run.first : run.last], own if at == number else around
        if best(part, text).matched < _SAME * len(part):
            most = run.matched
    return most


def stands_out(copy: NearCopy, elsewhere: int, settings: NearSettings) -> bool:
    """Whether a near copy matches its own place by far more than any other."""
    return copy.alignment.matched - elsewhere >= BEYOND * settings.near_length


def _rule(audit: Auditing, one: NearCopy, elsewhere: int) -> Ruling:
    """Guess or Recall, of the prefix and what the model wrote after it, unless its form may do."""
    settings = audit.settings
    assert isinstance(settings, NearSettings)
    prefix = cut(audit.texts, [one.place], settings.prefix)
    window = np.hstack([prefix, np.array([one.written[: settings.suffix]], dtype=np.int32)])
    (ruling,) = rule_windows(
        audit.tokenizer, window, prefix=settings.prefix, patterns=settings.patterns
    )
    if ruling.verdict != RECALL or stands_out(one, elsewhere, settings):
        return ruling
    return ruling._replace(
        verdict=UNDECIDED,
        reason=f"at another place of the documents {elsewhere} tokens of it match too, so their "
        "form alone may give it",
    )


def _pieces(tokenizer: Any, ids: Sequence[int], others: Sequence[int]) -> Iterator[dict[str, str]]:
    """What both have (`same`), and what the document or the model alone has (`written`)."""
    for kind, a, b, c, d in SequenceMatcher(None, ids, others, autojunk=False).get_opcodes():
        both = (("same", ids[a:b]),) if kind == "equal" else ()
        for name, some in both or (("document", ids[a:b]), ("written", others[c:d])):
            if some:
                yield {"kind": name, "text": decode(tokenizer, some)}
