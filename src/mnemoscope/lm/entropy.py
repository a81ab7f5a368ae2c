"""How uncertain a model is of each next token: the entropy of what it predicts, in nats."""

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import last_logits, prepend_bos
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["next_token_entropy"]


def next_token_entropy(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int
) -> npt.NDArray[np.float32]:
    """Give the entropy of the prediction of every token after the ones before it.

    Args:
        lm: the model; its native attention backend is used.
        tokens: sequences, shape (n, T), integers.
        batch_size: sequences at once; halved, and said so, when memory runs out.

    Returns:
        Nats, shape (n, T - 1), float32: column i is of token i + 1; the first token has no
        prediction.

    Raises:
        UserError: tokens that do not fit the model.
        NoRoomError: not even one sequence fits into memory.
    """
    table = check_tokens(lm, tokens, prefix=1)
    found = np.empty((len(table), table.shape[1] - 1), dtype=np.float32)
    start = 0
    for values in run_batches(lm, table, batch_size, lambda batch: _batch(lm, batch)):
        found[start : start + len(values)] = values
        start += len(values)
    return found


def _batch(lm: LanguageModel, batch: torch.Tensor) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), batch.shape[1] - 1)
        # Position by position, as in `logprobs`: float32 logits of all would be the largest tensor.
        columns = [_entropy(logits[:, position]) for position in range(logits.shape[1])]
    return torch.stack(columns, dim=1).cpu().numpy()


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy (batch,) of softmax(logits), logits (batch, vocabulary)."""
    logprobs = logits.float().log_softmax(dim=1)
    return -(logprobs.exp() * logprobs).nan_to_num(0.0).sum(dim=1)
