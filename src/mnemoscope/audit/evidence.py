"""How likely a model finds a suffix: token by token, when sampling, and without its prefix.

All but the last from one teacher-forced forward of prefix and suffix.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from scipy.special import logsumexp

from mnemoscope.audit.documents import Tokens, token_texts
from mnemoscope.audit.ground import CnnGround, recall_probabilities
from mnemoscope.audit.rule import GUESS, RECALL
from mnemoscope.audit.scan import continue_windows, cut
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.spans import Span
from mnemoscope.errors import UserError
from mnemoscope.lm.model import LanguageModel, check_tokens, last_logits, prepend_bos, run_batches
from mnemoscope.progress import track

# How likely a model finds a suffix: token by token, when sampling, and without its prefix.

N_ALTERNATIVES = 3


class Evidence(NamedTuple):
    """What the model's output says of windows; n windows, S tokens of the suffix.

    Attributes:
        logprobs: natural logarithm of each true token's probability, (n, S), float64.
        sampling_logprob: that of sampling the whole suffix in one try, (n,), float64; -inf where
            a token is not among the `top_k`.
        alternatives: ids of the likeliest tokens at each place, (n, S, 3), int64.
        alternative_logprobs: their log-probabilities, (n, S, 3), float64.
        is_right: each true token is the likeliest, (n, S), bool.
    """

    logprobs: npt.NDArray[np.float64]
    sampling_logprob: npt.NDArray[np.float64]
    alternatives: npt.NDArray[np.int64]
    alternative_logprobs: npt.NDArray[np.float64]
    is_right: npt.NDArray[np.bool_]


def gather_evidence(lm: LanguageModel, windows: npt.ArrayLike, settings: AuditSettings) -> Evidence:
    """Ask a model about windows.

    Args:
        lm: the model.
        windows: token ids, shape (n, length), integers, n at least 1.
        settings: prefix, temperature and `top_k`.

    Source: the chance of one try is that of probabilistic discoverable extraction, Hayes et al.,
        arXiv 2410.19482.
    """
    table = check_tokens(lm, windows, prefix=settings.prefix)
    batches = list(
        run_batches(lm, table, settings.batch_size, lambda batch: _ask(lm, batch, settings))
    )
    return Evidence(*(np.concatenate(column) for column in zip(*batches, strict=True)))


def alone_logprobs(
    lm: LanguageModel, suffixes: npt.ArrayLike, *, batch_size: int
) -> npt.NDArray[np.float64]:
    """Log-probability of each token of suffixes that stand alone, without their prefix.

    Args:
        lm: the model.
        suffixes: token ids, shape (n, S), integers.
        batch_size: suffixes a forward.

    Returns:
        Shape (n, S), float64; the first is NaN where the model has no token to begin with.
    """
    table = check_tokens(lm, suffixes)

    def ask(batch: torch.Tensor) -> npt.NDArray[np.float64]:
        known = batch if lm.before else batch[:, 1:]
        with torch.inference_mode():
            logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), known.shape[1])
            values = _chosen(logits.float().log_softmax(dim=-1), known)
        missing = values.new_full((len(batch), batch.shape[1] - known.shape[1]), torch.nan)
        return torch.cat([missing, values], dim=1).double().cpu().numpy()

    return np.concatenate(list(run_batches(lm, table, batch_size, ask)))


def tries_needed(sampling_logprob: float, probability: float) -> int | None:
    """Tries for which the text comes out at least once with a probability.

    Args:
        sampling_logprob: natural logarithm of the chance of one try.
        probability: wanted, between 0 and 1.

    Returns:
        The smallest n with 1 - (1 - p)^n >= probability; None where it never comes out, or n
        would be beyond 2^63.

    >>> tries_needed(math.log(0.5), 0.9)
    4
    """
    if sampling_logprob == -math.inf:
        return None
    if sampling_logprob >= 0:
        return 1
    chance = math.exp(sampling_logprob)
    failure = math.log1p(-chance) if chance > 0 else 0.0
    if failure == 0.0:
        return None
    n = max(1, math.ceil(math.log1p(-probability) / failure - 1e-9))
    return n if n < 2**63 else None


def _ask(lm: LanguageModel, batch: torch.Tensor, settings: AuditSettings) -> Evidence:
    wanted = batch[:, settings.prefix :]
    with torch.inference_mode():
        logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), wanted.shape[1]).float()
        logprobs = logits.log_softmax(dim=-1)
        best = logprobs.topk(min(N_ALTERNATIVES, logprobs.shape[-1]), dim=-1)
        sampled = _sampling_logprobs(logits, wanted, settings).sum(dim=1)
        values = _chosen(logprobs, wanted)
        is_right = logits.argmax(dim=-1) == wanted
    return Evidence(
        values.double().cpu().numpy(),
        sampled.cpu().numpy(),
        best.indices.cpu().numpy(),
        best.values.double().cpu().numpy(),
        is_right.cpu().numpy(),
    )


def _sampling_logprobs(
    logits: torch.Tensor, wanted: torch.Tensor, settings: AuditSettings
) -> torch.Tensor:
    """Log-probability of drawing each token at a temperature from the top k, in float64."""
    scaled = logits.double() / settings.temperature
    drawn = _chosen(scaled, wanted)
    if not 0 < settings.top_k < scaled.shape[-1]:
        return drawn - scaled.logsumexp(dim=-1)
    best = scaled.topk(settings.top_k, dim=-1).values
    return (drawn - best.logsumexp(dim=-1)).masked_fill(drawn < best[..., -1], -torch.inf)


def _chosen(values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Value of one token a place, (batch, places) from (batch, places, vocabulary)."""
    return values.gather(-1, tokens[..., None]).squeeze(-1)


