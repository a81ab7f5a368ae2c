"""What a model that never saw the documents writes in place of a passage, and how likely."""

import numpy as np
import polars as pl

from mnemoscope.audits.asking import Answer, AskedModel, Auditing
from mnemoscope.audits.rule import GUESS, RECALL
from mnemoscope.audits.scan import ask_in_parts, passage_prompts
from mnemoscope.columns import Column

COLUMNS = {
    "reference_score": Column(pl.Float64, "share of the suffix that the reference gets right"),
    "reference_reproduces": Column(pl.Boolean, "whether that counts (`--threshold`)"),
    "reference_says": Column(pl.String, "`guess` where it does, else `recall`"),
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
            "reference_says": [GUESS if one else RECALL for one in found],
            "log_likelihood_ratio": [
                float((np.array(one) - other).mean())
                for one, other in zip(own, judged.logprobs, strict=True)
            ],
            "reference_logprobs": judged.logprobs.tolist(),
        }
    )
