"""The chances of a profile: a model here reads windows, or a block that holds many."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from mnemoscope.audits.sampling import Chances, score_tokens
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.lm.continue_ import run_lengths
from mnemoscope.lm.model import (
    LanguageModel,
    check_tokens,
    last_logits,
    new_cache,
    prepend_bos,
    run_batches,
    within_logits,
)

CHANCES = {"extraction_logprob": pl.Float64, "logprob": pl.Float64, "run": pl.Int64}
"""Columns of what these functions give, as `profile.TABLE` explains them."""


def chances_of_windows(
    lm: LanguageModel, rows: npt.NDArray[np.int32], settings: AuditSettings
) -> pl.DataFrame:
    """Chances of the suffixes of windows (n, length), batch by batch; columns `CHANCES`."""

    def ask(batch: torch.Tensor) -> pl.DataFrame:
        with torch.inference_mode():
            logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), settings.suffix)
            found = score_tokens(lm, logits, batch[:, -settings.suffix :], settings)
        return _summed(found)

    table = check_tokens(lm, rows)
    return pl.concat(run_batches(lm, table, settings.batch_size, ask, places=settings.suffix))


def chances_of_block(
    lm: LanguageModel, ids: npt.NDArray[np.int32], begins: Sequence[int], settings: AuditSettings
) -> pl.DataFrame:
    """Chances of the suffixes that begin at these tokens, in order, from one reading of ids (n,).

    Columns as `chances_of_windows`.
    """
    row = check_tokens(lm, ids[None])
    found = next(run_batches(lm, row, 1, lambda one: _read_on(lm, one, begins[0], settings)))
    shifts = [begin - begins[0] for begin in begins]
    views = (np.lib.stride_tricks.sliding_window_view(one[0], settings.suffix) for one in found)
    return _summed(Chances(*(view[shifts] for view in views)))


def _read_on(lm: LanguageModel, row: torch.Tensor, begin: int, settings: AuditSettings) -> Chances:
    """Chances of the tokens of one row (1, T) from `begin` on; few logits stand at once."""
    n_at_once = within_logits(lm)
    cache = new_cache(lm, row.shape[1] - 1)
    made: list[Chances] = []
    n_before = len(lm.before)
    shown = prepend_bos(lm, row[:, :-1])
    with torch.inference_mode():
        for start in range(begin, row.shape[1], n_at_once):
            end = min(start + n_at_once, row.shape[1])
            fed = shown[:, : end - 1 + n_before]
            if cache is not None and made:  # what was read before stands in the cache
                fed = fed[:, start - 1 + n_before :]
            logits = last_logits(lm, fed, end - start, cache)
            made.append(score_tokens(lm, logits, row[:, start:end], settings))
    return Chances(*(np.concatenate(one, axis=1) for one in zip(*made, strict=True)))


def _summed(found: Chances) -> pl.DataFrame:
    """Those of suffixes (n, suffix) whole, and the tokens right before the first wrong one."""
    return pl.DataFrame(
        {
            "extraction_logprob": found.sampled.sum(axis=1),
            "logprob": found.logprobs.sum(axis=1),
            "run": run_lengths(found.is_best),
        },
        schema=CHANCES,
    )