# Does a text come out whatever stands before it? Its probability under other prefixes.

_FROM_OTHERS, _FROM_SAME = "other documents", "other places of the document"


class Prior(NamedTuple):
    """The prior of one window.

    Attributes:
        gain: log-probability of the suffix after its own prefix minus that of the average of the
            others, in nats; near 0: it comes out whatever stands before it.
        n_reproduced: other prefixes after which the model writes the whole suffix.
        n_prefixes: how many others there were.
        source: where they come from, in words.
    """

    gain: float
    n_reproduced: int
    n_prefixes: int
    source: str


def find_priors(
    lm: LanguageModel,
    windows: npt.NDArray[np.int32],
    own_logprobs: npt.NDArray[np.float64],
    others: Sequence[tuple[npt.NDArray[np.int32], str]],
    settings: AuditSettings,
) -> list[Prior | None]:
    """Compare each suffix after its own prefix with the same after others.

    Args:
        lm: the model.
        windows: token ids, shape (n, length).
        own_logprobs: log-probability of the suffix after its own prefix, shape (n,).
        others: other prefixes (k, prefix) of each window, k may be 0, and where they come from.
        settings: prefix and batch size.

    Returns:
        One prior a window, None where there was no other prefix.
    """
    pieces = [
        np.hstack([prefixes, np.tile(window[settings.prefix :], (len(prefixes), 1))])
        for window, (prefixes, _) in zip(windows, others, strict=True)
    ]
    rows = np.concatenate(pieces) if pieces else np.empty((0, settings.length), np.int32)
    if not len(rows):
        return [None] * len(windows)
    found = gather_evidence(lm, rows, settings)
    sums = found.logprobs.sum(axis=1)
    is_whole = np.asarray(found.is_right.all(axis=1))
    ends = np.cumsum([len(piece) for piece in pieces])
    return [
        compare_prefixes(
            own, sums[end - len(prefixes) : end], is_whole[end - len(prefixes) : end], source
        )
        for own, end, (prefixes, source) in zip(own_logprobs, ends, others, strict=True)
    ]


def other_prefixes(
    documents: Sequence[Tokens], place: tuple[int, int], settings: AuditSettings
) -> tuple[npt.NDArray[np.int32], str]:
    """Draw prefixes of other documents; where there is none, of distant places of this one.

    Args:
        documents: tokens of every document.
        place: number of the document and first token of the window.
        settings: prefix, `n_prefixes` and seed: the same place gets the same prefixes.

    Returns:
        Token ids, shape (k, prefix), k at most `n_prefixes`, and where they come from.
    """
    number, first = place
    generator = np.random.default_rng([settings.seed, number, first])
    starts = np.array(
        [max(len(tokens.ids) - settings.prefix + 1, 0) for tokens in documents], dtype=np.int64
    )
    starts[number] = 0
    if starts.sum():
        source, ends = _FROM_OTHERS, np.cumsum(starts)
        drawn = generator.integers(0, ends[-1], settings.n_prefixes)
        owners = np.searchsorted(ends, drawn, side="right")
        places = [
            (int(o), int(d - ends[o] + starts[o])) for o, d in zip(owners, drawn, strict=True)
        ]
    else:
        source = _FROM_SAME
        n = len(documents[number].ids) - settings.prefix + 1
        before, after = max(first - settings.prefix + 1, 0), first + settings.length
        far = np.concatenate([np.arange(before), np.arange(after, max(n, after))])
        drawn = generator.choice(far, settings.n_prefixes) if len(far) else far
        places = [(number, int(one)) for one in drawn]
    rows = [documents[owner].ids[start : start + settings.prefix] for owner, start in places]
    return np.array(rows, dtype=np.int32).reshape(-1, settings.prefix), source


