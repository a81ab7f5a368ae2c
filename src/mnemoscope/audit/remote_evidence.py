"""The evidence of spans that a model behind an API gives: as much as the service tells.

A service that judges a given text (`echo` with log-probabilities, as vLLM does) tells all but the
attention. Others tell the log-probabilities of what the model wrote, which are the passage's own
where it wrote exactly the passage.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.audit.answers import Answer
from mnemoscope.audit.asking import Asker
from mnemoscope.audit.evidence import tries_needed
from mnemoscope.audit.prior import Prior, compare_prefixes, other_prefixes
from mnemoscope.audit.records import SpanEvidence
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.spans import Span
from mnemoscope.audit.tokens import token_texts

__all__ = ["gather_remote_evidence"]

_SAME = 1e-6  # nats; the service rounds what it says twice of one token


class _Judged(NamedTuple):
    """What a service says of one span's window; see `SpanEvidence`."""

    logprobs: list[float] | None
    alternatives: list[list[dict[str, Any]]] | None
    alone: list[float] | None
    prior: Prior | None


def gather_remote_evidence(
    asker: Asker, spans: Sequence[tuple[int, Span]], settings: AuditSettings
) -> tuple[list[SpanEvidence], bool]:
    """Ask about the window of each span.

    Args:
        asker: documents and service.
        spans: number of the document and the span.
        settings: of the audit.

    Returns:
        One piece of evidence a span, and whether the service judges a given text.
    """
    places = [(number, span.hit.first) for number, span in spans]
    written = asker.continue_at(places, [settings.suffix] * len(places), label="Gathering evidence")
    judged = _judge(asker, places, settings)
    found = []
    for row, (number, span) in enumerate(spans):
        first = span.hit.first
        window = asker.tokens[number].ids[first : first + settings.length]
        own = judged[row] if judged else _Judged(written[row].logprobs, None, None, None)
        values = own.logprobs
        # Of the pieces of words the product is that of the tokens, as the model wrote them.
        chance = None if values is None else float(math.fsum(values))
        found.append(
            SpanEvidence(
                window=window.tolist(),
                suffix_pieces=token_texts(asker.splitter.tokenizer, window[settings.prefix :]),
                continuation_pieces=written[row].pieces,
                logprobs=values,
                sampling_logprob=chance,
                tries=None if chance is None else tries_needed(chance, settings.probability),
                alternatives=own.alternatives or written[row].alternatives,
                alone_logprobs=own.alone,
                prior=own.prior,
                reference_score=None,
                reference_logprobs=None,
            )
        )
    return found, judged is not None


def _judge(
    asker: Asker, places: Sequence[tuple[int, int]], settings: AuditSettings
) -> list[_Judged] | None:
    """Each window's suffix after its own prefix, alone, and after others; None: not given."""
    before = [] if asker.splitter.bos_id is None else [asker.splitter.bos_id]
    rows: list[list[int]] = []
    plan: list[tuple[int, str]] = []
    for number, first in places:
        window = asker.tokens[number].ids[first : first + settings.length].tolist()
        suffix = window[settings.prefix :]
        others, source = other_prefixes(asker.tokens, (number, first), settings)
        rows += [[*before, *window], [*before, *suffix]]
        rows += [[*before, *prefix, *suffix] for prefix in others.tolist()]
        plan.append((len(others), source))
    answers = asker.judge(rows)
    if answers is None:
        return None
    found, start = [], 0
    for n_others, source in plan:
        some = [
            _suffix(answer, len(row), settings.suffix)
            for answer, row in zip(
                answers[start : start + 2 + n_others],
                rows[start : start + 2 + n_others],
                strict=True,
            )
        ]
        found.append(_one(some, source))
        start += 2 + n_others
    return found


class _Suffix(NamedTuple):
    values: npt.NDArray[np.float64]
    alternatives: list[list[dict[str, Any]]]
    is_whole: bool


def _suffix(answer: Answer, length: int, suffix: int) -> _Suffix:
    """The last `suffix` of the prompt's `length` tokens; the first of a text has no value."""
    values = [math.nan if one is None else one for one in answer.logprobs or []]
    tops = (answer.alternatives or [[]] * len(values))[length - suffix : length]
    array = np.array(values[length - suffix : length], dtype=np.float64)
    is_best = [
        bool(top) and value >= top[0]["logprob"] - _SAME
        for value, top in zip(array, tops, strict=True)
    ]
    return _Suffix(array, tops, all(is_best))


def _one(some: list[_Suffix], source: str) -> _Judged:
    own, alone, others = some[0], some[1], some[2:]
    sums = np.array([one.values.sum() for one in others], dtype=np.float64)
    is_whole = np.array([one.is_whole for one in others], dtype=np.bool_)
    prior = compare_prefixes(float(own.values.sum()), sums, is_whole, source)
    return _Judged(own.values.tolist(), own.alternatives, alone.values.tolist(), prior)
