"""The table of passages: what the windows say, what each question adds, and the verdict."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from textwrap import shorten
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.audits.questions import QUESTIONS
from mnemoscope.audits.rule import GUESS, RECALL, VERDICTS, decide
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.shares import OTHERWISE, Passage, passage_numbers, share_words
from mnemoscope.audits.spans import Piece, Span
from mnemoscope.audits.tokens import (
    NOTHING,
    Text,
    Tokens,
    character_range,
    decode,
    runs_without,
    token_texts,
)
from mnemoscope.columns import Column, schema_of
from mnemoscope.words import adding_up, plural

PASSAGE: dict[str, Column] = {
    "document": Column(pl.String, "its name: a path, of a table `path#row`"),
    "start": Column(
        pl.Int64, "first character, in the document (an emoji is one; a byte order mark is none)"
    ),
    "end": Column(pl.Int64, "position after the last character"),
    "verdict": Column(pl.String, "`guess`, `recall` or `cannot be told`"),
    "reason": Column(pl.String, "why, in words"),
    "tokens": Column(pl.Int64, "tokens of the passage"),
    "score": Column(pl.Float64, "share of right tokens of the window that speaks for it"),
    "text": Column(pl.String, "the passage"),
    "otherwise": Column(
        OTHERWISE,
        "characters of it that no window has right, and what was written there; counted nowhere",
    ),
    "verbatim_length": Column(pl.Int64, "right tokens in a row, as far as it was asked"),
    "is_copied": Column(pl.Boolean, "all that the model writes stands in the prompt"),
    "windows": Column(pl.Int64, "windows that cover some of it"),
    "rouge_l": Column(pl.Float64, "ROUGE-L of prefix and suffix, as the rule saw it"),
    "rouge_3": Column(pl.Float64, "ROUGE-3 of them"),
    "is_incrementing": Column(pl.Boolean, "the window counts"),
    "is_repeating": Column(pl.Boolean, "the window repeats one unit"),
    "rule_says": Column(pl.String, "what the rule says of that window"),
    "window_token": Column(pl.Int64, "first token of that window"),
    "window_start": Column(pl.Int64, "its first character"),
    "suffix_start": Column(pl.Int64, "first character that the model was to write"),
    "window_end": Column(pl.Int64, "position after its last character"),
    "window_tokens": Column(pl.List(pl.Int32), "its token ids"),
    "continuation_tokens": Column(pl.List(pl.Int32), "token ids that the model wrote"),
    "prefix_text": Column(pl.String, "the text that was shown"),
    "suffix_pieces": Column(pl.List(pl.String), "the text of each token that was asked for"),
    "continuation_pieces": Column(pl.List(pl.String), "the text of each token that was written"),
}
"""Columns of a passage beside those of the questions."""

_WORD_START, _WORD_END = re.compile(r"^\w+"), re.compile(r"\w+$")
_SAID, _WIDEST = 3, 40  # words that are quoted, characters of each
HIDDEN = "█"
"""What stands in the place of a character that is not shown."""

CountWindows = Callable[[str, int, int], int]
"""Of a document's name, a first character and the one after the last, the windows in between."""

GROUNDS = ("reference_says", "grafts_say", "cnn_says", "needs_say")
"""What questions say beside the rule; of the last three the first that was asked counts."""
THIRD = {
    "grafts_say": "the exchange of parts",
    "cnn_says": "the CNNs on its attention",
    "needs_say": "what it needs",
}
"""What the last three are called beside a passage."""


def right_of(row: Mapping[str, Any], column: str = "score") -> str:
    """How many tokens of its window the model wrote, or the reference; empty where not asked.

    >>> right_of({"score": 0.9375, "suffix_pieces": ["a"] * 32})
    '30 of 32'
    """
    n = len(row["suffix_pieces"])
    return "" if row[column] is None else f"{round(row[column] * n)} of {n}"


def span_columns() -> dict[str, Column]:
    """Columns of `spans.parquet`, in order."""
    every = dict(PASSAGE)
    for question in QUESTIONS.values():
        every |= question.part("COLUMNS", {})
    return every


