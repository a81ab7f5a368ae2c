"""How much of documents a model reproduces, guesses and recalls, with intervals; the gate."""

import re
from collections.abc import Callable, Iterable
from operator import ge, gt
from typing import Any, NamedTuple

from mnemoscope.audit.rule import GUESS, RECALL
from mnemoscope.errors import UserError, nearest
from mnemoscope.stats import clopper_pearson

_GATE = re.compile(r"\s*(\w+)\s*(>=|>)\s*(\d+(?:\.\d+)?)\s*(%?)\s*")
_KINDS = ("reproduced", "guessed", "recalled")
_COMPARE: dict[str, Callable[[float, float], bool]] = {">": gt, ">=": ge}


class Gate(NamedTuple):
    """A condition under which an audit fails, such as `recalled > 0.5%`."""

    text: str
    kind: str
    sign: str
    share: float

    def is_failed(self, summary: dict[str, Any]) -> bool:
        """True when the whole audit's share is beyond the limit."""
        return _COMPARE[self.sign](summary[self.kind]["share"], self.share)


def parse_gate(text: str) -> Gate:
    """Read a condition: a kind of share, `>` or `>=`, a percentage or a fraction.

    Raises:
        UserError: anything else.

    >>> parse_gate("recalled > 0.5%").share
    0.005
    """
    match = _GATE.fullmatch(text)
    if match is None or match[1] not in _KINDS:
        hint = nearest(match[1], _KINDS) if match else ""
        raise UserError(
            f"--fail-if '{text}': not understood.{hint} Write for example 'recalled > 0.5%' "
            "(reproduced, guessed or recalled; > or >=; percent or a fraction)."
        )
    limit = float(match[3]) / (100 if match[4] else 1)
    if limit > 1 or (limit == 1 and match[2] == ">"):  # a gate that lets everything through
        hint = "" if match[4] else f" Did you mean {match[3]}%?"
        raise UserError(f"--fail-if '{text}': more than the whole text.{hint}")
    return Gate(text.strip(), match[1], match[2], limit)


def summarize(
    name: str,
    *,
    n_characters: int,
    n_tokens: int,
    n_windows: int,
    suffix: int,
    spans: Iterable[tuple[int, int, str]],
) -> dict[str, Any]:
    """Count one document: for each of reproduced, guessed, recalled its characters and share.

    `suffix` tokens make one independent observation of the intervals. `spans` are start, end
    (characters) and verdict; none overlap but in a character that two tokens share.
    """
    counts = {GUESS: 0, RECALL: 0}
    n_spans = dict.fromkeys(counts, 0)
    seen = 0
    for start, end, verdict in spans:
        counts[verdict] += max(end - max(start, seen), 0)
        n_spans[verdict] += 1
        seen = max(seen, end)
    return {
        "document": name,
        "characters": n_characters,
        "tokens": n_tokens,
        "windows": n_windows,
        "blocks": n_tokens // suffix,
        "guess_spans": n_spans[GUESS],
        "recall_spans": n_spans[RECALL],
        **_shares(counts[GUESS], counts[RECALL], n_characters, n_tokens // suffix),
    }


def overall(documents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Add up what `summarize` gave."""
    rows = list(documents)
    names = ("characters", "tokens", "windows", "blocks", "guess_spans", "recall_spans")
    total: dict[str, Any] = {name: sum(row[name] for row in rows) for name in names}
    guessed, recalled = (sum(row[one]["characters"] for row in rows) for one in _KINDS[1:])
    shares = _shares(guessed, recalled, total["characters"], total["blocks"])
    return {"documents": len(rows), **total, **shares}


def _shares(guessed: int, recalled: int, whole: int, n_blocks: int) -> dict[str, Any]:
    """Shares of characters with their intervals; a share of 0 keeps an upper bound.

    Neighbours are not independent: each stretch of one suffix's length is one observation.
    """
    found = {}
    for kind, part in zip(_KINDS, (guessed + recalled, guessed, recalled), strict=True):
        value = part / whole if whole else 0.0
        _, low, high = clopper_pearson(value * n_blocks, n_blocks)
        found[kind] = {"characters": part, "share": value, "low": low, "high": high}
    return found
