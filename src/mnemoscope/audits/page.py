"""What an audit is shown as: HTML pages that open offline, SARIF for editors, JUnit for builds.

The pages run no script and print; everywhere every text is escaped. `audit.html` shows all, with a
heat map of each document where a profile was made: a cell's colour is the largest chance of any
window whose suffix has a character in it, as in arXiv 2505.12546. `report.html`, two sheets of A4
for readers who know nothing of language models, quotes the strongest passages, says in words what
the figures are, and how to check them.
"""

import math
import re
import shlex
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree

import jinja2
import polars as pl
from markupsafe import Markup

from mnemoscope.audits.documents import Document, mark_hidden
from mnemoscope.audits.evidence import tries_needed
from mnemoscope.audits.origins import places_by_span
from mnemoscope.audits.rule import RECALL, covered
from mnemoscope.audits.settings import MOST_COPIED, NEEDED_EDGES, NEEDS, AuditSettings, flag_of
from mnemoscope.data.formats import table_ending
from mnemoscope.data.hub import parse_hub_name
from mnemoscope.stats import FEWEST_GROUPS
from mnemoscope.version import __version__
from mnemoscope.words import count, fill, part_words, percent, template_environment

MOST_CARDS = 200
"""Spans shown with their evidence; all of them stand in `spans.parquet`."""
WHOLE_UP_TO = 200_000  # characters of all documents together that are shown in full
_OPEN_UP_TO = 6_000  # characters of a document that stands unfolded: about three screens
_ANSWERS = 10  # that repeat a document, as shown
_CARDS_OPEN = 10
"""Passages of a verdict whose evidence stands unfolded."""
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_CONTEXT = 600  # characters around a span that are shown of longer ones
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write."""
_SOURCE = "https://arxiv.org/abs/2508.02573"
_HELP = (
    "Shown the text before this passage, the model writes the passage word for word. The verdict "
    "recall says that it does not follow from that text: no pattern goes on, and few of its tokens "
    "stand there already. The likely reason is that the passage stood in the training data.",
    "Was the model meant to be trained on this document? If not, find where the training data "
    "got it. If the passage is a common one, such as a licence, compare with a model that cannot "
    "have seen the document (--reference). audit.html shows the evidence of each passage, token by "
    "token; mnemoscope audit --verify FOLDER repeats it.",
)
_RULE = {
    "id": "recalled-passage",
    "name": "RecalledPassage",
    "shortDescription": {"text": "The model repeats this passage, and its prompt did not show it."},
    "fullDescription": {"text": _HELP[0]},
    "help": {
        "text": "\n\n".join(_HELP),
        "markdown": f"{_HELP[0]}\n\n**What to do.** {_HELP[1]}",
    },
    "helpUri": _SOURCE,
    "defaultConfiguration": {"level": "warning"},
    "properties": {"tags": ["memorization", "language-models"]},
}


class Stretch(NamedTuple):
    """A piece of a document as shown; of ``left_out`` the text says how many characters there are.

    `kind` is ``text``, ``guess``, ``recall``, ``near`` or ``left_out``, `number` that of the span.
    """

    kind: str
    text: str
    number: int | None


def render_page(
    record: Mapping[str, Any],
    frame: pl.DataFrame,
    texts: Mapping[str, str],
    tables: Mapping[str, pl.DataFrame] | None = None,
) -> str:
    """Render an audit from `audit.json`, its spans and each document's text by its name.

    `tables` are those beside the spans (`run.TABLES`) that were asked for. The same audit always
    gives the same page.
    """
    tables = tables or {}
    near, profile = tables.get("near"), tables.get("profile")
    maps, n_more_maps = ([], 0) if profile is None else heat_maps(profile, texts)
    rows = [{"number": number, **row} for number, row in enumerate(frame.iter_rows(named=True), 1)]
    # Recalled before guessed, the easiest first; a chance that nobody knows comes last.
    shown = sorted(
        rows,
        key=lambda row: (
            row["verdict"] != RECALL,
            math.inf if row["extraction_logprob"] is None else -row["extraction_logprob"],
            row["number"],
        ),
    )[:MOST_CARDS]
    is_whole = sum(map(len, texts.values())) <= WHOLE_UP_TO
    documents = []
    for summary in record["documents"]:
        own = [row for row in rows if row["document"] == summary["document"]]
        marked = sorted([*own, *_near_marks(near, summary["document"])], key=itemgetter("start"))
        pieces = list(stretches(texts[summary["document"]], marked, is_whole=is_whole))
        n_shown = sum(len(one.text) for one in pieces)
        is_open = n_shown <= _OPEN_UP_TO and (bool(marked) or len(record["documents"]) == 1)
        documents.append({**summary, "pieces": pieces, "n_spans": len(own), "is_open": is_open})
    return render(
        "audit",
        record=record,
        rows=rows,
        recalled=[row for row in shown if row["verdict"] == RECALL],
        guessed=[row for row in shown if row["verdict"] != RECALL],
        numbers_shown={row["number"] for row in shown},
        n_left_out=len(rows) - len(shown),
        near=None if near is None else near.rows(named=True),
        heat_maps=maps,
        ordinary=_repeating(tables.get("ordinary")),
        origins=places_by_span(tables["origins"]) if "origins" in tables else {},
        n_more_maps=n_more_maps,
        most_cards=MOST_CARDS,
        cards_open=_CARDS_OPEN,
        documents=documents,
    )


def render(name: str, **values: Any) -> str:
    """Fill a template of this room by its name, with the style sheet that bears the same name."""
    style = resources.files(__package__).joinpath(f"templates/{name}.css").read_text("utf-8")
    template = environment().get_template(f"{name}.html.j2")
    return fill(template, style=Markup(style), **values)


def _repeating(ordinary: pl.DataFrame | None) -> list[dict[str, Any]]:
    """Answers that repeat a document, the longest overlaps first."""
    if ordinary is None:
        return []
    rows = ordinary.filter(pl.col("overlap") > 0, pl.col("by") == "model")
    rows = rows.sort("overlap", descending=True, maintain_order=True)
    return rows.head(_ANSWERS).rows(named=True)


def _near_marks(near: pl.DataFrame | None, document: str) -> list[dict[str, Any]]:
    """Where near copies stand that touch no span, as `stretches` takes them."""
    if near is None:
        return []
    rows = near.filter(pl.col("document") == document, pl.col("strict_characters") == 0)
    return [
        {"start": row["start"], "end": row["end"], "verdict": "near", "number": None}
        for row in rows.iter_rows(named=True)
    ]


def stretches(text: str, rows: list[dict[str, Any]], *, is_whole: bool) -> Iterator[Stretch]:
    """Split a document's text at its spans, given in order; joined, the pieces are the text.

    Unless `is_whole`, only what is near a span is shown, and the rest is ``left_out``.
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


