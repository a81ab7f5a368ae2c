"""Show what cannot be seen: control, zero-width and direction-changing characters get a sign."""

import unicodedata
from typing import NamedTuple

__all__ = ["Mark", "mark_hidden"]

_HIDDEN = {*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF}
_CONTROLS = ("Cc", "Cs", "Co")


class Mark(NamedTuple):
    """A run of characters as shown; a sign stands for a hidden one."""

    is_sign: bool
    text: str


def mark_hidden(text: str) -> list[Mark]:
    r"""Split a text into runs shown as they stand and signs for hidden characters.

    Line breaks and tabs stay as they are.

    >>> mark_hidden("a\u202e")
    [Mark(is_sign=False, text='a'), Mark(is_sign=True, text='U+202E')]
    """
    found: list[Mark] = []
    run = 0
    for place, character in enumerate(text):
        if _is_hidden(character):
            if place > run:
                found.append(Mark(False, text[run:place]))
            found.append(Mark(True, f"U+{ord(character):04X}"))
            run = place + 1
    return [*found, Mark(False, text[run:])] if run < len(text) else found


def _is_hidden(character: str) -> bool:
    if character in "\n\t\r\f" or " " <= character <= "~":
        return False
    return ord(character) in _HIDDEN or unicodedata.category(character) in _CONTROLS
