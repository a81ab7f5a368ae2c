"""Does a text count (1, 2, 3, ...) or repeat (abcabcabc)? The two questions of Reconstruct.

`published` gives the labels of the published data set, its quirks included; `strict` mends three:
a triple must be a progression, a difference belongs to the period it was found at, and it must be
seen in three elements of its own column.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from mnemoscope.errors import UserError, nearest
from mnemoscope.progress import track

# Split a text into words and whole numbers, as the published incrementing test sees it.

_LOOKED_AT = 24  # more words seldom tell more
_MOST_DIGITS = 4300  # Python refuses to read longer decimal numbers
_HAS_DIGIT = re.compile(r"\d")
_NEEDS_ESCAPE = re.compile(r"""[\\'"]""")
_NOT_PLAIN = re.compile(r"[+-]\d|\d[_xXoObB]")  # cheap; only these words can change in step 2
_LONE_NUMBER = re.compile(r"(?<![^ ])[+-]?\d\w*(?![^ ])")
_ELEMENT = re.compile(r"\d+|[^\d ]+")


def split_counters(text: str) -> list[str]:
    r"""Words and digit runs of a text, in order; nothing when it holds no digit at all.

    1. Runs of whitespace become one blank, which separates words.
    2. A word that is a whole number in Python's notation (hexadecimal, octal, binary,
       underscores, a sign) becomes decimal: ``0x10`` is 16, but ``0x10,`` is no such word.
    3. What is not printable is escaped, which may bring digits; then ``\n``, ``\x``,
       backslashes and quotes are deleted.
    4. Each word is split around its digit runs. A decimal point splits, too.

    >>> split_counters("row 0x10: -3.5")
    ['row', '0', 'x', '10', ':', '-', '3', '.', '5']
    """
    words = " ".join(text.split())
    if not (_HAS_DIGIT.search(words) or not words.isprintable()):
        return []
    if _NOT_PLAIN.search(words):
        words = _LONE_NUMBER.sub(_to_decimal, words)
    return _ELEMENT.findall(_delete_escapes(words))


def has_lone_words(text: str) -> bool:
    """True only of texts that cannot be incrementing; tells most prose and code at little cost.

    A word of letters alone is an element as it stands. In a text that counts, a word other than
    the first and the last element stands in a column of equal ones, so three that the text holds
    once are at least one too many.

    >>> has_lone_words("one two three two one four"), has_lone_words("1 one 2 one 3 one")
    (True, False)
    """
    n_alone = 0
    for word in text.split(None, _LOOKED_AT):
        if word.isalpha() and text.count(word) == 1:
            n_alone += 1
            if n_alone == 3:
                return True
    return False


def is_number(element: str) -> bool:
    """True of an element that is a decimal number short enough to be read."""
    return element[0].isdecimal() and len(element) <= _MOST_DIGITS


def _to_decimal(match: re.Match[str]) -> str:
    """A lone whole number in decimal; anything else stays."""
    word = match[0]
    try:
        return str(int(word, 0))
    except ValueError:
        return word


def _delete_escapes(words: str) -> str:
    if words.isprintable() and not _NEEDS_ESCAPE.search(words):
        return words
    escaped = repr(words)
    for mark in (r"\n", r"\x", "\\", "'", '"'):
        escaped = escaped.replace(mark, "")
    return escaped


PatternMode = Literal["published", "strict"]
_MODES = get_args(PatternMode)
_Element = int | str
_N_WORD_CHARACTERS = 0x10FFFF


class Pattern(NamedTuple):
    """What was found in one text; never both."""

    is_incrementing: bool
    is_repeating: bool


def find_pattern(text: str, mode: PatternMode = "published") -> Pattern:
    """Say whether a text is incrementing or repeating.

    The text is split into words and whole numbers (`split_counters`). It is incrementing when, its
    first and last element left out, these stand in p columns (every p-th element), each column one
    constant word or numbers of one constant difference, and some difference is not zero. It is
    repeating when it is not incrementing and its characters, the first and the last left out, have
    a period of at most half their number. Raises UserError: another mode.

    Source: semantic-memorization (Prashanth et al. 2024, arXiv 2406.17746), in the form that
        made the published data set of 64 decoded tokens. Runs of more than 4,300 digits, which
        stopped it, are words.

    >>> find_pattern("1, 2, 3, 4, 5, 6")
    Pattern(is_incrementing=True, is_repeating=False)
    """
    check_mode(mode)
    if not has_lone_words(text) and _is_incrementing(text, is_strict=mode == "strict"):
        return Pattern(is_incrementing=True, is_repeating=False)
    return Pattern(is_incrementing=False, is_repeating=_is_repeating(text))


def check_mode(mode: str) -> None:
    """Refuse a mode that there is not, naming the nearest."""
    if mode not in _MODES:
        raise UserError(
            f"patterns: no mode '{mode}'.{nearest(mode, _MODES)} Choose published or strict."
        )


def find_smallest_period(text: str) -> int | None:
    """The smallest p, at most half the length, with ``text[p:] == text[:-p]``; None without one.

    Where the text has period p, its first half (rounded up) stands at p again, so `str.find`
    names the few candidates. When the first one, f, fails, so do its multiples, and by the
    theorem of Fine and Wilf any other starts beyond the length of the half minus f. Linear time.
    """
    half = text[: len(text) - len(text) // 2]
    first = period = text.find(half, 1)
    while period != -1 and not text.startswith(text[period:]):
        period = text.find(half, max(period + 1, len(half) - first))
    return None if period == -1 else period


def _is_repeating(text: str) -> bool:
    """The core test on characters in closed form; fewer than four never pass."""
    core = text[1:-1] if len(text) > 4 else text
    return len(text) >= 4 and find_smallest_period(core) is not None


def _is_incrementing(text: str, *, is_strict: bool) -> bool:
    """The core test on words and numbers, passed with a difference that is not zero."""
    elements = split_counters(text)
    if len(elements) < 3:
        return False
    core = elements[1:-1] if len(elements) > 4 else elements
    period = find_smallest_period(_kinds(core)) if len(elements) > 3 else 1
    if period is None or not any(map(is_number, core)):
        return False
    numbers: list[_Element] = [int(piece) if is_number(piece) else piece for piece in core]
    if len(elements) == 3:
        return _is_counting_triple(numbers, is_strict=is_strict)
    return _has_counting_columns(numbers, period, is_strict=is_strict)


def _kinds(core: list[str]) -> str:
    """One character an element: the same for all numbers, one for each word (or for several)."""
    known: dict[str, str] = {}
    return "".join(
        "\0"
        if is_number(piece)
        else known.setdefault(piece, chr(1 + len(known) % _N_WORD_CHARACTERS))
        for piece in core
    )


def _is_counting_triple(triple: list[_Element], *, is_strict: bool) -> bool:
    """Three numbers that change evenly; as published, any that do not rise ever faster."""
    first, second, third = triple
    if isinstance(first, str) or isinstance(second, str) or isinstance(third, str):
        return False
    bend = third - 2 * second + first
    return third != second and (bend == 0 if is_strict else bend <= 0)


def _has_counting_columns(core: list[_Element], smallest: int, *, is_strict: bool) -> bool:
    """Try the periods in order; the first one at which all columns hold decides, if it can.

    By the theorem of Fine and Wilf the periods up to half the length are the multiples of the
    smallest. The column of the element that broke an earlier period is asked first.
    """
    suspect = 0
    for period in range(smallest, len(core) // 2 + 1, smallest):
        if _find_break(core, period, [suspect % period]) is not None:
            continue
        broken = _find_break(core, period, range(period))
        if broken is not None:
            suspect = broken
            continue
        verdict = _judge(core, period, is_strict=is_strict)
        if verdict is not None:
            return verdict
    return False


def _find_break(core: list[_Element], period: int, columns: Iterable[int]) -> int | None:
    """Position of an element that does not continue its column; None where all columns hold."""
    for column in columns:
        row = _first_odd_one(core[column::period])
        if row is not None:
            return column + row * period
    return None


def _first_odd_one(column: list[_Element]) -> int | None:
    """First element that continues neither a constant word nor a progression of integers."""
    first, second = column[:2]
    if isinstance(first, str) or isinstance(second, str):
        return next((row for row, element in enumerate(column) if element != first), None)
    step = second - first
    expected = second
    for row, element in enumerate(column[2:], start=2):
        expected += step
        if element != expected:
            return row
    return None


def _judge(core: list[_Element], period: int, *, is_strict: bool) -> bool | None:
    """What a period at which all columns hold says; None: ask the next period."""
    steps = [_step(core, column, period) for column in range(period)]
    n_seen_thrice = max(len(core) - 2 * period, 0)  # the columns with three elements or more
    if is_strict:
        has_step, is_seen = any(steps), any(steps[:n_seen_thrice])
    else:
        has_step = any(steps) or _has_stale_step(core, period)
        is_seen = any(isinstance(element, int) for element in core[:n_seen_thrice])
    if not has_step:
        return False
    return True if is_seen else None


def _step(core: list[_Element], column: int, period: int) -> int:
    """Difference of a column that holds; 0 of a word."""
    first, second = core[column], core[column + period]
    return 0 if isinstance(first, str) or isinstance(second, str) else second - first


def _has_stale_step(core: list[_Element], period: int) -> bool:
    """A shorter period met a counting column before the column that ended it (as published)."""
    for shorter in range(1, period):
        for column in range(shorter):
            if _find_break(core, shorter, [column]) is not None:
                break
            if _step(core, column, shorter):
                return True
    return False


# How far the two modes of the patterns agree: `mnemoscope features … --compare-patterns`.


class ModeAgreement(NamedTuple):
    """Texts for which the modes say yes, of one feature."""

    both: int
    only_published: int
    only_strict: int


def compare_modes(texts: Iterable[str | None]) -> dict[str, ModeAgreement]:
    """`ModeAgreement` of ``is_incrementing`` and ``is_repeating`` over texts; nulls are left out.

    What counts under the strict rules does so under the published ones, so only texts that the
    latter call incrementing are asked twice.
    """
    counts = {name: [0, 0, 0] for name in Pattern._fields}
    with track("both pattern modes", unit="texts") as progress:
        for text in texts:
            progress.advance()
            if text is None:
                continue
            published = find_pattern(text, "published")
            strict = find_pattern(text, "strict") if published.is_incrementing else published
            for name, first, second in zip(Pattern._fields, published, strict, strict=True):
                if first or second:
                    counts[name][0 if first and second else 1 if first else 2] += 1
    return {name: ModeAgreement(*found) for name, found in counts.items()}


def describe_agreement(agreement: dict[str, ModeAgreement]) -> list[str]:
    """One line a feature."""
    return [
        f"{name}, published and strict rules: both {one.both:,}, only published "
        f"{one.only_published:,}, only strict {one.only_strict:,}."
        for name, one in agreement.items()
    ]