@cache
def environment(*first: str) -> jinja2.Environment:
    """Give the templates of an audit, its cards among them, behind those of other packages."""
    made = template_environment(*first, "mnemoscope.audits")
    made.filters |= {
        "percent": _percent,
        "interval": _interval,
        "count": count,
        "chance": chance,
        "large": _large,
        "shell": shlex.join,
        "marks": mark_hidden,
        "figure": _figure,
        "part_words": part_words,
    }
    made.globals |= {
        "exp": math.exp,
        "zip": zip,
        "settings_said": _settings_said,
        "token_rows": _token_rows,
        "n_needed_edges": NEEDED_EDGES,
        "most_copied": MOST_COPIED,
        "heat_levels": LEVELS,
        "heat_columns": COLUMNS,
        "tries_needed": tries_needed,
        "fewest_documents": FEWEST_GROUPS,
    }
    return made


def _interval(share: Mapping[str, Any]) -> str:
    if share.get("low") is None:
        return ""
    return f"{100 * share['low']:.1f} to {100 * share['high']:.1f}\u00a0%"


def _settings_said(record: Mapping[str, Any]) -> Iterator[list[str]]:
    """Settings as flags, each with its value; those that played no part are left out."""
    settings = record["settings"]
    for name, value in settings.items():
        whole = NEEDS.get(name)
        of_chat = name == "instruction" and "api" in record  # which may be one of chats
        is_asked = whole is None or settings.get(whole) or of_chat
        if value is not None and value is not False and is_asked:
            yield [flag_of(name), *([] if value is True else [str(value)])]


