"""Split a text into words and whole numbers, as the published incrementing test sees it."""

import re

__all__ = ["is_number", "split_counters"]

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

    Args:
        text: any text.

    Returns:
        Elements without blanks; those that `is_number` are decimal.

    >>> split_counters("row 0x10: -3.5")
    ['row', '0', 'x', '10', ':', '-', '3', '.', '5']
    """
    words = " ".join(text.split())
    if not (_HAS_DIGIT.search(words) or not words.isprintable()):
        return []
    if _NOT_PLAIN.search(words):
        words = _LONE_NUMBER.sub(_to_decimal, words)
    return _ELEMENT.findall(_delete_escapes(words))


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
    """Escape what is not printable, then delete the marks of escaping and quoting."""
    if words.isprintable() and not _NEEDS_ESCAPE.search(words):
        return words
    escaped = repr(words)
    for mark in (r"\n", r"\x", "\\", "'", '"'):
        escaped = escaped.replace(mark, "")
    return escaped
