"""What an audit is shown as: `audit.html`, which opens offline, runs no script, and prints.

Every text is escaped. What a question adds is drawn by its template (`questions`).
"""

import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from itertools import chain, groupby, pairwise
from operator import attrgetter
from typing import Any, NamedTuple

import jinja2
import polars as pl

from mnemoscope.audits.asking import Choice
from mnemoscope.audits.chance import tries_needed
from mnemoscope.audits.documents import titles_of
from mnemoscope.audits.heat import COLUMNS, LEVELS
from mnemoscope.audits.passages import (
    HIDDEN,
    THIRD,
    in_order,
    of_each_document,
    right_of,
    shares_of,
    shares_said,
    stretch_of,
    whole_passages,
    wordings_said,
)
from mnemoscope.audits.questions import QUESTIONS, settings_class
from mnemoscope.audits.records import (
    LISTED,
    WINDOWS_LINES,
    AuditRecord,
    copies_said,
    listed_documents,
    most_first,
    near_alone,
    silent_documents,
)
from mnemoscope.audits.repeats import with_repeats
from mnemoscope.audits.rule import GUESS, MOST_COPIED, RECALL, UNDECIDED, VERDICTS
from mnemoscope.audits.settings import checked, flag_of
from mnemoscope.audits.shares import Passage, near_said, share_beside, share_words
from mnemoscope.audits.verdict import (
    came_out,
    distance_said,
    error_rate,
    how_tested,
    is_control,
    model_title,
    read_said,
    unread_said,
)
from mnemoscope.report import style
from mnemoscope.stats import FEWEST_GROUPS
from mnemoscope.words import JOINT, MINUS, count, first_words, from_word

MOST_CARDS = 200
"""Spans shown with their evidence; all of them stand in `spans.parquet`."""
WHOLE_UP_TO = 200_000  # characters of all documents together that are shown in full
_OPEN_UP_TO = 6_000  # characters of a document that stands unfolded: about three screens
_CARDS_OPEN = 10
"""Passages of a verdict whose evidence stands unfolded."""
_STRONGEST = 3  # passages that are quoted in the report, and printed of few documents
_MOST_PRINTED = 7  # passages that are printed: one of each document, and one that is open
_ROWS_A_CARD, _ROWS_A_SHEET = 4, 38  # documents in print, each with a checksum besides
_PART = 24  # characters of a name without a separator, after which a line may break
_BYTES = "\ufffd"  # stands for bytes that are no whole character
_ROWS = 10  # of a table that has no view of its own
_TITLES = {RECALL: "Recalled", UNDECIDED: "Cannot be told", GUESS: "Guessed"}
_MARKS = {UNDECIDED: "undecided"}  # classes of the style sheet, where not called as the kind is
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_NO_TEXT = {"document", "verdict", "reason", "kind", "by", "broken_by", "rule_says"}
_NO_TEXT |= {"found", "in", "unit", "reference_says", "grafts_say", "cnn_says", "needs_say"}
"""Columns whose strings hold nothing of a text: redacted pages show them."""
_CONTEXT = 600  # characters around a span that are shown of longer ones


class Part(NamedTuple):
    """A piece of a passage, and what the model wrote in its place (None: the same)."""

    text: str
    written: str | None
    verdict: str = ""


class Stretch(NamedTuple):
    """A piece of a document as shown; of ``left_out`` the text says how many characters there are.

    `kind` is ``text``, a verdict, ``near`` or ``left_out``, `number` that of the span; `parts` are
    the text of a passage in pieces.
    """

    kind: str
    text: str
    number: int | None = None
    parts: Sequence[Part] = ()