def _percent(value: float) -> str:
    """A share as a percentage that does not round something to nothing."""
    if 0 < value < 0.0005:
        return "<\u00a00.1\u00a0%"
    return f"{percent(value, unit=False)}\u00a0%"  # no line breaks before the sign


def chance(logprob: float | None) -> str:
    """A chance from its natural logarithm, readable however small."""
    if logprob is None:
        return "not asked"
    if logprob == -math.inf:
        return "never"
    if logprob > math.log(0.001):
        return f"{100 * math.exp(logprob):.1f} %"
    if logprob > math.log(1e-6):
        return f"1 in {math.exp(-logprob):,.0f}"
    return f"1 in {_power(-logprob / math.log(10))}"


def _power(exponent: float) -> str:
    """Ten to an exponent, in two digits."""
    whole = math.floor(exponent)
    digits = f"{10 ** (exponent - whole):.1f}"
    if digits == "10.0":
        whole, digits = whole + 1, "1.0"
    power = "10" + str(whole).translate(_SUPERSCRIPTS)
    return power if digits == "1.0" else f"{digits}\u00a0×\u00a0{power}"


def _large(n: int) -> str:
    """A count, as `chance` prints what it is the reverse of."""
    return count(n) if n < 1e6 else _power(math.log10(n))


def _figure(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "not asked"
    return f"{value:,.{digits}f}" if abs(value) < 1e6 else f"{value:.1e}"


def _token_rows(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    n = len(row["suffix_pieces"])
    columns = zip(
        row["suffix_pieces"],
        row["continuation_pieces"],
        row["window_tokens"][-n:],
        row["continuation_tokens"],
        row["token_logprobs"] or [None] * n,
        row["reference_logprobs"] or [None] * n,
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


def sarif_log(frame: pl.DataFrame, texts: Mapping[str, str]) -> dict[str, Any]:
    """Make a SARIF log of the spans called recall; guesses are no finding.

    Lines and columns count from 1, columns in characters; line ends are those of the text.

    Source: OASIS, Static Analysis Results Interchange Format 2.1.0.
    """
    lines = {
        name: [0, *(place + 1 for place, character in enumerate(text) if character == "\n")]
        for name, text in texts.items()
    }
    rows = frame.filter(pl.col("verdict") == RECALL).iter_rows(named=True)
    driver = {
        "name": "mnemoscope",
        "version": __version__,
        "informationUri": _SOURCE,
        "rules": [_RULE],
    }
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "results": [_result(row, lines[row["document"]]) for row in rows],
            }
        ],
    }


def _result(row: Mapping[str, Any], lines: list[int]) -> dict[str, Any]:
    region: dict[str, int] = {}
    for end in ("start", "end"):
        line = bisect_right(lines, row[end])
        region |= {f"{end}Line": line, f"{end}Column": row[end] - lines[line - 1] + 1}
    region |= {"charOffset": row["start"], "charLength": row["end"] - row["start"]}
    uri = _address(row["document"])
    return {
        "ruleId": _RULE["id"],
        "level": "warning",
        "message": {"text": f"Recalled, {row['tokens']} tokens: {row['reason']}."},
        "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}},
        ],
    }


def _address(document: str) -> str:
    """The URI of a document; a row of a table is the table, with the row as its fragment."""
    source, _, row = document.rpartition("#")
    is_row = row.isdecimal() and (table_ending(Path(source)) or parse_hub_name(source))
    name, fragment = (source, f"#{row}") if is_row else (document, "")
    path = PurePosixPath(name)
    return (path.as_uri() if path.is_absolute() else quote(name)) + fragment


