"""How likely a model finds given tokens, from one teacher-forced forward a row."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.audit.documents import token_texts
from mnemoscope.audit.evidence import Choices, Judged
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.lm.model import LanguageModel, check_tokens, last_logits, prepend_bos, run_batches

N_ALTERNATIVES = 3


def judge_tokens(lm: LanguageModel, rows: npt.ArrayLike, settings: AuditSettings) -> Judged:
    """Ask how likely a model finds the suffix of each row, from one teacher-forced forward.

    `rows` are token ids, shape (n, length), n at least 1; of the suffix's length it stands alone.
    """
    table = check_tokens(lm, rows)

    def ask(batch: torch.Tensor) -> tuple[npt.NDArray[Any], ...]:
        wanted = batch[:, -settings.suffix :]
        if not lm.before and batch.shape[1] == settings.suffix:
            wanted = wanted[:, 1:]  # nothing is read before the first
        with torch.inference_mode():
            logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), wanted.shape[1])
            # Place by place: of a large vocabulary no second copy of all logits is made.
            places = [
                judge(logits[:, [at]].float(), wanted[:, [at]]) for at in range(wanted.shape[1])
            ]
        values, sampled, is_best, ids, best = (
            torch.cat(one, 1) for one in zip(*places, strict=True)
        )
        missing = values.new_full((len(values), settings.suffix - values.shape[1]), torch.nan)
        found = (torch.cat([missing, values], 1), sampled.sum(dim=1), is_best.all(dim=1), ids, best)
        return tuple(one.cpu().numpy() for one in found)

    def judge(logits: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logprobs = logits.log_softmax(dim=-1)
        best = logprobs.topk(min(N_ALTERNATIVES, logprobs.shape[-1]), dim=-1)
        sampled = sampling_logprobs(logits, wanted, settings)
        is_best = logits.argmax(dim=-1) == wanted
        return (
            chosen_logprobs(logprobs, wanted).double(),
            sampled,
            is_best,
            best.indices,
            best.values,
        )

    made = run_batches(lm, table, settings.batch_size, ask, places=settings.suffix)
    batches = zip(*made, strict=True)
    logprobs, sampled, is_whole, ids, values = map(np.concatenate, batches)

    def choices(row: int) -> Choices:
        texts = iter(token_texts(lm.tokenizer, ids[row]))
        return [
            [{"text": next(texts), "logprob": float(one)} for one in place] for place in values[row]
        ]

    return Judged(logprobs, sampled, is_whole, choices)


def sampling_logprobs(
    logits: torch.Tensor, wanted: torch.Tensor, settings: AuditSettings
) -> torch.Tensor:
    """Log-probability of drawing each token at a temperature from the top k, in float64."""
    scaled = logits.double() / settings.temperature
    drawn = chosen_logprobs(scaled, wanted)
    if not 0 < settings.top_k < scaled.shape[-1]:
        return drawn - scaled.logsumexp(dim=-1)
    best = scaled.topk(settings.top_k, dim=-1).values
    return (drawn - best.logsumexp(dim=-1)).masked_fill(drawn < best[..., -1], -torch.inf)


def chosen_logprobs(values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Value of one token a place, (batch, places) from (batch, places, vocabulary)."""
    return values.gather(-1, tokens[..., None]).squeeze(-1)
