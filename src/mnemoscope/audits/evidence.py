"""What speaks for a passage: how likely the model finds it, and what each ground says."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field
from scipy.special import logsumexp
from typing_extensions import TypedDict

from mnemoscope.audits.documents import Document, Tokens, character_range, token_texts
from mnemoscope.audits.rule import GUESS, RECALL, decide
from mnemoscope.audits.settings import MOST_COPIED, AuditSettings
from mnemoscope.audits.spans import Extension, Place, Span, cut

_PIECES = pl.List(pl.String)
_VALUES = pl.List(pl.Float64)

LATER_COLUMNS: dict[str, Any] = {
    "grafts": pl.Int64,
    "grafts_survived": pl.Int64,
    "broken_by": _PIECES,
    "grafts_say": pl.String,
    "needed": pl.List(pl.Struct({"token": pl.Int64, "text": pl.String, "effect": pl.Float64})),
    "needed_copied": pl.Float64,
    "needs_say": pl.String,
    "run_without_needed": pl.Int64,
    "run_without_equal_mass": pl.Float64,
    "within_edits": pl.Int64,
    "within_logprob": pl.Float64,
    "within_texts": pl.Int64,
    "origin_count": pl.Int64,
    "origin_suffix_count": pl.Int64,
}
"""Columns that earlier versions did not write."""

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
    **LATER_COLUMNS,
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
    "alternatives": pl.List(pl.List(pl.Struct({"text": pl.String, "logprob": pl.Float64}))),
}
"""Columns of `spans.parquet`, in order; docs/audit-files.md says what each is."""

Logprob = Annotated[float, Field(lt=1e-3, allow_inf_nan=False)]
"""Natural logarithm of a probability; above 0 by rounding alone."""


class Choice(TypedDict):
    """A likely token."""

    text: str
    logprob: Logprob


Choices = list[list[Choice]]
"""For each token of a suffix the likeliest tokens."""


class Written(NamedTuple):
    """What the model wrote after one prefix: pieces and, where known, what it says of each.

    `logprobs` are those of a suffix that came out whole, `choices` the likeliest tokens.
    """

    pieces: list[str]
    logprobs: list[float] | None = None
    choices: Choices | None = None


class TokenScores(NamedTuple):
    """What a model says of n given rows of tokens, of the last S of each."""

    # Natural logarithm of each token's probability, (n, S), float64; NaN of a first token before
    # which the model reads nothing.
    logprobs: npt.NDArray[np.float64]
    # That of drawing all S in one try, (n,); -inf where a token cannot be drawn.
    sampling: npt.NDArray[np.float64]
    is_whole: npt.NDArray[np.bool_]  # each token is the likeliest, (n,), bool
    choices: Callable[[int], Choices]  # gives the likeliest tokens at each place of a row


class ReferenceEvidence(NamedTuple):
    """What others than the audited model say of n windows; None: not asked.

    The reference's share of right suffix tokens (n,) and log-probabilities (n, S), and the CNNs'
    probability of Recall, one a window.
    """

    scores: npt.NDArray[np.float64] | None
    logprobs: npt.NDArray[np.float64] | None
    probabilities: Sequence[float | None]


class AuditedModel(Protocol):
    """A model as an audit asks it: it writes on in documents, and says how likely it finds them.

    `fingerprint` is that of its weights; None of a model behind an API. `tokens` are those of the
    documents, or words in their place; `tokenizer` gives their text. A method with a body here
    answers for models that cannot be asked.
    """

    name: str
    fingerprint: str | None
    settings: AuditSettings
    tokenizer: Any
    documents: Sequence[Document]
    tokens: Sequence[Tokens]

    def identity(self) -> dict[str, Any]:
        """What of the model, and of what stands beside it, decides what an audit says."""

    def facts(self, spans: pl.DataFrame, /) -> dict[str, Any]:
        """What is recorded of it: `model`, `reference`, `cnn` and, behind an API, `api`."""

    def resume(self, _out: Path, _key: str, /) -> None:
        """Keep what is asked in a folder, and take what an earlier run kept under the key."""
        return

    def is_whole(self, _place: Place, /) -> bool:
        """Whether the prompt of a window may end where it ends; of token ids anywhere."""
        return True

    def continue_at(self, places: Sequence[Place], *, around: bool) -> pl.DataFrame:
        """Continue windows, `around` finds or everywhere; columns `spans.WINDOW_COLUMNS`."""

    def extend(self, places: Sequence[Place]) -> list[Extension]:
        """How far it goes on from the prefix of windows."""

    def write_on(self, _places: Sequence[Place], /) -> list[list[int]] | None:
        """What it writes from the prefix of windows, further than a window; None: not asked."""
        return None

    def profile(self) -> pl.DataFrame | None:
        """The chance by position, columns `profile.PROFILE_COLUMNS`; None: not asked."""
        return None

    @property
    def is_chat(self) -> bool:
        """Whether `answer` puts a prompt as a user's question."""
        return False

    def answer(self, prompts: Sequence[str]) -> dict[str, list[str]]:
        """Answers drawn to prompts by the ``model`` and, where there is one, the ``reference``."""

    def split(self, text: str) -> Tokens:
        """Tokens of a text, as those of the documents were made."""

    def gather(self, spans: Sequence[tuple[int, Span]]) -> list[dict[str, Any]]:
        """The evidence of spans, each with the number of its document."""

    def repeats(self, rows: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Whether it writes again what rows of `spans.parquet` say."""

    def written(self, spans: Sequence[tuple[int, Span]]) -> list[Written]:
        """What it wrote in the window that speaks for each span."""

    def score_tokens(self, rows: npt.NDArray[np.int32]) -> TokenScores | None:
        """How likely it finds given tokens; None where it cannot be asked that."""

    def beside(self, windows: npt.NDArray[np.int32]) -> ReferenceEvidence:
        """What reference model and CNNs say."""
        return ReferenceEvidence(None, None, [None] * len(windows))


class Prior(NamedTuple):
    """Does a suffix come out whatever stands before it?"""

    # Log-probability of the suffix after its own prefix minus that of the average of the others, in
    # nats; near 0: it comes out whatever stands before it.
    gain: float
    n_reproduced: int  # other prefixes after which the model writes the whole suffix
    n_prefixes: int  # how many others there were
    source: str  # where they come from, in words


def gather_evidence(model: AuditedModel, spans: Sequence[tuple[int, Span]]) -> list[dict[str, Any]]:
    """Ask about the window that speaks for each span, given with the number of its document.

    Gives for each the columns of `SPAN_COLUMNS` that the models answer; None: not told. Source: the
    chance of one try is that of probabilistic discoverable extraction, Hayes et al., arXiv
    2410.19482.
    """
    settings = model.settings
    places = [(number, span.hit.first) for number, span in spans]
    windows = cut(model.tokens, places, settings.length)
    suffixes = windows[:, settings.prefix :]
    written = model.written(spans)
    own = alone = None
    priors: list[Prior | None] = [None] * len(spans)
    if spans and (own := model.score_tokens(windows)) is not None:
        alone = model.score_tokens(suffixes)
        others = [other_prefixes(model.tokens, place, settings) for place in places]
        priors = find_priors(model, windows, own.logprobs.sum(axis=1), others)
    scores, beside, probabilities = model.beside(windows)
    found = []
    for row, one in enumerate(written):
        logprobs, chance, choices, ratio = one.logprobs, None, one.choices, None
        if own is not None:
            logprobs, chance = own.logprobs[row].tolist(), float(own.sampling[row])
            choices = own.choices(row)
        elif logprobs is not None:
            # Pieces of words multiply to the chance of the tokens as the model wrote them.
            chance = float(math.fsum(logprobs))
        if logprobs is not None and beside is not None:
            ratio = float((np.array(logprobs) - beside[row]).mean())
        prior = priors[row]
        found.append(
            {
                "window_tokens": windows[row].tolist(),
                "suffix_pieces": token_texts(model.tokenizer, suffixes[row]),
                "continuation_pieces": one.pieces,
                "token_logprobs": logprobs,
                "alternatives": choices,
                "extraction_logprob": chance,
                "extraction_probability": None if chance is None else float(np.exp(chance)),
                "tries": None if chance is None else tries_needed(chance, settings.probability),
                **_perplexities(logprobs, None if alone is None else alone.logprobs[row]),
                "prior_gain": prior and prior.gain,
                "prior_reproduced": prior and prior.n_reproduced,
                "prior_prefixes": prior and prior.n_prefixes,
                "prior_source": prior and prior.source,
                "log_likelihood_ratio": ratio,
                "reference_score": None if scores is None else float(scores[row]),
                "reference_logprobs": None if beside is None else beside[row].tolist(),
                "probability": probabilities[row],
            }
        )
    return found


def _perplexities(
    own: list[float] | None, alone: npt.NDArray[np.float64] | None
) -> dict[str, float]:
    """With and without the prefix, over the tokens that both know."""
    if own is None:
        return {}
    values = np.array(own)
    if alone is None:
        return {"perplexity": float(np.exp(-values.mean()))}
    both = ~np.isnan(alone)
    return {
        "perplexity": float(np.exp(-values[both].mean())),
        "perplexity_without_prefix": float(np.exp(-alone[both].mean())),
    }


def tries_needed(sampling_logprob: float, probability: float) -> int | None:
    """Smallest n with 1 - (1 - p)^n >= probability, p = exp(sampling_logprob) that of one try.

    None where the text never comes out, or n would be beyond 2^63.

    >>> tries_needed(math.log(0.5), 0.9)
    4
    """
    if sampling_logprob >= 0:
        return 1
    chance = math.exp(sampling_logprob)
    failure = math.log1p(-chance) if chance > 0 else 0.0
    if failure == 0.0:
        return None
    n = max(1, math.ceil(math.log1p(-probability) / failure - 1e-9))
    return n if n < 2**63 else None


def find_priors(
    model: AuditedModel,
    windows: npt.NDArray[np.int32],
    own_logprobs: npt.NDArray[np.float64],
    others: Sequence[tuple[npt.NDArray[np.int32], str]],
) -> list[Prior | None]:
    """Compare each suffix after its own prefix with the same after others, one prior a window.

    `windows` are token ids, shape (n, length), `own_logprobs` those of the suffix after its own
    prefix, (n,), `others` other prefixes (k, prefix), k may be 0, and where they come from.
    """
    pieces = [
        np.hstack([prefixes, np.tile(window[model.settings.prefix :], (len(prefixes), 1))])
        for window, (prefixes, _) in zip(windows, others, strict=True)
    ]
    rows = np.concatenate(pieces)
    judged = model.score_tokens(rows) if len(rows) else None
    if judged is None:
        return [None] * len(windows)
    sums = judged.logprobs.sum(axis=1)
    ends = np.cumsum([len(piece) for piece in pieces])
    return [
        compare_prefixes(
            own, sums[end - len(prefixes) : end], judged.is_whole[end - len(prefixes) : end], source
        )
        for own, end, (prefixes, source) in zip(own_logprobs, ends, others, strict=True)
    ]


def other_prefixes(
    documents: Sequence[Tokens], place: tuple[int, int], settings: AuditSettings
) -> tuple[npt.NDArray[np.int32], str]:
    """Draw prefixes of other documents; where there is none, of distant places of this one.

    The same place and seed get the same prefixes: token ids, shape (k, prefix), k at most
    `n_prefixes`, and where they come from.
    """
    number, first = place
    generator = np.random.default_rng([settings.seed, number, first])
    starts = np.array(
        [max(len(tokens.ids) - settings.prefix + 1, 0) for tokens in documents], dtype=np.int64
    )
    starts[number] = 0
    if starts.sum():
        source, ends = "other documents", np.cumsum(starts)
        drawn = generator.integers(0, ends[-1], settings.n_prefixes)
        owners = np.searchsorted(ends, drawn, side="right")
        places = [
            (int(o), int(d - ends[o] + starts[o])) for o, d in zip(owners, drawn, strict=True)
        ]
    else:
        source = "other places of the document"
        n = len(documents[number].ids) - settings.prefix + 1
        before, after = max(first - settings.prefix + 1, 0), first + settings.length
        far = np.concatenate([np.arange(before), np.arange(after, max(n, after))])
        drawn = generator.choice(far, settings.n_prefixes) if len(far) else far
        places = [(number, int(one)) for one in drawn]
    return cut(documents, places, settings.prefix), source


def compare_prefixes(
    own: float, others: npt.NDArray[np.float64], is_whole: npt.NDArray[np.bool_], source: str
) -> Prior | None:
    """The prior of one window; `own` and `others` (k,) are log-probabilities of the suffix.

    `is_whole`: after which of the others the model writes the whole suffix, shape (k,).
    """
    if not len(others):
        return None
    average = float(logsumexp(others)) - float(np.log(len(others)))
    return Prior(float(own) - average, int(is_whole.sum()), len(others), source)


def span_table(
    documents: Sequence[Document],
    tokens: Sequence[Tokens],
    spans: Sequence[tuple[int, Span]],
    evidence: Sequence[dict[str, Any]],
    settings: AuditSettings,
) -> pl.DataFrame:
    """The table of spans with what was asked about each; columns `SPAN_COLUMNS`."""
    rows = []
    for (number, span), one in zip(spans, evidence, strict=True):
        document, own, first = documents[number], tokens[number], span.hit.first
        start, end = character_range(own, span.first, span.last)
        window_start, window_end = character_range(own, first, first + settings.length)
        suffix_start = int(own.starts[first + settings.prefix])
        row = span_row(span, one, threshold=settings.threshold) | {
            "document": document.name,
            "start": start,
            "end": end,
            "window_start": window_start,
            "suffix_start": suffix_start,
            "window_end": window_end,
            "text": document.text[start:end],
            "prefix_text": document.text[window_start:suffix_start],
        }
        rows.append(row)
    return pl.DataFrame(rows, schema=SPAN_COLUMNS)


def span_row(span: Span, evidence: dict[str, Any], *, threshold: float) -> dict[str, Any]:
    """What the windows of a span and the models say, and the verdict that follows.

    The verdict is `decide`'s; docs/audit-evidence.md measures the grounds.
    """
    hit, ruling = span.hit, span.hit.ruling
    score, probability = evidence["reference_score"], evidence["probability"]
    reproduces = None if score is None else score >= threshold - 1e-9
    reference = None if reproduces is None else (GUESS if reproduces else RECALL)
    cnn = None if probability is None else (RECALL if probability >= 0.5 else GUESS)
    # What comes out after half of the other prefixes or more needs none of its own. That it does
    # need its own says little (docs/audit-evidence.md), so the prior never says recall.
    n_others = evidence["prior_prefixes"]
    comes_anyway = n_others is not None and 2 * evidence["prior_reproduced"] >= n_others
    prior = GUESS if comes_anyway else None
    n_grafts = evidence.get("grafts")
    grafts = None
    if n_grafts is not None:
        grafts = RECALL if 2 * evidence["grafts_survived"] <= n_grafts else GUESS
    copied = evidence.get("needed_copied")
    needs = None if copied is None else (RECALL if copied < MOST_COPIED else GUESS)
    verdict, reason = decide(span.verdict, reference, cnn, grafts, needs), ruling.reason
    if verdict != span.verdict:
        beside = "CNN" if cnn else "its grafts" if grafts else "what it needs"
        reason = f"reference model and {beside} both say {verdict}, against the rule: {reason}"
    elif span.is_copied:
        reason += "; all that the model writes stands in the prefix already"
    return dict.fromkeys(SPAN_COLUMNS) | {
        "verdict": verdict,
        "reason": reason,
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
        "reference_reproduces": reproduces,
        "rule_says": ruling.verdict,
        "prior_says": prior,
        "reference_says": reference,
        "cnn_says": cnn,
        "grafts_say": grafts,
        "needs_say": needs,
        "grounds_disagree": len({span.verdict, prior, reference, cnn, grafts, needs} - {None}) > 1,
        **evidence,
    }