def junit_xml(record: Mapping[str, Any], frame: pl.DataFrame) -> str:
    """Make a JUnit report: a document fails where a passage of it is called recall.

    Documents that were too short or not read are skipped tests. Characters that XML 1.0 forbids
    are written as U+FFFD.
    """
    recalled = frame.filter(pl.col("verdict") == RECALL)
    n_skipped = sum(row["is_too_short"] for row in record["documents"]) + len(record["skipped"])
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(f"mnemoscope audit of {record['model']['name']}"),
        tests=str(len(record["documents"]) + len(record["skipped"])),
        failures=str(recalled["document"].n_unique()),
        errors="0",
        skipped=str(n_skipped),
    )

    def case(document: str) -> ElementTree.Element:
        return ElementTree.SubElement(
            suite, "testcase", classname="mnemoscope.audits", name=_clean(document)
        )

    for row in record["documents"]:
        own = case(row["document"])
        rows = recalled.filter(pl.col("document") == row["document"])
        if row["is_too_short"]:
            ElementTree.SubElement(own, "skipped", message="shorter than one window")
        elif rows.height:
            share = percent(row["recalled"]["share"], unit=False)
            message = f"{rows.height} passages, {share} % recalled"
            failure = ElementTree.SubElement(
                own, "failure", type="recalled-passage", message=message
            )
            lines = (
                f"characters {one['start']} to {one['end']}: {one['reason']}\n    {one['text']!r}"
                for one in rows.iter_rows(named=True)
            )
            failure.text = _clean("\n".join(lines))
    for row in record["skipped"]:
        message = _clean(f"not read: {row['reason']}")
        ElementTree.SubElement(case(row["document"]), "skipped", message=message)
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


REPORT_FILE = "report.html"

_QUOTED = 3
_LONGEST, _MOST_LINES = 240, 5  # characters and lines of a quotation
_LINES_BEFORE = 2
_BEFORE = 110  # characters of what the model was shown
_DOCUMENTS = 6


def render_brief(
    record: Mapping[str, Any], spans: pl.DataFrame, tables: Mapping[str, pl.DataFrame]
) -> str:
    """Render the report from `audit.json`, `spans.parquet` and the tables beside it."""
    rows = [{"number": number, **row} for number, row in enumerate(spans.rows(named=True), 1)]
    recalled = sorted(
        (row for row in rows if row["verdict"] == RECALL),
        key=lambda row: (
            bool(row["reference_reproduces"]),
            -(-math.inf if row["extraction_logprob"] is None else row["extraction_logprob"]),
            row["number"],
        ),
    )
    return render(
        "brief",
        record=record,
        whole=record["summary"],
        quoted=[_quotation(row) for row in recalled[:_QUOTED]],
        n_recalled=len(recalled),
        has_third_ground=any(
            row[name] for row in rows for name in ("cnn_says", "grafts_say", "needs_say")
        ),
        n_also=sum(bool(row["reference_reproduces"]) for row in recalled),
        documents=record["documents"][:_DOCUMENTS],
        n_more=max(len(record["documents"]) - _DOCUMENTS, 0),
        origins=places_by_span(tables["origins"]) if "origins" in tables else None,
        n_placed=sum(bool(row["origin_count"]) for row in recalled),
    )


def _quotation(row: dict[str, Any]) -> dict[str, Any]:
    """A passage with what was shown before it, both shortened."""
    begin = row["suffix_start"] - row["window_start"]
    shown = row["prefix_text"][:begin]
    text = "".join(row["continuation_pieces"])
    # Of few lines as well: three passages of many short ones would not fit on the two sheets.
    before = "\n".join(shown[-_BEFORE:].split("\n")[-_LINES_BEFORE:])
    quoted = "\n".join(text[:_LONGEST].split("\n")[:_MOST_LINES])
    return {
        **row,
        "shown": ("…" if len(before) < len(shown) else "") + before,
        "quoted": quoted + ("…" if len(quoted) < len(text) else ""),
    }


TRIES = (1, 10, 100, 1_000, 10_000)
"""Answers of which a profile says how much of the text they bring out."""

LEVELS = (0.001, 0.01, 0.1, 0.5)
"""Chances of one try from which on a cell takes the next colour."""

COLUMNS = 60
"""Cells of a line."""

