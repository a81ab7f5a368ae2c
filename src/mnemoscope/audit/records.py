"""The table of spans: one row a span, with its verdict, its grounds and its evidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.audit.prior import Prior
from mnemoscope.audit.rule import GUESS, RECALL
from mnemoscope.audit.spans import Span

__all__ = ["SPAN_COLUMNS", "SpanEvidence", "span_frame", "span_row"]

_EVEN = 0.5
_PIECES = pl.List(pl.String)
_VALUES = pl.List(pl.Float64)
_CHOICES = pl.List(pl.List(pl.Struct({"text": pl.String, "logprob": pl.Float64})))

SPAN_COLUMNS: dict[str, Any] = {
    "document": pl.String,
    "start": pl.Int64,
    "end": pl.Int64,
    "verdict": pl.String,
    "reason": pl.String,
    "tokens": pl.Int64,
    "score": pl.Float64,
    "probability": pl.Float64,
    "reference_reproduces": pl.Boolean,
    "reference_score": pl.Float64,
    "text": pl.String,
    "common_prefix": pl.Int64,
    "verbatim_length": pl.Int64,
    "is_copied": pl.Boolean,
    "windows": pl.Int64,
    "rouge_l": pl.Float64,
    "rouge_3": pl.Float64,
    "is_incrementing": pl.Boolean,
    "is_repeating": pl.Boolean,
    "extraction_logprob": pl.Float64,
    "extraction_probability": pl.Float64,
    "tries": pl.Int64,
    "perplexity": pl.Float64,
    "perplexity_without_prefix": pl.Float64,
    "prior_gain": pl.Float64,
    "prior_reproduced": pl.Int64,
    "prior_prefixes": pl.Int64,
    "prior_source": pl.String,
    "log_likelihood_ratio": pl.Float64,
    "rule_says": pl.String,
    "prior_says": pl.String,
    "reference_says": pl.String,
    "cnn_says": pl.String,
    "grounds_disagree": pl.Boolean,
    "window_token": pl.Int64,
    "window_start": pl.Int64,
    "window_end": pl.Int64,
    "suffix_start": pl.Int64,
    "window_tokens": pl.List(pl.Int32),
    "continuation_tokens": pl.List(pl.Int32),
    "prefix_text": pl.String,
    "suffix_pieces": _PIECES,
    "continuation_pieces": _PIECES,
    "token_logprobs": _VALUES,
    "reference_logprobs": _VALUES,
    "alternatives": _CHOICES,
}
"""Columns of `spans.parquet`, in order; docs/audit.md says what each is."""


@dataclass(frozen=True)
class SpanEvidence:
    """What was asked about the window that speaks for a span; S tokens of the suffix.

    A model behind an API does not tell everything: what it does not tell is None.

    Attributes:
        window: token ids of the window.
        suffix_pieces: text of each token of the suffix.
        continuation_pieces: text of each token that the model wrote.
        logprobs: log-probability of each token of the suffix, nats.
        sampling_logprob: log-probability of sampling the suffix in one try.
        tries: tries needed, None: it does not come out.
        alternatives: for each token the likeliest tokens as text and log-probability.
        alone_logprobs: log-probabilities without the prefix; the first may be NaN.
        prior: see `prior`, None where it was not asked.
        reference_score: share of matching tokens of the reference model, None without one.
        reference_logprobs: as `logprobs`, of the reference model.
        probability: that it is Recall, as the CNNs say; None where none says anything.
    """

    window: list[int]
    suffix_pieces: list[str]
    continuation_pieces: list[str]
    logprobs: list[float] | None
    sampling_logprob: float | None
    tries: int | None
    alternatives: list[list[dict[str, Any]]] | None
    alone_logprobs: list[float] | None
    prior: Prior | None
    reference_score: float | None
    reference_logprobs: list[float] | None
    probability: float | None = None


def span_row(
    span: Span,
    evidence: SpanEvidence,
    *,
    document: str,
    text: str,
    places: dict[str, int],
    threshold: float,
) -> dict[str, Any]:
    """One row of the table.

    Args:
        span: the span.
        evidence: of its window.
        document: name of its document.
        text: the document's text.
        places: characters: `start`, `end`, `window_start`, `suffix_start`, `window_end`.
        threshold: share of matching tokens from which on a text counts as reproduced.
    """
    row: dict[str, Any] = dict.fromkeys(SPAN_COLUMNS)
    row |= places
    row |= {"document": document, "text": text[places["start"] : places["end"]]}
    row |= _found(span, places, text) | _asked(evidence)
    reference = evidence.reference_score
    reproduces = None if reference is None else reference >= threshold - 1e-9
    row["reference_reproduces"] = reproduces
    return row | _grounds(span, evidence, reproduces)


def span_frame(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """The table of all spans; without rows it has all its columns."""
    return pl.DataFrame(list(rows), schema=SPAN_COLUMNS)


def _found(span: Span, places: dict[str, int], text: str) -> dict[str, Any]:
    """What the windows of the span say."""
    hit, ruling = span.hit, span.hit.ruling
    copied = "; all that the model writes stands in the prefix already" if span.is_copied else ""
    return {
        "verdict": span.verdict,
        "reason": ruling.reason + copied,
        "tokens": span.last - span.first,
        "score": hit.score,
        "common_prefix": hit.common,
        "verbatim_length": span.verbatim_length,
        "is_copied": span.is_copied,
        "windows": span.n_hits,
        "rouge_l": ruling.rouge_l,
        "rouge_3": ruling.rouge_3,
        "is_incrementing": ruling.is_incrementing,
        "is_repeating": ruling.is_repeating,
        "window_token": hit.first,
        "continuation_tokens": hit.continuation,
        "prefix_text": text[places["window_start"] : places["suffix_start"]],
    }


def _asked(evidence: SpanEvidence) -> dict[str, Any]:
    """What the models' outputs say."""
    own, reference, prior = evidence.logprobs, evidence.reference_logprobs, evidence.prior
    chance, ratio = evidence.sampling_logprob, None
    if own is not None and reference is not None:
        ratio = float((np.array(own) - reference).mean())
    return {
        "extraction_logprob": chance,
        "extraction_probability": None if chance is None else float(np.exp(chance)),
        "tries": evidence.tries,
        **_perplexities(own, evidence.alone_logprobs),
        "prior_gain": prior and prior.gain,
        "prior_reproduced": prior and prior.n_reproduced,
        "prior_prefixes": prior and prior.n_prefixes,
        "prior_source": prior and prior.source,
        "log_likelihood_ratio": ratio,
        "reference_score": evidence.reference_score,
        "reference_logprobs": reference,
        "probability": evidence.probability,
        "window_tokens": evidence.window,
        "suffix_pieces": evidence.suffix_pieces,
        "continuation_pieces": evidence.continuation_pieces,
        "token_logprobs": evidence.logprobs,
        "alternatives": evidence.alternatives,
    }


