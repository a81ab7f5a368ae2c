"""How figures, and parts of a model, are printed, on the page, on the terminal and in sentences.

Fractions are printed as per cent with one decimal, differences of fractions in points with their
sign. What is not known is a dash, never a zero.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mnemoscope.stats import Estimate

UNKNOWN = "–"
MINUS = "\N{MINUS SIGN}"
NARROW = "\N{NARROW NO-BREAK SPACE}"
JOINT = "\N{NO-BREAK SPACE}"
_UNITS = ("B", "kB", "MB", "GB", "TB")


def percent(value: float | None, *, unit: bool = True) -> str:
    r"""Print a fraction as per cent.

    >>> percent(0.647), percent(0.647, unit=False), percent(None)
    ('64.7\u202f%', '64.7', '–')
    """
    return UNKNOWN if value is None else decimal(100 * value, 1) + (f"{NARROW}%" if unit else "")


def points(value: float | None) -> str:
    """Print a difference of fractions in points, with its sign.

    >>> points(0.031), points(-0.2), points(0.0001)
    ('+3.1', '−20.0', '0.0')
    """
    text = percent(value, unit=False)
    return text if text in (UNKNOWN, "0.0") or text.startswith(MINUS) else f"+{text}"


def interval(estimate: tuple[float | None, ...], *, space: str = JOINT) -> str:
    r"""Print the interval of (value, low, high) in brackets, an empty string when there is none.

    A difference is written alike: its ends carry a minus but no plus.

    >>> interval(Estimate(0.231, 0.18, 0.28)), interval((0.2, -0.1, 0.5), space=" ")
    ('[18.0,\xa028.0]', '[−10.0, 50.0]')
    """
    _, low, high = estimate
    if low is None or high is None:
        return ""
    return f"[{percent(low, unit=False)},{space}{percent(high, unit=False)}]"


def nats(value: float) -> str:
    """Print a difference of log scores.

    >>> nats(-0.0312)
    '−0.031'
    """
    return f"{value:.3f}".replace("-", "−")


def figure(found: Estimate, *, signed: bool = False, unit: bool = False, gap: str = "\n") -> str:
    r"""Print a figure with its interval, for a cell; a `signed` one is a difference, in points.

    >>> figure(Estimate(0.5, 0.4, 0.6))
    '50.0\n[40.0,\xa060.0]'
    """
    shown = points(found.value) if signed else percent(found.value, unit=unit)
    return f"{shown}{gap}{interval(found)}".strip()


FEW_OF_A_CLASS = 20
"""Sequences of a class below which a share of it is a count."""


def share_or_count(found: Estimate, n: int) -> str:
    """Print a share of n sequences, or of how many of a few it is, which may be a mean.

    >>> share_or_count(Estimate(0.5, None, None), 100), share_or_count(Estimate(0.5, None, None), 3)
    ('50.0', '1.5 of 3')
    """
    if found.value is None or n >= FEW_OF_A_CLASS:
        return percent(found.value, unit=False)
    return f"{n * found.value:.1f}".removesuffix(".0") + f" of {n}"


def plain_figure(
    value: float,
    low: float | None,
    high: float | None,
    *,
    scale: float = 100,
    unit: str = " %",
    digits: int = 1,
    sign: str = "-",
    minus: str = "-",
) -> str:
    """Print a figure and its ends, fractions unless `scale` is 1, in a sentence with plain spaces.

    A `sign` of "+" gives a positive figure its sign; `minus` is how a minus is written.

    >>> plain_figure(0.912, 0.88, 0.941)
    '91.2 % [88.0, 94.1]'
    >>> plain_figure(0.3, -0.1, 0.7, scale=1, unit="", digits=2, sign="+", minus=MINUS)
    '+0.30 [−0.10, 0.70]'
    >>> plain_figure(46154, None, None, scale=1, unit=" bits", digits=0)
    '46,154 bits'
    """
    shown = f"{scale * value:{sign}z,.{digits}f}{unit}"
    if low is not None and high is not None and low == low:
        shown += f" [{scale * low:z,.{digits}f}, {scale * high:z,.{digits}f}]"
    return shown.replace("-", minus)


def p_figure(value: float | None) -> str:
    """A p for a cell: none is 0.

    >>> p_figure(0.0003), p_figure(0.0213)
    ('< 0.001', '0.021')
    """
    if value is None:
        return UNKNOWN
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def ranged(
    found: Estimate,
    *,
    scale: float = 1,
    unit: str = "",
    digits: int = 1,
    sign: str = "-",
    minus: str = "-",
) -> str:
    """Print a figure with its interval in a sentence, as `plain_figure` does; by default as it is.

    Args:
        found: value and ends; without ends the value alone, without a value `nan`.
        scale: what both are multiplied by: 100 for a fraction as per cent.
        unit: written after the value, with the space before it: `" %"`.
        digits: after the point.
        sign: `"+"` gives a positive figure its sign.
        minus: how a minus is written.

    >>> ranged(Estimate(2, 0.25, 4.8)), ranged(Estimate(0.5), scale=100, unit=" %", sign="+")
    ('2.0 [0.2, 4.8]', '+50.0 %')
    """
    value, low, high = found
    shown = float("nan") if value is None else value
    return plain_figure(
        shown, low, high, scale=scale, unit=unit, digits=digits, sign=sign, minus=minus
    )


def count(value: int | None) -> str:
    """Print a whole number with separators.

    >>> count(6700)
    '6,700'
    """
    return UNKNOWN if value is None else f"{value:,}".replace("-", MINUS)


def plural(n: int, noun: str) -> str:
    """Count things.

    >>> plural(1, "passage"), plural(1200, "passage")
    ('1 passage', '1,200 passages')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def first_names(names: Sequence[str], most: int = 3) -> str:
    """Up to so many names, and how many more there are.

    >>> first_names(["a", "b"]), first_names(list("abcde"))
    ('a, b', 'a, b, c and 2 more')
    """
    more = len(names) - most
    return ", ".join(names[:most]) + f" and {more:,} more" * (more > 0)