def compare_prefixes(
    own: float, others: npt.NDArray[np.float64], is_whole: npt.NDArray[np.bool_], source: str
) -> Prior | None:
    """The prior of one window.

    Args:
        own: log-probability of the suffix after its own prefix.
        others: the same after k others, shape (k,).
        is_whole: after which of them the model writes the whole suffix, shape (k,).
        source: where they come from, in words.

    Returns:
        None where there was no other prefix.
    """
    if not len(others):
        return None
    average = float(logsumexp(others)) - float(np.log(len(others)))
    return Prior(float(own) - average, int(is_whole.sum()), len(others), source)


# The table of spans: one row a span, with its verdict, its grounds and its evidence.

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


# Gather the evidence of all spans: the audited model, other prefixes, reference model, CNNs.

_SPANS_AT_ONCE = 256  # bounds the memory that other prefixes take


def ask_about(
    lm: LanguageModel,
    documents: Sequence[Tokens],
    spans: Sequence[tuple[int, Span]],
    *,
    settings: AuditSettings,
    reference: LanguageModel | None = None,
    cnn: CnnGround | None = None,
) -> list[SpanEvidence]:
    """Ask the models about the window of each span.

    Args:
        lm: the audited model.
        documents: tokens of every document.
        spans: number of the document and the span.
        settings: of the audit.
        reference: a model of the same tokenizer, or None.
        cnn: the CNNs of a study of the audited model, or None.

    Returns:
        One piece of evidence a span.
    """
    found: list[SpanEvidence] = []
    with track("Gathering evidence", total=len(spans), unit="spans") as progress:
        for start in range(0, len(spans), _SPANS_AT_ONCE):
            chunk = spans[start : start + _SPANS_AT_ONCE]
            found += _ask_ask(lm, documents, chunk, settings, reference, cnn)
            progress.advance(len(chunk))
    return found


def check_same_tokens(lm: LanguageModel, reference: LanguageModel) -> None:
    """Refuse a reference whose token ids mean something else.

    Args:
        lm: the audited model.
        reference: the model to stand beside it.

    Raises:
        UserError: another vocabulary.
    """
    if lm.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise UserError(
            f"{reference.name}: another tokenizer than {lm.name}'s, so the same ids would be "
            "another text. Choose a reference model of the same family."
        )


def _ask_ask(
    lm: LanguageModel,
    documents: Sequence[Tokens],
    spans: Sequence[tuple[int, Span]],
    settings: AuditSettings,
    reference: LanguageModel | None,
    cnn: CnnGround | None,
) -> list[SpanEvidence]:
    places = [(number, span.hit.first) for number, span in spans]
    windows = cut(documents, places, settings.length)
    asked = gather_evidence(lm, windows, settings)
    suffixes = windows[:, settings.prefix :]
    alone = alone_logprobs(lm, suffixes, batch_size=settings.batch_size)
    others = [other_prefixes(documents, place, settings) for place in places]
    priors = find_priors(lm, windows, asked.logprobs.sum(axis=1), others, settings)
    scores, logprobs = _ask_reference(reference, windows, settings)
    probabilities = recall_probabilities(cnn, lm, windows, batch_size=settings.batch_size)
    return [
        SpanEvidence(
            window=windows[row].tolist(),
            suffix_pieces=token_texts(lm.tokenizer, suffixes[row]),
            continuation_pieces=token_texts(lm.tokenizer, span.hit.continuation),
            logprobs=asked.logprobs[row].tolist(),
            sampling_logprob=float(asked.sampling_logprob[row]),
            tries=tries_needed(float(asked.sampling_logprob[row]), settings.probability),
            alternatives=_alternatives(lm.tokenizer, asked, row),
            alone_logprobs=alone[row].tolist(),
            prior=priors[row],
            reference_score=None if scores is None else float(scores[row]),
            reference_logprobs=None if logprobs is None else logprobs[row].tolist(),
            probability=probabilities[row],
        )
        for row, (_, span) in enumerate(spans)
    ]


def _ask_reference(
    reference: LanguageModel | None, windows: npt.NDArray[np.int32], settings: AuditSettings
) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None]:
    """Share of matching tokens, decoded to the end, and log-probabilities."""
    if reference is None:
        return None, None
    batches = continue_windows(
        reference,
        windows,
        prefix=settings.prefix,
        n_allowed=settings.suffix,
        batch_size=settings.batch_size,
    )
    scores = np.concatenate([batch.score for batch in batches])
    return scores, gather_evidence(reference, windows, settings).logprobs


def _alternatives(tokenizer: Any, asked: Evidence, row: int) -> list[list[dict[str, Any]]]:
    """The likeliest tokens at each place of one suffix, as text."""
    ids, values = asked.alternatives[row], asked.alternative_logprobs[row]
    texts = iter(token_texts(tokenizer, ids))
    return [[{"text": next(texts), "logprob": float(one)} for one in place] for place in values]
