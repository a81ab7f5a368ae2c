"""What a model that never saw the documents writes in place of a passage, and how likely."""

import numpy as np
import polars as pl

from mnemoscope.audits.asking import Answer, AskedModel, Auditing
from mnemoscope.audits.rule import GUESS, RECALL
from mnemoscope.audits.scan import ask_in_parts, passage_prompts
from mnemoscope.audits.verdict import is_nearly_same
from mnemoscope.columns import Column

WINDOWS = 32
"""Rows of shuffled tokens that `apart` asks both models for."""

COLUMNS = {
    "reference_score": Column(pl.Float64, "share of the suffix that the reference gets right"),
    "reference_reproduces": Column(pl.Boolean, "whether that counts (`--threshold`)"),
    "reference_says": Column(
        pl.String, "`guess` where it does, else `recall`; null: it is no control"
    ),
    "log_likelihood_ratio": Column(pl.Float64, "mean of model minus reference a token, nats"),
    "reference_logprobs": Column(
        pl.List(pl.Float64), "log-probability of each token by the reference"
    ),
}


def _of(audit: Auditing) -> AskedModel:
    assert audit.reference is not None
    return audit.reference


def depends(audit: Auditing) -> object:
    """What the reference is; UserError: its token ids mean something else."""
    from mnemoscope.study.models import check_same_tokens

    other = _of(audit)
    facts = other.facts()
    check_same_tokens(audit.lm, str(facts.record["name"]), other.splitter.tokenizer)
    return facts.identity


def apart(audit: Auditing) -> float | None:
    """How far the reference is from the model: mean difference of log-probabilities, nats a token.

    Of the documents' own tokens, shuffled by a seed, so that what either knows by heart plays no
    part. Weights tell less: a copy at 8 bits is further from the model than 20 steps of training
    lead.
    """
    if audit.reference is None:
        return None
    length = audit.settings.length
    ids = np.concatenate([text.tokens.ids for text in audit.texts])
    drawn = np.random.default_rng(0).permutation(ids)[: WINDOWS * length]
    rows = drawn[: len(drawn) // length * length].reshape(-1, length).astype(np.int32)
    own, other = audit.model.logprobs(rows), audit.reference.logprobs(rows)
    if own is None or other is None:
        return None
    return float(np.nanmean(np.abs(own.logprobs - other.logprobs)))


def ask(audit: Auditing) -> Answer:
    """Ask the reference for the same windows."""
    settings, windows, other = audit.settings, audit.windows, _of(audit)
    if not len(windows):
        return Answer()
    beside, prompts = Auditing(other, audit.texts, settings), passage_prompts(audit)
    scores = [one.score for one in ask_in_parts(beside, prompts, "end", "Asking the reference")]
    judged = other.logprobs(windows)
    own = audit.passages["token_logprobs"].to_list()
    assert judged is not None  # it runs here
    found = [score is not None and score >= settings.threshold - 1e-9 for score in scores]
    return Answer(
        {
            "reference_score": scores,
            "reference_reproduces": found,
            "reference_says": [
                None if is_nearly_same(audit.apart) else GUESS if one else RECALL for one in found
            ],
            "log_likelihood_ratio": [
                float((np.array(one) - other).mean())
                for one, other in zip(own, judged.logprobs, strict=True)
            ],
            "reference_logprobs": judged.logprobs.tolist(),
        }
    )