_MOST_CELLS = 900  # of a document
_MOST_DOCUMENTS = 20
_LIKELIEST = 5
_LONGEST_SHOWN = 160  # characters


def summarize_profile(
    frame: pl.DataFrame, documents: Sequence[Document], settings: AuditSettings
) -> dict[str, Any]:
    """What `audit.json` says of a profile: how much text so many answers bring out.

    A character is brought out by n answers where it stands in the suffix of a window that one of
    them is with a chance of at least `settings.probability`.
    """
    n_characters = sum(len(document.text) for document in documents)
    needed = [tries_needed(one, settings.probability) for one in frame["extraction_logprob"]]
    spots: dict[str, list[tuple[int, int, int | None]]] = {}
    columns = frame["document"], frame["suffix_start"], frame["end"], needed
    for name, *spot in zip(*columns, strict=True):
        spots.setdefault(name, []).append(tuple(spot))
    rows = []
    for tries in TRIES:
        n = sum(
            covered(
                (start, end)
                for start, end, one in spots.get(document.name, ())
                if one is not None and one <= tries
            )
            for document in documents
        )
        rows.append({"tries": tries, "characters": n, "share": n / n_characters})
    return {
        "windows": frame.height,
        "prefix": settings.profile_prefix,
        "probability": settings.probability,
        "extractable": rows,
    }


class Cell(NamedTuple):
    """Characters `start` up to `end`: the logarithm of the largest chance, and its colour.

    The level counts the limits in `LEVELS` that the chance reaches; None where nothing was asked.
    """

    start: int
    end: int
    logprob: float | None
    level: int | None


class HeatMap(NamedTuple):
    """One document: lines of cells, rows of the likeliest windows, and what those ask for."""

    document: str
    lines: list[list[Cell]]
    likeliest: list[dict[str, Any]]
    texts: list[str]


def heat_maps(profile: pl.DataFrame, texts: Mapping[str, str]) -> tuple[list[HeatMap], int]:
    """The heat maps of those documents with the largest chances, and how many are left out."""
    best = (
        profile.group_by("document", maintain_order=True)
        .agg(pl.col("extraction_logprob").max())
        .sort("extraction_logprob", descending=True, maintain_order=True)
    )
    names = best["document"].to_list()
    found = []
    for name in names[:_MOST_DOCUMENTS]:
        rows = profile.filter(pl.col("document") == name)
        likeliest = _likeliest(rows)
        parts = [texts[name][row["suffix_start"] : row["end"]] for row in likeliest]
        cells = _cells(rows, len(texts[name]))
        lines = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
        shown = [part[:_LONGEST_SHOWN] for part in parts]
        found.append(HeatMap(name, lines, likeliest, shown))
    return found, len(names) - len(found)


def _cells(rows: pl.DataFrame, n_characters: int) -> list[Cell]:
    width = max(-(-n_characters // min(_MOST_CELLS, max(rows.height, 1))), 1)
    values: list[float | None] = [None] * -(-n_characters // width)
    spots = rows.select("suffix_start", "end", "extraction_logprob").iter_rows()
    for start, end, value in spots:
        for cell in range(start // width, (end - 1) // width + 1):
            own = values[cell]
            values[cell] = value if own is None else max(own, value)
    return [
        Cell(number * width, min((number + 1) * width, n_characters), value, _level(value))
        for number, value in enumerate(values)
    ]


def _level(logprob: float | None) -> int | None:
    return None if logprob is None else sum(logprob >= math.log(one) for one in LEVELS)


def _likeliest(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """The windows of the largest chances whose suffixes do not overlap."""
    found: list[dict[str, Any]] = []
    possible = rows.filter(pl.col("extraction_logprob") >= math.log(LEVELS[0]))
    order = possible.sort("extraction_logprob", descending=True, maintain_order=True)
    for row in order.iter_rows(named=True):
        if all(
            row["end"] <= one["suffix_start"] or one["end"] <= row["suffix_start"] for one in found
        ):
            found.append(row)
        if len(found) == _LIKELIEST:
            break
    return found
