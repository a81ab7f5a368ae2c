"""How likely the model finds a passage, token by token and as one answer.

Source: the chance of one try is that of probabilistic discoverable extraction, Hayes et al., arXiv
2410.19482.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.audits.asking import Answer, Auditing, Choices
from mnemoscope.audits.scan import ask_in_parts, passage_prompts
from mnemoscope.columns import Column

COLUMNS = {
    "extraction_logprob": Column(
        pl.Float64, "natural logarithm of the chance of one try; null where a service says none"
    ),
    "tries": Column(pl.Int64, "tries needed (`--probability`); null where it does not come out"),
    "perplexity": Column(pl.Float64, "of the suffix after its prefix"),
    "perplexity_without_prefix": Column(
        pl.Float64,
        "of the same tokens alone; a model without a token to begin with cannot judge the first",
    ),
    "token_logprobs": Column(pl.List(pl.Float64), "log-probability of each token of the suffix"),
    "alternatives": Column(
        pl.List(pl.List(pl.Struct({"text": pl.String, "logprob": pl.Float64}))),
        "the likeliest tokens at each place",
    ),
}


def ask(audit: Auditing) -> Answer:
    """How likely each suffix is; of a service that judges no text, as it said while it wrote."""
    windows, settings = audit.windows, audit.settings
    if not len(windows):
        return Answer()
    own = audit.model.logprobs(windows)
    alone = None if own is None else audit.model.logprobs(windows[:, settings.prefix :])
    logprobs: list[list[float] | None]
    choices: list[Choices | None]
    if own is not None:
        logprobs, chances = own.logprobs.tolist(), own.sampling.tolist()
        choices = [own.choices(row) for row in range(len(windows))]
    else:
        written = ask_in_parts(audit, passage_prompts(audit), "miss", "Gathering evidence")
        logprobs, choices = [one.logprobs for one in written], [one.choices for one in written]
        # Pieces of words multiply to the chance of the tokens as the model wrote them.
        chances = [None if one is None else math.fsum(one) for one in logprobs]
    tries = [None if one is None else tries_needed(one, settings.probability) for one in chances]
    columns: dict[str, list[Any]] = {
        "extraction_logprob": chances,
        "tries": tries,
        "token_logprobs": logprobs,
        "alternatives": choices,
        "perplexity": [],
        "perplexity_without_prefix": [],
    }
    for row, one in enumerate(logprobs):
        whole, bare = _perplexities(one, None if alone is None else alone.logprobs[row])
        columns["perplexity"].append(whole)
        columns["perplexity_without_prefix"].append(bare)
    return Answer(columns)


def _perplexities(
    own: list[float] | None, alone: npt.NDArray[np.float64] | None
) -> tuple[float | None, float | None]:
    """With and without the prefix, over the tokens that both know; None: not known."""
    if own is None:
        return None, None
    values = np.array(own)
    if alone is None:
        return float(np.exp(-values.mean())), None
    both = ~np.isnan(alone)
    return float(np.exp(-values[both].mean())), float(np.exp(-alone[both].mean()))


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
