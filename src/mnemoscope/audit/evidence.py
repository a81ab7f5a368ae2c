"""How likely a model finds a suffix: token by token, when sampling, and without its prefix.

All but the last from one teacher-forced forward of prefix and suffix.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.audit.settings import AuditSettings
from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import last_logits, prepend_bos
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["N_ALTERNATIVES", "Evidence", "alone_logprobs", "gather_evidence", "tries_needed"]

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
