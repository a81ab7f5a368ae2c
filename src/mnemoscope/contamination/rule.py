"""What a rule that a prompt shows would write: numbers at equal steps, letters, days, months.

The last three terms of a list decide. Other rules (squares, word numbers, fractions) are not known.
"""

from collections.abc import Sequence
from string import ascii_lowercase

from mnemoscope.contamination.table import words_of

_CYCLES = (
    tuple(ascii_lowercase),
    ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    (
        *("january", "february", "march", "april", "may", "june", "july"),
        *("august", "september", "october", "november", "december"),
    ),
)
_PLACES = {
    word: (at, place) for at, cycle in enumerate(_CYCLES) for place, word in enumerate(cycle)
}
_NUMBER = len(_CYCLES)
_MOST_DIGITS = 15


def continued_by_rule(prompt: Sequence[str], n_words: int) -> list[str]:
    """Write on the list at the end of a prompt by the step between its last three terms.

    Terms are whole numbers, letters, weekdays or months, in English; between any two of them stand
    the same words or signs, or nothing. Nothing is written where the steps differ.

    Args:
        prompt: its words, as `words_of` gives them.
        n_words: how many words and signs to write.

    >>> continued_by_rule(words_of("Friday, Saturday, Sunday,"), 3)
    ['monday', ',', 'tuesday']
    """
    terms = [(at, *term) for at, word in enumerate(prompt) if (term := _term_of(word))][-3:]
    if len(terms) < 3 or len({kind for _, kind, _ in terms}) > 1:
        return []
    (first, kind, one), (second, _, two), (third, _, last) = terms
    between, after = [*prompt[first + 1 : second]], [*prompt[third + 1 :]]
    if between != [*prompt[second + 1 : third]] or after != between[: len(after)]:
        return []
    step = last - two
    uneven = step - (two - one)
    if uneven if kind == _NUMBER else uneven % len(_CYCLES[kind]):
        return []
    written = between[len(after) :]
    while len(written) < n_words:
        last += step
        if kind == _NUMBER:
            written += words_of(str(last))
        else:
            written.append(_CYCLES[kind][last % len(_CYCLES[kind])])
        written += between
    return written[:n_words]


def _term_of(word: str) -> tuple[int, int] | None:
    """Kind and place of a term."""
    if word.isascii() and word.isdecimal() and len(word) <= _MOST_DIGITS:
        return _NUMBER, int(word)
    return _PLACES.get(word)
