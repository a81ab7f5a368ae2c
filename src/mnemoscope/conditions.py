"""Conditions of gates, such as `recalled > 0.5%`: a kind, a sign, and a number with its unit."""

import re
from collections.abc import Callable, Sequence
from math import isclose
from operator import ge, gt
from typing import NamedTuple

from mnemoscope.errors import UserError, nearest
from mnemoscope.stats import Estimate
from mnemoscope.words import plain_figure, plural

_MOST_DIGITS = 12
_COMPARE: dict[str, Callable[[float, float], bool]] = {">": gt, ">=": ge}


class Condition(NamedTuple):
    """What makes a gate fail: `limit` is a fraction, or a number; `in_each` document, or in all."""

    text: str
    kind: str
    sign: str
    limit: float
    is_number: bool
    in_each: bool

    def is_beyond(self, amount: float) -> bool:
        """Whether a fraction, or a number, is beyond the limit."""
        return _COMPARE[self.sign](_sign(amount, self.limit), 0)

    @property
    def allowed(self) -> str:
        """What passes, in words: `at most 0.5 % allowed`."""
        n = int(self.limit)
        limit = str(n) if self.is_number else f"{100 * self.limit:.12g} %"
        least = "fewer than" if self.is_number else "less than"
        each = " in each document" if self.in_each else ""
        return f"{'at most' if self.sign == '>' else least} {limit} allowed{each}"

    def say_share(self, share: Estimate) -> str:
        """A share with so many digits that what is read is beyond the limit where the share is."""
        value, limit = share.value or 0.0, 100 * self.limit
        shown = (round(100 * value, digits) for digits in range(1, _MOST_DIGITS))
        wanted = _sign(100 * value, limit)
        digits = next((n for n, one in enumerate(shown, 1) if _sign(one, limit) == wanted), 1)
        return plain_figure(value, share.low, share.high, digits=digits)


def parse_condition(
    text: str, *, kinds: Sequence[str], noun: str, whole: str, has_documents: bool = False
) -> Condition:
    """Read a condition on one of `kinds`: so many per cent of the `whole`, or of a `noun`.

    Raises UserError: anything else, a number without a unit too.
    """
    match = re.fullmatch(
        rf"(\w+) *(>=|>) *([0-9]+(?:\.[0-9]+)?) *(%|{noun}s?)?(?: +(in doc))?", text.strip()
    )
    if match is None or match[1] not in kinds or (match[5] and not has_documents):
        hint = nearest(match[1], kinds) if match else ""
        each = f", or 'recalled >= 1 {noun} in doc'" if has_documents else ""
        named = f"{', '.join(kinds[:-1])} or {kinds[-1]}; " if len(kinds) > 1 else ""
        raise UserError(
            f"--fail-if '{text}': not understood.{hint} Write for example 'recalled > 0.5%', "
            f"'recalled > 3 {noun}s'{each} ({named}> or >=)."
        )
    kind, sign, number, unit = match[1], match[2], float(match[3]), match[4]
    if unit is None:
        each = " in doc" if match[5] else ""
        counted = f", or '{plural(int(number), noun)}{each}'" if number.is_integer() else ""
        raise UserError(
            f"--fail-if '{text}': {match[3]} of what? Write '{match[3]}%{each}' (of the "
            f"{whole}){counted}."
        )
    if unit == "%" and (number > 100 or (number == 100 and sign == ">")):
        raise UserError(f"--fail-if '{text}': more than all {whole}, so it never fails.")
    if unit != "%" and not number.is_integer():
        raise UserError(f"--fail-if '{text}': {noun}s are counted. Give a whole number.")
    if number == 0 and sign == ">=":
        unit = unit if unit == "%" else f" {unit}"
        raise UserError(
            f"--fail-if '{text}': nothing is less, so it always fails. Write '> 0{unit}'."
        )
    limit = number / 100 if unit == "%" else number
    return Condition(text.strip(), kind, sign, limit, unit != "%", match[5] is not None)


def _sign(value: float, limit: float) -> int:
    """Whether a share is above (1), at (0) or below (-1) a limit, but for the last digits."""
    return 0 if isclose(value, limit, rel_tol=1e-12) else 1 if value > limit else -1
