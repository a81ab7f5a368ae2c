"""The page of an audit: one HTML file that opens offline, prints, and runs no script."""

import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import jinja2
import polars as pl
from markupsafe import Markup

from mnemoscope.audit.marks import Mark, mark_hidden

__all__ = ["Stretch", "environment", "render_page", "stretches"]

MOST_CARDS = 200
"""Spans shown with their evidence; all of them stand in `spans.parquet`."""
_WHOLE_UP_TO = 200_000  # characters of all documents together that are shown in full
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_CONTEXT = 600  # characters around a span that are shown of longer ones


class Stretch(NamedTuple):
    """A piece of a document as shown.

    Attributes:
        kind: ``text``, ``guess``, ``recall`` or ``left_out``.
        text: its characters; of ``left_out`` how many there are.
        number: of the span, None for text.
    """

    kind: str
    text: str
    number: int | None


def render_page(record: Mapping[str, Any], frame: pl.DataFrame, texts: Mapping[str, str]) -> str:
    """Render an audit.

    Args:
        record: what `audit.json` holds.
        frame: the table of spans.
        texts: every document's text by its name.

    Returns:
        The page; the same audit always gives the same page.
    """
    rows = [{"number": number, **row} for number, row in enumerate(frame.iter_rows(named=True), 1)]
    by_ease = sorted(rows, key=lambda row: (-_ease(row), row["number"]))
    recalled = [row for row in by_ease if row["verdict"] == "recall"]
    guessed = [row for row in by_ease if row["verdict"] == "guess"]
    shown = (recalled + guessed)[:MOST_CARDS]
    is_whole = sum(map(len, texts.values())) <= _WHOLE_UP_TO
    page = (
        environment()
        .get_template("audit.html.j2")
        .render(
            record=record,
            rows=rows,
            recalled=[row for row in shown if row["verdict"] == "recall"],
            guessed=[row for row in shown if row["verdict"] == "guess"],
            numbers_shown={row["number"] for row in shown},
            n_left_out=len(rows) - len(shown),
            documents=_documents(record, rows, texts, is_whole),
            style=Markup(
                resources.files(__package__).joinpath("templates/audit.css").read_text("utf-8")
            ),
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def stretches(text: str, rows: list[dict[str, Any]], *, is_whole: bool) -> Iterator[Stretch]:
    """Split a document's text at its spans.

    Args:
        text: the document.
        rows: its spans in order, with `number`, `start`, `end`, `verdict`.
        is_whole: show all of it, else only what is near a span.

    Yields:
        Pieces that joined are the text, where none is ``left_out``.
    """
    seen = 0
    for row in rows:
        # A character of several bytes may end one span and begin the next; it is shown once.
        start = max(row["start"], seen)
        yield from _between(text, seen, start, is_whole, is_first=seen == 0)
        yield Stretch(row["verdict"], text[start : row["end"]], row["number"])
        seen = max(row["end"], seen)
    yield from _between(text, seen, len(text), is_whole, is_first=not rows, is_last=True)


def _between(
    text: str, start: int, end: int, is_whole: bool, *, is_first: bool, is_last: bool = False
) -> Iterator[Stretch]:
    """Text without a span; of long documents only its ends."""
    head = 0 if is_first and not is_last else _CONTEXT
    tail = 0 if is_last else _CONTEXT
    if is_whole or end - start <= head + tail:
        if end > start:
            yield Stretch("text", text[start:end], None)
        return
    if head:
        yield Stretch("text", text[start : start + head], None)
    yield Stretch("left_out", f"{end - start - head - tail:,}", None)
    if tail:
        yield Stretch("text", text[end - tail : end], None)


def _documents(
    record: Mapping[str, Any],
    rows: list[dict[str, Any]],
    texts: Mapping[str, str],
    is_whole: bool,
) -> list[dict[str, Any]]:
    """Each document with its figures and its pieces."""
    found = []
    for summary in record["documents"]:
        own = [row for row in rows if row["document"] == summary["document"]]
        pieces = list(stretches(texts[summary["document"]], own, is_whole=is_whole))
        found.append({**summary, "pieces": pieces, "n_spans": len(own)})
    return found


@cache
def environment() -> jinja2.Environment:
    """Give the templates of an audit, its cards among them; every text is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("mnemoscope.audit"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {
        "percent": _percent,
        "interval": _interval,
        "count": lambda value: f"{value:,}",
        "chance": _chance,
        "marks": _marks,
        "figure": _figure,
    }
    made.globals |= {"exp": math.exp, "zip": zip, "token_rows": _token_rows}
    return made


def _ease(row: Mapping[str, Any]) -> float:
    """What spans are ordered by; a chance that nobody knows comes last."""
    chance = row["extraction_logprob"]
    return -math.inf if chance is None else float(chance)


def _percent(value: float) -> str:
    """A share as a percentage that does not round something to nothing."""
    if 0 < value < 0.0005:
        return "<\u00a00.1\u00a0%"
    return f"{100 * value:.1f}\u00a0%"  # no line breaks before the sign


def _interval(share: Mapping[str, float]) -> str:
    return f"{100 * share['low']:.1f} to {100 * share['high']:.1f} %"


def _chance(logprob: float | None) -> str:
    """A chance from its natural logarithm, readable however small."""
    if logprob is None:
        return "not asked"
    if logprob == -math.inf:
        return "never"
    if logprob > math.log(0.001):
        return f"{100 * math.exp(logprob):.1f} %"
    if logprob > math.log(1e-6):
        return f"1 in {math.exp(-logprob):,.0f}"
    exponent = f"{-logprob / math.log(10):.0f}"
    return "1 in 10" + exponent.translate(_SUPERSCRIPTS)


def _figure(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "not asked"
    return f"{value:,.{digits}f}" if abs(value) < 1e6 else f"{value:.1e}"


def _marks(text: str) -> list[Mark]:
    return mark_hidden(text)


def _token_rows(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The evidence of one span token by token."""
    n = len(row["suffix_pieces"])
    reference = row["reference_logprobs"] or [None] * n
    columns = zip(
        row["suffix_pieces"],
        row["continuation_pieces"],
        row["window_tokens"][-n:],
        row["continuation_tokens"],
        row["token_logprobs"] or [None] * n,
        reference,
        row["alternatives"] or [[]] * n,
        strict=True,
    )
    return [
        {
            "wanted": wanted,
            "written": written,
            "is_right": token == other,
            "logprob": logprob,
            "reference": beside,
            "ratio": None if beside is None or logprob is None else logprob - beside,
            "alternatives": [one for one in choices if one["text"] != wanted][:2],
        }
        for wanted, written, token, other, logprob, beside, choices in columns
    ]
