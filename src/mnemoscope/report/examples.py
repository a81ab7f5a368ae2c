"""One sequence as a reader sees it: prefix, suffix and continuation, token by token.

Control characters are made visible, white space is kept, and a token of the continuation that
differs from the suffix is marked.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Example", "Piece", "continuation_pieces", "decode_pieces", "visible"]

# Zero-width and direction-changing characters: the category Cf alone would also catch the soft
# hyphen and Arabic signs that belong to the text.
_HIDDEN = {*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF, 0xAD}
_BREAKS = {"\n": "↵", "\r": "␍", "\t": "⇥", "\x0b": "␋", "\x0c": "␌", "\u2028": "↵", "\u2029": "¶"}


class Piece(NamedTuple):
    """A run of characters shown in one way.

    Attributes:
        kind: ``text`` (as it stands), ``mark`` (a control character's sign) or ``differs``.
        text: what is shown.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Example:
    """One sequence of a class, as text.

    Attributes:
        class_name: the class it stands for.
        prefix: text of the first half.
        suffix: text of each token of the second half.
        continuation: text of each token the model wrote after the prefix; empty when unknown.
        differs: for each token of the continuation whether it is another token than the suffix's.
        sequence_id: its number in the study, None to leave it out.
        genre: kind of text, empty when unknown.
        document: where it comes from, empty when unknown.
        duplicates: occurrences of the suffix in the training text, None when unknown.
        memorization_score: share of positions where continuation and suffix agree.
        rouge_l: ROUGE-L of prefix and suffix, a fraction.
        rouge_3: ROUGE-3 of prefix and suffix, a fraction.
        flags: further words such as "incrementing", "repeating", "code", "held out".
    """

    class_name: str
    prefix: str
    suffix: tuple[str, ...]
    continuation: tuple[str, ...] = ()
    differs: tuple[bool, ...] = ()
    sequence_id: int | None = None
    genre: str = ""
    document: str = ""
    duplicates: int | None = None
    memorization_score: float | None = None
    rouge_l: float | None = None
    rouge_3: float | None = None
    flags: tuple[str, ...] = ()

    @property
    def n_differs(self) -> int:
        """How many tokens of the continuation are not the suffix's."""
        return sum(self.differs)


def decode_pieces(decode: Callable[[list[int]], str], tokens: Sequence[int]) -> tuple[str, ...]:
    """Give the text that each token adds, so that the pieces joined are the decoded text.

    A token that ends within a character (byte-level vocabularies) adds nothing; the token that
    completes the character adds it.

    Args:
        decode: the tokenizer's decode, token ids to text, special tokens kept.
        tokens: token ids in order.

    Returns:
        One string a token.

    >>> decode_pieces(lambda ids: "".join("ab c"[i] for i in ids), [0, 1, 2, 3])
    ('a', 'b', ' ', 'c')
    """
    ids = [int(token) for token in tokens]
    whole = decode(ids)
    pieces: list[str] = []
    shown = ""
    for end in range(1, len(ids) + 1):
        text = whole if end == len(ids) else decode(ids[:end])
        is_complete = whole.startswith(text) and text.startswith(shown)
        pieces.append(text[len(shown) :] if is_complete else "")
        shown = text if is_complete else shown
    return tuple(pieces)


def visible(text: str) -> list[Piece]:
    r"""Split text into runs to be shown as they stand and signs for what cannot be seen.

    A line break gives its sign and then the break itself, so that lines stay lines.

    >>> visible("a\tb")
    [Piece(kind='text', text='a'), Piece(kind='mark', text='⇥'), Piece(kind='text', text='\tb')]
    """
    pieces: list[Piece] = []
    run = ""
    for character in text:
        sign = _sign(character)
        if sign is not None:
            if run:
                pieces.append(Piece("text", run))
            pieces.append(Piece("mark", sign))
            run = character if character in "\n\t" else ""
        else:
            run += character
    return [*pieces, Piece("text", run)] if run else pieces


def continuation_pieces(example: Example) -> list[tuple[bool, list[Piece]]]:
    """Group the continuation into runs that agree with the suffix and runs that differ.

    Returns:
        (differs, pieces) for each run, in order.
    """
    differs = example.differs or (False,) * len(example.continuation)
    runs: list[tuple[bool, str]] = []
    for text, is_other in zip(example.continuation, differs, strict=True):
        if runs and runs[-1][0] == is_other:
            runs[-1] = (is_other, runs[-1][1] + text)
        else:
            runs.append((is_other, text))
    return [(is_other, visible(text)) for is_other, text in runs]


def _sign(character: str) -> str | None:
    """Give the sign of a character that cannot be seen, None for all others."""
    if character in _BREAKS:
        return _BREAKS[character]
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if code in _HIDDEN or unicodedata.category(character) in ("Cc", "Cs"):
        return f"[U+{code:04X}]"
    return None
