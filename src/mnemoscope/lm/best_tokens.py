"""What a model would say at each place of a text after the true tokens before it.

Where only right or wrong is asked for, `mnemoscope.lm.verbatim.right_tokens` says it.
"""

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import last_logits, prepend_bos
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["best_tokens"]


def best_tokens(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int, prefix: int = 1
) -> npt.NDArray[np.int32]:
    """Give the argmax at every place from `prefix` on, teacher-forced.

    Args:
        lm: the model; its native attention backend is used.
        tokens: sequences, shape (n, T), integers.
        batch_size: sequences at once; halved, and said so, when memory runs out.
        prefix: tokens that are shown and not judged, at least 1.

    Returns:
        Shape (n, T - prefix), int32.

    Raises:
        UserError: tokens that do not fit the model.
        NoRoomError: not even one sequence fits into memory.
    """
    table = check_tokens(lm, tokens, prefix=prefix)
    found = np.empty((len(table), table.shape[1] - prefix), dtype=np.int32)
    start = 0
    for best in run_batches(lm, table, batch_size, lambda batch: _batch(lm, batch, prefix)):
        found[start : start + len(best)] = best
        start += len(best)
    return found


def _batch(lm: LanguageModel, batch: torch.Tensor, prefix: int) -> npt.NDArray[np.int32]:
    with torch.inference_mode():
        fed = prepend_bos(lm, batch[:, :-1])
        best = last_logits(lm, fed, batch.shape[1] - prefix).argmax(dim=-1)
    return best.to("cpu", torch.int32).numpy()
