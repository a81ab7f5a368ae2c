"""Pooled attention maps and the verdict of the scan, both from one teacher-forced forward."""

from collections.abc import Iterator

import numpy.typing as npt
import torch

from mnemoscope.lm.attention import PooledMaps, pooled_attention
from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import check_finite, last_logits, prepend_bos
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.lm.scan import Scan, compare

__all__ = ["capture_and_scan"]


def capture_and_scan(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int, prefix: int = 32
) -> Iterator[tuple[PooledMaps, Scan]]:
    """Capture the attention of whole sequences and say which of them the model has memorized.

    One forward in place of a capture and a scan, for sequences of which both are wanted. The maps
    are those of `capture_pooled`, bit for bit at the same batch size. The verdicts come from the
    model's eager attention, those of `scan_memorized` from its native one: rounding may turn a
    near tie of the two best logits, see `Scan.smallest_gap`.

    Args:
        lm: the model.
        tokens: sequences, shape (n, T), integers.
        batch_size: sequences at once; halved, and said so, when memory runs out.
        prefix: tokens of the prefix; the other T - prefix are judged.

    Returns:
        An iterator of maps and verdicts, batch by batch in the order of the rows.

    Raises:
        UserError: as `capture_pooled` and `scan_memorized`.
        NoRoomError: not even one sequence fits into memory.
    """
    table = check_tokens(lm, tokens, prefix=prefix)
    return run_batches(lm, table, batch_size, lambda batch: _batch(lm, batch, prefix))


def _batch(lm: LanguageModel, batch: torch.Tensor, prefix: int) -> tuple[PooledMaps, Scan]:
    wanted = batch[:, prefix:]
    with pooled_attention(lm) as pool:
        with torch.inference_mode():
            logits = last_logits(
                lm,
                prepend_bos(lm, batch),
                wanted.shape[1] + 1,
                output_attentions=lm.attention_route == "hooks",
            )
            # The logits after the last token foretell what nobody asks for.
            is_memorized, gap = compare(logits[:, :-1], wanted)
        maps = pool.maps()
    check_finite(lm, gap)
    return maps, Scan(is_memorized.cpu().numpy(), gap.cpu().numpy())
