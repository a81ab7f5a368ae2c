"""How figures are printed: per cent with one decimal, everywhere the same.

A difference is printed in points (of per cent) with its sign; what is not known is a dash.
"""

from mnemoscope.stats import Estimate

UNKNOWN = "–"
_SPACE = "\N{NARROW NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def percent(value: float | None, *, unit: bool = True) -> str:
    r"""Print a fraction as per cent.

    >>> percent(0.647), percent(0.647, unit=False), percent(None)
    ('64.7\u202f%', '64.7', '–')
    """
    if value is None:
        return UNKNOWN
    return _tenths(value * 100) + (f"{_SPACE}%" if unit else "")


def points(value: float | None) -> str:
    """Print a difference of fractions in points, with its sign.

    >>> points(0.031), points(-0.2), points(0.0001)
    ('+3.1', '−20.0', '0.0')
    """
    if value is None:
        return UNKNOWN
    text = _tenths(value * 100)
    return text if text == "0.0" or text.startswith(_MINUS) else f"+{text}"


def interval(estimate: Estimate) -> str:
    r"""Print an interval in brackets, an empty string when there is none.

    Of a difference too: its ends carry a minus but no plus, so that an interval looks the same
    in a table, in a sentence and on the terminal.

    >>> interval(Estimate(0.231, 0.18, 0.28))
    '[18.0,\xa028.0]'
    """
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = (percent(end, unit=False) for end in (estimate.low, estimate.high))
    return f"[{low},\N{NO-BREAK SPACE}{high}]"


def count(value: int | None) -> str:
    """Print a whole number with separators.

    >>> count(6700)
    '6,700'
    """
    return UNKNOWN if value is None else f"{value:,}".replace("-", _MINUS)


def share(part: int, whole: int) -> str:
    """Print a part of a whole as per cent, a dash when the whole is empty."""
    return percent(part / whole) if whole else UNKNOWN


def seconds_text(seconds: float | None) -> str:
    r"""Print a duration.

    >>> seconds_text(7.25), seconds_text(100)
    ('7.2\u202fs', '1\u202fmin\u202f40\u202fs')
    """
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}{_SPACE}min{_SPACE}{rest}{_SPACE}s"


def bytes_text(n_bytes: int) -> str:
    r"""Print a file size.

    >>> bytes_text(412_345), bytes_text(3_400_000)
    ('412\u202fkB', '3.4\u202fMB')
    """
    if n_bytes < 1_000_000:
        return f"{n_bytes / 1000:.0f}{_SPACE}kB"
    return f"{n_bytes / 1_000_000:.1f}{_SPACE}MB"


def _tenths(value: float) -> str:
    """Print with one decimal, a true minus sign, and never a negative zero."""
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", _MINUS)