def span_schema() -> pl.Schema:
    """Types of the columns of `spans.parquet`."""
    return schema_of(span_columns())


def passage_table(
    texts: Sequence[Text],
    spans: Sequence[tuple[int, Span]],
    settings: AuditSettings,
    tokenizer: Any,
) -> pl.DataFrame:
    """One row a span, given with the number of its document; columns `span_schema`.

    The verdict is the rule's, and what questions answer is null.
    """
    rows = []
    copied = "; all that the model writes stands in the text before it"
    for number, span in spans:
        text, hit, ruling = texts[number], span.hit, span.hit.ruling
        own = text.tokens
        start, end = character_range(own, span.first, span.last)
        window = own.ids[hit.first : hit.first + settings.length]
        window_start, window_end = character_range(own, hit.first, hit.first + settings.length)
        suffix_start = int(own.starts[hit.first + settings.prefix])
        rows.append(
            {
                "document": text.name,
                "start": start,
                "end": end,
                "verdict": span.verdict,
                "reason": ruling.reason + (copied if span.is_copied else ""),
                "tokens": span.last - span.first,
                "score": hit.score,
                "text": text.document.text[start:end],
                "otherwise": _otherwise(own, span, tokenizer),
                "verbatim_length": span.verbatim_length,
                "is_copied": span.is_copied,
                "windows": span.n_hits,
                "rouge_l": ruling.rouge_l,
                "rouge_3": ruling.rouge_3,
                "is_incrementing": ruling.is_incrementing,
                "is_repeating": ruling.is_repeating,
                "rule_says": ruling.verdict,
                "window_token": hit.first,
                "window_start": window_start,
                "suffix_start": suffix_start,
                "window_end": window_end,
                "window_tokens": window.tolist(),
                "continuation_tokens": hit.continuation,
                "prefix_text": text.document.text[window_start:suffix_start],
                "suffix_pieces": token_texts(tokenizer, window[settings.prefix :]),
                "continuation_pieces": hit.pieces or token_texts(tokenizer, hit.continuation),
            }
        )
    return pl.DataFrame(rows, schema=span_schema())


def wordings_said(*passages: Mapping[str, Any]) -> str:
    """In how many places of passages the model wrote other words; empty where in none."""
    pairs = [pair for row in passages for pair in _wordings(row)]
    if not pairs:
        return ""
    shown = ", ".join(f"“{wrote}” for “{own}”" for own, wrote in pairs[:_SAID])
    shown = "" if HIDDEN in shown else f" ({'such as ' * (len(pairs) > _SAID)}{shown})"
    return (
        f"in {plural(len(pairs), 'place')} the model wrote other words{shown}: it has them wrong, "
        "or knows another wording"
    )