def _perplexities(own: list[float] | None, alone: list[float] | None) -> dict[str, float | None]:
    """With and without the prefix, over the tokens that both know."""
    if own is None:
        return {}
    values = np.array(own)
    if alone is None:
        return {"perplexity": float(np.exp(-values.mean()))}
    others = np.array(alone)
    both = ~np.isnan(others)
    return {
        "perplexity": float(np.exp(-values[both].mean())),
        "perplexity_without_prefix": float(np.exp(-others[both].mean())),
    }


def _grounds(span: Span, evidence: SpanEvidence, reference: bool | None) -> dict[str, Any]:
    """What each ground says by itself, and whether they differ."""
    # What comes out after half of the other prefixes or more needs none of its own. That it does
    # need its own says little (docs/audit.md), so the prior never says recall.
    prior, probability = evidence.prior, evidence.probability
    comes_anyway = prior is not None and 2 * prior.n_reproduced >= prior.n_prefixes
    prior_says = GUESS if comes_anyway else None
    reference_says = None if reference is None else (GUESS if reference else RECALL)
    cnn_says = None if probability is None else (RECALL if probability >= _EVEN else GUESS)
    said = {span.verdict, prior_says, reference_says, cnn_says} - {None}
    return _verdict(span, cnn_says, reference_says) | {
        "rule_says": span.hit.ruling.verdict,
        "prior_says": prior_says,
        "reference_says": reference_says,
        "cnn_says": cnn_says,
        "grounds_disagree": len(said) > 1,
    }


def _verdict(span: Span, cnn: str | None, reference: str | None) -> dict[str, Any]:
    """The rule's verdict; where CNN and reference were asked too, that of two of the three."""
    # docs/audit.md, "Which ground is right?", measures both.
    if cnn is None or cnn != reference or cnn == span.verdict:
        return {}
    of_rule = f"CNN and reference model both say {cnn}, against the rule"
    return {"verdict": cnn, "reason": f"{of_rule}: {span.hit.ruling.reason}"}
