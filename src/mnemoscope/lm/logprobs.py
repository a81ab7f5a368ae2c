"""How likely a model finds each token of a suffix, teacher-forced: what its output gives away."""

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import last_logits, prepend_bos
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["suffix_logprobs"]


def suffix_logprobs(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int, prefix: int = 32
) -> npt.NDArray[np.float32]:
    """Give the log-probability of every suffix token after the true tokens before it.

    Args:
        lm: the model; its native attention backend is used.
        tokens: sequences, shape (n, T), integers.
        batch_size: sequences at once; halved, and said so, when memory runs out.
        prefix: tokens of the prefix.

    Returns:
        Natural logarithms, shape (n, T - prefix), float32, at most 0.

    Raises:
        UserError: tokens that do not fit the model.
        NoRoomError: not even one sequence fits into memory.
    """
    table = check_tokens(lm, tokens, prefix=prefix)
    result = np.empty((len(table), table.shape[1] - prefix), dtype=np.float32)
    start = 0
    for values in run_batches(lm, table, batch_size, lambda batch: _batch(lm, batch, prefix)):
        result[start : start + len(values)] = values
        start += len(values)
    return result


def _batch(lm: LanguageModel, batch: torch.Tensor, prefix: int) -> npt.NDArray[np.float32]:
    suffixes = batch[:, prefix:]
    with torch.inference_mode():
        logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), suffixes.shape[1])
        # Position by position: a float32 copy of all logits would be the largest tensor by far.
        columns = [
            _chosen(logits[:, position], suffixes[:, position])
            for position in range(suffixes.shape[1])
        ]
    return torch.stack(columns, dim=1).cpu().numpy()


def _chosen(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability (batch,) of one token a row, from logits (batch, vocabulary), in float32."""
    logits = logits.float()
    return logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(dim=1)
