"""Shares of documents that are reproduced, guessed and recalled, and a condition on them."""

import re
from collections.abc import Callable, Iterable, Sequence
from operator import ge, gt
from typing import Any, NamedTuple

from mnemoscope.audits.rule import GUESS, RECALL
from mnemoscope.errors import UserError, nearest
from mnemoscope.stats import FEWEST_GROUPS, Estimate, clopper_pearson, resampled_ratio

_GATE = re.compile(r"\s*(\w+)\s*(>=|>)\s*(\d+(?:\.\d+)?)\s*(%?)\s*")
_KINDS = ("reproduced", "guessed", "recalled", "near")
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

    Raises UserError: anything else.

    >>> parse_gate("recalled > 0.5%").share
    0.005
    """
    match = _GATE.fullmatch(text)
    if match is None or match[1] not in _KINDS:
        hint = nearest(match[1], _KINDS) if match else ""
        raise UserError(
            f"--fail-if '{text}': not understood.{hint} Write for example 'recalled > 0.5%' "
            "(reproduced, guessed, recalled or near; > or >=; percent or a fraction)."
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
    spans: Sequence[tuple[int, int, str]],
    near: Sequence[tuple[int, int, str]] | None = None,
) -> dict[str, Any]:
    """Count one document: for each of reproduced, guessed, recalled its characters and share.

    `spans` are start, end (characters) and verdict; none overlap but in a character that two
    tokens share. The last share, `near`, is of what is recalled word for word or in a near copy;
    None where these were not looked for.
    """
    counts = {GUESS: 0, RECALL: 0}
    n_spans = dict.fromkeys(counts, 0)
    seen = 0
    for start, end, verdict in spans:
        counts[verdict] += max(end - max(start, seen), 0)
        n_spans[verdict] += 1
        seen = max(seen, end)
    parts = [counts[GUESS] + counts[RECALL], counts[GUESS], counts[RECALL]]
    if near is not None:
        recalled = [(start, end) for start, end, verdict in (*spans, *near) if verdict == RECALL]
        parts.append(covered(recalled))
    return {
        "document": name,
        "characters": n_characters,
        "tokens": n_tokens,
        "windows": n_windows,
        "guess_spans": n_spans[GUESS],
        "recall_spans": n_spans[RECALL],
        **{
            kind: {"characters": part, "share": part / n_characters if n_characters else 0.0}
            for kind, part in zip(_KINDS, parts, strict=False)
        },
        "near_spans": None if near is None else len(near),
    }


def covered(ranges: Iterable[tuple[int, int]]) -> int:
    """Characters in any of some ranges."""
    n = seen = 0
    for start, end in sorted(ranges):
        n += max(end - max(start, seen), 0)
        seen = max(seen, end)
    return n


def overall(documents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Add up what `summarize` gave; `asked` are the documents with windows.

    Passages of one document are not independent, so intervals draw documents; their ends are None
    where fewer than `FEWEST_GROUPS` were asked. Where all documents have nothing, or all of them
    everything, they are those of so many documents of which none, or each, has any.
    """
    rows = list(documents)
    names = ("characters", "tokens", "windows", "guess_spans", "recall_spans")
    total: dict[str, Any] = {name: sum(row[name] for row in rows) for name in names}
    asked = sum(row["windows"] > 0 for row in rows)
    wholes = [row["characters"] for row in rows]
    total["near_spans"] = None
    kinds = [kind for kind in _KINDS if rows and kind in rows[0]]
    if _KINDS[-1] in kinds:
        total["near_spans"] = sum(row["near_spans"] for row in rows)
    for kind in kinds:
        parts = [row[kind]["characters"] for row in rows]
        part, whole = sum(parts), total["characters"]
        share = part / whole if whole else 0.0
        if asked < FEWEST_GROUPS:
            found = Estimate(share)
        elif part in (0, whole):
            found = clopper_pearson(share * asked, asked)
        else:
            found = resampled_ratio(parts, wholes, range(len(rows)))
        total[kind] = {"characters": part, "share": share, "low": found.low, "high": found.high}
    return {"documents": len(rows), "asked": asked, **total}
