"""Split a text into words and whole numbers, as the published incrementing test sees it."""

import re

__all__ = ["has_lone_words", "is_number", "split_counters"]

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


def has_lone_words(text: str) -> bool:
    """True only of texts that cannot be incrementing; tells most prose and code at little cost.

    A word of letters alone is an element as it stands. In a text that counts, a word other than
    the first and the last element stands in a column of equal ones. So three words of letters
    that the text holds once are at least one too many.

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
    """Escape what is not printable, then delete the marks of escaping and quoting."""
    if words.isprintable() and not _NEEDS_ESCAPE.search(words):
        return words
    escaped = repr(words)
    for mark in (r"\n", r"\x", "\\", "'", '"'):
        escaped = escaped.replace(mark, "")
    return escaped
