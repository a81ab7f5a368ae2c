"""Bound the chance that an answer is a passage, or any text within k edits of it.

The chance of exactly these tokens is one product. That of any text within k edits is a sum over
far too many texts; beam search finds the likeliest of them, and since they are distinct, their
chances add up to a lower bound. A beginning that no ending can bring within k edits is dropped.

Source: decoding-constrained beam search, Cooper et al., arXiv 2603.24917.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.audits.questions import EditSettings
from mnemoscope.audits.sampling import drawable
from mnemoscope.lm.model import (
    LanguageModel,
    check_finite,
    check_tokens,
    last_logits,
    new_cache,
    prepend_bos,
    reorder_rows,
    run_batches,
)


class EditNeighbourhood(NamedTuple):
    """What n suffixes come to with `settings.edits` edits.

    The natural logarithm of the summed chances of the texts found, (n,) float64, -inf where none
    can be drawn, and how many texts that are, (n,).
    """

    logprob: npt.NDArray[np.float64]
    n_texts: npt.NDArray[np.int64]


def chance_within(
    lm: LanguageModel, windows: npt.NDArray[np.int32], settings: EditSettings
) -> EditNeighbourhood:
    """Bound the chance that the tokens drawn after each prefix are the suffix, nearly.

    `windows` are token ids, (n, length), n at least 1. Counted are answers whose first `suffix`
    tokens have a Levenshtein distance in tokens of at most `settings.edits` from the suffix, drawn
    at `temperature` from the `top_k`. The suffix itself is always among them, so the bound is at
    least its chance; with as many beams as there are such texts it is exact. Raises UserError:
    logits that are not finite, or tokens that do not fit the model. NoRoomError: the beams of one
    window do not fit into memory.
    """
    table = check_tokens(lm, windows, prefix=settings.prefix)
    n_windows = max(1, settings.batch_size // settings.beams)
    made = run_batches(
        lm,
        table,
        n_windows,
        lambda batch: _search(lm, batch, settings),
        places=2 * settings.beams,  # in float64
    )
    return EditNeighbourhood(*map(np.concatenate, zip(*made, strict=True)))


def _search(lm: LanguageModel, batch: torch.Tensor, settings: EditSettings) -> EditNeighbourhood:
    """Beams of a batch of windows (w, length), all of one window side by side."""
    n, n_steps = len(batch), batch.shape[1] - settings.prefix
    wanted = batch[:, None, settings.prefix :]  # (w, 1, steps), for every beam
    rows = torch.arange(n, device=batch.device)[:, None]
    totals = torch.zeros(n, 1, dtype=torch.float64, device=batch.device)
    distances = torch.arange(n_steps + 1, device=batch.device).expand(n, 1, -1)
    cache, fed = new_cache(lm, batch.shape[1] - 1), prepend_bos(lm, batch[:, : settings.prefix])
    shared = fed.shape[1]
    with torch.inference_mode():
        for step in range(n_steps):
            logits = last_logits(lm, fed, 1, cache)[:, 0]
            check_finite(lm, logits.amax(dim=-1))
            ids, values = (one.reshape(*totals.shape, -1) for one in drawable(logits, settings))
            is_left = _leads_on(ids, distances, wanted, step, settings.edits)
            drawn = values.masked_fill(~is_left, -torch.inf) + totals[..., None]
            # The passage itself stays, in the first beam, as long as it can be drawn.
            is_own = (ids[:, 0] == wanted[:, 0, [step]]) & (drawn[:, 0] > -torch.inf)
            order = drawn.clone()
            order[:, 0].masked_fill_(is_own, 1.0)
            chosen = order.flatten(1).topk(min(settings.beams, order[0].numel()), dim=1).indices
            totals = drawn.flatten(1).gather(1, chosen)
            beams, tokens = chosen // drawn.shape[2], ids.flatten(1).gather(1, chosen)
            distances = _advance(distances[rows, beams], tokens, wanted)
            parents = (rows * drawn.shape[1] + beams).flatten()
            new = tokens.flatten()[:, None]
            if cache is None:  # such families read everything again
                fed = torch.cat([fed[parents], new], dim=1)
            else:
                reorder_rows(cache, parents, shared=shared)
                fed = new
    found = totals.logsumexp(dim=1).clamp(max=0.0)
    return EditNeighbourhood(found.cpu().numpy(), (totals > -torch.inf).sum(dim=1).cpu().numpy())


def _leads_on(
    ids: torch.Tensor, distances: torch.Tensor, wanted: torch.Tensor, step: int, edits: int
) -> torch.Tensor:
    """Which tokens (w, beams, k) leave a way to end within the edits, bool of that shape.

    Only the tokens that the passage has near this place can lead on better than any other token.
    """
    near = wanted[..., max(step - edits, 0) : step + edits + 1].expand(*ids.shape[:2], -1)
    tried = torch.cat([near, torch.full_like(near[..., :1], -1)], dim=-1)  # -1 matches no token
    starts = distances[:, :, None].expand(-1, -1, tried.shape[-1], -1)
    after = _advance(starts, tried, wanted[:, :, None])
    # The least distance of whole texts that go on from there: `step` + 1 tokens are written.
    places = torch.arange(after.shape[-1], device=after.device)
    can = (after + (places - step - 1).abs()).amin(dim=-1) <= edits
    matches = (ids[..., None] == near[..., None, :]) & can[..., None, :-1]
    return matches.any(dim=-1) | can[..., -1:]


def _advance(distances: torch.Tensor, tokens: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Levenshtein distances to each beginning of the passage, after one more token.

    (..., steps + 1) from the same, tokens (...) and the passage (..., steps), which broadcasts.
    """
    exchanged = distances[..., :-1] + (tokens[..., None] != wanted)
    put_in = distances + 1
    least = torch.cat([put_in[..., :1], torch.minimum(put_in[..., 1:], exchanged)], dim=-1)
    places = torch.arange(least.shape[-1], device=least.device)
    return (least - places).cummin(dim=-1).values + places
