"""How right and how likely a model finds each token of a suffix after the true ones before it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import last_logits, prepend_bos
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["TeacherForced", "suffix_logprobs", "teacher_forced"]


class TeacherForced(NamedTuple):
    """One forward's answer for every suffix token of a table.

    Attributes:
        is_right: (n, suffix length), bool: the token is the argmax after the true tokens before
            it. A sequence right throughout is memorized (up to ties); a share below 1 is no
            memorization score, since after a wrong token decoding would go on from that one.
        logprobs: (n, suffix length), float32, natural logarithms, at most 0.
    """

    is_right: npt.NDArray[np.bool_]
    logprobs: npt.NDArray[np.float32]


def suffix_logprobs(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int, prefix: int = 32
) -> npt.NDArray[np.float32]:
    """Give the log-probability of every suffix token; arguments and errors as `teacher_forced`."""
    return teacher_forced(lm, tokens, batch_size=batch_size, prefix=prefix).logprobs


def teacher_forced(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int, prefix: int = 32
) -> TeacherForced:
    """Judge every suffix token after the true tokens before it.

    Args:
        lm: the model; its native attention backend is used.
        tokens: sequences, shape (n, T), integers.
        batch_size: sequences at once; halved, and said so, when memory runs out.
        prefix: tokens of the prefix; the other T - prefix are judged.

    Raises:
        UserError: tokens that do not fit the model.
        NoRoomError: not even one sequence fits into memory.
    """
    table = check_tokens(lm, tokens, prefix=prefix)
    shape = len(table), table.shape[1] - prefix
    found = TeacherForced(np.empty(shape, dtype=bool), np.empty(shape, dtype=np.float32))
    start = 0
    for batch in run_batches(lm, table, batch_size, lambda batch: _batch(lm, batch, prefix)):
        rows = slice(start, start + len(batch.is_right))
        found.is_right[rows], found.logprobs[rows] = batch
        start = rows.stop
    return found


def _batch(lm: LanguageModel, batch: torch.Tensor, prefix: int) -> TeacherForced:
    suffixes = batch[:, prefix:]
    # Not inference mode: what a module keeps from this forward must still serve training.
    with torch.no_grad():
        logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), suffixes.shape[1])
        # Position by position: a float32 copy of all logits would be the largest tensor by far.
        columns = [
            _chosen(logits[:, position], suffixes[:, position])
            for position in range(suffixes.shape[1])
        ]
        is_right = logits.argmax(dim=-1) == suffixes
    logprobs = torch.stack(columns, dim=1)
    return TeacherForced(is_right.cpu().numpy(), logprobs.cpu().numpy())


def _chosen(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability (batch,) of one token a row, from logits (batch, vocabulary), in float32."""
    logits = logits.float()
    return logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(dim=1)