def lines_words(first: int, last: int) -> str:
    """Lines of a text, both ends included.

    >>> lines_words(3, 3), lines_words(3, 5)
    ('line 3', 'lines 3 to 5')
    """
    return f"line {first}" if first == last else f"lines {first} to {last}"


def line_ranges(found: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Lines in order, those that touch as one range; both ends included."""
    ranges: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = ranges[-1][0], max(ranges[-1][1], last)
        else:
            ranges.append((first, last))
    return ranges


_RANGES = 5  # of lines that are named


def lines_said(ranges: Sequence[tuple[int, int]]) -> str:
    """Ranges of lines in words, and how many lines they are.

    >>> lines_said([(3, 5), (17, 17)])
    '4 lines (3 to 5, 17)'
    """
    n = sum(last - first + 1 for first, last in ranges)
    shown = [f"{a}" if a == b else f"{a} to {b}" for a, b in ranges[:_RANGES]]
    more = ", …" if len(ranges) > _RANGES else ""
    return f"{plural(n, 'line')} ({', '.join(shown)}{more})"


def adding_up(shares: Sequence[float], total: float | None = None) -> list[float]:
    """Round shares of one whole to a tenth of a per cent so that what is printed adds up.

    Each is rounded up or down, so none is off by more than a tenth; the first as it would be
    alone. They add up to `total` (their sum, by default) as that is printed. What is too small
    stays too small, and is not nothing.

    >>> adding_up([1 / 3, 1 / 3, 1 / 3]), adding_up([0.0206, 0.0096], 0.0302)
    ([0.333, 0.333, 0.334], [0.021, 0.009])
    """
    exact = [1000 * one for one in shares]
    shown = [_tenths(shares[0]), *map(math.floor, exact[1:])]
    left = _tenths(sum(shares) if total is None else total) - sum(shown)
    cut = sorted(range(1, len(shown)), key=lambda at: (shown[at] - exact[at], -at))
    for at in cut[: max(left, 0)]:
        shown[at] += 1
    for at in [one for one in reversed(cut) if shown[one]][: max(-left, 0)]:
        shown[at] -= 1
    return [n / 1000 if n else min(one, 0.0004) for n, one in zip(shown, shares, strict=True)]


def _tenths(share: float) -> int:
    """Tenths of a per cent, rounded as a share is printed: 0.0005 is 1, and not 0 as by `round`."""
    return round(10 * float(f"{100 * share:.1f}"))


def share(part: int, whole: int) -> str:
    """Print a part of a whole as per cent, a dash when the whole is empty."""
    return percent(part / whole) if whole else UNKNOWN


def number(value: float | None, *, as_percent: bool = False) -> str:
    """Print a number of any size; a fraction as per cent where wanted.

    >>> number(0.25, as_percent=True), number(1234.5), number(0.00012), number(-3)
    ('25', '1,234', '0.00012', '−3')
    >>> number(float("nan")), number(float("inf")), number(float("-inf"))
    ('–', '∞', '−∞')
    """
    if value is None or value != value:
        return UNKNOWN
    if as_percent:
        text = f"{100 * value:.1f}".removesuffix(".0")
    elif abs(value) < 1e6 and value == round(value):
        text = f"{round(value):,}"
    elif 1e3 <= abs(value) < 1e6:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", MINUS).replace("inf", "∞")


def decimal(value: float, digits: int = 2, *, signed: bool = False) -> str:
    """Print a number with so many decimals, a true minus sign, and never a negative zero.

    >>> decimal(-0.346), decimal(-0.001), decimal(0.1, signed=True)
    ('−0.35', '0.00', '+0.10')
    """
    sign = "+" if signed else ""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", MINUS)


def rounded(n: float) -> int:
    """A number of which two digits are known.

    >>> rounded(26_941), rounded(87.6), rounded(6)
    (27000, 88, 6)
    """
    return int(float(f"{n:.2g}"))


def duration(seconds: float | None) -> str:
    r"""Print a duration.

    >>> duration(7.25), duration(100)
    ('7.2\u202fs', '1\u202fmin\u202f40\u202fs')
    """
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f}{NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}{NARROW}min{NARROW}{rest}{NARROW}s"


def about(seconds: float) -> str:
    """Print an estimated duration in one unit.

    >>> about(5400), about(7)
    ('about 1.5 h', 'about 7 s')
    """
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:.1f} {unit}"
    return f"about {seconds:.0f} s"


def size(n_bytes: float, *, least: str = "B", whole_below: float = 1e3, space: str = " ") -> str:
    r"""Print a size in bytes in decimal units, without decimals `whole_below` so many bytes.

    `least` is the smallest unit; below one of it there are two decimals.

    >>> size(412), size(412_345), size(3.4e9)
    ('412 B', '412.3 kB', '3.4 GB')
    >>> size(412_345, least="kB", whole_below=1e6), size(3e5, least="MB", whole_below=0)
    ('412 kB', '0.30 MB')
    """
    place = _UNITS.index(least)
    while place < len(_UNITS) - 1 and n_bytes >= 1000 ** (place + 1):
        place += 1
    shown = n_bytes / 1000**place
    digits = 0 if n_bytes < whole_below else 2 if shown < 1 else 1
    return f"{shown:.{digits}f}{space}{_UNITS[place]}"


def operations(n: float) -> str:
    """Print a number of operations.

    >>> operations(1.62e16), operations(31_400_000), operations(0)
    ('16 PFLOP', '31 MFLOP', '0 MFLOP')
    """
    power = min(max(len(f"{n:.0f}") - 1, 6) // 3, 6)
    scaled = n / 1000**power
    return f"{scaled:.{0 if scaled >= 10 or not n else 1}f} {'MGTPE'[power - 2]}FLOP"


def first_words(text: str, most: int) -> str:
    r"""The beginning of a text in a line, of at most so many characters.

    >>> first_words("one\n  two", 7), first_words("one\n  two", 5)
    ('one two', 'one t…')
    """
    words = " ".join(text.split())
    return words[:most] + "…" * (len(words) > most)


def from_word(text: str) -> str:
    """A text from its first whole word on; before what has no space before it a word may begin.

    >>> from_word("urther and more"), from_word(" then more"), from_word("alone")
    ('…and more', ' then more', 'alone')
    """
    found = re.match(r"\S{1,30}\s+(?=\S)", text)
    return f"…{text[found.end() :]}" if found else text


def whole_characters(text: str) -> str:
    """A text without halves of surrogate pairs (JSON can hold one), which are no characters."""
    return text.encode("utf-8", "replace").decode("utf-8")


# Zero-width and direction-changing characters: the category Cf alone would also catch Arabic signs
# that belong to the text.
_HIDDEN = {*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF, 0xAD}
_BREAKS = {"\n": "↵", "\r": "␍", "\t": "⇥", "\x0b": "␋", "\x0c": "␌", "\u2028": "↵", "\u2029": "¶"}


class Mark(NamedTuple):
    """A run of characters as shown; a sign stands for a hidden one."""

    is_sign: bool
    text: str


def mark_hidden(text: str, *, breaks: bool = False) -> list[Mark]:
    r"""Split a text into runs shown as they stand and signs for controls and what cannot be seen.

    Line breaks and tabs stay; with `breaks` each has a sign before it.

    >>> mark_hidden("a\u202e")
    [Mark(is_sign=False, text='a'), Mark(is_sign=True, text='U+202E')]
    >>> [one.text for one in mark_hidden("a\tb", breaks=True)]
    ['a', '⇥', '\tb']
    """
    found: list[Mark] = []
    run = ""
    for character in text:
        sign = _sign(character, breaks=breaks)
        if sign is None:
            run += character
            continue
        if run:
            found.append(Mark(False, run))
        found.append(Mark(True, sign))
        run = character if breaks and character in "\n\t" else ""
    return [*found, Mark(False, run)] if run else found


def _sign(character: str, *, breaks: bool) -> str | None:
    """The sign of a character that cannot be seen, None for all others."""
    if " " <= character <= "~":
        return None
    if character in (_BREAKS if breaks else "\n\t\r\f"):
        return _BREAKS[character] if breaks else None
    is_hidden = ord(character) in _HIDDEN or unicodedata.category(character) in ("Cc", "Cs", "Co")
    return f"U+{ord(character):04X}" if is_hidden else None


PART_KINDS = {
    "qk": "queries and keys",
    "values": "values",
    "output": "output projection",
    "mlp": "MLP",
    "norms": "norms",
}
"""Kinds of parts of a layer, in words."""


def whole_kind(part: str) -> str:
    """A kind of part in every layer, in words; any other part as it is named.

    >>> whole_kind("mlp"), whole_kind("values"), whole_kind("layers.0.mlp")
    ('MLPs', 'values', 'layers.0.mlp')
    """
    words = PART_KINDS.get(part, part)
    return words if words == part or words.endswith("s") else f"{words}s"


def is_whole_kind(part: str) -> bool:
    """Whether a part is a kind in all layers together; `norms` are those outside the layers."""
    return part in PART_KINDS and part != "norms"


def part_words(part: str) -> str:
    """Name a part in a sentence.

    >>> part_words("layers.0.qk"), part_words("embedding"), part_words("mlp")
    ('the queries and keys of layer 0', 'the embedding', 'the MLPs of all layers')
    >>> part_words("layers.2"), part_words("all but embedding")
    ('layer 2', 'all parts but embedding')
    """
    if is_whole_kind(part):
        return f"the {whole_kind(part)} of all layers"
    if part.split()[0] == "all":
        return f"all parts{part[3:]}"
    if layer := re.fullmatch(r"layers\.([\d-]+)", part):
        return f"layer{'s' * ('-' in part)} {layer[1]}"
    match = re.fullmatch(r"layers\.([\d-]+)\.(\w+)", part)
    if match is None or match[2] not in PART_KINDS:
        return f"the {part}"
    layers = "layers" if "-" in match[1] else "layer"
    return f"the {PART_KINDS[match[2]]} of {layers} {match[1]}"