def _wordings(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Whole words of a passage, and what the model wrote in their place."""
    for piece in row.get("pieces", [row]):
        text, first = piece["text"], piece["start"]
        for one in piece["otherwise"]:
            start, end, wrote = one["start"] - first, one["end"] - first, one["written"]
            own = text[start:end]
            before = _WORD_END.findall(text[:start]) if own[:1].isalnum() else []
            after = _WORD_START.findall(text[end:]) if own[-1:].isalnum() else []
            if wrote:
                both = ("".join([*before, said, *after]) for said in (own, wrote))
                own, wrote = (shorten(said, _WIDEST, placeholder=" …") for said in both)
                yield own, wrote


def text_written(row: Mapping[str, Any]) -> str:
    """The text of a passage as the model wrote it."""
    said = ""
    for piece in row.get("pieces", [row]):
        text, place = piece["text"], 0
        for one in piece.get("otherwise", ()):
            said += text[place : one["start"] - piece["start"]] + one["written"]
            place = one["end"] - piece["start"]
        said += text[place:]
    return said


def _otherwise(own: Tokens, span: Span, tokenizer: Any) -> list[dict[str, Any]]:
    """What the model never has right of a span, in characters."""
    is_written = np.ones(len(own.ids), dtype=np.bool_)
    for one in span.otherwise:
        is_written[one.first : one.last] = False
    written = {one.first: one.written for one in span.otherwise}
    return [
        {"start": start, "end": end, "written": _text_of(written[begin], tokenizer)}
        for begin, start, end in runs_without(own, span.first, span.last, is_written)
    ]


def _text_of(pieces: Sequence[Piece], tokenizer: Any) -> str:
    if any(one.text is not None for one in pieces):
        return "".join(one.text or "" for one in pieces)
    return decode(tokenizer, [one.id for one in pieces if one.id != NOTHING])


def with_verdicts(passages: pl.DataFrame) -> pl.DataFrame:
    """The passages with the verdict of all grounds, once every question was asked.

    It is `rule.decide`'s; docs/audit-evidence.md measures the grounds.
    """
    rows = []
    for rule, reason, *grounds in passages.select("rule_says", "reason", *GROUNDS).iter_rows():
        verdict, because = decide(rule, *grounds)
        rows.append((verdict, f"{because} ({reason})" if because else reason))
    columns = {"verdict": pl.String, "reason": pl.String}
    return passages.with_columns(pl.DataFrame(rows, schema=columns, orient="row"))


def join_passages(passages: pl.DataFrame, count_windows: CountWindows) -> pl.DataFrame:
    """The passages, those of a document that touch and have one verdict made one.

    Spans are cut where the rule changes its mind; where the other grounds speak on one side, both
    sides may end with the same verdict. A piece of less than half an answer that touches one of
    which less can be said is its edge, and has its verdict. The longest piece speaks for the whole
    with its window and all figures. `count_windows` says of a document, start and end how many
    windows are in it.
    """
    runs: list[list[dict[str, Any]]] = []
    rows = list(passages.iter_rows(named=True))
    for before, row, verdict in zip([None, *rows], rows, _with_edges(rows), strict=False):
        if before and _touches(before, row) and runs[-1][-1]["joins"] == verdict:
            runs[-1].append({**row, "joins": verdict})
        else:
            runs.append([{**row, "joins": verdict}])
    if len(runs) == passages.height:
        return passages
    return pl.DataFrame([_joined(run, count_windows) for run in runs], schema=passages.schema)


def _with_edges(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The verdicts of pieces in order, short ones as what they touch if less can be said of it."""
    said = [row["verdict"] for row in rows]
    for step in (1, -1):
        for at in range(len(rows))[::step][1:]:
            row, beside = rows[at], at - step
            if 2 * row["tokens"] < len(row["suffix_pieces"]) and _touches(rows[beside], row):
                said[at] = max(said[at], said[beside], key=VERDICTS.index)
    return said


def _touches(one: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    is_near = one["start"] <= row["end"] and row["start"] <= one["end"]
    return is_near and bool(one["document"] == row["document"])


def _joined(run: Sequence[Mapping[str, Any]], count_windows: CountWindows) -> dict[str, Any]:
    """The row of pieces that touch, in order."""
    best = max(run, key=lambda piece: (piece["joins"] == piece["verdict"], piece["tokens"]))
    first, *others = ({k: v for k, v in piece.items() if k != "joins"} for piece in run)
    if not others:
        return first
    text, seen = first["text"], first["end"]
    for piece in others:
        text += piece["text"][seen - piece["start"] :]  # two tokens may share a character
        seen = piece["end"]
    is_copied = all(piece["is_copied"] for piece in run)
    return {
        **{name: best[name] for name in first},
        "start": first["start"],
        "end": seen,
        "text": text,
        "tokens": sum(piece["tokens"] for piece in run),
        "windows": count_windows(first["document"], first["start"], seen),
        "verbatim_length": max(piece["verbatim_length"] for piece in run),
        "is_copied": is_copied,
        "otherwise": [one for piece in run for one in piece["otherwise"]],
        "reason": f"{best['reason']}; so the longest of its {len(run)} pieces",
    }


def whole_passages(pieces: pl.DataFrame) -> list[Mapping[str, Any]]:
    """What a reader sees as one passage: the rows of a document that touch, as one each, in order.

    It has the columns of the piece that speaks for it (the longest of the strongest verdict), but
    place, text, length and what is written otherwise of the whole; `number` from 1, and `pieces`,
    its rows. A column `passage` says which rows are of one passage, as in `shares.count_document`.
    """
    rows = pieces.rows(named=True)
    numbers = [row["passage"] for row in rows] if "passage" in pieces.columns else numbered(pieces)
    found: list[Mapping[str, Any]] = []
    for number, (_, run) in enumerate(groupby(zip(numbers, rows, strict=True), itemgetter(0)), 1):
        found.append({"number": number, **_whole([row for _, row in run])})
    return found


def in_order(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Passages in the order in which a reader looks at them, as in `VERDICTS`.

    Of each those first that are at least half as long as what the model was asked for, since a
    fragment is weak evidence whatever the grounds say of its window; then those that the reference
    does not write, if it is a control; then those of which a whole answer came out word for word;
    then the longest, spaces not counted. Grafts do not count here: what was learned very often may
    survive most of them.
    """
    return sorted(
        rows,
        key=lambda row: (
            VERDICTS.index(row["verdict"]),
            2 * row["tokens"] < len(row["suffix_pieces"]),
            row["reference_says"] == GUESS,
            row["score"] < 1,
            -len("".join(row["text"].split())),
            row["number"],
        ),
    )


def of_each_document(
    rows: Sequence[Mapping[str, Any]], names: Iterable[str]
) -> list[Mapping[str, Any]]:
    """The first passage of each document, in the order of their names, then the others."""
    first = {row["document"]: row for row in reversed(rows)}
    ranked = [first.pop(name) for name in names if name in first]
    taken = {*map(id, ranked)}
    return [*ranked, *(row for row in rows if id(row) not in taken)]


def accused(found: pl.DataFrame) -> list[Mapping[str, Any]]:
    """What is recalled in `unread.parquet`, near copies too, the longest first."""
    passages = whole_passages(found.filter(~pl.col("nearly")))
    rows = [row for row in passages if row["verdict"] == RECALL]
    rows += found.filter("nearly").rows(named=True)
    return sorted(rows, key=lambda row: row["start"] - row["end"])


def numbered(pieces: pl.DataFrame) -> list[int]:
    """Of each row of passages which one it is a piece of."""
    if pieces.is_empty():
        return []
    return passage_numbers(pieces.select("document", "start", "end").rows())


def _whole(run: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """One passage of its pieces, in order."""
    speaks = min(run, key=lambda row: (VERDICTS.index(row["verdict"]), row["start"] - row["end"]))
    text, seen = "", run[0]["start"]
    for row in run:
        text += " … " * (row["start"] > seen) + row["text"][max(seen - row["start"], 0) :]
        seen = row["end"]
    sums = {
        name: add(row[name] for row in run)
        for name, add in (("tokens", sum), ("verbatim_length", max))
        if name in speaks
    }
    otherwise = [one for row in run for one in row["otherwise"]]
    place = {"start": run[0]["start"], "end": seen, "text": text}
    return {**speaks, **sums, **place, "otherwise": otherwise, "pieces": list(run)}


def stretch_of(whole: Mapping[str, Any]) -> Passage:
    """A passage of `whole_passages` with where which verdict stands."""
    verdicts = [(row["start"], row["end"], row["verdict"]) for row in whole["pieces"]]
    place = whole["start"], whole["end"]
    return Passage(*place, whole["verdict"], whole["otherwise"], whole["number"], verdicts)


def shares_of(whole: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of each verdict in a passage how much of what was written right has it, in words."""
    shares = stretch_of(whole).shares()
    return [*zip(shares, map(share_words, adding_up([*shares.values()])), strict=True)]


def shares_said(whole: Mapping[str, Any]) -> str:
    """How much of a passage has which verdict; empty where all of it has one.

    >>> halves = [(0, 30, "recall"), (30, 40, "guess")]
    >>> pieces = [dict(zip(("start", "end", "verdict"), one)) for one in halves]
    >>> place = {"start": 0, "end": 40, "verdict": "recall", "otherwise": (), "number": 1}
    >>> shares_said({**place, "pieces": pieces})
    'recall 75.0 %, guess 25.0 %'
    """
    shares = shares_of(whole)
    return ", ".join(map(" ".join, shares)) if len(shares) > 1 else ""