def render_page(
    record: AuditRecord,
    frame: pl.DataFrame,
    texts: Mapping[str, str],
    tables: Mapping[str, pl.DataFrame] | None = None,
) -> str:
    """Render an audit from `audit.json`, its passages and each document's text by its name.

    `tables` are those of the questions that were asked. The same audit always gives the same page.
    """
    tables = tables or {}
    rows = passage_rows(record, frame)
    shown = in_order(rows)[:MOST_CARDS]
    is_whole = sum(map(len, texts.values())) <= WHOLE_UP_TO
    ordered = most_first(record["documents"])
    listed = {row["document"] for row in (listed_documents(record) or ordered)[:LISTED]}
    documents, n_characters = [], 0
    for summary in ordered:
        own = [stretch_of(row) for row in rows if row["document"] == summary["document"]]
        near = _near_marks(tables.get("near"), summary["document"])
        marked = sorted([*own, *near], key=attrgetter("start"))
        pieces = list(stretches(texts[summary["document"]], marked, is_whole=is_whole))
        n_shown = sum(len(one.text) for one in pieces)
        n_characters += n_shown
        is_open = n_shown <= _OPEN_UP_TO and (bool(marked) or len(record["documents"]) == 1)
        shown_as = {"pieces": pieces, "n_spans": len(own), "is_open": is_open}
        documents.append({**summary, **shown_as, "is_printed": summary["document"] in listed})
    names = [row["document"] for row in ordered]
    sections = {
        _TITLES[one]: of_each_document([row for row in shown if row["verdict"] == one], names)
        for one in VERDICTS
    }
    n_found = len({row["document"] for row in shown})
    room = max(_MOST_PRINTED - len(listed) // _ROWS_A_CARD, 2)
    most = min(max(n_found + 1, _STRONGEST), room)  # one of them cannot be told
    return render(
        "audit",
        record=record,
        views={name: view_of(name, table, texts) for name, table in tables.items()},
        rows=rows,
        sections=sections,
        numbers_shown={row["number"] for row in shown},
        n_left_out=len(rows) - len(shown),
        cards_open=_CARDS_OPEN,
        printed=[row["number"] for row in strongest(chain(*sections.values()), most)],
        documents=documents,
        summary_sheets=math.ceil(2 + len(listed) / _ROWS_A_SHEET),
        card_sheets=round(2 + len(shown) / 5),
        all_sheets=_sheets(len(shown), n_characters),
    )


def passage_rows(record: AuditRecord, frame: pl.DataFrame) -> Sequence[Mapping[str, Any]]:
    """Whole passages as pages show them; `hidden` on pages that are redacted."""
    rows = with_repeats(whole_passages(frame))
    return [hidden(one) for one in rows] if "redacted" in record else rows


def hidden(value: Any, name: str = "") -> Any:
    """Values of a table, each character but white space `HIDDEN` unless they are names or verdicts.

    >>> hidden([{"document": "a.txt", "text": "Ah, no."}])
    [{'document': 'a.txt', 'text': '███ ███'}]
    """
    if isinstance(value, Mapping):
        return {key: hidden(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [hidden(one, name) for one in value]
    if isinstance(value, str) and name not in _NO_TEXT:
        return re.sub(r"\S", HIDDEN, value)
    return value


def _sheets(n_cards: int, n_characters: int) -> int:
    """About how many sheets everything is: measured on audits of 2 to 42 passages, to a third.

    Every passage in short is a fifth of a sheet, beside two: measured on 73, which take 17.
    """
    return max(round(3 + 1.5 * n_cards + n_characters / 3000), 3)


def strongest(rows: Iterable[Mapping[str, Any]], most: int = _STRONGEST) -> list[Mapping[str, Any]]:
    """The first of passages that are in order, with one that cannot be told if there is."""
    ordered = [*rows]
    recalled, undecided, rest = (
        [row for row in ordered if row["verdict"] == one] for one in VERDICTS
    )
    return [*recalled[: most - bool(undecided)], *undecided, *rest][:most]


class Quoted(NamedTuple):
    """A piece of the text around a passage: what the document has there.

    `written` is what the model wrote in its place (None: the same), `is_shown` whether the model
    had it before it, `is_passage` whether it lies in the passage, and then its `verdict`.
    """

    text: str
    written: str | None
    is_shown: bool
    is_passage: bool
    verdict: str = ""


def quoted(row: Mapping[str, Any]) -> Iterator[Quoted]:
    """The passage and the window that speaks for it, piece by piece, in the document's order.

    A passage may reach beyond its window: what other windows brought out is part of it.
    """
    start, end, place = row["start"], row["end"], row["window_start"]
    borders = {at for one in row["pieces"] for at in (one["start"], one["end"])}
    if start < place:
        yield from (_in_passage(one) for one in parts_of(row, end=place))
    for text, written, is_shown in _window(row):
        cuts = [0, *sorted(one - place for one in borders if place < one < place + len(text))]
        for first, last in pairwise([*cuts, len(text)] if written is None else [0, len(text)]):
            inside = place + first < end and place + last > start
            verdict = _verdict_at(row, place + first) if inside else ""
            yield Quoted(text[first:last], written, is_shown, inside, verdict)
        place += len(text)
    if end > place:
        yield from (_in_passage(one) for one in parts_of(row, start=place))


def _window(row: Mapping[str, Any]) -> Iterator[tuple[str, str | None, bool]]:
    """What a window shows, then what was right in a row and each other token, as `Quoted` has it.

    Of a character that tokens share each holds bytes (U+FFFD): it is read in the passage.
    """
    yield row["prefix_text"], None, True
    place = row["window_start"] + len(row["prefix_text"])
    for is_right, some in groupby(_tokens(row), key=attrgetter("is_right")):
        tokens = list(some)
        text = "".join(one.wanted for one in tokens)
        if is_right:
            parts = map(re.escape, re.split(f"{_BYTES}+", text))
            in_passage = row["text"][place - row["start"] :] if place >= row["start"] else ""
            found = re.match("(?s:.+?)".join(parts), in_passage)
            text = found[0] if found else text
            yield text, None, False
        else:
            yield from ((one.wanted, one.written, False) for one in tokens)
        place += len(text)


def _in_passage(part: Part) -> Quoted:
    return Quoted(part.text, part.written, False, True, part.verdict)


def _verdict_at(whole: Mapping[str, Any], place: int) -> str:
    """The verdict of the piece of a passage that a character stands in, or begins before."""
    own = next((one for one in whole["pieces"] if place < one["end"]), whole["pieces"][-1])
    return str(own["verdict"])


def parts_of(
    row: Mapping[str, Any], *, start: int | None = None, end: int | None = None
) -> Iterator[Part]:
    """A passage, or what of it stands from `start` to `end`, in pieces that were written or not."""
    own = stretch_of(row)._replace(start=start or row["start"], end=end or row["end"])
    for one in own.pieces:
        text = row["text"][one.start - row["start"] : one.end - row["start"]]
        yield Part(text, one.written, one.verdict)


def view_of(name: str, table: pl.DataFrame, texts: Mapping[str, str]) -> Any:
    """What the template of a question is given of its table: rows, unless its `show` says else."""
    question = QUESTIONS[name]
    show = question.part("show")
    found = show(table, texts) if show else table if question.template else table.head(_ROWS)
    return found.rows(named=True) if isinstance(found, pl.DataFrame) else found


def _parts(kind: str) -> list[tuple[str, Callable[..., str]]]:
    """The macros of one kind of all questions that have one, by the questions' names."""
    found = []
    for name, question in QUESTIONS.items():
        template = environment().get_template(question.template or "plain.html.j2")
        macro = getattr(template.module, kind, None)
        if macro is not None:
            found.append((name, macro if question.template else partial(macro, name, question)))
    return found


def render(name: str, **values: Any) -> str:
    """Fill a template of this room by its name, with the style sheet that bears the same name."""
    template = environment().get_template(f"{name}.html.j2")
    values["version"] = values["record"]["versions"]["mnemoscope"]
    return style.fill(template, style=style.asset(f"{name}.css", "mnemoscope.audits"), **values)


def _near_marks(near: pl.DataFrame | None, document: str) -> list[Passage]:
    """Where near copies stand that touch no span."""
    if near is None:
        return []
    rows = near.filter(pl.col("document") == document, pl.col("strict_characters") == 0)
    return [
        Passage(start, end, "near", otherwise)
        for start, end, otherwise in rows.select("start", "end", "otherwise").rows()
    ]


def stretches(text: str, rows: Sequence[Passage], *, is_whole: bool) -> Iterator[Stretch]:
    """Split a document's text at its spans, given in order; joined, the pieces are the text.

    Unless `is_whole`, only what is near a span is shown, and the rest is ``left_out``.
    """
    seen = 0
    for row in rows:
        # A character of several bytes may end one span and begin the next; it is shown once.
        start = max(row.start, seen)
        yield from _between(text, seen, start, is_whole, is_first=seen == 0)
        pieces = row._replace(start=start).pieces
        parts = [Part(text[one.start : one.end], one.written, one.verdict) for one in pieces]
        yield Stretch(row.verdict, text[start : row.end], row.number, parts)
        seen = max(row.end, seen)
    yield from _between(text, seen, len(text), is_whole, is_first=not rows, is_last=True)


def _between(
    text: str, start: int, end: int, is_whole: bool, *, is_first: bool, is_last: bool = False
) -> Iterator[Stretch]:
    """Text without a span; of long documents only its ends."""
    head = 0 if is_first and not is_last else _CONTEXT
    tail = 0 if is_last else _CONTEXT
    if is_whole or end - start <= head + tail:
        if end > start:
            yield Stretch("text", text[start:end])
        return
    if head:
        yield Stretch("text", text[start : start + head])
    yield Stretch("left_out", f"{end - start - head - tail:,}")
    if tail:
        yield Stretch("text", text[end - tail : end])


class Heading(NamedTuple):
    """A document as headings call it, its characters, and the file of its text if one is kept."""

    title: str
    text_file: str | None
    length: int

    def characters(self, start: int, end: int) -> str:
        """Where a passage stands, as page, report and app say it."""
        return f"characters {start:,} to {end:,}" + (f" of {self.text_file}" * bool(self.text_file))


def heading_of(record: AuditRecord, document: str) -> Heading:
    """The heading of one document of an audit."""
    rows = record["documents"]
    facts = ((row["document"], row["text_file"], row["characters"]) for row in rows)
    return _headings(tuple(facts))[document]


@cache
def _headings(documents: tuple[tuple[str, str | None, int], ...]) -> dict[str, Heading]:
    titles = titles_of([name for name, *_ in documents])
    return {name: Heading(titles[name], file, length) for name, file, length in documents}


def passage_tests(row: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The tests that were asked of a passage: name, what it says, and what it is shown as.

    Of grafts it is what they found, for what was learned often survives most of them: only beside a
    reference that writes the passage too is that a sign of a guess. Nor does any other third test
    count where the reference does not write it (`decide`).
    """
    names = {"rule_says": "rule", "reference_says": "reference", **THIRD}
    for column, name in names.items():
        if says := row[column]:
            shown = says
            is_idle = column in THIRD and says == GUESS and row["reference_says"] != GUESS
            if column == "grafts_say":
                shown = f"still comes out after {row['grafts_survived']} of {row['grafts']}"
                shown += ", as what was learned often does: no sign against recall" * is_idle
            elif is_idle and row["verdict"] != GUESS:
                has_reference = row["reference_says"] is not None
                shown = "guess (not counted: "
                shown += "the reference does not write it)" if has_reference else "no reference)"
            yield name.removeprefix("the "), says, shown


def allowed(record: AuditRecord) -> str:
    """How many of the tokens that were asked for must be right, in words."""
    settings = checked(settings_class(), **record["settings"])
    n, wrong = settings.suffix, settings.n_allowed
    least = f"at least {n - wrong} of {n}" if wrong else f"all {n}"
    return f"{least} {_unit_of(record)} right, each in its place"


@cache
def environment(*first: str) -> jinja2.Environment:
    """Give the templates of an audit, its cards among them, behind those of other packages."""
    made = style.environment(*first, "mnemoscope.audits")
    made.filters |= {
        "share": partial(share_words, space=JOINT),
        "ends": _ends,
        "beside": share_beside,
        "mark": lambda kind: _MARKS.get(kind, kind),
        "name_parts": _name_parts,
        "first_words": first_words,
        "from_word": from_word,
        "chance": chance,
        "large": _large,
        "times": times,
        "shell": shlex.join,
        "figure": _figure,
        "moment": _moment,
        "joined": _joined,
        "tested": lambda record: _joined(error_rate(record["verdict"], record.get("unread"))),
        "how_tested": how_tested,
        "begun": lambda text: text[0].upper() + text[1:],
    }
    made.globals |= {
        "zip": zip,
        "parts": _parts,
        "unit_of": _unit_of,
        "settings_said": _settings_said,
        "heading_of": heading_of,
        "allowed": allowed,
        "passage_tests": passage_tests,
        "parts_of": parts_of,
        "model_title": model_title,
        "windows_lines": WINDOWS_LINES,
        "copies_said": copies_said,
        "silent_documents": silent_documents,
        "near_said": near_said,
        "near_alone": near_alone,
        "unread_said": unread_said,
        "read_said": read_said,
        "came_out": came_out,
        "token_rows": _token_rows,
        "quoted": quoted,
        "right_of": right_of,
        "shares_of": shares_of,
        "shares_said": shares_said,
        "wordings_said": wordings_said,
        "is_control": is_control,
        "distance_said": distance_said,
        "most_cards": MOST_CARDS,
        "most_listed": LISTED,
        "most_copied": MOST_COPIED,
        "heat_levels": LEVELS,
        "heat_columns": COLUMNS,
        "tries_needed": tries_needed,
        "fewest_documents": FEWEST_GROUPS,
    }
    return made


def _joined(text: str) -> str:
    """A sentence whose percentages do not break before their sign."""
    return text.replace(" %", f"{JOINT}%")


def _name_parts(name: str) -> list[str]:
    """A name in parts between which a line may break: at its separators, or where it has none.

    >>> _name_parts("in/ldap-directory.txt")
    ['in/', 'ldap-', 'directory', '.txt']
    """
    parts = re.split(r"(?<=[-_/\\\\])|(?=[.#])", name)
    return [one[at : at + _PART] for one in parts for at in range(0, len(one), _PART)]


def _moment(date: str) -> str:
    """A date of `audit.json` in words: `30 November 2026, 21:55 UTC`."""
    found = datetime.fromisoformat(date)
    return f"{found.day} {found:%B %Y, %H:%M} UTC"


def _ends(share: Mapping[str, Any]) -> str:
    if share.get("low") is None:
        return ""
    if not share["share"]:
        return f"at most {share_words(share['high'], space=JOINT)}"
    return f"{100 * share['low']:.1f} to {100 * share['high']:.1f}{JOINT}%"


def _settings_said(record: AuditRecord) -> Iterator[list[str]]:
    """Settings as flags, each with its value; those that played no part are left out."""
    settings = record["settings"]
    in_chat = settings["chat_template"] or ("api" in record and record["api"]["settings"]["chat"])
    off = set() if in_chat else {"instruction"}
    for question in QUESTIONS.values():
        if question.fields and not settings.get(question.fields[0]):
            off |= {*question.fields[1:]}
    for name, value in settings.items():
        if value is not None and value is not False and name not in off:
            yield [flag_of(name), *([] if value is True else [str(value)])]


def _unit_of(record: AuditRecord) -> str:
    """What windows are counted in."""
    is_words = "api" in record and record["api"]["pieces"] == "words"
    return "words" if is_words else "tokens"


def chance(logprob: float | None) -> str:
    """A chance from its natural logarithm, readable however small."""
    if logprob is None:
        return "not asked"
    if logprob == -math.inf:
        return "never"
    if logprob > math.log(0.001):
        return f"{100 * math.exp(logprob):.1f}{JOINT}%"
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
    said = f"{abs(value):,.{digits}f}" if abs(value) < 1e6 else _power(math.log10(abs(value)))
    return MINUS * (value < 0) + said


def times(logarithm: float) -> str:
    """How many times likelier, from the natural logarithm of a ratio.

    >>> times(2.0), times(9.5), times(-7.0)
    ('7.39 times', '13,360 times', '0.00091 times')
    >>> times(20.0), times(-20.0)
    ('more than a million times', 'less than a millionth')
    """
    if abs(logarithm) > math.log(1e6):
        return "more than a million times" if logarithm > 0 else "less than a millionth"
    ratio = math.exp(logarithm)
    digits = 2 if ratio < 100 else 0
    return f"{ratio:,.{digits}f} times" if ratio >= 0.1 else f"{ratio:.2g} times"


class TokenRow(NamedTuple):
    """A token that was asked for, what was written in its place, and how likely it is."""

    wanted: str
    written: str
    is_right: bool
    logprob: float | None
    reference: float | None
    ratio: float | None
    alternatives: list[Choice]


class _Token(NamedTuple):
    wanted: str
    written: str
    is_right: bool


def _tokens(row: Mapping[str, Any]) -> list[_Token]:
    """Each token that was asked for, and what was written in its place."""
    n = len(row["suffix_pieces"])
    columns = zip(
        row["suffix_pieces"],
        row["continuation_pieces"],
        row["window_tokens"][-n:],
        row["continuation_tokens"],
        strict=True,
    )
    return [_Token(wanted, written, own == other) for wanted, written, own, other in columns]


def _token_rows(row: Mapping[str, Any]) -> list[TokenRow]:
    n = len(row["suffix_pieces"])
    columns = zip(
        _tokens(row),
        row["token_logprobs"] or [None] * n,
        row["reference_logprobs"] or [None] * n,
        row["alternatives"] or [[]] * n,
        strict=True,
    )
    return [
        TokenRow(
            *token,
            logprob,
            beside,
            None if beside is None or logprob is None else logprob - beside,
            [one for one in choices if one["text"] != token.wanted][:2],
        )
        for token, logprob, beside, choices in columns
    ]
